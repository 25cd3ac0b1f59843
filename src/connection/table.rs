//! Descriptor → connection, for the process.
//!
//! The descriptor is the key: programs copy `ipc_connection_info` by value, so its address means nothing. A
//! connection with nothing to remember has no entry, and one for which the program has set something a small one. A
//! number that the program closed and that the kernel gave to another socket is told by the socket's cookie, which
//! is asked for only where there is an entry.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;

use crate::connection::frame_decoder::Inbound;
use crate::connection::state::{Connection, Settings};
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::socket::Cookie;
use crate::process::entry_guard::Section;
use crate::process::sharded::{NumberMap, Part, Shard, Shards, empty_map, release_map};

const PARTS: usize = 16;

static CONNECTIONS: Shards<Table, PARTS> = Shards([const { Part::new(Table::EMPTY) }; PARTS]);

/// What is remembered of some connections.
pub struct Table {
    /// What has come in and is yet to go out.
    memory: NumberMap<RawFd, Connection>,
    /// What the program has set, and for which socket. Apart, since it stays as long as the connection: 256 bytes
    /// are all that an idle one may cost.
    settings: NumberMap<RawFd, (Cookie, Settings)>,
}

impl Table {
    const EMPTY: Self = Self { memory: empty_map(), settings: empty_map() };

    /// Which socket it is that something is remembered of.
    fn cookie(&self, fd: RawFd) -> Option<Cookie> {
        let set = || self.settings.get(&fd).map(|(cookie, _)| *cookie);
        self.memory.get(&fd).map(|connection| connection.cookie).or_else(set)
    }

    fn forget(&mut self, fd: RawFd) {
        self.memory.remove(&fd);
        self.settings.remove(&fd);
    }
}

fn key(fd: RawFd) -> usize {
    usize::try_from(fd).unwrap_or(0)
}

/// The place of one descriptor in the table, locked.
pub struct Slot<'a> {
    fd: RawFd,
    shard: Shard<'a, Table>,
}

/// Locks the place of `fd`, and forgets what was remembered of another socket with that number.
pub fn lock(section: &Section, fd: RawFd) -> Slot<'_> {
    let mut slot = lock_known(section, fd);
    slot.forget_stranger();
    slot
}

/// Locks the place of `fd`, and does not ask whether it is still the socket that something is remembered of: the
/// caller knows that, or asks before it matters.
pub fn lock_known(section: &Section, fd: RawFd) -> Slot<'_> {
    Slot { fd, shard: CONNECTIONS.lock(section, key(fd)) }
}

/// Forgets what is remembered of another socket that had this number before.
pub fn forget_stranger(section: &Section, fd: RawFd) {
    drop(lock(section, fd));
}

impl Slot<'_> {
    /// Forgets what was remembered of another socket with this number. EBADF if frames were queued since it may
    /// have been the other one: they may have been meant for this.
    pub fn verify(&mut self) -> Result<(), Errno> {
        let is_assumed =
            self.get().is_some_and(|connection| connection.is_assumed && !connection.outbound.is_empty());
        self.forget_stranger();
        match self.get() {
            Some(connection) => connection.is_assumed = false,
            None if is_assumed => return Err(Errno::EBADF),
            None => {}
        }
        Ok(())
    }

    /// Forgets what was remembered of another socket with this number.
    pub fn forget_stranger(&mut self) {
        if let Some(known) = self.shard.cookie(self.fd)
            && !Cookie::of(self.fd).is_ok_and(|cookie| cookie.may_be(known))
        {
            self.shard.forget(self.fd);
        }
    }

    /// What is remembered.
    pub fn get(&mut self) -> Option<&mut Connection> {
        self.shard.memory.get_mut(&self.fd)
    }

    /// What the program has set: for a connection, or for all that a service accepts.
    pub fn settings(&self) -> Settings {
        self.shard.settings.get(&self.fd).map(|(_, settings)| *settings).unwrap_or_default()
    }

    /// Changes that.
    pub fn set(&mut self, settings: Settings) -> Result<(), Errno> {
        let cookie = Cookie::of(self.fd)?;
        if settings == Settings::default() {
            self.shard.settings.remove(&self.fd);
        } else {
            self.shard.settings.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.shard.settings.insert(self.fd, (cookie, settings));
        }
        if let Some(connection) = self.get() {
            connection.settings = settings;
            settings.apply(&mut connection.inbound);
        }
        Ok(())
    }

    /// Makes sure that [`Slot::entry`] will find memory.
    pub fn reserve(&mut self) -> Result<(), Errno> {
        self.shard.memory.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }

    /// What is remembered, from now on.
    pub fn entry(&mut self) -> Result<&mut Connection, Errno> {
        if !self.shard.memory.contains_key(&self.fd) {
            self.reserve()?;
            let cookie = Cookie::of(self.fd)?;
            if self.shard.cookie(self.fd).is_some_and(|known| !known.may_be(cookie)) {
                self.shard.forget(self.fd);
            }
            let connection = Connection::new(cookie, self.settings());
            self.shard.memory.insert(self.fd, connection);
        }
        self.get().ok_or(Errno::ENOMEM)
    }

    /// Forgets what has come in and gone out, if there is nothing left of it.
    pub fn tidy(&mut self) {
        if self.get().is_some_and(|connection| connection.is_idle()) {
            self.shard.memory.remove(&self.fd);
        }
    }

    /// Forgets the connection.
    pub fn forget(&mut self) {
        self.shard.forget(self.fd);
        self.notify();
    }

    /// Takes out what has come in, to work on it without the lock; with the cookie of its socket, if it was
    /// remembered.
    pub fn take_inbound(&mut self) -> (Inbound, Option<Cookie>) {
        let Some(connection) = self.get() else { return (self.settings().inbound(), None) };
        let fresh = connection.settings.inbound();
        let (inbound, cookie) = (std::mem::replace(&mut connection.inbound, fresh), connection.cookie);
        self.tidy();
        (inbound, Some(cookie))
    }

    /// Puts back what is left of it, if the descriptor is still the socket with this cookie. Without memory for
    /// that it stays where it is.
    pub fn put_inbound(&mut self, inbound: &mut Inbound, cookie: Option<Cookie>) -> Result<(), OutOfMemory> {
        if inbound.is_empty() {
            return Ok(());
        }
        match self.entry() {
            Ok(connection) if cookie.is_none_or(|cookie| cookie.may_be(connection.cookie)) => {
                connection.inbound = std::mem::take(inbound);
                connection.settings.apply(&mut connection.inbound);
            }
            Err(Errno::ENOMEM) => return Err(OutOfMemory),
            // Another socket has the number, or none: the bytes concern nobody.
            Ok(_) | Err(_) => self.tidy(),
        }
        Ok(())
    }

    /// Waits until another thread has finished its frame, or for so long: EBADF if the connection is closed meanwhile.
    pub fn wait(mut self, limit: Option<Duration>) -> Result<Self, Errno> {
        let before = self.get().map(|connection| connection.cookie);
        self.shard = CONNECTIONS.wait(self.shard, key(self.fd), limit);
        let is_it = Cookie::of(self.fd).is_ok_and(|now| before.is_none_or(|before| before.may_be(now)));
        if is_it { Ok(self) } else { Err(Errno::EBADF) }
    }

    /// Lets other threads know that a frame is finished.
    pub fn notify(&self) {
        CONNECTIONS.notify(&self.shard, key(self.fd));
    }
}

/// Changes what is set for the descriptor.
pub fn set(section: &Section, fd: RawFd, change: impl FnOnce(&mut Settings)) -> Result<(), Errno> {
    let mut slot = lock(section, fd);
    let mut settings = slot.settings();
    change(&mut settings);
    slot.set(settings)
}

/// Makes sure that [`adopt`] will find memory, whatever the number of the connection.
pub fn reserve(section: &Section, settings: Settings) -> Result<(), OutOfMemory> {
    let mut result = Ok(());
    if settings != Settings::default() {
        CONNECTIONS.for_each(section, |part| {
            if part.settings.try_reserve(1).is_err() {
                result = Err(OutOfMemory);
            }
        });
    }
    result
}

/// Sets for a connection that was just accepted what is set for its service. What another socket with its
/// number has left is forgotten.
pub fn adopt(section: &Section, fd: RawFd, settings: Settings) -> Result<(), Errno> {
    forget_stranger(section, fd);
    if settings == Settings::default() { Ok(()) } else { set(section, fd, |own| *own = settings) }
}

/// Visits every connection that has something to remember, part by part.
pub fn for_each(section: &Section, mut visit: impl FnMut(RawFd, &mut Connection)) {
    CONNECTIONS.for_each(section, |part| {
        part.memory.iter_mut().for_each(|(fd, connection)| visit(*fd, connection));
    });
}

/// The whole table, locked for a fork.
pub type Frozen = [Shard<'static, Table>; PARTS];

/// Locks the whole table.
pub fn freeze() -> Frozen {
    CONNECTIONS.freeze()
}

/// At the end of the process: gives back the table's memory, if nothing is in it.
pub fn release(section: &Section) {
    CONNECTIONS.for_each(section, |part| {
        release_map(&mut part.memory);
        release_map(&mut part.settings);
    });
}

/// In the child of a fork: what waits to be sent is the parent's to send.
pub fn leave_output_to_parent(table: &mut Frozen) {
    for part in table {
        part.memory.retain(|_, connection| {
            connection.left_to_parent |= !connection.outbound.is_empty() || connection.writer.is_some();
            connection.outbound.clear();
            connection.writer = None;
            !connection.is_idle()
        });
    }
}
