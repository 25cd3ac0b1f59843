//! Descriptors of any kind: open, ready, read, duplicated, closed.
//!
//! They are plain numbers here, since they belong to the C program: it may close one at any time, and the
//! kernel then answers EBADF.
#![deny(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::kernel::internal_fds::{self, Kept};

/// Whether a call may wait for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As the descriptor's own flags and time-outs say.
    Wait,
    /// Not at all: EAGAIN instead.
    DontWait,
}

impl Patience {
    /// The flags of recv(2) and send(2).
    pub fn flags(self) -> i32 {
        match self {
            Self::Wait => 0,
            Self::DontWait => libc::MSG_DONTWAIT,
        }
    }
}

/// A descriptor of the program, for the calls that want more than a number.
#[allow(unsafe_code, reason = "the number comes from C; the kernel checks it at every call")]
pub fn borrow(fd: RawFd) -> Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: not -1. The program may close it under us; every call then answers EBADF.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// The front of `room`, which the kernel has written: `count` elements, or none and errno tells why.
///
/// # Safety
/// The first `count` elements are initialised.
#[allow(unsafe_code, reason = "initialised by a system call, which the type cannot show")]
pub unsafe fn written<T>(room: &mut [MaybeUninit<T>], count: isize) -> Result<&mut [T]> {
    let count = usize::try_from(count).map_err(|_| Errno::last())?;
    let (front, _) = room.split_at_mut_checked(count).ok_or(Errno::EOVERFLOW)?;
    // SAFETY: as promised by the caller.
    Ok(unsafe { &mut *(std::ptr::from_mut(front) as *mut [T]) })
}

/// Reads at most `room` from a descriptor of any kind that poll(2) calls readable; an empty answer is the end
/// of the file. With [`Patience::DontWait`] it does not wait, where the kernel can do that, should another
/// process have taken the bytes meanwhile.
#[allow(unsafe_code, reason = "nix reads into initialised bytes only")]
pub fn read(fd: RawFd, room: &mut [MaybeUninit<u8>], patience: Patience) -> Result<&mut [u8]> {
    if patience == Patience::DontWait {
        let piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        // SAFETY: `piece` is `room`, which is writable for its whole length; -1 is the file's own position.
        let count = unsafe { libc::preadv2(fd, &raw const piece, 1, -1, libc::RWF_NOWAIT) };
        if count >= 0 || !matches!(Errno::last(), Errno::EOPNOTSUPP | Errno::ENOSYS) {
            // SAFETY: the kernel has written as much as it tells.
            return unsafe { written(room, count) };
        }
    }
    // SAFETY: `room` is writable for its whole length, and the kernel has written as much as it tells.
    unsafe {
        let count = libc::read(fd, room.as_mut_ptr().cast(), room.len());
        written(room, count)
    }
}

/// Locks an open file for this process alone, if nobody has it: EWOULDBLOCK. It is free again when it is closed.
#[allow(unsafe_code, reason = "nix's lock panics where unlocking fails")]
pub fn lock(file: &OwnedFd) -> Result<()> {
    // SAFETY: an open descriptor.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Another descriptor of the same file, close-on-exec. A call that waits with it goes on with that file, also where
/// a signal handler closes the first one and its number becomes another's: the kernel begins the call anew.
#[allow(unsafe_code, reason = "nix gives the number alone")]
pub fn duplicate(fd: RawFd) -> Result<Kept> {
    let number = fcntl(borrow(fd)?, FcntlArg::F_DUPFD_CLOEXEC(0))?;
    // SAFETY: a new descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(number) }.into())
}

/// EBADF for a descriptor that is not open.
pub fn check_open(fd: RawFd) -> Result<()> {
    fcntl(borrow(fd)?, FcntlArg::F_GETFD).map(drop)
}

/// Waits until one of `events` is there, at most `timeout`; which are, or none when the time is over.
pub fn wait(fd: RawFd, events: PollFlags, timeout: PollTimeout) -> Result<PollFlags> {
    let mut asked = [PollFd::new(borrow(fd)?, events)];
    nix::poll::poll(&mut asked, timeout)?;
    let [answered] = asked;
    match answered.revents().unwrap_or(PollFlags::POLLERR) {
        flags if flags.contains(PollFlags::POLLNVAL) => Err(Errno::EBADF),
        flags => Ok(flags),
    }
}

/// Closes a descriptor of the program. Linux has freed the number even where it answers EINTR.
#[allow(unsafe_code, reason = "the descriptor is the program's number, which Rust does not own")]
pub fn close(fd: RawFd) -> Result<()> {
    let fd = internal_fds::of_program(fd)?;
    // SAFETY: closing what C asked to close; no Rust value owns this number.
    match Errno::result(unsafe { libc::close(fd) }) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
