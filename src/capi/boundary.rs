//! The boundary of the exported functions: entering and leaving the library, panics, errno, cancellation.
//!
//! A function that does not wait uses [`call`] or a variant of `call`: its thread enters the library, does
//! everything in one step, and leaves the library. A function that may wait uses [`run`] or a variant of
//! `run`:
//!
//! ```text
//! begin ──► shortcut, if the function has one ──Done or error──► return
//!            ▲    │ └──None──► step ──Done or error──► return
//!            │    │             │
//!            │    └─────Wait────┴──► wait, outside the library ──┐
//!            └───────────────────────────────────────────────────┘
//! ```
//!
//! * In a step cancellation is disabled (a shortcut or `call_on_memory` makes no system call that is a
//!   cancellation point instead), a panic becomes an error, and a signal handler cannot enter the library.
//! * In a wait no lock is held and the library is not entered. So a signal handler may call any function, and
//!   the thread may be cancelled: no frame up to the program's has anything to drop.
//! * On return errno is as before on success, and set on failure. When a function returns or begins to wait,
//!   it calls the due `destroy` functions of ipc_set_data.

use std::cell::Cell;
use std::ffi::c_int;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use nix::errno::Errno;

use super::process::REGISTER;
use super::types::ipc_connection_info;
use crate::calls::flow::Flow;
use crate::connection::{background, user_data};
use crate::error::{Error, ipc_errors};
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::EntryGuard;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

unsafe extern "C-unwind" {
    fn pthread_testcancel();
}

/// PTHREAD_CANCEL_DISABLE of glibc and musl.
const CANCEL_DISABLE: c_int = 1;

/// Calls `act` with cancellation disabled. A request of pthread_cancel(3) stays pending until the library
/// waits or has returned.
pub fn without_cancellation<R>(act: impl FnOnce() -> R) -> R {
    let mut before = 0;
    // SAFETY: `before` has room for the previous state.
    unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut before) };
    let result = act();
    // SAFETY: `before` is the previous state.
    unsafe { pthread_setcancelstate(before, ptr::null_mut()) };
    result
}

/// Calls `act`; a panic becomes an error with this code and ENOTRECOVERABLE.
#[inline(always)]
fn without_panic<R>(code: ipc_errors, act: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
        // Every exported function refers to REGISTER here: a linker drops an object of an archive to which no
        // code refers.
        std::hint::black_box(&REGISTER);
        Err(Error::new(code, Errno::ENOTRECOVERABLE))
    })
}

/// [`without_panic`] and [`without_cancellation`].
fn guarded<R>(code: ipc_errors, act: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    without_cancellation(|| without_panic(code, act))
}

thread_local! {
    /// Whether this thread is in [`destroy_all`], which sets and clears the flag.
    static IS_DESTROYING: Cell<bool> = const { Cell::new(false) };
}

/// Calls the `destroy` functions of ipc_set_data for the pointers that have been dropped.
#[inline]
fn destroy_due() {
    if user_data::is_due() {
        destroy_all();
    }
}

/// Calls of `destroy` functions do not nest: if such a function makes another pointer due, this pointer's
/// turn comes after the function has returned.
#[cold]
#[inline(never)]
fn destroy_all() {
    if IS_DESTROYING.replace(true) {
        return;
    }
    // In a signal handler that interrupted the library, `enter` returns None: the interrupted call destroys.
    while let Some(Some((pointer, destroy))) = EntryGuard::enter().map(|guard| user_data::next_due(&guard)) {
        // Such a function may reach a cancellation point, and this is none: the call may have to give back
        // what it holds.
        without_cancellation(|| destroy(pointer));
    }
    IS_DESTROYING.set(false);
}

/// Ends an exported function: restores errno on success, sets errno on failure, and returns the code.
fn finish(before: i32, result: Result<(), Error>) -> ipc_errors {
    destroy_due();
    match result {
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

/// The boundary of an exported function that does not wait.
///
/// If the caller is a signal handler that interrupted the library, the thread cannot enter the library again:
/// then `nested` is called instead of `body`.
pub fn call_or(
    code: ipc_errors,
    nested: impl FnOnce() -> Result<(), Error>,
    body: impl FnOnce(&mut EntryGuard) -> Result<(), Error>,
) -> ipc_errors {
    let before = Errno::last_raw();
    let result = guarded(code, || match EntryGuard::enter() {
        Some(mut guard) => {
            // Every call first sends what it can in the background; the bool: whether this call has waited
            // for that.
            background::send(&guard, false);
            body(&mut guard)
        }
        None => nested(),
    });
    finish(before, result)
}

/// The boundary of an exported function that may wait. The function is a cancellation point when it begins
/// and while it waits.
///
/// `step` is called until it returns a result other than [`Flow::Wait`]. Before it returns `Flow::Wait`, it
/// writes to the [`Wait`] what to wait for; in the next call the `Wait` holds the outcome.
///
/// # Safety
/// Cancellation may unwind the thread from the wait: no frame from this one up to the program's may have
/// anything to drop.
pub unsafe fn run<F>(code: ipc_errors, mut step: F) -> ipc_errors
where
    F: FnMut(&mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    // SAFETY: the call has done nothing yet, so there is nothing to undo.
    unsafe { pthread_testcancel() };
    // SAFETY: as promised by the caller.
    unsafe { make_plain_steps(code, Errno::last_raw(), &mut (), |(), guard, wait| step(guard, wait)) }
}

/// [`run`] with a state, and with shortcuts: `begin` is tried before the first step, and `go_on` before each
/// step after a wait. A shortcut either does the whole step or returns None, with all that the step needs to
/// go on in `state` or in the connection's memory. Cancellation is enabled during a shortcut, which therefore
/// uses only system calls that are not cancellation points ([`direct`]). While anything is sent in the
/// background (`connection::background`), no shortcut is tried.
///
/// [`direct`]: crate::kernel::direct
///
/// # Safety
/// As for [`run`].
#[inline(always)]
pub unsafe fn run_quickly<S, B, Q, F>(
    code: ipc_errors,
    state: &mut S,
    begin: B,
    go_on: Q,
    step: F,
) -> ipc_errors
where
    B: FnOnce(&mut S, &EntryGuard, &mut Wait) -> Option<Flow<()>>,
    Q: FnMut(&mut S, &EntryGuard, &mut Wait) -> Option<Flow<()>>,
    F: FnMut(&mut S, &mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    // SAFETY: the call has done nothing yet, so there is nothing to undo.
    unsafe { pthread_testcancel() };
    let before = Errno::last_raw();
    let mut wait = Wait::default();
    let tried = try_quickly(|guard| begin(state, guard, &mut wait));
    // SAFETY: as promised by the caller.
    unsafe { make_steps(code, before, state, &mut wait, tried, go_on, step) }
}

/// [`run`] with a state, for a call that often does not wait: `at_once` is tried once, before the first step,
/// by the rules for `quick` of [`run_quickly`].
///
/// # Safety
/// As for [`run`].
#[inline(always)]
pub unsafe fn run_at_once<S, A, F>(code: ipc_errors, state: &mut S, at_once: A, step: F) -> ipc_errors
where
    A: FnOnce(&mut S, &EntryGuard) -> Option<Result<(), Error>>,
    F: FnMut(&mut S, &mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    // SAFETY: the call has done nothing yet, so there is nothing to undo.
    unsafe { pthread_testcancel() };
    let before = Errno::last_raw();
    match try_quickly(|guard| at_once(state, guard)) {
        Tried::Is(Ok(())) => finish(before, Ok(())),
        Tried::Is(Err(error)) => finish(before, Err(error)),
        // SAFETY: as promised by the caller.
        Tried::Not => unsafe { make_plain_steps(code, before, state, step) },
        Tried::Panicked => finish(before, Err(Error::new(code, Errno::ENOTRECOVERABLE))),
    }
}

/// What has become of a shortcut.
enum Tried<R> {
    /// It has done the step, with this result.
    Is(R),
    /// It was not tried, or is none: the step does its work.
    Not,
    /// It has panicked.
    Panicked,
}

/// Tries a shortcut.
#[inline(always)]
fn try_quickly<R>(quick: impl FnOnce(&EntryGuard) -> Option<R>) -> Tried<R> {
    let tried = catch_unwind(AssertUnwindSafe(|| match EntryGuard::enter() {
        Some(guard) if !background::is_active() => quick(&guard),
        // If the thread cannot enter, the step reports that.
        _ => None,
    }));
    match tried {
        Ok(Some(result)) => Tried::Is(result),
        Ok(None) => Tried::Not,
        Err(_) => Tried::Panicked,
    }
}

/// Steps and waits, in turn, until a step has a result. `tried` is the first shortcut.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn make_steps<S, Q, F>(
    code: ipc_errors,
    before: i32,
    state: &mut S,
    wait: &mut Wait,
    mut tried: Tried<Flow<()>>,
    mut go_on: Q,
    mut step: F,
) -> ipc_errors
where
    Q: FnMut(&mut S, &EntryGuard, &mut Wait) -> Option<Flow<()>>,
    F: FnMut(&mut S, &mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    const {
        assert!(!std::mem::needs_drop::<S>(), "a thread that is cancelled drops nothing");
        assert!(!std::mem::needs_drop::<Q>(), "a thread that is cancelled drops nothing");
        assert!(!std::mem::needs_drop::<F>(), "a thread that is cancelled drops nothing");
    }
    let result = loop {
        let flow = match tried {
            Tried::Is(flow) => Ok(flow),
            Tried::Not => make_step(code, state, wait, &mut step),
            Tried::Panicked => Err(Error::new(code, Errno::ENOTRECOVERABLE)),
        };
        match flow {
            Ok(Flow::Wait) => {
                destroy_due();
                // SAFETY: as promised by the caller.
                unsafe { wait.run() }
            }
            Ok(Flow::Done(())) => break Ok(()),
            Err(error) => break Err(error),
        }
        tried = try_quickly(|guard| go_on(state, guard, wait));
    };
    wait.unblock_signals();
    finish(before, result)
}

/// [`make_steps`] without shortcuts. Not inlined, for the same reason as [`make_step`].
///
/// # Safety
/// As for [`run`].
#[cold]
#[inline(never)]
unsafe fn make_plain_steps<S, F>(code: ipc_errors, before: i32, state: &mut S, step: F) -> ipc_errors
where
    F: FnMut(&mut S, &mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    // SAFETY: as promised by the caller.
    unsafe { make_steps(code, before, state, &mut Wait::default(), Tried::Not, |_, _, _| None, step) }
}

/// Makes one step. Not inlined, so that shortcuts need fewer registers and less of the stack.
#[cold]
#[inline(never)]
fn make_step<S>(
    code: ipc_errors,
    state: &mut S,
    wait: &mut Wait,
    step: &mut impl FnMut(&mut S, &mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
) -> Result<Flow<()>, Error> {
    guarded(code, || match EntryGuard::enter() {
        Some(mut guard) => {
            // Every call first sends what it can in the background; the bool: whether this call has waited
            // for that.
            background::send(&guard, !wait.is_first());
            step(state, &mut guard, wait)
        }
        None => Err(Error::new(code, Errno::EDEADLK)),
    })
}

/// [`call`] with a shortcut: `quick` is tried first, by the rules for `quick` of [`run_quickly`].
pub fn call_quickly(
    code: ipc_errors,
    quick: impl FnOnce(&EntryGuard) -> Option<()>,
    body: impl FnOnce(&mut EntryGuard) -> Result<(), Error>,
) -> ipc_errors {
    let before = Errno::last_raw();
    match try_quickly(quick) {
        Tried::Is(()) => finish(before, Ok(())),
        Tried::Not => call(code, body),
        Tried::Panicked => finish(before, Err(Error::new(code, Errno::ENOTRECOVERABLE))),
    }
}

/// [`call`] for a function that only uses memory: since it makes no system call that is a cancellation point,
/// cancellation need not be disabled.
pub fn call_on_memory(code: ipc_errors, body: impl FnOnce() -> Result<(), Error>) -> ipc_errors {
    let before = Errno::last_raw();
    let result = without_panic(code, || match EntryGuard::enter() {
        Some(_guard) => body(),
        None => Err(Error::new(code, Errno::EDEADLK)),
    });
    finish(before, result)
}

/// [`call_or`] for a function that fails with EDEADLK in a signal handler that interrupted the library.
pub fn call(code: ipc_errors, body: impl FnOnce(&mut EntryGuard) -> Result<(), Error>) -> ipc_errors {
    call_or(code, || Err(Error::new(code, Errno::EDEADLK)), body)
}

/// The error of a function that stores a setting of a connection.
pub fn setting_failed(errno: Errno) -> Error {
    match errno {
        Errno::ENOMEM => OutOfMemory.into(),
        errno => Error::new(ipc_errors::IPC_ERROR_USOCK_RECV, errno),
    }
}

/// The pointer; if the pointer is NULL, an error with this code and EINVAL.
pub fn required<T>(pointer: *mut T, code: ipc_errors) -> Result<*mut T, Error> {
    if pointer.is_null() { Err(Error::argument(code)) } else { Ok(pointer) }
}

/// [`required`] for a pointer to const.
pub fn required_const<T>(pointer: *const T, code: ipc_errors) -> Result<*const T, Error> {
    required(pointer.cast_mut(), code).map(<*mut T>::cast_const)
}

/// The descriptor of a structure; if `info` is NULL, an error with this code and EINVAL.
///
/// # Safety
/// `info` is NULL or points to a structure.
pub unsafe fn fd_of(info: *const ipc_connection_info, code: ipc_errors) -> Result<RawFd, Error> {
    // SAFETY: the caller's promise: NULL or a live structure.
    required_const(info, code).map(|info| unsafe { (*info).fd })
}
