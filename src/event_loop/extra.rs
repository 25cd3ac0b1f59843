//! Descriptors that the program has added: reading what is there, and looking whether anything is.
//!
//! Nothing here is done under a lock. Another process may read the same pipe or terminal and take the bytes that poll(2)
//! has seen: a read that would wait for more is avoided where the kernel or the file's kind gives a way to.

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use crate::frame::c_heap::Block;
use crate::kernel::fd::{self, Blocking};
use crate::kernel::notices::{self, Notice};
use crate::kernel::socket::{self, Kind};

/// How much is read of a stream for one event.
const SIZE: usize = 64 << 10;

/// What poll(2) says of a socket on which nothing more can arrive.
const READ_END: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A regular file.
    File,
    /// Signals, by a descriptor of the library's making.
    Signals,
    /// A time, by such a descriptor.
    Timer,
    /// Any other kind.
    Other,
}

/// What a read has come to.
pub enum Read {
    /// Nothing is there.
    Nothing,
    /// Bytes, a datagram or a packet; there may be more.
    Bytes(Block),
    /// The end of the file.
    End,
    /// An error that may pass, or what cannot be read but is ready (a client of a listening socket): to be read again when the
    /// kernel reports it again, or at once if there is more.
    Error { has_more: bool },
    /// A signal handler has run, or there is no memory: to be tried again.
    Again(Option<Errno>),
    /// The program has closed the descriptor.
    Closed,
}

/// Reads what is there. A regular file's bytes are nobody else's to take, but may have to come from the disk, and nobody
/// says when they have.
///
/// Only an end is an end: a read of 0 bytes that is no empty datagram. Errors and hang-ups may pass (a TCP socket that is not
/// connected yet, a terminal between two users, a netlink socket that has overflown): what arrives later is read when the kernel reports it.
pub fn read(fd: RawFd, source: Source) -> Read {
    let is_file = match source {
        Source::Signals => return read_notice(|| notices::next_signal(fd)),
        Source::Timer => return read_notice(|| notices::next_time(fd)),
        Source::File => true,
        Source::Other => false,
    };
    let ready = match fd::wait(fd, PollFlags::POLLIN | READ_END, PollTimeout::ZERO) {
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
            // What has hung up has nothing to wait for, and a terminal that is opened anew is not the one that has.
            let patience = if is_file || is_hung_up { Blocking::Wait } else { Blocking::DontWait };
            read_bytes(|room| fd::read(fd, room, patience))
        }
    };
    match result {
        Ok(bytes) if bytes.is_empty() => Read::End,
        Ok(bytes) => Read::Bytes(bytes),
        // A disk that fails would be read again and again.
        Err(errno) if is_file && failure(errno).is_none() => Read::End,
        // One that is not connected yet has nothing to report.
        Err(Errno::ENOTCONN) if !ready.contains(PollFlags::POLLIN) => Read::Nothing,
        Err(errno) => failure(errno).unwrap_or(Read::Error { has_more: false }),
    }
}

/// Reads one signal or time. The memory is found before: what was read the kernel has no more.
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

/// What most errors mean; none for those of the file itself.
fn failure(errno: Errno) -> Option<Read> {
    match errno {
        Errno::EINTR => Some(Read::Again(None)),
        Errno::ENOMEM => Some(Read::Again(Some(errno))),
        Errno::EAGAIN => Some(Read::Nothing),
        Errno::EBADF => Some(Read::Closed),
        _ => None,
    }
}

/// Reads at most [`SIZE`] bytes. An error that the kernel keeps for the next call is reported once: what is behind it counts.
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

/// Reads a datagram or a packet, whole.
fn read_message(fd: RawFd, has_ended: bool) -> Read {
    let received = socket::next_size(fd).and_then(|size| {
        let mut bytes = Block::with_capacity(size.max(1)).map_err(|_| Errno::ENOMEM)?;
        bytes.fill(size.max(1), |room| socket::receive(fd, room))?;
        Ok(bytes)
    });
    match received {
        // An empty one is no end, and there may be another one behind it.
        Ok(bytes) if bytes.is_empty() && has_ended => Read::End,
        Ok(bytes) => Read::Bytes(bytes),
        Err(errno) => {
            failure(errno).unwrap_or_else(|| Read::Error { has_more: socket::next_size(fd).is_ok() })
        }
    }
}

/// Whether anything can be read: EBADF for what is closed.
pub fn is_ready(fd: RawFd) -> Result<bool, Errno> {
    fd::wait(fd, PollFlags::POLLIN, PollTimeout::ZERO).map(|flags| !flags.is_empty())
}
