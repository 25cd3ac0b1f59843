//! The fast path of a wait: a list of few connections, unchanged; one connection has a whole message. Every
//! other case returns `None` and is left to the steps, which find everything as it was, or received bytes in
//! the connection's memory.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::connection::frame_decoder::Frame;
use crate::event_loop::list::{Kind, List};
use crate::event_loop::list_loop::EventLoop;
use crate::event_loop::members::{Member, QUEUED, READABLE, SENDING, State, Token, VERIFIED, WRITABLE};
use crate::event_loop::receive::Quick;
use crate::event_loop::step::FdArray;
use crate::kernel::poller::Poller;
use crate::kernel::wait::{self, Wait};
use crate::process::entry_guard::EntryGuard;

/// What a ready member has delivered.
pub enum Served<O> {
    /// A message, and the value by which events name its connection.
    Message(O, Frame),
    /// Nothing, or a part of a message: the call waits.
    Part,
}

impl EventLoop {
    /// A call begins that asks for one event, and the list is unchanged. If members are still queued: the
    /// message of the next one. If nothing is left to report: `Part`.
    #[inline]
    pub fn begin_quickly<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        listener: Option<RawFd>,
    ) -> Option<Served<L::Origin>> {
        if !self.is_quick() || !self.seems_unchanged(list, listener) {
            return None;
        }
        self.reset_call(true, 1);
        if self.registry.turns.is_empty() {
            return Some(Served::Part);
        }
        let (origin, frame) = self.turn_quickly(guard, list)?;
        Some(Served::Message(origin, frame))
    }

    /// The message of the next queued member, for a further event of a call that reports many events: a
    /// member verified for this call is not verified again.
    pub fn more_quickly<L: List>(&mut self, guard: &EntryGuard, list: &L) -> Option<(L::Origin, Frame)> {
        if !self.is_quick() {
            return None;
        }
        self.is_batch = true;
        let slot = self.registry.turns.next()?;
        let message = self.turn_quickly(guard, list)?;
        self.note_verified(slot);
        Some(message)
    }

    /// The turn of the next member.
    fn turn_quickly<L: List>(&mut self, guard: &EntryGuard, list: &L) -> Option<(L::Origin, Frame)> {
        if self.registry.turns.is_over() && !self.ask_quickly() {
            return None;
        }
        let slot = self.registry.turns.next()?;
        let member = self.registry.members.get(slot).filter(|member| is_common(member))?;
        let origin = self.origin(list, member).filter(|_| member.has(READABLE))?;
        if !member.has(VERIFIED) && !self.registry.verify_member(slot, member) {
            return None;
        }
        let (token, fd) = (Token::of_member(slot, member), member.fd);
        let Quick::Frame(frame, has_more) = self.receive_quickly(guard, token, fd)? else {
            return None;
        };
        let _ = self.registry.turns.pop();
        if has_more {
            self.registry.turns.push(slot);
        } else if let Some(member) = self.registry.members.get_mut(slot) {
            member.take(QUEUED | READABLE);
        }
        Some((origin, frame))
    }

    /// [`Receiver::next_quickly`]. If a step has to go on, the member is queued: epoll does not report
    /// received bytes again.
    ///
    /// [`Receiver::next_quickly`]: crate::event_loop::receive::Receiver::next_quickly
    #[inline(never)]
    fn receive_quickly(&mut self, guard: &EntryGuard, token: Token, fd: RawFd) -> Option<Quick> {
        let received = self.receiver.next_quickly(guard, token, fd);
        if received.is_none() {
            self.registry.make_ready(token.slot, READABLE);
        }
        received
    }

    /// Asks the kernel which members are ready. Returns false if the kernel has reported anything else, which
    /// is left to a step.
    fn ask_quickly(&mut self) -> bool {
        if self.has_few_members() && self.tick() > 0 && self.ask_few() {
            return true;
        }
        // The program may have closed the set since it was used last.
        if self.registry.intact_poller().is_none() {
            return false;
        }
        let Ok(collected) = self.collect() else { return false };
        if collected.has_ticked {
            // The tick was reported once: the tick is scheduled anew, so that a step finds it.
            self.registry.poller_mut().into_iter().for_each(|poller| _ = poller.tick_in(0, false));
        }
        let is_all = !collected.has_ticked && !collected.is_stale;
        if !is_all {
            self.registry.turns.end_round();
        }
        is_all
    }

    /// Asks the few members themselves which of them are ready: that takes one system call, while the set has to
    /// be verified first. Returns false if poll(2) does not tell it of each.
    fn ask_few(&mut self) -> bool {
        let Some(fds) = self.few_members() else { return false };
        let mut ready = FdArray::NONE;
        if wait::visit_ready(fds.as_slice(), |fd| _ = ready.push(fd)).is_err() {
            return false;
        }
        for fd in ready.as_slice() {
            self.slot_of(*fd).into_iter().for_each(|slot| self.registry.make_ready(slot, READABLE));
        }
        self.registry.turns.begin_round();
        true
    }

    /// Whether nothing is to be reported but messages of members.
    fn is_quick(&self) -> bool {
        self.ended.is_none()
            && !self.registry.has_event_fd()
            && !self.registry.turns.has_ends()
            && self.registry.poller_unchecked().is_some()
    }

    /// The value by which events name the member, if its entry is unchanged.
    fn origin<L: List>(&self, list: &L, member: &Member) -> Option<L::Origin> {
        let (entry, origin) = list.at(member.index())?;
        member.is(entry).then_some(origin)
    }

    /// This descriptor is the only one that the wait has found ready: the message of its connection.
    pub fn serve_quickly<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        ready: RawFd,
        is_blocked: bool,
    ) -> Option<Served<L::Origin>> {
        let is_due = self.registry.poller_unchecked().is_some_and(Poller::is_tick_due);
        if !self.is_quick() || is_due || !self.registry.turns.is_empty() {
            return None;
        }
        self.note_blocked(is_blocked);
        if !self.has_few_members() {
            return self
                .serve_set_quickly(guard, list, ready)
                .map(|(origin, frame)| Served::Message(origin, frame));
        }
        let is_served = |member: &Member| member.fd == ready && is_common(member);
        let (slot, member) = self.registry.members.slots().find(|(_, member)| is_served(member))?;
        let token = Token::of_member(slot, member);
        let origin = self.origin(list, member).filter(|_| self.is_verified(slot, member))?;
        let served = match self.receive_quickly(guard, token, ready)? {
            Quick::Frame(frame, false) => Served::Message(origin, frame),
            Quick::Frame(frame, true) => {
                self.registry.make_ready(slot, READABLE);
                Served::Message(origin, frame)
            }
            Quick::Part => Served::Part,
        };
        self.is_waiting = false;
        Some(served)
    }

    /// Prepares the wait for the members, which lasts as long as the call may wait. Returns false if anything
    /// else has to be waited for.
    #[inline(always)]
    pub fn wait_quickly<L: List>(&mut self, list: &L, wait: &mut Wait, timeout: i32) -> bool {
        let mut few = wait.few();
        let is_alone = self.members_alone(list, |fd| few.push(fd, libc::POLLIN));
        if is_alone {
            few.poll(timeout);
        }
        is_alone
    }

    /// The same if the ready descriptor is the set.
    fn serve_set_quickly<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        ready: RawFd,
    ) -> Option<(L::Origin, Frame)> {
        self.registry.poller_unchecked().filter(|poller| poller.fd() == ready)?;
        if !self.ask_quickly() {
            return None;
        }
        self.is_waiting = false;
        self.clear_verified();
        self.turn_quickly(guard, list)
    }

    /// Whether the member's number still is the file that was registered; not checked again while nothing can
    /// change that.
    #[inline(always)]
    pub(super) fn is_verified(&self, slot: u32, member: &Member) -> bool {
        self.is_undisturbed && member.has(VERIFIED) || self.registry.verify_member(slot, member)
    }
}

/// Whether the member is a connection in state `Open` with nothing to be sent.
fn is_common(member: &Member) -> bool {
    member.state == State::Open
        && member.kind == Kind::Connection
        && !member.has(SENDING)
        && !member.has(WRITABLE)
}
