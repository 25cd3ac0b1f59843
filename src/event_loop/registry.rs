//! Which members epoll watches, and whether their numbers still are the files that were registered.
//!
//! This is the only place that asks whether a number still is the same file, by [`Registry::verify`], and the only one
//! that decides what follows if it is not, by [`Registry::mark_closed`]. How it asks:
//!
//! * what is in the set: EPOLL_CTL_ADD says EEXIST for the file that was registered at the number, and for no other;
//! * a regular file, which epoll refuses: its device and inode;
//! * if the set itself is lost (a fork, or the program has closed it): a connection by its socket's cookie, which the
//!   table of descriptors keeps, and an extra descriptor by its device and inode. Then the set is made anew.
//!
//! A number has at most one live member in a list. A newcomer with the number of another member has that one verified
//! first: if it holds its number, the newcomer waits until it has gone.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use crate::connection::send;
use crate::connection::table::{self, Memory};
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::list::{Entry, Kind, List};
use crate::event_loop::members::{
    ALWAYS_READY, LISTENER, Member, Members, NOTED, QUEUED, READABLE, REPORTED, SENDING, State, Token,
    VERIFIED, WRITABLE,
};
use crate::event_loop::turns::Turns;
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::internal_fds::FileId;
use crate::kernel::poller::{PROBE, Poller, Readiness, TICK};
use crate::kernel::socket;
use crate::process::entry_guard::Section;
use crate::process::sharded::{NumberMap, empty_map};

/// The members of one list, the set that watches them, and the queues of those that are ready.
pub struct Registry {
    /// The list's address.
    key: usize,
    poller: Option<Poller>,
    /// The mirror of the list.
    pub members: Members,
    /// Whose turn it is.
    pub turns: Turns,
    /// Which files the extra descriptors are, by slot.
    files: NumberMap<u32, FileId>,
    /// How many members wait for another one's number.
    shadows: usize,
    /// Memory of closed connections, to be dropped where no lock is held.
    pub discarded: Vec<Memory>,
}

/// What epoll has reported beside members that are ready.
#[derive(Clone, Copy)]
pub struct Collected {
    /// The clock has ticked.
    pub has_ticked: bool,
    /// A registration has outlived its member: the program closed the descriptor with close(2), and the file is still open
    /// elsewhere. It cannot be removed alone: the set is to be made anew.
    pub is_stale: bool,
}

/// What is asked whether a number still is the file that was registered.
struct Instruments<'a> {
    key: usize,
    poller: Option<&'a Poller>,
    files: &'a NumberMap<u32, FileId>,
}

impl Instruments<'_> {
    /// Whether the member's number still is the file that was registered.
    fn verify(&self, section: &Section, slot: u32, member: &Member) -> bool {
        let Some(poller) = self.poller.filter(|_| !member.has(ALWAYS_READY)) else {
            return self.is_noted_file(section, slot, member);
        };
        match poller.probe(member.fd) {
            Err(Errno::EEXIST) => true,
            // It is not known whether the file is in the set: there was no memory to put it there.
            Err(Errno::ENOMEM | Errno::ENOSPC) => {
                let token = Token::of_member(slot, member).data();
                poller.change(member.fd, token, Registry::interest(member)).is_ok()
            }
            _ => false,
        }
    }

    /// The same without the set, by what was noted when the member was registered.
    fn is_noted_file(&self, section: &Section, slot: u32, member: &Member) -> bool {
        match member.kind {
            Kind::Connection => {
                !member.has(NOTED) || table::lock(section, member.fd).list() == Some(self.key)
            }
            Kind::Extra | Kind::Watched => match FileId::of(member.fd) {
                Ok(now) => self.files.get(&slot).is_none_or(|file| now == *file),
                Err(errno) => errno != Errno::EBADF,
            },
            Kind::Listener => true,
        }
    }
}

/// A wait that failed.
pub fn failed(errno: Errno) -> Error {
    Error::new(Code::IPC_ERROR_WAIT_EVENT__SELECT, errno)
}

impl Registry {
    /// No member, and no set.
    pub fn new(key: usize) -> Self {
        Self {
            key,
            poller: None,
            members: Members::new(),
            turns: Turns::new(),
            files: empty_map(),
            shadows: 0,
            discarded: Vec::new(),
        }
    }

    /// The list's address.
    pub fn key(&self) -> usize {
        self.key
    }

    /// The set; none if there is none of this process, or the program has closed it.
    pub fn poller(&self) -> Option<&Poller> {
        self.poller.as_ref().filter(|poller| poller.is_intact())
    }

    /// Whether the set still has its clock: nothing else ends a wait in which the program closes a member by hand.
    pub fn has_clock(&self) -> bool {
        self.poller.as_ref().is_none_or(Poller::has_clock)
    }

    /// The set of a loop that has verified it in this call.
    pub fn poller_mut(&mut self) -> Option<&mut Poller> {
        self.poller.as_mut()
    }

    /// Finds the memory for one more member, and for its turns.
    pub fn make_room(&mut self) -> Result<(), OutOfMemory> {
        self.members.make_room()?;
        let members = &self.members;
        self.turns.make_room(members.count() + 1, |token| members.find(token).is_some())
    }

    /// Memory of a closed connection, to be dropped where no lock is held.
    pub fn discard(&mut self, memory: Option<Memory>) {
        if let Some(memory) = memory
            && self.discarded.try_reserve(1).is_ok()
        {
            self.discarded.push(memory);
        }
    }

    /// What epoll is to report of a member.
    ///
    /// An extra descriptor is reported once for each thing that happens: it is read until it is empty, and one that
    /// cannot be read (a listening socket) must not be reported again and again. A watched one is the program's to read.
    fn interest(member: &Member) -> EpollFlags {
        let mut interest = match (member.state, member.kind) {
            (State::Draining, _) => EpollFlags::empty(),
            (_, Kind::Extra) => EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            _ => EpollFlags::EPOLLIN,
        };
        interest.set(EpollFlags::EPOLLOUT, member.has(SENDING));
        interest
    }

    /// Whether the member's number still is the file that was registered.
    pub fn verify(&self, section: &Section, slot: u32) -> bool {
        self.members.get(slot).is_some_and(|member| self.instruments().verify(section, slot, member))
    }

    fn instruments(&self) -> Instruments<'_> {
        Instruments { key: self.key, poller: self.poller.as_ref(), files: &self.files }
    }

    /// The member's number is that of another file, or of none, or about to be closed. What is known of the connection is
    /// forgotten. If its coming was reported, its end will be.
    pub fn mark_closed(&mut self, section: &Section, slot: u32) {
        let Some(member) = self.members.get(slot).copied() else { return };
        if member.state == State::Closed {
            return;
        }
        self.unregister(section, slot, &member);
        let (given, _) = table::lock_known(section, member.fd).counters();
        let Some(member) = self.members.get_mut(slot) else { return };
        member.state = State::Closed;
        // What the table and the set know of the number from now on is another member's.
        member.set(QUEUED | READABLE | WRITABLE | NOTED | ALWAYS_READY | VERIFIED, false);
        if member.has(REPORTED) {
            let token = Token::of_member(slot, member);
            self.turns.push_end(token);
        } else {
            member.registration = given;
        }
    }

    /// Watches the member no more; what is known of another socket with its number is forgotten. It is removed already,
    /// or about to be.
    pub fn unregister(&mut self, section: &Section, slot: u32, member: &Member) {
        // Where the number is another file's by now the set has none of it.
        if member.is_registered()
            && !member.has(ALWAYS_READY)
            && let Some(poller) = self.poller()
        {
            poller.remove(member.fd);
        }
        self.members.release(slot);
        self.files.remove(&slot);
        if member.has(NOTED) {
            table::note_unlisted(section, member.fd, self.key);
            let memory = table::lock(section, member.fd).into_discarded();
            self.discard(memory);
        }
        self.wake_shadows(section, member.fd);
    }

    /// A number is free to be held by another member.
    fn wake_shadows(&mut self, section: &Section, fd: RawFd) {
        if self.shadows == 0 {
            return;
        }
        let shadow =
            self.members.slots().find(|(_, member)| member.state == State::Waiting && member.fd == fd);
        if let Some((slot, _)) = shadow {
            self.shadows -= 1;
            // Should it fail, the next pass through the list tries again.
            let _ = self.register(section, slot);
        }
    }

    /// Has epoll watch a member that waits for it, or one that was just accepted. There is room for all that follows.
    pub fn register(&mut self, section: &Section, slot: u32) -> Result<(), Error> {
        let Some(member) = self.members.get(slot).copied() else { return Ok(()) };
        if let Some(holder) = self.members.holder(member.fd).filter(|holder| *holder != slot) {
            if self.verify(section, holder) {
                self.shadows += 1;
                return Ok(());
            }
            self.mark_closed(section, holder);
        }
        self.members.hold(slot);
        if let Some(member) = self.members.get_mut(slot) {
            if member.state == State::Waiting {
                member.state = State::Open;
            }
            // It may have something queued from before; a look will show.
            member.set(SENDING, member.kind == Kind::Connection && send::any_queued());
        }
        match self.note_file(slot).and_then(|()| self.watch(slot)) {
            Ok(()) => {
                self.note_listed(section, slot);
                // A new client is to be reported; another one may have frames that another list has read ahead.
                if slot != LISTENER {
                    self.make_ready(slot, READABLE | WRITABLE);
                }
                Ok(())
            }
            // Perhaps its number is now one of the library's own descriptors; ELOOP is what ipc_event_fd gives out.
            Err(Errno::EBADF | Errno::ELOOP) if member.state != State::Accepted => {
                self.mark_closed(section, slot);
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
    fn note_listed(&mut self, section: &Section, slot: u32) {
        let key = self.key;
        if let Some(member) = self.members.get_mut(slot).filter(|member| member.kind == Kind::Connection) {
            let is_noted = table::note_listed(section, member.fd, key).is_ok();
            member.set(NOTED, is_noted);
        }
    }

    /// Notes which file an extra descriptor is: the program may close the set.
    fn note_file(&mut self, slot: u32) -> nix::Result<()> {
        let Some(member) = self.members.get(slot) else { return Ok(()) };
        if matches!(member.kind, Kind::Extra | Kind::Watched) {
            let file = FileId::of(member.fd);
            self.files.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            match file {
                Ok(file) => _ = self.files.insert(slot, file),
                Err(Errno::EBADF) => return Err(Errno::EBADF),
                // Then any open file counts as this one.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Puts the member into the set; if there is none yet, that is done when it is made.
    fn watch(&mut self, slot: u32) -> nix::Result<()> {
        let (Some(member), Some(poller)) = (self.members.get(slot), &self.poller) else { return Ok(()) };
        let (fd, token) = (member.fd, Token::of_member(slot, member).data());
        let result = match poller.add(fd, token, Self::interest(member)) {
            Err(Errno::EEXIST) => poller.change(fd, token, Self::interest(member)),
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
        if let (Some(member), Some(poller)) = (self.members.get(slot), self.poller())
            && member.is_registered()
        {
            // Should it fail, later calls for this connection send what is queued.
            let _ = poller.change(member.fd, Token::of_member(slot, member).data(), Self::interest(member));
        }
    }

    /// Reports no event of an extra descriptor any more.
    pub fn finish_extra(&mut self, section: &Section, slot: u32) {
        if let Some(member) = self.members.get(slot).copied() {
            self.unregister(section, slot, &member);
        }
        if let Some(member) = self.members.get_mut(slot) {
            member.state = State::AtEof;
            member.set(NOTED | ALWAYS_READY, false);
        }
    }

    /// Queues the member for its turn. There is room for it: it was made when the member came.
    pub fn make_ready(&mut self, slot: u32, why: u8) {
        if let Some(member) = self.members.get_mut(slot) {
            member.set(why, true);
            if !member.has(QUEUED) {
                member.set(QUEUED, true);
                let token = Token::of_member(slot, member);
                self.turns.push(token);
            }
        }
    }

    /// Makes the set where there is none, and registers all members. If the one before was lost, each connection is
    /// first asked whether it still is the socket that was registered.
    pub fn build(&mut self, section: &Section, is_paused: bool) -> Result<(), Error> {
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
            .register_listener(section, is_paused)
            .and_then(|()| slots.iter().try_for_each(|slot| self.renew(section, *slot)))
            .and_then(|()| slots.iter().try_for_each(|slot| self.register_waiting(section, *slot)));
        if registered.is_err() {
            self.drop_set();
        }
        registered
    }

    /// Registers a member in a set that was made anew: it stays what it is, unless its number is another file's by now.
    fn renew(&mut self, section: &Section, slot: u32) -> Result<(), Error> {
        let Some(member) = self.members.get(slot).copied() else { return Ok(()) };
        if !member.is_registered() {
            return Ok(());
        }
        if !self.instruments().is_noted_file(section, slot, &member) {
            self.mark_closed(section, slot);
        } else if !member.has(ALWAYS_READY) {
            match self.watch(slot) {
                Ok(()) => self.make_ready(slot, READABLE | WRITABLE),
                Err(Errno::EBADF | Errno::ELOOP | Errno::EPERM) => self.mark_closed(section, slot),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    fn register_waiting(&mut self, section: &Section, slot: u32) -> Result<(), Error> {
        if self.members.get(slot).is_some_and(|member| member.state == State::Waiting) {
            return self.register(section, slot);
        }
        Ok(())
    }

    /// The set is no more this one's.
    pub fn drop_set(&mut self) {
        self.poller = None;
    }

    /// Watches the service's socket, unless it is watched as it is now.
    pub fn register_listener(&mut self, section: &Section, is_paused: bool) -> Result<(), Error> {
        let (Some(listener), Some(poller)) = (self.members.listener().copied(), &self.poller) else {
            return Ok(());
        };
        let interest = if is_paused { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        if listener.state == State::Open {
            let token = Token::of_member(LISTENER, &listener).data();
            match poller.change(listener.fd, token, interest) {
                // The set is new, or the number is another socket's by now.
                Err(Errno::ENOENT) => {}
                result => return result.map_err(failed),
            }
        }
        prepare_listener(section, listener.fd).map_err(failed)?;
        // A connection that had the number is closed.
        if let Some(holder) = self.members.holder(listener.fd).filter(|holder| *holder != LISTENER) {
            self.mark_closed(section, holder);
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
    pub fn set_listener(&mut self, section: &Section, fd: Option<RawFd>) -> Result<bool, Error> {
        if self.has_listener(fd) {
            return Ok(false);
        }
        if let Some(fd) = fd {
            // Before anything is changed: what is no service is an error.
            socket::check_listener(fd).map_err(failed)?;
        }
        self.make_room()?;
        if let Some(old) = self.members.listener().copied() {
            self.unregister(section, LISTENER, &old);
        }
        self.members.set_listener(fd);
        Ok(true)
    }

    /// Makes the mirror as the list is.
    pub fn sync<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        let mut members = std::mem::replace(&mut self.members, Members::new());
        let instruments = self.instruments();
        let changes = members.sync(list, |members, slot| {
            members.get(slot).is_some_and(|member| instruments.verify(section, slot, member))
        });
        self.members = members;
        let changes = changes?;
        let all = self.members.count() + changes.removed.len();
        let members = &self.members;
        self.turns.make_room(all, |token| members.find(token).is_some())?;
        for (slot, member) in changes.removed {
            self.unregister(section, slot, &member);
        }
        for (slot, entry) in changes.replaced {
            self.replace(section, slot, entry);
        }
        if self.poller.is_some() {
            self.shadows = 0;
            let mut waiting = Vec::new();
            waiting.try_reserve(self.members.count())?;
            let slots = self.members.slots().filter(|(_, member)| member.state == State::Waiting);
            waiting.extend(slots.map(|(slot, member)| (member.index(), slot)));
            // Of two new entries with one descriptor the last counts: the other may be older than the descriptor.
            waiting.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
            waiting.into_iter().try_for_each(|(_, slot)| self.register(section, slot))?;
        }
        Ok(())
    }

    /// A structure has another descriptor now. Of one whose coming was reported this is the end; another one is
    /// registered anew.
    fn replace(&mut self, section: &Section, slot: u32, entry: Entry) {
        let Some(member) = self.members.get(slot).copied() else { return };
        self.mark_closed(section, slot);
        let state = if member.has(REPORTED) { State::Closed } else { State::Waiting };
        self.members.rebind(slot, entry, state);
    }

    /// Looks at one place of the list: whether the member's number still is its own, and whether one that was closed
    /// has been given out again.
    pub fn check(&mut self, section: &Section, slot: u32) -> Result<(), Error> {
        let Some(member) = self.members.get(slot).copied() else { return Ok(()) };
        match member.state {
            State::Accepted | State::Open | State::Broken | State::Draining => {
                if !self.verify(section, slot) {
                    self.mark_closed(section, slot);
                }
                Ok(())
            }
            State::Closed if !member.has(REPORTED) && self.is_given_out_again(section, &member) => {
                let entry = Entry { fd: member.fd, addr: member.addr, kind: member.kind };
                self.members.rebind(slot, entry, State::Waiting);
                self.register(section, slot)
            }
            State::Waiting if self.members.holder(member.fd).is_none() => self.register(section, slot),
            _ => Ok(()),
        }
    }

    /// Whether the library has given out a closed member's number as a connection that is in no list.
    fn is_given_out_again(&self, section: &Section, member: &Member) -> bool {
        let number = table::lock_known(section, member.fd);
        let (given, _) = number.counters();
        given != member.registration && number.is_unlisted()
    }

    /// Takes in what epoll reports.
    pub fn collect(&mut self, brought: &[Readiness]) -> Collected {
        let (mut is_stale, mut has_ticked) = (false, false);
        for readiness in brought {
            let (flags, data) = (readiness.events, readiness.u64);
            if data == TICK {
                has_ticked = true;
                self.poller.iter_mut().for_each(Poller::ticked);
                continue;
            }
            if data == PROBE {
                continue;
            }
            let flags = EpollFlags::from_bits_truncate(flags.cast_signed());
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
        Collected { has_ticked, is_stale }
    }

    /// Looks at all members: what the set does not watch any more a new one must not, either.
    pub fn check_all(&mut self, section: &Section) -> Result<(), Error> {
        let mut slots = Vec::new();
        slots.try_reserve(self.members.count())?;
        slots.extend(self.members.slots().map(|(slot, _)| slot));
        slots.into_iter().try_for_each(|slot| self.check(section, slot))
    }
}

/// Makes calls on the listener return instead of waiting, for all processes that share it: another one may take the
/// client that epoll reported. What the program had set before is remembered for `ipc_accept`.
fn prepare_listener(section: &Section, fd: RawFd) -> nix::Result<()> {
    if socket::prepare_listener(fd)? {
        table::lock(section, fd).entry()?.waits_for_clients = true;
    }
    Ok(())
}
