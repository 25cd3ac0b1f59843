//! Signals and times as descriptors, and what is read of them: signalfd(2), timerfd_create(2).
#![deny(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

use crate::kernel::fd::{self, Patience};
use crate::kernel::internal_fds::{self, beyond_standard};

/// A set of signals, as bits: that of signal 1 is the lowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals(u64);

impl Signals {
    /// The set and one signal more: EINVAL if there is no such signal, or it cannot be caught.
    pub fn with(self, signal: i32) -> Result<Self> {
        let is_there = matches!(signal, 1..=64) && !matches!(signal, libc::SIGKILL | libc::SIGSTOP);
        let mut set = self.set();
        if !is_there || !add(&mut set, signal) {
            return Err(Errno::EINVAL);
        }
        Ok(Self(self.0 | 1 << (signal - 1)))
    }

    fn set(self) -> libc::sigset_t {
        #[allow(unsafe_code, reason = "nix has no real-time signals")]
        // SAFETY: the set is written.
        let mut set = unsafe {
            let mut set = MaybeUninit::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        (1..=64)
            .filter(|signal| self.0 & 1 << (signal - 1) != 0)
            .for_each(|signal| _ = add(&mut set, signal));
        set
    }
}

/// Whether there is such a signal.
#[allow(unsafe_code, reason = "nix has no real-time signals")]
fn add(set: &mut libc::sigset_t, signal: i32) -> bool {
    // SAFETY: a set and a number.
    unsafe { libc::sigaddset(set, signal) == 0 }
}

/// Blocks the signals in this thread: those that were blocked before.
#[allow(unsafe_code, reason = "nix has no real-time signals")]
pub fn block(signals: Signals) -> libc::sigset_t {
    let (more, mut before) = (signals.set(), Signals::default().set());
    // SAFETY: both are sets.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const more, &raw mut before) };
    before
}

/// A descriptor from which these signals are read: a new one, or `fd`, from which other signals were read before.
#[allow(unsafe_code, reason = "nix has no real-time signals")]
pub fn signal_fd(fd: Option<RawFd>, signals: Signals) -> Result<Option<OwnedFd>> {
    let set = signals.set();
    // SAFETY: the kernel reads the set.
    let made = Errno::result(unsafe {
        libc::signalfd(fd.unwrap_or(-1), &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    })?;
    // SAFETY: a new descriptor, which nobody else knows.
    Ok(fd.is_none().then(|| shown(unsafe { OwnedFd::from_raw_fd(made) })))
}

/// A descriptor that becomes readable after `first` milliseconds, and then each `every`, unless that is 0.
#[allow(unsafe_code, reason = "nix takes no 0 for the first time")]
pub fn timer_fd(first: i32, every: i32) -> Result<OwnedFd> {
    // SAFETY: no pointer.
    let made = Errno::result(unsafe {
        libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)
    })?;
    // SAFETY: a new descriptor, which nobody else knows.
    let timer = shown(unsafe { OwnedFd::from_raw_fd(made) });
    let time = |milliseconds: i32| libc::timespec {
        tv_sec: (milliseconds / 1000).into(),
        tv_nsec: (milliseconds % 1000 * 1_000_000).into(),
    };
    let mut times = libc::itimerspec { it_interval: time(every), it_value: time(first) };
    if first == 0 {
        // 0 would be never.
        times.it_value.tv_nsec = 1;
    }
    // SAFETY: the kernel reads the times.
    Errno::result(unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const times, std::ptr::null_mut())
    })?;
    Ok(timer)
}

/// A new descriptor, as the program gets it.
fn shown(made: OwnedFd) -> OwnedFd {
    let file = beyond_standard(made);
    internal_fds::show(&file);
    file
}

/// What is read of such a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Notice {
    /// The signal; 0 for a time.
    pub signal: i32,
    /// The descriptor of a time; 0 for a signal.
    pub timer: i32,
    /// How often the time has come since it was last read; 1 for a signal.
    pub count: u64,
    /// Who has sent the signal.
    pub pid: i32,
    /// Its real user.
    pub uid: u32,
}

impl Notice {
    /// As C has it.
    pub fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let members = [
            &self.signal.to_ne_bytes()[..],
            &self.timer.to_ne_bytes(),
            &self.count.to_ne_bytes(),
            &self.pid.to_ne_bytes(),
            &self.uid.to_ne_bytes(),
        ];
        bytes.iter_mut().zip(members.into_iter().flatten()).for_each(|(place, byte)| *place = *byte);
        bytes
    }
}

/// Bytes of `struct signalfd_siginfo`, and where it has the sender.
const SIGNAL_SIZE: usize = 128;
const SENDER: usize = 12;

/// The next signal: EAGAIN if there is none.
pub fn next_signal(fd: RawFd) -> Result<Notice> {
    let mut room = [const { MaybeUninit::uninit() }; SIGNAL_SIZE];
    let bytes = fd::read(fd, &mut room, Patience::Wait)?;
    let number = |from: usize| {
        bytes.get(from..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| i32::from_ne_bytes(*bytes))
    };
    let (signal, pid, uid) = (number(0), number(SENDER), number(SENDER + 4));
    Ok(Notice { signal, timer: 0, count: 1, pid, uid: uid as u32 })
}

/// How often the time has come: EAGAIN if it has not.
pub fn next_time(fd: RawFd) -> Result<Notice> {
    let mut room = [const { MaybeUninit::uninit() }; 8];
    let bytes = fd::read(fd, &mut room, Patience::Wait)?;
    let count = bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    Ok(Notice { timer: fd, count, ..Notice::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_can_be_had_are_added() {
        let two = Signals::default().with(libc::SIGTERM).unwrap().with(libc::SIGHUP).unwrap();
        assert_eq!(two, Signals(1 << 14 | 1));
        assert_eq!(two.with(libc::SIGTERM), Ok(two));
        assert!(two.with(libc::SIGRTMIN()).is_ok() && two.with(libc::SIGRTMAX()).is_ok());
        for none in [0, -1, 65, 32, i32::MAX, libc::SIGKILL, libc::SIGSTOP] {
            assert_eq!(two.with(none), Err(Errno::EINVAL), "{none}");
        }
    }

    #[test]
    fn notice_has_the_bytes_that_c_gives_it() {
        let notice = Notice { signal: 1, timer: 2, count: 3, pid: 4, uid: 5 };
        assert_eq!(size_of::<Notice>(), notice.bytes().len());
        let words = notice
            .bytes()
            .chunks(4)
            .map(|word| i32::from_ne_bytes(word.try_into().unwrap()))
            .collect::<Vec<_>>();
        let count = if cfg!(target_endian = "little") { [3, 0] } else { [0, 3] };
        assert_eq!(words, [1, 2, count[0], count[1], 4, 5]);
    }
}
