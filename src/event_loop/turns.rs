//! The order in which members take turns.
//!
//! Members that are ready stand in a queue, each once, and take turns: one event each. The kernel is asked
//! again after each round, so that a peer that floods does not keep the others waiting. Connections that have
//! ended go before all others.
//!
//! The queues hold slots. A slot stays in its queue when its member is removed. At its turn the slot may
//! therefore have another member, which has nothing to report: the caller checks that.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::frame::c_heap::OutOfMemory;
use crate::process::growth::reserve_queue;

/// How many ready descriptors the kernel is asked for at a time.
pub const BATCH: usize = 64;

/// The kernel is asked after so many turns at the earliest: otherwise a single busy member would cost a
/// system call for each message.
const SHORTEST_ROUND: usize = 2;

/// The queues of ready and of ended members.
pub struct Turns {
    ready: VecDeque<u32>,
    /// Slots of members whose end has to be reported.
    ends: VecDeque<u32>,
    /// How many may still take their turn before the kernel is asked again.
    left: usize,
    shortest_round: usize,
}

impl Turns {
    /// Empty queues.
    pub fn new() -> Self {
        Self { ready: VecDeque::new(), ends: VecDeque::new(), left: 0, shortest_round: SHORTEST_ROUND }
    }

    /// A call of the program begins, and asks for at most so many events.
    pub fn begin(&mut self, max_events: usize) {
        self.shortest_round = max_events.clamp(SHORTEST_ROUND, BATCH);
        if max_events > 1 {
            // Members that are ready by now are reported along with members that have many messages read
            // ahead.
            self.end_round();
        }
    }

    /// The kernel was asked: a round begins.
    pub fn begin_round(&mut self) {
        self.left = self.ready.len().max(self.shortest_round);
    }

    /// The kernel is to be asked before the next turn.
    pub fn end_round(&mut self) {
        self.left = 0;
    }

    /// Whether the round is over.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Allocates the memory for `slots` entries in each queue. `has_end` says whether a slot of `ends` still
    /// has an end to report.
    pub fn make_room(&mut self, slots: usize, has_end: impl Fn(u32) -> bool) -> Result<(), OutOfMemory> {
        let more = slots.saturating_sub(self.ready.len());
        reserve_queue(&mut self.ready, more)?;
        if self.ends.len() > slots {
            // Members that have ended were removed without a wait.
            self.ends.retain(|slot| has_end(*slot));
        }
        Ok(reserve_queue(&mut self.ends, slots)?)
    }

    /// Appends the member to the queue, which has room for it.
    #[inline]
    pub fn push(&mut self, slot: u32) {
        self.ready.push_back(slot);
    }

    /// The next member, which is in the queue no more.
    pub fn pop(&mut self) -> Option<u32> {
        self.left = self.left.saturating_sub(1);
        self.ready.pop_front()
    }

    /// The member that is to take its turn next.
    pub fn next(&self) -> Option<u32> {
        self.ready.front().copied()
    }

    /// Whether no member is ready.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// The member's end is to be reported.
    pub fn push_end(&mut self, slot: u32) {
        self.ends.push_back(slot);
    }

    /// The next one whose end is to be reported.
    pub fn pop_end(&mut self) -> Option<u32> {
        self.ends.pop_front()
    }

    /// Whether an end is to be reported.
    pub fn has_ends(&self) -> bool {
        !self.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_is_asked_after_each_round() {
        let mut turns = Turns::new();
        turns.make_room(3, |_| true).unwrap();
        (1..=3).for_each(|slot| turns.push(slot));
        assert!(turns.is_over());
        turns.begin_round();
        for slot in 1..=3 {
            assert!(!turns.is_over());
            assert_eq!(turns.pop(), Some(slot));
            // Each has more.
            turns.push(slot);
        }
        assert!(turns.is_over());
    }

    #[test]
    fn ends_of_former_members_do_not_pile_up() {
        let mut turns = Turns::new();
        for _ in 0..1000 {
            turns.make_room(2, |_| false).unwrap();
            turns.push_end(1);
        }
        assert!(turns.ends.len() <= 3);
    }
}
