//! A descriptor that is readable while there is something to tell, for other event loops.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::kernel::internal_fds::Mark;
use crate::process::fork_epoch;

/// An epoll set of two: the set of the list, and what the kernel does not know of. It stays the same where the
/// set of the list is made anew.
pub struct Readable {
    /// Of what the program does not know.
    _own: Mark,
    outer: Epoll,
    /// Readable while something is left that an earlier call has brought.
    left: EventFd,
    is_raised: bool,
    made_by: u32,
}

impl Readable {
    /// One that follows no set yet.
    pub fn new() -> nix::Result<Self> {
        let outer = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let left = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        outer.add(left.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            _own: Mark::new(left.as_fd()),
            outer,
            left,
            is_raised: false,
            made_by: fork_epoch::generation(),
        })
    }

    /// The set will be closed. A forked child may have it, too, so that it would not leave by itself.
    pub fn leave(&self, set: BorrowedFd<'_>) {
        let _ = self.outer.delete(set);
    }

    /// Readable whenever this set is.
    pub fn follow(&self, set: BorrowedFd<'_>) -> nix::Result<()> {
        self.outer.add(set, EpollEvent::new(EpollFlags::EPOLLIN, 0))
    }

    /// Whether this process has made it.
    pub fn is_own(&self) -> bool {
        self.made_by == fork_epoch::generation()
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.outer.0.as_raw_fd()
    }

    /// Whether something is left to tell, beside what the kernel knows of.
    pub fn raise(&mut self, is_left: bool) {
        if is_left != self.is_raised {
            // A counter of 0 can take one, and one of 1 can be read.
            let done = if is_left { self.left.write(1).is_ok() } else { self.left.read().is_ok() };
            self.is_raised = if done { is_left } else { self.is_raised };
        }
    }
}
