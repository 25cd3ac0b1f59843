//! Accepting clients of the service: only while there is memory for a client, and not in a pause after
//! descriptors or memory ran out.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::table::{self, Prepared};
use crate::error::Error;
use crate::event_loop::accept::Refused;
use crate::event_loop::list::{Entry, Event, Kind, List, What};
use crate::event_loop::list_loop::EventLoop;
use crate::event_loop::members::{READABLE, REPORTED, State, WRITABLE};
use crate::event_loop::registry::failed;
use crate::event_loop::step::Step;
use crate::process::entry_guard::EntryGuard;

impl EventLoop {
    /// Asks the caller to accept a client, if there is memory for one; otherwise clients wait in the kernel's
    /// queue.
    pub(super) fn prepare_accept<O>(&mut self, guard: &EntryGuard) -> Option<Step<O>> {
        let fd = self.registry.members.listener()?.fd;
        if self.registry.pause.is_on() {
            return None;
        }
        let has_room = self.registry.make_room().and_then(|()| table::make_room(guard, fd));
        match has_room.and_then(|()| Prepared::for_client(guard, fd)) {
            Ok(prepared) => Some(Step::Accept(fd, prepared)),
            Err(_) => {
                self.pause_accepting(guard);
                None
            }
        }
    }

    /// The array was replaced by a larger one for the new client: that is no change of the program's.
    pub(super) fn note_shape(&mut self, [before, after]: [(usize, usize); 2]) {
        if self.upkeep.seen == before {
            self.upkeep.seen = after;
        }
    }

    pub(super) fn note_not_accepted(&mut self, guard: &EntryGuard, errno: Errno) -> Option<Error> {
        match Refused::from(errno) {
            Refused::NoClient => None,
            Refused::NoService => Some(failed(errno)),
            Refused::Later => {
                self.pause_accepting(guard);
                None
            }
        }
    }

    /// Adds an accepted client to the list, and reports it.
    pub(super) fn add_client<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &mut L,
        client: L::Client,
        fd: RawFd,
        prepared: Prepared,
    ) -> Option<Step<L::Origin>> {
        let has_room = table::give_out(guard, fd, prepared).is_ok() && self.registry.make_room().is_ok();
        if !has_room {
            self.pause_accepting(guard);
            return Some(Step::Drop(fd, None));
        }
        if self.upkeep.seen != list.shape() {
            // The list was changed while no lock was held: the change is found with all others.
            let _ = self.upkeep.sync(guard, &mut self.registry, list);
        }
        let Some(index) = list.push(client, fd) else {
            // A signal handler has freed the list.
            return Some(Step::Drop(fd, Some(failed(Errno::EINTR))));
        };
        let addr = list.entry(index).map_or(0, |entry| entry.addr);
        let entry = Entry { fd, addr, kind: Kind::Connection };
        let slot = self.registry.members.push(entry, index, State::Accepted);
        self.registry.members.get_mut(slot).into_iter().for_each(|member| member.set(REPORTED, true));
        self.upkeep.seen = list.shape();
        if self.registry.register(guard, slot).is_err() {
            list.take_back(index);
            if let Some(member) = self.registry.members.swap_remove(index) {
                self.registry.unregister(guard, slot, &member);
            }
            self.upkeep.seen = list.shape();
            self.pause_accepting(guard);
            return Some(Step::Drop(fd, None));
        }
        if self.registry.turns.has_ends() {
            // The end of the connection that had the number is reported first.
            return None;
        }
        let member = self.registry.members.get_mut(slot)?;
        member.state = State::Open;
        // epoll will report what the client has sent.
        member.take(READABLE | WRITABLE);
        let origin = list.origin(index)?;
        Some(Step::Event(Event { origin, what: What::Connection }))
    }

    /// Descriptors or memory ran out.
    pub(super) fn pause_accepting(&mut self, guard: &EntryGuard) {
        if self.registry.pause.set(true) {
            // If this fails, the next scan tries again.
            let _ = self.registry.register_listener(guard);
        }
    }

    /// A descriptor was closed, and may be used for a client.
    pub(super) fn resume_accepting(&mut self, guard: &EntryGuard) {
        if self.registry.pause.set(false) {
            let _ = self.registry.register_listener(guard);
        }
    }
}
