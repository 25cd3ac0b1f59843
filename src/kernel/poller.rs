//! The epoll set of one list, and its clock (a timerfd).
//!
//! The clock is a member of the set, and has two uses. Another thread wakes the thread that waits for the set
//! by setting the clock to the next nanosecond. And if the program's own event loop waits for the set, the
//! clock makes the set readable when the library's periodic work (the tick) is due. A thread that waits in
//! the library needs no clock for the tick: its wait has a timeout.
//!
//! ```text
//! no tick ──tick_in──► scheduled (tick_at) ──the time passes──► due ──take_tick──► no tick
//! clock off ──tick_in(.., for_others), wake──► on ──expires──► readable once ──stop_clock──► off
//! ```
//!
//! Each process makes its own set: after a fork, a shared set would let each process change the other's. A
//! Poller belongs to one loop, or to the connections that are sent in the background, and is accessed under
//! the owner's lock. Only the numbers of set and clock are used without the lock, to wait.
#![deny(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use crate::kernel::deadline;
use crate::kernel::direct;
use crate::kernel::fd::written;
use crate::kernel::internal_fds::{self, InternalFd};
use crate::process::fork_epoch;

/// The token of the clock.
pub const TICK: u64 = u64::MAX;

/// The token of a descriptor that a probe registers, and removes again at once.
pub const PROBE: u64 = u64::MAX - 1;

/// What epoll reports of one descriptor: its events, and the token with which it was registered.
pub type Readiness = libc::epoll_event;

/// An epoll set, and its clock if it has one.
pub struct Poller {
    /// The epoll set.
    epoll: InternalFd,
    /// The timerfd. None if a sandbox refuses timerfd_create(2), or if the set was made without a clock.
    clock: Option<InternalFd>,
    /// When the tick is due, in milliseconds of the monotonic clock; 0 if no tick is scheduled. Written by
    /// `tick_in` and `take_tick`.
    tick_at: i64,
    /// Whether the clock is set to expire at `tick_at`; written by `tick_in` and `stop_clock`.
    is_set: bool,
    /// The generation of the process that made the set (`fork_epoch`).
    made_by: u32,
}

/// epoll_ctl(2) on a set of the library.
#[allow(unsafe_code, reason = "the number may refer to any file; nix needs a borrowed descriptor")]
pub fn control(epoll: RawFd, operation: i32, fd: RawFd, interest: EpollFlags, token: u64) -> Result<()> {
    let mut event = libc::epoll_event { events: interest.bits() as u32, u64: token };
    // SAFETY: the kernel only reads the event.
    Errno::result(unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) }).map(drop)
}

#[allow(unsafe_code, reason = "a descriptor that no other code knows")]
fn internal(fd: i32) -> Result<InternalFd> {
    // SAFETY: if the call has succeeded, the descriptor is new.
    Errno::result(fd).map(|fd| InternalFd::new(unsafe { OwnedFd::from_raw_fd(fd) }))
}

impl Poller {
    /// A set that contains only its clock.
    #[allow(
        unsafe_code,
        reason = "nix's types close their numbers without checking that they still are their own"
    )]
    pub fn new() -> Result<Self> {
        // SAFETY: the calls take no pointers.
        let (epoll, clock) = unsafe {
            let epoll = internal(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
            (epoll, internal(libc::timerfd_create(libc::CLOCK_MONOTONIC, flags)))
        };
        let clock = match clock {
            Ok(clock) => Some(clock),
            Err(Errno::EPERM | Errno::ENOSYS | Errno::EINVAL | Errno::EACCES) => None,
            Err(errno) => return Err(errno),
        };
        let poller = Self::of(epoll, clock);
        if let Some(clock) = &poller.clock {
            // Edge-triggered, so that each expiration is reported once: no code reads the timerfd.
            let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            control(poller.fd(), libc::EPOLL_CTL_ADD, clock.as_raw_fd(), interest, TICK)?;
        }
        Ok(poller)
    }

    /// An empty set without a clock.
    #[allow(unsafe_code, reason = "nix's type closes its number without checking that it still is its own")]
    pub fn without_clock() -> Result<Self> {
        // SAFETY: the call takes no pointer.
        internal(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(|epoll| Self::of(epoll, None))
    }

    fn of(epoll: InternalFd, clock: Option<InternalFd>) -> Self {
        Self { epoll, clock, tick_at: 0, is_set: false, made_by: fork_epoch::generation() }
    }

    /// Whether this process made the set, and the number still is the set's.
    pub fn is_intact(&self) -> bool {
        self.made_by == fork_epoch::generation() && self.epoll.is_intact()
    }

    /// Whether the set is intact and, if it was made with a clock, the clock is still its member.
    pub fn has_clock(&self) -> bool {
        match &self.clock {
            Some(clock) => self.probe(clock.as_raw_fd()) == Err(Errno::EEXIST),
            None => self.is_intact(),
        }
    }

    /// The number of the set, to wait for.
    pub fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// The number of the clock, by which another thread wakes this one: for a wait that polls the members
    /// themselves instead of the set. None without a clock.
    pub fn clock(&self) -> Option<RawFd> {
        self.clock.as_ref().map(InternalFd::as_raw_fd)
    }

    /// Schedules a tick in so many milliseconds, unless an earlier one is scheduled. Returns how many
    /// milliseconds are left until the tick. With `for_others` (another event loop waits for the set) the
    /// clock is set as well.
    pub fn tick_in(&mut self, milliseconds: u32, for_others: bool) -> u32 {
        let now = deadline::milliseconds();
        let at = now + i64::from(milliseconds);
        if self.tick_at == 0 || self.tick_at > at {
            (self.tick_at, self.is_set) = (at, false);
        }
        let left = u32::try_from(self.tick_at - now).unwrap_or(0);
        if for_others && !self.is_set {
            // A timerfd that is set to 0 is off.
            self.is_set = self.set_clock(left.max(1), 0).is_ok();
        }
        left
    }

    /// No tick is scheduled any more.
    pub fn take_tick(&mut self) {
        self.tick_at = 0;
    }

    /// Whether the tick is due.
    pub fn is_tick_due(&self) -> bool {
        self.tick_at != 0 && deadline::milliseconds() >= self.tick_at
    }

    /// Switches the clock off, after it has expired.
    pub fn stop_clock(&mut self) {
        self.is_set = false;
        let _ = self.set_clock(0, 0);
    }

    /// Wakes a thread that waits for the set.
    pub fn wake(&self) {
        let _ = self.set_clock(0, 1);
    }

    /// Sets the clock to expire after this time; 0 and 0 switch it off.
    #[allow(unsafe_code, reason = "nix's timer closes its number without checking that it still is its own")]
    fn set_clock(&self, milliseconds: u32, nanoseconds: i64) -> Result<()> {
        let clock = self.clock.as_ref().filter(|clock| clock.is_intact()).ok_or(Errno::ENOSYS)?;
        // SAFETY: a structure of zeros is valid: a timer that is off.
        let mut time: libc::itimerspec = unsafe { std::mem::zeroed() };
        time.it_value.tv_sec = (milliseconds / 1000) as _;
        time.it_value.tv_nsec = (i64::from(milliseconds % 1000) * 1_000_000 + nanoseconds) as _;
        // SAFETY: the kernel only reads the time.
        let result =
            unsafe { libc::timerfd_settime(clock.as_raw_fd(), 0, &raw const time, std::ptr::null_mut()) };
        Errno::result(result).map(drop)
    }

    /// Registers a descriptor; EEXIST if the number is registered with the file that it refers to now; EBADF
    /// if the descriptor is closed or is one that the library keeps.
    pub fn add(&self, fd: RawFd, token: u64, interest: EpollFlags) -> Result<()> {
        self.add_new(internal_fds::of_program(fd)?, token, interest)
    }

    /// As [`Poller::add`], for a descriptor that has just been made, and need not be checked.
    pub fn add_new(&self, fd: RawFd, token: u64, interest: EpollFlags) -> Result<()> {
        control(self.fd(), libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    /// Changes the events and the token of a registered descriptor; ENOENT if the number is not registered
    /// with the file that it refers to now.
    pub fn change(&self, fd: RawFd, token: u64, interest: EpollFlags) -> Result<()> {
        control(self.fd(), libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    /// Removes the descriptor's registration.
    pub fn unwatch(&self, fd: RawFd) {
        // An error is ignored: the kernel has removed a closed descriptor, if no other descriptor of the file
        // is open.
        let _ = control(self.fd(), libc::EPOLL_CTL_DEL, fd, EpollFlags::empty(), 0);
    }

    /// Checks whether the number is registered with the file that it refers to now: EEXIST if it is, Ok if it
    /// is not (the registration that succeeded is removed again), and another error if the question is not
    /// answered, such as EPERM for a file that cannot be registered.
    pub fn probe(&self, fd: RawFd) -> Result<()> {
        let result = control(self.fd(), libc::EPOLL_CTL_ADD, fd, EpollFlags::empty(), PROBE);
        if result.is_ok() {
            self.unwatch(fd);
        }
        result
    }

    /// Whether [`Poller::probe`] finds EEXIST: the number certainly is registered with the file that it
    /// refers to now.
    #[allow(unsafe_code, reason = "see control")]
    #[inline(always)]
    pub fn is_watched(&self, fd: RawFd) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: PROBE };
        // SAFETY: the kernel only reads the event.
        match unsafe { libc::epoll_ctl(self.fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => {
                self.unwatch(fd);
                false
            }
            _ => Errno::last_raw() == libc::EEXIST,
        }
    }

    /// The descriptors that are ready now, without waiting.
    #[allow(unsafe_code, reason = "nix's Epoll::wait needs initialised events")]
    pub fn ready<'a>(&self, room: &'a mut [MaybeUninit<Readiness>]) -> Result<&'a mut [Readiness]> {
        let most = i32::try_from(room.len()).unwrap_or(i32::MAX);
        // SAFETY: `room` is writable for `most` events, and the kernel has written `count` events.
        unsafe {
            let count = direct::epoll_ready(self.fd(), room.as_mut_ptr().cast(), most);
            written(room, count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    fn tokens(poller: &Poller) -> Vec<u64> {
        let mut room = [MaybeUninit::uninit(); 8];
        poller.ready(&mut room).unwrap().iter().map(|ready| ready.u64).collect()
    }

    #[test]
    fn probe_distinguishes_a_reused_number_from_its_old_file() {
        let poller = Poller::new().unwrap();
        let (one, two) = UnixStream::pair().unwrap();
        let (other, _peer) = UnixStream::pair().unwrap();
        let number = one.as_raw_fd();
        poller.add(number, 7, EpollFlags::EPOLLIN).unwrap();
        assert_eq!(poller.probe(number), Err(Errno::EEXIST));
        // The copy keeps the old file open, so the set still reports its token.
        let _copy = one.try_clone().unwrap();
        #[allow(unsafe_code, reason = "what a program does")]
        // SAFETY: the number belongs to this test.
        let taken = unsafe { libc::dup2(other.as_raw_fd(), one.into_raw_fd()) };
        assert_eq!(taken, number);
        drop(two);
        assert_eq!(poller.probe(number), Ok(()));
        assert_eq!(poller.probe(number), Ok(()), "the new file has not stayed in the set");
        assert_eq!(tokens(&poller), [7]);
    }

    #[test]
    fn poller_has_no_clock_when_another_set_has_its_number() {
        let (poller, other) = (Poller::new().unwrap(), Poller::new().unwrap());
        assert!(poller.has_clock() && other.has_clock());
        let number = poller.fd();
        // Another set of the library counts as a different file, like a file of the program.
        #[allow(unsafe_code, reason = "what a program does")]
        // SAFETY: the number belongs to this test.
        let taken = unsafe { libc::dup2(other.fd(), number) };
        assert_eq!(taken, number);
        assert!(!poller.has_clock() && other.has_clock());
    }

    #[test]
    fn tick_and_wake_make_the_set_ready() {
        let mut poller = Poller::new().unwrap();
        assert!(tokens(&poller).is_empty());
        poller.wake();
        let ready = |poller: &Poller| {
            let mut fds = [libc::pollfd { fd: poller.fd(), events: libc::POLLIN, revents: 0 }];
            #[allow(unsafe_code, reason = "a wait")]
            // SAFETY: the array has one element.
            let count = unsafe { libc::poll(fds.as_mut_ptr(), 1, 10_000) };
            count
        };
        assert_eq!(ready(&poller), 1);
        assert_eq!(tokens(&poller), [TICK]);
        poller.stop_clock();
        assert_eq!(poller.tick_in(1, true), 1);
        assert_eq!((ready(&poller), tokens(&poller)), (1, vec![TICK]));
        assert!(poller.is_tick_due());
        poller.take_tick();
        assert!(!poller.is_tick_due());
    }
}
