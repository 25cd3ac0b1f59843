//! What threads share is kept with these: the standard library's, but in a build for the concurrency model, where the
//! model checker decides which thread goes on.

#![forbid(unsafe_code)]

#[cfg(all(test, libipc_model))]
pub use shuttle::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering},
};
#[cfg(all(test, libipc_model))]
pub use shuttle::thread_local;

#[cfg(not(all(test, libipc_model)))]
pub use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering},
};
#[cfg(not(all(test, libipc_model)))]
pub use std::thread_local;
