//! Descriptor → connection, for the process.
//!
//! The descriptor is the key: programs copy `ipc_connection_info` by value, so its address means nothing. A
//! connection with nothing to remember has no entry. A number that the program closed and that the kernel
//! gave to another socket is told by the socket's cookie, which is asked for only where there is an entry.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;

use crate::connection::{Connection, Settings};
use crate::inbound::Inbound;
use crate::memory::OutOfMemory;
use crate::section::Section;
use crate::shards::{Shard, Shards};
use crate::socket;

const PARTS: usize = 16;

static CONNECTIONS: Shards<RawFd, Connection, PARTS> = Shards::new();

fn key(fd: RawFd) -> usize {
    usize::try_from(fd).unwrap_or(0)
}

/// The place of one descriptor in the table, locked.
pub struct Slot<'a> {
    fd: RawFd,
    shard: Shard<'a, RawFd, Connection>,
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
        let is_assumed = self.get().is_some_and(|connection| connection.is_assumed);
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
        let Some(known) = self.get().map(|connection| connection.cookie) else { return };
        let is_stranger = match socket::cookie(self.fd) {
            Ok(cookie) => cookie != known,
            // What else the kernel may say says nothing of which socket it is.
            Err(errno) => matches!(errno, Errno::EBADF | Errno::ENOTSOCK),
        };
        if is_stranger {
            self.shard.remove(&self.fd);
        }
    }

    /// What is remembered.
    pub fn get(&mut self) -> Option<&mut Connection> {
        self.shard.get_mut(&self.fd)
    }

    /// What the program has set: for a connection, or for all that a service accepts.
    pub fn settings(&mut self) -> Settings {
        self.get().map(|connection| connection.settings).unwrap_or_default()
    }

    /// Makes sure that [`Slot::entry`] will find memory.
    pub fn reserve(&mut self) -> Result<(), Errno> {
        self.shard.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }

    /// What is remembered, from now on.
    pub fn entry(&mut self) -> Result<&mut Connection, Errno> {
        if !self.shard.contains_key(&self.fd) {
            self.reserve()?;
            let cookie = socket::cookie(self.fd)?;
            self.shard.insert(self.fd, Connection::new(cookie));
        }
        self.get().ok_or(Errno::ENOMEM)
    }

    /// Forgets the connection if there is nothing left to remember.
    pub fn tidy(&mut self) {
        if self.get().is_some_and(|connection| connection.is_idle()) {
            self.shard.remove(&self.fd);
        }
    }

    /// Forgets the connection.
    pub fn forget(&mut self) {
        self.shard.remove(&self.fd);
        self.notify();
    }

    /// Takes out what has come in, to work on it without the lock; with the cookie of its socket, if it was
    /// remembered.
    pub fn take_inbound(&mut self) -> (Inbound, Option<u64>) {
        let Some(connection) = self.get() else { return (Inbound::default(), None) };
        let (inbound, cookie) = (std::mem::take(&mut connection.inbound), connection.cookie);
        connection.apply_settings();
        self.tidy();
        (inbound, Some(cookie))
    }

    /// Puts back what is left of it, if the descriptor is still the socket with this cookie. Without memory for
    /// that it stays where it is.
    pub fn put_inbound(&mut self, inbound: &mut Inbound, cookie: Option<u64>) -> Result<(), OutOfMemory> {
        if inbound.is_empty() {
            return Ok(());
        }
        match self.entry() {
            Ok(connection) if cookie.is_none_or(|cookie| cookie == connection.cookie) => {
                connection.inbound = std::mem::take(inbound);
                connection.apply_settings();
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
        if socket::cookie(self.fd).ok() == before { Ok(self) } else { Err(Errno::EBADF) }
    }

    /// Lets other threads know that a frame is finished.
    pub fn notify(&self) {
        CONNECTIONS.notify(&self.shard, key(self.fd));
    }
}

/// Changes what is set for the descriptor.
pub fn set(section: &Section, fd: RawFd, change: impl FnOnce(&mut Settings)) -> Result<(), Errno> {
    let mut slot = lock(section, fd);
    let connection = slot.entry()?;
    change(&mut connection.settings);
    connection.apply_settings();
    slot.tidy();
    Ok(())
}

/// Makes sure that [`adopt`] will find memory, whatever the number of the connection.
pub fn reserve(section: &Section, settings: Settings) -> Result<(), OutOfMemory> {
    let mut result = Ok(());
    if settings != Settings::default() {
        CONNECTIONS.for_each(section, |part| {
            if part.try_reserve(1).is_err() {
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
    CONNECTIONS.for_each(section, |part| part.iter_mut().for_each(|(fd, connection)| visit(*fd, connection)));
}

/// The whole table, locked for a fork.
pub type Frozen = [Shard<'static, RawFd, Connection>; PARTS];

/// Locks the whole table.
pub fn freeze() -> Frozen {
    CONNECTIONS.freeze()
}

/// At the end of the process: gives back the table's memory, if nothing is in it.
pub fn release(section: &Section) {
    CONNECTIONS.release(section);
}

/// In the child of a fork: what waits to be sent is the parent's to send.
pub fn leave_output_to_parent(table: &mut Frozen) {
    for part in table {
        part.retain(|_, connection| {
            connection.left_to_parent |= !connection.outbound.is_empty() || connection.writer.is_some();
            connection.outbound.clear();
            connection.writer = None;
            !connection.is_idle()
        });
    }
}
