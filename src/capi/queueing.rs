//! Many messages in one system call, and limits to what waits.

use std::ffi::c_int;

use nix::errno::Errno;

use super::boundary::{call, call_quickly, fd_of, required, required_const, run, setting_failed};
use super::messages;
use super::types::{ipc_connection_info, ipc_message};
use crate::calls::flush::Flush;
use crate::calls::queue;
use crate::connection::table;
use crate::error::{Error, ipc_errors};
use crate::frame::header::MAX_PAYLOAD;
use crate::kernel::deadline::Deadline;
use crate::process::entry_guard::EntryGuard;

/// Appends a copy of the message to the bytes queued for the connection; the function does not wait. What is queued leaves
/// in batches, many messages in one system call: whenever 64 KiB have come together, as far as the peer reads,
/// with the next ipc_write or ipc_flush, from within ipc_wait_event if the connection is in its list, from
/// within ipc_read, on ipc_close and at exit.
///
/// Errors: as for ipc_write. IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA: what is queued for this connection is as
/// much as its limit (EAGAIN; 16 MiB, or what ipc_limits has set); nothing of the message is queued: ipc_flush,
/// and try again, unless the message alone is over the limit. IPC_ERROR_USOCK_SEND with EPIPE: the peer has closed the connection,
/// and with it what was queued.
///
/// End the connection with ipc_close: close(2) alone leaves what is queued unsent. If its number is another
/// connection's by then, and messages were queued for that one before it was noticed, IPC_ERROR_USOCK_SEND with
/// EBADF says once, here or in ipc_flush or ipc_write, that they are lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_queue(p: *const ipc_connection_info, m: *const ipc_message) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_SEND;
    let frame = || {
        let m = required_const(m, ipc_errors::IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM)?;
        // SAFETY: the caller's message and structure.
        let ((header, payload), fd) = unsafe { (messages::parts(m)?, fd_of(p, code)?) };
        Ok::<_, Error>((header, payload, fd))
    };
    let quick = |guard: &EntryGuard| {
        let (header, payload, fd) = frame().ok()?;
        queue::add_quickly(guard, fd, [&header, payload])
    };
    call_quickly(code, quick, |guard| {
        let (header, payload, fd) = frame()?;
        queue::queue(guard, fd, [&header, payload])
    })
}

/// Sends what is queued for the connection, and waits for at most `timeout_ms` milliseconds until the kernel has
/// all of it: 0 does not wait, below 0 it waits for ever. What does not leave in time stays queued.
///
/// A signal handler that runs meanwhile does not end a wait that has a timeout, nor make it longer.
///
/// Error: IPC_ERROR_USOCK_SEND: the connection is NULL (EINVAL) or not open (EBADF); the time is over
/// (ETIMEDOUT); the peer has closed the connection (EPIPE), and what was queued with it; a signal handler has run, where there is
/// no timeout (EINTR); a fork has left unsent messages to the parent (EBUSY); the call comes from a signal
/// handler that has interrupted a write to this connection (EDEADLK); or sendmsg(2) failed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_flush(p: *const ipc_connection_info, timeout_ms: c_int) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_SEND;
    let mut flush = None;
    // SAFETY: the caller's structure, if any; plain data in this frame.
    unsafe {
        let fd = fd_of(p, code);
        run(code, |guard, wait| {
            let fd = fd?;
            let flush = flush.get_or_insert_with(|| Flush::new(fd, Deadline::of(timeout_ms)));
            if wait.is_first() { flush.begin(guard, wait) } else { flush.go_on(guard, wait) }
        })
    }
}

/// `*bytes` becomes how much is queued for the connection in the library, headers included; what the kernel has
/// is not counted.
///
/// Error: IPC_ERROR_USOCK_SEND: a parameter is NULL (EINVAL), or the connection is not open (EBADF).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_pending(p: *const ipc_connection_info, bytes: *mut usize) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_SEND;
    call(code, |guard| {
        let bytes = required(bytes, code)?;
        // SAFETY: the caller's structure, and a place for a number.
        unsafe { bytes.write(queue::pending(guard, fd_of(p, code)?)?) };
        Ok(())
    })
}

/// Limits the connection, or, set for a service, those that it accepts from then on.
///
/// `max_message`: the longest payload that the peer may announce, in bytes. One that announces more breaks the
/// protocol: ipc_wait_event reports an ERROR and the DISCONNECTION, ipc_read fails with EPROTO.
/// `max_queue`: how many bytes may be queued by ipc_write, once the peer does not read, and by ipc_queue. The
/// rest of a message that has begun to leave is kept in any case.
/// 0 is the limit that holds if none is set: IPC_MAX_MESSAGE_SIZE, and 16 MiB.
///
/// After fork(2) the limits hold in the child, too; what one of the two sets from then on is its own.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: `max_message` is over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_USOCK_RECV: it is not open (EBADF), or no socket (ENOTSOCK).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_limits(
    p: *const ipc_connection_info,
    max_message: u32,
    max_queue: usize,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |guard| {
        // SAFETY: the caller's structure, if any.
        let fd = unsafe { fd_of(p, ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO) }?;
        let longest = usize::try_from(max_message).ok().filter(|longest| *longest <= MAX_PAYLOAD);
        let longest =
            longest.ok_or(Error::new(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__LENGTH, Errno::EMSGSIZE))?;
        table::set(guard, fd, |settings| settings.set_limits(longest, max_queue)).map_err(setting_failed)
    })
}
