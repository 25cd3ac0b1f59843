//! The program's list as the loop sees it, and what the loop reports of it.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::connection::frame_decoder::Frame;
use crate::frame::c_heap::OutOfMemory;

/// The program's list. It may be changed at any time between two calls: by the program's own hand, or by a signal
/// handler.
pub trait List {
    /// What an event names its connection with.
    type Origin: Copy;
    /// A structure for a client that is yet to come.
    type Client;
    /// Which list it is: its address.
    fn key(&self) -> usize;
    /// The array's address and its size: another one means that the program has changed it.
    fn shape(&self) -> (usize, usize);
    /// The entry there; none for NULL.
    fn entry(&self, index: usize) -> Option<Entry>;
    /// What events name this entry with.
    fn origin(&self, index: usize) -> Option<Self::Origin>;
    /// Finds the memory for one more client and its place in the list.
    fn prepare(&mut self) -> Result<Self::Client, OutOfMemory>;
    /// Adds a client that was prepared, with this descriptor; where it stands. None if the list was freed meanwhile.
    fn push(&mut self, client: Self::Client, fd: RawFd) -> Option<usize>;
    /// Takes out the client that was added last, at this index, and its structure with it.
    fn take_back(&mut self, index: usize);
    /// Takes the entry out; the last one takes its place.
    fn remove_entry(&mut self, index: usize);
}

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its descriptor: below 0 for none.
    pub fd: RawFd,
    /// The address of its structure.
    pub addr: usize,
    /// What is to be done when it is ready.
    pub kind: Kind,
}

/// What is to be done when a descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The service: a client is accepted.
    Listener,
    /// A connection: its frames are reported.
    Connection,
    /// Added by `ipc_add_fd`: its bytes are reported, whatever they are.
    Extra,
    /// Added by `ipc_watch_fd`: that it is ready is reported, and the program reads. In a list it is an extra one.
    Watched,
    /// Made by `ipc_add_signal`: each signal is reported. In a list it is an extra one, as the next is.
    Signals,
    /// Made by `ipc_add_timer`: the times are reported.
    Timer,
}

impl Kind {
    /// Whether a list shows both as the same.
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
    /// A connection is over; it is in the list no more.
    Disconnection,
    /// The peer broke the protocol or the connection failed; its disconnection follows.
    Error,
    /// A message.
    Message(Frame),
    /// Bytes of an extra descriptor; none at its end.
    Extra(Frame),
    /// A watched descriptor is ready.
    Ready,
}
