//! The set that watches the members, and the service's socket in it.
//!
//! The program may close the set, as any descriptor that it does not know: it is made anew when the loop finds so. What the
//! program has for another event loop follows each new set.

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
use crate::kernel::socket;
use crate::process::entry_guard::EntryGuard;

/// What epoll has reported beside members that are ready.
#[derive(Clone, Copy, Default)]
pub struct Collected {
    /// Anything at all.
    pub is_something: bool,
    /// It is time to look after something.
    pub has_ticked: bool,
    /// A registration has outlived its member: the program closed the descriptor with close(2), and the file is still open
    /// elsewhere. It cannot be removed alone: the set is to be made anew.
    pub is_stale: bool,
}

impl Registry {
    /// The set; none if there is none of this process, or the program has closed it.
    pub fn poller(&self) -> Option<&Poller> {
        self.poller.as_ref().filter(|poller| poller.is_intact())
    }

    /// Whether the set still has its clock.
    pub fn has_clock(&self) -> bool {
        self.poller.as_ref().is_none_or(Poller::has_clock)
    }

    /// The set of a loop that has verified it in this call.
    pub fn poller_mut(&mut self) -> Option<&mut Poller> {
        self.poller.as_mut()
    }

    /// The same, to be asked only.
    pub fn poller_ref(&self) -> Option<&Poller> {
        self.poller.as_ref()
    }

    /// Puts the member into the set; if there is none yet, that is done when it is made.
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

    /// Has epoll report when more can be sent, or no longer. Should the number be another file's by now, epoll does not
    /// watch it, and the member's next turn finds it so.
    pub fn watch_output(&mut self, slot: u32, is_sending: bool) {
        let Some(member) = self.members.get_mut(slot) else { return };
        member.set(SENDING, is_sending);
        self.update_interest(slot);
    }

    /// The member's interest has changed.
    pub fn update_interest(&self, slot: u32) {
        let member = self.members.get(slot).filter(|member| member.is_registered());
        if let (Some(member), Some(poller)) = (member, self.poller()) {
            // Should it fail, later calls for this connection send what is queued.
            let _ = poller.change(member.fd, Token::of_member(slot, member).data(), member.interest());
        }
    }

    /// Makes the set where there is none, and registers all members. If the one before was lost, each connection is
    /// first asked whether it still is the socket that was registered.
    pub fn build(&mut self, guard: &EntryGuard) -> Result<(), Error> {
        if self.poller.is_some() {
            return Ok(());
        }
        let mut slots = Vec::new();
        slots.try_reserve(self.members.count())?;
        slots.extend(self.members.slots().map(|(slot, _)| slot));
        self.poller = Some(Poller::new().map_err(failed)?);
        self.shadows = 0;
        // A member that waits for another one's number is registered after that one: the new set must have it.
        let registered = self
            .register_listener(guard)
            .and_then(|()| slots.iter().try_for_each(|slot| self.renew(guard, *slot)))
            .and_then(|()| slots.iter().try_for_each(|slot| self.register_waiting(guard, *slot)));
        match registered {
            Ok(()) => self.follow_set(),
            Err(_) => self.drop_set(),
        }
        registered
    }

    /// Registers a member in a set that was made anew: it stays what it is, unless its number is another file's by now.
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

    /// Watches the service's socket, unless it is watched as it is now.
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
        // A connection that had the number is closed.
        if let Some(holder) = self.members.holder(listener.fd).filter(|holder| *holder != LISTENER) {
            self.mark_closed(guard, holder);
        }
        self.members.hold(LISTENER);
        let Some(member) = self.members.get_mut(LISTENER) else { return Ok(()) };
        member.state = State::Open;
        let token = Token::of_member(LISTENER, member).data();
        let Some(poller) = &self.poller else { return Ok(()) };
        match poller.add(listener.fd, token, interest) {
            Err(Errno::EEXIST) => poller.change(listener.fd, token, interest),
            result => result,
        }
        .map_err(failed)
    }

    /// Whether this is the service's socket, or there is none.
    pub fn has_listener(&self, fd: Option<RawFd>) -> bool {
        self.members.listener().map(|listener| listener.fd) == fd
    }

    /// The program waits for clients of this service, or of none; whether it is another one than before.
    pub fn set_listener(&mut self, guard: &EntryGuard, fd: Option<RawFd>) -> Result<bool, Error> {
        if self.has_listener(fd) {
            return Ok(false);
        }
        if let Some(fd) = fd {
            // Before anything is changed: what is no service is an error.
            socket::check_listener(fd).map_err(failed)?;
        }
        self.make_room()?;
        if let Some(old) = self.members.listener().copied() {
            self.unregister(guard, LISTENER, &old);
        }
        self.members.set_listener(fd);
        Ok(true)
    }

    /// Takes in what epoll reports.
    pub fn collect(&mut self, brought: &[Readiness]) -> Collected {
        let mut is_stale = false;
        let has_ticked = self.poller.as_mut().is_some_and(Poller::take_tick);
        for readiness in brought {
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
        Collected { is_something: !brought.is_empty(), has_ticked, is_stale }
    }

    /// What the program has closed is not to be used, nor closed.
    pub fn forget_lost_set(&mut self) {
        if self.poller.is_some() && self.poller().is_none() {
            self.poller = None;
        }
        self.event_fd.iter_mut().for_each(EventFd::mend);
    }

    /// The set is to be made anew, or not needed any more.
    pub fn drop_set(&mut self) {
        if let (Some(event_fd), Some(poller)) = (&self.event_fd, self.poller()) {
            // A forked child may have the set, too, so that it would not leave by itself.
            event_fd.leave(poller);
        }
        self.poller = None;
    }

    /// The set is new. Should it fail, the next one is tried.
    fn follow_set(&self) {
        let event_fd = self.event_fd.as_ref().filter(|event_fd| event_fd.is_intact());
        if let (Some(event_fd), Some(poller)) = (event_fd, &self.poller) {
            let _ = event_fd.follow(poller);
        }
    }

    /// The descriptor for other event loops, made if there is none of this process yet.
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

    /// Whether there is one.
    pub fn has_event_fd(&self) -> bool {
        self.event_fd.is_some()
    }

    /// Shows other event loops whether something is left to report, or to send in the background.
    pub fn update_event_fd(&mut self, guard: &EntryGuard) {
        let Some(event_fd) = &mut self.event_fd else { return };
        event_fd.raise(!self.turns.is_empty() || self.turns.has_ends());
        let number = background::set_number();
        if event_fd.background != number && event_fd.is_intact() {
            event_fd.background = number;
            background::with_set(guard, |set| _ = event_fd.follow(set));
        }
    }
}

/// Makes calls on the listener return instead of waiting, for all processes that share it: another one may take the
/// client that epoll reported. What the program had set before is remembered for `ipc_accept`.
fn prepare_listener(guard: &EntryGuard, fd: RawFd) -> nix::Result<()> {
    if socket::prepare_listener(fd)? {
        table::lock_verified(guard, fd).entry()?.waits_for_clients = true;
    }
    Ok(())
}
