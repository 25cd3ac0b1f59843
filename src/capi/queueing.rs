//! Queueing messages, so that many are sent in one system call; flushing the queue; the limits of a
//! connection.
//!
//! The queue is in the connection's memory (`connection::send_queue`). ipc_queue appends to it; the bytes
//! leave it in batches, in this and in later calls. This file has no state of its own.

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

/// Appends a copy of the message to the bytes queued for the connection; the function does not wait. Queued
/// bytes are sent in batches, many messages in one system call: whenever 64 KiB have accumulated, as far as
/// the peer reads; with the next ipc_write or ipc_flush; within ipc_wait_event if the connection is in its
/// list; within ipc_read; on ipc_close and at exit.
///
/// Errors: as for ipc_write.
/// IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA: with the message, more bytes would be queued for the connection
/// than its limit (EAGAIN; 16 MiB, or the limit that ipc_limits has set). Nothing of the message is queued:
/// call ipc_flush and try again, unless the message alone is over the limit.
/// IPC_ERROR_USOCK_SEND with EPIPE: the peer has closed the connection, and the queued bytes are dropped.
///
/// End the connection with ipc_close: after close(2) the queued bytes are not sent. If another connection has
/// the number then, and messages for the new connection were queued before the library noticed the close,
/// these messages are dropped, too; ipc_queue, ipc_flush or ipc_write reports this once, by
/// IPC_ERROR_USOCK_SEND with EBADF.
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

/// Sends the queued bytes of the connection, and waits for at most `timeout_ms` milliseconds until the kernel
/// has taken all of them. With 0 the function does not wait; below 0 it waits without a timeout. Bytes that
/// could not be sent in time stay queued.
///
/// A signal handler that runs meanwhile does not end a wait that has a timeout, nor make it longer.
///
/// Error: IPC_ERROR_USOCK_SEND: the connection is NULL (EINVAL) or not open (EBADF); the timeout has expired
/// (ETIMEDOUT); the peer has closed the connection, and the queued bytes are dropped (EPIPE); a signal
/// handler has run during a wait without a timeout (EINTR); a fork has left unsent messages to the parent
/// (EBUSY); the caller is a signal handler that has interrupted a write to this connection (EDEADLK); or
/// sendmsg(2) failed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_flush(p: *const ipc_connection_info, timeout_ms: c_int) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_SEND;
    let mut flush = None;
    // SAFETY: the caller's structure, if any; this frame has plain data only.
    unsafe {
        let fd = fd_of(p, code);
        run(code, |guard, wait| {
            let fd = fd?;
            let flush = flush.get_or_insert_with(|| Flush::new(fd, Deadline::of(timeout_ms)));
            if wait.is_first() { flush.begin(guard, wait) } else { flush.go_on(guard, wait) }
        })
    }
}

/// `*bytes` becomes the number of bytes that the library has queued for the connection, including headers.
/// Bytes that the kernel has taken are not counted.
///
/// Error: IPC_ERROR_USOCK_SEND: a parameter is NULL (EINVAL), or the connection is not open (EBADF).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_pending(p: *const ipc_connection_info, bytes: *mut usize) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_SEND;
    call(code, |guard| {
        let bytes = required(bytes, code)?;
        // SAFETY: the caller's structure, and its room for a number.
        unsafe { bytes.write(queue::pending(guard, fd_of(p, code)?)?) };
        Ok(())
    })
}

/// Sets the limits of the connection, or, called for a service, of the connections that the service accepts
/// from then on.
///
/// `max_message`: the longest payload that the peer may announce, in bytes. A peer that announces more
/// violates the protocol: ipc_wait_event reports an ERROR and the DISCONNECTION, and ipc_read fails with
/// EPROTO.
/// `max_queue`: how many bytes ipc_queue may queue, and ipc_write if the peer does not read. The rest of a
/// message of which a part has been sent is queued in any case.
/// 0 means the default: IPC_MAX_MESSAGE_SIZE, and 16 MiB.
///
/// After fork(2) the limits hold in the child, too; limits that parent or child sets then hold in that
/// process only.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: `max_message` is over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_USOCK_RECV: the descriptor is not open (EBADF), or no socket (ENOTSOCK).
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
        table::change_settings(guard, fd, |settings| settings.set_limits(longest, max_queue))
            .map_err(setting_failed)
    })
}
