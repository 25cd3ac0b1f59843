//! Data that a server keeps for a client, why a client disconnected, and how to disconnect a client.

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
    /// It has not.
    IPC_REASON_NONE,
    /// The peer has closed it, between two messages.
    IPC_REASON_ENDED,
    /// The peer has closed it amid a message.
    IPC_REASON_CUT,
    /// The peer has closed it without having read all that it was sent, or the connection failed.
    IPC_REASON_RESET,
    /// The peer has announced a message over IPC_MAX_MESSAGE_SIZE, or over the limit of ipc_limits.
    IPC_REASON_TOO_LONG,
    /// This program has ended or closed it.
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

/// How a server does.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_status {
    /// How many connections the list has that have not ended; descriptors of ipc_add_fd and the like are not counted.
    pub clients: usize,
    /// Bytes that are queued for them in the library, headers included.
    pub queued: usize,
    /// How many messages ipc_wait_event has reported of the list since it was last empty, or freed.
    pub received: u64,
    /// How many messages this process has sent or queued, to any connection.
    pub sent: u64,
    /// 1 while new clients have to wait because descriptors or memory have run out, else 0.
    pub accept_paused: c_int,
}

/// Ends a connection of the list: nothing is reported of it from then on but its DISCONNECTION, by the next
/// ipc_wait_event of the list. Until then the structure stays in the list and valid. The socket is closed at once, the call
/// never waits, and ipc_write to the connection fails with EBADF. It may be called from another thread, and amid an
/// array of events of ipc_wait_events, which may hold further events of the connection.
///
/// `linger_ms`: how many milliseconds what is queued for the connection may take to leave, from within later calls of the
/// library: 0 drops it, below 0 it leaves as after ipc_close. If no descriptor is free to send it with, it is dropped.
///
/// Errors: IPC_ERROR_DEL__NO_CLIENTS_PARAM, IPC_ERROR_DEL__NO_CLIENT_PARAM: NULL (EINVAL).
/// IPC_ERROR_DEL__CANNOT_FIND_CLIENT: the list does not have the connection, it has ended already, or it is a descriptor
/// of ipc_add_fd (ENOENT).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; the connection goes on.
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

/// Sets a pointer of the program's own for the connection, or the service; NULL for none. The library does nothing with
/// it but to call `destroy` with it once, unless either is NULL: when a later ipc_set_data has set another pointer; after
/// the DISCONNECTION of the connection was reported, in the next ipc_wait_event of the list (or ipc_connections_free); or,
/// for a connection in no list, in ipc_close.
///
/// `destroy` is called in the thread of the call that ends the pointer's time, when the call returns or begins to wait. It
/// may call all functions of the library, and has to return. It is not called at the end of the process. A connection that
/// is closed with close(2) instead of ipc_end or ipc_close loses its pointer when the library notices that, which may be
/// before its DISCONNECTION.
///
/// After fork(2) the child has the pointer, too; it calls `destroy` for its own.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: it is not open (EBADF), or no socket (ENOTSOCK).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM. After each of these `destroy` is not called for `data`.
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
        // What was set before; on failure, what was to be set.
        match set {
            // The pointer stays the program's, or is still set, perhaps with another function.
            Some(before) if before.pointer() == data => before.give_back(),
            before => drop(before),
        }
        result.map_err(setting_failed)
    })
}

/// The pointer that ipc_set_data has set for the connection; NULL if there is none. It is there until `destroy` is called: at
/// the DISCONNECTION of the connection, too, for the structure that the event names.
///
/// errno is left alone.
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

/// `*reason` becomes why the connection has ended or is about to: for the structure that an ERROR or DISCONNECTION names, until
/// the next ipc_wait_event of the list. IPC_REASON_NONE for a connection of a list that goes on.
///
/// ipc_read says it by its code and errno.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: a parameter is NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: the connection is in no list, and none has reported its end last (ENOENT).
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
        // SAFETY: the caller's place for a reason.
        unsafe { reason.write(found.into()) };
        Ok(())
    })
}

/// `*status` becomes how the list does: to be shown, or written to a log.
///
/// It goes through all connections of the process: call it now and then, not for each message.
///
/// Errors: IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM: `clients` or `status` is NULL (EINVAL).
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
        // SAFETY: the caller's place for a status.
        unsafe {
            status.write(ipc_status { clients, queued, received, sent, accept_paused: is_paused.into() })
        };
        Ok(())
    })
}
