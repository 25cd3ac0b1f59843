//! The epoll set of one list, and its clock.
//!
//! The set is made by the process that uses it: after a fork a shared one would let each process change the other's.
//! The clock is one of its members. By it another thread wakes the one that waits, and another event loop that waits for
//! the set learns when something is to be looked after; a thread that waits in the library has a time limit for that.
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

/// What the clock is reported with.
pub const TICK: u64 = u64::MAX;

/// What a probe registers a descriptor with, for the moment before it is taken out again.
pub const PROBE: u64 = u64::MAX - 1;

/// What epoll reports of one descriptor: its events and the token that it was registered with.
pub type Readiness = libc::epoll_event;

/// An epoll set with a clock.
pub struct Poller {
    epoll: InternalFd,
    /// None if a sandbox refuses timerfd_create(2), or if none is needed.
    clock: Option<InternalFd>,
    /// When something is to be looked after, in milliseconds; never, if it is 0.
    tick_at: i64,
    /// Whether the clock is set for that.
    is_set: bool,
    made_by: u32,
}

/// epoll_ctl(2) on a set of the library's own.
#[allow(unsafe_code, reason = "the number may be anything's; nix wants to borrow it")]
pub fn control(epoll: RawFd, operation: i32, fd: RawFd, interest: EpollFlags, token: u64) -> Result<()> {
    let mut event = libc::epoll_event { events: interest.bits() as u32, u64: token };
    // SAFETY: an event that the kernel only reads.
    Errno::result(unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) }).map(drop)
}

#[allow(unsafe_code, reason = "a descriptor that no other code knows")]
fn internal(fd: i32) -> Result<InternalFd> {
    // SAFETY: new, if there is one.
    Errno::result(fd).map(|fd| InternalFd::new(unsafe { OwnedFd::from_raw_fd(fd) }))
}

impl Poller {
    /// A set with nothing in it but its clock.
    #[allow(unsafe_code, reason = "nix's types close their numbers without asking whose they are")]
    pub fn new() -> Result<Self> {
        // SAFETY: both calls make a descriptor.
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
            // Reported once for each tick: no code reads the timerfd.
            let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            control(poller.fd(), libc::EPOLL_CTL_ADD, clock.as_raw_fd(), interest, TICK)?;
        }
        Ok(poller)
    }

    /// A set with nothing in it.
    #[allow(unsafe_code, reason = "nix's type closes its number without asking whose it is")]
    pub fn without_clock() -> Result<Self> {
        // SAFETY: it makes a descriptor.
        internal(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(|epoll| Self::of(epoll, None))
    }

    fn of(epoll: InternalFd, clock: Option<InternalFd>) -> Self {
        Self { epoll, clock, tick_at: 0, is_set: false, made_by: fork_epoch::generation() }
    }

    /// Whether the number still is that of this set, and this process made it.
    pub fn is_intact(&self) -> bool {
        self.made_by == fork_epoch::generation() && self.epoll.is_intact()
    }

    /// Whether it is intact, and so is its clock, if it was made with one.
    pub fn has_clock(&self) -> bool {
        match &self.clock {
            Some(clock) => self.probe(clock.as_raw_fd()) == Err(Errno::EEXIST),
            None => self.is_intact(),
        }
    }

    /// The descriptor to wait for.
    pub fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// What to wait for if it is not the set: the clock, by which another thread wakes this one, too. None without a clock.
    pub fn clock(&self) -> Option<RawFd> {
        self.clock.as_ref().map(InternalFd::as_raw_fd)
    }

    /// Has something looked after in so many milliseconds, or before; how long that is. If another event loop waits for the
    /// set, the timer makes the set readable for that loop.
    pub fn tick_in(&mut self, milliseconds: u32, for_others: bool) -> u32 {
        let now = deadline::milliseconds();
        let at = now + i64::from(milliseconds);
        if self.tick_at == 0 || self.tick_at > at {
            (self.tick_at, self.is_set) = (at, false);
        }
        let left = u32::try_from(self.tick_at - now).unwrap_or(0);
        if for_others && !self.is_set {
            // At once is no time for a clock.
            self.is_set = self.set_clock(left.max(1), 0).is_ok();
        }
        left
    }

    /// Whether it is time to look after something; asked for anew from then on.
    pub fn take_tick(&mut self) -> bool {
        let is_due = self.is_tick_due();
        if is_due {
            self.tick_at = 0;
        }
        is_due
    }

    /// Whether it is time to look after something.
    pub fn is_tick_due(&self) -> bool {
        self.tick_at != 0 && deadline::milliseconds() >= self.tick_at
    }

    /// The clock was seen to tick, or to wake the thread: it is still until it is set anew.
    pub fn stop_clock(&mut self) {
        self.is_set = false;
        let _ = self.set_clock(0, 0);
    }

    /// Wakes a thread that waits for the set.
    pub fn wake(&self) {
        let _ = self.set_clock(0, 1);
    }

    #[allow(unsafe_code, reason = "nix's timer closes its number without asking whose it is")]
    fn set_clock(&self, milliseconds: u32, nanoseconds: i64) -> Result<()> {
        let clock = self.clock.as_ref().filter(|clock| clock.is_intact()).ok_or(Errno::ENOSYS)?;
        // SAFETY: all zeros is a timer that is off.
        let mut time: libc::itimerspec = unsafe { std::mem::zeroed() };
        time.it_value.tv_sec = (milliseconds / 1000) as _;
        time.it_value.tv_nsec = (i64::from(milliseconds % 1000) * 1_000_000 + nanoseconds) as _;
        // SAFETY: a time that the kernel only reads.
        let result =
            unsafe { libc::timerfd_settime(clock.as_raw_fd(), 0, &raw const time, std::ptr::null_mut()) };
        Errno::result(result).map(drop)
    }

    /// Watches a descriptor that is not watched yet: EEXIST for one that is, as the file that it is now. EBADF also
    /// for one that the library keeps.
    pub fn add(&self, fd: RawFd, token: u64, interest: EpollFlags) -> Result<()> {
        self.add_new(internal_fds::of_program(fd)?, token, interest)
    }

    /// The same for a descriptor that was made just now.
    pub fn add_new(&self, fd: RawFd, token: u64, interest: EpollFlags) -> Result<()> {
        control(self.fd(), libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    /// Watches a descriptor for other events than before: ENOENT for one that is not watched, as the file that it is
    /// now.
    pub fn change(&self, fd: RawFd, token: u64, interest: EpollFlags) -> Result<()> {
        control(self.fd(), libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    /// Watches a descriptor no more.
    pub fn remove(&self, fd: RawFd) {
        // A closed descriptor has left the set by itself, if no other descriptor of the file is open.
        let _ = control(self.fd(), libc::EPOLL_CTL_DEL, fd, EpollFlags::empty(), 0);
    }

    /// Whether the number is watched, as the file that it is now: EEXIST if so. What is not watched is not watched
    /// afterwards, either; EPERM is a file that cannot be.
    pub fn probe(&self, fd: RawFd) -> Result<()> {
        let result = control(self.fd(), libc::EPOLL_CTL_ADD, fd, EpollFlags::empty(), PROBE);
        if result.is_ok() {
            self.remove(fd);
        }
        result
    }

    /// Whether the number is watched for certain, as the file that it is now: [`Poller::probe`], in short.
    #[allow(unsafe_code, reason = "see control")]
    pub fn is_watched(&self, fd: RawFd) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: PROBE };
        // SAFETY: an event that the kernel only reads.
        match unsafe { libc::epoll_ctl(self.fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => {
                self.remove(fd);
                false
            }
            _ => Errno::last_raw() == libc::EEXIST,
        }
    }

    /// What is ready by now.
    #[allow(unsafe_code, reason = "nix's Epoll::wait wants initialised events")]
    pub fn ready<'a>(&self, room: &'a mut [MaybeUninit<Readiness>]) -> Result<&'a mut [Readiness]> {
        let most = i32::try_from(room.len()).unwrap_or(i32::MAX);
        // SAFETY: `room` is writable for `most` events, and the kernel has written as many as it says.
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
    fn probe_tells_a_reused_number_from_the_file_before() {
        let poller = Poller::new().unwrap();
        let (one, two) = UnixStream::pair().unwrap();
        let (other, _peer) = UnixStream::pair().unwrap();
        let number = one.as_raw_fd();
        poller.add(number, 7, EpollFlags::EPOLLIN).unwrap();
        assert_eq!(poller.probe(number), Err(Errno::EEXIST));
        // The old file lives on, and is still reported by its token.
        let _copy = one.try_clone().unwrap();
        #[allow(unsafe_code, reason = "what a program does")]
        // SAFETY: the number belongs to this test.
        let taken = unsafe { libc::dup2(other.as_raw_fd(), one.into_raw_fd()) };
        assert_eq!(taken, number);
        drop(two);
        assert_eq!(poller.probe(number), Ok(()));
        assert_eq!(poller.probe(number), Ok(()), "the stranger has not stayed in the set");
        assert_eq!(tokens(&poller), [7]);
    }

    #[test]
    fn poller_has_no_clock_with_another_set_at_its_number() {
        let (poller, other) = (Poller::new().unwrap(), Poller::new().unwrap());
        assert!(poller.has_clock() && other.has_clock());
        let number = poller.fd();
        // Another set of the library's own is as strange as a file of the program's.
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
            // SAFETY: one descriptor.
            let count = unsafe { libc::poll(fds.as_mut_ptr(), 1, 10_000) };
            count
        };
        assert_eq!(ready(&poller), 1);
        assert_eq!(tokens(&poller), [TICK]);
        poller.stop_clock();
        assert_eq!(poller.tick_in(1, true), 1);
        assert_eq!((ready(&poller), tokens(&poller)), (1, vec![TICK]));
        assert!(poller.take_tick() && !poller.take_tick());
    }
}
