//! Waiting for a file to appear in a directory: inotify(7).
//!
//! The descriptor is a plain number: a thread that is cancelled while it waits has it closed by wait.c.
#![deny(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

use crate::kernel::fd::{self, Blocking};
use crate::kernel::internal_fds::beyond_standard;

/// What may make a service appear, or its directory.
const EVENTS: u32 = libc::IN_CREATE
    | libc::IN_MOVED_TO
    | libc::IN_ATTRIB
    | libc::IN_DELETE_SELF
    | libc::IN_MOVE_SELF
    | libc::IN_ONLYDIR;

/// A descriptor that becomes readable when something happens in the directories that are watched.
#[allow(unsafe_code, reason = "nix keeps the descriptor to itself")]
pub fn open() -> Result<RawFd> {
    // SAFETY: the kernel makes a descriptor, which no other code knows.
    let fd = Errno::result(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
    // SAFETY: as above.
    Ok(beyond_standard(unsafe { OwnedFd::from_raw_fd(fd) }).into_raw_fd())
}

/// Watches one directory more.
#[allow(unsafe_code, reason = "see above")]
pub fn add(watch: RawFd, directory: &CStr) -> Result<()> {
    // SAFETY: the kernel reads the string.
    Errno::result(unsafe { libc::inotify_add_watch(watch, directory.as_ptr(), EVENTS) }).map(drop)
}

/// Takes what has happened: it is readable again when more does.
pub fn drain(watch: RawFd) {
    let mut room = [const { MaybeUninit::uninit() }; 4096];
    while fd::read(watch, &mut room, Blocking::Wait).is_ok_and(|events| !events.is_empty()) {}
}
