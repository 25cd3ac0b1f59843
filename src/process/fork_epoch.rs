//! Which process this is, counted from the program's start.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between the program's start and this process.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// This process is a child that was just forked.
pub fn next_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
