//! The descriptor of `ipc_event_fd`: it is readable while a list has an event to report. Other event loops
//! wait for it.
//!
//! The descriptor is an epoll set, the outer set. Its members are the list's own set (the inner set), the set
//! of connections that are sent in the background, and, while an event is left in the library's memory, of
//! which the kernel does not know, the read end of a pipe that is at end of file and so always readable.
//!
//! ```text
//! not raised ──set_raised(true)──► raised: the pipe is in the outer set ──set_raised(false)──► not raised
//! ```
//!
//! The outer set stays the same if the inner set is made anew. The program has the number of the outer set,
//! but must not close it. An EventFd belongs to one list and is accessed under its loop's lock; after a fork,
//! only the process that made it uses it.
#![deny(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::EpollFlags;
use nix::unistd::pipe2;

use crate::kernel::internal_fds::InternalFd;
use crate::kernel::poller::{Poller, control};
use crate::process::fork_epoch;

/// The outer set and the pipe.
pub struct EventFd {
    /// The outer epoll set, whose number the program has.
    outer: InternalFd,
    /// The read end of the pipe, always readable; replaced by `repair`.
    ready: InternalFd,
    /// Whether the pipe is in the outer set; written by `set_raised` and `repair`.
    is_raised: bool,
    /// Which set of background connections is in the outer set: its serial number, 0 for none. Written by the
    /// registry.
    pub background: u32,
    /// The generation of the process that made this value (`fork_epoch`).
    made_by: u32,
}

#[allow(unsafe_code, reason = "a descriptor that no other code knows")]
fn owned(fd: i32) -> Result<OwnedFd> {
    // SAFETY: if the call has succeeded, the descriptor is new.
    Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that is always readable: the read end of a pipe without a writer.
fn ready() -> Result<InternalFd> {
    pipe2(OFlag::O_CLOEXEC).map(|(end, _)| InternalFd::new(end))
}

impl EventFd {
    /// A descriptor that follows no set yet.
    #[allow(unsafe_code, reason = "nix's type closes its number without checking that it still is its own")]
    pub fn new() -> Result<Self> {
        // SAFETY: the call takes no pointer.
        let outer = InternalFd::public(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?);
        let event_fd = Self {
            outer,
            ready: ready()?,
            is_raised: false,
            background: 0,
            made_by: fork_epoch::generation(),
        };
        Ok(event_fd)
    }

    fn watch(&self, fd: RawFd) -> Result<()> {
        control(self.fd(), libc::EPOLL_CTL_ADD, fd, EpollFlags::EPOLLIN, 0)
    }

    /// Removes the set, which is about to be closed. A forked child may have a copy of the set, and then
    /// closing does not remove it from the outer set.
    pub fn unfollow(&self, set: &Poller) {
        let _ = control(self.fd(), libc::EPOLL_CTL_DEL, set.fd(), EpollFlags::empty(), 0);
    }

    /// Adds the set: the outer set is readable whenever this set is.
    pub fn follow(&self, set: &Poller) -> Result<()> {
        self.watch(set.fd())
    }

    /// Whether this process has made both descriptors, and both numbers still are the library's.
    pub fn is_intact(&self) -> bool {
        self.made_by == fork_epoch::generation() && self.outer.is_intact() && self.ready.is_intact()
    }

    /// Makes the pipe anew if the program has closed it, as a descriptor that it does not know, and kept the
    /// outer set.
    pub fn repair(&mut self) {
        let is_lost =
            self.made_by == fork_epoch::generation() && !self.ready.is_intact() && self.outer.is_intact();
        let made = if is_lost { ready().ok() } else { None };
        if let Some(ready) = made {
            // Closing has removed the old pipe from the outer set.
            (self.ready, self.is_raised) = (ready, false);
        }
    }

    /// The number that the program has.
    pub fn fd(&self) -> RawFd {
        self.outer.as_raw_fd()
    }

    /// Sets whether an event is left in the library's memory: then the descriptor is readable whatever the
    /// sets report.
    pub fn set_raised(&mut self, is_left: bool) {
        if is_left == self.is_raised || !self.is_intact() {
            return;
        }
        let operation = if is_left { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_DEL };
        let done = control(self.fd(), operation, self.ready.as_raw_fd(), EpollFlags::EPOLLIN, 0).is_ok();
        self.is_raised = if done { is_left } else { self.is_raised };
    }
}
