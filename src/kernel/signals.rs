//! Signals are blocked while a call that waits does work of its own between two waits, so that no handler is missed.
#![deny(unsafe_code)]

use std::mem::MaybeUninit;

/// Blocks all signals of this thread; what was blocked before.
#[allow(unsafe_code, reason = "the set is handed to ppoll(2), which nix takes in a form of its own")]
pub fn block() -> Option<libc::sigset_t> {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sigfillset initialises the first set, pthread_sigmask the second if it succeeds.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
        (result == 0).then(|| before.assume_init())
    }
}

/// Blocks what was blocked before, and no more. A handler of a signal that has arrived meanwhile runs now.
#[allow(unsafe_code, reason = "see above")]
pub fn restore(before: &libc::sigset_t) {
    // SAFETY: an initialised set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

/// What an instruction of the thread's own brings about: none comes while it waits, and programs that report their own
/// crashes handle them without SA_RESTART.
const FROM_INSTRUCTIONS: [i32; 6] =
    [libc::SIGILL, libc::SIGTRAP, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS];

/// Whether each handler that the program has installed, for a signal that may end a wait, wants interrupted calls to go on
/// (SA_RESTART). poll(2), which is always interrupted, then goes on, too.
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
