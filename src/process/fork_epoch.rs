//! Which process this is, counted from the program's start.

#![forbid(unsafe_code)]

use crate::process::sync::{AtomicBool, AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);
static HAS_FORKED: AtomicBool = AtomicBool::new(false);

/// How many forks lie between the program's start and this process.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Whether another process may have what this one has open: it was forked, or has forked.
pub fn has_forked() -> bool {
    HAS_FORKED.load(Ordering::Relaxed)
}

/// This process is about to fork.
pub fn note_fork() {
    HAS_FORKED.store(true, Ordering::Relaxed);
}

/// This process is a child that was just forked.
pub fn next_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
