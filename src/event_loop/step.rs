//! What goes into a step of a loop, and what comes out of it.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::table::Prepared;
use crate::error::Error;
use crate::event_loop::extra::{Read, Source};
use crate::event_loop::list::Event;
use crate::event_loop::members::Token;
use crate::kernel::wait::FEW;

/// What a step begins with.
pub enum Input<C> {
    /// The program calls: its service, if any; whether the call may wait; how many events it wants.
    Begin(Option<RawFd>, bool, usize),
    /// The kernel may have something; these descriptors are ready. Whether signals are blocked but while the call waits, and no
    /// handler has ended the wait before this.
    Woken(Few, bool),
    /// Signals were blocked just now, before the call waits again: nothing of the program runs but while it waits.
    Blocked,
    /// The program wants a further event of the same call.
    More,
    /// A client of [`Step::Accept`], and the list's shape before and after it was prepared for.
    Accepted(C, RawFd, Prepared, [(usize, usize); 2]),
    /// None.
    NotAccepted(Errno, [(usize, usize); 2]),
    /// What [`Step::Read`] has come to.
    Read(Token, Read),
}

/// What a step ends with.
pub enum Step<O> {
    /// Something happened.
    Event(Event<O>),
    /// Nothing more is there, in this call.
    Nothing,
    /// A client is to be accepted at this service, without the lock: it gets these settings.
    Accept(RawFd, Prepared),
    /// This descriptor is to be read, without the lock: by [`extra::read`].
    Read(Token, RawFd, Source),
    /// This connection has ended: it is to be closed, without the lock, and then reported. Whether it may hold
    /// descriptors that were not received is said, too.
    End { fd: RawFd, may_hold: bool, origin: O },
    /// This descriptor is to be closed, without the lock; then the call fails, or goes on.
    Drop(RawFd, Option<Error>),
    /// This set is to be waited for, for at most so many milliseconds.
    Wait(WaitFor),
}

/// A few descriptors.
#[derive(Clone, Copy)]
pub struct Few {
    fds: [RawFd; FEW],
    count: usize,
}

impl Few {
    /// None.
    pub const NONE: Self = Self { fds: [-1; FEW], count: 0 };

    /// This one alone.
    pub fn one(fd: RawFd) -> Self {
        Self { fds: [fd; FEW], count: 1 }
    }

    /// Adds one; whether there was room.
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
    /// Until one of these is readable: the set, or a few members, and the clock, if there is one.
    pub fds: Few,
    /// The clock: it is readable when another thread has something for the loop.
    pub clock: Option<RawFd>,
    /// For how long at most, in milliseconds: then there is something to look after. None if there is nothing.
    pub limit: Option<u32>,
    /// Whether the kernel was asked just now, and had nothing.
    pub is_idle: bool,
    /// How often it is to be asked until all descriptors that were ready have been looked at.
    pub looks: usize,
}
