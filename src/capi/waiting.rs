//! Waiting with a timeout, for many events at once, and in another event loop.

use std::ffi::c_int;

use super::boundary::{self, call, required, run};
use super::events::{self, Reported, fd_of, take_message};
use super::list::CList;
use super::messages;
use super::types::{ipc_connection_info, ipc_connection_infos, ipc_event, ipc_message};
use crate::calls::flow::Flow;
use crate::error::{Error, ipc_errors};
use crate::event_loop::{Entry, Kind, List, loops};
use crate::frame::c_heap;
use crate::kernel::deadline::Deadline;
use crate::process::entry_guard::EntryGuard;

/// ipc_wait_event that waits for at most `timeout_ms` milliseconds: 0 looks and does not wait, below 0 it
/// waits for ever. When the time is over it returns IPC_ERROR_NONE, and the type of `event` is
/// IPC_EVENT_TYPE_NOT_SET.
///
/// A signal handler that runs meanwhile does not end a wait that has a timeout, nor make it longer; one
/// without end fails with EINTR, as ipc_wait_event does.
///
/// Errors: as for ipc_wait_event, also if there is nothing to wait for: no service, and no entry in the list that can have an event.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_wait_event_timeout(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
    timeout_ms: c_int,
) -> ipc_errors {
    // SAFETY: the caller's list, service and event.
    unsafe { events::wait(clients, srv, event, Deadline::of(timeout_ms)) }
}

/// ipc_read that waits for at most `timeout_ms` milliseconds: 0 takes a message that is there and does not wait, below 0
/// is ipc_read. The part of a message that was received stays for the next call. The time takes the place of the socket's own
/// (SO_RCVTIMEO, O_NONBLOCK).
///
/// A signal handler that runs meanwhile does not end a wait that has a timeout, nor make it longer.
///
/// Errors: as for ipc_read. IPC_ERROR_USOCK_RECV: the time is over (ETIMEDOUT).
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_read_timeout(
    p: *const ipc_connection_info,
    m: *mut ipc_message,
    timeout_ms: c_int,
) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_RECV;
    // SAFETY: the caller's structures, if any.
    unsafe { messages::read(m, boundary::fd_of(p, code), Deadline::of(timeout_ms)) }
}

/// Waits as ipc_wait_event_timeout does, and then reports all pending events, up to `*count` events: in turns,
/// as single calls do, and what concerns one connection in its order. `*count` becomes how many: 0 when the
/// time is over.
///
/// `events` is an array of `*count` events. Initialise it with zeros: each call frees the messages of the call
/// before. A DISCONNECTION is always the first of its array, so that no event in it is about a connection that
/// has ended; a message with descriptors is the last, since they are to be had until the connection's next one. A
/// watched descriptor is reported once.
///
/// Errors: as for ipc_wait_event, and `*count` is 0 then; IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM: `events` or
/// `count` is NULL, or `*count` is 0 (EINVAL). What comes after the first event and fails is left for the next
/// call.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_wait_events(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    events: *mut ipc_event,
    count: *mut usize,
    timeout_ms: c_int,
) -> ipc_errors {
    let limit = Deadline::of(timeout_ms);
    let (mut state, mut room) = (None, 0);
    // SAFETY: the caller's list, service, number, and an array of so many events; plain data in this frame.
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
            let first = events::step(guard, wait, &mut state, clients, srv, events, (limit, room));
            let reported = match first {
                Ok(Flow::Wait) => return Ok(Flow::Wait),
                Ok(Flow::Done(Reported::Nothing)) => Ok(0),
                Ok(Flow::Done(first)) => Ok(take_more(guard, clients, srv, events, room, first)),
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

/// Reports what else is there; how many events there are then. What fails is left for the next call.
///
/// # Safety
/// `events` has `room` events, of which the first was reported so; the others are NULL or point to what their type says.
unsafe fn take_more(
    guard: &EntryGuard,
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    events: *mut ipc_event,
    room: usize,
    first: Reported,
) -> usize {
    let (mut count, mut last) = (1, first);
    // Descriptors are to be had only until the connection's next message.
    while count < room && last == Reported::Event {
        // SAFETY: as promised by the caller: `count` is below `room`.
        last = unsafe { events::take(guard, clients, srv, events.add(count)) }.unwrap_or(Reported::Nothing);
        count += usize::from(last != Reported::Nothing);
    }
    count
}

/// The descriptor `*fd` is readable while ipc_wait_event, with the same list and service, has an
/// event to report: for poll(2), epoll(7) or another library's event loop, level-triggered. When it is, call
/// ipc_wait_event_timeout or ipc_wait_events with a timeout of 0 until they report nothing: what made it
/// readable may be half a message.
///
/// The descriptor is the library's: do not read or close it. It is the same at each call, and closed by
/// ipc_connections_free. After a fork the child asks for one of its own. A connection that the program closes
/// with close(2) instead of ipc_close is noticed at the next call only.
///
/// Errors: IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM: `clients` is NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM: `fd` is NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__SELECT: epoll_create1(2), epoll_ctl(2), eventfd(2) or timerfd_create(2) failed, as
/// errno has the reason;
/// EBADF, EINVAL or ENOTSOCK for a `srv` that is no service.
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
        // SAFETY: the caller's list and service, and a place for a descriptor.
        unsafe {
            let list = CList::new(clients, srv);
            fd.write(loops::event_fd(guard, &list, fd_of(srv))?);
        }
        Ok(())
    })
}

/// Adds a descriptor that poll(2) can watch (a listening socket, one that another library reads). When it is
/// readable ipc_wait_event reports it, and reads nothing: an event of type IPC_EVENT_TYPE_EXTRA_SOCKET whose `m`
/// is NULL, again and again until the program has read it, or taken it out of the list with ipc_del_fd. The end
/// and errors of the descriptor are reported in the same way. The descriptor stays yours.
///
/// Errors: as for ipc_add_fd; IPC_ERROR_WAIT_EVENT__SELECT with EPERM for a regular file, which is readable at
/// all times.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_watch_fd(cinfos: *mut ipc_connection_infos, fd: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        // SAFETY: the caller's list, if any.
        unsafe { events::add_descriptor(guard, cinfos, fd, Kind::Watched) }
    })
}

/// Takes the descriptor out of the list that ipc_add_fd or ipc_watch_fd has put there, and frees its
/// ipc_connection_info. The descriptor stays open. To be called before the descriptor is closed.
///
/// Errors: IPC_ERROR_DEL__NO_CLIENTS_PARAM: `cinfos` is NULL (EINVAL).
/// IPC_ERROR_DEL__EMPTY_LIST: there is nothing in the list (ENOENT).
/// IPC_ERROR_DEL__EMPTIED_LIST: the list has a size but no array (EINVAL).
/// IPC_ERROR_DEL__CANNOT_FIND_CLIENT: it is not in the list, or it is a connection, a timer or the entry of ipc_add_signal (ENOENT).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_del_fd(cinfos: *mut ipc_connection_infos, fd: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT, |guard| {
        let cinfos = required(cinfos, ipc_errors::IPC_ERROR_DEL__NO_CLIENTS_PARAM)?;
        let key = cinfos.addr();
        // Those of ipc_add_signal and ipc_add_timer are the library's.
        let is_own = loops::is_timer(guard, key, fd)
            || loops::signals(guard, key).is_some_and(|(signals, _)| signals == fd);
        let find = |list: &CList| {
            let is_it = |entry: Entry| !is_own && entry.fd == fd && entry.kind != Kind::Connection;
            (0..list.size()).find(|index| list.entry(*index).is_some_and(is_it))
        };
        // SAFETY: the caller's list, whose structure for the descriptor is from malloc(3).
        unsafe { c_heap::free(events::remove(guard, cinfos, find)?) };
        Ok(())
    })
}
