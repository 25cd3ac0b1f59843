//! What the program does to its list and connections other than waiting, and what other threads have for the
//! loop.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;

use crate::connection::{background, send, table};
use crate::error::Error;
use crate::event_loop::list::{Entry, Kind, List};
use crate::event_loop::list_loop::EventLoop;
use crate::event_loop::members::{Member, READABLE, REPORTED, Reason, SENDING, State, Token, WRITABLE};
use crate::event_loop::registry::{Parting, failed};
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::fd;
use crate::kernel::internal_fds::KeptFd;
use crate::kernel::notices::Signals;
use crate::kernel::wait::PollSet;
use crate::process::entry_guard::EntryGuard;

impl EventLoop {
    /// The program has added the entry at this index. `before` is the list's shape before that.
    pub fn note_added<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        before: (usize, usize),
        index: usize,
        kind: Kind,
    ) -> Result<(), Error> {
        let Some(entry) = list.entry(index) else { return Ok(()) };
        if self.upkeep.seen == before {
            self.registry.make_room()?;
            self.registry.members.push(entry, index, State::Waiting);
        } else {
            // Any structure that had this address before is another one.
            self.registry.members.clear_address(entry.addr);
            self.upkeep.sync(guard, &mut self.registry, list)?;
        }
        self.upkeep.seen = list.shape();
        let Some(slot) = self.registry.members.at(index) else { return Ok(()) };
        let result = self.register_added(guard, slot, entry, kind);
        if result.is_err() {
            if let Some(member) = self.registry.members.swap_remove(index) {
                self.registry.unregister(guard, slot, &member);
            }
            self.upkeep.seen = before;
        }
        if self.is_waiting {
            self.registry.intact_poller().into_iter().for_each(|poller| poller.wake());
        }
        result
    }

    fn register_added(
        &mut self,
        guard: &EntryGuard,
        slot: u32,
        entry: Entry,
        kind: Kind,
    ) -> Result<(), Error> {
        if kind != entry.kind {
            self.registry.members.rebind(slot, Entry { kind, ..entry }, State::Waiting);
            // If epoll cannot watch the descriptor, the entry is refused now.
            self.registry.drop_lost_set();
            self.registry.build(guard)?;
        }
        let state = |event_loop: &Self| event_loop.registry.members.get(slot).map(|member| member.state);
        if state(self) == Some(State::Waiting) {
            self.registry.drop_lost_set();
            self.registry.register(guard, slot)?;
        }
        match entry.kind {
            _ if state(self) != Some(State::Closed) => {}
            _ if kind == Kind::Watched => return Err(failed(Errno::EPERM)),
            // The descriptor is one of the loop's own, or an epoll set that watches one.
            Kind::Extra => return Err(failed(Errno::ELOOP)),
            _ => {}
        }
        Ok(())
    }

    /// The program has removed the entry with this structure from its list, at this index.
    pub fn note_removed<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        before: (usize, usize),
        addr: usize,
        index: usize,
    ) {
        self.registry.drop_lost_set();
        let members = &self.registry.members;
        let slot =
            members.at(index).filter(|slot| members.get(*slot).is_some_and(|member| member.addr == addr));
        if let (Some(slot), true) = (slot, self.upkeep.seen == before) {
            if let Some(member) = self.registry.members.swap_remove(index) {
                self.registry.unregister(guard, slot, &member);
            }
            self.upkeep.seen = list.shape();
        } else {
            // The program has made other changes, too.
            let _ = self.upkeep.sync(guard, &mut self.registry, list);
        }
    }

    /// How many connections the list has, how many messages were received on them, and whether clients wait
    /// because descriptors or memory ran out.
    pub fn status(&self) -> (usize, u64, bool) {
        let is_counted =
            |(_, member): &(u32, &Member)| member.kind == Kind::Connection && member.state != State::Closed;
        let connections = self.registry.members.slots().filter(is_counted).count();
        (connections, self.receiver.received, self.registry.pause.is_on())
    }

    /// The descriptor of the member that reads signals, if there is one, and which signals these are.
    pub fn signals(&mut self) -> Option<(RawFd, Signals)> {
        let reads_signals =
            |(_, member): &(u32, &Member)| member.kind == Kind::Signals && member.is_registered();
        let (slot, fd) =
            self.registry.members.slots().find(reads_signals).map(|(slot, member)| (slot, member.fd))?;
        self.registry.verify_with_set(slot).then_some((fd, self.signals))
    }

    /// These signals are read from now on.
    pub fn note_signals(&mut self, signals: Signals) {
        self.signals = signals;
    }

    /// Whether the number is a timer in the list.
    pub fn is_timer(&mut self, fd: RawFd) -> bool {
        let slot = self
            .slot_of(fd)
            .filter(|slot| self.registry.members.get(*slot).is_some_and(|member| member.kind == Kind::Timer));
        slot.is_some_and(|slot| self.registry.verify_with_set(slot))
    }

    /// The program has freed the list.
    pub fn note_freed(&mut self, guard: &EntryGuard) {
        // Signals and timers were made for the list, and are closed with it.
        for slot in 0..self.registry.members.slab_size() {
            let is_made = |member: &&Member| {
                matches!(member.kind, Kind::Signals | Kind::Timer) && member.is_registered()
            };
            let made = self.registry.members.get(slot).filter(is_made).map(|member| member.fd);
            if let Some(fd) = made.filter(|_| self.registry.verify_with_set(slot)) {
                let _ = fd::close(fd);
            }
        }
        let mut fds = Vec::new();
        let members = self.registry.members.slots().filter(|(_, member)| member.kind == Kind::Connection);
        for (_, member) in members {
            if fds.try_reserve(1).is_ok() {
                fds.push(member.fd);
            }
        }
        let key = self.registry.key();
        for fd in fds {
            table::lock_unverified(guard, fd).note_unlisted(key);
            if send::is_queued(guard, fd) {
                background::watch(guard, fd);
            }
        }
        self.wake();
    }

    /// The slot of the member that holds this number.
    pub fn slot_of(&self, fd: RawFd) -> Option<u32> {
        self.registry.members.holder(fd)
    }

    /// The library is about to close a member's descriptor, because the program asked for it.
    pub fn note_closing(&mut self, guard: &EntryGuard, slot: u32) {
        // The set is about to be changed: a member that waits for the number is added.
        self.registry.drop_lost_set();
        self.registry.mark_closed(guard, slot);
        self.resume_accepting(guard);
        self.wake();
    }

    /// The program ends the connection with this number: only its DISCONNECTION is reported from now on.
    /// Returns the member's token; `None` if the number is no connection of the list, or the connection has
    /// ended.
    pub fn mark_ended(&mut self, guard: &EntryGuard, fd: RawFd) -> Result<Option<Token>, OutOfMemory> {
        let Some(slot) = self.slot_of(fd) else { return Ok(None) };
        let is_connection = |member: &&Member| member.kind == Kind::Connection && member.is_registered();
        if !self.registry.verify_with_set(slot) {
            return Ok(None);
        }
        let Some(member) = self.registry.members.get(slot).filter(is_connection) else { return Ok(None) };
        let token = Token::of_member(slot, member);
        self.registry.make_room_for_parting()?;
        if let Some(member) = self.registry.members.get_mut(slot) {
            member.set(REPORTED, true);
            if member.reason == Reason::None {
                member.reason = Reason::Closed;
            }
        }
        self.note_closing(guard, slot);
        Ok(Some(token))
    }

    /// Why the member with this number is about to end.
    pub fn reason(&self, fd: RawFd) -> Option<Reason> {
        self.slot_of(fd).and_then(|slot| self.registry.members.get(slot)).map(|member| member.reason)
    }

    /// What is kept of a member that was ended by [`EventLoop::mark_ended`] and has held this number since,
    /// and why the member ends.
    pub fn parting(&self, fd: RawFd) -> Option<(&Parting, Reason)> {
        self.registry.partings().find_map(|(slot, parting)| {
            let member = self.registry.members.get(slot).filter(|member| member.fd == fd)?;
            // Without that the number may be another connection's.
            let is_free = parting.held.is_some() || fd::check_open(fd) == Err(Errno::EBADF);
            is_free.then_some((parting, member.reason))
        })
    }

    /// A member ended by [`EventLoop::mark_ended`] was closed; `held` keeps its number in use until the call
    /// after the one that reports the end.
    pub fn hold_member(&mut self, token: Token, held: Option<KeptFd>) {
        let is_waiting =
            self.registry.members.find(token).is_some_and(|member| member.state == State::Closed);
        let fd = held.as_ref().map(AsRawFd::as_raw_fd);
        match &mut self.ended {
            _ if is_waiting => self.registry.keep_parting(token.slot, |parting| parting.held = held),
            // Another thread has reported the end already.
            Some(ended) if Some(ended.fd) == fd => ended.held = held,
            _ => {}
        }
    }

    /// Received bytes of the member are in memory.
    pub fn note_input(&mut self, slot: u32) {
        self.registry.make_ready(slot, READABLE);
        self.wake();
    }

    /// What a writer that is held back waits for: that its connection takes bytes, or that another member is
    /// ready. `None` if another member is ready already, or without memory.
    pub fn others(&self, guard: &EntryGuard, fd: RawFd) -> Option<PollSet> {
        let members = &self.registry.members;
        let mut set = PollSet::with_room(members.count() + 2).ok()?;
        set.push(fd, libc::POLLOUT);
        if self.is_waiting {
            // Another thread serves the other members.
            return Some(set);
        }
        let listener = members.listener().filter(|_| !self.registry.pause.is_on());
        let mut is_any_ready = self.registry.turns.has_ends();
        for member in members.slots().map(|(_, member)| member).chain(listener) {
            if member.fd == fd {
                continue;
            }
            match member.state {
                State::Open | State::Broken => set.push(member.fd, libc::POLLIN),
                State::Accepted => is_any_ready = true,
                State::Waiting
                | State::Draining
                | State::Drained
                | State::AtEof
                | State::Closed
                | State::Vacant => {}
            }
            is_any_ready |= member.has(READABLE) && table::has_ahead(guard, member.fd);
        }
        if is_any_ready {
            set.finish(0, |_| {});
            return None;
        }
        Some(set)
    }

    /// The member's queue is empty: the end of the member may have waited for that.
    pub fn note_sent(&mut self, slot: u32) {
        let member = self.registry.members.get_mut(slot).filter(|member| member.state == State::Draining);
        if let Some(member) = member {
            member.set(SENDING, true);
            self.registry.make_ready(slot, WRITABLE);
            self.wake();
        }
    }

    /// Bytes are queued for the member.
    pub fn watch_output(&mut self, slot: u32) {
        self.registry.watch_output(slot, true);
        self.wake();
    }

    /// Wakes the thread that waits for this loop, if there is one.
    pub fn wake(&self) {
        if self.is_waiting {
            self.registry.intact_poller().into_iter().for_each(|poller| poller.wake());
        }
    }

    /// The descriptor for other event loops, made if this process has none yet.
    pub fn make_event_fd<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        listener: Option<RawFd>,
    ) -> Result<RawFd, Error> {
        self.registry.drop_lost_set();
        self.begin(guard, list, listener, true, 1)?;
        self.registry.build(guard)?;
        let fd = self.registry.event_fd(guard).map_err(failed)?;
        // The clock wakes the other loop when periodic work is due.
        self.tick();
        Ok(fd)
    }
}
