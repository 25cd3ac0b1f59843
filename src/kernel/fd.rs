//! System calls on descriptors of any kind: check, poll, read, duplicate, lock, close.
//!
//! A descriptor is a plain number here, since it belongs to the program. The program may close the descriptor
//! at any time; the kernel then answers EBADF, or the number refers to another file. No state here.
#![deny(unsafe_code)]

use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::stat::{Mode, SFlag};

use crate::kernel::file::File;
use crate::kernel::internal_fds::{self, KeptFd};

/// Whether a call may wait for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// The call waits if the descriptor's own flags and timeouts say so.
    Wait,
    /// The call does not wait: it fails with EAGAIN instead.
    DontWait,
}

/// A descriptor of the program, for functions of nix that do not accept a plain number.
#[allow(unsafe_code, reason = "the number is the program's; the kernel checks it at every call")]
pub fn borrow(fd: RawFd) -> Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: the number is not -1. If the program closes it meanwhile, each call answers EBADF.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// The front of `room`, which the kernel has written: `count` elements, or an error from errno.
///
/// # Safety
/// The first `count` elements are initialised.
#[allow(unsafe_code, reason = "the type cannot show that a system call has initialised the elements")]
pub unsafe fn written<T>(room: &mut [MaybeUninit<T>], count: isize) -> Result<&mut [T]> {
    let count = usize::try_from(count).map_err(|_| Errno::last())?;
    let (front, _) = room.split_at_mut_checked(count).ok_or(Errno::EOVERFLOW)?;
    // SAFETY: as promised by the caller.
    Ok(unsafe { &mut *(ptr::from_mut(front) as *mut [T]) })
}

/// Reads at most `room` from a descriptor that poll(2) has reported readable. An empty result is the end of
/// the file.
///
/// Another process may have taken the bytes since poll(2). With [`Blocking::DontWait`] the read then fails
/// with EAGAIN instead of waiting. The kernel supports this for pipes and sockets (RWF_NOWAIT); a FIFO or a
/// terminal is opened again with O_NONBLOCK for this read. For other kinds (an inotify descriptor), or
/// without /proc, the read may wait.
#[allow(unsafe_code, reason = "nix reads into initialised bytes only")]
pub fn read(fd: RawFd, room: &mut [MaybeUninit<u8>], blocking: Blocking) -> Result<&mut [u8]> {
    if blocking == Blocking::DontWait {
        let piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        // SAFETY: `piece` is `room`, which is writable for its whole length.
        let count = unsafe { read_without_waiting(fd, &piece) };
        // A sandbox refuses preadv2(2) with EPERM or EINVAL.
        let is_refused =
            || matches!(Errno::last(), Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM | Errno::EINVAL);
        if count >= 0 || !is_refused() {
            // SAFETY: the kernel has written `count` bytes.
            return unsafe { written(room, count) };
        }
        if let Ok(Some(own)) = reopen(fd) {
            return read_waiting(own.as_raw_fd(), room);
        }
    }
    read_waiting(fd, room)
}

/// preadv2(2) at the file's own position (-1), with RWF_NOWAIT.
///
/// # Safety
/// The memory of `piece` is writable for its whole length.
#[allow(unsafe_code, reason = "nix reads into initialised bytes only")]
unsafe fn read_without_waiting(fd: RawFd, piece: &libc::iovec) -> isize {
    let piece = ptr::from_ref(piece);
    #[cfg(not(target_env = "musl"))]
    // SAFETY: as promised by the caller.
    let count = unsafe { libc::preadv2(fd, piece, 1, -1, libc::RWF_NOWAIT) };
    // musl has preadv2 only since 1.2.5. The system call takes the position in two halves.
    #[cfg(target_env = "musl")]
    // SAFETY: as promised by the caller.
    let count = unsafe {
        let half: libc::c_long = -1;
        libc::syscall(libc::SYS_preadv2, fd, piece, 1_usize, half, half, libc::RWF_NOWAIT) as isize
    };
    count
}

#[allow(unsafe_code, reason = "nix reads into initialised bytes only")]
fn read_waiting(fd: RawFd, room: &mut [MaybeUninit<u8>]) -> Result<&mut [u8]> {
    // SAFETY: `room` is writable for its whole length, and the kernel has written `count` bytes.
    unsafe {
        let count = libc::read(fd, room.as_mut_ptr().cast(), room.len());
        written(room, count)
    }
}

/// The major and minor device numbers of /dev/ptmx.
const PTMX: (u64, u64) = (5, 2);

/// Opens a FIFO or a terminal again with O_NONBLOCK; None for other kinds of files.
fn reopen(fd: RawFd) -> Result<Option<OwnedFd>> {
    let file = File::of(fd)?;
    // Opening /dev/ptmx again would make a new terminal.
    let is_device = file.is(SFlag::S_IFCHR) && file.device_of_special_file() != PTMX;
    if !file.is(SFlag::S_IFIFO) && !is_device {
        return Ok(None);
    }
    let mut name = [0; 32];
    let mut rest = &mut name[..];
    write!(rest, "/proc/self/fd/{fd}").map_err(|_| Errno::ENAMETOOLONG)?;
    let length = 32 - rest.len();
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(name.get(..length).unwrap_or_default(), flags, Mode::empty()).map(Some)
}

/// Takes the exclusive lock of flock(2); EWOULDBLOCK if another open file has the lock. Closing the file
/// frees the lock.
#[allow(unsafe_code, reason = "nix's lock panics if unlocking fails")]
pub fn lock_file(file: &OwnedFd) -> Result<()> {
    // SAFETY: the descriptor is open.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// A second descriptor of the same open file, close-on-exec, for a call that waits: if a signal handler
/// closes `fd` and the number is reused, the kernel restarts the call by number, and the second number still
/// is the same file.
#[allow(unsafe_code, reason = "nix returns a plain number")]
pub fn duplicate(fd: RawFd) -> Result<KeptFd> {
    let number = fcntl(borrow(fd)?, FcntlArg::F_DUPFD_CLOEXEC(libc::STDERR_FILENO + 1))?;
    // SAFETY: the descriptor is new, and no other code knows it yet.
    Ok(KeptFd::new(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// EBADF if the descriptor is not open, or was opened with O_PATH: the placeholder at the number of a
/// connection whose end was reported.
pub fn check_usable(fd: RawFd) -> Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(borrow(fd)?, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_PATH) { Err(Errno::EBADF) } else { Ok(()) }
}

/// EBADF if the descriptor is not open.
pub fn check_open(fd: RawFd) -> Result<()> {
    fcntl(borrow(fd)?, FcntlArg::F_GETFD).map(drop)
}

/// Sets FD_CLOEXEC: execve(2) closes the descriptor.
pub fn set_close_on_exec(fd: RawFd) -> Result<()> {
    fcntl(borrow(fd)?, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}

/// The current directory; an error if its path is longer than `room`.
#[allow(unsafe_code, reason = "nix aborts if there is no memory")]
pub fn current_directory(room: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: getcwd writes at most `room.len()` bytes.
    let path = unsafe { libc::getcwd(room.as_mut_ptr().cast(), room.len()) };
    if path.is_null() {
        return Err(Errno::last());
    }
    let length = room.iter().position(|byte| *byte == 0).ok_or(Errno::ENAMETOOLONG)?;
    room.get(..length).ok_or(Errno::ENAMETOOLONG)
}

/// Waits with poll(2) until the descriptor has one of `events`, for at most `timeout`. Returns the events
/// that poll(2) has found; none if the timeout has expired.
#[allow(
    unsafe_code,
    reason = "nix does not know POLLRDHUP, and if poll(2) reports it, returns no events at all"
)]
pub fn poll_one(fd: RawFd, events: PollFlags, timeout: PollTimeout) -> Result<PollFlags> {
    borrow(fd)?;
    let mut asked = libc::pollfd { fd, events: events.bits(), revents: 0 };
    let milliseconds = timeout.as_millis().map_or(-1, |limit| i32::try_from(limit).unwrap_or(i32::MAX));
    // SAFETY: the array has one element.
    Errno::result(unsafe { libc::poll(&raw mut asked, 1, milliseconds) })?;
    match PollFlags::from_bits_retain(asked.revents) {
        flags if flags.contains(PollFlags::POLLNVAL) => Err(Errno::EBADF),
        flags => Ok(flags),
    }
}

/// Closes a descriptor of the program. EINTR counts as success: Linux has freed the number by then.
#[allow(unsafe_code, reason = "the descriptor is the program's number, which Rust does not own")]
pub fn close(fd: RawFd) -> Result<()> {
    // `is_marked` takes no lock: this function may run in a signal handler that has interrupted the holder of
    // a lock.
    if internal_fds::is_marked(fd) {
        return Err(Errno::EBADF);
    }
    // SAFETY: the program has asked to close this number, and no Rust value owns it.
    match Errno::result(unsafe { libc::close(fd) }) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
