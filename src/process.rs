//! What is one for the process: entries into the library, locks, forks.

pub mod entry_guard;
pub mod fork_epoch;
pub mod growth;
pub mod sharded;
pub mod sync;
