//! Lists of connections, and waiting for what happens to them.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;

use super::boundary::{call, call_or, required, required_const, run, run_quickly};
use super::list::{CList, EMPTY, EXTRA, kind_of};
use super::messages;
use super::types::{
    int8_t, ipc_connection_info, ipc_connection_infos, ipc_event, ipc_event_type, ipc_message,
};
use crate::calls::accept::Accept;
use crate::calls::flow::Flow;
use crate::calls::wait_event::{self, WaitEvent};
use crate::connection::frame_decoder::Frame;
use crate::error::{Error, ipc_errors};
use crate::event_loop::{Event, Kind, List, What, loops};
use crate::frame::c_heap::CBox;
use crate::kernel::deadline::Deadline;
use crate::kernel::fd;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::EntryGuard;

/// Waits until something happens to one of the connections in `clients` or at the service `srv`, and reports
/// the event in `event`. `srv` is NULL in a program that has no service.
///
/// What `event->m` still holds from the call before is freed first: initialise the event with zeros, and
/// set m to NULL where you have freed the message yourself.
///
/// `event->type` is then one of:
/// CONNECTION: a client has come. `origin` is a new structure from malloc(3), already in the list; free it
/// after its DISCONNECTION.
/// MESSAGE: `m` is a struct ipc_message * from `origin`.
/// EXTRA_SOCKET: `origin` was added with ipc_add_fd; `m` is a message with the bytes read (at most 64 KiB),
/// of length 0 at the end of the file, which is reported once, or if the descriptor cannot be read.
/// ERROR: the peer broke the protocol or the connection failed; its DISCONNECTION follows.
/// DISCONNECTION: the connection is over. It is closed already and in the list no more (the last element
/// has taken its place); `origin->fd` still has the number.
///
/// What single peers do wrong is an event, not an error. Errors:
/// IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM, IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM: NULL (EINVAL); the latter
/// also if there is nothing to wait for: no service, and no entry in the list that can have an event.
/// IPC_ERROR_WAIT_EVENT__SELECT: a signal handler has run (EINTR), or waiting failed, and errno has the reason; EBADF,
/// ENOTSOCK or, where it does not listen, EINVAL for a `srv` that is no service.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM. Nothing is lost; the next call goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_wait_event(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
) -> ipc_errors {
    // SAFETY: the caller's list, service and event.
    unsafe { wait(clients, srv, event, Deadline::NONE) }
}

/// What a call has reported.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    Nothing,
    Event,
    /// A message with descriptors.
    EventWithDescriptors,
}

/// Waits for an event and reports it.
///
/// # Safety
/// Each is NULL or points to what its type says. The caller has nothing to drop.
pub(super) unsafe fn wait(
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
    limit: Deadline,
) -> ipc_errors {
    let quick = |state: &mut Option<WaitEvent>, guard: &EntryGuard, wait: &mut Wait| {
        // SAFETY: as promised by the caller.
        unsafe { quick_step(guard, wait, state, clients, srv, event, limit) }.map(Ok)
    };
    let step = |state: &mut Option<WaitEvent>, guard: &mut EntryGuard, wait: &mut Wait| {
        // SAFETY: as promised by the caller.
        let flow = unsafe { step(guard, wait, state, clients, srv, event, (limit, 1)) };
        Ok(flow?.map(drop))
    };
    // SAFETY: as promised by the caller; plain data in this frame.
    unsafe { run_quickly(ipc_errors::IPC_ERROR_WAIT_EVENT__SELECT, &mut None, quick, step) }
}

/// [`WaitEvent::quick`], and what it reports.
///
/// # Safety
/// Each is NULL or points to what its type says.
unsafe fn quick_step(
    guard: &EntryGuard,
    wait: &mut Wait,
    state: &mut Option<WaitEvent>,
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
    limit: Deadline,
) -> Option<Flow<()>> {
    if clients.is_null() || event.is_null() {
        return None;
    }
    // SAFETY: the caller's event.
    let message = unsafe { if wait.is_first() { reuse_message(event) } else { (*event).m.cast() } };
    if message.is_null() {
        return None;
    }
    // SAFETY: the caller's list and service.
    let (list, listener) = unsafe { (CList::new(clients, srv), fd_of(srv)) };
    let state = state.get_or_insert_with(|| WaitEvent::new(listener, limit, 1));
    let flow = state.quick(guard, &list, wait)?;
    Some(flow.map(|(origin, frame)| {
        // SAFETY: the message of the caller's event is from malloc(3), as is what a signal handler may have put into it.
        unsafe {
            messages::replace(message, frame);
            fill(event, ipc_event_type::IPC_EVENT_TYPE_MESSAGE, origin, message);
        }
    }))
}

/// Empties an event, and leaves its message, emptied, where it is: NULL without memory for one.
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
        fill(event, ipc_event_type::IPC_EVENT_TYPE_NOT_SET, ptr::null_mut(), message);
        message
    }
}

/// A step of waiting for an event, of which the program wants `most` until `limit`. While it waits the event is one that
/// has nothing but an empty message, for the event that comes: what is not handed over by a thread that is cancelled is
/// the program's to free, with the event.
///
/// # Safety
/// Each is NULL or points to what its type says.
pub(super) unsafe fn step(
    guard: &mut EntryGuard,
    wait: &mut Wait,
    state: &mut Option<WaitEvent>,
    clients: *mut ipc_connection_infos,
    srv: *mut ipc_connection_info,
    event: *mut ipc_event,
    (limit, most): (Deadline, usize),
) -> Result<Flow<Reported>, Error> {
    let event = required(event, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM)?;
    // SAFETY: `event` is not NULL, so it is an event.
    let before = unsafe { take_message(event) };
    let clients = required(clients, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM)?;
    // Before anything is taken from the kernel, so that nothing is lost for want of it.
    let message = before.map_or_else(|| CBox::new(messages::EMPTY), Ok)?;
    // SAFETY: the caller's list and service.
    let mut list = unsafe { CList::new(clients, srv) };
    // SAFETY: the caller's service.
    let state = state.get_or_insert_with(|| WaitEvent::new(unsafe { fd_of(srv) }, limit, most));
    Ok(match state.step(guard, &mut list, wait)? {
        Flow::Wait => {
            let (kind, mut message) = (ipc_event_type::IPC_EVENT_TYPE_NOT_SET, message);
            message.set(messages::EMPTY);
            // SAFETY: `event` is not NULL, so it is an event.
            unsafe { fill(event, kind, ptr::null_mut(), message.into_c()) };
            Flow::Wait
        }
        Flow::Done(None) => Flow::Done(Reported::Nothing),
        // SAFETY: `event` is not NULL, so it is an event.
        Flow::Done(Some(happened)) => Flow::Done(unsafe { report(event, happened, message) }),
    })
}

/// Reports an event that is there after a wait for the same list.
///
/// # Safety
/// `event` is an event, whose message is NULL or from malloc(3); `clients` is a list, `srv` NULL or a service.
pub(super) unsafe fn take(
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
    Ok(happened.map_or(Reported::Nothing, |happened| unsafe { report(event, happened, message) }))
}

/// Empties an event; its message, the payload freed, is there to be used again.
///
/// # Safety
/// `event` is an event, and its message NULL or from malloc(3).
pub(super) unsafe fn take_message(event: *mut ipc_event) -> Option<CBox<ipc_message>> {
    // SAFETY: as promised by the caller.
    unsafe {
        let message = (*event).m.cast();
        fill(event, ipc_event_type::IPC_EVENT_TYPE_NOT_SET, ptr::null_mut(), ptr::null_mut());
        messages::take_back(message)
    }
}

/// The descriptor of a service, if there is one.
///
/// # Safety
/// `srv` is NULL or points to a service.
pub(super) unsafe fn fd_of(srv: *const ipc_connection_info) -> Option<RawFd> {
    // SAFETY: the caller's promise: NULL or a live structure.
    (!srv.is_null()).then(|| unsafe { (*srv).fd })
}

unsafe fn fill(
    event: *mut ipc_event,
    kind: ipc_event_type,
    origin: *mut ipc_connection_info,
    message: *mut ipc_message,
) {
    let filled = ipc_event { r#type: MaybeUninit::new(kind), origin, m: message.cast() };
    // SAFETY: the caller's promise: a live event.
    unsafe { event.write(filled) };
}

unsafe fn report(
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
    // SAFETY: the caller's promise: a live event.
    unsafe { fill(event, kind, happened.origin, message) };
    reported
}

/// Stores the pointer `cinfo` in the list. The structure stays yours, and must live as long as it is there.
///
/// Errors: IPC_ERROR_ADD__NO_PARAM_CLIENTS, IPC_ERROR_ADD__NO_PARAM_CLIENT: NULL (EINVAL).
/// IPC_ERROR_ADD__EMPTY_LIST: the list has a size below 0, or one over 0 and no array (EINVAL); the structure is in
/// the list already (EEXIST).
/// IPC_ERROR_WAIT_EVENT__SELECT: the kernel cannot watch it: errno is that of epoll_ctl(2).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM. After each of these the list is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_add(
    cinfos: *mut ipc_connection_infos,
    cinfo: *mut ipc_connection_info,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        let cinfos = required(cinfos, ipc_errors::IPC_ERROR_ADD__NO_PARAM_CLIENTS)?;
        let cinfo = required(cinfo, ipc_errors::IPC_ERROR_ADD__NO_PARAM_CLIENT)?;
        // SAFETY: the caller's list and structure.
        unsafe { add(guard, cinfos, cinfo, kind_of(cinfo)) }
    })
}

unsafe fn add(
    guard: &EntryGuard,
    cinfos: *mut ipc_connection_infos,
    cinfo: *mut ipc_connection_info,
    kind: Kind,
) -> Result<(), Error> {
    // SAFETY: the caller's list.
    let (mut list, array, size) =
        unsafe { (CList::new(cinfos, ptr::null()), (*cinfos).cinfos, (*cinfos).size) };
    if size < 0 || size > 0 && array.is_null() {
        return Err(Error::argument(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST));
    }
    if list.position(cinfo).is_some() {
        return Err(Error::new(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, Errno::EEXIST));
    }
    let before = list.shape();
    let index = list.append(cinfo)?;
    loops::note_added(guard, &list, before, index, kind).inspect_err(|_| list.remove_entry(index))
}

/// Takes the pointer `cinfo` out of the list; the last element takes its place. It frees and closes nothing
/// of the structure. With the last element the array is freed and size is 0.
///
/// Errors: IPC_ERROR_DEL__NO_CLIENTS_PARAM, IPC_ERROR_DEL__NO_CLIENT_PARAM: NULL (EINVAL).
/// IPC_ERROR_DEL__EMPTY_LIST: there is nothing in the list (ENOENT).
/// IPC_ERROR_DEL__EMPTIED_LIST: the list has a size but no array (EINVAL).
/// IPC_ERROR_DEL__CANNOT_FIND_CLIENT: it is not in the list (ENOENT).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_del(
    cinfos: *mut ipc_connection_infos,
    cinfo: *mut ipc_connection_info,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT, |guard| {
        let cinfos = required(cinfos, ipc_errors::IPC_ERROR_DEL__NO_CLIENTS_PARAM)?;
        let cinfo = required(cinfo, ipc_errors::IPC_ERROR_DEL__NO_CLIENT_PARAM)?;
        // SAFETY: the caller's list.
        unsafe { remove(guard, cinfos, |list| list.position(cinfo)) }.map(drop)
    })
}

/// Takes the entry that is found out of a list; which structure it was.
///
/// # Safety
/// `cinfos` points to a list.
pub(super) unsafe fn remove(
    guard: &EntryGuard,
    cinfos: *mut ipc_connection_infos,
    find: impl FnOnce(&CList) -> Option<usize>,
) -> Result<*mut ipc_connection_info, Error> {
    // SAFETY: the caller's list.
    let (mut list, array, size) =
        unsafe { (CList::new(cinfos, ptr::null()), (*cinfos).cinfos, (*cinfos).size) };
    if size <= 0 {
        return Err(Error::new(ipc_errors::IPC_ERROR_DEL__EMPTY_LIST, Errno::ENOENT));
    }
    if array.is_null() {
        return Err(Error::argument(ipc_errors::IPC_ERROR_DEL__EMPTIED_LIST));
    }
    let missing = Error::new(ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT, Errno::ENOENT);
    let index = find(&list).ok_or(missing)?;
    let origin = list.origin(index).ok_or(missing)?;
    let before = list.shape();
    list.remove_entry(index);
    loops::note_removed(guard, &list, before, origin.addr(), index);
    Ok(origin)
}

/// Adds a descriptor of any kind (pipe, terminal, socket, timerfd, eventfd, signalfd, regular file), whose
/// bytes ipc_wait_event then reads and reports as IPC_EVENT_TYPE_EXTRA_SOCKET. The descriptor stays yours. Its
/// ipc_connection_info, of type 'a', is made by malloc(3): `origin` of the events, or found in the list;
/// take it out with ipc_del and free it.
///
/// Errors: IPC_ERROR_ADD_FD__NO_PARAM_CINFOS: NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__SELECT: the descriptor is not open (EBADF), or the kernel cannot watch it: errno is
/// that of epoll_ctl(2).
/// IPC_ERROR_ADD__EMPTY_LIST: the list has a size below 0, or one over 0 and no array (EINVAL).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; the list is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_add_fd(cinfos: *mut ipc_connection_infos, fd: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        // SAFETY: the caller's list, if any.
        unsafe { add_descriptor(guard, cinfos, fd, Kind::Extra) }
    })
}

/// Adds a descriptor to a list, as one of this kind.
///
/// # Safety
/// `cinfos` is NULL or points to a list.
pub(super) unsafe fn add_descriptor(
    guard: &EntryGuard,
    cinfos: *mut ipc_connection_infos,
    fd: RawFd,
    kind: Kind,
) -> Result<(), Error> {
    let cinfos = required(cinfos, ipc_errors::IPC_ERROR_ADD_FD__NO_PARAM_CINFOS)?;
    fd::check_usable(fd).map_err(|errno| Error::new(ipc_errors::IPC_ERROR_WAIT_EVENT__SELECT, errno))?;
    let cinfo = CBox::new(ipc_connection_info { fd, r#type: EXTRA, ..EMPTY })?;
    // SAFETY: the caller's list, and a structure that it owns once it is in there.
    unsafe { add(guard, cinfos, cinfo.as_ptr(), kind) }?;
    let _owned_by_the_list = cinfo.into_c();
    Ok(())
}

/// Frees the array of the list and sets its size to 0. What the pointers point to stays yours, and open.
/// What is still queued for the connections goes on leaving from within later calls.
///
/// A signal handler may call it at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_connections_free(cinfos: *mut ipc_connection_infos) {
    let code = ipc_errors::IPC_ERROR_NONE;
    let with_list = |act: &mut dyn FnMut(&mut CList)| {
        let cinfos = required(cinfos, code)?;
        // SAFETY: the caller's list.
        act(&mut unsafe { CList::new(cinfos, ptr::null()) });
        Ok(())
    };
    // The heap may be in the middle of a change: the handler's array is not freed.
    let nested = || with_list(&mut CList::forget);
    call_or(code, nested, |guard| {
        with_list(&mut |list| {
            loops::note_freed(guard, list.key());
            list.free();
        })
    });
}

/// Waits for a client of the service `cinfo`, takes it, and adds it to the list. `*new_client` becomes its
/// structure, from malloc(3) and yours to free; `new_client` may be NULL, for the list has it too.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn handle_new_connection(
    cinfo: *mut ipc_connection_info,
    cinfos: *mut ipc_connection_infos,
    new_client: *mut *mut ipc_connection_info,
) -> ipc_errors {
    let mut accept = None;
    // SAFETY: plain data in this frame; the caller's list, service and place for a pointer.
    unsafe {
        run(ipc_errors::IPC_ERROR_ACCEPT, |guard, wait| {
            let srv = required(cinfo, ipc_errors::IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFO_PARAM)?;
            let cinfos = required(cinfos, ipc_errors::IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFOS_PARAM)?;
            let flow = accept.get_or_insert_with(|| Accept::new((*srv).fd)).step(guard, wait);
            match flow.map_err(|errno| Error::new(ipc_errors::IPC_ERROR_ACCEPT, errno))? {
                Flow::Wait => Ok(Flow::Wait),
                Flow::Done(fd) => take_in(guard, CList::new(cinfos, srv), fd, new_client).map(Flow::Done),
            }
        })
    }
}

/// Adds a client that was accepted to the list.
///
/// # Safety
/// `new_client` is NULL or a place for a pointer.
unsafe fn take_in(
    guard: &EntryGuard,
    mut list: CList,
    fd: RawFd,
    new_client: *mut *mut ipc_connection_info,
) -> Result<(), Error> {
    let client = list.prepare();
    let before = list.shape();
    let index = client.ok().and_then(|client| list.push(client, fd));
    let Some(index) = index else {
        let _ = fd::close(fd);
        return Err(Error::new(ipc_errors::IPC_ERROR_HANDLE_NEW_CONNECTION__MALLOC, Errno::ENOMEM));
    };
    // Should it fail, the next wait goes through the whole list.
    let _ = loops::note_added(guard, &list, before, index, Kind::Connection);
    if !new_client.is_null() {
        // SAFETY: as promised by the caller.
        unsafe { new_client.write(list.origin(index).unwrap_or(ptr::null_mut())) };
    }
    Ok(())
}

/// A copy of the structure, member by member, from malloc(3) and yours to free; `spath` is not copied, both
/// name the same. NULL for NULL (EINVAL), and without memory (ENOMEM).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_connection_copy(p: *const ipc_connection_info) -> *mut ipc_connection_info {
    let mut copy = ptr::null_mut();
    call(ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO, |_| {
        let p = required_const(p, ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO)?;
        // SAFETY: the caller's structure.
        copy = CBox::new(unsafe { *p })?.into_c();
        Ok(())
    });
    copy
}

/// 1 if type, version, index and fd of both agree, else 0; 0 if `a` or `b` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_connection_eq(
    a: *const ipc_connection_info,
    b: *const ipc_connection_info,
) -> int8_t {
    if a.is_null() || b.is_null() {
        return 0;
    }
    // SAFETY: the caller's structures.
    let [a, b] = unsafe { [*a, *b] }.map(|info| (info.r#type, info.version, info.index, info.fd));
    int8_t::from(a == b)
}

/// Sets these members of `cinfo`; `spath` is left alone.
///
/// Error: IPC_ERROR_CONNECTION_GEN__NO_CINFO: NULL (EINVAL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_connection_gen(
    cinfo: *mut ipc_connection_info,
    index: u32,
    version: u32,
    fd: c_int,
    r#type: c_char,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO, |_| {
        let cinfo = required(cinfo, ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO)?;
        // SAFETY: the caller's structure, which may be uninitialised: members are only written.
        unsafe {
            (*cinfo).index = index;
            (*cinfo).version = version;
            (*cinfo).fd = fd;
            (*cinfo).r#type = r#type;
        }
        Ok(())
    })
}
