//! Whether a peer takes bytes: by what the kernel still holds for it, which poll(2) shows only when most of it is taken.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::connection::send_queue::SendQueue;
use crate::kernel::deadline;
use crate::kernel::socket;

/// How long a peer may take nothing, in milliseconds: a little less than a second, so that to look again now and then costs
/// the program no more than that.
pub const STALL_TIMEOUT: i64 = 960;

/// How often to look, in milliseconds.
pub const LOOK: i32 = 100;

/// What was seen of a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// How much the kernel held for it.
    held: usize,
    /// How much of the stream the kernel had taken.
    position: u64,
    /// Since when it has taken nothing, in milliseconds.
    since: i64,
}

impl Stall {
    /// Begins to look: the kernel was just given what it takes.
    pub fn begin(fd: RawFd, queue: &SendQueue) -> Self {
        Self { held: held_for(fd), position: queue.position(), since: deadline::milliseconds() }
    }

    /// Looks again, when the kernel was just given what it takes; whether the peer has taken nothing for too long.
    pub fn look(&mut self, fd: RawFd, queue: &SendQueue) -> bool {
        let (held, position, now) = (held_for(fd), queue.position(), deadline::milliseconds());
        if held < self.held || position != self.position {
            self.since = now;
        }
        (self.held, self.position) = (held, position);
        now - self.since >= STALL_TIMEOUT
    }

    /// In how many milliseconds to look again.
    pub fn next_look(&self) -> i32 {
        let left = self.since + STALL_TIMEOUT - deadline::milliseconds();
        i32::try_from(left.max(1)).map_or(LOOK, |left| left.min(LOOK))
    }
}

/// How much the kernel holds that the peer has not taken; nothing if it does not say.
pub fn held_for(fd: RawFd) -> usize {
    socket::unsent(fd).unwrap_or(0)
}
