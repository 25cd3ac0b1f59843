//! Sending what is queued on one connection, as far as the kernel takes it. Nothing here waits.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::table::{self, Slot};
use crate::error::{Error, ipc_errors as Code};
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::ancillary::send_with;
use crate::kernel::socket;
use crate::process::entry_guard::EntryGuard;
use crate::process::sync::{AtomicUsize, Ordering};

/// How often bytes were queued on any connection, and how often they had been when a look last found none: threads that look
/// at the same time hide nothing from each other.
static QUEUED: AtomicUsize = AtomicUsize::new(0);
static NONE_AT: AtomicUsize = AtomicUsize::new(0);

/// Bytes are queued on a connection.
pub fn note_queued() {
    QUEUED.fetch_add(1, Ordering::Relaxed);
}

/// Whether bytes may be queued on any connection.
pub fn any_queued() -> bool {
    QUEUED.load(Ordering::Relaxed) != NONE_AT.load(Ordering::Relaxed)
}

/// The connections with bytes to send, as many as there is memory for, and whether these are all.
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

/// Whether a send that failed so may succeed later: the kernel has no room or no memory for now.
pub fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS)
}

/// A send that failed.
pub fn failed(errno: Errno) -> Error {
    Error::new(Code::IPC_ERROR_USOCK_SEND, errno)
}

/// Nothing can be kept for the connection.
pub fn not_remembered(errno: Errno) -> Error {
    if errno == Errno::ENOMEM { refused(errno) } else { failed(errno) }
}

/// No room for a frame.
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
            // The peer wants no descriptors: the message goes alone.
            Err(Errno::EPERM) => socket::send_pieces(fd, pieces),
            result => result,
        },
        None => socket::send_pieces(fd, pieces),
    }
}

/// Half of a frame may be sent, and the rest will not follow: no other may, either. Both sides learn of it.
pub fn give_up(fd: RawFd, errno: Errno) {
    if !matches!(errno, Errno::EPIPE | Errno::EBADF) {
        socket::shut_down(fd);
    }
}

/// What has become of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing is left.
    All,
    /// The kernel has no room; poll(2) tells when it has.
    Full,
    /// The kernel cannot send for another reason, which passes without its telling.
    Later,
}

/// Sends what is queued for the connection, as far as the kernel takes it.
pub fn flush_queue(slot: &mut Slot<'_>, fd: RawFd) -> Result<Flushed, Error> {
    let Some(connection) = slot.get() else { return Ok(Flushed::All) };
    if connection.left_to_parent {
        return Err(failed(Errno::EBUSY));
    }
    match connection.send_queue.flush(|pieces, descriptor| send(fd, pieces, descriptor)) {
        Ok(()) => Ok(Flushed::All),
        Err(Errno::EAGAIN) => Ok(Flushed::Full),
        Err(errno) if is_passing(errno) => Ok(Flushed::Later),
        Err(errno) => {
            connection.send_queue.clear();
            slot.remove_if_idle();
            give_up(fd, errno);
            Err(failed(errno))
        }
    }
}

/// The same for a connection whose number was verified; whether anything is yet to be sent to it.
pub fn flush_verified(guard: &EntryGuard, fd: RawFd) -> bool {
    let mut slot = table::lock_unverified(guard, fd);
    if slot.get().is_some_and(|connection| connection.turn.is_free()) {
        let _ = flush_queue(&mut slot, fd);
        slot.remove_if_idle();
    }
    slot.get().is_some_and(|connection| connection.has_unsent())
}

/// Sends what is queued for the connection, as far as the kernel takes it now.
pub fn flush_connection(guard: &EntryGuard, fd: RawFd) -> Flushed {
    let mut slot = table::lock_verified(guard, fd);
    if slot.get().is_some_and(|connection| !connection.turn.is_free()) {
        return Flushed::Full;
    }
    let flushed = flush_queue(&mut slot, fd).unwrap_or(Flushed::All);
    slot.remove_if_idle();
    flushed
}

/// How many bytes wait to be sent on the connection.
pub fn queued_bytes(guard: &EntryGuard, fd: RawFd) -> usize {
    table::lock_verified(guard, fd).get().map_or(0, |connection| connection.send_queue.len())
}

/// Whether bytes wait to be sent on the connection.
pub fn is_queued(guard: &EntryGuard, fd: RawFd) -> bool {
    queued_bytes(guard, fd) > 0
}
