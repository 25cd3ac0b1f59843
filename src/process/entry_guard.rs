//! Whether this thread is inside the library.
//!
//! Signal handlers of real programs call `ipc_connections_free`, `ipc_server_close` and `exit`. A handler
//! that interrupts the library itself, in the middle of malloc(3) or with a lock held, must not enter the
//! library again. So each exported function enters an [`EntryGuard`]. If the thread is inside already,
//! entering fails: the function was called by such a handler, and does only what needs neither heap nor lock
//! (close, unlink).
//!
//! ```text
//! outside ──enter──► inside ──drop──► outside
//!                    inside ──outside()──► outside, while the closure runs ──► inside
//! ```
//!
//! Taking a lock borrows the guard, and a blocking call borrows the guard mutably, so the compiler refuses
//! code that blocks while it holds a lock. The flag is thread-local: only the thread itself reads and writes
//! it.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;

use crate::process::sync::thread_local;

thread_local! {
    /// Whether this thread is inside; true while an [`EntryGuard`] of the thread exists, except within
    /// `outside`.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The identity of a thread: the address of its thread-local flag, which no other living thread has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(usize);

/// This thread is inside the library until this value is dropped.
pub struct EntryGuard {
    /// Keeps the guard in its thread: the type is neither Send nor Sync.
    not_send: PhantomData<*const ()>,
}

impl EntryGuard {
    /// Enters the library; None if this thread is inside already: the caller is then a signal handler.
    pub fn enter() -> Option<Self> {
        // `then`, not `then_some`: the guard must not exist if entering fails, since its drop would clear the
        // flag.
        (!INSIDE.with(|inside| inside.replace(true))).then(|| Self { not_send: PhantomData })
    }

    /// Runs `blocking` outside the library: a signal handler that interrupts `blocking` may call every
    /// function.
    pub fn outside<R>(&mut self, blocking: impl FnOnce() -> R) -> R {
        INSIDE.with(|inside| inside.set(false));
        let result = blocking();
        INSIDE.with(|inside| inside.set(true));
        result
    }

    /// The thread that is inside.
    pub fn thread(&self) -> Thread {
        INSIDE.with(|here| Thread(std::ptr::from_ref(here).addr()))
    }
}

impl Drop for EntryGuard {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_enters_once() {
        let mut guard = EntryGuard::enter().unwrap();
        for _ in 0..3 {
            assert!(EntryGuard::enter().is_none());
        }
        guard.outside(|| assert!(EntryGuard::enter().is_some()));
        assert!(EntryGuard::enter().is_none());
        drop(guard);
        assert!(EntryGuard::enter().is_some());
    }

    #[test]
    fn threads_enter_independently() {
        let here = EntryGuard::enter().unwrap();
        let there = std::thread::spawn(|| EntryGuard::enter().map(|guard| guard.thread())).join();
        assert!(there.unwrap().is_some_and(|there| there != here.thread()));
    }
}
