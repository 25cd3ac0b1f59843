//! Signals and times, reported in addition to the events of connections.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::boundary::{call, required};
use super::events::{self, add_descriptor};
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

/// The type of the message that says which signal was received: of ipc_add_signal.
pub const IPC_MSG_SIGNAL: c_int = 3;
/// The type of the message that says which timer has expired: of ipc_add_timer.
pub const IPC_MSG_TIMER: c_int = 4;

/// The payload of the message of a signal or a time.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_notice {
    /// The signal; 0 for a time.
    pub signo: c_int,
    /// The timer; 0 for a signal.
    pub timer: c_int,
    /// How often the time has come since it was last reported; 1 for a signal.
    pub count: u64,
    /// The process that sent the signal; 0 if the kernel sent it.
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

/// Has ipc_wait_event report the signal: as IPC_EVENT_TYPE_EXTRA_SOCKET, whose `m` is a message of type IPC_MSG_SIGNAL with
/// a struct ipc_notice as its payload. A signal that comes again before it was reported is reported once, but for real-time
/// signals.
///
/// The signal is blocked in the calling thread, and stays so; call it before other threads are started, which inherit that,
/// or block it there. Programs that the process starts inherit it, too (pthread_sigmask(3)).
///
/// One entry of the list, of type 'a', stands for all its signals: `origin` of the events. ipc_close ends it, with
/// ipc_del and free as for a client; so does ipc_connections_free, but for the free.
///
/// Errors: IPC_ERROR_ADD_FD__NO_PARAM_CINFOS: NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__SELECT: there is no such signal, or it cannot be caught (EINVAL); or signalfd(2) or epoll_ctl(2)
/// failed; errno has the reason.
/// IPC_ERROR_ADD__EMPTY_LIST, IPC_ERROR_NOT_ENOUGH_MEMORY: as for ipc_add_fd. The signal is as before then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_add_signal(cinfos: *mut ipc_connection_infos, signo: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_ADD__EMPTY_LIST, |guard| {
        let list = required(cinfos, ipc_errors::IPC_ERROR_ADD_FD__NO_PARAM_CINFOS)?.addr();
        let there = loops::signals(guard, list);
        let (fd, before) = there.map_or((None, Default::default()), |(fd, signals)| (Some(fd), signals));
        let all = before.with(signo).map_err(failed)?;
        // None is missed between here and there.
        let mask = notices::block(all);
        let added = notices::signal_fd(fd, all).map_err(failed).and_then(|made| match made {
            // SAFETY: the caller's list.
            Some(made) => unsafe { add(guard, cinfos, made, Kind::Signals) }.map(drop),
            None => Ok(()),
        });
        match added {
            Ok(()) => loops::note_signals(guard, list, all),
            Err(_) => signals::restore(&mask),
        }
        added
    })
}

/// Has ipc_wait_event report a time: first in `first_ms` milliseconds, and then each `every_ms`, or never again if that
/// is 0. It is reported as IPC_EVENT_TYPE_EXTRA_SOCKET, whose `m` is a message of type IPC_MSG_TIMER with a struct ipc_notice
/// as its payload. Times that come while the program does something else are reported as one, with their `count`. The
/// clock is CLOCK_MONOTONIC: it stops while the machine sleeps, and cannot be set.
///
/// `*id` becomes the timer's number, for ipc_del_timer, which ends it; `id` may be NULL. In the list it is an entry of
/// type 'a', whose `fd` is that number: `origin` of the events. ipc_connections_free ends it, too, and leaves the entry's
/// structure to you.
///
/// Errors: IPC_ERROR_ADD_FD__NO_PARAM_CINFOS: NULL (EINVAL).
/// IPC_ERROR_WAIT_EVENT__SELECT: `first_ms` or `every_ms` is below 0 (EINVAL); or timerfd_create(2) or epoll_ctl(2) failed,
/// and errno has the reason.
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
        // SAFETY: the caller's list, and its place for a number, if any.
        unsafe {
            let fd = add(guard, cinfos, timer, Kind::Timer)?;
            if !id.is_null() {
                id.write(fd);
            }
        }
        Ok(())
    })
}

/// Adds a descriptor that is the list's from then on.
///
/// # Safety
/// `cinfos` points to a list.
unsafe fn add(
    guard: &EntryGuard,
    cinfos: *mut ipc_connection_infos,
    made: OwnedFd,
    kind: Kind,
) -> Result<RawFd, Error> {
    // SAFETY: as promised by the caller.
    unsafe { add_descriptor(guard, cinfos, made.as_raw_fd(), kind) }?;
    Ok(made.into_raw_fd())
}

/// Ends a timer of the list: it is reported no more. Its structure is freed.
///
/// Errors: IPC_ERROR_DEL__NO_CLIENTS_PARAM: `cinfos` is NULL (EINVAL).
/// IPC_ERROR_DEL__EMPTY_LIST: there is nothing in the list (ENOENT).
/// IPC_ERROR_DEL__EMPTIED_LIST: the list has a size but no array (EINVAL).
/// IPC_ERROR_DEL__CANNOT_FIND_CLIENT: the list has no such timer (ENOENT).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_del_timer(cinfos: *mut ipc_connection_infos, id: c_int) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT, |guard| {
        let cinfos = required(cinfos, ipc_errors::IPC_ERROR_DEL__NO_CLIENTS_PARAM)?;
        let is_timer = loops::is_timer(guard, cinfos.addr(), id);
        let find = |list: &CList| {
            let is_it = |entry: Entry| is_timer && entry.fd == id && entry.kind != Kind::Connection;
            (0..list.size()).find(|index| list.entry(*index).is_some_and(is_it))
        };
        // SAFETY: the caller's list, whose structure for the timer is from malloc(3).
        unsafe { c_heap::free(events::remove(guard, cinfos, find)?) };
        let _ = fd::close(id);
        Ok(())
    })
}
