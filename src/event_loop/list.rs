//! The program's list as the loop accesses it, and the events that the loop reports.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::connection::frame_decoder::Frame;
use crate::frame::c_heap::OutOfMemory;

/// The program's list. Between two calls it may change at any time: the program changes it directly, or a
/// signal handler does.
pub trait List {
    /// What an event names its connection by.
    type Origin: Copy;
    /// A structure for a client that is not accepted yet.
    type Client;
    /// The list's address, which identifies the list.
    fn key(&self) -> usize;
    /// The array's address and size: if either differs, the program has changed the list.
    fn shape(&self) -> (usize, usize);
    /// The entry at this index, and the value by which events name it; `None` for NULL.
    fn at(&self, index: usize) -> Option<(Entry, Self::Origin)>;
    /// The entry alone.
    fn entry(&self, index: usize) -> Option<Entry> {
        self.at(index).map(|(entry, _)| entry)
    }
    /// The value by which events name the entry.
    fn origin(&self, index: usize) -> Option<Self::Origin> {
        self.at(index).map(|(_, origin)| origin)
    }
    /// Allocates the memory for one more client and its place in the list.
    fn prepare(&mut self) -> Result<Self::Client, OutOfMemory>;
    /// Adds a prepared client with this descriptor; returns its index, or `None` if the list was freed
    /// meanwhile.
    fn push(&mut self, client: Self::Client, fd: RawFd) -> Option<usize>;
    /// Removes the client that was added last, at this index, and frees its structure.
    fn take_back(&mut self, index: usize);
    /// Removes the entry; the last entry takes its place.
    fn remove_entry(&mut self, index: usize);
}

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The descriptor; negative for none.
    pub fd: RawFd,
    /// The address of the structure.
    pub addr: usize,
    /// What the loop does when the descriptor is ready.
    pub kind: Kind,
}

/// What the loop does when a descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The service: accepts a client.
    Listener,
    /// A connection: reports its frames.
    Connection,
    /// Added by `ipc_add_fd`: reports its bytes, whatever they are.
    Extra,
    /// Added by `ipc_watch_fd`: reports that the descriptor is ready; the program reads. The list's entry
    /// shows `Extra`.
    Watched,
    /// Made by `ipc_add_signal`: reports each signal. The list's entry shows `Extra`.
    Signals,
    /// Made by `ipc_add_timer`: reports each expiration. The list's entry shows `Extra`.
    Timer,
}

impl Kind {
    /// Whether a list's entry shows both kinds as the same.
    pub fn is_alike(self, other: Self) -> bool {
        (self == Self::Connection) == (other == Self::Connection)
    }
}

/// What happened, and to which connection.
pub struct Event<O> {
    /// The connection.
    pub origin: O,
    /// What happened to it.
    pub what: What,
}

/// What happened.
pub enum What {
    /// A client has connected.
    Connection,
    /// A connection has ended; it is no longer in the list.
    Disconnection,
    /// The peer broke the protocol or the connection failed; its disconnection follows.
    Error,
    /// A message.
    Message(Frame),
    /// Bytes of an extra descriptor; empty at end of file.
    Extra(Frame),
    /// A watched descriptor is ready.
    Ready,
}
