//! What every exported function does on the way in and out: enter the library, end panics, errno.

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use std::os::fd::RawFd;
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

/// PTHREAD_CANCEL_DISABLE, of glibc and musl.
const CANCEL_DISABLE: c_int = 1;

/// Runs what must not be unwound by pthread_cancel(3): the request is kept until the library waits, or has returned.
pub fn without_cancellation<R>(act: impl FnOnce() -> R) -> R {
    let mut before = 0;
    // SAFETY: a place for the state.
    unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut before) };
    let result = act();
    // SAFETY: the state that there was.
    unsafe { pthread_setcancelstate(before, ptr::null_mut()) };
    result
}

/// A panic becomes this code and ENOTRECOVERABLE.
fn without_panic<R>(code: ipc_errors, act: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    // Nothing else names it, and a linker takes out of an archive only what is named.
    std::hint::black_box(&REGISTER);
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(Err(Error::new(code, Errno::ENOTRECOVERABLE)))
}

/// Both.
fn guarded<R>(code: ipc_errors, act: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    without_cancellation(|| without_panic(code, act))
}

thread_local! {
    /// Whether this thread is in a function that [`destroy_all`] calls.
    static DESTROYS: Cell<bool> = const { Cell::new(false) };
}

/// Calls the functions that programs have set for connections which are over.
#[inline]
fn destroy_due() {
    if user_data::is_due() {
        destroy_all();
    }
}

/// What these functions make due themselves follows when they have returned: they do not nest.
#[cold]
#[inline(never)]
fn destroy_all() {
    if DESTROYS.replace(true) {
        return;
    }
    // A handler that interrupted the library leaves it to the call that it interrupted.
    while let Some(Some((pointer, destroy))) = EntryGuard::enter().map(|guard| user_data::next_due(&guard)) {
        destroy(pointer);
    }
    DESTROYS.set(false);
}

/// What the function returns: errno is kept on success and set on failure.
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

/// The boundary of every exported function that does not wait: enters the library, ends panics, keeps errno on success and
/// sets it on failure.
///
/// A signal handler that interrupted the library cannot enter it again: `nested` is then all that is done.
pub fn call_or(
    code: ipc_errors,
    nested: impl FnOnce() -> Result<(), Error>,
    body: impl FnOnce(&mut EntryGuard) -> Result<(), Error>,
) -> ipc_errors {
    let before = Errno::last_raw();
    let result = guarded(code, || match EntryGuard::enter() {
        Some(mut guard) => {
            background::send(&guard, false);
            body(&mut guard)
        }
        None => nested(),
    });
    finish(before, result)
}

/// The boundary of every exported function that may wait: it is a cancellation point at its begin and while it waits.
///
/// `step` is called again and again, as a function that does not wait is. It says what to wait for in a [`Wait`], in which
/// it finds the outcome the next time. Between two steps nothing of the library is locked or entered, so that a signal handler may use all of
/// it.
///
/// # Safety
/// The thread may be unwound from the wait: no frame from here up to the program's has anything to drop.
pub unsafe fn run<F>(code: ipc_errors, mut step: F) -> ipc_errors
where
    F: FnMut(&mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    // SAFETY: as promised by the caller.
    unsafe { run_quickly(code, &mut (), |(), _, _| None, |(), guard, wait| step(guard, wait)) }
}

/// [`run`] for a call with a state of its own that often needs little: before each step `quick` is tried, which does all of it
/// or, with None, nothing that the step would not find as it was. Cancellation is not put off for it: it makes only such system calls as are no
/// cancellation points ([`direct`]). While anything leaves in the background, it is not tried.
///
/// [`direct`]: crate::kernel::direct
///
/// # Safety
/// As for [`run`].
pub unsafe fn run_quickly<S, Q, F>(code: ipc_errors, state: &mut S, quick: Q, step: F) -> ipc_errors
where
    Q: FnMut(&mut S, &EntryGuard, &mut Wait) -> Option<Result<Flow<()>, Error>>,
    F: FnMut(&mut S, &mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    // SAFETY: nothing was done yet.
    unsafe { pthread_testcancel() };
    // SAFETY: as promised by the caller.
    unsafe { make_steps(code, Errno::last_raw(), state, quick, step) }
}

/// [`run`] for a call with a state of its own that often does not wait: `at_once` is tried once, as `quick` is by [`run_quickly`].
///
/// # Safety
/// As for [`run`].
pub unsafe fn run_at_once<S, A, F>(code: ipc_errors, state: &mut S, at_once: A, step: F) -> ipc_errors
where
    A: FnOnce(&mut S, &EntryGuard) -> Option<Result<(), Error>>,
    F: FnMut(&mut S, &mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    // SAFETY: nothing was done yet.
    unsafe { pthread_testcancel() };
    let before = Errno::last_raw();
    let result = without_panic(code, || match EntryGuard::enter() {
        Some(guard) if !background::is_active() => at_once(state, &guard).transpose(),
        Some(_) => Ok(None),
        None => Err(Error::new(code, Errno::EDEADLK)),
    });
    match result {
        Ok(Some(())) => finish(before, Ok(())),
        // SAFETY: as promised by the caller.
        Ok(None) => unsafe { make_steps(code, before, state, |_, _, _| None, step) },
        Err(error) => finish(before, Err(error)),
    }
}

/// # Safety
/// As for [`run`].
unsafe fn make_steps<S, Q, F>(
    code: ipc_errors,
    before: i32,
    state: &mut S,
    mut quick: Q,
    mut step: F,
) -> ipc_errors
where
    Q: FnMut(&mut S, &EntryGuard, &mut Wait) -> Option<Result<Flow<()>, Error>>,
    F: FnMut(&mut S, &mut EntryGuard, &mut Wait) -> Result<Flow<()>, Error>,
{
    const {
        assert!(!std::mem::needs_drop::<S>(), "a thread that is cancelled drops nothing");
        assert!(!std::mem::needs_drop::<Q>(), "a thread that is cancelled drops nothing");
        assert!(!std::mem::needs_drop::<F>(), "a thread that is cancelled drops nothing");
    }
    let mut wait = Wait::default();
    let result = loop {
        let quickly = without_panic(code, || match EntryGuard::enter() {
            Some(guard) if !background::is_active() => quick(state, &guard, &mut wait).transpose(),
            Some(_) => Ok(None),
            None => Err(Error::new(code, Errno::EDEADLK)),
        });
        let next = match quickly {
            Ok(Some(flow)) => Ok(flow),
            Ok(None) => guarded(code, || match EntryGuard::enter() {
                Some(mut guard) => {
                    background::send(&guard, !wait.is_first());
                    step(state, &mut guard, &mut wait)
                }
                None => Err(Error::new(code, Errno::EDEADLK)),
            }),
            Err(error) => Err(error),
        };
        match next {
            Ok(Flow::Wait) => {
                destroy_due();
                // SAFETY: as promised by the caller.
                unsafe { wait.run() }
            }
            Ok(Flow::Done(())) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    wait.unblock_signals();
    finish(before, result)
}

/// [`call`] for a function that is often over at once: `quick` is tried first, as by [`run_quickly`].
pub fn call_quickly(
    code: ipc_errors,
    quick: impl FnOnce(&EntryGuard) -> Option<()>,
    body: impl FnOnce(&mut EntryGuard) -> Result<(), Error>,
) -> ipc_errors {
    let before = Errno::last_raw();
    let result = without_panic(code, || match EntryGuard::enter() {
        Some(guard) if !background::is_active() => Ok(quick(&guard)),
        Some(_) => Ok(None),
        None => Err(Error::new(code, Errno::EDEADLK)),
    });
    match result {
        Ok(Some(())) => finish(before, Ok(())),
        Ok(None) => call(code, body),
        Err(error) => finish(before, Err(error)),
    }
}

/// [`call`] for a function that does nothing but use memory: it makes no system call that may be a cancellation point.
pub fn call_on_memory(code: ipc_errors, body: impl FnOnce() -> Result<(), Error>) -> ipc_errors {
    let before = Errno::last_raw();
    let result = without_panic(code, || match EntryGuard::enter() {
        Some(_section) => body(),
        None => Err(Error::new(code, Errno::EDEADLK)),
    });
    finish(before, result)
}

/// [`call_or`] for a function that has nothing to offer to such a handler: EDEADLK.
pub fn call(code: ipc_errors, body: impl FnOnce(&mut EntryGuard) -> Result<(), Error>) -> ipc_errors {
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
