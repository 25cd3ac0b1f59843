//! The epoll set of one list, and its clock.

#![deny(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::kernel::fd::{borrow, written};
use crate::kernel::internal_fds::{self, Mark};
use crate::process::fork_epoch;

/// An epoll set, made by the process that uses it: after a fork a shared one would let each process change the
/// other's.
///
/// The clock is one of its members. A time-out of epoll_wait(2) would have the kernel start and stop a timer
/// for each message; the clock runs on beside them.
pub struct Poller {
    _own: [Mark; 2],
    epoll: Epoll,
    clock: TimerFd,
    /// Whether a tick is to come.
    ticking: bool,
    made_by: u32,
}

/// What the clock's tick is reported with.
pub const TICK: u64 = u32::MAX as u64;

/// What epoll tells of one descriptor: its events and the number it was registered with.
pub type Readiness = libc::epoll_event;

/// Waits for readiness in an epoll set, without a lock on its owner: the set may be closed meanwhile.
#[allow(unsafe_code, reason = "nix's Epoll::wait borrows the set, and with it the lock, while it blocks")]
pub fn wait_epoll(
    set: RawFd,
    room: &mut [MaybeUninit<Readiness>],
    timeout_ms: i32,
) -> nix::Result<&mut [Readiness]> {
    let most = i32::try_from(room.len()).unwrap_or(i32::MAX);
    // SAFETY: `room` is writable for `most` events, and the kernel has written as many as it tells.
    unsafe {
        let count = libc::epoll_wait(set, room.as_mut_ptr().cast(), most, timeout_ms);
        written(room, count as isize)
    }
}

/// A descriptor of the program.
fn member(fd: RawFd) -> nix::Result<BorrowedFd<'static>> {
    internal_fds::of_program(fd).and_then(borrow)
}

impl Poller {
    /// A set with nothing in it but its clock.
    pub fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let clock = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // Told once for each tick: nobody reads the clock.
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(clock.as_fd(), EpollEvent::new(interest, TICK))?;
        let own = [epoll.0.as_fd(), clock.as_fd()].map(Mark::new);
        Ok(Self { _own: own, epoll, clock, ticking: false, made_by: fork_epoch::generation() })
    }

    /// Whether this process has made it.
    pub fn is_own(&self) -> bool {
        self.made_by == fork_epoch::generation()
    }

    /// The descriptor to wait for.
    pub fn fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }

    /// The same, for the calls that want more than a number.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Has the clock tick once, so many milliseconds from now, unless a tick is to come anyway.
    pub fn tick_in(&mut self, milliseconds: i64) -> nix::Result<()> {
        if !self.ticking {
            self.clock
                .set(Expiration::OneShot(TimeSpec::milliseconds(milliseconds)), TimerSetTimeFlags::empty())?;
            self.ticking = true;
        }
        Ok(())
    }

    /// The tick has come.
    pub fn ticked(&mut self) {
        self.ticking = false;
    }

    /// Watches a descriptor for these events, from now on.
    pub fn watch(&self, fd: RawFd, token: u64, interest: EpollFlags) -> nix::Result<()> {
        match self.add(fd, token, interest) {
            Err(Errno::EEXIST) => self.change(fd, token, interest),
            result => result,
        }
    }

    /// Watches a descriptor for other events than before: ENOENT for one that is not watched, as the file that it is
    /// now.
    pub fn change(&self, fd: RawFd, token: u64, interest: EpollFlags) -> nix::Result<()> {
        self.epoll.modify(member(fd)?, &mut EpollEvent::new(interest, token))
    }

    /// Watches a descriptor that is not watched yet: EEXIST for one that is, as the file that it is now.
    pub fn add(&self, fd: RawFd, token: u64, interest: EpollFlags) -> nix::Result<()> {
        self.epoll.add(member(fd)?, EpollEvent::new(interest, token))
    }

    /// Watches a descriptor no more.
    pub fn remove(&self, fd: RawFd) {
        if let Ok(fd) = member(fd) {
            // A closed descriptor has left the set by itself.
            let _ = self.epoll.delete(fd);
        }
    }
}
