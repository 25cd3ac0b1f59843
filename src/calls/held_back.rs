//! Holding back a writer whose connection has a full queue.
//!
//! As long as the peer receives, and no other member of the list is ready, the call waits until its frame has
//! room: so a program that only writes runs at the speed of its reader, as it did with a blocking socket. If
//! another member is ready, the frame is queued beyond the limit instead, as long as all queues of the
//! process together are below their common limit.
//!
//! The frame is refused, whole, when the peer has received nothing for [`STALL_TIMEOUT`], after [`LONGEST`]
//! in one call, and at once if the peer has received nothing since the last refusal.
//!
//! [`STALL_TIMEOUT`]: crate::connection::stall::STALL_TIMEOUT

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::calls::flow::Flow;
use crate::calls::outgoing::Outgoing;
use crate::connection::send::{failed, flush_queue, refused};
use crate::connection::send_queue::Room;
use crate::connection::stall::{Stall, held_for};
use crate::connection::state::Connection;
use crate::connection::table::{self, Identity, Slot};
use crate::error::Error;
use crate::event_loop::loops;
use crate::kernel::deadline::milliseconds;
use crate::kernel::wait::{PollSet, Wait};
use crate::process::entry_guard::EntryGuard;

/// How long one call is held back at most, in milliseconds.
const LONGEST: i64 = 10_000;

/// A call that is held back. Plain data.
#[derive(Clone, Copy)]
pub struct HeldBack {
    fd: RawFd,
    list: Option<usize>,
    /// Which connection the call began with.
    identity: Identity,
    since: i64,
    stall: Stall,
    /// What is polled: the connection, and the other members of the list.
    set: Option<PollSet>,
}

/// What happened to a frame without room in the queue.
pub enum Held {
    /// The frame is queued beyond the limit.
    Queued,
    /// The call is held back.
    Back(HeldBack),
}

impl HeldBack {
    /// The connection's queue has no room for the frame: says what to wait for, or queues the frame beyond
    /// the limit, or refuses it with EAGAIN.
    pub fn begin(
        guard: &EntryGuard,
        mut slot: Slot<'_>,
        fd: RawFd,
        list: Option<usize>,
        frame: Outgoing<'_>,
        wait: &mut Wait,
    ) -> Result<Held, Error> {
        let identity = slot.identity();
        let connection = slot.get().ok_or(failed(Errno::EBADF))?;
        let has_taken_nothing = connection.send_queue.refused_at.is_some_and(|before| held_for(fd) >= before);
        let has_own_limit = connection.settings.queue.is_some();
        if has_own_limit || has_taken_nothing || frame.is_refused_for_its_descriptor(connection) {
            return Err(refused(Errno::EAGAIN));
        }
        connection.turn.hold_back(true);
        let stall = Stall::begin(fd, &connection.send_queue);
        drop(slot);
        let mut held_back = Self { fd, list, identity, since: milliseconds(), stall, set: None };
        match held_back.wait_for_room(guard, frame, wait) {
            Ok(Flow::Wait) => Ok(Held::Back(held_back)),
            result => {
                held_back.end(&mut table::lock_unverified(guard, fd));
                result.map(|_| Held::Queued)
            }
        }
    }

    /// Waits until the connection takes bytes or another member is ready; queues the frame if another member
    /// is ready already.
    fn wait_for_room(
        &mut self,
        guard: &EntryGuard,
        frame: Outgoing<'_>,
        wait: &mut Wait,
    ) -> Result<Flow<()>, Error> {
        if let Some(set) = self.list.and_then(|list| loops::others(guard, list, self.fd)) {
            set.prepare(wait, self.stall.next_look());
            self.set = Some(set);
            return Ok(Flow::Wait);
        }
        let mut slot = table::lock_unverified(guard, self.fd);
        frame.queue(self.connection(&mut slot)?, Room::Shared).map(Flow::Done)
    }

    /// The connection, if it still is the one that the call began with; otherwise EBADF.
    fn connection<'s>(&self, slot: &'s mut Slot<'_>) -> Result<&'s mut Connection, Error> {
        slot.check_identity(self.identity).map_err(failed)?;
        slot.get().ok_or(failed(Errno::EBADF))
    }

    /// The wait is over: sends what the kernel takes, and tries again to queue the frame.
    pub fn go_on(
        &mut self,
        guard: &EntryGuard,
        frame: Outgoing<'_>,
        wait: &mut Wait,
    ) -> Result<Flow<()>, Error> {
        let mut are_others_ready = false;
        self.set.take().into_iter().for_each(|set| set.finish(1, |_| are_others_ready = true));
        let mut slot = table::lock_unverified(guard, self.fd);
        if self.connection(&mut slot)?.turn.is_free() {
            flush_queue(&mut slot, self.fd)?;
        }
        let connection = slot.get().ok_or(failed(Errno::EBADF))?;
        match frame.queue(connection, connection.settings.room()) {
            Err(Error { errno: Errno::EAGAIN, .. }) => {}
            result => return result.map(Flow::Done),
        }
        if are_others_ready {
            return frame.queue(connection, Room::Shared).map(Flow::Done);
        }
        if self.stall.look(self.fd, &connection.send_queue) || milliseconds() - self.since >= LONGEST {
            connection.send_queue.refused_at = Some(held_for(self.fd));
            return Err(refused(Errno::EAGAIN));
        }
        drop(slot);
        self.wait_for_room(guard, frame, wait)
    }

    /// The call is no longer held back. Returns whether the connection still is the one that the call began
    /// with.
    pub fn end(&self, slot: &mut Slot<'_>) -> bool {
        self.connection(slot).map(|connection| connection.turn.hold_back(false)).is_ok()
    }
}
