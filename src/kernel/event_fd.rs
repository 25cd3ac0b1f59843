//! A descriptor that is readable while there is something to report, for other event loops.
//!
//! It is an epoll set: of the set of the list, and, for what the kernel does not know of, of a pipe that is at its end and so
//! always ready. It stays the same when the set of the list is made anew. The program has its number, but is not to close it.
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

/// The descriptor, and what makes it readable.
pub struct EventFd {
    outer: InternalFd,
    /// In the set while something is left that an earlier call has brought.
    ready: InternalFd,
    is_raised: bool,
    /// Which set of what leaves in the background it follows.
    pub background: u32,
    made_by: u32,
}

#[allow(unsafe_code, reason = "a descriptor that no other code knows")]
fn owned(fd: i32) -> Result<OwnedFd> {
    // SAFETY: new, if there is one.
    Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is always ready: it is in the set while something is left to report.
fn ready() -> Result<InternalFd> {
    pipe2(OFlag::O_CLOEXEC).map(|(end, _)| InternalFd::new(end))
}

impl EventFd {
    /// One that follows no set yet.
    #[allow(unsafe_code, reason = "nix's type closes its number without asking whose it is")]
    pub fn new() -> Result<Self> {
        // SAFETY: it makes a descriptor.
        let outer = InternalFd::shown(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?);
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

    /// The set is to be closed. A forked child may have it, too, so that it would not leave by itself.
    pub fn leave(&self, set: &Poller) {
        let _ = control(self.fd(), libc::EPOLL_CTL_DEL, set.fd(), EpollFlags::empty(), 0);
    }

    /// Readable whenever this set is.
    pub fn follow(&self, set: &Poller) -> Result<()> {
        self.watch(set.fd())
    }

    /// Whether this process has made it, and its numbers still are its own.
    pub fn is_intact(&self) -> bool {
        self.made_by == fork_epoch::generation() && self.outer.is_intact() && self.ready.is_intact()
    }

    /// The program may have closed what it does not know, and kept this.
    pub fn mend(&mut self) {
        let is_lost =
            self.made_by == fork_epoch::generation() && !self.ready.is_intact() && self.outer.is_intact();
        let made = if is_lost { ready().ok() } else { None };
        if let Some(ready) = made {
            // The one before has left the set as it was closed.
            (self.ready, self.is_raised) = (ready, false);
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.outer.as_raw_fd()
    }

    /// Whether something is left to report, in addition to what the kernel reports.
    pub fn raise(&mut self, is_left: bool) {
        if is_left == self.is_raised || !self.is_intact() {
            return;
        }
        let operation = if is_left { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_DEL };
        let done = control(self.fd(), operation, self.ready.as_raw_fd(), EpollFlags::EPOLLIN, 0).is_ok();
        self.is_raised = if done { is_left } else { self.is_raised };
    }
}
