//! Numbers of descriptors, and the memory of structures, that are used again.
//!
//! The library knows a connection by the number of its descriptor and by its structure, and a program may close the
//! one and free the other without a word to the library. Soon the same number is that of another file, the same
//! memory that of another structure. Then
//!
//! * the end of the one before is still reported, once, and with its structure (promise 7);
//! * nothing of the one before is the next one's: no bytes, no queue, no limits, no end;
//! * what the program uses the number for is not read, and not closed.
//!
//! `clients` has what a client's number becomes, `copies` the same while the old open file lives on; `services` what becomes a service, or was one; `settings` what
//! was set, read ahead and queued for the one before; `memory` structures that are copied and freed.

mod clients;
mod copies;
mod memory;
mod services;
mod settings;

use std::os::fd::{IntoRawFd, RawFd};
use std::time::Duration;

use crate::support::ext::*;
use crate::support::*;

/// After that long a look that does not wait goes through the list.
const PAUSE: Duration = Duration::from_millis(30);

/// The file at exactly this number, which is closed for it.
fn put_at(fd: RawFd, file: impl IntoRawFd) {
    let other = file.into_raw_fd();
    assert_ne!(other, fd);
    assert_eq!(unsafe { libc::dup2(other, fd) }, fd);
    close(other);
}

/// The next event, and the events that follow at once.
fn all_now(program: &mut Program) -> Vec<Seen> {
    let mut all = vec![program.look(10_000)];
    while let Some(seen) = program.try_look(50).ok().filter(|seen| *seen != Seen::Nothing) {
        all.push(seen);
    }
    all
}
