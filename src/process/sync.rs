//! Locks and atomics for all data that threads share. They are those of the standard library; in a build for
//! the concurrency model (`cfg(libipc_model)`) they are those of shuttle, which decides which thread runs
//! next.
//!
//! Data whose races the model is to find must use these types: the model does not see those of the standard
//! library.

#![forbid(unsafe_code)]

use std::sync::PoisonError;

#[cfg(all(test, libipc_model))]
pub use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicUsize, Ordering},
};
#[cfg(all(test, libipc_model))]
pub use shuttle::thread_local;

#[cfg(not(all(test, libipc_model)))]
pub use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicUsize, Ordering},
};
#[cfg(not(all(test, libipc_model)))]
pub use std::thread_local;

/// Locks the mutex. If a thread has panicked with the lock held, the lock is taken all the same: code that
/// holds a lock does not panic in the middle of a change.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // shuttle switches threads at each access to an atomic, but at a mutex only if the mutex is held.
    #[cfg(all(test, libipc_model))]
    {
        static POINT: AtomicBool = AtomicBool::new(false);
        POINT.load(Ordering::Relaxed);
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
