//! Descriptors of any kind: open, ready, read, duplicated, closed.
//!
//! They are plain numbers here, since they belong to the C program: it may close one at any time, and the
//! kernel then answers EBADF.
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
    /// As the descriptor's own flags and time-outs say.
    Wait,
    /// Not at all: EAGAIN instead.
    DontWait,
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

/// The front of `room`, which the kernel has written: `count` elements, or an error from errno.
///
/// # Safety
/// The first `count` elements are initialised.
#[allow(unsafe_code, reason = "initialised by a system call, which the type cannot show")]
pub unsafe fn written<T>(room: &mut [MaybeUninit<T>], count: isize) -> Result<&mut [T]> {
    let count = usize::try_from(count).map_err(|_| Errno::last())?;
    let (front, _) = room.split_at_mut_checked(count).ok_or(Errno::EOVERFLOW)?;
    // SAFETY: as promised by the caller.
    Ok(unsafe { &mut *(ptr::from_mut(front) as *mut [T]) })
}

/// Reads at most `room` from a descriptor of any kind that poll(2) calls readable; an empty answer is the end of the file.
///
/// With [`Blocking::DontWait`] it does not wait, should another process have taken the bytes meanwhile: the kernel can do
/// that for pipes and sockets (RWF_NOWAIT), and for a FIFO or a terminal through a descriptor of their own that has
/// O_NONBLOCK. For other kinds (an inotify descriptor), and without /proc, there is no way.
#[allow(unsafe_code, reason = "nix reads into initialised bytes only")]
pub fn read(fd: RawFd, room: &mut [MaybeUninit<u8>], patience: Blocking) -> Result<&mut [u8]> {
    if patience == Blocking::DontWait {
        let piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        // SAFETY: `piece` is `room`, which is writable for its whole length.
        let count = unsafe { read_without_waiting(fd, &piece) };
        // EPERM and EINVAL: of a sandbox.
        let is_refused =
            || matches!(Errno::last(), Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM | Errno::EINVAL);
        if count >= 0 || !is_refused() {
            // SAFETY: the kernel has written as much as it says.
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
    // musl has the function since 1.2.5. The system call takes the position in two halves.
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
    // SAFETY: `room` is writable for its whole length, and the kernel has written as much as it says.
    unsafe {
        let count = libc::read(fd, room.as_mut_ptr().cast(), room.len());
        written(room, count)
    }
}

/// The device numbers of /dev/ptmx.
const PTMX: (u64, u64) = (5, 2);

/// A FIFO or a terminal, opened once more so that reading it does not wait; none for other kinds of files.
fn reopen(fd: RawFd) -> Result<Option<OwnedFd>> {
    let file = File::behind(fd)?;
    // The master of a terminal would be another one's.
    let is_other = file.is(SFlag::S_IFCHR) && file.stands_for() != PTMX;
    if !file.is(SFlag::S_IFIFO) && !is_other {
        return Ok(None);
    }
    let mut name = [0; 32];
    let mut rest = &mut name[..];
    write!(rest, "/proc/self/fd/{fd}").map_err(|_| Errno::ENAMETOOLONG)?;
    let length = 32 - rest.len();
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(name.get(..length).unwrap_or_default(), flags, Mode::empty()).map(Some)
}

/// Locks an open file for this process alone, if no other open file has the lock (else EWOULDBLOCK). Closing the file frees the lock.
#[allow(unsafe_code, reason = "nix's lock panics where unlocking fails")]
pub fn lock(file: &OwnedFd) -> Result<()> {
    // SAFETY: an open descriptor.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Another descriptor of the same file, close-on-exec. A call that waits with it goes on with that file, also where
/// a signal handler closes the first one and its number becomes another's: the kernel begins the call anew.
#[allow(unsafe_code, reason = "nix gives the number alone")]
pub fn duplicate(fd: RawFd) -> Result<KeptFd> {
    let number = fcntl(borrow(fd)?, FcntlArg::F_DUPFD_CLOEXEC(libc::STDERR_FILENO + 1))?;
    // SAFETY: a new descriptor, which no other code knows.
    Ok(KeptFd::new(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// EBADF for a descriptor that is not open, or open for nothing but its name (O_PATH): the number of a connection whose end
/// was reported.
pub fn check_usable(fd: RawFd) -> Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(borrow(fd)?, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_PATH) { Err(Errno::EBADF) } else { Ok(()) }
}

/// EBADF for a descriptor that is not open.
pub fn check_open(fd: RawFd) -> Result<()> {
    fcntl(borrow(fd)?, FcntlArg::F_GETFD).map(drop)
}

/// Has the descriptor closed where the process becomes another program.
pub fn set_close_on_exec(fd: RawFd) -> Result<()> {
    fcntl(borrow(fd)?, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}

/// The directory that relative paths begin in, as far as `room` has room for it.
#[allow(unsafe_code, reason = "nix allocates without asking whether there is memory")]
pub fn current_directory(room: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: the kernel writes no more than there is room for.
    let path = unsafe { libc::getcwd(room.as_mut_ptr().cast(), room.len()) };
    if path.is_null() {
        return Err(Errno::last());
    }
    let length = room.iter().position(|byte| *byte == 0).ok_or(Errno::ENAMETOOLONG)?;
    room.get(..length).ok_or(Errno::ENAMETOOLONG)
}

/// Waits until one of `events` is there, at most `timeout`; which are, or none when the time is over.
#[allow(unsafe_code, reason = "nix does not know POLLRDHUP, and then says nothing of the others")]
pub fn wait(fd: RawFd, events: PollFlags, timeout: PollTimeout) -> Result<PollFlags> {
    borrow(fd)?;
    let mut asked = libc::pollfd { fd, events: events.bits(), revents: 0 };
    let milliseconds = timeout.as_millis().map_or(-1, |limit| i32::try_from(limit).unwrap_or(i32::MAX));
    // SAFETY: one descriptor.
    Errno::result(unsafe { libc::poll(&raw mut asked, 1, milliseconds) })?;
    match PollFlags::from_bits_retain(asked.revents) {
        flags if flags.contains(PollFlags::POLLNVAL) => Err(Errno::EBADF),
        flags => Ok(flags),
    }
}

/// Closes a descriptor of the program. Linux has freed the number even where it answers EINTR.
#[allow(unsafe_code, reason = "the descriptor is the program's number, which Rust does not own")]
pub fn close(fd: RawFd) -> Result<()> {
    // Without a lock, which a signal handler may have interrupted the library with.
    if internal_fds::is_marked(fd) {
        return Err(Errno::EBADF);
    }
    // SAFETY: closing what C asked to close; no Rust value owns this number.
    match Errno::result(unsafe { libc::close(fd) }) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
