//! One member's turn: locate and verify the member, then receive, send or report, depending on its state and
//! kind.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::frame_decoder::Frame;
use crate::connection::send::{self, Flushed};
use crate::connection::{background, table};
use crate::error::Error;
use crate::event_loop::extra::{self, Read, Source};
use crate::event_loop::list::{Event, Kind, List, What};
use crate::event_loop::list_loop::{Ended, EventLoop};
use crate::event_loop::members::{
    ALWAYS_READY, LISTENER, Member, READABLE, Reason, SENDING, State, Token, VERIFIED, WRITABLE,
};
use crate::event_loop::receive::Received;
use crate::event_loop::registry::failed;
use crate::event_loop::step::Step;
use crate::frame::c_heap::{Block, OutOfMemory};
use crate::frame::header::{TYPE_DATA, TYPE_SIGNAL, TYPE_TIMER};
use crate::kernel::deadline::Deadline;
use crate::process::entry_guard::EntryGuard;

impl EventLoop {
    /// The member and its entry, after all changes of the program; `None` if the member is no longer in the
    /// list.
    pub(super) fn locate<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        token: Token,
    ) -> Result<Option<(Member, L::Origin)>, Error> {
        let Some(member) = self.registry.members.find(token).copied() else { return Ok(None) };
        if !list.entry(member.index()).is_some_and(|entry| member.is(entry)) {
            // One synchronisation handles all changes in the list.
            self.upkeep.sync(guard, &mut self.registry, list)?;
        }
        let Some(member) = self.registry.members.find(token).copied() else { return Ok(None) };
        Ok(list.origin(member.index()).map(|origin| (member, origin)))
    }

    /// Makes one member's turn.
    pub(super) fn turn<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &mut L,
        slot: u32,
    ) -> Result<Option<Step<L::Origin>>, Error> {
        self.registry.members.unqueue(slot);
        let Some(member) = self.registry.members.get_mut(slot) else { return Ok(None) };
        let token = Token::of_member(slot, member);
        let (is_readable, is_writable) = (member.take(READABLE), member.take(WRITABLE));
        let is_writable = is_writable && member.has(SENDING);
        if slot == LISTENER {
            return self.accept_turn(guard);
        }
        let located = self.locate(guard, list, token);
        // No memory, or no watch for a new entry: the member keeps its turn for the next call.
        let located = located.inspect_err(|_| self.registry.make_ready(slot, READABLE | WRITABLE))?;
        let Some((member, origin)) = located else { return Ok(None) };
        let happened = |what| Ok(Some(Step::Event(Event { origin, what })));
        match member.state {
            State::Accepted => {
                self.set_state(slot, State::Open);
                if is_readable {
                    // The first message may be there already, and epoll has reported it once.
                    self.registry.make_ready(slot, READABLE);
                }
                return happened(What::Connection);
            }
            State::Open | State::Draining => {}
            State::Waiting
            | State::Broken
            | State::Drained
            | State::AtEof
            | State::Closed
            | State::Vacant => return Ok(None),
        }
        if !is_readable && !is_writable {
            return Ok(None);
        }
        if !member.has(VERIFIED) && !self.verify(guard, slot)? {
            self.registry.mark_closed(guard, slot);
            return Ok(None);
        }
        self.note_verified(slot);
        if is_writable {
            self.send_queued(guard, slot, member.fd);
        }
        if member.state == State::Draining {
            if !has_unsent(guard, member.fd) {
                self.set_state(slot, State::Drained);
                self.registry.turns.push_end(slot);
            }
            return Ok(None);
        }
        match member.kind {
            _ if !is_readable => Ok(None),
            Kind::Watched => match self.should_report_ready(guard, slot, member.fd)? {
                true => happened(What::Ready),
                false => Ok(None),
            },
            Kind::Signals => Ok(Some(Step::Read(token, member.fd, Source::Signals))),
            Kind::Timer => Ok(Some(Step::Read(token, member.fd, Source::Timer))),
            Kind::Extra | Kind::Listener => {
                let source = if member.has(ALWAYS_READY) { Source::File } else { Source::Other };
                Ok(Some(Step::Read(token, member.fd, source)))
            }
            Kind::Connection => match self.receive(guard, token, member.fd)? {
                Some(what) => happened(what),
                None => Ok(None),
            },
        }
    }

    /// The turn of the service. If its number is another socket's by now, that one is registered, or the call
    /// fails if it is no service. The set is made anew for it: the former socket may live on elsewhere, and
    /// could not be removed from the set.
    fn accept_turn<O>(&mut self, guard: &EntryGuard) -> Result<Option<Step<O>>, Error> {
        let is_verified = self.registry.members.listener().is_some_and(|service| service.has(VERIFIED));
        if !is_verified && !self.verify(guard, LISTENER)? {
            self.registry.rebuild(guard)?;
            return Ok(None);
        }
        self.note_verified(LISTENER);
        Ok(self.prepare_accept(guard))
    }

    /// Whether the member's number still is the file that was registered. If it seems not to be because the
    /// program has closed the set, the set is made anew first.
    pub(super) fn verify(&mut self, guard: &EntryGuard, slot: u32) -> Result<bool, Error> {
        if self.registry.verify(slot) {
            return Ok(true);
        }
        if self.registry.intact_poller().is_some() {
            return Ok(false);
        }
        self.registry.drop_lost_set();
        self.registry.build(guard)?;
        Ok(self.registry.verify(slot))
    }

    pub(super) fn note_verified(&mut self, slot: u32) {
        if self.verified.try_reserve(1).is_err() {
            return;
        }
        if let Some(member) = self.registry.members.get_mut(slot).filter(|member| !member.has(VERIFIED)) {
            member.set(VERIFIED, true);
            self.verified.push(slot);
        }
    }

    /// All members were verified, and the service.
    pub(super) fn note_all_verified(&mut self) {
        (0..self.registry.members.slab_size()).for_each(|slot| self.note_verified(slot));
    }

    pub(super) fn clear_verified(&mut self) {
        for slot in self.verified.drain(..) {
            self.registry.members.get_mut(slot).into_iter().for_each(|member| member.set(VERIFIED, false));
        }
    }

    pub(super) fn set_state(&mut self, slot: u32, state: State) {
        self.registry.members.get_mut(slot).into_iter().for_each(|member| member.state = state);
    }

    fn set_ending(&mut self, slot: u32, state: State, reason: Reason) {
        if let Some(member) = self.registry.members.get_mut(slot) {
            (member.state, member.reason) = (state, reason);
        }
    }

    /// Receives a frame of the connection, or finds that the connection has ended or failed.
    fn receive(&mut self, guard: &EntryGuard, token: Token, fd: RawFd) -> Result<Option<What>, Error> {
        let slot = token.slot;
        let (received, has_more) = self
            .receiver
            .receive(guard, token, fd)
            .inspect_err(|_| self.registry.make_ready(slot, READABLE))?;
        if has_more {
            self.registry.make_ready(slot, READABLE);
        }
        match received {
            Received::Message(frame) => return Ok(Some(What::Message(frame))),
            Received::Nothing => {}
            Received::End(reason) => {
                self.set_ending(slot, State::Draining, reason);
                if send::flush_verified(guard, fd) {
                    // The peer may still read.
                    self.registry.watch_output(slot, true);
                } else {
                    self.set_state(slot, State::Drained);
                    self.registry.turns.push_end(slot);
                }
            }
            Received::Broken(reason) => {
                self.set_ending(slot, State::Broken, reason);
                self.registry.turns.push_end(slot);
                return Ok(Some(What::Error));
            }
            Received::Closed => self.registry.mark_closed(guard, slot),
        }
        Ok(None)
    }

    /// Whether a watched descriptor is to be reported: once in a call, and only if it is readable now. The
    /// program may have read it since epoll reported it, and would block. epoll reports it again as long as
    /// it is readable.
    fn should_report_ready(&mut self, guard: &EntryGuard, slot: u32, fd: RawFd) -> Result<bool, Error> {
        if self.reported_watched.contains(&fd) || self.reported_watched.try_reserve(1).is_err() {
            return Ok(false);
        }
        match extra::is_ready(fd) {
            Ok(true) => {
                self.reported_watched.push(fd);
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(Errno::EBADF) => {
                self.registry.mark_closed(guard, slot);
                Ok(false)
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Handles the result of reading an extra descriptor.
    pub(super) fn finish_read<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        token: Token,
        read: Read,
    ) -> Result<Option<Event<L::Origin>>, Error> {
        let slot = token.slot;
        let is_end = matches!(read, Read::End);
        let bytes = match read {
            Read::Nothing => return Ok(None),
            Read::Bytes(bytes) => {
                // Edge-triggered epoll does not report what is left: there may be more bytes.
                self.registry.make_ready(slot, READABLE);
                bytes
            }
            Read::End => Block::default(),
            Read::Error { has_more } => {
                if has_more {
                    self.registry.make_ready(slot, READABLE);
                }
                Block::default()
            }
            Read::Again(errno) => {
                self.registry.make_ready(slot, READABLE);
                return match errno {
                    Some(Errno::ENOMEM) => Err(OutOfMemory.into()),
                    Some(errno) => Err(failed(errno)),
                    None => Ok(None),
                };
            }
            Read::Closed => {
                self.registry.mark_closed(guard, slot);
                return Ok(None);
            }
        };
        let located = self.locate(guard, list, token)?;
        if is_end {
            self.registry.finish_extra(guard, slot);
        }
        Ok(located.map(|(member, origin)| {
            let kind = match member.kind {
                Kind::Signals => TYPE_SIGNAL,
                Kind::Timer => TYPE_TIMER,
                _ => TYPE_DATA,
            };
            Event { origin, what: What::Extra(Frame::new(kind, bytes)) }
        }))
    }

    /// Reports the end of the next connection that has ended. Its queued bytes are sent in the background;
    /// then the connection is to be closed, unless the program has closed it.
    pub(super) fn report_end<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &mut L,
    ) -> Result<Option<Step<L::Origin>>, Error> {
        let Some(slot) = self.registry.turns.pop_end() else { return Ok(None) };
        let Some(member) = self.registry.members.get(slot) else { return Ok(None) };
        let token = Token::of_member(slot, member);
        let located = self.locate(guard, list, token);
        let located = located.inspect_err(|_| self.registry.turns.push_end(slot))?;
        let Some((member, origin)) = located.filter(|(member, _)| member.has_end()) else { return Ok(None) };
        let is_verified =
            member.state != State::Closed && (member.has(VERIFIED) || self.verify(guard, slot)?);
        let mut parting = self.registry.take_parting(slot);
        let data = table::lock_unverified(guard, member.fd).take_data(member.cookie);
        parting.data = parting.data.or(data);
        self.ended = Some(Ended::new(member, parting));
        list.remove_entry(member.index());
        if let Some(member) = self.registry.members.swap_remove(member.index()) {
            if is_verified {
                self.registry.unregister_verified(guard, slot, &member);
            } else {
                self.registry.unregister(guard, slot, &member);
            }
        }
        self.resume_accepting(guard);
        let may_hold = table::lock_unverified(guard, member.fd).may_hold_descriptors();
        // EBADF if the program is about to close the number. A file that is no socket is not closed, either.
        let noted = if is_verified {
            table::note_closing_socket(guard, member.fd, member.cookie)
        } else {
            Err(Errno::EBADF)
        };
        if let Ok(mut memory) = noted {
            if let Some([connection]) = memory.as_deref_mut() {
                // Without a descriptor or memory for the rest it is lost: the peer has broken the protocol,
                // or reads no more.
                drop(background::take_over(guard, member.fd, connection, Deadline::NONE, None));
            }
            self.registry.discard(memory);
            return Ok(Some(Step::End { fd: member.fd, may_hold, origin }));
        }
        Ok(Some(Step::Event(Event { origin, what: What::Disconnection })))
    }

    /// Sends the queued bytes of the member.
    fn send_queued(&mut self, guard: &EntryGuard, slot: u32, fd: RawFd) {
        let flushed = send::flush_connection(guard, fd);
        if flushed != Flushed::Full {
            self.registry.watch_output(slot, false);
        }
        // Not watched for EPOLLOUT then: epoll would report room again and again.
        self.is_stalled |= flushed == Flushed::Later;
    }
}

/// Whether anything is still to be sent: bytes in the queue, or a frame that a thread is writing.
fn has_unsent(guard: &EntryGuard, fd: RawFd) -> bool {
    table::lock_verified(guard, fd).get().is_some_and(|connection| connection.has_unsent())
}
