//! Watching directories for a new file, with inotify(7): `ipc_connection_timeout` waits for a service to
//! appear.
//!
//! The descriptor is a plain number, not a value that closes it: the call that opens it closes it, and wait.c
//! does if the thread is cancelled while it waits. No state here.
#![deny(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

use crate::kernel::fd::{self, Blocking};
use crate::kernel::internal_fds::beyond_standard;

/// The events after which a service or its directory may exist.
const EVENTS: u32 = libc::IN_CREATE
    | libc::IN_MOVED_TO
    | libc::IN_ATTRIB
    | libc::IN_DELETE_SELF
    | libc::IN_MOVE_SELF
    | libc::IN_ONLYDIR;

/// A descriptor that becomes readable when one of the events happens in a watched directory.
#[allow(unsafe_code, reason = "nix does not give the descriptor away")]
pub fn open() -> Result<RawFd> {
    // SAFETY: the call takes no pointer.
    let fd = Errno::result(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
    // SAFETY: the descriptor is new, and no other code knows it yet.
    Ok(beyond_standard(unsafe { OwnedFd::from_raw_fd(fd) }).into_raw_fd())
}

/// Watches one more directory.
#[allow(unsafe_code, reason = "nix does not accept a plain number")]
pub fn add(watch: RawFd, directory: &CStr) -> Result<()> {
    // SAFETY: the kernel only reads the string, which ends in NUL.
    Errno::result(unsafe { libc::inotify_add_watch(watch, directory.as_ptr(), EVENTS) }).map(drop)
}

/// Reads and discards the pending events: the descriptor becomes readable again with the next event.
pub fn drain(watch: RawFd) {
    let mut room = [const { MaybeUninit::uninit() }; 4096];
    while fd::read(watch, &mut room, Blocking::Wait).is_ok_and(|events| !events.is_empty()) {}
}
