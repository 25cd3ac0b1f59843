//! What the library knows of each descriptor, in one table for the process, reached by the number.
//!
//! The descriptor is the key: programs copy `ipc_connection_info` by value, so its address means nothing. Three things
//! may be known of a number, each for the one socket whose cookie stands beside it:
//!
//! * what has come in and is yet to go out (a [`Connection`]), as long as there is any of it;
//! * what the program has set for it: limits, and a pointer of its own;
//! * which list it is in.
//!
//! A program may close the number with close(2) at any time, and the kernel gives it to another file. So [`lock_verified`] asks
//! whether it still is the socket that something is known of, and forgets what is not; nothing is known of most numbers,
//! and then the kernel is not asked. Two counters tell calls that wait what has happened meanwhile: how often the library
//! has given out the number as a new connection, and how often it has closed it.
//!
//! The table is cut in parts, each with a lock of its own: a number's place is in the part of its remainder.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::state::{Connection, Settings};
use crate::connection::user_data::UserData;
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::internal_fds;
use crate::kernel::socket::{self, Cookie};
use crate::process::entry_guard::EntryGuard;
use crate::process::fork_epoch;
use crate::process::growth::{boxed, reserve};
use crate::process::sharded::{Part, Shard, Shards};
use crate::process::sync::{AtomicUsize, Ordering};

const PARTS: usize = 16;

static TABLE: Shards<Numbers, PARTS> = Shards([const { Part::new(Numbers::EMPTY) }; PARTS]);

/// The numbers below which every one has its place.
static PLACES: AtomicUsize = AtomicUsize::new(0);

/// The highest number that was known so far, and how far beyond it there are to be places.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);
const MARGIN: usize = 64;

/// What is known of one number.
#[derive(Default)]
struct Entry {
    connection: Option<Memory>,
    set: Option<Set>,
    /// The list that has it: its address. 0 for none.
    list: usize,
    /// Which socket all this is known of; if nothing is known, which one was last given out.
    cookie: Cookie,
    /// How often the library has given out this number, and how often it has closed it; with the latter, [`REFUSES`] and
    /// [`SHARED`].
    given: u32,
    closes: u32,
}

/// In [`Entry::closes`]: the kernel refuses descriptors that are sent to the socket.
const REFUSES: u32 = 1 << 31;

/// The same: another process may have the socket.
const SHARED: u32 = 1 << 30;

/// The same: a call is about to close the socket of this cookie.
const CLOSING: u32 = 1 << 29;

/// Beside the count.
const FLAGS: u32 = REFUSES | SHARED | CLOSING;

/// A connection's memory, in a block of its own.
pub type Memory = Box<[Connection; 1]>;

/// What the program has set for a descriptor, in a block of its own: most have nothing set.
type Set = Box<[SetByProgram; 1]>;

#[derive(Default)]
struct SetByProgram {
    settings: Settings,
    data: Option<UserData>,
}

impl SetByProgram {
    fn is_nothing(&self) -> bool {
        self.settings == Settings::default() && self.data.is_none()
    }
}

impl Entry {
    fn is_in_use(&self) -> bool {
        self.connection.is_some() || self.set.is_some() || self.list != 0
    }

    fn set(&mut self, flag: u32, on: bool) {
        self.closes = if on { self.closes | flag } else { self.closes & !flag };
    }

    fn settings(&self) -> Settings {
        self.set.as_deref().map_or_else(Settings::default, |[set]| set.settings)
    }

    /// Changes what the program has set for the socket of this cookie.
    fn change<R>(
        &mut self,
        cookie: Cookie,
        change: impl FnOnce(&mut SetByProgram) -> R,
    ) -> Result<R, OutOfMemory> {
        let mut set = match self.set.take() {
            Some(set) => set,
            None => boxed(SetByProgram::default())?,
        };
        let [only] = &mut *set;
        let result = change(only);
        self.set = (!only.is_nothing()).then_some(set);
        self.cookie = cookie;
        Ok(result)
    }

    /// Forgets all but the counters.
    fn forget(&mut self) -> Option<Memory> {
        (self.set, self.list, self.cookie) = (None, 0, Cookie::NONE);
        self.set(FLAGS, false);
        self.connection.take()
    }
}

/// The numbers of one part.
pub struct Numbers {
    entries: Vec<Entry>,
    /// A block for the next connection, so that one which has received bytes finds memory.
    spare: Option<Memory>,
    /// How many messages were sent to them, or queued.
    sent: u64,
}

impl Numbers {
    const EMPTY: Self = Self { entries: Vec::new(), spare: None, sent: 0 };

    fn grow(&mut self, places: usize) -> Result<(), OutOfMemory> {
        let more = places.saturating_sub(self.entries.len());
        reserve(&mut self.entries, more)?;
        self.entries.extend(std::iter::repeat_with(Entry::default).take(more));
        Ok(())
    }
}

fn key(fd: RawFd) -> usize {
    usize::try_from(fd).unwrap_or(0)
}

/// The place of one descriptor in the table, locked.
pub struct Slot<'a> {
    fd: RawFd,
    /// Dropped first, so that what is dropped with a connection is closed without the lock.
    shard: Shard<'a, Numbers>,
    discarded: Option<Memory>,
    /// Which socket the number is, if that was asked since the lock was taken.
    seen: Option<Cookie>,
}

/// Locks the place of `fd`, and forgets what is known of another socket with that number.
pub fn lock_verified(guard: &EntryGuard, fd: RawFd) -> Slot<'_> {
    let mut slot = lock_unverified(guard, fd);
    slot.drop_if_reused();
    slot
}

/// Locks the place of `fd`, and does not ask whether it is still the socket that something is known of: the caller
/// knows that, or asks before it matters.
pub fn lock_unverified(guard: &EntryGuard, fd: RawFd) -> Slot<'_> {
    Slot { fd, shard: TABLE.lock(guard, key(fd)), discarded: None, seen: None }
}

impl Slot<'_> {
    fn existing(&self) -> Option<&Entry> {
        // A negative number has no place.
        usize::try_from(self.fd).ok().and_then(|number| self.shard.entries.get(number / PARTS))
    }

    fn existing_mut(&mut self) -> Option<&mut Entry> {
        usize::try_from(self.fd).ok().and_then(|number| self.shard.entries.get_mut(number / PARTS))
    }

    /// The place, made if need be.
    fn place(&mut self) -> Result<&mut Entry, Errno> {
        let number = usize::try_from(self.fd).map_err(|_| Errno::EBADF)?;
        self.shard.grow(number / PARTS + 1).map_err(|_| Errno::ENOMEM)?;
        self.existing_mut().ok_or(Errno::ENOMEM)
    }

    /// Forgets what is known of another socket with this number. EBADF if frames were queued since it may have been
    /// the other one: they may have been meant for this.
    pub fn verify(&mut self) -> Result<(), Errno> {
        if self.existing().is_some_and(|entry| entry.closes & CLOSING != 0) {
            // By the time that bytes are sent the number may be another socket's.
            return Err(Errno::EBADF);
        }
        let is_assumed =
            self.get().is_some_and(|connection| connection.is_assumed && !connection.send_queue.is_empty());
        self.drop_if_reused();
        match self.get() {
            Some(connection) => connection.is_assumed = false,
            None if is_assumed => return Err(Errno::EBADF),
            None => {}
        }
        Ok(())
    }

    /// Whether the number is that of a connection which the library has given out, with no settings of its own, of which nothing
    /// is in memory, and for which the kernel lets no descriptors through; and there is memory for it.
    pub fn is_plain(&self) -> bool {
        self.has_nothing() && self.has_no_settings()
    }

    /// Whether the number is that of a connection which the library has given out, with no settings of its own, for which the
    /// kernel lets no descriptors through.
    pub fn has_no_settings(&self) -> bool {
        self.existing().is_some_and(|entry| {
            entry.set.as_deref().is_none_or(|[set]| set.settings == Settings::default())
                && entry.cookie.is_some()
                && entry.closes & (REFUSES | CLOSING) == REFUSES
        })
    }

    /// Whether nothing of a connection is in memory, and there is memory for it: no frame has begun, and none is queued.
    pub fn has_nothing(&self) -> bool {
        self.existing().is_some_and(|entry| entry.connection.is_none()) && self.shard.spare.is_some()
    }

    /// Whether the number still is the socket that something is known of, if anything is, and not about to be closed.
    pub fn is_verified(&self) -> bool {
        self.existing().is_none_or(|entry| {
            entry.closes & CLOSING == 0 && (!entry.is_in_use() || entry.cookie.is_behind(self.fd))
        })
    }

    /// Forgets what is known of another socket with this number.
    pub fn drop_if_reused(&mut self) {
        if let Some(known) = self.existing().filter(|entry| entry.is_in_use()).map(|entry| entry.cookie) {
            self.seen = Cookie::of(self.fd).ok();
            if !self.seen.is_some_and(|seen| seen.may_be(known)) {
                self.forget();
            }
        }
    }

    /// Which socket the number is now.
    pub fn socket(&self) -> Result<Cookie, Errno> {
        self.seen.map_or_else(|| Cookie::of(self.fd), Ok)
    }

    /// Which socket the number was when it was last seen; whether that is certain: asked just now.
    pub fn last_socket(&self) -> Result<(Cookie, bool), Errno> {
        let last = self.existing().map(|entry| entry.cookie).filter(|cookie| cookie.is_some());
        match (self.seen, last) {
            (None, Some(last)) => Ok((last, false)),
            _ => self.socket().map(|now| (now, true)),
        }
    }

    /// What has come in and is yet to go out.
    pub fn get(&mut self) -> Option<&mut Connection> {
        self.existing_mut()?.connection.as_deref_mut().map(|[connection]| connection)
    }

    /// What the program has set: for a connection, or for all that a service accepts.
    pub fn settings(&self) -> Settings {
        self.existing().map_or_else(Settings::default, Entry::settings)
    }

    /// Changes that.
    pub fn set(&mut self, settings: Settings) -> Result<(), Errno> {
        let fd = self.fd;
        let cookie = Cookie::of(self.fd)?;
        let entry = self.place()?;
        if settings.descriptors {
            match socket::pass_descriptors(fd, true) {
                // An older kernel refuses none, nor does one behind a sandbox that refuses the option.
                Ok(())
                | Err(
                    Errno::ENOPROTOOPT | Errno::EOPNOTSUPP | Errno::EPERM | Errno::ENOSYS | Errno::EINVAL,
                ) => entry.set(REFUSES, false),
                Err(errno) => return Err(errno),
            }
        }
        entry.change(cookie, |set| set.settings = settings).map_err(|_| Errno::ENOMEM)?;
        if let Some(connection) = self.get() {
            connection.settings = settings;
            settings.apply(&mut connection.decoder);
        }
        Ok(())
    }

    /// The program's pointer. The slot was verified.
    pub fn data(&self) -> Option<&UserData> {
        let [set] = self.existing()?.set.as_deref()?;
        set.data.as_ref()
    }

    /// Exchanges the program's pointer for this one.
    pub fn swap_data(&mut self, data: &mut Option<UserData>) -> Result<(), Errno> {
        let cookie = Cookie::of(self.fd)?;
        let change = |set: &mut SetByProgram| std::mem::swap(&mut set.data, data);
        self.place()?.change(cookie, change).map_err(|_| Errno::ENOMEM)
    }

    /// Takes the program's pointer of the socket that had this cookie, whatever the number is by now.
    pub fn take_data(&mut self, cookie: Cookie) -> Option<UserData> {
        let entry = self.existing_mut().filter(|entry| entry.cookie == cookie)?;
        let [set] = entry.set.as_deref_mut()?;
        set.data.take()
    }

    /// Whether the kernel refuses descriptors that are sent to the socket. The slot was verified.
    pub fn refuses_descriptors(&self) -> bool {
        self.existing().is_some_and(|entry| entry.closes & REFUSES != 0)
    }

    /// The kernel refuses descriptors that are sent to this listening socket, and to those of its clients.
    pub fn note_refuses(&mut self) {
        self.existing_mut().into_iter().for_each(|entry| entry.set(REFUSES, true));
    }

    /// Whether descriptors may have been sent to the socket that were not received, and no other process receives from it.
    pub fn may_hold_descriptors(&self) -> bool {
        let is_in_use = |entry: &&Entry| entry.cookie.is_some();
        let is_shared = self.existing().filter(is_in_use).map(|entry| entry.closes & SHARED != 0);
        !self.refuses_descriptors() && !is_shared.unwrap_or_else(fork_epoch::has_forked)
    }

    /// The list that has the connection: its address.
    pub fn list(&self) -> Option<usize> {
        self.existing().map(|entry| entry.list).filter(|list| *list != 0)
    }

    /// The list at this address has the connection no more.
    pub fn note_unlisted(&mut self, list: usize) {
        self.existing_mut().filter(|entry| entry.list == list).into_iter().for_each(|entry| entry.list = 0);
    }

    fn note_closing(mut self, socket: Result<Cookie, Errno>) -> Result<Option<Memory>, Errno> {
        let cookie = socket.unwrap_or(Cookie::NONE);
        let is_closing =
            |entry: &Entry| entry.closes & CLOSING != 0 && (!cookie.is_some() || entry.cookie == cookie);
        // What the library makes for itself is no socket.
        let is_internal = if cookie.is_some() {
            internal_fds::is_kept(self.fd)
        } else {
            internal_fds::is_internal(self.fd)
        };
        if self.existing().is_some_and(is_closing) || is_internal {
            return Err(Errno::EBADF);
        }
        self.forget();
        // Without memory for it two calls that close at the same time are the program's race.
        if let Ok(entry) = self.place() {
            entry.closes = entry.closes.wrapping_add(1) & !FLAGS;
            entry.set(CLOSING, true);
            entry.cookie = cookie;
        }
        Ok(self.into_discarded())
    }

    fn note_listed(mut self, list: usize, cookie: Cookie) -> Result<Cookie, Errno> {
        HIGHEST.fetch_max(key(self.fd), Ordering::Relaxed);
        let entry = self.place()?;
        if !entry.cookie.is_some() {
            entry.set(SHARED, fork_epoch::has_forked());
        }
        (entry.list, entry.cookie) = (list, cookie);
        Ok(cookie)
    }

    /// Whether the number is that of a connection which the library has given out, and which is in no list.
    pub fn is_unlisted(&self) -> bool {
        self.existing()
            .is_some_and(|entry| entry.list == 0 && entry.cookie.is_some() && entry.cookie.is_behind(self.fd))
    }

    /// How often the library has given out the number, and how often it has closed it.
    pub fn counters(&self) -> (u32, u32) {
        self.existing().map_or((0, 0), |entry| (entry.given, entry.closes & !FLAGS))
    }

    /// Makes sure that [`Slot::entry`] will find memory.
    pub fn reserve(&mut self) -> Result<(), Errno> {
        self.place()?;
        if self.shard.spare.is_none() && self.get().is_none() {
            self.shard.spare = Some(boxed(Connection::new(Settings::default())).map_err(|_| Errno::ENOMEM)?);
        }
        Ok(())
    }

    /// One message more was sent, or queued.
    pub fn count_sent(&mut self) {
        self.shard.sent += 1;
    }

    /// What is remembered, from now on.
    pub fn entry(&mut self) -> Result<&mut Connection, Errno> {
        if self.get().is_none() {
            self.reserve()?;
            let cookie = Cookie::of(self.fd)?;
            if self.existing().is_some_and(|entry| entry.is_in_use() && !entry.cookie.may_be(cookie)) {
                self.forget();
            }
            let settings = self.settings();
            let mut memory = self.shard.spare.take().ok_or(Errno::ENOMEM)?;
            *memory = [Connection::new(settings)];
            let entry = self.place()?;
            (entry.connection, entry.cookie) = (Some(memory), cookie);
        }
        self.get().ok_or(Errno::ENOMEM)
    }

    /// Forgets what has come in and gone out, if there is nothing left of it.
    pub fn remove_if_idle(&mut self) {
        if self.get().is_some_and(|connection| connection.is_idle()) {
            let memory = self.existing_mut().and_then(|entry| entry.connection.take());
            self.shard.spare = memory;
        }
    }

    /// Forgets the connection. Threads that wait for their turn to send find that it is closed.
    pub fn forget(&mut self) {
        let mut memory = self.existing_mut().and_then(Entry::forget);
        memory.as_deref_mut().into_iter().flatten().for_each(|connection| connection.turn.close());
        self.discarded = memory.or_else(|| self.discarded.take());
    }

    /// The memory of connections that were forgotten, to be dropped where no lock is held.
    pub fn into_discarded(self) -> Option<Memory> {
        self.discarded
    }

    /// Which connection the number is, as far as the library knows.
    pub fn identity(&self) -> Identity {
        Identity {
            cookie: self.existing().map_or(Cookie::NONE, |entry| entry.cookie),
            counters: self.counters(),
        }
    }

    /// EBADF if the number was given out or closed since, or is another socket's.
    pub fn check_identity(&self, before: Identity) -> Result<(), Errno> {
        let Identity { cookie, counters } = before;
        let is_it = self.counters() == counters && (!cookie.is_some() || cookie.is_behind(self.fd));
        if is_it { Ok(()) } else { Err(Errno::EBADF) }
    }
}

/// Which connection a number was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    cookie: Cookie,
    counters: (u32, u32),
}

/// Changes what is set for the descriptor.
pub fn set(guard: &EntryGuard, fd: RawFd, change: impl FnOnce(&mut Settings)) -> Result<(), Errno> {
    let mut slot = lock_verified(guard, fd);
    let mut settings = slot.settings();
    change(&mut settings);
    slot.set(settings)
}

/// Makes sure that the next numbers which the kernel gives out find their places, as far as that can be foreseen: `near` is
/// one that it has given out.
pub fn make_room(guard: &EntryGuard, near: RawFd) -> Result<(), OutOfMemory> {
    let highest = HIGHEST.fetch_max(key(near), Ordering::Relaxed).max(key(near));
    let wanted = highest + MARGIN;
    if PLACES.load(Ordering::Relaxed) < wanted {
        let places = wanted / PARTS + 1 + wanted / PARTS / 8;
        let mut result = Ok(());
        TABLE.for_each(guard, |part| result = result.and(part.grow(places)));
        result?;
        PLACES.store(places * PARTS, Ordering::Relaxed);
    }
    Ok(())
}

/// Settings for a connection that is yet to come.
pub struct Prepared {
    set: Option<Set>,
    /// Whether its socket refuses descriptors already.
    refuses: bool,
}

impl Prepared {
    /// Finds the memory for them.
    pub fn new(settings: Settings, refuses: bool) -> Result<Self, OutOfMemory> {
        let set = SetByProgram { settings, data: None };
        Ok(Self { set: if set.is_nothing() { None } else { Some(boxed(set)?) }, refuses })
    }

    /// Settings for a client of this service: its own.
    pub fn for_client(guard: &EntryGuard, service: RawFd) -> Result<Self, OutOfMemory> {
        let slot = lock_unverified(guard, service);
        Self::new(slot.settings(), slot.refuses_descriptors())
    }
}

/// Whether bytes of the connection were read ahead.
pub fn has_ahead(guard: &EntryGuard, fd: RawFd) -> bool {
    lock_unverified(guard, fd).get().is_some_and(|connection| connection.decoder.has_ahead())
}

/// The library gives out this number as a new connection, with these settings. What another socket with the number has
/// left is forgotten.
pub fn give_out(guard: &EntryGuard, fd: RawFd, Prepared { set, refuses }: Prepared) -> Result<(), Errno> {
    HIGHEST.fetch_max(key(fd), Ordering::Relaxed);
    let mut slot = lock_unverified(guard, fd);
    slot.forget();
    let cookie = Cookie::of(fd)?;
    match slot.place() {
        Ok(entry) => {
            entry.given = entry.given.wrapping_add(1);
            let may_pass = set.as_deref().is_some_and(|[set]| set.settings.descriptors);
            let refuses = refuses && !may_pass;
            if !refuses {
                // Some may be there already.
                let _ = socket::pass_descriptors(fd, may_pass);
            }
            entry.set(REFUSES, refuses);
            (entry.set, entry.cookie) = (set, cookie);
            Ok(())
        }
        // Without memory the number is as good as any that the program has from elsewhere.
        Err(errno) => {
            if set.is_none() {
                Ok(())
            } else {
                Err(errno)
            }
        }
    }
}

/// The library is about to close this number. What is known of it is forgotten; the memory is to be dropped where no lock
/// is held. EBADF if another call is about to close it: by the time that this one would, the number may be another file's; or
/// if that call has closed it and holds the number; or if the descriptor is one that the library keeps.
pub fn note_closing(guard: &EntryGuard, fd: RawFd) -> Result<Option<Memory>, Errno> {
    let slot = lock_unverified(guard, fd);
    let socket = Cookie::of(fd);
    slot.note_closing(socket)
}

/// The same for a socket: ENOTSOCK for what is none.
pub fn note_closing_socket(guard: &EntryGuard, fd: RawFd) -> Result<Option<Memory>, Errno> {
    let slot = lock_unverified(guard, fd);
    let socket = Cookie::of(fd)?;
    slot.note_closing(Ok(socket))
}

/// The number was closed.
pub fn note_closed(guard: &EntryGuard, fd: RawFd) {
    if let Some(entry) = lock_unverified(guard, fd).existing_mut() {
        entry.set(CLOSING, false);
    }
}

/// The list at this address has the connection from now on: the last one, if the program has added it to several. Returns
/// which socket it is.
pub fn note_listed(guard: &EntryGuard, fd: RawFd, list: usize) -> Result<Cookie, Errno> {
    let slot = lock_verified(guard, fd);
    let cookie = Cookie::of(fd)?;
    slot.note_listed(list, cookie)
}

/// The same for a connection that was given out just now.
pub fn note_new_listed(guard: &EntryGuard, fd: RawFd, list: usize) -> Result<Cookie, Errno> {
    let slot = lock_unverified(guard, fd);
    let cookie = slot.last_socket()?.0;
    slot.note_listed(list, cookie)
}

/// Visits every connection that has something to remember, part by part.
pub fn for_each(guard: &EntryGuard, mut visit: impl FnMut(RawFd, &mut Connection)) {
    let mut part_number = 0;
    TABLE.for_each(guard, |part| {
        for (place, entry) in part.entries.iter_mut().enumerate() {
            if let (Some([connection]), Ok(fd)) =
                (entry.connection.as_deref_mut(), RawFd::try_from(place * PARTS + part_number))
            {
                visit(fd, connection);
            }
        }
        part_number += 1;
    });
}

/// How many bytes are queued for the connections of the list at this address.
pub fn queued_in(guard: &EntryGuard, list: usize) -> usize {
    let mut queued = 0;
    TABLE.for_each(guard, |part| {
        for entry in part.entries.iter().filter(|entry| entry.list == list) {
            queued += entry.connection.as_deref().map_or(0, |[connection]| connection.send_queue.len());
        }
    });
    queued
}

/// How many messages were sent, or queued.
pub fn sent(guard: &EntryGuard) -> u64 {
    let mut sent = 0;
    TABLE.for_each(guard, |part| sent += part.sent);
    sent
}

/// The whole table, locked for a fork.
pub type Frozen = [Shard<'static, Numbers>; PARTS];

/// Locks the whole table.
pub fn freeze() -> Frozen {
    TABLE.freeze()
}

/// At the end of the process: gives back the table's memory, if nothing is in it.
pub fn release(guard: &EntryGuard) {
    TABLE.for_each(guard, |part| {
        part.spare = None;
        if !part.entries.iter().any(Entry::is_in_use) {
            part.entries = Vec::new();
        }
    });
    PLACES.store(0, Ordering::Relaxed);
}

/// After a fork, in both processes: the other one has all that is known by now.
pub fn note_shared(table: &mut Frozen) {
    for entry in table.iter_mut().flat_map(|part| &mut part.entries) {
        entry.set(SHARED, true);
    }
}

/// In the child of a fork: what waits to be sent is the parent's to send.
pub fn leave_output_to_parent(table: &mut Frozen) {
    for part in table {
        for entry in &mut part.entries {
            // The thread that was about to close it is not there.
            entry.set(CLOSING, false);
            let Some([connection]) = entry.connection.as_deref_mut() else { continue };
            connection.left_to_parent |= connection.has_unsent();
            connection.send_queue.clear();
            connection.turn.abandon();
            if connection.is_idle() {
                entry.connection = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
