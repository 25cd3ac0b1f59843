//! Which thread may send on a connection.
//!
//! A frame that the kernel does not take at once is sent in pieces, and between two pieces its thread waits
//! outside every lock. Meanwhile the connection belongs to this thread: the thread holds the turn. Other
//! threads wait in first-come order; the holder passes the turn to the first of them.
//!
//! ```text
//! free ──take──► held ──pass──► free, or held by the first waiting thread, which is woken
//! ```
//!
//! If a thread is cancelled while it waits for the turn or holds it, its cancellation handler calls
//! [`SendTurn::leave`] (`Write::abandon`): a turn that it held goes to the next thread. The turn is part of
//! the connection's memory and is accessed under its lock.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::frame::c_heap::OutOfMemory;
use crate::kernel::semaphore::Waker;
use crate::process::entry_guard::Thread;

/// The turn of one connection.
#[derive(Default)]
pub struct SendTurn {
    holder: Option<Thread>,
    waiting: VecDeque<(Thread, Waker)>,
    /// How many threads wait until the queue has room for their frame; they need no turn for that.
    held_back: u32,
}

impl SendTurn {
    /// Whether no thread holds the turn.
    pub fn is_free(&self) -> bool {
        self.holder.is_none()
    }

    /// Whether no thread holds the turn or waits for room in the queue.
    pub fn is_unused(&self) -> bool {
        self.is_free() && self.held_back == 0
    }

    /// Whether this thread holds the turn.
    pub fn is_held_by(&self, thread: Thread) -> bool {
        self.holder == Some(thread)
    }

    /// Whether this thread holds the turn or waits for it. At the beginning of a call, true means that a
    /// signal handler has interrupted a write to the same connection.
    pub fn has(&self, thread: Thread) -> bool {
        self.is_held_by(thread) || self.waiting.iter().any(|(waiting, _)| *waiting == thread)
    }

    /// Gives the turn to this thread. The turn must be free, or this thread's already.
    pub fn take(&mut self, thread: Thread) {
        self.holder = Some(thread);
    }

    /// Adds the thread to the waiting ones: the waker is called when the thread gets the turn, or when the
    /// connection is closed. Another thread must hold the turn: a free turn is never passed, so the thread
    /// would not be woken.
    pub fn enqueue(&mut self, thread: Thread, waker: Waker) -> Result<(), OutOfMemory> {
        self.waiting.try_reserve(1)?;
        self.waiting.push_back((thread, waker));
        Ok(())
    }

    /// The holder gives up the turn; the first waiting thread gets it.
    pub fn pass(&mut self) {
        self.holder = self.waiting.pop_front().map(|(next, waker)| {
            waker.wake();
            next
        });
    }

    /// This thread no longer waits for the turn, and passes it on if it holds it.
    pub fn leave(&mut self, thread: Thread) {
        self.waiting.retain(|(waiting, _)| *waiting != thread);
        if self.is_held_by(thread) {
            self.pass();
        }
    }

    /// A thread begins to wait for room in the queue, or stops waiting. In the child of a fork the count is 0
    /// already when an interrupted call stops waiting.
    pub fn hold_back(&mut self, begins: bool) {
        self.held_back = if begins { self.held_back + 1 } else { self.held_back.saturating_sub(1) };
    }

    /// In the child of a fork: removes holder and waiting threads, without waking them. If a handler forked
    /// during a wait, the interrupted write finds in the child that it no longer has the turn (EBADF).
    pub fn abandon(&mut self) {
        *self = Self::default();
    }

    /// The connection is closed: wakes all waiting threads, which find no connection. The caller removes the
    /// turn.
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
        // The threads are alive at the same time, so that their numbers differ.
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
        let mut turn = SendTurn::default();
        assert!(turn.is_free() && turn.is_unused());
        turn.take(first);
        for (thread, semaphore) in [second, third, fourth].into_iter().zip(&semaphores) {
            turn.enqueue(thread, semaphore.arm()).unwrap();
            assert!(turn.has(thread) && !turn.is_held_by(thread));
        }
        // A waiting thread ends: the other threads keep their places.
        turn.leave(third);
        assert!(!turn.has(third));
        turn.pass();
        assert!(turn.is_held_by(second));
        // The thread that holds the turn ends.
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
