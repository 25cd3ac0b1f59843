//! Closing a connection.
//!
//! What is queued for it goes on leaving in the background, by a copy of the descriptor. Only if there is none to be had does
//! the call itself wait for the peer, for a while.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use crate::connection::background::{self, Begun};
use crate::connection::send::send;
use crate::connection::send_queue::SendQueue;
use crate::connection::stall::{LOOK, Stall};
use crate::connection::table;
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::loops;
use crate::kernel::deadline::milliseconds;
use crate::kernel::{ancillary, fd, socket};
use crate::process::entry_guard::Section;
use crate::service::endpoint;

/// How long a close waits for the peer if no descriptor is free, in milliseconds.
const WITHOUT_DESCRIPTOR: i64 = 1000;

/// Closes a descriptor. One that the library keeps, and the number of a connection whose end was just reported, is not the
/// program's to close: EBADF.
pub fn close_connection(section: &mut Section, fd: RawFd) -> Result<(), Error> {
    match background::take_over(section, fd) {
        Ok(Some(Begun::First)) => loops::background_began(section),
        Ok(_) => {}
        Err(queue) => send_now(section, fd, queue),
    }
    loops::closing(section, fd);
    let mut slot = table::lock(section, fd);
    if slot.get().is_some_and(|connection| !connection.turn.is_free()) {
        // A thread that is in the middle of a frame waits for the socket.
        socket::shut_down(fd);
    }
    let may_hold = slot.may_hold_descriptors();
    drop(slot);
    if may_hold {
        ancillary::disarm_unreceived(fd);
    }
    // The memory is dropped without the lock; a read that waits learns that the number is another one's from now on.
    let noted = table::note_closing(section, fd);
    drop(noted.map_err(|errno| Error::new(Code::IPC_ERROR_USOCK_CLOSE, errno))?);
    let closed = endpoint::close(fd);
    table::note_closed(section, fd);
    closed
}

/// Sends what the peer takes, for a while.
fn send_now(section: &mut Section, fd: RawFd, mut queue: SendQueue) {
    let (begun, mut stall) = (milliseconds(), Stall::begin(fd, &queue));
    loop {
        let flushed = queue.flush(|pieces, descriptor| send(fd, pieces, descriptor));
        let is_over = flushed != Err(Errno::EAGAIN) || stall.look(fd, &queue);
        if is_over || milliseconds() - begun >= WITHOUT_DESCRIPTOR {
            break;
        }
        let _ = section.outside(|| fd::wait(fd, PollFlags::POLLOUT, PollTimeout::from(LOOK as u16)));
    }
}
