//! Sending the queued bytes of one connection, as far as the kernel takes them. Nothing here waits.
//!
//! A send ends in one of three ways ([`Flushed`]): all sent; the kernel's buffer is full, and poll(2) reports
//! room; or the kernel lacks memory, for which no report exists. Any other error breaks the connection.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::state::Connection;
use crate::connection::table::{self, Slot};
use crate::error::{Error, ipc_errors as Code};
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::ancillary::send_with;
use crate::kernel::socket;
use crate::process::entry_guard::EntryGuard;
use crate::process::sync::{AtomicUsize, Ordering};

/// How often bytes were queued on any connection, and the value of that counter when a search last found no
/// queued bytes. Two counters, so that threads that search at the same time hide nothing from each other.
static QUEUED: AtomicUsize = AtomicUsize::new(0);
static NONE_AT: AtomicUsize = AtomicUsize::new(0);

/// Bytes were queued on a connection.
pub fn note_queued() {
    QUEUED.fetch_add(1, Ordering::Relaxed);
}

/// Whether bytes may be queued on any connection.
pub fn any_queued() -> bool {
    QUEUED.load(Ordering::Relaxed) != NONE_AT.load(Ordering::Relaxed)
}

/// The connections with bytes to send, as many as there is memory for, and whether these are all of them.
pub fn queued(guard: &EntryGuard) -> (Vec<RawFd>, bool) {
    let (mut found, mut all) = (Vec::new(), true);
    if any_queued() {
        let before = QUEUED.load(Ordering::Relaxed);
        let mut any = false;
        table::for_each(guard, |fd, connection| {
            if connection.send_queue.is_empty() || !connection.turn.is_free() {
                return;
            }
            any = true;
            match found.try_reserve(1) {
                Ok(()) => found.push(fd),
                Err(_) => all = false,
            }
        });
        if !any {
            NONE_AT.store(before, Ordering::Relaxed);
        }
    }
    (found, all)
}

/// Whether a send with this error may succeed later: the kernel has no room or no memory for now.
pub fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS)
}

/// The error of a send that failed.
pub fn failed(errno: Errno) -> Error {
    Error::new(Code::IPC_ERROR_USOCK_SEND, errno)
}

/// The error of a frame whose connection cannot get the memory to keep its rest.
pub fn not_remembered(errno: Errno) -> Error {
    if errno == Errno::ENOMEM { refused(errno) } else { failed(errno) }
}

/// The error of a frame that found no room in the queue.
pub fn refused(errno: Errno) -> Error {
    match errno {
        Errno::ENOMEM => OutOfMemory.into(),
        errno => Error::new(Code::IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, errno),
    }
}

/// Sends what the kernel takes of `pieces`, and a descriptor with the first byte.
pub fn send(fd: RawFd, pieces: &[IoSlice<'_>], descriptor: Option<RawFd>) -> Result<usize, Errno> {
    match descriptor {
        Some(descriptor) => match send_with(fd, pieces, descriptor) {
            // The peer accepts no descriptors: the message is sent without.
            Err(Errno::EPERM) => socket::send_pieces(fd, pieces),
            result => result,
        },
        None => socket::send_pieces(fd, pieces),
    }
}

/// A frame may be sent in part, and its rest will not follow: so no other frame may follow, either. The
/// connection is shut down, and both sides see its end.
pub fn give_up(fd: RawFd, errno: Errno) {
    if !matches!(errno, Errno::EPIPE | Errno::EBADF) {
        socket::shut_down(fd);
    }
}

/// The result of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing is left.
    All,
    /// The kernel has no room; poll(2) reports when it has.
    Full,
    /// The kernel cannot send for another reason, and does not report when it can.
    Later,
}

/// Sends the queued bytes of the connection, as far as the kernel takes them. If the send fails for good, the
/// queue is dropped and the connection is shut down. EBUSY in the child of a fork that has left half a frame
/// to its parent.
pub fn flush_memory(connection: &mut Connection, fd: RawFd) -> Result<Flushed, Errno> {
    if connection.left_to_parent {
        return Err(Errno::EBUSY);
    }
    match connection.send_queue.flush(|pieces, descriptor| send(fd, pieces, descriptor)) {
        Ok(()) => Ok(Flushed::All),
        Err(Errno::EAGAIN) => Ok(Flushed::Full),
        Err(errno) if is_passing(errno) => Ok(Flushed::Later),
        Err(errno) => {
            connection.send_queue.clear();
            give_up(fd, errno);
            Err(errno)
        }
    }
}

/// The same for the connection of an entry.
pub fn flush_queue(slot: &mut Slot<'_>, fd: RawFd) -> Result<Flushed, Error> {
    let Some(connection) = slot.get() else { return Ok(Flushed::All) };
    flush_memory(connection, fd).map_err(|errno| {
        slot.remove_if_idle();
        failed(errno)
    })
}

/// The same for a connection whose number was verified; returns whether anything is still to be sent.
pub fn flush_verified(guard: &EntryGuard, fd: RawFd) -> bool {
    let mut slot = table::lock_unverified(guard, fd);
    if slot.get().is_some_and(|connection| connection.turn.is_free()) {
        let _ = flush_queue(&mut slot, fd);
        slot.remove_if_idle();
    }
    slot.get().is_some_and(|connection| connection.has_unsent())
}

/// The same for a number that is not verified yet. `Full` also if a thread has the turn; an error counts as
/// `All`, because another try would not help.
pub fn flush_connection(guard: &EntryGuard, fd: RawFd) -> Flushed {
    let mut slot = table::lock_verified(guard, fd);
    if slot.get().is_some_and(|connection| !connection.turn.is_free()) {
        return Flushed::Full;
    }
    let flushed = flush_queue(&mut slot, fd).unwrap_or(Flushed::All);
    slot.remove_if_idle();
    flushed
}

/// How many bytes are queued on the connection.
pub fn queued_bytes(guard: &EntryGuard, fd: RawFd) -> usize {
    table::lock_verified(guard, fd).get().map_or(0, |connection| connection.send_queue.len())
}

/// Whether bytes are queued on the connection.
pub fn is_queued(guard: &EntryGuard, fd: RawFd) -> bool {
    queued_bytes(guard, fd) > 0
}
