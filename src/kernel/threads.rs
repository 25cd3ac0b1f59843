//! Whether the process has one thread.
#![deny(unsafe_code)]

/// Whether this thread is the only one of the process, and was all the time since it began to call the library; false if the C
/// library does not say. A signal handler may begin others.
#[allow(unsafe_code, reason = "in wait.c")]
pub fn is_only_one() -> bool {
    unsafe extern "C" {
        fn ipc_c_is_single_threaded() -> libc::c_int;
    }
    // SAFETY: it reads a variable of the C library.
    unsafe { ipc_c_is_single_threaded() != 0 }
}
