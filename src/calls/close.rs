//! Closing a connection.
//!
//! First the table forgets the connection, so that no other call sends to the socket. Then the queued bytes
//! are sent in the background, by a copy of the descriptor. If there is no descriptor or no memory for the
//! copy, `ipc_close` waits for the peer itself, for a limited time. `ipc_end`, which never waits, fails
//! without memory, before anything is done, and loses the queued bytes without a descriptor. If another
//! thread is in the middle of a frame, the connection is shut down, and the queued bytes are lost.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use crate::connection::background::{self, Begun, RestRoom};
use crate::connection::send::send;
use crate::connection::send_queue::SendQueue;
use crate::connection::stall::{LOOK, Stall};
use crate::connection::table::{self, Memory};
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::loops;
use crate::kernel::deadline::{Deadline, milliseconds};
use crate::kernel::{ancillary, fd, internal_fds, socket};
use crate::process::entry_guard::EntryGuard;
use crate::service::endpoint;

/// How long a close waits for the peer if no descriptor is free, in milliseconds.
const FOREGROUND_SEND_MS: i64 = 1000;

/// Closes a descriptor. EBADF for a descriptor that the library keeps, and for the number of a connection
/// whose end was just reported: these are not the program's to close.
pub fn close_connection(guard: &mut EntryGuard, fd: RawFd) -> Result<(), Error> {
    loops::note_closing(guard, fd);
    let memory = begin_close(guard, fd).map_err(|errno| Error::new(Code::IPC_ERROR_USOCK_CLOSE, errno))?;
    let queue = leave_in_background(guard, fd, memory, Deadline::NONE, None);
    queue.into_iter().for_each(|queue| send_now(guard, fd, queue));
    let closed = endpoint::close(fd);
    table::note_closed(guard, fd);
    closed
}

/// Ends a connection of the list at this address. Its queued bytes may be sent until `linger`; with `None`
/// they are dropped.
///
/// The peer reads end of file after the last byte that is sent; the number is not used again before the end
/// was reported. ENOENT if the list does not have the connection, or the connection has ended; EBADF if
/// another call is closing it; ENOMEM.
pub fn end_member(
    guard: &mut EntryGuard,
    list: usize,
    fd: RawFd,
    linger: Option<Deadline>,
) -> Result<(), Errno> {
    let reserve = |until| RestRoom::reserve(guard).map(|room| (until, room));
    let linger = linger.map(reserve).transpose().map_err(|_| Errno::ENOMEM)?;
    let token = loops::mark_ended(guard, list, fd).map_err(|_| Errno::ENOMEM)?.ok_or(Errno::ENOENT)?;
    let memory = begin_close(guard, fd)?;
    if let Some((until, room)) = linger {
        drop(leave_in_background(guard, fd, memory, until, Some(room)));
    }
    let held = internal_fds::close_and_hold(fd);
    table::note_closed(guard, fd);
    loops::hold_member(guard, list, token, held);
    Ok(())
}

/// From now on no other call sends to the socket or closes it. Returns the connection's memory.
fn begin_close(guard: &EntryGuard, fd: RawFd) -> Result<Option<Memory>, Errno> {
    background::stop_background(guard, fd);
    if table::lock_verified(guard, fd).may_hold_descriptors() {
        ancillary::disarm_unreceived(fd);
    }
    // A read that waits finds by the counter that the number was closed.
    let memory = table::note_closing(guard, fd)?;
    if memory.as_deref().is_some_and(|[connection]| !connection.turn.is_free()) {
        // A thread that is in the middle of a frame waits for the socket: this wakes it.
        socket::shut_down(fd);
    }
    Ok(memory)
}

/// Has the queued bytes of the connection sent in the background, with the memory that was reserved for that,
/// if any; returns the queue if it is not possible.
fn leave_in_background(
    guard: &EntryGuard,
    fd: RawFd,
    memory: Option<Memory>,
    deadline: Deadline,
    room: Option<RestRoom>,
) -> Option<SendQueue> {
    let [connection] = &mut *memory?;
    match background::take_over(guard, fd, connection, deadline, room) {
        Ok(begun) => {
            if begun == Some(Begun::First) {
                loops::note_background_began(guard);
            }
            None
        }
        Err(queue) => Some(queue),
    }
}

/// Sends the queue for a limited time, as far as the peer receives.
fn send_now(guard: &mut EntryGuard, fd: RawFd, mut queue: SendQueue) {
    let (begun, mut stall) = (milliseconds(), Stall::begin(fd, &queue));
    loop {
        let flushed = queue.flush(|pieces, descriptor| send(fd, pieces, descriptor));
        let is_over = flushed != Err(Errno::EAGAIN) || stall.look(fd, &queue);
        if is_over || milliseconds() - begun >= FOREGROUND_SEND_MS {
            break;
        }
        let _ = guard.outside(|| fd::poll_one(fd, PollFlags::POLLOUT, PollTimeout::from(LOOK as u16)));
    }
}
