//! How often the program has forked between its start and this process, and whether file descriptors may be
//! shared with another process.
//!
//! Two variables, changed by the fork handlers of `capi::process` only: the generation, which each forked
//! child increases by one, and a flag that is set before the first fork, and stays set in parent and child.
//! An object that notes the generation when it is made belongs to another process if the generation has
//! changed since.

#![forbid(unsafe_code)]

use crate::process::sync::{AtomicBool, AtomicU32, Ordering};

/// How many forks lie between the program's start and this process; written by [`next_generation`].
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Whether this process has forked or was forked; written by [`note_fork`].
static HAS_FORKED: AtomicBool = AtomicBool::new(false);

/// How many forks lie between the program's start and this process.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Whether another process may have copies of this process's descriptors: this process was forked, or has
/// forked.
pub fn has_forked() -> bool {
    HAS_FORKED.load(Ordering::Relaxed)
}

/// This process is about to fork.
pub fn note_fork() {
    HAS_FORKED.store(true, Ordering::Relaxed);
}

/// This process is a child that has just been forked.
pub fn next_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
