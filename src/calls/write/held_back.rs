//! Holding back a writer whose connection has a full queue.
//!
//! As long as the peer takes bytes, and nothing else in the list waits to be served, the call waits until its frame has room:
//! so a program that only writes goes as fast as its reader, as it did when the socket itself blocked. If something else
//! waits to be served, the frame is queued beyond the limit instead, as long as all queues together are below theirs.
//!
//! The frame is refused, whole, once the peer has taken nothing for [`STALL_TIMEOUT`], after [`LONGEST`] in one call, and
//! at once if the peer has taken nothing since the last refusal.
//!
//! [`STALL_TIMEOUT`]: crate::connection::stall::STALL_TIMEOUT

#![forbid(unsafe_code)]

use nix::errno::Errno;

use super::{Phase, Write};
use crate::calls::flow::Flow;
use crate::calls::flush::has_queued;
use crate::connection::send::{failed, flush_queue, not_remembered, refused};
use crate::connection::send_queue::Room;
use crate::connection::stall::{Stall, held_for};
use crate::connection::table::{self, Slot};
use crate::error::Error;
use crate::event_loop::loops;
use crate::kernel::deadline::milliseconds;
use crate::kernel::wait::{PollSet, Wait};
use crate::process::entry_guard::Section;

/// How long one call is held back at most, in milliseconds.
const LONGEST: i64 = 10_000;

/// A call that is held back. Plain data.
#[derive(Clone, Copy)]
pub(super) struct HeldBack {
    since: i64,
    stall: Stall,
    /// The connection, and the others of the list.
    set: Option<PollSet>,
}

impl Write<'_> {
    /// Puts the frame behind what is queued. If there is no room for it, the call is held back, or fails.
    pub(super) fn queue_or_hold_back(
        &mut self,
        section: &Section,
        mut slot: Slot<'_>,
        wait: &mut Wait,
    ) -> Result<Flow<()>, Error> {
        let fd = self.fd;
        self.identity = slot.identity();
        let connection = slot.entry().map_err(not_remembered)?;
        if connection.left_to_parent {
            return Err(failed(Errno::EBUSY));
        }
        let queued = self.frame.queue(connection, connection.settings.room());
        match queued {
            Ok(()) => {
                drop(slot);
                has_queued(section, fd);
                return Ok(Flow::Done(()));
            }
            Err(Error { errno: Errno::EAGAIN, .. }) => {}
            Err(error) => return Err(error),
        }
        let has_taken_nothing = connection.outbound.refused_at.is_some_and(|before| held_for(fd) >= before);
        let is_for_bytes = self.frame.1.is_none() || connection.outbound.takes_descriptor();
        if connection.settings.queue.is_some() || has_taken_nothing || !is_for_bytes {
            return Err(refused(Errno::EAGAIN));
        }
        connection.turn.hold_back(true);
        let held_back =
            HeldBack { since: milliseconds(), stall: Stall::begin(fd, &connection.outbound), set: None };
        drop(slot);
        self.wait_for_room(section, held_back, wait)
    }

    /// Waits until the peer takes bytes, or something else is to be served.
    fn wait_for_room(
        &mut self,
        section: &Section,
        mut held_back: HeldBack,
        wait: &mut Wait,
    ) -> Result<Flow<()>, Error> {
        self.phase = Phase::HeldBack(held_back);
        let Some(list) = self.list else { return self.queue_beyond(section) };
        match loops::others(section, list, self.fd) {
            Some(set) => {
                set.wait(wait, held_back.stall.next_look());
                held_back.set = Some(set);
                self.phase = Phase::HeldBack(held_back);
                Ok(Flow::Wait)
            }
            None => self.queue_beyond(section),
        }
    }

    /// Something else in the list waits to be served.
    fn queue_beyond(&mut self, section: &Section) -> Result<Flow<()>, Error> {
        let mut slot = table::lock_known(section, self.fd);
        slot.check_identity(self.identity).map_err(failed)?;
        let connection = slot.get().ok_or(failed(Errno::EBADF))?;
        self.frame.queue(connection, Room::Shared).map(Flow::Done)
    }

    /// Sends what the kernel takes, and tries again.
    pub(super) fn go_on_held_back(&mut self, section: &Section, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let Phase::HeldBack(mut held_back) = self.phase else { return Ok(Flow::Done(())) };
        let fd = self.fd;
        let mut are_others_ready = false;
        held_back.set.take().into_iter().for_each(|set| set.finish(1, |_| are_others_ready = true));
        let mut slot = table::lock_known(section, fd);
        slot.check_identity(self.identity).map_err(failed)?;
        if slot.get().is_some_and(|connection| connection.turn.is_free()) {
            flush_queue(&mut slot, fd)?;
        }
        let connection = slot.get().ok_or(failed(Errno::EBADF))?;
        match self.frame.queue(connection, connection.settings.room()) {
            Err(Error { errno: Errno::EAGAIN, .. }) => {}
            result => return result.map(Flow::Done),
        }
        if are_others_ready {
            return self.frame.queue(connection, Room::Shared).map(Flow::Done);
        }
        if held_back.stall.look(fd, &connection.outbound) || milliseconds() - held_back.since >= LONGEST {
            connection.outbound.refused_at = Some(held_for(fd));
            return Err(refused(Errno::EAGAIN));
        }
        drop(slot);
        self.wait_for_room(section, held_back, wait)
    }
}
