//! Signals and timers, reported in addition to the events of connections.
//!
//! All signals of a list are one entry, a signalfd(2); each timer is an entry of its own, a timerfd(2). Both
//! have the type 'a' in the list; the list's loop knows which descriptors are signals and timers, and the
//! mask of the signals. The descriptors belong to the list: the library makes them, and `ipc_del_timer`,
//! `ipc_close` or `ipc_connections_free` ends them.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::boundary::{call, required};
use super::entries::{self, add_descriptor};
use super::list::CList;
use super::types::ipc_connection_infos;
use crate::error::{Error, ipc_errors};
use crate::event_loop::{Entry, Kind, List, loops};
use crate::frame::c_heap;
use crate::frame::header::{TYPE_SIGNAL, TYPE_TIMER};
use crate::kernel::fd;
use crate::kernel::notices::{self, Notice};
use crate::kernel::signals;
use crate::process::entry_guard::EntryGuard;

/// The type of the message for a received signal (ipc_add_signal).
pub const IPC_MSG_SIGNAL: c_int = 3;
/// The type of the message for an expired timer (ipc_add_timer).
pub const IPC_MSG_TIMER: c_int = 4;

/// The payload of the message for a signal or a timer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_notice {
    /// The signal; 0 for a timer.
    pub signo: c_int,
    /// The timer's number; 0 for a signal.
    pub timer: c_int,
    /// How often the timer has expired since its last report; 1 for a signal.
    pub count: u64,
    /// The process that sent the signal; 0 if the kernel sent the signal.
    pub pid: libc::pid_t,
    /// The real user ID of the process that sent the signal.
    pub uid: libc::uid_t,
}

const _: () = {
    use std::mem::offset_of;
    assert!(IPC_MSG_SIGNAL == TYPE_SIGNAL as c_int && IPC_MSG_TIMER == TYPE_TIMER as c_int);
    assert!(size_of::<ipc_notice>() == size_of::<Notice>());
    assert!(offset_of!(ipc_notice, signo) == offset_of!(Notice, signal));
    assert!(offset_of!(ipc_notice, timer) == offset_of!(Notice, timer));
    assert!(offset_of!(ipc_notice, count) == offset_of!(Notice, count));
    assert!(offset_of!(ipc_notice, pid) == offset_of!(Notice, pid));
    assert!(offset_of!(ipc_notice, uid) == offset_of!(Notice, uid));
};

fn failed(errno: Errno) -> Error {
    Error::new(ipc_errors::IPC_ERROR_WAIT_EVENT__SELECT, errno)
}

/// Makes ipc_wait_event report the signal, as an event of type IPC_EVENT_TYPE_EXTRA_SOCKET. The event's `m`
/// is a message of type IPC_MSG_SIGNAL with a struct ipc_notice as its payload. If a signal is sent again
/// before it was reported, it is reported once; each real-time signal is reported.
///
/// The function blocks the signal in the calling thread, and the signal stays blocked. Call the function
/// before other threads are started, which inherit the mask, or block the signal in these threads. Programs
/// that the process executes inherit the mask, too (pthread_sigmask(3)).
///
/// All signals of a list have one entry in the list, of type 'a', which is the `origin` of their events. To
/// end it, call ipc_close, ipc_del and free, as for a client; ipc_connections_free ends it, too, except for
/// the free.
///
/// Errors: IPC_ERROR_ADD_FD__NO_PARAM_CINFOS: NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__SELECT: `signo` is no signal, or a signal that cannot be caught (EINVAL); or
/// signalfd(2) or epoll_ctl(2) failed, with the reason in errno.
/// IPC_ERROR_ADD__EMPTY_LIST, IPC_ERROR_NOT_ENOUGH_MEMORY: as for ipc_add_fd. After each of these errors the
/// signal mask is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_add_signal(cinfos: *mut ipc_connection_infos, signo: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        let list = required(cinfos, ipc_errors::IPC_ERROR_ADD_FD__NO_PARAM_CINFOS)?.addr();
        let existing = loops::signals(guard, list);
        let (fd, before) = existing.map_or((None, Default::default()), |(fd, signals)| (Some(fd), signals));
        let all = before.with(signo).map_err(failed)?;
        // Blocked before the signalfd accepts it, so that no signal is missed in between.
        let mask = notices::block(all);
        let added = notices::signal_fd(fd, all).map_err(failed).and_then(|made| match made {
            // SAFETY: the caller's list.
            Some(made) => unsafe { add_internal(guard, cinfos, made, Kind::Signals) }.map(drop),
            None => Ok(()),
        });
        match added {
            Ok(()) => loops::note_signals(guard, list, all),
            Err(_) => signals::restore(&mask),
        }
        added
    })
}

/// Adds a timer, which expires in `first_ms` milliseconds, and then every `every_ms` milliseconds, or never
/// again if `every_ms` is 0. ipc_wait_event reports it as an event of type IPC_EVENT_TYPE_EXTRA_SOCKET. The
/// event's `m` is a message of type IPC_MSG_TIMER with a struct ipc_notice as its payload. If the timer
/// expires several times between two calls of ipc_wait_event, this is one event, with the number of times in
/// `count`. The clock is
/// CLOCK_MONOTONIC: it stops while the machine sleeps, and cannot be set.
///
/// `*id` becomes the timer's number, for ipc_del_timer; `id` may be NULL. The timer's entry in the list, of
/// type 'a', is the `origin` of its events, and the entry's `fd` is the timer's number. ipc_connections_free
/// ends the timer, too; the entry's structure is yours to free then.
///
/// Errors: IPC_ERROR_ADD_FD__NO_PARAM_CINFOS: NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__SELECT: `first_ms` or `every_ms` is below 0 (EINVAL); or timerfd_create(2) or
/// epoll_ctl(2) failed, with the reason in errno.
/// IPC_ERROR_ADD__EMPTY_LIST, IPC_ERROR_NOT_ENOUGH_MEMORY: as for ipc_add_fd.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_add_timer(
    cinfos: *mut ipc_connection_infos,
    first_ms: c_int,
    every_ms: c_int,
    id: *mut c_int,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        required(cinfos, ipc_errors::IPC_ERROR_ADD_FD__NO_PARAM_CINFOS)?;
        if first_ms < 0 || every_ms < 0 {
            return Err(failed(Errno::EINVAL));
        }
        let timer = notices::timer_fd(first_ms, every_ms).map_err(failed)?;
        // SAFETY: the caller's list, and its room for a number, if any.
        unsafe {
            let fd = add_internal(guard, cinfos, timer, Kind::Timer)?;
            if !id.is_null() {
                id.write(fd);
            }
        }
        Ok(())
    })
}

/// Adds a descriptor that the library has made; on success the list owns the descriptor.
///
/// # Safety
/// `cinfos` points to a list.
unsafe fn add_internal(
    guard: &EntryGuard,
    cinfos: *mut ipc_connection_infos,
    made: OwnedFd,
    kind: Kind,
) -> Result<RawFd, Error> {
    // SAFETY: as promised by the caller.
    unsafe { add_descriptor(guard, cinfos, made.as_raw_fd(), kind) }?;
    Ok(made.into_raw_fd())
}

/// Ends a timer of the list, which is not reported any more, and frees its structure.
///
/// Errors: IPC_ERROR_DEL__NO_CLIENTS_PARAM: `cinfos` is NULL (EINVAL).
/// IPC_ERROR_DEL__EMPTY_LIST: the list is empty (ENOENT).
/// IPC_ERROR_DEL__EMPTIED_LIST: the list has a size but no array (EINVAL).
/// IPC_ERROR_DEL__CANNOT_FIND_CLIENT: the list has no such timer (ENOENT).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_del_timer(cinfos: *mut ipc_connection_infos, id: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT, |guard| {
        let cinfos = required(cinfos, ipc_errors::IPC_ERROR_DEL__NO_CLIENTS_PARAM)?;
        let is_timer = loops::is_timer(guard, cinfos.addr(), id);
        let find = |list: &CList| {
            let is_its_entry = |entry: Entry| is_timer && entry.fd == id && entry.kind != Kind::Connection;
            (0..list.size()).find(|index| list.entry(*index).is_some_and(is_its_entry))
        };
        // SAFETY: the caller's list; the timer's structure in it is from malloc(3).
        unsafe { c_heap::free(entries::delete_entry(guard, cinfos, find)?) };
        let _ = fd::close(id);
        Ok(())
    })
}
