//! What is one for the process: entries into the library, locks, forks.

pub mod entry_guard;
pub mod fork_epoch;
pub mod growth;
#[cfg(any(test, target_arch = "x86"))]
mod heap;
pub mod sharded;
pub mod sync;
