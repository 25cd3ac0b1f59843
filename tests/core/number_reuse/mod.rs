//! Reused numbers of descriptors, and reused memory of structures.
//!
//! The library knows a connection by the number of its descriptor and by its structure. A program may close
//! the number and free the structure without the library. Soon another file has the number, or another
//! structure the memory. Then
//!
//! * the end of the old connection is still reported, once, and with its structure (promise 7);
//! * the new file inherits nothing from the old connection: no bytes, no queue, no limits, no end;
//! * if the program uses the number for a file of its own, the library does not read or close this file.
//!
//! `clients`: a client's number is reused; `copies`: the same while a copy keeps the old file open;
//! `services`: the old or the new file is a service; `settings`: settings, read-ahead and queue of the old
//! connection; `memory`: structures that are copied and freed.

mod clients;
mod copies;
mod memory;
mod services;
mod settings;

use std::os::fd::{IntoRawFd, RawFd};
use std::time::Duration;

use crate::support::ext::*;
use crate::support::*;

/// After this time, a call with timeout 0 scans the list.
const PAUSE: Duration = Duration::from_millis(30);

/// Moves the file to exactly this number; what had the number is closed.
fn put_at(fd: RawFd, file: impl IntoRawFd) {
    let other = file.into_raw_fd();
    assert_ne!(other, fd);
    assert_eq!(unsafe { libc::dup2(other, fd) }, fd);
    close(other);
}

/// The next event, and the events that follow at once.
fn all_now(program: &mut Program) -> Vec<Seen> {
    let mut all = vec![program.poll(10_000)];
    while let Some(seen) = program.try_poll(50).ok().filter(|seen| *seen != Seen::Nothing) {
        all.push(seen);
    }
    all
}
