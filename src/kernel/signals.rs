//! The signal mask of a thread while it is in a call that waits several times.
//!
//! Between two waits all signals are blocked, and ppoll(2) unblocks them only while it waits: a handler then
//! runs within ppoll(2), which fails with EINTR, and never unnoticed between two waits. The first wait of a
//! call does not block signals. The saved mask is in the call's `Wait`; there is no state here.
#![deny(unsafe_code)]

use std::mem::MaybeUninit;

/// Blocks all signals in this thread, and returns the mask before; None if that fails.
#[allow(unsafe_code, reason = "the mask is passed to ppoll(2) in C; nix has a type of its own")]
pub fn block() -> Option<libc::sigset_t> {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sigfillset initialises the first set, pthread_sigmask the second if it succeeds.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
        (result == 0).then(|| before.assume_init())
    }
}

/// Restores the mask. The handlers of signals that have arrived meanwhile run now.
#[allow(unsafe_code, reason = "see block")]
pub fn restore(before: &libc::sigset_t) {
    // SAFETY: the set is initialised.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

/// Signals that an instruction of the thread itself causes. None arrives while the thread waits, and programs
/// that report their own crashes install handlers for them without SA_RESTART.
const FROM_INSTRUCTIONS: [i32; 6] =
    [libc::SIGILL, libc::SIGTRAP, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS];

/// Whether all handlers that the program has installed for signals that may end a wait have SA_RESTART.
/// poll(2) fails with EINTR after any handler; if this returns true, the caller continues the wait.
#[allow(unsafe_code, reason = "nix does not read an action without changing it")]
pub fn all_restart() -> bool {
    (1..=libc::SIGRTMAX()).filter(|signal| !FROM_INSTRUCTIONS.contains(signal)).all(|signal| {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: sigaction initialises the action if it succeeds.
        unsafe {
            if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) != 0 {
                return true;
            }
            let action = action.assume_init();
            matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
                || action.sa_flags & libc::SA_RESTART != 0
        }
    })
}
