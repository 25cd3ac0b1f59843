//! Writing one frame, and before it the frames that are queued on its connection.
//!
//! A frame is sent by one sendmsg(2) of header and payload, without a copy. What the kernel does not take at
//! once depends on the connection:
//!
//! * in no list: the call waits until the kernel has taken the whole frame;
//! * in a list: the call waits a little for a peer that keeps up, as long as the list has time for that
//!   ([`Allowance`]). Then the rest is queued in the connection's memory and sent by later calls. If the
//!   queue is full, the call is held back as long as the peer receives (`held_back.rs`). If there is no
//!   memory for the rest of a frame sent in part, the call waits as long as the peer receives, and then shuts
//!   the connection down.
//!
//! While a frame is sent in parts, its thread has the connection's [`SendTurn`]: no other thread's bytes come
//! between the parts. If the thread is cancelled then, the rest of the frame goes into the queue
//! ([`Write::abandon`]).
//!
//! [`Allowance`]: crate::event_loop::allowance::Allowance
//! [`SendTurn`]: crate::connection::send_turn::SendTurn

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::calls::flow::Flow;
use crate::calls::flush::{Flush, MEMORY_PAUSE, send_later};
use crate::calls::held_back::{Held, HeldBack};
use crate::calls::outgoing::Outgoing;
use crate::connection::send::{Flushed, failed, flush_queue, give_up, is_passing, not_remembered};
use crate::connection::stall::Stall;
use crate::connection::state::Connection;
use crate::connection::table::{self, Identity, Locked, Slot};
use crate::error::Error;
use crate::event_loop::loops;
use crate::kernel::deadline::{Deadline, now};
use crate::kernel::fd;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::{EntryGuard, Thread};

/// What the call does next, and whether it has the turn. Private to this file.
#[derive(Clone, Copy)]
enum Phase {
    /// Not begun, or about to end without the turn.
    New,
    /// Has the turn; a part of its frame is sent.
    Begun,
    /// Waits for the turn.
    AwaitsTurn,
    /// Has the turn; waits until the kernel takes more.
    AwaitsRoom,
    /// Has the turn; waits a little, until the kernel has memory.
    AwaitsMemory,
    /// Waits for room in the queue.
    HeldBack(HeldBack),
    /// The frame is sent; frames that a signal handler has queued meanwhile are sent now.
    After(Flush),
}

/// A write, between its steps. Plain data.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    fd: RawFd,
    frame: Outgoing<'a>,
    sent: usize,
    phase: Phase,
    /// The list that had the connection when the call began.
    list: Option<usize>,
    /// Which connection it is, while the call waits without the turn.
    identity: Identity,
    /// When the call began to wait for the peer, in microseconds.
    waits_since: i64,
    /// Whether the peer receives, since the rest of the frame was to be queued and there was no memory.
    stall: Option<Stall>,
}

impl<'a> Write<'a> {
    /// A write of this frame: no other thread's bytes come between its bytes.
    pub fn new(fd: RawFd, frame: Outgoing<'a>) -> Self {
        Self {
            fd,
            frame,
            sent: 0,
            phase: Phase::New,
            list: None,
            identity: Identity::default(),
            waits_since: 0,
            stall: None,
        }
    }

    /// The fast path: sends the frame if nothing is sent before it and the kernel takes all of it. None
    /// otherwise: then the steps follow. If the kernel has taken a part, `begun` is the write to go on with,
    /// and has the turn.
    #[inline(always)]
    pub fn at_once(
        guard: &EntryGuard,
        fd: RawFd,
        frame: Outgoing<'a>,
        begun: &mut Option<Self>,
    ) -> Option<Result<(), Error>> {
        let mut slot = table::lock(guard, fd);
        if frame.len() == 0 || frame.has_descriptor() || !slot.can_send_at_once() {
            return None;
        }
        match frame.send(fd) {
            Ok(sent) if sent == frame.len() => {
                slot.count_sent();
                Some(Ok(()))
            }
            sent => Self::not_at_once(guard, slot, fd, frame, sent, begun),
        }
    }

    /// The kernel has taken a part of the frame, or nothing.
    #[cold]
    #[inline(never)]
    fn not_at_once(
        guard: &EntryGuard,
        slot: Locked<'_>,
        fd: RawFd,
        frame: Outgoing<'a>,
        sent: Result<usize, Errno>,
        begun: &mut Option<Self>,
    ) -> Option<Result<(), Error>> {
        let sent = match sent {
            Ok(sent) => sent,
            Err(Errno::EAGAIN) => return None,
            Err(errno) => return Some(Err(failed(errno))),
        };
        let mut slot = Slot::from(slot);
        slot.note_verified();
        let mut write = Self::new(fd, frame);
        (write.sent, write.list, write.phase) = (sent, slot.list(), Phase::Begun);
        match slot.connection() {
            Ok(connection) => connection.turn.take(guard.thread()),
            Err(errno) => {
                // The rest cannot be kept, so no other frame may follow.
                give_up(fd, errno);
                return Some(Err(not_remembered(errno)));
            }
        }
        *begun = Some(write);
        None
    }

    /// The next step. `wait` has the result of the last wait, if there was one, and gets the next one.
    pub fn step(&mut self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let next = match &mut self.phase {
            // The frame itself is sent: errors of later frames are not this call's.
            Phase::After(flush) => return Ok(flush.go_on(guard, wait).unwrap_or(Flow::Done(()))),
            Phase::New => self.begin(guard, wait),
            Phase::Begun => self.wait_or_queue(guard, wait),
            Phase::AwaitsTurn => self.begin_with_turn(guard, wait),
            Phase::AwaitsRoom | Phase::AwaitsMemory => self.go_on(guard, wait),
            Phase::HeldBack(held_back) => held_back.go_on(guard, self.frame, wait),
        };
        let result = match next {
            Ok(Flow::Wait) => return Ok(Flow::Wait),
            Ok(Flow::Done(())) => Ok(()),
            Err(error) => Err(error),
        };
        if let Some(Error { errno, .. }) = result.as_ref().err().filter(|_| self.sent > 0) {
            give_up(self.fd, *errno);
        }
        if self.leave(guard) && result.is_ok() && self.list.is_none() {
            // A signal handler has queued a frame after this one, and no list sends that frame.
            let mut flush = Flush::new(self.fd, Deadline::NONE);
            if let Ok(Flow::Wait) = flush.begin(guard, wait) {
                self.phase = Phase::After(flush);
                return Ok(Flow::Wait);
            }
        }
        result.map(Flow::Done)
    }

    /// The first step: sends the frame, if nothing is sent before it.
    fn begin(&mut self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let (fd, frame) = (self.fd, self.frame);
        if frame.len() == 0 {
            return fd::check_usable(fd).map_err(failed).map(Flow::Done);
        }
        let mut slot = table::lock_unverified(guard, fd);
        slot.verify().map_err(failed)?;
        self.list = slot.list();
        let identity = slot.identity();
        let mut may_have_queue = false;
        if let Some(connection) = slot.get().filter(|connection| !connection.may_send()) {
            let thread = guard.thread();
            if connection.turn.has(thread) {
                // A signal handler has interrupted a write to the same connection: its frame is queued.
                return frame.queue(connection, connection.settings.room()).map(Flow::Done);
            }
            if !connection.turn.is_free() {
                if self.list.is_some() {
                    return self.queue_or_hold_back(guard, slot, wait);
                }
                connection.turn.enqueue(thread, wait.turn())?;
                (self.phase, self.identity) = (Phase::AwaitsTurn, identity);
                return Ok(Flow::Wait);
            }
            may_have_queue = true;
        }
        self.send(guard, slot, may_have_queue, wait)
    }

    /// The thread was woken: it has the turn, or the connection is closed.
    fn begin_with_turn(&mut self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let thread = guard.thread();
        let mut slot = table::lock_unverified(guard, self.fd);
        slot.check_identity(self.identity).map_err(failed)?;
        let connection = slot.get().ok_or(failed(Errno::EBADF))?;
        if !connection.turn.is_held_by(thread) {
            if connection.turn.has(thread) {
                // A signal handler has ended the wait; the waker is still registered.
                return Ok(Flow::Wait);
            }
            return Err(failed(Errno::EBADF));
        }
        self.phase = Phase::AwaitsRoom;
        self.send(guard, slot, true, wait)
    }

    /// Sends the queued bytes, then the frame. If the kernel does not take all of it, says what to wait for.
    /// Done when the frame is sent or queued.
    fn send(
        &mut self,
        guard: &EntryGuard,
        mut slot: Slot<'_>,
        may_have_queue: bool,
        wait: &mut Wait,
    ) -> Result<Flow<()>, Error> {
        let (fd, frame) = (self.fd, self.frame);
        let mut flushed = Flushed::All;
        if may_have_queue {
            flushed = flush_queue(&mut slot, fd)?;
            slot.remove_if_idle();
        }
        if flushed == Flushed::All {
            slot.reserve().map_err(not_remembered)?;
            match frame.send(fd) {
                Ok(count) if count == frame.len() => {
                    drop(slot);
                    if may_have_queue {
                        loops::note_sent(guard, fd);
                    }
                    return Ok(Flow::Done(()));
                }
                Ok(count) => self.sent = count,
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(failed(errno)),
            }
        } else if self.list.is_some() {
            return self.queue_or_hold_back(guard, slot, wait);
        }
        let connection = slot.connection().map_err(not_remembered)?;
        connection.turn.take(guard.thread());
        drop(slot);
        self.wait_or_queue(guard, wait)
    }

    /// Waits until the kernel takes more, or queues the rest. The call has the turn.
    fn wait_or_queue(&mut self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<()>, Error> {
        if self.wait_for_peer(guard, wait) {
            return Ok(Flow::Wait);
        }
        self.queue_rest(guard, wait)
    }

    /// Begins to wait until the kernel takes more; returns false if the list has no time for that.
    fn wait_for_peer(&mut self, guard: &EntryGuard, wait: &mut Wait) -> bool {
        self.phase = Phase::AwaitsRoom;
        let timeout = self.list.map_or(-1, |list| loops::allowance(guard, list));
        if timeout == 0 {
            return false;
        }
        if self.list.is_some() {
            self.waits_since = now();
        }
        wait.poll(self.fd, libc::POLLOUT, timeout);
        true
    }

    fn wait_for_memory(&mut self, wait: &mut Wait) -> Flow<()> {
        self.phase = Phase::AwaitsMemory;
        wait.pause(MEMORY_PAUSE.into());
        Flow::Wait
    }

    /// The connection, as long as this call has its turn; EBADF if a signal handler or another thread has
    /// closed it.
    fn own_turn<'s>(slot: &'s mut Slot<'_>, thread: Thread) -> Result<&'s mut Connection, Error> {
        slot.get().filter(|connection| connection.turn.is_held_by(thread)).ok_or(failed(Errno::EBADF))
    }

    /// Adds the frame to the queue. If there is no room, the call is held back, or fails. The call must not
    /// have the turn: a call that is held back would keep it.
    fn queue_or_hold_back(
        &mut self,
        guard: &EntryGuard,
        mut slot: Slot<'_>,
        wait: &mut Wait,
    ) -> Result<Flow<()>, Error> {
        let connection = slot.connection().map_err(not_remembered)?;
        if connection.left_to_parent {
            return Err(failed(Errno::EBUSY));
        }
        match self.frame.queue(connection, connection.settings.room()) {
            Ok(()) => {
                drop(slot);
                send_later(guard, self.fd);
                Ok(Flow::Done(()))
            }
            Err(Error { errno: Errno::EAGAIN, .. }) => {
                match HeldBack::begin(guard, slot, self.fd, self.list, self.frame, wait)? {
                    Held::Queued => Ok(Flow::Done(())),
                    Held::Back(held_back) => {
                        self.phase = Phase::HeldBack(held_back);
                        Ok(Flow::Wait)
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Sends what the kernel takes now; then waits again, or queues the rest.
    fn go_on(&mut self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let fd = self.fd;
        let mut must_not_send = false;
        if let Phase::AwaitsRoom = self.phase {
            let ready = wait.events();
            must_not_send = match ready {
                Ok(0) | Err(Errno::EINTR | Errno::ENOMEM | Errno::EAGAIN) => true,
                Ok(_) => false,
                Err(errno) => return Err(failed(errno)),
            };
            if let Some(list) = self.list {
                loops::note_waited(guard, list, self.waits_since, !must_not_send);
            } else if ready.is_err_and(is_passing) {
                return Ok(self.wait_for_memory(wait));
            }
        }
        // The number may be another socket's by now.
        let mut slot = table::lock_verified(guard, fd);
        let connection = Self::own_turn(&mut slot, guard.thread())?;
        // Before the first byte of this frame, all queued frames are sent, also those of a signal handler.
        // After it, queued frames wait for its end.
        if self.sent == 0 && !connection.send_queue.is_empty() {
            match flush_queue(&mut slot, fd)? {
                Flushed::All => {}
                Flushed::Full => must_not_send = true,
                Flushed::Later if self.list.is_some() => must_not_send = true,
                Flushed::Later => return Ok(self.wait_for_memory(wait)),
            }
        }
        if !must_not_send {
            match self.frame.after(self.sent).send(fd) {
                Ok(count) => {
                    self.sent += count;
                    self.stall = None;
                }
                Err(Errno::EAGAIN) => {}
                // A part is sent: the rest has to follow, once the kernel has memory again.
                Err(errno) if self.sent > 0 && is_passing(errno) => {
                    if self.list.is_none() {
                        return Ok(self.wait_for_memory(wait));
                    }
                    must_not_send = true;
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
        drop(slot);
        if self.sent == self.frame.len() {
            return Ok(Flow::Done(()));
        }
        if must_not_send && self.list.is_some() {
            return self.queue_rest(guard, wait);
        }
        self.wait_or_queue(guard, wait)
    }

    /// Puts the rest of the frame before the queue. If no byte is sent yet, passes the turn on and queues the
    /// whole frame, or is held back. The call has the turn.
    fn queue_rest(&mut self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let mut slot = table::lock_unverified(guard, self.fd);
        let connection = Self::own_turn(&mut slot, guard.thread())?;
        if self.sent == 0 {
            connection.turn.pass();
            self.phase = Phase::New;
            return self.queue_or_hold_back(guard, slot, wait);
        }
        match self.frame.after(self.sent).prepend(connection) {
            Ok(()) => Ok(Flow::Done(())),
            // Rather than lose the rest, the call waits for memory, or for the peer as long as it receives.
            Err(errno) => {
                let queue = &connection.send_queue;
                let stall = self.stall.get_or_insert_with(|| Stall::begin(self.fd, queue));
                if stall.look(self.fd, queue) {
                    return Err(not_remembered(errno));
                }
                Ok(self.wait_for_memory(wait))
            }
        }
    }

    /// The call is about to end: passes on its turn, if it has it, and has queued bytes sent by later calls.
    /// Returns whether bytes are queued.
    fn leave(&mut self, guard: &EntryGuard) -> bool {
        let phase = std::mem::replace(&mut self.phase, Phase::New);
        if let Phase::New | Phase::After(_) = phase {
            return false;
        }
        let mut slot = table::lock_unverified(guard, self.fd);
        let is_same_connection = match phase {
            Phase::HeldBack(held_back) => held_back.end(&mut slot),
            Phase::AwaitsTurn if slot.check_identity(self.identity).is_err() => false,
            _ => slot.get().map(|connection| connection.turn.leave(guard.thread())).is_some(),
        };
        if !is_same_connection {
            return false;
        }
        let is_queued = slot.get().is_some_and(|connection| !connection.send_queue.is_empty());
        slot.remove_if_idle();
        drop(slot);
        if is_queued {
            send_later(guard, self.fd);
        } else {
            // If the peer sends no more, the report of the end may have waited for this call.
            loops::note_sent(guard, self.fd);
        }
        is_queued
    }

    /// The thread of this write ends while it waits. The rest of a frame sent in part goes to the front of
    /// the queue; a frame that has not begun is not sent.
    pub fn abandon(&mut self, guard: &EntryGuard) {
        if self.sent > 0 && matches!(self.phase, Phase::AwaitsRoom | Phase::AwaitsMemory) {
            let mut slot = table::lock_verified(guard, self.fd);
            let Ok(connection) = Self::own_turn(&mut slot, guard.thread()) else { return };
            if self.frame.after(self.sent).prepend(connection).is_err() {
                give_up(self.fd, Errno::ENOMEM);
            }
        }
        self.leave(guard);
    }
}
