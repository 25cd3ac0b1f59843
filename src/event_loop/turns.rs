//! Whose turn it is.
//!
//! Members that are ready stand in a queue, each once, and take turns: one event each. The kernel is asked again after
//! each round, so that a peer that floods does not keep the others waiting. Connections that have ended go before all
//! others.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::event_loop::members::Token;
use crate::frame::c_heap::OutOfMemory;
use crate::process::growth::reserve_queue;

/// How many ready descriptors the kernel is asked for at a time.
pub const BATCH: usize = 64;

/// After how many turns at least the kernel is asked: a single member that sends much would cost a system call for each
/// message.
const SHORTEST_ROUND: usize = 2;

/// The queues.
pub struct Turns {
    ready: VecDeque<Token>,
    /// Those whose end is to be reported.
    ends: VecDeque<Token>,
    /// How many may still take their turn before the kernel is asked again.
    left: usize,
    shortest_round: usize,
}

impl Turns {
    /// Nobody is ready.
    pub fn new() -> Self {
        Self { ready: VecDeque::new(), ends: VecDeque::new(), left: 0, shortest_round: SHORTEST_ROUND }
    }

    /// The program calls, and wants so many events.
    pub fn begin(&mut self, most: usize) {
        self.shortest_round = most.clamp(SHORTEST_ROUND, BATCH);
        if most > 1 {
            // Members that are ready by now are reported beside those of which much has been read ahead.
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

    /// Finds the memory for so many members, the service, and what is in the queue without being a member any more.
    pub fn make_room(
        &mut self,
        members: usize,
        is_member: impl Fn(Token) -> bool,
    ) -> Result<(), OutOfMemory> {
        for queue in [&mut self.ready, &mut self.ends] {
            if queue.len() > 2 * members + 2 {
                // Many were added and removed without a wait.
                queue.retain(|token| is_member(*token));
            }
            reserve_queue(queue, members + 2)?;
        }
        Ok(())
    }

    /// The member takes its turn behind the others. There is room for it.
    pub fn push(&mut self, token: Token) {
        self.ready.push_back(token);
    }

    /// The next member, which is in the queue no more.
    pub fn pop(&mut self) -> Option<Token> {
        self.left = self.left.saturating_sub(1);
        self.ready.pop_front()
    }

    /// The member that is to take its turn next.
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

    /// The next one whose end is to be reported.
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
            // Each has more.
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
