//! State of the whole process: which threads are inside the library, locks and the tables under them, forks.

pub mod entry_guard;
pub mod fork_epoch;
pub mod growth;
pub mod sharded;
pub mod sorted_map;
pub mod sync;
