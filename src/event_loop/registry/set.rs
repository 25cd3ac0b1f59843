//! The epoll set that watches the members, and the service's socket in it.
//!
//! The program may close the set, like any descriptor that it does not know; the loop then makes a new one
//! when it finds the loss. The event descriptor that the program has for another event loop follows each new
//! set.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use crate::connection::{background, table};
use crate::error::Error;
use crate::event_loop::list::Kind;
use crate::event_loop::members::{ALWAYS_READY, LISTENER, Member, READABLE, SENDING, State, Token, WRITABLE};
use crate::event_loop::registry::{Registry, failed};
use crate::kernel::event_fd::EventFd;
use crate::kernel::poller::{PROBE, Poller, Readiness, TICK};
use crate::kernel::socket::{self, Cookie};
use crate::process::entry_guard::EntryGuard;

/// What epoll has reported in addition to ready members.
#[derive(Clone, Copy, Default)]
pub struct Collected {
    /// Whether epoll has reported anything at all.
    pub is_something: bool,
    /// The clock has ticked: periodic work is due.
    pub has_ticked: bool,
    /// The set reports a registration whose member no longer exists: the program closed the descriptor with
    /// close(2), and the file is still open elsewhere. epoll cannot remove such a registration by number: the
    /// set must be made anew.
    pub is_stale: bool,
}

impl Registry {
    /// The set; `None` if this process has none, or the program has closed it. Asks the kernel.
    pub fn intact_poller(&self) -> Option<&Poller> {
        self.poller.as_ref().filter(|poller| poller.is_intact())
    }

    /// Whether the set still has its clock.
    pub fn has_clock(&self) -> bool {
        self.poller.as_ref().is_none_or(Poller::has_clock)
    }

    /// The set, without asking the kernel: the loop has verified it in this call.
    pub fn poller_mut(&mut self) -> Option<&mut Poller> {
        self.poller.as_mut()
    }

    /// The same, to read only.
    pub fn poller_unchecked(&self) -> Option<&Poller> {
        self.poller.as_ref()
    }

    /// Puts the member into the set; if there is no set yet, the member enters when the set is made.
    pub(super) fn watch(&mut self, slot: u32) -> nix::Result<()> {
        let (Some(member), Some(poller)) = (self.members.get(slot), &self.poller) else { return Ok(()) };
        let (fd, token) = (member.fd, Token::of_member(slot, member).data());
        let added = match member.state {
            State::Accepted => poller.add_new(fd, token, member.interest()),
            _ => poller.add(fd, token, member.interest()),
        };
        let result = match added {
            Err(Errno::EEXIST) => poller.change(fd, token, member.interest()),
            result => result,
        };
        if result == Err(Errno::EPERM) && member.kind == Kind::Extra {
            self.members.get_mut(slot).into_iter().for_each(|member| member.set(ALWAYS_READY, true));
            return Ok(());
        }
        result
    }

    /// Has epoll report when the member can send, or no longer. If the number is another file's by now, epoll
    /// does not watch that file, and the member's next turn finds it closed.
    pub fn watch_output(&mut self, slot: u32, is_sending: bool) {
        let Some(member) = self.members.get_mut(slot) else { return };
        member.set(SENDING, is_sending);
        self.update_interest(slot);
    }

    /// The member's interest has changed.
    pub fn update_interest(&self, slot: u32) {
        let member = self.members.get(slot).filter(|member| member.is_registered());
        if let (Some(member), Some(poller)) = (member, self.intact_poller()) {
            // If this fails, later calls for this connection send the queued bytes.
            let _ = poller.change(member.fd, Token::of_member(slot, member).data(), member.interest());
        }
    }

    /// Makes the set if there is none, and registers all members. If the former set was lost, each connection
    /// is first checked by the cookie of its socket.
    pub fn build(&mut self, guard: &EntryGuard) -> Result<(), Error> {
        if self.poller.is_some() {
            return Ok(());
        }
        let mut slots = Vec::new();
        slots.try_reserve(self.members.count())?;
        slots.extend(self.members.slots().map(|(slot, _)| slot));
        self.poller = Some(Poller::new().map_err(failed)?);
        self.waiting_for_number = 0;
        // A member that waits for the number of another member is registered after it: the new set must have
        // that one.
        let listener = self.register_listener(guard);
        let registered = slots
            .iter()
            .try_for_each(|slot| self.renew(guard, *slot))
            .and_then(|()| slots.iter().try_for_each(|slot| self.register_waiting(guard, *slot)));
        match registered {
            Ok(()) => self.follow_set(),
            Err(_) => self.drop_set(),
        }
        // A socket that is no service any more fails this call, but must not keep later calls from the
        // connections.
        registered.and(listener)
    }

    /// Registers a member in a new set: its state remains, unless its number is another file's by now.
    fn renew(&mut self, guard: &EntryGuard, slot: u32) -> Result<(), Error> {
        let Some(member) = self.members.get(slot).copied() else { return Ok(()) };
        if !member.is_registered() {
            return Ok(());
        }
        if !self.instruments().is_noted_file(slot, &member) {
            self.mark_closed(guard, slot);
        } else if !member.has(ALWAYS_READY) {
            match self.watch(slot) {
                Ok(()) => self.make_ready(slot, READABLE | WRITABLE),
                Err(Errno::EBADF | Errno::ELOOP | Errno::EPERM) => self.mark_closed(guard, slot),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    fn register_waiting(&mut self, guard: &EntryGuard, slot: u32) -> Result<(), Error> {
        if self.members.get(slot).is_some_and(|member| member.state == State::Waiting) {
            return self.register(guard, slot);
        }
        Ok(())
    }

    /// Watches the service's socket, or updates what is watched, depending on the pause.
    pub fn register_listener(&mut self, guard: &EntryGuard) -> Result<(), Error> {
        let (Some(listener), Some(poller)) = (self.members.listener().copied(), &self.poller) else {
            return Ok(());
        };
        let interest = if self.pause.is_on() { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        if listener.state == State::Open {
            let token = Token::of_member(LISTENER, &listener).data();
            match poller.change(listener.fd, token, interest) {
                // The set is new, or the number is another socket's by now.
                Err(Errno::ENOENT) => {}
                result => return result.map_err(failed),
            }
        }
        prepare_listener(guard, listener.fd).map_err(failed)?;
        // If a member holds the number, its connection is closed.
        if let Some(holder) = self.members.holder(listener.fd).filter(|holder| *holder != LISTENER) {
            self.mark_closed(guard, holder);
        }
        self.members.hold(LISTENER);
        let Some(member) = self.members.get_mut(LISTENER) else { return Ok(()) };
        member.state = State::Open;
        member.cookie = Cookie::of(listener.fd).unwrap_or(Cookie::NONE);
        let token = Token::of_member(LISTENER, member).data();
        let Some(poller) = &self.poller else { return Ok(()) };
        match poller.add(listener.fd, token, interest) {
            Err(Errno::EEXIST) => poller.change(listener.fd, token, interest),
            result => result,
        }
        .map_err(failed)
    }

    /// Whether this is the registered service's socket, or there is none in both cases.
    pub fn has_listener(&self, fd: Option<RawFd>) -> bool {
        self.members.listener().map(|listener| listener.fd) == fd
    }

    /// The program waits for clients of this service, or of none; returns whether that is a change.
    pub fn set_listener(&mut self, guard: &EntryGuard, fd: Option<RawFd>) -> Result<bool, Error> {
        if self.has_listener(fd) {
            return Ok(false);
        }
        if let Some(fd) = fd {
            // Before anything is changed: a descriptor that is no service is an error.
            socket::check_listener(fd).map_err(failed)?;
        }
        self.make_room()?;
        if let Some(old) = self.members.listener().copied() {
            self.unregister(guard, LISTENER, &old);
        }
        self.members.set_listener(fd);
        Ok(true)
    }

    /// Handles the reports of epoll: queues ready members, and begins a round. `has_ticked`: the tick is due;
    /// it is taken.
    pub fn collect(&mut self, reports: &[Readiness], has_ticked: bool) -> Collected {
        let mut is_stale = false;
        if has_ticked {
            self.poller.iter_mut().for_each(Poller::take_tick);
        }
        for readiness in reports {
            let (flags, data) = (readiness.events, readiness.u64);
            if data == TICK {
                self.poller.iter_mut().for_each(Poller::stop_clock);
                continue;
            }
            if data == PROBE {
                continue;
            }
            let flags = EpollFlags::from_bits_truncate(flags as i32);
            let is_over = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            let token = Token::of(data);
            if self.members.find(token).is_some_and(Member::is_registered) {
                let readable = if is_over || flags.contains(EpollFlags::EPOLLIN) { READABLE } else { 0 };
                let writable = if is_over || flags.contains(EpollFlags::EPOLLOUT) { WRITABLE } else { 0 };
                self.make_ready(token.slot, readable | writable);
            } else {
                is_stale = true;
            }
        }
        self.turns.begin_round();
        Collected { is_something: !reports.is_empty(), has_ticked, is_stale }
    }

    /// Drops a set that the program has closed: its number must be neither used nor closed.
    pub fn drop_lost_set(&mut self) {
        if self.poller.is_some() && self.intact_poller().is_none() {
            self.poller = None;
        }
        self.event_fd.iter_mut().for_each(EventFd::repair);
    }

    /// Drops the set: it is to be made anew, or is no longer needed.
    pub fn drop_set(&mut self) {
        if let (Some(event_fd), Some(poller)) = (&self.event_fd, self.intact_poller()) {
            // A forked child may have the set, too: then the kernel would not remove it from the event
            // descriptor.
            event_fd.unfollow(poller);
        }
        self.poller = None;
    }

    /// The set is new: the event descriptor watches it. If this fails, the next set is tried.
    fn follow_set(&self) {
        let event_fd = self.event_fd.as_ref().filter(|event_fd| event_fd.is_intact());
        if let (Some(event_fd), Some(poller)) = (event_fd, &self.poller) {
            let _ = event_fd.follow(poller);
        }
    }

    /// The descriptor for other event loops, made if this process has none yet.
    pub fn event_fd(&mut self, guard: &EntryGuard) -> nix::Result<RawFd> {
        if self.event_fd.as_ref().is_none_or(|event_fd| !event_fd.is_intact()) {
            let event_fd = EventFd::new()?;
            if let Some(poller) = &self.poller {
                event_fd.follow(poller)?;
            }
            self.event_fd = Some(event_fd);
        }
        self.update_event_fd(guard);
        self.event_fd.as_ref().map(EventFd::fd).ok_or(Errno::EBADF)
    }

    /// Whether there is an event descriptor.
    pub fn has_event_fd(&self) -> bool {
        self.event_fd.is_some()
    }

    /// Makes the event descriptor readable while something is left to report or to send in the background,
    /// and not readable otherwise.
    pub fn update_event_fd(&mut self, guard: &EntryGuard) {
        let Some(event_fd) = &mut self.event_fd else { return };
        event_fd.set_raised(!self.turns.is_empty() || self.turns.has_ends());
        let number = background::set_number();
        if event_fd.background != number && event_fd.is_intact() {
            event_fd.background = number;
            background::with_set(guard, |set| _ = event_fd.follow(set));
        }
    }
}

/// Makes calls on the listening socket return instead of waiting, for all processes that share it: another
/// process may accept the client that epoll reported. If the program had it blocking, that is noted for
/// `ipc_accept`.
fn prepare_listener(guard: &EntryGuard, fd: RawFd) -> nix::Result<()> {
    if socket::prepare_listener(fd)? {
        table::lock_verified(guard, fd).connection()?.waits_for_clients = true;
    }
    Ok(())
}
