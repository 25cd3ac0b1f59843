//! Waiting for an event, and `struct ipc_event`.
//!
//! An event of the program is in one of two states. *Filled*: `type`, `origin` and `m` are those of the last
//! reported event; the message in `m` is from malloc(3), and the next wait reuses or frees it. *Empty*: the
//! type is NOT_SET, and `m` is NULL or, while the call waits, an empty message. The message is allocated
//! before the library takes anything from the kernel, so that no received bytes are lost if there is no
//! memory. During the wait the program's event owns the message: if the thread is cancelled there, the
//! program frees both. A signal handler that runs in the wait may replace the message's payload.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

use super::boundary::{call, required, run_quickly};
use super::list::CList;
use super::messages;
use super::types::{ipc_connection_info, ipc_connection_infos, ipc_event, ipc_event_type, ipc_message};
use crate::calls::flow::Flow;
use crate::calls::wait_event::{self, WaitEvent};
use crate::connection::frame_decoder::Frame;
use crate::error::{Error, ipc_errors};
use crate::event_loop::list_loop::Served;
use crate::event_loop::{Event, What, loops};
use crate::frame::c_heap::CBox;
use crate::kernel::deadline::Deadline;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::EntryGuard;

/// Waits until something happens to one of the connections in `clients` or at the service `srv`, and reports
/// the event in `event`. `srv` is NULL in a program that has no service.
///
/// A message that `event->m` still holds from the previous call is freed first: initialise the event with
/// zeros, and set m to NULL if you have freed the message yourself.
///
/// When the call returns, `event->type` is one of:
/// CONNECTION: a client has connected. `origin` is a new structure from malloc(3), already in the list; free
/// it after its DISCONNECTION.
/// MESSAGE: `m` is a struct ipc_message * from `origin`.
/// EXTRA_SOCKET: `origin` was added with ipc_add_fd; `m` is a message with the bytes that were read (at most
/// 64 KiB). Its length is 0 at end of file, which is reported once, or if the descriptor cannot be read.
/// ERROR: the peer broke the protocol or the connection failed; its DISCONNECTION follows.
/// DISCONNECTION: the connection has ended. The library has closed it and removed it from the list (the last
/// element has taken its place); `origin->fd` still has the number.
///
/// An error of a single peer is reported as an event; the call itself succeeds. Errors:
/// IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM, IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM: NULL (EINVAL); the latter
/// also if there is nothing to wait for: no service, and no entry in the list that can have an event.
/// IPC_ERROR_WAIT_EVENT__SELECT: a signal handler has run (EINTR), or waiting failed for the reason in errno;
/// if `srv` is no service, errno is EBADF, ENOTSOCK, or EINVAL for a socket that does not listen.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM. No event is lost; the next call reports it.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_wait_event(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
) -> ipc_errors {
    // SAFETY: the caller's list, service and event.
    unsafe { wait_for_event(clients, srv, event, Deadline::NONE) }
}

/// What has been written to an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    Nothing,
    Event,
    /// A message with descriptors.
    EventWithDescriptors,
}

/// Waits for an event until the deadline, and reports it.
///
/// # Safety
/// Each pointer is NULL or points to what its type says. The caller has nothing to drop.
pub(super) unsafe fn wait_for_event(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
    deadline: Deadline,
) -> ipc_errors {
    let begin = move |state: &mut Option<WaitEvent>, guard: &EntryGuard, wait: &mut Wait| {
        if clients.is_null() || event.is_null() {
            return None;
        }
        // SAFETY: the caller's list, service and event.
        unsafe {
            if reuse_message(event).is_null() {
                return None;
            }
            let list = CList::new(clients, srv);
            let state = state.insert(WaitEvent::new(service_fd(srv), deadline, 1));
            let served = state.begin_quickly(guard, &list, wait)?;
            Some(hand_over(served, wait, clients, event))
        }
    };
    let go_on = move |state: &mut Option<WaitEvent>, guard: &EntryGuard, wait: &mut Wait| {
        // SAFETY: the caller's list, service and event: the step before has found that they are not NULL.
        unsafe {
            if (*event).m.is_null() {
                return None;
            }
            let list = CList::new(clients, srv);
            let served = state.as_mut()?.go_on_quickly(guard, &list, wait)?;
            Some(hand_over(served, wait, clients, event))
        }
    };
    let step = move |state: &mut Option<WaitEvent>, guard: &mut EntryGuard, wait: &mut Wait| {
        // SAFETY: as promised by the caller.
        let flow = unsafe { wait_step(guard, wait, state, clients, srv, event, (deadline, 1)) };
        Ok(flow?.map(drop))
    };
    // SAFETY: as promised by the caller; this frame has plain data only.
    unsafe { run_quickly(ipc_errors::IPC_ERROR_WAIT_EVENT__SELECT, &mut None, begin, go_on, step) }
}

/// After a shortcut: fills the event with the message that was received, or names what ends the wait if the
/// thread is cancelled.
///
/// # Safety
/// `event` is an event with a message from malloc(3), and so is a payload that a signal handler may have put
/// into the message.
#[inline]
unsafe fn hand_over(
    served: Served<*mut ipc_connection_info>,
    wait: &mut Wait,
    clients: *mut ipc_connection_infos,
    event: *mut ipc_event,
) -> Flow<()> {
    match served {
        Served::Part => {
            wait.if_cancelled(stop_waiting, clients.cast());
            Flow::Wait
        }
        // SAFETY: as promised by the caller.
        Served::Message(origin, frame) => unsafe {
            let message = (*event).m.cast();
            messages::replace(message, frame);
            fill_event(event, ipc_event_type::IPC_EVENT_TYPE_MESSAGE, origin, message);
            Flow::Done(())
        },
    }
}

/// Called if the thread is cancelled while it waits for events of this list.
extern "C" fn stop_waiting(list: *mut c_void) {
    call(ipc_errors::IPC_ERROR_WAIT_EVENT__SELECT, |guard| {
        loops::stop_waiting(guard, list.addr());
        Ok(())
    });
}

/// Makes the event empty, with an empty message in `m`: the old message, or else a new one. Returns the
/// message, or NULL if there is no memory for it.
///
/// # Safety
/// `event` is an event, and its message NULL or from malloc(3).
unsafe fn reuse_message(event: *mut ipc_event) -> *mut ipc_message {
    // SAFETY: as promised by the caller.
    unsafe {
        let message = take_message(event).or_else(|| CBox::new(messages::EMPTY).ok());
        let message = message.map_or(ptr::null_mut(), |mut message| {
            message.set(messages::EMPTY);
            message.into_c()
        });
        fill_event(event, ipc_event_type::IPC_EVENT_TYPE_NOT_SET, ptr::null_mut(), message);
        message
    }
}

/// A step of a wait, until the deadline, in which the program asks for `most` events. Before the step returns
/// [`Flow::Wait`], it puts an empty message into the event.
///
/// # Safety
/// Each pointer is NULL or points to what its type says.
pub(super) unsafe fn wait_step(
    guard: &mut EntryGuard,
    wait: &mut Wait,
    state: &mut Option<WaitEvent>,
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
    (deadline, max_events): (Deadline, usize),
) -> Result<Flow<Reported>, Error> {
    let event = required(event, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM)?;
    // SAFETY: `event` is not NULL, so it is an event.
    let before = unsafe { take_message(event) };
    let clients = required(clients, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM)?;
    // Allocated before anything is taken from the kernel, so that nothing is lost if there is no memory.
    let message = before.map_or_else(|| CBox::new(messages::EMPTY), Ok)?;
    // SAFETY: the caller's list and service.
    let mut list = unsafe { CList::new(clients, srv) };
    // SAFETY: the caller's service.
    let state = state.get_or_insert_with(|| WaitEvent::new(unsafe { service_fd(srv) }, deadline, max_events));
    Ok(match state.step(guard, &mut list, wait)? {
        Flow::Wait => {
            let (kind, mut message) = (ipc_event_type::IPC_EVENT_TYPE_NOT_SET, message);
            message.set(messages::EMPTY);
            // SAFETY: `event` is not NULL, so it is an event.
            unsafe { fill_event(event, kind, ptr::null_mut(), message.into_c()) };
            wait.if_cancelled(stop_waiting, clients.cast());
            Flow::Wait
        }
        Flow::Done(None) => Flow::Done(Reported::Nothing),
        // SAFETY: `event` is not NULL, so it is an event.
        Flow::Done(Some(happened)) => Flow::Done(unsafe { report_event(event, happened, message) }),
    })
}

/// Reports a further pending event of the list, after a wait for the same list has reported one.
///
/// # Safety
/// `event` is an event, whose message is NULL or from malloc(3); `clients` is a list, `srv` NULL or a
/// service.
pub(super) unsafe fn report_pending(
    guard: &EntryGuard,
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
) -> Result<Reported, Error> {
    // SAFETY: as promised by the caller.
    let (message, mut list) = unsafe { (take_message(event), CList::new(clients, srv)) };
    let message = message.map_or_else(|| CBox::new(messages::EMPTY), Ok)?;
    let happened = wait_event::more(guard, &mut list)?;
    // SAFETY: as promised by the caller.
    Ok(happened.map_or(Reported::Nothing, |happened| unsafe { report_event(event, happened, message) }))
}

/// Makes the event empty, and returns its message, for reuse; the message's payload is freed.
///
/// # Safety
/// `event` is an event, and its message NULL or from malloc(3).
pub(super) unsafe fn take_message(event: *mut ipc_event) -> Option<CBox<ipc_message>> {
    // SAFETY: as promised by the caller.
    unsafe {
        let message = (*event).m.cast();
        fill_event(event, ipc_event_type::IPC_EVENT_TYPE_NOT_SET, ptr::null_mut(), ptr::null_mut());
        messages::take_back(message)
    }
}

/// The descriptor of the service; `None` if the program has no service.
///
/// # Safety
/// `srv` is NULL or points to a service.
pub(super) unsafe fn service_fd(srv: *const ipc_connection_info) -> Option<RawFd> {
    // SAFETY: the caller's promise: NULL or a live structure.
    (!srv.is_null()).then(|| unsafe { (*srv).fd })
}

/// Writes all members of the event.
///
/// # Safety
/// `event` is an event.
unsafe fn fill_event(
    event: *mut ipc_event,
    kind: ipc_event_type,
    origin: *mut ipc_connection_info,
    message: *mut ipc_message,
) {
    let filled = ipc_event { r#type: MaybeUninit::new(kind), origin, m: message.cast() };
    // SAFETY: as promised by the caller.
    unsafe { event.write(filled) };
}

/// Fills the event with what has happened; `message` becomes the event's message, or is freed.
///
/// # Safety
/// `event` is an event.
unsafe fn report_event(
    event: *mut ipc_event,
    happened: Event<*mut ipc_connection_info>,
    message: CBox<ipc_message>,
) -> Reported {
    let reported = match &happened.what {
        What::Message(frame) if frame.has_descriptors => Reported::EventWithDescriptors,
        _ => Reported::Event,
    };
    let hand_over = |frame: Frame, mut message: CBox<ipc_message>| {
        message.set(messages::from_frame(frame));
        message.into_c()
    };
    let (kind, message) = match happened.what {
        What::Connection => (ipc_event_type::IPC_EVENT_TYPE_CONNECTION, ptr::null_mut()),
        What::Disconnection => (ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION, ptr::null_mut()),
        What::Error => (ipc_event_type::IPC_EVENT_TYPE_ERROR, ptr::null_mut()),
        What::Message(frame) => (ipc_event_type::IPC_EVENT_TYPE_MESSAGE, hand_over(frame, message)),
        What::Ready => (ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET, ptr::null_mut()),
        What::Extra(frame) => (ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET, hand_over(frame, message)),
    };
    // SAFETY: as promised by the caller.
    unsafe { fill_event(event, kind, happened.origin, message) };
    reported
}
