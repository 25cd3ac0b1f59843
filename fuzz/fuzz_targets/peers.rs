//! `targets::peers`, with a time limit for each input.
//!
//! The fuzzer checks its own limit with a signal every few seconds. In the thread that runs the target, this
//! signal would end each wait of a library that must not wait, and such a wait would not be noticed. So that
//! thread blocks the signal, and another thread enforces the limit.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The time limit of an input, in seconds.
const LIMIT: u32 = 20;

/// How many times an input has begun or ended: odd while an input runs.
static TURN: AtomicU64 = AtomicU64::new(0);

fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(watch);
        // SAFETY: all zeros is a set of signals, which is filled and read here.
        unsafe {
            let mut alarm: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut alarm, libc::SIGALRM);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const alarm, std::ptr::null_mut());
        }
    });
    TURN.fetch_add(1, Ordering::Relaxed);
}

fn watch() {
    let (mut seen, mut seconds) = (0, 0);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let turn = TURN.load(Ordering::Relaxed);
        seconds = if turn == seen && turn % 2 == 1 { seconds + 1 } else { 0 };
        seen = turn;
        if seconds == LIMIT {
            eprintln!("the input has not ended within {LIMIT} s");
            std::process::abort();
        }
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    begin();
    targets::peers::run(input);
    TURN.fetch_add(1, Ordering::Relaxed);
});
