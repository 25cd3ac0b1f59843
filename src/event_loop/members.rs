//! The loop's mirror of the program's list.
//!
//! A member exists as long as its entry stands in the list, and knows where. Members lie in a slab; they are found by
//! the entry's place in the list, and by the descriptor if they hold its number. The service's socket is the member
//! of slot 0, though it stands in no list.
//!
//! ```text
//! an entry is added ──► Waiting ──registered──► Open ──the peer ends──► Draining ──all is sent──► (closed, reported)
//! a client is accepted ──► Accepted ──reported──► Open ──error reported──► Broken ──────────────► (closed, reported)
//!                                     Open (extra) ──end reported──► AtEof
//! any of these, when its number is found to be another file's ──► Closed
//! ```
//!
//! A closed member whose coming was reported takes its turn once more, for its end. One that the program added itself
//! stays until the program takes it out, or until the library gives out the number again.
//!
//! Nothing here asks the kernel: whether a number still is the file that was registered is the caller's to say.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::sys::epoll::EpollFlags;

use crate::event_loop::list::{Entry, Kind, List};
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::socket::Cookie;
use crate::process::growth::reserve;
use crate::process::sharded::{NumberMap, empty_map};

/// The slot of the service's socket.
pub const LISTENER: u32 = 0;

/// No slot, and no place in the list.
const NONE: u32 = u32::MAX;

/// What a member is about to do. The head of the file has what leads where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not registered: there is no set yet, or another member holds the number.
    Waiting,
    /// Its coming is to be reported.
    Accepted,
    /// As it should be.
    Open,
    /// An error was reported; the end follows.
    Broken,
    /// The peer sends no more; what is queued for it is sent before the end.
    Draining,
    /// An extra descriptor whose end was reported.
    AtEof,
    /// The number is that of another file, or of none.
    Closed,
    /// No member: the slot is free.
    Vacant,
}

/// Why a connection has ended, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has not.
    None,
    /// The peer has closed it, between two messages.
    Ended,
    /// The peer has closed it amid a message.
    Cut,
    /// The peer has closed it without having read all, or the kernel says that it failed.
    Reset,
    /// The peer has announced a longer message than it may send.
    TooLong,
    /// This program has closed it.
    Closed,
}

/// One entry of the list, or the service's socket.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The address of its structure.
    pub addr: usize,
    /// Which socket it was when it was registered; none for what is no connection.
    pub cookie: Cookie,
    /// Its descriptor.
    pub fd: RawFd,
    /// Where in the list it stands; of a vacant slot, the next one.
    index: u32,
    /// Which registration of this slot it is; of a closed member, how often the library had given out its number.
    pub registration: u32,
    /// What it is about to do.
    pub state: State,
    /// What is to be done when it is ready.
    pub kind: Kind,
    /// Why it is about to end.
    pub reason: Reason,
    flags: u8,
}

/// Its coming was reported, or will be: so will be its end.
pub const REPORTED: u8 = 1;
/// Epoll is to report when more can be sent.
pub const SENDING: u8 = 2;
/// Epoll cannot watch it (a regular file): it is ready at all times.
pub const ALWAYS_READY: u8 = 4;
/// It stands in the ready queue.
pub const QUEUED: u8 = 8;
/// Why it stands there.
pub const READABLE: u8 = 16;
/// Why it stands there.
pub const WRITABLE: u8 = 32;
/// Its number was verified in this call of the program.
pub const VERIFIED: u8 = 128;
/// The table of descriptors knows that this list has it, and which socket it is.
pub const NOTED: u8 = 64;

impl Member {
    fn new(entry: Entry, index: u32, state: State) -> Self {
        let Entry { fd, addr, kind } = entry;
        Self {
            addr,
            cookie: Cookie::NONE,
            fd,
            index,
            registration: 0,
            state,
            kind,
            reason: Reason::None,
            flags: 0,
        }
    }

    /// Where in the list it stands.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Whether all of these are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Sets or clears these.
    pub fn set(&mut self, flags: u8, on: bool) {
        self.flags = if on { self.flags | flags } else { self.flags & !flags };
    }

    /// Clears these; whether they were set.
    pub fn take(&mut self, flags: u8) -> bool {
        let had = self.has(flags);
        self.set(flags, false);
        had
    }

    /// Whether it is this entry.
    pub fn is(&self, entry: Entry) -> bool {
        (self.addr, self.fd) == (entry.addr, entry.fd) && self.kind.is_alike(entry.kind)
    }

    /// What epoll is to report of it.
    ///
    /// An extra descriptor is reported once for each thing that happens: it is read until it is empty, and one that
    /// cannot be read (a listening socket) must not be reported again and again. A watched one is the program's to read.
    pub fn interest(&self) -> EpollFlags {
        let mut interest = match (self.state, self.kind) {
            (State::Draining, _) => EpollFlags::empty(),
            (_, Kind::Extra | Kind::Signals | Kind::Timer) => EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            _ => EpollFlags::EPOLLIN,
        };
        interest.set(EpollFlags::EPOLLOUT, self.has(SENDING));
        interest
    }

    /// Whether it holds its number: epoll watches it, or would if it could.
    pub fn is_registered(&self) -> bool {
        matches!(self.state, State::Accepted | State::Open | State::Broken | State::Draining)
    }
}

/// Which registration an event of epoll is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The member's slot.
    pub slot: u32,
    registration: u32,
}

impl Token {
    /// The token of this member, which has this slot.
    pub fn of_member(slot: u32, member: &Member) -> Self {
        Self { slot, registration: member.registration }
    }

    /// As epoll keeps it.
    pub fn data(self) -> u64 {
        u64::from(self.registration) << 32 | u64::from(self.slot)
    }

    /// The token of an event.
    pub fn of(data: u64) -> Self {
        Self { slot: (data & u64::from(u32::MAX)) as u32, registration: (data >> 32) as u32 }
    }
}

/// What the program has changed in its list, beside places.
#[derive(Debug, Default)]
pub struct Changes {
    /// Members whose structure has another descriptor now: which.
    pub replaced: Vec<(u32, Entry)>,
    /// Members whose structure is in the list no more: they are removed, and are to be unregistered.
    pub removed: Vec<(u32, Member)>,
    /// New members, the last of the list first.
    pub added: Vec<u32>,
}

/// The mirror.
pub struct Members {
    slab: Vec<Member>,
    /// The first vacant slot.
    vacant: u32,
    /// The slot of each place in the list.
    places: Vec<u32>,
    /// The slot of the member that holds each number.
    holders: NumberMap<RawFd, u32>,
    registrations: u32,
    count: usize,
}

impl Members {
    /// Nothing but a vacant slot for the service's socket.
    pub fn new() -> Self {
        Self {
            slab: Vec::new(),
            vacant: NONE,
            places: Vec::new(),
            holders: empty_map(),
            registrations: 0,
            count: 0,
        }
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether there is neither entry nor service.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.listener().is_none()
    }

    /// Finds the memory for one more.
    pub fn make_room(&mut self) -> Result<(), OutOfMemory> {
        // And for that of the service.
        reserve(&mut self.slab, 2)?;
        reserve(&mut self.places, 1)?;
        self.holders.try_reserve(2)?;
        if self.slab.is_empty() {
            let vacant = Entry { fd: -1, addr: 0, kind: Kind::Listener };
            self.slab.push(Member::new(vacant, NONE, State::Vacant));
        }
        Ok(())
    }

    /// The member of this slot.
    pub fn get(&self, slot: u32) -> Option<&Member> {
        self.slab.get(slot as usize).filter(|member| member.state != State::Vacant)
    }

    /// The member of this slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Member> {
        self.slab.get_mut(slot as usize).filter(|member| member.state != State::Vacant)
    }

    /// How many slots there are, the service's and vacant ones, too.
    pub fn slab_size(&self) -> u32 {
        u32::try_from(self.slab.len()).unwrap_or(u32::MAX)
    }

    /// The member that a token is of; none if it was registered anew since, or removed.
    pub fn find(&self, token: Token) -> Option<&Member> {
        self.get(token.slot).filter(|member| member.registration == token.registration)
    }

    /// The service's socket.
    pub fn listener(&self) -> Option<&Member> {
        self.get(LISTENER)
    }

    /// Replaces the service's socket; there is room for it.
    pub fn set_listener(&mut self, fd: Option<RawFd>) {
        self.release(LISTENER);
        let (fd, state) = fd.map_or((-1, State::Vacant), |fd| (fd, State::Waiting));
        if let Some(member) = self.slab.get_mut(LISTENER as usize) {
            *member = Member::new(Entry { fd, addr: 0, kind: Kind::Listener }, NONE, state);
        }
    }

    /// All members but the service's socket: their slots.
    pub fn slots(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.slab
            .iter()
            .zip(0..)
            .skip(1)
            .filter(|(member, _)| member.state != State::Vacant)
            .map(|(member, slot)| (slot, member))
    }

    /// The member at this place of the list.
    pub fn at(&self, index: usize) -> Option<u32> {
        self.places.get(index).copied().filter(|slot| *slot != NONE)
    }

    /// The member that holds this number.
    pub fn holder(&self, fd: RawFd) -> Option<u32> {
        self.holders.get(&fd).copied()
    }

    /// Has the member hold its number, with a registration of its own: a turn that it had before is none any more. There
    /// is room for it.
    pub fn hold(&mut self, slot: u32) {
        self.registrations = self.registrations.wrapping_add(1);
        let registration = self.registrations;
        if let Some(member) = self.get_mut(slot) {
            member.registration = registration;
            member.take(QUEUED | READABLE | WRITABLE);
            let fd = member.fd;
            self.holders.insert(fd, slot);
        }
    }

    /// The member's number is another one's to hold.
    pub fn release(&mut self, slot: u32) {
        if let Some(member) = self.get(slot) {
            let fd = member.fd;
            if self.holder(fd) == Some(slot) {
                self.holders.remove(&fd);
            }
        }
    }

    /// Adds the entry at the end of the list. There is room for it.
    pub fn push(&mut self, entry: Entry, index: usize, state: State) -> u32 {
        let slot = self.insert(entry, index, state);
        self.put(index, slot);
        slot
    }

    fn insert(&mut self, entry: Entry, index: usize, state: State) -> u32 {
        let member = Member::new(entry, u32::try_from(index).unwrap_or(NONE), state);
        self.count += 1;
        match self.slab.get_mut(self.vacant as usize) {
            Some(place) => {
                let slot = std::mem::replace(&mut self.vacant, place.index);
                *place = member;
                slot
            }
            None => {
                self.slab.push(member);
                u32::try_from(self.slab.len() - 1).unwrap_or(NONE)
            }
        }
    }

    fn put(&mut self, index: usize, slot: u32) {
        if index >= self.places.len() {
            self.places.resize(index + 1, NONE);
        }
        if let Some(place) = self.places.get_mut(index) {
            *place = slot;
        }
        if let Some(member) = self.get_mut(slot) {
            member.index = u32::try_from(index).unwrap_or(NONE);
        }
    }

    /// Frees the slot.
    fn vacate(&mut self, slot: u32) -> Option<Member> {
        self.release(slot);
        let next = self.vacant;
        let member = self.get_mut(slot)?;
        let was = *member;
        (member.state, member.index, member.fd) = (State::Vacant, next, -1);
        self.vacant = slot;
        self.count -= 1;
        Some(was)
    }

    /// The entry at this place was taken out of the list, and the last one has taken its place: the member, which is
    /// to be unregistered.
    pub fn swap_remove(&mut self, index: usize) -> Option<Member> {
        if index >= self.places.len() {
            return None;
        }
        let slot = self.places.swap_remove(index);
        if let Some(moved) = self.at(index) {
            self.put(index, moved);
        }
        self.vacate(slot)
    }

    /// The member's structure has another descriptor, or is of another kind, from now on.
    pub fn rebind(&mut self, slot: u32, entry: Entry, state: State) {
        self.release(slot);
        if let Some(member) = self.get_mut(slot) {
            (member.fd, member.kind, member.state) = (entry.fd, entry.kind, state);
            member.cookie = Cookie::NONE;
            if state != State::Closed {
                member.reason = Reason::None;
            }
        }
    }

    /// No member is found by this address from now on.
    pub fn forget_address(&mut self, addr: usize) {
        self.slab.iter_mut().filter(|member| member.addr == addr).for_each(|member| member.addr = 0);
    }

    /// Whether the mirror is not as the list is, from these places on.
    pub fn differs<L: List>(&self, list: &L, mut places: std::ops::Range<usize>) -> bool {
        places.any(|index| match (list.entry(index), self.at(index).and_then(|slot| self.get(slot))) {
            (None, None) => false,
            (Some(entry), Some(member)) => !member.is(entry),
            _ => true,
        })
    }

    /// Makes the mirror as the list is. A member is followed by the address of its structure wherever that stands by
    /// now; or, if that is gone, by its number to a copy of the structure, if `is_it` says that the number still is the
    /// file that was registered.
    pub fn sync<L: List>(
        &mut self,
        list: &L,
        mut is_it: impl FnMut(&Self, u32) -> bool,
    ) -> Result<Changes, OutOfMemory> {
        let (_, size) = list.shape();
        let mut changes = Changes::default();
        self.make_room()?;
        // Places whose entry is not the member's, and the members that stand elsewhere or nowhere.
        let (mut open, mut astray) = (Vec::new(), empty_map::<usize, u32>());
        let mut twice = Vec::new();
        for index in 0..size.max(self.places.len()) {
            let entry = if index < size { list.entry(index) } else { None };
            let slot = self.at(index);
            let member = slot.and_then(|slot| self.get(slot));
            if entry.zip(member).is_some_and(|(entry, member)| member.is(entry)) {
                continue;
            }
            if let Some(entry) = entry {
                reserve(&mut open, 1)?;
                open.push((index, entry));
            }
            if let Some((slot, member)) = slot.and_then(|slot| Some((slot, self.get(slot)?))) {
                astray.try_reserve(1)?;
                if let Some(other) = astray.insert(member.addr, slot) {
                    reserve(&mut twice, 1)?;
                    twice.push(other);
                }
            }
        }
        // Room for all that follows: it must not stop in the middle.
        reserve(&mut self.slab, open.len() + 1)?;
        self.holders.try_reserve(open.len() + 1)?;
        let more = size.saturating_sub(self.places.len());
        reserve(&mut self.places, more)?;
        reserve(&mut changes.replaced, open.len())?;
        reserve(&mut changes.added, open.len())?;
        reserve(&mut changes.removed, astray.len() + twice.len())?;
        self.places.truncate(size);
        self.places.resize(size, NONE);
        open.retain(|(index, entry)| {
            let Some(slot) = astray.remove(&entry.addr) else { return true };
            self.put(*index, slot);
            if self.get(slot).is_some_and(|member| !member.is(*entry)) {
                changes.replaced.push((slot, *entry));
            }
            false
        });
        for (index, entry) in open.into_iter().rev() {
            let copied = self.holder(entry.fd).filter(|slot| {
                self.get(*slot).is_some_and(|member| {
                    astray.get(&member.addr) == Some(slot) && member.kind.is_alike(entry.kind)
                }) && is_it(self, *slot)
            });
            if let Some(slot) = copied {
                if let Some(member) = self.get(slot) {
                    astray.remove(&member.addr);
                }
                if let Some(member) = self.get_mut(slot) {
                    member.addr = entry.addr;
                }
                self.put(index, slot);
            } else {
                let slot = self.insert(entry, index, State::Waiting);
                self.put(index, slot);
                changes.added.push(slot);
            }
        }
        // Places of entries that are NULL now.
        for (index, place) in self.places.iter_mut().enumerate() {
            if *place != NONE && list.entry(index).is_none() {
                *place = NONE;
            }
        }
        for slot in astray.into_values().chain(twice) {
            if let Some(member) = self.vacate(slot) {
                changes.removed.push((slot, member));
            }
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests;
