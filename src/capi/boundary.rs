//! What every exported function does on the way in and out: enter the library, end panics, errno.

use std::panic::{AssertUnwindSafe, catch_unwind};

use std::os::fd::RawFd;

use nix::errno::Errno;

use super::process::REGISTER;
use super::types::ipc_connection_info;
use crate::error::{Error, ipc_errors};
use crate::frame::c_heap::OutOfMemory;
use crate::process::entry_guard::Section;

/// The boundary of every exported function: enters the library, ends panics, keeps errno on success and
/// sets it on failure.
///
/// A signal handler that interrupted the library cannot enter it again: `nested` is then all that is done.
pub fn call_or(
    code: ipc_errors,
    nested: impl FnOnce() -> Result<(), Error>,
    body: impl FnOnce(&mut Section) -> Result<(), Error>,
) -> ipc_errors {
    let before = Errno::last_raw();
    // Nothing else names it, and a linker takes out of an archive only what is named.
    std::hint::black_box(&REGISTER);
    let result = catch_unwind(AssertUnwindSafe(|| match Section::enter() {
        Some(mut section) => body(&mut section),
        None => nested(),
    }));
    match result.unwrap_or(Err(Error::new(code, Errno::ENOTRECOVERABLE))) {
        Ok(()) => {
            Errno::set_raw(before);
            ipc_errors::IPC_ERROR_NONE
        }
        Err(error) => {
            error.errno.set();
            error.code
        }
    }
}

/// [`call_or`] for a function that has nothing to offer to such a handler: EDEADLK.
pub fn call(code: ipc_errors, body: impl FnOnce(&mut Section) -> Result<(), Error>) -> ipc_errors {
    call_or(code, || Err(Error::new(code, Errno::EDEADLK)), body)
}

/// What is to be remembered of a connection could not be.
pub fn setting_failed(errno: Errno) -> Error {
    match errno {
        Errno::ENOMEM => OutOfMemory.into(),
        errno => Error::new(ipc_errors::IPC_ERROR_USOCK_RECV, errno),
    }
}

/// A pointer that must not be NULL, or the code that is named for it.
pub fn required<T>(pointer: *mut T, code: ipc_errors) -> Result<*mut T, Error> {
    if pointer.is_null() { Err(Error::argument(code)) } else { Ok(pointer) }
}

/// [`required`] for what is only read.
pub fn required_const<T>(pointer: *const T, code: ipc_errors) -> Result<*const T, Error> {
    required(pointer.cast_mut(), code).map(<*mut T>::cast_const)
}

/// The descriptor of a structure; the code of the operation and EINVAL for NULL.
///
/// # Safety
/// `info` is NULL or points to a structure.
pub unsafe fn fd_of(info: *const ipc_connection_info, code: ipc_errors) -> Result<RawFd, Error> {
    // SAFETY: the caller's promise: NULL or a live structure.
    required_const(info, code).map(|info| unsafe { (*info).fd })
}
