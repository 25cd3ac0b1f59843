//! Which process this is, counted from the program's start, and how often its descriptors were shared.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);
static SHARES: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between the program's start and this process.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// This process is a child that was just forked.
pub fn next_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// How often another process may have got the descriptors that were open then. What is closed here stays open
/// there, and epoll tells of it by a number that is another file's.
pub fn shares() -> u32 {
    SHARES.load(Ordering::Relaxed)
}

/// Another process may have the descriptors that are open now.
pub fn shares_descriptors() {
    SHARES.fetch_add(1, Ordering::Relaxed);
}
