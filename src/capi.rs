//! The door to C: the functions of `ipc.h`, and nothing but the quirks of that interface: out-parameters,
//! ownership, codes, NULL. Each reads its arguments, calls the core, and turns the result into a code.
//!
//! What C passes is read through raw pointers, member by member: no Rust reference to what C may change.
//!
//! The comments of exported functions are written for the C programmer: they become those of the header. A
//! pointer that they name is NULL or points to what its type says.
#![allow(clippy::missing_safety_doc, reason = "said above, once for all exported functions")]

pub mod events;
mod list;
pub mod log;
pub mod messages;
pub mod passing;
pub mod printing;
mod process;
pub mod queueing;
pub mod server_and_client;
pub mod types;
pub mod usock;
pub mod waiting;

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;

use crate::error::{Error, ipc_errors};
use crate::memory::OutOfMemory;
use crate::section::Section;

/// The boundary of every exported function: enters the library, ends panics, keeps errno on success and
/// sets it on failure.
///
/// A signal handler that interrupted the library cannot enter it again: `nested` is then all that is done.
fn call_or(
    code: ipc_errors,
    nested: impl FnOnce() -> Result<(), Error>,
    body: impl FnOnce(&mut Section) -> Result<(), Error>,
) -> ipc_errors {
    let before = Errno::last_raw();
    // Nothing else names it, and a linker takes out of an archive only what is named.
    std::hint::black_box(&process::REGISTER);
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
fn call(code: ipc_errors, body: impl FnOnce(&mut Section) -> Result<(), Error>) -> ipc_errors {
    call_or(code, || Err(Error::new(code, Errno::EDEADLK)), body)
}

/// What is to be remembered of a connection could not be.
fn setting_failed(errno: Errno) -> Error {
    match errno {
        Errno::ENOMEM => OutOfMemory.into(),
        errno => Error::new(ipc_errors::IPC_ERROR_USOCK_RECV, errno),
    }
}

/// A pointer that must not be NULL, or the code that is named for it.
fn required<T>(pointer: *mut T, code: ipc_errors) -> Result<*mut T, Error> {
    if pointer.is_null() { Err(Error::argument(code)) } else { Ok(pointer) }
}

/// [`required`] for what is only read.
fn required_const<T>(pointer: *const T, code: ipc_errors) -> Result<*const T, Error> {
    required(pointer.cast_mut(), code).map(<*mut T>::cast_const)
}
