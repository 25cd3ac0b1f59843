//! Frames that are put together before they are sent: many in one system call.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use crate::connection::Connection;
use crate::connections::{self, Slot};
use crate::error::Error;
use crate::limit::Limit;
use crate::output::{Flushed, failed, flush_queue, not_remembered, pause, refused};
use crate::section::Section;
use crate::socket;
use crate::{drain, event_loop};

/// How much is put together before it is sent without being asked.
const BATCH: usize = 64 << 10;

/// Puts a frame behind what is queued for the connection.
///
/// Whether the descriptor is still this connection is asked at the beginning of a batch and before it is sent: the
/// program may have closed it with close(2), and its number may be another connection's, which must not get what
/// was queued. To ask for each frame would cost what batches save.
pub fn queue(section: &Section, fd: RawFd, pieces: [&[u8]; 2]) -> Result<(), Error> {
    let slices = pieces.map(IoSlice::new);
    let size = slices.iter().map(|piece| piece.len()).sum();
    let mut slot = connections::lock_known(section, fd);
    let before = slot.get().map_or(0, |connection| connection.outbound.len());
    // Once for each batch, also where the peer does not read.
    let is_full = before / BATCH < (before + size) / BATCH;
    if before == 0 || is_full {
        slot.verify().map_err(failed)?;
    }
    let connection = room_for(&mut slot, fd, size)?;
    let is_first = connection.outbound.is_empty();
    connection.is_assumed |= !is_first && !is_full;
    connection.outbound.append(&slices, None);
    if is_full && connection.writer.is_none() && flush_queue(&mut slot, fd)? == Flushed::All {
        slot.tidy();
        drop(slot);
        if !is_first {
            event_loop::has_sent(section, fd);
        }
        return Ok(());
    }
    drop(slot);
    if is_first {
        drain::has_queued(section, fd);
    }
    Ok(())
}

/// The connection, with room for so many bytes more; if need be, what is queued is sent before.
fn room_for<'a>(slot: &'a mut Slot<'_>, fd: RawFd, size: usize) -> Result<&'a mut Connection, Error> {
    for is_last_try in [false, true] {
        let connection = slot.entry().map_err(not_remembered)?;
        if connection.left_to_parent {
            return Err(failed(Errno::EBUSY));
        }
        match connection.outbound.reserve(size, connection.settings.queue) {
            Ok(()) => break,
            Err(Errno::EAGAIN) if !is_last_try && connection.writer.is_none() => {
                slot.verify().map_err(failed)?;
                flush_queue(slot, fd)?;
            }
            Err(errno) => {
                slot.tidy();
                return Err(refused(errno));
            }
        }
    }
    slot.entry().map_err(not_remembered)
}

/// Sends what is queued for the connection, and waits for its peer: ETIMEDOUT when the time is over before.
pub fn flush(section: &mut Section, fd: RawFd, limit: Limit) -> Result<(), Error> {
    socket::check_open(fd).map_err(failed)?;
    let thread = section.thread();
    let mut timeout = limit.left();
    loop {
        let mut slot = connections::lock_known(section, fd);
        let writer = match slot.get() {
            Some(connection) if !connection.may_send() => connection.writer,
            _ => return Ok(()),
        };
        let mut flushed = Flushed::Full;
        if writer.is_none() {
            slot.verify().map_err(failed)?;
            flushed = flush_queue(&mut slot, fd)?;
        }
        if flushed == Flushed::All {
            slot.tidy();
            drop(slot);
            event_loop::has_sent(section, fd);
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
        } else if flushed == Flushed::Later {
            drop(slot);
            pause(section);
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
