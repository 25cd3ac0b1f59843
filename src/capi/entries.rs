//! The entries of a list, `struct ipc_connection_infos`: adding, removing, and freeing all; and
//! `struct ipc_connection_info` by itself.
//!
//! The array and its entries are the program's; the library changes the array only by [`CList`]. After each
//! change the list's loop is notified (`note_added`, `note_removed`, `note_freed` of [`loops`]) and gets the
//! shape that the array had before the change: if the loop knows this shape, it need not compare the whole
//! array with its members. If the loop cannot register a new entry, the entry is removed again: after an
//! error the list is as before.

use std::ffi::{c_char, c_int};
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;

use super::boundary::{call, call_or, required, required_const, run};
use super::list::{CList, EMPTY, EXTRA, kind_of};
use super::types::{int8_t, ipc_connection_info, ipc_connection_infos};
use crate::calls::accept::Accept;
use crate::calls::flow::Flow;
use crate::error::{Error, ipc_errors};
use crate::event_loop::{Kind, List, loops};
use crate::frame::c_heap::CBox;
use crate::kernel::fd;
use crate::process::entry_guard::EntryGuard;

/// Stores the pointer `cinfo` in the list. The structure stays yours, and must exist as long as the list has
/// the pointer.
///
/// Errors: IPC_ERROR_ADD__NO_PARAM_CLIENTS, IPC_ERROR_ADD__NO_PARAM_CLIENT: NULL (EINVAL).
/// IPC_ERROR_ADD__EMPTY_LIST: the list has a size below 0, or one over 0 and no array (EINVAL); the structure
/// is in the list already (EEXIST).
/// IPC_ERROR_WAIT_EVENT__SELECT: the kernel cannot watch the descriptor; errno is that of epoll_ctl(2).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM. After each of these errors the list is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_add(
    cinfos: *mut ipc_connection_infos,
    cinfo: *mut ipc_connection_info,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        let cinfos = required(cinfos, ipc_errors::IPC_ERROR_ADD__NO_PARAM_CLIENTS)?;
        let cinfo = required(cinfo, ipc_errors::IPC_ERROR_ADD__NO_PARAM_CLIENT)?;
        // SAFETY: the caller's list and structure.
        unsafe { add_entry(guard, cinfos, cinfo, kind_of(cinfo)) }
    })
}

/// Appends an entry of this kind to the list.
///
/// # Safety
/// `cinfos` points to a list, `cinfo` to a structure.
unsafe fn add_entry(
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

/// Removes the pointer `cinfo` from the list; the last element takes its place. The structure is neither
/// freed nor is its descriptor closed. If the list becomes empty, its array is freed.
///
/// Errors: IPC_ERROR_DEL__NO_CLIENTS_PARAM, IPC_ERROR_DEL__NO_CLIENT_PARAM: NULL (EINVAL).
/// IPC_ERROR_DEL__EMPTY_LIST: the list is empty (ENOENT).
/// IPC_ERROR_DEL__EMPTIED_LIST: the list has a size but no array (EINVAL).
/// IPC_ERROR_DEL__CANNOT_FIND_CLIENT: the list does not have the pointer (ENOENT).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_del(
    cinfos: *mut ipc_connection_infos,
    cinfo: *mut ipc_connection_info,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT, |guard| {
        let cinfos = required(cinfos, ipc_errors::IPC_ERROR_DEL__NO_CLIENTS_PARAM)?;
        let cinfo = required(cinfo, ipc_errors::IPC_ERROR_DEL__NO_CLIENT_PARAM)?;
        // SAFETY: the caller's list.
        unsafe { delete_entry(guard, cinfos, |list| list.position(cinfo)) }.map(drop)
    })
}

/// Removes the entry at the index that `find` returns, and returns the entry's structure.
///
/// # Safety
/// `cinfos` points to a list.
pub(super) unsafe fn delete_entry(
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

/// Adds a descriptor of any kind (pipe, terminal, socket, timerfd, eventfd, signalfd, regular file).
/// ipc_wait_event reads the descriptor's bytes and reports them as IPC_EVENT_TYPE_EXTRA_SOCKET. The
/// descriptor stays yours. Its entry in the list is an ipc_connection_info of type 'a' from malloc(3), which
/// is the `origin` of its events: remove the entry with ipc_del and free it.
///
/// Errors: IPC_ERROR_ADD_FD__NO_PARAM_CINFOS: NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__SELECT: the descriptor is not open (EBADF), or the kernel cannot watch the
/// descriptor; errno is that of epoll_ctl(2).
/// IPC_ERROR_ADD__EMPTY_LIST: the list has a size below 0, or one over 0 and no array (EINVAL).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; the list is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_add_fd(cinfos: *mut ipc_connection_infos, fd: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        // SAFETY: the caller's list, if any.
        unsafe { add_descriptor(guard, cinfos, fd, Kind::Extra) }
    })
}

/// Adds a descriptor to a list, as an entry of this kind. The entry is a new structure, which belongs to the
/// list when the function succeeds.
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
    // SAFETY: the caller's list, and a structure that the list owns from then on.
    unsafe { add_entry(guard, cinfos, cinfo.as_ptr(), kind) }?;
    let _owned_by_the_list = cinfo.into_c();
    Ok(())
}

/// Frees the array of the list and sets the list's size to 0. The structures in the list stay yours, and
/// their descriptors stay open. Bytes that are queued for the connections are sent within later calls of the
/// library.
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
    // The signal handler may have interrupted malloc(3) or free(3): the array is not freed.
    let nested = || with_list(&mut CList::forget);
    call_or(code, nested, |guard| {
        with_list(&mut |list| {
            loops::note_freed(guard, list.key());
            list.free();
        })
    });
}

/// Waits for a client of the service `cinfo`, accepts the client, and adds it to the list. `*new_client`
/// becomes the client's structure, from malloc(3) and yours to free; `new_client` may be NULL, since the list
/// has the structure too.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn handle_new_connection(
    cinfo: *mut ipc_connection_info,
    cinfos: *mut ipc_connection_infos,
    new_client: *mut *mut ipc_connection_info,
) -> ipc_errors {
    let mut accept = None;
    // SAFETY: this frame has plain data only; the caller's list, service and room for a pointer.
    unsafe {
        run(ipc_errors::IPC_ERROR_ACCEPT, |guard, wait| {
            let srv = required(cinfo, ipc_errors::IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFO_PARAM)?;
            let cinfos = required(cinfos, ipc_errors::IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFOS_PARAM)?;
            let flow = accept.get_or_insert_with(|| Accept::new((*srv).fd)).step(guard, wait);
            match flow.map_err(|errno| Error::new(ipc_errors::IPC_ERROR_ACCEPT, errno))? {
                Flow::Wait => Ok(Flow::Wait),
                Flow::Done(fd) => {
                    add_accepted(guard, CList::new(cinfos, srv), fd, new_client).map(Flow::Done)
                }
            }
        })
    }
}

/// Adds an accepted client to the list.
///
/// # Safety
/// `new_client` is NULL or has room for a pointer.
unsafe fn add_accepted(
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
    // If the loop cannot register the entry now, the next wait compares the whole list with its members.
    let _ = loops::note_added(guard, &list, before, index, Kind::Connection);
    if !new_client.is_null() {
        // SAFETY: as promised by the caller.
        unsafe { new_client.write(list.origin(index).unwrap_or(ptr::null_mut())) };
    }
    Ok(())
}

/// Returns a copy of the structure, member by member, from malloc(3) and yours to free. The path is not
/// copied: `spath` of both structures points to the same string. Returns NULL if `p` is NULL (EINVAL) or if
/// there is no memory (ENOMEM).
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

/// Returns 1 if type, version, index and fd of both structures are equal, else 0. Returns 0 if
/// `a` or `b` is NULL.
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

/// Sets these members of `cinfo`; `spath` is not changed.
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
