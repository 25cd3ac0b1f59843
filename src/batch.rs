//! Frames that are put together before they are sent: many in one system call.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use crate::connections;
use crate::error::Error;
use crate::output::{failed, flush_queue, has_queued, not_remembered, refused};
use crate::section::Section;
use crate::socket::{self, Limit};

/// How much is put together before it is sent without being asked.
const BATCH: usize = 64 << 10;

/// Puts a frame behind what is queued for the connection.
pub fn queue(section: &Section, fd: RawFd, pieces: [&[u8]; 2]) -> Result<(), Error> {
    let slices = pieces.map(IoSlice::new);
    let size = slices.iter().map(|piece| piece.len()).sum();
    let mut slot = connections::lock_known(section, fd);
    let is_first = slot.get().is_none_or(|connection| connection.outbound.is_empty());
    if is_first {
        slot.forget_stranger();
    }
    let connection = slot.entry().map_err(not_remembered)?;
    if connection.left_to_parent {
        return Err(failed(Errno::EBUSY));
    }
    let mut room = connection.outbound.reserve(size, connection.settings.queue);
    if room == Err(Errno::EAGAIN) && connection.writer.is_none() {
        flush_queue(&mut slot, fd)?;
        let connection = slot.entry().map_err(not_remembered)?;
        room = connection.outbound.reserve(size, connection.settings.queue);
    }
    if let Err(errno) = room {
        slot.tidy();
        return Err(refused(errno));
    }
    let connection = slot.entry().map_err(not_remembered)?;
    let before = connection.outbound.len();
    connection.outbound.append(&slices, None);
    // Once for each batch, also where the peer does not read.
    let is_full = before / BATCH < connection.outbound.len() / BATCH;
    if is_full && connection.writer.is_none() && flush_queue(&mut slot, fd)? {
        slot.tidy();
        return Ok(());
    }
    drop(slot);
    if is_first {
        has_queued(section, fd);
    }
    Ok(())
}

/// Sends what is queued for the connection, and waits for its peer: ETIMEDOUT when the time is over before.
pub fn flush(section: &mut Section, fd: RawFd, limit: Limit) -> Result<(), Error> {
    socket::check_open(fd).map_err(failed)?;
    let thread = section.thread();
    let mut timeout = limit.left();
    loop {
        let mut slot = connections::lock(section, fd);
        let writer = match slot.get() {
            Some(connection) if !connection.may_send() => connection.writer,
            _ => return Ok(()),
        };
        if writer.is_none() && flush_queue(&mut slot, fd)? {
            slot.tidy();
            return Ok(());
        }
        if writer == Some(thread) {
            // A signal handler has interrupted a write to the same connection.
            return Err(failed(Errno::EDEADLK));
        }
        if timeout == 0 {
            return Err(failed(Errno::ETIMEDOUT));
        }
        if writer.is_some() {
            let limit = u64::try_from(timeout).ok().map(Duration::from_millis);
            drop(slot.wait(limit).map_err(failed)?);
        } else {
            drop(slot);
            let limit = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::NONE);
            match section.outside(|| socket::wait(fd, PollFlags::POLLOUT, limit)) {
                Ok(_) => {}
                // As in a wait for an event: with a limit, a signal neither ends nor prolongs it.
                Err(Errno::EINTR) if timeout > 0 => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        timeout = limit.left();
    }
}

/// Bytes that are queued for the connection.
pub fn pending(section: &Section, fd: RawFd) -> Result<usize, Error> {
    socket::check_open(fd).map_err(failed)?;
    Ok(connections::lock(section, fd).get().map_or(0, |connection| connection.outbound.len()))
}
