//! The input and the result of one step of a loop.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::table::Prepared;
use crate::error::Error;
use crate::event_loop::extra::{Read, Source};
use crate::event_loop::list::Event;
use crate::event_loop::members::Token;
use crate::kernel::wait::FEW;

/// With what a step begins.
pub enum Input<C> {
    /// A call of the program begins: the service, if any; whether the call may wait; how many events are
    /// wanted.
    Begin(Option<RawFd>, bool, usize),
    /// A wait has ended with these descriptors ready. The bool says whether signals are blocked except during
    /// waits, and no handler has ended this wait.
    Woken(FdArray, bool),
    /// Signals were blocked just now, before another wait: from here on this thread runs nothing of the
    /// program's except during waits.
    Blocked,
    /// The program asks for a further event of the same call.
    More,
    /// A client was accepted for [`Step::Accept`]; with the list's shape before and after [`List::prepare`].
    ///
    /// [`List::prepare`]: crate::event_loop::list::List::prepare
    Accepted(C, RawFd, Prepared, [(usize, usize); 2]),
    /// No client was accepted; with the same shapes.
    NotAccepted(Errno, [(usize, usize); 2]),
    /// The result of the read asked for by [`Step::Read`].
    Read(Token, Read),
}

/// With what a step ends.
pub enum Step<O> {
    /// An event to report.
    Event(Event<O>),
    /// No further event, in this call.
    Nothing,
    /// The caller has to accept a client of this service, without the lock; the client gets these settings.
    Accept(RawFd, Prepared),
    /// The caller has to read this descriptor, without the lock, by [`extra::read`].
    ///
    /// [`extra::read`]: crate::event_loop::extra::read
    Read(Token, RawFd, Source),
    /// The caller has to close this connection, without the lock, and then to report its end. `may_hold` says
    /// whether the socket may hold descriptors that were not received.
    End { fd: RawFd, may_hold: bool, origin: O },
    /// The caller has to close this descriptor, without the lock; then the call fails with this error, or
    /// goes on.
    Drop(RawFd, Option<Error>),
    /// The caller has to wait.
    Wait(WaitFor),
}

/// A small array of descriptors.
#[derive(Clone, Copy)]
pub struct FdArray {
    fds: [RawFd; FEW],
    count: usize,
}

impl FdArray {
    /// No descriptor.
    pub const NONE: Self = Self { fds: [-1; FEW], count: 0 };

    /// A single descriptor.
    pub fn one(fd: RawFd) -> Self {
        Self { fds: [fd; FEW], count: 1 }
    }

    /// Adds a descriptor; returns whether there was room.
    pub fn push(&mut self, fd: RawFd) -> bool {
        let place = self.fds.get_mut(self.count);
        self.count += usize::from(place.is_some());
        place.map(|place| *place = fd).is_some()
    }

    /// The descriptors.
    pub fn as_slice(&self) -> &[RawFd] {
        self.fds.get(..self.count).unwrap_or_default()
    }
}

/// What to wait for.
#[derive(Clone, Copy)]
pub struct WaitFor {
    /// The descriptors to poll for input: the set or a few members, and the clock, if there is one.
    pub fds: FdArray,
    /// The clock: readable when another thread has woken the loop.
    pub clock: Option<RawFd>,
    /// The most milliseconds to wait, until periodic work is due; `None` if there is no such work.
    pub timeout: Option<u32>,
    /// Whether the kernel was asked just now, and had nothing to report.
    pub is_idle: bool,
    /// How often the kernel has to be asked until all descriptors that were ready have been handled.
    pub asks_needed: usize,
}
