//! Which members epoll watches, and whether their numbers still refer to the files that were registered.
//!
//! All checks whether a member's number still is the same file are in verify.rs. [`Registry::mark_closed`]
//! decides what follows for a member if it is not; for the service's socket, `register_listener` does.
//!
//! A number has at most one live member in a list, its holder. If a new member has the same number, the
//! holder is verified: if it is right, the new member waits (state `Waiting`) until the holder is closed; if
//! not, the holder is closed.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::table::{self, Memory, Slot};
use crate::connection::user_data::UserData;
use crate::connection::{background, send};
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::accept::Pause;
use crate::event_loop::list::{Entry, Kind, List};
use crate::event_loop::members::{
    ALWAYS_READY, Member, Members, NOTED, QUEUED, READABLE, REPORTED, Reason, SENDING, State, VERIFIED,
    WRITABLE,
};
use crate::event_loop::turns::Turns;
use crate::event_loop::verify::Instruments;
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::event_fd::EventFd;
use crate::kernel::fd;
use crate::kernel::file::FileId;
use crate::kernel::internal_fds::{self, KeptFd};
use crate::kernel::poller::Poller;
use crate::kernel::socket::Cookie;
use crate::process::entry_guard::EntryGuard;
use crate::process::sharded::{NumberMap, empty_map};

mod set;

pub use self::set::Collected;

/// The members of one list, the set that watches them, and the queues of those that are ready.
pub struct Registry {
    /// The list's address.
    key: usize,
    /// The epoll set. None if there is none yet, or if it was dropped: nothing to watch, a stale
    /// registration, or a loss. A lost set stays here until `drop_lost_set`. Written by `build`,
    /// `drop_lost_set` and `drop_set`.
    poller: Option<Poller>,
    /// For another event loop of the program: readable while there is something to report.
    event_fd: Option<EventFd>,
    /// The pause in accepting clients after descriptors or memory ran out.
    pub pause: Pause,
    /// The mirror of the list.
    pub members: Members,
    /// The queues of members that are ready or have ended.
    pub turns: Turns,
    /// Which files the extra descriptors are, by slot.
    files: NumberMap<u32, FileId>,
    /// At least the number of members in state `Waiting` whose number another member holds; 0: there is none.
    /// Counted anew by `sync` and `build`.
    waiting_for_number: usize,
    /// What is kept of closed members whose end is not reported yet, by slot.
    partings: NumberMap<u32, Parting>,
    /// Memory of closed connections, to be dropped when no lock is held.
    pub discarded: Vec<Memory>,
}

/// What is kept of a closed connection until its end is reported.
#[derive(Default)]
pub struct Parting {
    /// Keeps the connection's number in use.
    pub held: Option<KeptFd>,
    /// The program's pointer.
    pub data: Option<UserData>,
}

/// The error of a wait that failed.
pub fn failed(errno: Errno) -> Error {
    Error::new(Code::IPC_ERROR_WAIT_EVENT__SELECT, errno)
}

impl Registry {
    /// A registry without members and without a set.
    pub fn new(key: usize) -> Self {
        Self {
            key,
            poller: None,
            event_fd: None,
            pause: Pause::default(),
            members: Members::new(),
            turns: Turns::new(),
            files: empty_map(),
            waiting_for_number: 0,
            partings: empty_map(),
            discarded: Vec::new(),
        }
    }

    /// The list's address.
    pub fn key(&self) -> usize {
        self.key
    }

    /// Allocates the memory for one more member, and for its turns.
    pub fn make_room(&mut self) -> Result<(), OutOfMemory> {
        self.members.make_room()?;
        let members = &self.members;
        self.turns.make_room(members.slab_size() as usize + 1, |slot| members.has_end(slot))
    }

    /// Keeps the memory of a closed connection until it can be dropped without a lock; without memory for
    /// that, drops it at once.
    pub fn discard(&mut self, memory: Option<Memory>) {
        if memory.is_some() && self.discarded.try_reserve(1).is_ok() {
            self.discarded.extend(memory);
        }
    }

    /// Whether the member's number still is the file that was registered. False also for a member without a
    /// cookie if the set is lost and was not dropped yet.
    pub fn verify(&self, slot: u32) -> bool {
        self.members.get(slot).is_some_and(|member| self.verify_member(slot, member))
    }

    /// The same for the member in this slot.
    #[inline(always)]
    pub fn verify_member(&self, slot: u32, member: &Member) -> bool {
        self.instruments().verify(slot, member)
    }

    /// The same if the program may have closed the set: the set is dropped then, and the member checked by
    /// its cookie or file.
    pub fn verify_with_set(&mut self, slot: u32) -> bool {
        self.drop_lost_set();
        self.verify(slot)
    }

    fn instruments(&self) -> Instruments<'_> {
        Instruments { poller: self.poller.as_ref(), files: &self.files }
    }

    /// The member's number is another file's by now, or none, or is about to be closed. What the library
    /// knows of the connection is dropped. If the program knows of the connection (REPORTED), its end will be
    /// reported.
    pub fn mark_closed(&mut self, guard: &EntryGuard, slot: u32) {
        let Some(member) = self.members.get(slot).copied() else { return };
        if member.state == State::Closed {
            return;
        }
        let data = table::lock_unverified(guard, member.fd).take_data(member.cookie);
        self.unregister(guard, slot, &member);
        if member.has(REPORTED) {
            self.keep_parting(slot, |parting| parting.data = data);
        }
        let (times_given_out, _) = table::lock_unverified(guard, member.fd).counters();
        let Some(member) = self.members.get_mut(slot) else { return };
        member.state = State::Closed;
        if member.reason == Reason::None {
            member.reason = Reason::Closed;
        }
        // The number may be another member's from now on: these flags described the old file.
        member.set(READABLE | WRITABLE | NOTED | ALWAYS_READY | VERIFIED, false);
        if member.has(REPORTED) {
            self.turns.push_end(slot);
        } else {
            member.registration = times_given_out;
        }
    }

    /// Allocates the memory to keep a parting for one more member.
    pub fn make_room_for_parting(&mut self) -> Result<(), OutOfMemory> {
        Ok(self.partings.try_reserve(1)?)
    }

    /// Keeps data of a closed member until its end is reported; without memory the data is dropped at once.
    /// Call this after [`Registry::unregister`], which drops what was kept before.
    pub fn keep_parting(&mut self, slot: u32, keep: impl FnOnce(&mut Parting)) {
        let mut parting = self.partings.remove(&slot).unwrap_or_default();
        keep(&mut parting);
        let is_something = parting.held.is_some() || parting.data.is_some();
        if is_something && self.partings.try_reserve(1).is_ok() {
            self.partings.insert(slot, parting);
        }
    }

    /// What is kept of closed members, with their slots.
    pub fn partings(&self) -> impl Iterator<Item = (u32, &Parting)> {
        self.partings.iter().map(|(slot, parting)| (*slot, parting))
    }

    /// Takes what was kept of the member.
    pub fn take_parting(&mut self, slot: u32) -> Parting {
        self.partings.remove(&slot).unwrap_or_default()
    }

    /// Stops watching the member, and clears the table's entry if the number is another socket's by now. The
    /// caller has removed the member, or changes its state afterwards.
    pub fn unregister(&mut self, guard: &EntryGuard, slot: u32, member: &Member) {
        // If the number is another file's by now, that file is not in the set.
        if member.is_registered() && !member.has(ALWAYS_READY) {
            self.intact_poller().into_iter().for_each(|poller| poller.unwatch(member.fd));
        }
        let number = if member.has(NOTED) { Some(table::lock_verified(guard, member.fd)) } else { None };
        self.clear_registration(guard, slot, member, number);
    }

    /// The same for a member that was verified just now, in a step that has verified the set.
    pub fn unregister_verified(&mut self, guard: &EntryGuard, slot: u32, member: &Member) {
        if let Some(poller) = self.poller_unchecked().filter(|_| !member.has(ALWAYS_READY)) {
            poller.unwatch(member.fd);
        }
        let number = if member.has(NOTED) { Some(table::lock_unverified(guard, member.fd)) } else { None };
        self.clear_registration(guard, slot, member, number);
    }

    fn clear_registration(
        &mut self,
        guard: &EntryGuard,
        slot: u32,
        member: &Member,
        number: Option<Slot<'_>>,
    ) {
        self.members.release(slot);
        self.files.remove(&slot);
        self.partings.remove(&slot);
        if let Some(mut number) = number {
            number.note_unlisted(self.key);
            let is_queued = number.get().is_some_and(|connection| !connection.send_queue.is_empty());
            self.discard(number.into_discarded());
            if is_queued {
                background::watch(guard, member.fd);
            }
        }
        self.register_next_waiting(guard, member.fd);
    }

    /// The number is free: another member that waits for it is registered.
    fn register_next_waiting(&mut self, guard: &EntryGuard, fd: RawFd) {
        if self.waiting_for_number == 0 {
            return;
        }
        let next = self.members.slots().find(|(_, member)| member.state == State::Waiting && member.fd == fd);
        if let Some((slot, _)) = next {
            self.waiting_for_number -= 1;
            // If this fails, the next scan tries again.
            let _ = self.register(guard, slot);
        }
    }

    /// Has epoll watch a member in state `Waiting` or `Accepted`. On Ok the member may also still be
    /// `Waiting` (another member holds the number) or be `Closed`. The memory was allocated before.
    pub fn register(&mut self, guard: &EntryGuard, slot: u32) -> Result<(), Error> {
        let Some(member) = self.members.get(slot).copied() else { return Ok(()) };
        if let Some(holder) = self.members.holder(member.fd).filter(|holder| *holder != slot) {
            if self.verify(holder) {
                self.waiting_for_number += 1;
                return Ok(());
            }
            self.mark_closed(guard, holder);
        }
        self.members.hold(slot);
        if let Some(member) = self.members.get_mut(slot) {
            if member.state == State::Waiting {
                member.state = State::Open;
            }
            // Bytes may be queued from before; the next turn finds out.
            member.set(SENDING, member.kind == Kind::Connection && send::any_queued());
        }
        match self.note_file(slot).and_then(|()| self.watch(slot)) {
            Ok(()) => {
                self.note_listed(guard, slot);
                // A new client is to be reported; any other connection may have frames that another list has
                // read ahead.
                self.make_ready(slot, READABLE | WRITABLE);
                Ok(())
            }
            // EBADF: the number is closed, or is one of the library's own descriptors now. ELOOP: it is what
            // ipc_event_fd returned.
            Err(Errno::EBADF | Errno::ELOOP) if member.state != State::Accepted => {
                self.mark_closed(guard, slot);
                Ok(())
            }
            Err(errno) => {
                self.members.release(slot);
                self.members.get_mut(slot).into_iter().for_each(|now| now.state = member.state);
                Err(failed(errno))
            }
        }
    }

    /// Notes in the table of descriptors that this list has the connection.
    fn note_listed(&mut self, guard: &EntryGuard, slot: u32) {
        let key = self.key;
        if let Some(member) = self.members.get_mut(slot).filter(|member| member.kind == Kind::Connection) {
            let noted = match member.state {
                State::Accepted => table::note_new_listed(guard, member.fd, key),
                _ => table::note_listed(guard, member.fd, key),
            };
            member.set(NOTED, noted.is_ok());
            member.cookie = noted.unwrap_or(Cookie::NONE);
        }
    }

    /// Notes which file an extra descriptor is, for the case that the program closes the set.
    fn note_file(&mut self, slot: u32) -> nix::Result<()> {
        let Some(member) = self.members.get(slot) else { return Ok(()) };
        if matches!(member.kind, Kind::Extra | Kind::Watched) {
            let file = FileId::of(member.fd);
            self.files.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            match file {
                Ok(file) => _ = self.files.insert(slot, file),
                Err(Errno::EBADF) => return Err(Errno::EBADF),
                // Then any open file at this number counts as the same one.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// No further event of an extra descriptor is reported.
    pub fn finish_extra(&mut self, guard: &EntryGuard, slot: u32) {
        if let Some(member) = self.members.get(slot).copied() {
            self.unregister(guard, slot, &member);
        }
        if let Some(member) = self.members.get_mut(slot) {
            member.state = State::AtEof;
            member.set(NOTED | ALWAYS_READY, false);
        }
    }

    /// Queues the member for its turn, for the reason `why`. The memory was allocated when the member was
    /// added.
    pub fn make_ready(&mut self, slot: u32, why: u8) {
        if let Some(member) = self.members.get_mut(slot) {
            member.set(why, true);
            if !member.has(QUEUED) {
                member.set(QUEUED, true);
                self.turns.push(slot);
            }
        }
    }

    /// Synchronises the mirror with the list. Without a set, new members stay `Waiting` until the set is
    /// made.
    pub fn sync<L: List>(&mut self, guard: &EntryGuard, list: &L) -> Result<(), Error> {
        let mut members = std::mem::replace(&mut self.members, Members::new());
        let instruments = self.instruments();
        let changes = members.sync(list, |members, slot| {
            members.get(slot).is_some_and(|member| {
                // The entry is a copy of this member if the number still is the member's file, or has no
                // other file: closed, or held by the library.
                instruments.verify(slot, member)
                    || internal_fds::is_kept(member.fd)
                    || fd::check_open(member.fd) == Err(Errno::EBADF)
            })
        });
        self.members = members;
        let changes = changes?;
        let members = &self.members;
        self.turns.make_room(members.slab_size() as usize, |slot| members.has_end(slot))?;
        for (slot, member) in changes.removed {
            self.unregister(guard, slot, &member);
        }
        for (slot, entry) in changes.replaced {
            self.replace(guard, slot, entry);
        }
        if self.poller.is_some() {
            self.waiting_for_number = 0;
            let mut waiting = Vec::new();
            waiting.try_reserve(self.members.count())?;
            let slots = self.members.slots().filter(|(_, member)| member.state == State::Waiting);
            waiting.extend(slots.map(|(slot, member)| (member.index(), slot)));
            // If two new entries have the same descriptor, the last one counts: the other may be older than
            // the descriptor.
            waiting.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
            waiting.into_iter().try_for_each(|(_, slot)| self.register(guard, slot))?;
        }
        Ok(())
    }

    /// A structure has another descriptor now. If its connection was reported, its end is reported; otherwise
    /// the member becomes `Waiting`, and the caller registers it.
    fn replace(&mut self, guard: &EntryGuard, slot: u32, entry: Entry) {
        let Some(member) = self.members.get(slot).copied() else { return };
        self.mark_closed(guard, slot);
        let state = if member.has(REPORTED) { State::Closed } else { State::Waiting };
        self.members.rebind(slot, entry, state);
    }

    /// Checks one member: whether its number still is its file, and whether the number of a closed member was
    /// given out again.
    pub fn check(&mut self, guard: &EntryGuard, slot: u32) -> Result<(), Error> {
        let Some(member) = self.members.get(slot).copied() else { return Ok(()) };
        match member.state {
            State::Accepted | State::Open | State::Broken | State::Draining | State::Drained => {
                if !self.verify(slot) {
                    self.mark_closed(guard, slot);
                }
                Ok(())
            }
            State::Closed if !member.has(REPORTED) && self.is_given_out_again(guard, &member) => {
                let entry = Entry { fd: member.fd, addr: member.addr, kind: member.kind };
                self.members.rebind(slot, entry, State::Waiting);
                self.register(guard, slot)
            }
            State::Waiting if self.members.holder(member.fd).is_none() => self.register(guard, slot),
            _ => Ok(()),
        }
    }

    /// Whether the library has given out a closed member's number again, as a connection that is in no list.
    fn is_given_out_again(&self, guard: &EntryGuard, member: &Member) -> bool {
        let number = table::lock_unverified(guard, member.fd);
        let (times_given_out, _) = number.counters();
        times_given_out != member.registration && number.is_unlisted()
    }

    /// Makes the set anew, after all members were checked: the new set must not watch files that are no longer
    /// theirs.
    pub fn rebuild(&mut self, guard: &EntryGuard) -> Result<(), Error> {
        let mut slots = Vec::new();
        slots.try_reserve(self.members.count())?;
        slots.extend(self.members.slots().map(|(slot, _)| slot));
        slots.into_iter().try_for_each(|slot| self.check(guard, slot))?;
        self.drop_set();
        self.build(guard)
    }
}
