//! The order in which members take turns.
//!
//! Ready members are in a queue, each once, and take turns of one event each. The kernel is asked again after
//! each round, so that a peer that sends without pause does not keep the others waiting. Connections that
//! have ended are reported before all other events.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::event_loop::members::Token;
use crate::frame::c_heap::OutOfMemory;
use crate::process::growth::reserve_queue;

/// How many ready descriptors the kernel is asked for at a time.
pub const BATCH: usize = 64;

/// The kernel is asked after so many turns at the earliest: otherwise a single busy member would cost a
/// system call for each message.
const SHORTEST_ROUND: usize = 2;

/// The queues of ready and of ended members.
pub struct Turns {
    ready: VecDeque<Token>,
    /// Members whose end is to be reported.
    ends: VecDeque<Token>,
    /// How many members may still take their turn before the kernel is asked again.
    left: usize,
    shortest_round: usize,
}

impl Turns {
    /// Empty queues.
    pub fn new() -> Self {
        Self { ready: VecDeque::new(), ends: VecDeque::new(), left: 0, shortest_round: SHORTEST_ROUND }
    }

    /// A call of the program begins, and asks for at most so many events.
    pub fn begin(&mut self, most: usize) {
        self.shortest_round = most.clamp(SHORTEST_ROUND, BATCH);
        if most > 1 {
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

    /// Allocates the memory for so many members, the service, and tokens in the queue whose member was
    /// removed.
    pub fn make_room(
        &mut self,
        members: usize,
        is_member: impl Fn(Token) -> bool,
    ) -> Result<(), OutOfMemory> {
        for queue in [&mut self.ready, &mut self.ends] {
            if queue.len() > 2 * members + 2 {
                // Many members were added and removed without a wait.
                queue.retain(|token| is_member(*token));
            }
            reserve_queue(queue, members + 2)?;
        }
        Ok(())
    }

    /// Queues the member for its next turn. The memory was allocated before.
    pub fn push(&mut self, token: Token) {
        self.ready.push_back(token);
    }

    /// Removes the next member from the queue.
    pub fn pop(&mut self) -> Option<Token> {
        self.left = self.left.saturating_sub(1);
        self.ready.pop_front()
    }

    /// The member that takes the next turn.
    pub fn next(&self) -> Option<Token> {
        self.ready.front().copied()
    }

    /// Whether no member is ready.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// The member's end is to be reported.
    pub fn push_end(&mut self, token: Token) {
        self.ends.push_back(token);
    }

    /// Removes the next member whose end is to be reported.
    pub fn pop_end(&mut self) -> Option<Token> {
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
        let tokens = [1, 2, 3].map(Token::of);
        tokens.iter().for_each(|token| turns.push(*token));
        assert!(turns.is_over());
        turns.begin_round();
        for token in tokens {
            assert!(!turns.is_over());
            assert_eq!(turns.pop(), Some(token));
            // Each member has more to report.
            turns.push(token);
        }
        assert!(turns.is_over());
    }

    #[test]
    fn tokens_of_removed_members_do_not_accumulate() {
        let mut turns = Turns::new();
        for n in 0..1000 {
            turns.make_room(1, |token| token == Token::of(n)).unwrap();
            turns.push(Token::of(n));
        }
        assert!(turns.ready.len() <= 5);
    }
}
