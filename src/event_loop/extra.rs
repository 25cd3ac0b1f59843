//! Descriptors that the program has added to its list: reading their bytes, and checking whether they are
//! readable.
//!
//! Nothing here is done under a lock. Another process may read the same pipe or terminal and take the bytes
//! that poll(2) has reported: a read that would block then is avoided if the kernel or the kind of file has a
//! way to do so.

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use crate::frame::c_heap::Block;
use crate::kernel::fd::{self, Blocking};
use crate::kernel::notices::{self, Notice};
use crate::kernel::socket::{self, Kind};

/// How many bytes of a stream are read for one event.
const SIZE: usize = 64 << 10;

/// poll(2) reports this for a socket on which nothing more can arrive.
const READ_END: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// What kind of file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A regular file.
    File,
    /// A signalfd made by the library.
    Signals,
    /// A timerfd made by the library.
    Timer,
    /// Any other file.
    Other,
}

/// The result of a read.
pub enum Read {
    /// Nothing is there.
    Nothing,
    /// Bytes, a datagram or a packet; there may be more.
    Bytes(Block),
    /// End of file.
    End,
    /// An error that may pass, or a descriptor that is ready but cannot be read (a listening socket with a
    /// client): it is read again when the kernel reports it again, or at once if `has_more`.
    Error { has_more: bool },
    /// A signal handler has run, or there is no memory: the read is to be tried again.
    Again(Option<Errno>),
    /// The program has closed the descriptor.
    Closed,
}

/// Reads what is there. A regular file may wait for the disk: no other process can take its bytes, and the
/// kernel does not report when they are in memory.
///
/// Only a read of 0 bytes that is no empty datagram means end of file. Errors and hang-ups may pass (a TCP
/// socket that is not connected yet, a terminal between two users, a netlink socket that has overflown): the
/// descriptor is read again when the kernel reports it.
pub fn read(fd: RawFd, source: Source) -> Read {
    let is_file = match source {
        Source::Signals => return read_notice(|| notices::next_signal(fd)),
        Source::Timer => return read_notice(|| notices::next_time(fd)),
        Source::File => true,
        Source::Other => false,
    };
    let ready = match fd::poll_one(fd, PollFlags::POLLIN | READ_END, PollTimeout::ZERO) {
        Ok(flags) if flags.is_empty() => return Read::Nothing,
        Ok(flags) => flags,
        Err(Errno::EBADF) => return Read::Closed,
        Err(errno) => return Read::Again(Some(errno)),
    };
    let is_hung_up = ready.contains(PollFlags::POLLHUP);
    let has_ended = is_hung_up || ready.contains(READ_END);
    let result = match socket::kind(fd) {
        Ok(Kind::Stream) => read_bytes(|room| socket::receive(fd, room)),
        Ok(Kind::Messages) => return read_message(fd, has_ended),
        Err(_) => {
            // After a hang-up a read does not block, and a terminal that is opened anew is not the one that
            // has hung up.
            let blocking = if is_file || is_hung_up { Blocking::Wait } else { Blocking::DontWait };
            read_bytes(|room| fd::read(fd, room, blocking))
        }
    };
    match result {
        Ok(bytes) if bytes.is_empty() => Read::End,
        Ok(bytes) => Read::Bytes(bytes),
        // A failing disk would be read again and again.
        Err(errno) if is_file && failure(errno).is_none() => Read::End,
        // A socket that is not connected yet has nothing to report.
        Err(Errno::ENOTCONN) if !ready.contains(PollFlags::POLLIN) => Read::Nothing,
        Err(errno) => failure(errno).unwrap_or(Read::Error { has_more: false }),
    }
}

/// Reads one signal or expiration. The memory is allocated first: what was read cannot be read again.
fn read_notice(next: impl FnOnce() -> Result<Notice, Errno>) -> Read {
    let size = size_of::<Notice>();
    let Ok(mut bytes) = Block::with_capacity(size) else { return Read::Again(Some(Errno::ENOMEM)) };
    match next() {
        Ok(notice) => {
            bytes.push(&notice.bytes());
            Read::Bytes(bytes)
        }
        Err(errno) => failure(errno).unwrap_or(Read::Again(Some(errno))),
    }
}

/// The meaning of most errors; `None` for errors of the file itself.
fn failure(errno: Errno) -> Option<Read> {
    match errno {
        Errno::EINTR => Some(Read::Again(None)),
        Errno::ENOMEM => Some(Read::Again(Some(errno))),
        Errno::EAGAIN => Some(Read::Nothing),
        Errno::EBADF => Some(Read::Closed),
        _ => None,
    }
}

/// Reads at most [`SIZE`] bytes. An error that the kernel has kept for the next call is reported once: the
/// bytes after it count.
fn read_bytes(
    source: impl for<'a> Fn(&'a mut [MaybeUninit<u8>]) -> Result<&'a mut [u8], Errno>,
) -> Result<Block, Errno> {
    let mut bytes = Block::with_capacity(SIZE).map_err(|_| Errno::ENOMEM)?;
    let mut result = bytes.fill(SIZE, &source);
    if result.is_err_and(|errno| failure(errno).is_none()) {
        result = bytes.fill(SIZE, &source);
    }
    result?;
    bytes.shrink();
    Ok(bytes)
}

/// Reads one datagram or packet, whole.
fn read_message(fd: RawFd, has_ended: bool) -> Read {
    let received = socket::next_size(fd).and_then(|size| {
        let mut bytes = Block::with_capacity(size.max(1)).map_err(|_| Errno::ENOMEM)?;
        bytes.fill(size.max(1), |room| socket::receive(fd, room))?;
        Ok(bytes)
    });
    match received {
        // An empty message does not mean end of file, and another message may follow.
        Ok(bytes) if bytes.is_empty() && has_ended => Read::End,
        Ok(bytes) => Read::Bytes(bytes),
        Err(errno) => {
            failure(errno).unwrap_or_else(|| Read::Error { has_more: socket::next_size(fd).is_ok() })
        }
    }
}

/// Whether the descriptor is readable; EBADF if it is closed.
pub fn is_ready(fd: RawFd) -> Result<bool, Errno> {
    fd::poll_one(fd, PollFlags::POLLIN, PollTimeout::ZERO).map(|flags| !flags.is_empty())
}
