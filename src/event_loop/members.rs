//! The loop's mirror of the program's list.
//!
//! A member exists as long as its entry is in the list, and knows the entry's place. Members lie in a slab;
//! they are found by the entry's place in the list, and by descriptor if they hold the number. The service's
//! socket is the member of slot 0, though it is in no list.
//!
//! ```text
//! an entry is added ──► Waiting ──registered──► Open ──peer sends no more──► Draining
//!                                                 Draining ──all sent──► Drained ──► (end reported)
//! a client is accepted ──► Accepted ──reported──► Open ──error reported──► Broken ──► (end reported)
//!                                       Open (extra) ──end of file reported──► AtEof
//! Accepted, Open, Broken, Draining, Drained ──the number is closed or another file's──► Closed
//! ```
//!
//! A closed member that the program knows of (REPORTED) takes one more turn, for its DISCONNECTION. A closed
//! member that the program added itself stays until the program removes the entry, or until the library gives
//! out the number again.
//!
//! Nothing here asks the kernel: the caller decides whether a number still is the file that was registered.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::sys::epoll::EpollFlags;

use crate::event_loop::holders::Holders;
use crate::event_loop::list::{Entry, Kind, List};
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::socket::Cookie;
use crate::process::growth::reserve;
use crate::process::sharded::empty_map;

/// The slot of the service's socket.
pub const LISTENER: u32 = 0;

/// No slot, and no place in the list.
const NONE: u32 = u32::MAX;

/// What a member is about to do. The text at the head of this file shows which state follows which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not registered: there is no set yet, or another member holds the number.
    Waiting,
    /// The CONNECTION event is to be reported.
    Accepted,
    /// In use: events of its descriptor are reported.
    Open,
    /// An ERROR was reported; the DISCONNECTION follows.
    Broken,
    /// The peer sends no more; the queued bytes are sent before the DISCONNECTION is reported.
    Draining,
    /// The peer sends no more, and all queued bytes are sent; the DISCONNECTION follows.
    Drained,
    /// An extra descriptor whose end of file was reported.
    AtEof,
    /// The number is another file's by now, or none.
    Closed,
    /// The slot is free: there is no member.
    Vacant,
}

/// Why a connection has ended or is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The connection has not ended.
    None,
    /// The peer has closed the connection between two messages.
    Ended,
    /// The peer has closed the connection in the middle of a message.
    Cut,
    /// The peer has closed the connection without reading all bytes, or the kernel has reported a failure.
    Reset,
    /// The peer has announced a longer message than it may send.
    TooLong,
    /// This program has closed the connection.
    Closed,
}

/// One entry of the list, or the service's socket.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The address of the structure.
    pub addr: usize,
    /// The socket's cookie at registration; none if this is neither a connection nor a service.
    pub cookie: Cookie,
    /// The descriptor.
    pub fd: RawFd,
    /// The place in the list; in a vacant slot, the next vacant slot.
    index: u32,
    /// The number of this registration; in a closed member, how often the library had given out its number.
    pub registration: u32,
    /// What the member is about to do.
    pub state: State,
    /// What the loop does when the descriptor is ready.
    pub kind: Kind,
    /// Why the connection is about to end.
    pub reason: Reason,
    flags: u8,
}

/// Flag: the CONNECTION was reported, or will be; so the DISCONNECTION will be reported, too.
pub const REPORTED: u8 = 1;
/// Flag: epoll has to report when the member can send.
pub const SENDING: u8 = 2;
/// Flag: epoll cannot watch the file (a regular file), which is ready at all times.
pub const ALWAYS_READY: u8 = 4;
/// Flag: the slot is in the queue of ready members. The next member of the slot keeps the flag; only
/// [`Members::unqueue`] clears it.
pub const QUEUED: u8 = 8;
/// Flag: the member is queued because its descriptor is readable.
pub const READABLE: u8 = 16;
/// Flag: the member is queued because its descriptor is writable.
pub const WRITABLE: u8 = 32;
/// Flag: the number was verified in this call of the program.
pub const VERIFIED: u8 = 128;
/// Flag: the table of descriptors has noted that this list has the connection, and the socket's cookie.
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

    /// Puts another member into the slot, which stays in the ready queue if it is there.
    fn replace_with(&mut self, member: Self) {
        let queued = self.flags & QUEUED;
        *self = member;
        self.flags |= queued;
    }

    /// Whether the member's end has to be reported now.
    pub fn has_end(&self) -> bool {
        match self.state {
            State::Broken | State::Drained => true,
            State::Closed => self.has(REPORTED),
            _ => false,
        }
    }

    /// Where in the list it stands.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Sets or clears these flags.
    pub fn set(&mut self, flags: u8, on: bool) {
        self.flags = if on { self.flags | flags } else { self.flags & !flags };
    }

    /// Clears these flags; returns whether all of them were set.
    pub fn take(&mut self, flags: u8) -> bool {
        let had = self.has(flags);
        self.set(flags, false);
        had
    }

    /// Whether this is the member of the entry.
    pub fn is(&self, entry: Entry) -> bool {
        (self.addr, self.fd) == (entry.addr, entry.fd) && self.kind.is_alike(entry.kind)
    }

    /// What epoll has to report of the member.
    ///
    /// An extra descriptor is watched edge-triggered: the loop reads it until it is empty, and a descriptor
    /// that cannot be read (a listening socket) must not be reported again and again. A watched descriptor is
    /// level-triggered: the program reads it.
    pub fn interest(&self) -> EpollFlags {
        let mut interest = match (self.state, self.kind) {
            (State::Draining | State::Drained, _) => EpollFlags::empty(),
            (_, Kind::Extra | Kind::Signals | Kind::Timer) => EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            _ => EpollFlags::EPOLLIN,
        };
        interest.set(EpollFlags::EPOLLOUT, self.has(SENDING));
        interest
    }

    /// Whether the member holds its number: epoll watches it, or would if it could.
    pub fn is_registered(&self) -> bool {
        matches!(self.state, State::Accepted | State::Open | State::Broken | State::Draining | State::Drained)
    }
}

/// One registration of a member: a report of epoll, or a turn, belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The member's slot.
    pub slot: u32,
    registration: u32,
}

impl Token {
    /// The token of this member, which is in this slot.
    pub fn of_member(slot: u32, member: &Member) -> Self {
        Self { slot, registration: member.registration }
    }

    /// The token as epoll stores it.
    pub fn data(self) -> u64 {
        u64::from(self.registration) << 32 | u64::from(self.slot)
    }

    /// The token from epoll's data.
    pub fn of(data: u64) -> Self {
        Self { slot: (data & u64::from(u32::MAX)) as u32, registration: (data >> 32) as u32 }
    }
}

/// The changes that the program has made in its list, except changes of place.
#[derive(Debug, Default)]
pub struct Changes {
    /// Members whose structure has another descriptor now, with the new entry.
    pub replaced: Vec<(u32, Entry)>,
    /// Members whose structure is no longer in the list; they are removed here, and have to be unregistered.
    pub removed: Vec<(u32, Member)>,
    /// New members, in reverse order of their places.
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
    holders: Holders,
    registrations: u32,
    count: usize,
}

impl Members {
    /// A mirror of an empty list, without a service.
    pub fn new() -> Self {
        Self {
            slab: Vec::new(),
            vacant: NONE,
            places: Vec::new(),
            holders: Holders::new(),
            registrations: 0,
            count: 0,
        }
    }

    /// How many members there are, without the service.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether there is neither a member nor a service.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.listener().is_none()
    }

    /// Allocates the memory for one more member, and for the service.
    pub fn make_room(&mut self) -> Result<(), OutOfMemory> {
        // The second place is for the service.
        reserve(&mut self.slab, 2)?;
        reserve(&mut self.places, 1)?;
        self.reserve_holders(2)?;
        if self.slab.is_empty() {
            let vacant = Entry { fd: -1, addr: 0, kind: Kind::Listener };
            self.slab.push(Member::new(vacant, NONE, State::Vacant));
        }
        Ok(())
    }

    /// The member in this slot.
    pub fn get(&self, slot: u32) -> Option<&Member> {
        self.slab.get(slot as usize).filter(|member| member.state != State::Vacant)
    }

    /// The member in this slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Member> {
        self.slab.get_mut(slot as usize).filter(|member| member.state != State::Vacant)
    }

    /// How many slots there are, including the service's and vacant ones.
    pub fn slab_size(&self) -> u32 {
        u32::try_from(self.slab.len()).unwrap_or(u32::MAX)
    }

    /// The member of a token; `None` if the member was removed or registered anew since.
    pub fn find(&self, token: Token) -> Option<&Member> {
        self.get(token.slot).filter(|member| member.registration == token.registration)
    }

    /// Whether the end of the slot's member has to be reported now.
    pub fn has_end(&self, slot: u32) -> bool {
        self.get(slot).is_some_and(Member::has_end)
    }

    /// The service's socket.
    pub fn listener(&self) -> Option<&Member> {
        self.get(LISTENER)
    }

    /// Replaces the service's socket. The memory was allocated before.
    pub fn set_listener(&mut self, fd: Option<RawFd>) {
        self.release(LISTENER);
        let (fd, state) = fd.map_or((-1, State::Vacant), |fd| (fd, State::Waiting));
        if let Some(member) = self.slab.get_mut(LISTENER as usize) {
            member.replace_with(Member::new(Entry { fd, addr: 0, kind: Kind::Listener }, NONE, state));
        }
    }

    /// All members but the service's socket, with their slots.
    pub fn slots(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.slab
            .iter()
            .zip(0..)
            .skip(1)
            .filter(|(member, _)| member.state != State::Vacant)
            .map(|(member, slot)| (slot, member))
    }

    /// The slot of the member at this place of the list.
    pub fn at(&self, index: usize) -> Option<u32> {
        self.places.get(index).copied().filter(|slot| *slot != NONE)
    }

    /// The slot of the member that holds this number.
    pub fn holder(&self, fd: RawFd) -> Option<u32> {
        self.holders.find(fd, |slot| number(&self.slab, slot))
    }

    /// Every slot may hold a number, also those that do not yet.
    fn reserve_holders(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.holders.reserve(self.slab.len() + more, |slot| number(&self.slab, slot))
    }

    /// Gives the member its number, with a new registration: tokens of earlier registrations find no member
    /// any more. The memory was allocated before.
    pub fn hold(&mut self, slot: u32) {
        self.registrations = self.registrations.wrapping_add(1);
        let registration = self.registrations;
        if let Some(member) = self.get_mut(slot) {
            member.registration = registration;
            member.take(READABLE | WRITABLE);
            let fd = member.fd;
            self.holders.remove(fd, |slot| number(&self.slab, slot));
            self.holders.insert(fd, slot);
        }
    }

    /// The slot was taken out of the ready queue.
    pub fn unqueue(&mut self, slot: u32) {
        if let Some(member) = self.slab.get_mut(slot as usize) {
            member.take(QUEUED);
        }
    }

    /// The member's number is another one's to hold.
    pub fn release(&mut self, slot: u32) {
        if let Some(member) = self.get(slot) {
            let fd = member.fd;
            if self.holder(fd) == Some(slot) {
                self.holders.remove(fd, |slot| number(&self.slab, slot));
            }
        }
    }

    /// Adds the member of an entry at the end of the list. The memory was allocated before.
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
                place.replace_with(member);
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

    /// Frees the slot; returns the member that was in it.
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

    /// The entry at this place was removed from the list, and the last entry has taken its place. Returns the
    /// member, which has to be unregistered.
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

    /// The member's structure has another descriptor or kind from now on.
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

    /// From now on no member is found by this address.
    pub fn clear_address(&mut self, addr: usize) {
        self.slab.iter_mut().filter(|member| member.addr == addr).for_each(|member| member.addr = 0);
    }

    /// Whether the mirror differs from the list in these places.
    pub fn differs<L: List>(&self, list: &L, mut places: std::ops::Range<usize>) -> bool {
        places.any(|index| match (list.entry(index), self.at(index).and_then(|slot| self.get(slot))) {
            (None, None) => false,
            (Some(entry), Some(member)) => !member.is(entry),
            _ => true,
        })
    }

    /// Synchronises the mirror with the list. A member is found again by the address of its structure, at
    /// whatever place; or, if that address is no longer in the list, by its number in a copy of the
    /// structure, if `is_copy` confirms that the number still is the file that was registered, or is closed.
    /// A copy of a closed member, which holds its number no more, is found at the member's place.
    pub fn sync<L: List>(
        &mut self,
        list: &L,
        mut is_copy: impl FnMut(&Self, u32) -> bool,
    ) -> Result<Changes, OutOfMemory> {
        let (_, size) = list.shape();
        let mut changes = Changes::default();
        self.make_room()?;
        // `open`: places whose entry is not the member's. `astray`: members whose entry is elsewhere or
        // removed.
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
                open.push((index, entry, slot));
            }
            if let Some((slot, member)) = slot.and_then(|slot| Some((slot, self.get(slot)?))) {
                astray.try_reserve(1)?;
                if let Some(other) = astray.insert(member.addr, slot) {
                    reserve(&mut twice, 1)?;
                    twice.push(other);
                }
            }
        }
        // All memory is allocated here: what follows must not stop half-way.
        reserve(&mut self.slab, open.len() + 1)?;
        self.reserve_holders(open.len() + 1)?;
        let more = size.saturating_sub(self.places.len());
        reserve(&mut self.places, more)?;
        reserve(&mut changes.replaced, open.len())?;
        reserve(&mut changes.added, open.len())?;
        reserve(&mut changes.removed, astray.len() + twice.len())?;
        self.places.truncate(size);
        self.places.resize(size, NONE);
        open.retain(|(index, entry, _)| {
            let Some(slot) = astray.remove(&entry.addr) else { return true };
            self.put(*index, slot);
            if self.get(slot).is_some_and(|member| !member.is(*entry)) {
                changes.replaced.push((slot, *entry));
            }
            false
        });
        for (index, entry, former) in open.into_iter().rev() {
            let copied = self.holder(entry.fd).or(former).filter(|slot| {
                self.get(*slot).is_some_and(|member| {
                    astray.get(&member.addr) == Some(slot)
                        && member.fd == entry.fd
                        && member.kind.is_alike(entry.kind)
                }) && is_copy(self, *slot)
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
        // Places whose entry is NULL now.
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

/// The number of a slot's member; -1 for none.
fn number(slab: &[Member], slot: u32) -> RawFd {
    slab.get(slot as usize).map_or(-1, |member| member.fd)
}

#[cfg(test)]
mod tests;
