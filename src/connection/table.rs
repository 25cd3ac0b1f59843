//! What the library knows of each descriptor, in one table for the process, indexed by the descriptor's
//! number.
//!
//! The number is the key: programs copy `ipc_connection_info` by value, so the address of a structure means
//! nothing. An entry holds up to three things, all of them for the one socket whose cookie (SO_COOKIE) the
//! entry holds, too:
//!
//! * the received bytes and the queued bytes (a [`Connection`]), as long as there are any;
//! * what the program has set: limits, and a pointer of its own (in [`Numbers::values`], flag
//!   [`HAS_VALUES`]);
//! * which list has the connection.
//!
//! The program may close the number with close(2) at any time, and the kernel may then give it to another
//! file. So [`lock_verified`] compares the cookie, and clears the entry if the number is another socket's;
//! for an empty entry, as most are, the kernel is not asked. Two counters let a call that has waited see what
//! happened meanwhile: how often the library has given out the number as a new connection, and how often it
//! has closed the number.
//!
//! The table is divided into parts, each with its own lock: a number belongs to the part of its remainder
//! modulo [`PARTS`].

#![forbid(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::state::{Connection, Settings};
use crate::connection::user_data::UserData;
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::socket::{self, Cookie};
use crate::kernel::{fd, internal_fds};
use crate::process::entry_guard::EntryGuard;
use crate::process::fork_epoch;
use crate::process::growth::{boxed, increment, reserve};
use crate::process::sharded::{LockedPart, NumberMap, Part, ShardedTable, empty_map};
use crate::process::sync::{AtomicUsize, Ordering};

const PARTS: usize = 16;

static TABLE: ShardedTable<Numbers, PARTS> = ShardedTable([const { Part::new(Numbers::EMPTY) }; PARTS]);

/// All numbers below this one have an entry.
static PLACES: AtomicUsize = AtomicUsize::new(0);

/// The highest number used so far, and how many entries are to exist beyond it.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);
const MARGIN: usize = 64;

/// What the library knows of one number.
#[derive(Default)]
struct Entry {
    connection: Option<Memory>,
    /// The address of the list that has the connection; 0 for none.
    list: usize,
    /// The socket that this entry is about; in an empty entry, the socket that was last given out with this
    /// number.
    cookie: Cookie,
    /// How often the library has given out this number, and how often it has closed it; the upper bits of
    /// `closes` are the [`FLAGS`].
    times_given_out: u32,
    closes: u32,
}

/// Flag in [`Entry::closes`]: the kernel refuses descriptors that are sent to the socket.
const REFUSES: u32 = 1 << 31;

/// Flag: another process may have the socket.
const SHARED: u32 = 1 << 30;

/// Flag: a call is about to close the socket with this cookie.
const CLOSING: u32 = 1 << 29;

/// Flag: the program has set something for the descriptor, which is in [`Numbers::values`].
const HAS_VALUES: u32 = 1 << 28;

/// All flags: the bits that are not part of the count.
const FLAGS: u32 = REFUSES | SHARED | CLOSING | HAS_VALUES;

/// The memory of a connection, in a block of its own.
pub type Memory = Box<[Connection; 1]>;

/// What the program has set for a descriptor, in a block of its own.
type ValuesBlock = Box<[ProgramValues; 1]>;

#[derive(Default)]
struct ProgramValues {
    settings: Settings,
    data: Option<UserData>,
}

impl ProgramValues {
    fn is_nothing(&self) -> bool {
        self.settings == Settings::default() && self.data.is_none()
    }
}

impl Entry {
    fn is_in_use(&self) -> bool {
        self.connection.is_some() || self.closes & HAS_VALUES != 0 || self.list != 0
    }

    fn set_flag(&mut self, flag: u32, on: bool) {
        self.closes = if on { self.closes | flag } else { self.closes & !flag };
    }

    /// How often the library has given out the number, and how often it has closed the number.
    fn counters(&self) -> (u32, u32) {
        (self.times_given_out, self.closes & !FLAGS)
    }

    /// Clears all but the counters; returns the connection's memory.
    fn clear(&mut self) -> Option<Memory> {
        (self.list, self.cookie) = (0, Cookie::NONE);
        self.set_flag(FLAGS, false);
        self.connection.take()
    }
}

/// The entries of one part.
pub struct Numbers {
    entries: Vec<Entry>,
    /// What the program has set, by descriptor. Most descriptors have nothing set.
    values: NumberMap<RawFd, ValuesBlock>,
    /// A spare block for the next connection. `reserve` makes it before bytes are received; `remove_if_idle`
    /// refills it.
    spare: Option<Memory>,
    /// How many messages were sent or queued on these descriptors.
    sent: u64,
}

impl Numbers {
    const EMPTY: Self = Self { entries: Vec::new(), values: empty_map(), spare: None, sent: 0 };

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

/// The entry of one descriptor, with the lock of its part: what the fast paths need of a [`Slot`].
pub struct Locked<'a> {
    fd: RawFd,
    shard: LockedPart<'a, Numbers>,
}

/// The entry of one descriptor, with the lock of its part.
pub struct Slot<'a> {
    /// Dropped before `discarded`, so that the descriptors of a dropped connection are closed without the
    /// lock.
    locked: Locked<'a>,
    discarded: Option<Memory>,
    /// The cookie of the socket that has the number now, if it was asked since the lock was taken.
    seen: Option<Cookie>,
}

/// Locks the entry of `fd`, and clears it if the number is another socket's by now.
pub fn lock_verified(guard: &EntryGuard, fd: RawFd) -> Slot<'_> {
    let mut slot = lock_unverified(guard, fd);
    slot.drop_if_reused();
    slot
}

/// Locks the entry of `fd` without comparing the socket: the caller has verified it, or verifies it before it
/// matters.
pub fn lock_unverified(guard: &EntryGuard, fd: RawFd) -> Slot<'_> {
    lock(guard, fd).into()
}

/// As [`lock_unverified`].
#[inline]
pub fn lock(guard: &EntryGuard, fd: RawFd) -> Locked<'_> {
    // A negative number has no entry: any part will do.
    Locked { fd, shard: TABLE.lock_part(guard, fd as usize) }
}

impl<'a> From<Locked<'a>> for Slot<'a> {
    fn from(locked: Locked<'a>) -> Self {
        Self { locked, discarded: None, seen: None }
    }
}

impl<'a> Deref for Slot<'a> {
    type Target = Locked<'a>;

    fn deref(&self) -> &Self::Target {
        &self.locked
    }
}

impl DerefMut for Slot<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.locked
    }
}

impl Locked<'_> {
    #[inline]
    fn existing(&self) -> Option<&Entry> {
        // A negative number has no entry.
        usize::try_from(self.fd).ok().and_then(|number| self.shard.entries.get(number / PARTS))
    }

    fn existing_mut(&mut self) -> Option<&mut Entry> {
        usize::try_from(self.fd).ok().and_then(|number| self.shard.entries.get_mut(number / PARTS))
    }

    /// The entry for the common fast path: a connection given out by the library, without settings of its
    /// own, without memory in use, for which the kernel refuses descriptors; and a spare block is there. None
    /// for all others.
    #[inline(always)]
    pub fn plain(&self) -> Option<Plain> {
        let entry = self.existing()?;
        let is_plain = entry.connection.is_none()
            && self.shard.spare.is_some()
            && entry.cookie.is_some()
            && self.is_without_settings(entry);
        let identity = Identity { cookie: entry.cookie, counters: entry.counters() };
        is_plain.then_some(Plain { identity, is_listed: entry.list != 0 })
    }

    /// Whether the connection was given out by the library, has no settings of its own, and the kernel
    /// refuses descriptors for it.
    pub fn has_no_settings(&self) -> bool {
        self.existing().is_some_and(|entry| entry.cookie.is_some() && self.is_without_settings(entry))
    }

    #[inline]
    fn is_without_settings(&self, entry: &Entry) -> bool {
        match entry.closes & (REFUSES | CLOSING | HAS_VALUES) {
            REFUSES => true,
            flags => flags == REFUSES | HAS_VALUES && self.has_default_settings(entry),
        }
    }

    #[cold]
    #[inline(never)]
    fn has_default_settings(&self, entry: &Entry) -> bool {
        self.settings_of(entry) == Settings::default()
    }

    /// Whether no frame has begun and none is queued, and a spare block is there for the next one; and the
    /// number still is the socket of this entry, if the entry is in use, and is not about to be closed.
    #[inline(always)]
    pub fn can_send_at_once(&self) -> bool {
        self.shard.spare.is_some()
            && self.existing().is_some_and(|entry| {
                entry.connection.is_none()
                    && entry.closes & CLOSING == 0
                    && (!entry.is_in_use() || entry.cookie.is_of(self.fd))
            })
    }

    /// The connection's memory, if there is any.
    pub fn get(&mut self) -> Option<&mut Connection> {
        self.existing_mut()?.connection.as_deref_mut().map(|[connection]| connection)
    }

    fn values_of(&self, entry: &Entry) -> Option<&ProgramValues> {
        let values = if entry.closes & HAS_VALUES == 0 { None } else { self.shard.values.get(&self.fd) };
        values.map(|block| {
            let [values] = &**block;
            values
        })
    }

    fn settings_of(&self, entry: &Entry) -> Settings {
        self.values_of(entry).map_or_else(Settings::default, |values| values.settings)
    }

    /// One more message was sent or queued.
    pub fn count_sent(&mut self) {
        self.shard.sent += 1;
    }

    /// The address of the list that has the connection.
    pub fn list(&self) -> Option<usize> {
        self.existing().map(|entry| entry.list).filter(|list| *list != 0)
    }
}

impl Slot<'_> {
    /// The entry, added to the table if necessary. EBADF for a number that is not open, ENOMEM.
    fn entry(&mut self) -> Result<&mut Entry, Errno> {
        if self.existing().is_none() {
            // The table has as many entries as the highest number, which a caller's mistake must not decide.
            if self.seen.is_none() {
                fd::check_open(self.fd)?;
            }
            self.locked.shard.grow(key(self.locked.fd) / PARTS + 1).map_err(|_| Errno::ENOMEM)?;
        }
        self.existing_mut().ok_or(Errno::ENOMEM)
    }

    /// Clears the entry if the number is another socket's by now. EBADF if a call is about to close the
    /// socket, or if frames were queued unverified and the socket is another one: the frames may have been
    /// meant for the new socket.
    pub fn verify(&mut self) -> Result<(), Errno> {
        if self.existing().is_some_and(|entry| entry.closes & CLOSING != 0) {
            // By the time bytes are sent the number may be another socket's.
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

    /// Clears the entry if the number is another socket's by now.
    pub fn drop_if_reused(&mut self) {
        if let Some(known) = self.existing().filter(|entry| entry.is_in_use()).map(|entry| entry.cookie) {
            self.seen = Cookie::of(self.fd).ok();
            if !self.seen.is_some_and(|seen| seen.may_equal(known)) {
                self.clear();
            }
        }
    }

    /// The cookie of the socket that has the number now.
    pub fn cookie_now(&mut self) -> Result<Cookie, Errno> {
        match self.seen {
            Some(seen) => Ok(seen),
            None => Ok(*self.seen.insert(Cookie::of(self.fd)?)),
        }
    }

    /// The entry has been compared with the socket since the lock was taken.
    pub fn note_verified(&mut self) {
        self.seen = self.existing().filter(|entry| entry.is_in_use()).map(|entry| entry.cookie);
    }

    /// The cookie noted for the number, with false; or, if it was asked under this lock or none is noted, the
    /// socket's cookie now, with true.
    pub fn last_cookie(&mut self) -> Result<(Cookie, bool), Errno> {
        let last = self.existing().map(|entry| entry.cookie).filter(|cookie| cookie.is_some());
        match (self.seen, last) {
            (None, Some(last)) => Ok((last, false)),
            _ => self.cookie_now().map(|now| (now, true)),
        }
    }

    /// Changes what the program has set for the number, which is the socket with this cookie.
    fn change(&mut self, cookie: Cookie, change: impl FnOnce(&mut ProgramValues)) -> Result<(), Errno> {
        self.reserve_values()?;
        let mut block = match self.locked.shard.values.remove(&self.locked.fd) {
            Some(block) => block,
            None => boxed(ProgramValues::default()).map_err(|_| Errno::ENOMEM)?,
        };
        let [values] = &mut *block;
        change(values);
        let block = (!values.is_nothing()).then_some(block);
        self.put_values(cookie, block);
        Ok(())
    }

    /// Allocates the memory for `put_values`.
    fn reserve_values(&mut self) -> Result<(), Errno> {
        self.entry()?;
        self.shard.values.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }

    /// Replaces what the program has set for the number, which is the socket with this cookie. Allocates
    /// nothing.
    fn put_values(&mut self, cookie: Cookie, block: Option<ValuesBlock>) {
        let Some(entry) = self.existing_mut() else { return };
        entry.set_flag(HAS_VALUES, block.is_some());
        entry.cookie = cookie;
        if let Some(block) = block {
            self.locked.shard.values.insert(self.locked.fd, block);
        }
    }

    /// What the program has set: for a connection, or for all connections that a service accepts.
    pub fn settings(&self) -> Settings {
        self.existing().map_or_else(Settings::default, |entry| self.settings_of(entry))
    }

    /// Changes these settings, also those of a connection in use.
    pub fn set_settings(&mut self, settings: Settings) -> Result<(), Errno> {
        let fd = self.fd;
        let cookie = Cookie::of(self.fd)?;
        let entry = self.entry()?;
        if settings.descriptors {
            match socket::set_fd_passing(fd, true) {
                // Older kernels cannot refuse descriptors; nor can a kernel whose sandbox refuses the socket
                // option.
                Ok(())
                | Err(
                    Errno::ENOPROTOOPT | Errno::EOPNOTSUPP | Errno::EPERM | Errno::ENOSYS | Errno::EINVAL,
                ) => entry.set_flag(REFUSES, false),
                Err(errno) => return Err(errno),
            }
        }
        self.change(cookie, |values| values.settings = settings)?;
        if let Some(connection) = self.get() {
            connection.settings = settings;
            settings.apply(&mut connection.decoder);
        }
        Ok(())
    }

    /// The program's pointer. The entry must be verified.
    pub fn data(&self) -> Option<&UserData> {
        self.existing().and_then(|entry| self.values_of(entry))?.data.as_ref()
    }

    /// Exchanges the program's pointer for `data`.
    pub fn swap_data(&mut self, data: &mut Option<UserData>) -> Result<(), Errno> {
        let cookie = Cookie::of(self.fd)?;
        self.change(cookie, |values| std::mem::swap(&mut values.data, data))
    }

    /// Takes the program's pointer of the socket with this cookie, whichever socket the number is by now.
    pub fn take_data(&mut self, cookie: Cookie) -> Option<UserData> {
        self.existing().filter(|entry| entry.cookie == cookie && entry.closes & HAS_VALUES != 0)?;
        let [values] = &mut **self.locked.shard.values.get_mut(&self.locked.fd)?;
        values.data.take()
    }

    /// Whether the kernel refuses descriptors that are sent to the socket. The entry must be verified.
    pub fn refuses_descriptors(&self) -> bool {
        self.existing().is_some_and(|entry| entry.closes & REFUSES != 0)
    }

    /// The kernel refuses descriptors that are sent to this listening socket, and to the sockets of its
    /// clients.
    pub fn note_refuses(&mut self) {
        self.existing_mut().into_iter().for_each(|entry| entry.set_flag(REFUSES, true));
    }

    /// Whether the socket may hold descriptors that were sent but not received, and no other process receives
    /// from it.
    pub fn may_hold_descriptors(&self) -> bool {
        let is_in_use = |entry: &&Entry| entry.cookie.is_some();
        let is_shared = self.existing().filter(is_in_use).map(|entry| entry.closes & SHARED != 0);
        !self.refuses_descriptors() && !is_shared.unwrap_or_else(fork_epoch::has_forked)
    }

    /// The list at this address no longer has the connection.
    pub fn note_unlisted(&mut self, list: usize) {
        self.existing_mut().filter(|entry| entry.list == list).into_iter().for_each(|entry| entry.list = 0);
    }

    fn note_closing(mut self, socket: Result<Cookie, Errno>) -> Result<Option<Memory>, Errno> {
        let cookie = socket.unwrap_or(Cookie::NONE);
        let is_closing =
            |entry: &Entry| entry.closes & CLOSING != 0 && (!cookie.is_some() || entry.cookie == cookie);
        // A descriptor that the library keeps for itself is never the program's socket. A socket can only be
        // a KeptFd: no InternalFd is a socket.
        let is_internal = if cookie.is_some() {
            internal_fds::is_kept(self.fd)
        } else {
            internal_fds::is_internal(self.fd)
        };
        if self.existing().is_some_and(is_closing) || is_internal {
            return Err(Errno::EBADF);
        }
        self.clear();
        // If there is no memory for the flag, two calls that close the number at the same time are the
        // program's race.
        if let Ok(entry) = self.entry() {
            entry.closes = entry.closes.wrapping_add(1) & !FLAGS;
            entry.set_flag(CLOSING, true);
            entry.cookie = cookie;
        }
        Ok(self.into_discarded())
    }

    fn note_listed(mut self, list: usize, cookie: Cookie) -> Result<Cookie, Errno> {
        HIGHEST.fetch_max(key(self.fd), Ordering::Relaxed);
        let entry = self.entry()?;
        if !entry.cookie.is_some() {
            entry.set_flag(SHARED, fork_epoch::has_forked());
        }
        (entry.list, entry.cookie) = (list, cookie);
        Ok(cookie)
    }

    /// Whether the number still is the socket of this entry, and the socket is in no list.
    pub fn is_unlisted(&self) -> bool {
        self.existing()
            .is_some_and(|entry| entry.list == 0 && entry.cookie.is_some() && entry.cookie.is_of(self.fd))
    }

    /// How often the library has given out the number, and how often it has closed the number.
    pub fn counters(&self) -> (u32, u32) {
        self.existing().map_or((0, 0), Entry::counters)
    }

    /// Makes sure that [`Slot::connection`] will find memory.
    pub fn reserve(&mut self) -> Result<(), Errno> {
        self.entry()?;
        if self.shard.spare.is_none() && self.get().is_none() {
            self.shard.spare = Some(boxed(Connection::new(Settings::default())).map_err(|_| Errno::ENOMEM)?);
        }
        Ok(())
    }

    /// The connection's memory, made if there is none. EBADF, ENOTSOCK or ENOMEM.
    pub fn connection(&mut self) -> Result<&mut Connection, Errno> {
        if self.get().is_none() {
            self.reserve()?;
            let cookie = self.cookie_now()?;
            if self.existing().is_some_and(|entry| entry.is_in_use() && !entry.cookie.may_equal(cookie)) {
                self.clear();
            }
            let settings = self.settings();
            let mut memory = self.shard.spare.take().ok_or(Errno::ENOMEM)?;
            *memory = [Connection::new(settings)];
            let entry = self.entry()?;
            (entry.connection, entry.cookie) = (Some(memory), cookie);
        }
        self.get().ok_or(Errno::ENOMEM)
    }

    /// Keeps the connection's memory as the spare block if nothing is in it.
    pub fn remove_if_idle(&mut self) {
        if self.get().is_some_and(|connection| connection.is_idle()) {
            let memory = self.existing_mut().and_then(|entry| entry.connection.take());
            self.shard.spare = memory;
        }
    }

    /// Clears the entry. Threads that wait for their turn to send are woken and find the connection closed.
    /// Not twice under one lock with memory both times: the older memory would be dropped under the lock.
    pub fn clear(&mut self) {
        if self.existing().is_some_and(|entry| entry.closes & HAS_VALUES != 0) {
            self.locked.shard.values.remove(&self.locked.fd);
        }
        let mut memory = self.existing_mut().and_then(Entry::clear);
        memory.as_deref_mut().into_iter().flatten().for_each(|connection| connection.turn.close());
        self.discarded = memory.or_else(|| self.discarded.take());
    }

    /// The memory of cleared entries, to be dropped when no lock is held.
    pub fn into_discarded(self) -> Option<Memory> {
        self.discarded
    }

    /// Which connection the number is, for a later comparison.
    pub fn identity(&self) -> Identity {
        Identity {
            cookie: self.existing().map_or(Cookie::NONE, |entry| entry.cookie),
            counters: self.counters(),
        }
    }

    /// EBADF if the number was given out or closed since, or is another socket's.
    pub fn check_identity(&self, before: Identity) -> Result<(), Errno> {
        let Identity { cookie, counters } = before;
        let is_same = self.counters() == counters && (!cookie.is_some() || cookie.is_of(self.fd));
        if is_same { Ok(()) } else { Err(Errno::EBADF) }
    }
}

/// Which connection a number was: the socket's cookie, if known, and the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    pub cookie: Cookie,
    pub counters: (u32, u32),
}

/// A connection without memory in use and without settings of its own.
pub struct Plain {
    pub identity: Identity,
    pub is_listed: bool,
}

/// Changes the settings of the descriptor.
pub fn change_settings(
    guard: &EntryGuard,
    fd: RawFd,
    change: impl FnOnce(&mut Settings),
) -> Result<(), Errno> {
    let mut slot = lock_verified(guard, fd);
    let mut settings = slot.settings();
    change(&mut settings);
    slot.set_settings(settings)
}

/// Makes entries for the next numbers that the kernel will probably give out; `near` is a number in use.
pub fn make_room(guard: &EntryGuard, near: RawFd) -> Result<(), OutOfMemory> {
    let highest = HIGHEST.fetch_max(key(near), Ordering::Relaxed).max(key(near));
    let wanted = highest + MARGIN;
    if PLACES.load(Ordering::Relaxed) < wanted {
        let places = wanted / PARTS + increment(wanted / PARTS, 0);
        let mut result = Ok(());
        TABLE.for_each(guard, |part| result = result.and(part.grow(places)));
        result?;
        PLACES.store(places * PARTS, Ordering::Relaxed);
    }
    Ok(())
}

/// The settings of a connection that does not exist yet, with their memory.
pub struct Prepared {
    values: Option<ValuesBlock>,
    /// Whether the new socket refuses descriptors from the start: the listening socket refuses them.
    refuses: bool,
}

impl Prepared {
    /// No settings; `refuses` is whether the socket refuses descriptors already.
    pub fn without_settings(refuses: bool) -> Self {
        Self { values: None, refuses }
    }

    /// The settings of a client of this service: those of the service. Allocates the memory for them,
    /// whatever number the client gets.
    pub fn for_client(guard: &EntryGuard, service: RawFd) -> Result<Self, OutOfMemory> {
        let slot = lock_unverified(guard, service);
        let (settings, refuses) = (slot.settings(), slot.refuses_descriptors());
        drop(slot);
        if settings == Settings::default() {
            return Ok(Self::without_settings(refuses));
        }
        let mut result = Ok(());
        TABLE
            .for_each(guard, |part| result = result.and(part.values.try_reserve(1).map_err(|_| OutOfMemory)));
        result?;
        Ok(Self { values: Some(boxed(ProgramValues { settings, data: None })?), refuses })
    }
}

/// Whether bytes of the connection were read ahead.
pub fn has_ahead(guard: &EntryGuard, fd: RawFd) -> bool {
    lock_unverified(guard, fd).get().is_some_and(|connection| connection.decoder.has_ahead())
}

/// The library gives out this number as a new connection with these settings. What was kept for an older
/// socket with this number is dropped.
pub fn give_out(guard: &EntryGuard, fd: RawFd, Prepared { values, refuses }: Prepared) -> Result<(), Errno> {
    HIGHEST.fetch_max(key(fd), Ordering::Relaxed);
    let mut slot = lock_unverified(guard, fd);
    slot.clear();
    let cookie = Cookie::of(fd)?;
    slot.seen = Some(cookie);
    match slot.entry() {
        Ok(entry) => {
            entry.times_given_out = entry.times_given_out.wrapping_add(1);
            let may_pass = values.as_deref().is_some_and(|[values]| values.settings.descriptors);
            let refuses = refuses && !may_pass;
            if !refuses {
                // Descriptors may have arrived already.
                let _ = socket::set_fd_passing(fd, may_pass);
            }
            entry.set_flag(REFUSES, refuses);
            if values.is_some() {
                slot.reserve_values()?;
            }
            slot.put_values(cookie, values);
            Ok(())
        }
        // Without an entry the connection is treated as a descriptor that the program has from elsewhere.
        Err(errno) => {
            if values.is_none() {
                Ok(())
            } else {
                Err(errno)
            }
        }
    }
}

/// The library is about to close this number. The entry is cleared; the returned memory is to be dropped when
/// no lock is held. EBADF in three cases: another call is about to close the number, which may be another
/// file's by the time of this close; that call has closed the number and holds it; or the descriptor is one
/// that the library keeps for itself.
pub fn note_closing(guard: &EntryGuard, fd: RawFd) -> Result<Option<Memory>, Errno> {
    let slot = lock_unverified(guard, fd);
    let socket = Cookie::of(fd);
    slot.note_closing(socket)
}

/// The same for a socket that the caller has just verified; ENOTSOCK for any other file. `cookie` is the
/// socket's, if known.
pub fn note_closing_socket(guard: &EntryGuard, fd: RawFd, cookie: Cookie) -> Result<Option<Memory>, Errno> {
    let slot = lock_unverified(guard, fd);
    let cookie = if cookie.is_some() { cookie } else { Cookie::of(fd)? };
    slot.note_closing(Ok(cookie))
}

/// The number was closed.
pub fn note_closed(guard: &EntryGuard, fd: RawFd) {
    if let Some(entry) = lock_unverified(guard, fd).existing_mut() {
        entry.set_flag(CLOSING, false);
    }
}

/// The list at this address has the connection from now on; if the program has added the connection to
/// several lists, the last one counts. Returns the socket's cookie.
pub fn note_listed(guard: &EntryGuard, fd: RawFd, list: usize) -> Result<Cookie, Errno> {
    let slot = lock_verified(guard, fd);
    let cookie = Cookie::of(fd)?;
    slot.note_listed(list, cookie)
}

/// The same for a connection that was given out just now, without comparing the socket.
pub fn note_new_listed(guard: &EntryGuard, fd: RawFd, list: usize) -> Result<Cookie, Errno> {
    let mut slot = lock_unverified(guard, fd);
    let cookie = slot.last_cookie()?.0;
    slot.note_listed(list, cookie)
}

/// Visits all connections with memory in use, part by part.
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

/// How many messages were sent or queued in this process.
pub fn sent(guard: &EntryGuard) -> u64 {
    let mut sent = 0;
    TABLE.for_each(guard, |part| sent += part.sent);
    sent
}

/// The whole table, locked for a fork.
pub type Frozen = [LockedPart<'static, Numbers>; PARTS];

/// Locks the whole table for a fork.
pub fn freeze() -> Frozen {
    TABLE.freeze()
}

/// At exit: frees the table's memory, if no entry is in use.
pub fn release(guard: &EntryGuard) {
    TABLE.for_each(guard, |part| {
        part.spare = None;
        if !part.entries.iter().any(Entry::is_in_use) {
            (part.entries, part.values) = (Vec::new(), empty_map());
        }
    });
    PLACES.store(0, Ordering::Relaxed);
}

/// After a fork, in both processes: the other process has every socket of the table, too.
pub fn note_shared(table: &mut Frozen) {
    for entry in table.iter_mut().flat_map(|part| &mut part.entries) {
        entry.set_flag(SHARED, true);
    }
}

/// In the child of a fork: the queued bytes are the parent's to send.
pub fn leave_output_to_parent(table: &mut Frozen) {
    for part in table {
        for entry in &mut part.entries {
            // The thread that was about to close the number does not exist in the child.
            entry.set_flag(CLOSING, false);
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
