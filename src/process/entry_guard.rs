//! Whether this thread is inside the library.
//!
//! Signal handlers of real programs call `ipc_connections_free`, `ipc_server_close` and `exit`. One that
//! interrupts the library itself, in the middle of malloc(3) or with a lock held, must not enter it again.
//! So each exported function enters a [`EntryGuard`], and a nested one learns that there is none to have: it
//! then does only what needs neither heap nor lock (close, unlink).
//!
//! Locks are taken with a reference to the guard, and a blocking call needs it mutably: the compiler sees
//! to it that no lock is held while the library blocks.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;

use crate::process::sync::thread_local;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Which thread this is: a number no other living thread has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(usize);

/// This thread is inside the library until this value is dropped.
pub struct EntryGuard {
    not_send: PhantomData<*const ()>,
}

impl EntryGuard {
    /// Enters, unless this thread is inside already: the caller is then a signal handler.
    pub fn enter() -> Option<Self> {
        // Made only if it is to be had: dropping one leaves the guard.
        (!INSIDE.with(|inside| inside.replace(true))).then(|| Self { not_send: PhantomData })
    }

    /// Runs `blocking` as if outside: a signal handler that comes meanwhile may use the whole library.
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
    fn a_thread_enters_once() {
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
    fn threads_enter_on_their_own() {
        let here = EntryGuard::enter().unwrap();
        let there = std::thread::spawn(|| EntryGuard::enter().map(|guard| guard.thread())).join();
        assert!(there.unwrap().is_some_and(|there| there != here.thread()));
    }
}
