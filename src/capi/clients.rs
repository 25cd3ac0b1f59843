//! Data that a server keeps for a client, why a client disconnected, and how to disconnect a client.
//!
//! Pointer and reason of a connection are found by its number in one of three places, by the state of the
//! connection: a *live* connection has its pointer in the table of descriptors and its reason in its list's
//! loop; after `ipc_end` the connection is *parting* until its DISCONNECTION is reported
//! (`loops::find_parting`); then it is *ended* until the list's next call (`loops::find_ended`), and is found
//! by the address of its structure, too, since its number may belong to another connection.

use std::ffi::{c_int, c_void};
use std::ptr;

use nix::errno::Errno;

use super::boundary::{call, call_or, fd_of, required, required_const, setting_failed};
use super::types::{ipc_connection_info, ipc_connection_infos};
use crate::calls::close::end_member;
use crate::connection::table;
use crate::connection::user_data::UserData;
use crate::error::{Error, ipc_errors};
use crate::event_loop::loops;
use crate::event_loop::loops::Parting;
use crate::event_loop::members::Reason;
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::deadline::Deadline;
use crate::process::entry_guard::EntryGuard;

/// Why a connection has ended.
#[expect(non_camel_case_types, reason = "the names are those of the C interface")]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ipc_reason {
    /// The connection has not ended.
    IPC_REASON_NONE,
    /// The peer has closed the connection, between two messages.
    IPC_REASON_ENDED,
    /// The peer has closed the connection in the middle of a message.
    IPC_REASON_CUT,
    /// The peer has closed the connection with unread bytes in its socket, or the connection failed.
    IPC_REASON_RESET,
    /// The peer has announced a message over IPC_MAX_MESSAGE_SIZE, or over the limit of ipc_limits.
    IPC_REASON_TOO_LONG,
    /// This program has ended or closed the connection.
    IPC_REASON_CLOSED,
}

impl From<Reason> for ipc_reason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::None => Self::IPC_REASON_NONE,
            Reason::Ended => Self::IPC_REASON_ENDED,
            Reason::Cut => Self::IPC_REASON_CUT,
            Reason::Reset => Self::IPC_REASON_RESET,
            Reason::TooLong => Self::IPC_REASON_TOO_LONG,
            Reason::Closed => Self::IPC_REASON_CLOSED,
        }
    }
}

/// The state of a list, written by ipc_status.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_status {
    /// Number of connections in the list that have not ended. Other descriptors (ipc_add_fd, ipc_watch_fd,
    /// timers, signals) are not counted.
    pub clients: usize,
    /// Bytes that the library has queued for the connections of the list, including headers.
    pub queued: usize,
    /// Number of messages that ipc_wait_event has reported from the list since the list was last empty or
    /// freed.
    pub received: u64,
    /// Number of messages that this process has sent or queued, to any connection.
    pub sent: u64,
    /// 1 while new clients have to wait because there is no descriptor or no memory left, else 0.
    pub accept_paused: c_int,
}

/// Ends a connection of the list. The only event that is still reported for the connection is its
/// DISCONNECTION, by the next ipc_wait_event of the list; until then the list keeps the structure. The socket
/// is closed at once, the call never waits, and ipc_write to the connection fails with EBADF. Any thread may
/// call the function, also while the program handles an array of events of ipc_wait_events: the array may
/// hold further events of the connection.
///
/// `linger_ms`: the time, in milliseconds, in which queued bytes of the connection may still be sent, within
/// later calls of the library. With 0 the bytes are dropped; below 0 the bytes are sent as after ipc_close.
/// Without a free descriptor to send them with, the bytes are dropped.
///
/// Errors: IPC_ERROR_DEL__NO_CLIENTS_PARAM, IPC_ERROR_DEL__NO_CLIENT_PARAM: NULL (EINVAL).
/// IPC_ERROR_DEL__CANNOT_FIND_CLIENT: the list does not have the connection, the connection has ended
/// already, or the entry is a descriptor of ipc_add_fd (ENOENT).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; the connection has not ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_end(
    clients: *mut ipc_connection_infos,
    client: *mut ipc_connection_info,
    linger_ms: c_int,
) -> ipc_errors {
    let missing = ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT;
    call(missing, |guard| {
        let clients = required(clients, ipc_errors::IPC_ERROR_DEL__NO_CLIENTS_PARAM)?;
        // SAFETY: the caller's structure, if any.
        let fd = unsafe { fd_of(client, ipc_errors::IPC_ERROR_DEL__NO_CLIENT_PARAM) }?;
        let linger = (linger_ms != 0).then(|| Deadline::of(linger_ms));
        end_member(guard, clients.addr(), fd, linger).map_err(|errno| match errno {
            Errno::ENOMEM => OutOfMemory.into(),
            _ => Error::new(missing, Errno::ENOENT),
        })
    })
}

/// Stores a pointer of the program for the connection or service; NULL removes a stored pointer. The library
/// calls `destroy` with the pointer, once, unless pointer or `destroy` is NULL: when a later ipc_set_data has
/// set another pointer; after the DISCONNECTION of the connection was reported, in the next ipc_wait_event of
/// the list (or ipc_connections_free); or, for a connection in no list, in ipc_close.
///
/// `destroy` is called in the thread whose call removed the pointer, when this call returns or begins to
/// wait. `destroy` may call all functions of the library, and must return. The library does not call it when
/// the process exits. If the program closes a connection with close(2) instead of ipc_end or ipc_close, the
/// pointer is removed when the library notices the close, which may be before the DISCONNECTION.
///
/// After fork(2) the child has a copy of the pointer, too, and calls `destroy` for this copy.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: the descriptor is not open (EBADF), or no socket (ENOTSOCK).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM. After each of these errors `destroy` is not called for `data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_set_data(
    p: *const ipc_connection_info,
    data: *mut c_void,
    destroy: Option<extern "C" fn(*mut c_void)>,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |guard| {
        // SAFETY: the caller's structure, if any.
        let fd = unsafe { fd_of(p, ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO) }?;
        let mut set = if data.is_null() { None } else { Some(UserData::new(data, destroy)?) };
        let result = table::lock_verified(guard, fd).swap_data(&mut set);
        // `set` now is the previous pointer; on failure, the pointer that was to be set.
        match set {
            // On failure the pointer stays the program's. On success it is set again, perhaps with another
            // function.
            Some(before) if before.pointer() == data => before.give_back(),
            before => drop(before),
        }
        result.map_err(setting_failed)
    })
}

/// Returns the pointer that ipc_set_data has set for the connection, or NULL if there is none. The pointer
/// can be read until `destroy` is called: also at the DISCONNECTION of the connection, by the structure that
/// is the event's `origin`.
///
/// errno is not changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_data(p: *const ipc_connection_info) -> *mut c_void {
    let code = ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO;
    let mut data = None;
    // SAFETY: the caller's structure, if any.
    if let Ok(fd) = unsafe { fd_of(p, code) } {
        let look = |guard: &mut EntryGuard| {
            let ended =
                loops::find_ended(guard, p.addr(), fd, |ended| ended.data.as_ref().map(UserData::pointer));
            data = ended.unwrap_or_else(|| table::lock_verified(guard, fd).data().map(UserData::pointer));
            if data.is_none() {
                let kept = |parting: &Parting, _| parting.data.as_ref().map(UserData::pointer);
                data = loops::find_parting(guard, fd, kept).flatten();
            }
            Ok(())
        };
        call_or(code, || Ok(()), look);
    }
    data.unwrap_or(ptr::null_mut())
}

/// `*reason` becomes the reason why the connection has ended or is about to end. To be called with the
/// structure that is the `origin` of an ERROR or DISCONNECTION, before the next ipc_wait_event of the list.
/// For a connection of a list that has not ended, `*reason` is IPC_REASON_NONE.
///
/// For a connection in no list, ipc_read returns the reason, by its code and errno.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: a parameter is NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: the connection is in no list, and is not the connection whose end a list has
/// reported last (ENOENT).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_why(p: *const ipc_connection_info, reason: *mut ipc_reason) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO;
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |guard| {
        let reason = required(reason, code)?;
        // SAFETY: the caller's structure, if any.
        let fd = unsafe { fd_of(p, code) }?;
        let found = loops::find_ended(guard, p.addr(), fd, |ended| ended.reason)
            .or_else(|| loops::reason(guard, fd))
            .or_else(|| loops::find_parting(guard, fd, |_, reason| reason))
            .ok_or(Error::new(ipc_errors::IPC_ERROR_USOCK_RECV, Errno::ENOENT))?;
        // SAFETY: the caller's room for a reason.
        unsafe { reason.write(found.into()) };
        Ok(())
    })
}

/// `*status` becomes the state of the list: to be shown, or written to a log.
///
/// The function visits all connections of the process: call it now and then, not for each message.
///
/// Errors: IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM: `clients` or
/// `status` is NULL (EINVAL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_status(
    clients: *const ipc_connection_infos,
    status: *mut ipc_status,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_WAIT_EVENT__SELECT, |guard| {
        let list = required_const(clients, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM)?.addr();
        let status = required(status, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM)?;
        let (clients, received, is_paused) = loops::status(guard, list);
        let (queued, sent) = (table::queued_in(guard, list), table::sent(guard));
        // SAFETY: the caller's room for a status.
        unsafe {
            status.write(ipc_status { clients, queued, received, sent, accept_paused: is_paused.into() })
        };
        Ok(())
    })
}
