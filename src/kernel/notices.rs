//! Signals and timers as descriptors: signalfd(2), timerfd_create(2), and the records that are read from
//! them.
//!
//! The descriptors belong to the program's list (`ipc_add_signal`, `ipc_add_timer`); the program knows their
//! numbers, so they carry the public mark of `internal_fds`. The state is the kernel's: nothing is kept here.
#![deny(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

use crate::kernel::fd::{self, Blocking};
use crate::kernel::internal_fds::{self, beyond_standard};

/// A set of signals, as bits: bit 0 stands for signal 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals(u64);

impl Signals {
    /// The set with this signal added; EINVAL if the signal does not exist or cannot be caught.
    pub fn with(self, signal: i32) -> Result<Self> {
        let is_catchable = matches!(signal, 1..=64) && !matches!(signal, libc::SIGKILL | libc::SIGSTOP);
        let mut set = self.set();
        if !is_catchable || !add(&mut set, signal) {
            return Err(Errno::EINVAL);
        }
        Ok(Self(self.0 | 1 << (signal - 1)))
    }

    fn set(self) -> libc::sigset_t {
        #[allow(unsafe_code, reason = "nix has no real-time signals")]
        // SAFETY: sigemptyset initialises the set.
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

/// Adds the signal to the set; false if the signal does not exist.
#[allow(unsafe_code, reason = "nix has no real-time signals")]
fn add(set: &mut libc::sigset_t, signal: i32) -> bool {
    // SAFETY: the set is initialised.
    unsafe { libc::sigaddset(set, signal) == 0 }
}

/// Blocks the signals in this thread, and returns the signals that were blocked before.
#[allow(unsafe_code, reason = "nix has no real-time signals")]
pub fn block(signals: Signals) -> libc::sigset_t {
    let (more, mut before) = (signals.set(), Signals::default().set());
    // SAFETY: both sets are initialised.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const more, &raw mut before) };
    before
}

/// Makes a descriptor from which these signals are read. If `fd` is given, that descriptor is changed to
/// these signals instead, and None is returned.
#[allow(unsafe_code, reason = "nix has no real-time signals")]
pub fn signal_fd(fd: Option<RawFd>, signals: Signals) -> Result<Option<OwnedFd>> {
    let set = signals.set();
    // SAFETY: the kernel reads the set.
    let made = Errno::result(unsafe {
        libc::signalfd(fd.unwrap_or(-1), &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    })?;
    // SAFETY: the descriptor is new if `fd` is none, and no other code knows it yet.
    Ok(fd.is_none().then(|| for_program(unsafe { OwnedFd::from_raw_fd(made) })))
}

/// A timer that becomes readable after `first` milliseconds, and then every `every` milliseconds, unless
/// `every` is 0.
#[allow(unsafe_code, reason = "nix does not accept 0 as the first time")]
pub fn timer_fd(first: i32, every: i32) -> Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let made = Errno::result(unsafe {
        libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)
    })?;
    // SAFETY: the descriptor is new, and no other code knows it yet.
    let timer = for_program(unsafe { OwnedFd::from_raw_fd(made) });
    let time = |milliseconds: i32| libc::timespec {
        tv_sec: (milliseconds / 1000).into(),
        tv_nsec: (milliseconds % 1000 * 1_000_000).into(),
    };
    let mut times = libc::itimerspec { it_interval: time(every), it_value: time(first) };
    if first == 0 {
        // A time of 0 would disarm the timer.
        times.it_value.tv_nsec = 1;
    }
    // SAFETY: the kernel reads the times.
    Errno::result(unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const times, std::ptr::null_mut())
    })?;
    Ok(timer)
}

/// The new descriptor, moved above the standard streams and marked as one whose number the program has.
fn for_program(made: OwnedFd) -> OwnedFd {
    let file = beyond_standard(made);
    internal_fds::mark_public(&file);
    file
}

/// One notification read from such a descriptor: `struct ipc_notice` of `ipc_ext.h`, the payload of the
/// message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Notice {
    /// The signal's number; 0 for a timer.
    pub signal: i32,
    /// The timer's descriptor; 0 for a signal.
    pub timer: i32,
    /// How often the timer has expired since it was last read; 1 for a signal.
    pub count: u64,
    /// The process that sent the signal; 0 for a timer.
    pub pid: i32,
    /// The real user ID of that process; 0 for a timer.
    pub uid: u32,
}

impl Notice {
    /// The bytes of the C structure.
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

/// The size of `struct signalfd_siginfo`, and the offset of its field `ssi_pid`, which `ssi_uid` follows.
const SIGNAL_SIZE: usize = 128;
const SENDER: usize = 12;

/// The next signal; EAGAIN if none is pending.
pub fn next_signal(fd: RawFd) -> Result<Notice> {
    let mut room = [const { MaybeUninit::uninit() }; SIGNAL_SIZE];
    let bytes = fd::read(fd, &mut room, Blocking::Wait)?;
    let number = |from: usize| {
        bytes.get(from..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| i32::from_ne_bytes(*bytes))
    };
    let (signal, pid, uid) = (number(0), number(SENDER), number(SENDER + 4));
    Ok(Notice { signal, timer: 0, count: 1, pid, uid: uid as u32 })
}

/// How often the timer has expired since it was last read; EAGAIN if it has not expired.
pub fn next_time(fd: RawFd) -> Result<Notice> {
    let mut room = [const { MaybeUninit::uninit() }; 8];
    let bytes = fd::read(fd, &mut room, Blocking::Wait)?;
    let count = bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    Ok(Notice { timer: fd, count, ..Notice::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_is_refused_when_it_cannot_be_caught() {
        let two = Signals::default().with(libc::SIGTERM).unwrap().with(libc::SIGHUP).unwrap();
        assert_eq!(two, Signals(1 << 14 | 1));
        assert_eq!(two.with(libc::SIGTERM), Ok(two));
        assert!(two.with(libc::SIGRTMIN()).is_ok() && two.with(libc::SIGRTMAX()).is_ok());
        for none in [0, -1, 65, 32, i32::MAX, libc::SIGKILL, libc::SIGSTOP] {
            assert_eq!(two.with(none), Err(Errno::EINVAL), "{none}");
        }
    }

    #[test]
    fn notice_has_the_layout_of_the_c_structure() {
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
