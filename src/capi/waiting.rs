//! Waiting with a timeout, for many events at once, and in another event loop; watched descriptors.
//!
//! `ipc_wait_events` has two states: it waits for its first event by the steps of `events::wait_step`, and
//! then it reports pending events without waiting (`report_pending`), until the array is full, no event is
//! pending, or an event must be the last one. Elements of the array after the reported events are made empty.

use std::ffi::c_int;

use super::boundary::{self, call, required, run};
use super::entries;
use super::events::{self, Reported, service_fd, take_message};
use super::list::CList;
use super::messages;
use super::types::{ipc_connection_info, ipc_connection_infos, ipc_event, ipc_message};
use crate::calls::flow::Flow;
use crate::error::{Error, ipc_errors};
use crate::event_loop::{Entry, Kind, List, loops};
use crate::frame::c_heap;
use crate::kernel::deadline::Deadline;
use crate::process::entry_guard::EntryGuard;

/// Waits for an event as ipc_wait_event does, for at most `timeout_ms` milliseconds. With 0 the function does
/// not wait; below 0 it waits without a timeout. When the timeout has expired, the function returns
/// IPC_ERROR_NONE, and the type of `event` is IPC_EVENT_TYPE_NOT_SET.
///
/// A signal handler that runs meanwhile does not end a wait that has a timeout, nor make it longer. A wait
/// without a timeout fails with EINTR then, as ipc_wait_event does.
///
/// Errors: as for ipc_wait_event, also if there is nothing to wait for: no service, and no entry in the list
/// that can have an event.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_wait_event_timeout(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
    timeout_ms: c_int,
) -> ipc_errors {
    // SAFETY: the caller's list, service and event.
    unsafe { events::wait_for_event(clients, srv, event, Deadline::of(timeout_ms)) }
}

/// Reads a message as ipc_read does, and waits for at most `timeout_ms` milliseconds. With 0 the function
/// does not wait; below 0 it is the same as ipc_read. A part of a message that was received is kept for the
/// next call. The timeout replaces that of the socket (SO_RCVTIMEO, O_NONBLOCK).
///
/// A signal handler that runs meanwhile does not end a wait that has a timeout, nor make it longer.
///
/// Errors: as for ipc_read. IPC_ERROR_USOCK_RECV: the timeout has expired (ETIMEDOUT).
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_read_timeout(
    p: *const ipc_connection_info,
    m: *mut ipc_message,
    timeout_ms: c_int,
) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_RECV;
    // SAFETY: the caller's structures, if any.
    unsafe { messages::read_message(m, boundary::fd_of(p, code), Deadline::of(timeout_ms)) }
}

/// Waits as ipc_wait_event_timeout does, and then reports all pending events, up to `*count` events. The
/// entries of the list take turns, as with single calls, and the events of one connection are in their order.
/// `*count` becomes the number of reported events, which is 0 when the timeout has expired.
///
/// `events` is an array of `*count` events. Initialise it with zeros: each call frees the messages of the
/// previous call. A DISCONNECTION is always the first event of its array, so that no event in the array is
/// about a connection that has ended. A message with descriptors is the last event, since its descriptors can
/// be taken only until the next message of the connection. A watched descriptor is reported once per call.
///
/// Errors: as for ipc_wait_event, and `*count` is 0 then.
/// IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM: `events` or `count` is NULL, or `*count` is 0 (EINVAL). An error
/// after the first event is not returned: the call returns the events before it, and the next call tries
/// again.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_wait_events(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    events: *mut ipc_event,
    count: *mut usize,
    timeout_ms: c_int,
) -> ipc_errors {
    let deadline = Deadline::of(timeout_ms);
    let (mut state, mut room) = (None, 0);
    // SAFETY: the caller's list, service, number, and its array of that many events; this frame has plain
    // data only.
    unsafe {
        run(ipc_errors::IPC_ERROR_WAIT_EVENT__SELECT, |guard, wait| {
            let code = ipc_errors::IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM;
            let count = required(count, code)?;
            if wait.is_first() {
                room = count.replace(0);
            }
            let events = required(events, code)?;
            if room == 0 {
                return Err(Error::argument(code));
            }
            let limits = (deadline, room);
            let first = events::wait_step(guard, wait, &mut state, clients, srv, events, limits);
            let reported = match first {
                Ok(Flow::Wait) => return Ok(Flow::Wait),
                Ok(Flow::Done(Reported::Nothing)) => Ok(0),
                Ok(Flow::Done(first)) => Ok(report_more(guard, clients, srv, events, room, first)),
                Err(error) => Err(error),
            };
            for index in reported.unwrap_or(0)..room {
                drop(take_message(events.add(index)));
            }
            count.write(reported?);
            Ok(Flow::Done(()))
        })
    }
}

/// Reports pending events after the first one, and returns the number of all reported events. If a report
/// fails, the next call tries again.
///
/// # Safety
/// `events` has `room` events, of which the first one has been filled; the messages of the others are NULL or
/// from malloc(3). The other pointers are NULL or point to what their type says.
unsafe fn report_more(
    guard: &EntryGuard,
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    events: *mut ipc_event,
    room: usize,
    first: Reported,
) -> usize {
    let (mut count, mut last) = (1, first);
    // After a message with descriptors nothing is reported: the connection's next message would close them.
    while count < room && last == Reported::Event {
        // SAFETY: as promised by the caller: `count` is below `room`.
        let reported = unsafe { events::report_pending(guard, clients, srv, events.add(count)) };
        last = reported.unwrap_or(Reported::Nothing);
        count += usize::from(last != Reported::Nothing);
    }
    count
}

/// `*fd` becomes a descriptor that is readable while ipc_wait_event, with the same list and service, has an
/// event to report: for poll(2), epoll(7) or another library's event loop, level-triggered. When the
/// descriptor is readable, call ipc_wait_event_timeout or ipc_wait_events with a timeout of 0 until they
/// report no event. The first call may report no event, if only a part of a message was received.
///
/// The descriptor belongs to the library: do not read or close it. Each call returns the same descriptor;
/// ipc_connections_free closes it. After a fork the child must call the function again, for a descriptor of
/// its own. If the program closes a connection with close(2) instead of ipc_close, the library notices it
/// only at the next call.
///
/// Errors: IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM: `clients` is NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM: `fd` is NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__SELECT: epoll_create1(2), epoll_ctl(2), eventfd(2) or timerfd_create(2) failed, with
/// the reason in errno; if `srv` is no service, errno is EBADF, EINVAL or ENOTSOCK.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_event_fd(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    fd: *mut c_int,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_WAIT_EVENT__SELECT, |guard| {
        let clients = required(clients, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM)?;
        let fd = required(fd, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM)?;
        // SAFETY: the caller's list and service, and its room for a descriptor.
        unsafe {
            let list = CList::new(clients, srv);
            fd.write(loops::event_fd(guard, &list, service_fd(srv))?);
        }
        Ok(())
    })
}

/// Adds a descriptor that poll(2) can watch, for example a listening socket, or a descriptor that another
/// library reads. When the descriptor is readable, ipc_wait_event reports an event of type
/// IPC_EVENT_TYPE_EXTRA_SOCKET with a NULL `m`, and reads nothing. The event is reported again until the
/// program has read the descriptor or removed it from the list with ipc_del_fd. End of file and errors of the
/// descriptor are reported by the same event. The descriptor stays yours.
///
/// Errors: as for ipc_add_fd; IPC_ERROR_WAIT_EVENT__SELECT with EPERM for a regular file, which is always
/// readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_watch_fd(cinfos: *mut ipc_connection_infos, fd: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        // SAFETY: the caller's list, if any.
        unsafe { entries::add_descriptor(guard, cinfos, fd, Kind::Watched) }
    })
}

/// Removes a descriptor of ipc_add_fd or ipc_watch_fd from the list, and frees its ipc_connection_info. The
/// descriptor stays open. Call the function before you close the descriptor.
///
/// Errors: IPC_ERROR_DEL__NO_CLIENTS_PARAM: `cinfos` is NULL (EINVAL).
/// IPC_ERROR_DEL__EMPTY_LIST: the list is empty (ENOENT).
/// IPC_ERROR_DEL__EMPTIED_LIST: the list has a size but no array (EINVAL).
/// IPC_ERROR_DEL__CANNOT_FIND_CLIENT: the descriptor is not in the list, or is a connection, a timer or the
/// entry of ipc_add_signal (ENOENT).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_del_fd(cinfos: *mut ipc_connection_infos, fd: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT, |guard| {
        let cinfos = required(cinfos, ipc_errors::IPC_ERROR_DEL__NO_CLIENTS_PARAM)?;
        let key = cinfos.addr();
        // The descriptors of ipc_add_signal and ipc_add_timer belong to the library.
        let is_internal = loops::is_timer(guard, key, fd)
            || loops::signals(guard, key).is_some_and(|(signals, _)| signals == fd);
        let find = |list: &CList| {
            let is_its_entry =
                |entry: Entry| !is_internal && entry.fd == fd && entry.kind != Kind::Connection;
            (0..list.size()).find(|index| list.entry(*index).is_some_and(is_its_entry))
        };
        // SAFETY: the caller's list; the descriptor's structure in it is from malloc(3).
        unsafe { c_heap::free(entries::delete_entry(guard, cinfos, find)?) };
        Ok(())
    })
}
