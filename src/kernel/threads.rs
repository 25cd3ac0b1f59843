//! Whether the process has only one thread, as the C library reports it. No state here.
#![deny(unsafe_code)]

/// Whether the calling thread is the only thread of the process; false if the C library does not report it.
/// After true, the answer stays true until the thread itself, or a signal handler in it, starts another
/// thread.
#[allow(unsafe_code, reason = "in wait.c")]
pub fn is_single_threaded() -> bool {
    unsafe extern "C" {
        fn ipc_c_is_single_threaded() -> libc::c_int;
    }
    // SAFETY: the function only reads a variable of the C library.
    unsafe { ipc_c_is_single_threaded() != 0 }
}
