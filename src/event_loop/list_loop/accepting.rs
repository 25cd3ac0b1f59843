//! Clients of the service: asked for when there is memory for one, taken in, and left waiting while descriptors or memory
//! have run out.

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
    /// Asks for a client, if there is memory for one: else it waits in the kernel's queue.
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

    /// The array is another one since it was made larger for a client.
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

    /// Takes a client in, and reports it.
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
            // Somebody has changed it while this call was not looking: it is found with the rest.
            let _ = self.upkeep.sync(guard, &mut self.registry, list);
        }
        let Some(index) = list.push(client, fd) else {
            // A signal handler has freed it.
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
            // That of the connection which had the number goes before.
            return None;
        }
        let member = self.registry.members.get_mut(slot)?;
        member.state = State::Open;
        // Epoll reports what it has sent.
        member.take(READABLE | WRITABLE);
        let origin = list.origin(index)?;
        Some(Step::Event(Event { origin, what: What::Connection }))
    }

    /// Descriptors or memory have run out.
    pub(super) fn pause_accepting(&mut self, guard: &EntryGuard) {
        if self.registry.pause.set(true) {
            // Should it fail, the next pass through the list tries again.
            let _ = self.registry.register_listener(guard);
        }
    }

    /// A descriptor has come free.
    pub(super) fn resume_accepting(&mut self, guard: &EntryGuard) {
        if self.registry.pause.set(false) {
            let _ = self.registry.register_listener(guard);
        }
    }
}
