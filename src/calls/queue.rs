//! Queueing frames without sending them at once, so that many frames are sent in one system call.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::calls::flush::send_later;
use crate::calls::outgoing::Outgoing;
use crate::connection::send::{Flushed, failed, flush_queue, give_up, not_remembered, queued_bytes, refused};
use crate::connection::state::Connection;
use crate::connection::table::{self, Slot};
use crate::error::Error;
use crate::event_loop::loops;
use crate::kernel::fd;
use crate::process::entry_guard::EntryGuard;

/// The size of a batch in bytes: each time the queue has grown by so much, it is sent without being asked
/// for.
const BATCH: usize = 64 << 10;

/// Adds a frame to the queue of the connection.
///
/// The descriptor is verified when a batch begins and before the batch is sent: the program may have closed
/// the descriptor with close(2), and another connection that has the number now must not get the queued
/// bytes. To verify it for each frame would cost what batches save.
pub fn queue(guard: &EntryGuard, fd: RawFd, pieces: [&[u8]; 2]) -> Result<(), Error> {
    let size = pieces.iter().map(|piece| piece.len()).sum();
    let mut slot = table::lock_unverified(guard, fd);
    let before = slot.get().map_or(0, |connection| connection.send_queue.len());
    // Once for each batch, also if the peer does not read.
    let is_full = before / BATCH < (before + size) / BATCH;
    if before == 0 || is_full {
        slot.verify().map_err(failed)?;
    }
    let connection = room_for(&mut slot, fd, size)?;
    let is_first = connection.send_queue.is_empty();
    connection.is_assumed |= !is_first && !is_full;
    connection.send_queue.append(pieces.into_iter(), None);
    let may_send = connection.turn.is_free();
    slot.count_sent();
    if is_full && may_send && flush_queue(&mut slot, fd)? == Flushed::All {
        slot.remove_if_idle();
        drop(slot);
        if !is_first {
            loops::note_sent(guard, fd);
        }
        return Ok(());
    }
    drop(slot);
    if is_first {
        send_later(guard, fd);
    }
    Ok(())
}

/// Adds a frame to a batch that has begun, if there is room without more memory. `None` if nothing was done.
pub fn add_quickly(guard: &EntryGuard, fd: RawFd, pieces: [&[u8]; 2]) -> Option<()> {
    let mut slot = table::lock_unverified(guard, fd);
    let connection = slot.get()?;
    let (before, size) = (connection.send_queue.len(), pieces[0].len() + pieces[1].len());
    let is_amid = before > 0 && before / BATCH == (before + size) / BATCH && !connection.left_to_parent;
    if is_amid && connection.send_queue.try_append(pieces, connection.settings.room()) {
        connection.is_assumed = true;
        slot.count_sent();
        return Some(());
    }
    None
}

/// Sends the frame, or queues it if other bytes are sent first or the kernel takes no more. Makes one send at
/// most.
pub fn send_or_queue(guard: &EntryGuard, fd: RawFd, frame: Outgoing<'_>) -> Result<(), Error> {
    let mut slot = table::lock_unverified(guard, fd);
    slot.verify().map_err(failed)?;
    let mut sent = 0;
    if slot.get().is_none_or(|connection| connection.may_send()) {
        // Before anything is sent, so that the rest can be kept.
        slot.reserve().map_err(not_remembered)?;
        sent = match frame.send(fd) {
            Ok(sent) => sent,
            Err(Errno::EAGAIN) => 0,
            Err(errno) => return Err(failed(errno)),
        };
        if sent == frame.len() {
            slot.count_sent();
            return Ok(());
        }
    }
    let connection = slot.connection().map_err(not_remembered)?;
    if connection.left_to_parent {
        return Err(failed(Errno::EBUSY));
    }
    if sent == 0 {
        let queued = frame.queue(connection, connection.settings.room());
        if queued.is_err() {
            slot.remove_if_idle();
            return queued;
        }
    } else if let Err(errno) = frame.after(sent).prepend(connection) {
        give_up(fd, errno);
        return Err(not_remembered(errno));
    }
    slot.count_sent();
    drop(slot);
    send_later(guard, fd);
    Ok(())
}

/// The connection, with room for so many more bytes; if necessary, queued bytes are sent to make room.
fn room_for<'a>(slot: &'a mut Slot<'_>, fd: RawFd, size: usize) -> Result<&'a mut Connection, Error> {
    for is_last_try in [false, true] {
        let connection = slot.connection().map_err(not_remembered)?;
        if connection.left_to_parent {
            return Err(failed(Errno::EBUSY));
        }
        match connection.send_queue.reserve(size, connection.settings.room(), false) {
            Ok(()) => break,
            Err(Errno::EAGAIN) if !is_last_try && connection.turn.is_free() => {
                slot.verify().map_err(failed)?;
                flush_queue(slot, fd)?;
            }
            Err(errno) => {
                slot.remove_if_idle();
                return Err(refused(errno));
            }
        }
    }
    slot.connection().map_err(not_remembered)
}

/// How many bytes are queued for the connection. EBADF.
pub fn pending(guard: &EntryGuard, fd: RawFd) -> Result<usize, Error> {
    fd::check_usable(fd).map_err(failed)?;
    Ok(queued_bytes(guard, fd))
}
