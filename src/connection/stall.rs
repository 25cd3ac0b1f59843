//! Whether a peer receives bytes: measured by how much the kernel still holds for the peer (SIOCOUTQ).
//! poll(2) alone is not enough: it reports room only when most of the bytes were received.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::connection::send_queue::SendQueue;
use crate::kernel::deadline;
use crate::kernel::socket;

/// How long a peer may receive nothing before it counts as stalled, in milliseconds: a little less than a
/// second, so that the program waits no longer than a second although the check is made only now and then.
pub const STALL_TIMEOUT: i64 = 960;

/// The pause between two checks, in milliseconds.
pub const LOOK: i32 = 100;

/// What the last check found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// How many bytes the kernel held for the peer.
    held: usize,
    /// How many bytes of the queue's stream the kernel had taken.
    position: u64,
    /// Since when the peer has received nothing, in milliseconds.
    since: i64,
}

impl Stall {
    /// The first check. The caller has just sent what the kernel takes.
    pub fn begin(fd: RawFd, queue: &SendQueue) -> Self {
        Self { held: held_for(fd), position: queue.position(), since: deadline::milliseconds() }
    }

    /// Checks again; returns whether the peer has received nothing for too long. The caller has just sent
    /// what the kernel takes.
    pub fn look(&mut self, fd: RawFd, queue: &SendQueue) -> bool {
        let (held, position, now) = (held_for(fd), queue.position(), deadline::milliseconds());
        if held < self.held || position != self.position {
            self.since = now;
        }
        (self.held, self.position) = (held, position);
        now - self.since >= STALL_TIMEOUT
    }

    /// In how many milliseconds to check again.
    pub fn next_look(&self) -> i32 {
        let left = self.since + STALL_TIMEOUT - deadline::milliseconds();
        i32::try_from(left.max(1)).map_or(LOOK, |left| left.min(LOOK))
    }
}

/// How many bytes the kernel holds that the peer has not received; 0 if the kernel does not report it.
pub fn held_for(fd: RawFd) -> usize {
    socket::unsent(fd).unwrap_or(0)
}
