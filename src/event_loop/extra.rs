//! Descriptors that the program has added: reading what is there, and looking whether anything is.
//!
//! Nothing here is done under a lock. Another process may read the same pipe or terminal and take the bytes that poll(2)
//! has seen: a read that would wait for more is avoided where the kernel or the file's kind gives a way to.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use crate::frame::c_heap::Block;
use crate::kernel::fd::{self, Patience};
use crate::kernel::socket;

/// How much is read for one event.
const SIZE: usize = 64 << 10;

/// What poll(2) says of a socket on which nothing more can arrive.
const READ_END: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// What a read has come to.
pub enum Read {
    /// Nothing is there.
    Nothing,
    /// Bytes, and there may be more; or an empty datagram.
    Bytes(Block),
    /// The end of the file.
    End,
    /// It cannot be read, and is to be tried again when the kernel reports it again.
    Unreadable,
    /// A signal handler has run, or there is no memory: to be tried again.
    Again(Option<Errno>),
    /// The program has closed the descriptor.
    Closed,
}

/// Reads what is there. A regular file's bytes are nobody else's to take, but may have to come from the disk, and nobody
/// says when they have.
pub fn read(fd: RawFd, is_file: bool) -> Read {
    let ready = match fd::wait(fd, PollFlags::POLLIN | READ_END, PollTimeout::ZERO) {
        Ok(flags) if flags.is_empty() => return Read::Nothing,
        Ok(flags) => flags,
        Err(Errno::EBADF) => return Read::Closed,
        Err(errno) => return Read::Again(Some(errno)),
    };
    let is_over = ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
    let has_ended = is_over || ready.contains(READ_END);
    let Ok(mut bytes) = Block::with_capacity(SIZE) else { return Read::Again(Some(Errno::ENOMEM)) };
    // Nor does a file that has hung up have more to wait for.
    let patience = if is_file || is_over { Patience::Wait } else { Patience::DontWait };
    match bytes.fill(SIZE, |room| fd::read(fd, room, patience)) {
        // An empty datagram is no end, and there may be another one behind it.
        Ok(0) if !has_ended && socket::is_datagram(fd) => Read::Bytes(Block::default()),
        Ok(0) => Read::End,
        Ok(_) => {
            bytes.shrink();
            Read::Bytes(bytes)
        }
        Err(Errno::EINTR) => Read::Again(None),
        Err(Errno::EAGAIN) => Read::Nothing,
        Err(_) if is_file || is_over => Read::End,
        Err(_) => Read::Unreadable,
    }
}

/// Whether anything can be read: EBADF for what is closed.
pub fn is_ready(fd: RawFd) -> Result<bool, Errno> {
    fd::wait(fd, PollFlags::POLLIN, PollTimeout::ZERO).map(|flags| !flags.is_empty())
}
