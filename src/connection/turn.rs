//! Whose turn it is to send on one connection.
//!
//! A frame that the kernel does not take at once is sent in pieces, between which its thread waits outside of every lock.
//! Meanwhile the connection is that thread's: it holds the turn. Others wait in the order in which they came; the turn is
//! passed to the first of them.
//!
//! ```text
//! free ──take──► held ──pass──► free, or held by the first that waits, which is woken
//! ```
//!
//! A thread that ends while it waits, or while it holds the turn, leaves: the turn goes to the next one.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::frame::c_heap::OutOfMemory;
use crate::kernel::semaphore::Waker;
use crate::process::entry_guard::Thread;

/// The turn of one connection.
#[derive(Default)]
pub struct Turn {
    holder: Option<Thread>,
    waiting: VecDeque<(Thread, Waker)>,
    /// How many threads wait until the queue has room for their frame; they do not need the turn for that.
    held_back: u32,
}

impl Turn {
    /// Whether no thread holds it.
    pub fn is_free(&self) -> bool {
        self.holder.is_none()
    }

    /// Whether no thread has anything to send.
    pub fn is_unused(&self) -> bool {
        self.is_free() && self.held_back == 0
    }

    /// Whether this thread holds it.
    pub fn is_held_by(&self, thread: Thread) -> bool {
        self.holder == Some(thread)
    }

    /// Whether this thread holds it or waits for it: a signal handler that asks has interrupted it.
    pub fn has(&self, thread: Thread) -> bool {
        self.is_held_by(thread) || self.waiting.iter().any(|(waiting, _)| *waiting == thread)
    }

    /// Takes it. It is free.
    pub fn take(&mut self, thread: Thread) {
        self.holder = Some(thread);
    }

    /// Waits for it: the waker is called when the thread holds it, or when the connection is closed.
    pub fn enqueue(&mut self, thread: Thread, waker: Waker) -> Result<(), OutOfMemory> {
        self.waiting.try_reserve(1)?;
        self.waiting.push_back((thread, waker));
        Ok(())
    }

    /// The holder passes it on.
    pub fn pass(&mut self) {
        self.holder = self.waiting.pop_front().map(|(next, waker)| {
            waker.wake();
            next
        });
    }

    /// This thread does not wait any more, and does not hold it.
    pub fn leave(&mut self, thread: Thread) {
        self.waiting.retain(|(waiting, _)| *waiting != thread);
        if self.is_held_by(thread) {
            self.pass();
        }
    }

    /// A thread begins to wait for room in the queue, or ends to.
    pub fn hold_back(&mut self, begins: bool) {
        self.held_back = if begins { self.held_back + 1 } else { self.held_back.saturating_sub(1) };
    }

    /// In the child of a fork: none of the threads is there.
    pub fn abandon(&mut self) {
        *self = Self::default();
    }

    /// The connection is closed: wakes all that wait.
    pub fn close(&mut self) {
        self.waiting.drain(..).for_each(|(_, waker)| waker.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::semaphore::Semaphore;
    use crate::process::entry_guard::EntryGuard;

    fn threads<const N: usize>() -> [Thread; N] {
        // All alive at once: their numbers differ.
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(N));
        let threads = [(); N].map(|()| {
            let barrier = barrier.clone();
            std::thread::spawn(move || {
                let thread = EntryGuard::enter().unwrap().thread();
                barrier.wait();
                thread
            })
        });
        threads.map(|thread| thread.join().unwrap())
    }

    #[test]
    fn turn_passes_in_order_and_skips_ended_threads() {
        let [first, second, third, fourth] = threads();
        let semaphores = [(); 3].map(|()| Semaphore::new());
        let mut turn = Turn::default();
        assert!(turn.is_free() && turn.is_unused());
        turn.take(first);
        for (thread, semaphore) in [second, third, fourth].into_iter().zip(&semaphores) {
            turn.enqueue(thread, semaphore.arm()).unwrap();
            assert!(turn.has(thread) && !turn.is_held_by(thread));
        }
        // One that waits ends: the others keep their places.
        turn.leave(third);
        assert!(!turn.has(third));
        turn.pass();
        assert!(turn.is_held_by(second));
        // One that holds it ends.
        turn.leave(second);
        assert!(turn.is_held_by(fourth));
        turn.pass();
        assert!(turn.is_free());
        turn.hold_back(true);
        assert!(turn.is_free() && !turn.is_unused());
        turn.hold_back(false);
        assert!(turn.is_unused());
    }
}
