//! What threads share is kept with these: the standard library's, but in a build for the concurrency model, where the
//! model checker decides which thread goes on.

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

/// Locks it. A panic has left nothing half done: what is changed under a lock is changed at once.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The checker lets other threads go on at each atomic, but at a lock only if it is held.
    #[cfg(all(test, libipc_model))]
    {
        static POINT: AtomicBool = AtomicBool::new(false);
        POINT.load(Ordering::Relaxed);
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
