//! The functions of ipc_ext.h for the clients of a daemon: a pointer for each client, ending a connection,
//! the reason of each disconnection, and signals and timers as events.
//!
//! Each pointer is the number of a set; the library destroys each pointer once, and none that can still be
//! retrieved.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc::capi::clients::{ipc_data, ipc_end, ipc_reason, ipc_set_data, ipc_status, ipc_why};
use ipc::capi::entries::ipc_connections_free;
use ipc::capi::events::ipc_wait_event;
use ipc::capi::notices::{
    IPC_MSG_SIGNAL, IPC_MSG_TIMER, ipc_add_signal, ipc_add_timer, ipc_del_timer, ipc_notice,
};
use ipc::capi::server_and_client::ipc_close;
use ipc::capi::types::ipc_errors::*;
use ipc::capi::types::*;
use ipc::capi::waiting::ipc_del_fd;

use super::connection::{Due, State};
use super::talking::content;
use super::world::{World, call, free_message};
use crate::targets::trace;

/// The signal stays blocked: no other code uses it.
const SIGNAL: i32 = libc::SIGWINCH;

/// The pointers that were set and are not yet destroyed; any thread that calls the library next may destroy
/// them.
static SET: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

fn set() -> MutexGuard<'static, BTreeSet<usize>> {
    SET.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn destroy(data: *mut c_void) {
    trace!("  pointer {} is destroyed", data.addr());
    assert!(set().remove(&data.addr()), "destroyed twice, or never set");
}

/// Whether the pointer is not yet destroyed.
fn is_set(data: usize) -> bool {
    set().contains(&data)
}

/// At the end of a run.
pub fn assert_all_destroyed() {
    // The table is empty for the next run, whatever this run has left.
    let left = std::mem::take(&mut *set());
    assert!(left.is_empty(), "never destroyed: {left:?}");
}

impl World {
    /// ipc_set_data for a connection that is open.
    pub fn set_data(&mut self, number: usize) {
        self.check_data(number);
        self.pointers += 1;
        let (info, pointer) = (self.connections[number].info, self.pointers);
        trace!("  {} gets pointer {pointer}", self.connections[number].fd);
        set().insert(pointer);
        let data = ptr::without_provenance_mut(pointer);
        assert_eq!(call(|| unsafe { ipc_set_data(info, data, Some(destroy)) }), Ok(()));
        let before = self.connections[number].data.replace(pointer);
        assert!(before.is_none_or(|before| !is_set(before)), "the pointer before was not destroyed");
        self.check_data(number);
    }

    /// The pointer of an open connection is the one that was set for it, and is not destroyed.
    pub fn check_data(&self, number: usize) {
        let connection = &self.connections[number];
        let data = unsafe { ipc_data(connection.info) }.addr();
        assert_eq!(Some(data).filter(|data| *data != 0), connection.data, "a connection's pointer");
        assert!(connection.data.is_none_or(is_set), "destroyed while the connection is open");
    }

    /// At the DISCONNECTION: pointer and reason of the connection can be retrieved.
    pub fn check_ended(&self, number: usize, origin: *const ipc_connection_info) {
        let mut reason = ipc_reason::IPC_REASON_NONE;
        assert_eq!(call(|| unsafe { ipc_why(origin, &mut reason) }), Ok(()));
        assert!(reason != ipc_reason::IPC_REASON_NONE, "an end without a reason");
        let connection = &self.connections[number];
        if connection.was_ended && !connection.ended {
            // If the peer has closed, too, the library may have seen that first.
            let is_due = matches!(
                reason,
                ipc_reason::IPC_REASON_CLOSED
                    | ipc_reason::IPC_REASON_TOO_LONG
                    | ipc_reason::IPC_REASON_RESET
            );
            assert!(is_due, "{reason:?}");
        }
        if connection.was_ended || connection.state != State::Closed {
            let data = unsafe { ipc_data(origin) }.addr();
            assert_eq!(Some(data).filter(|data| *data != 0), connection.data, "the pointer at the end");
            assert!(connection.data.is_none_or(is_set), "destroyed before the end was reported");
        }
    }

    /// ipc_end for a connection in the list.
    pub fn end_member(&mut self, number: usize, linger: i32) {
        let (fd, info) = (self.connections[number].fd, self.connections[number].info);
        trace!("  {fd} is ended, with {linger} ms");
        self.connections[number].lossy |= self.connections[number].queued() > 0;
        let list = &raw mut *self.here.list;
        assert_eq!(call(|| unsafe { ipc_end(list, info, linger) }), Ok(()));
        let again = call(|| unsafe { ipc_end(list, info, linger) });
        assert_eq!(again, Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT)));
        let closed = call(|| unsafe { ipc_close(info) });
        assert_eq!(closed, Err((IPC_ERROR_USOCK_CLOSE, libc::EBADF)));
        self.closed.push(fd);
        let connection = &mut self.connections[number];
        (connection.state, connection.own_end, connection.was_ended) = (State::Closed, Due::Certainly, true);
    }

    pub fn check_status(&self) {
        let mut status = ipc_status { clients: 0, queued: 0, received: 0, sent: 0, accept_paused: 0 };
        assert_eq!(call(|| unsafe { ipc_status(&*self.here.list, &mut status) }), Ok(()));
        // The next call notices changes that were made by hand.
        let is_seen = !self.here.changed && !self.here.hidden;
        assert!(!is_seen || status.clients <= self.here.listed.len(), "{} clients", status.clients);
        assert_eq!(status.accept_paused, 0);
    }
}

/// A list of its own with a signal and a timer, both of which are reported.
pub fn play_notices(how: u8) {
    trace!("  a signal and a time");
    let mut list = Box::new(ipc_connection_infos { cinfos: ptr::null_mut(), size: 0 });
    let mut event: ipc_event = unsafe { std::mem::zeroed() };
    let mut id = -1;
    assert_eq!(call(|| unsafe { ipc_add_timer(&mut *list, 0, 0, &mut id) }), Ok(()));
    for _ in 0..1 + how % 2 {
        assert_eq!(call(|| unsafe { ipc_add_signal(&mut *list, SIGNAL) }), Ok(()));
    }
    assert_eq!(unsafe { libc::raise(SIGNAL) }, 0);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        assert_eq!(call(|| unsafe { ipc_wait_event(&mut *list, ptr::null_mut(), &mut event) }), Ok(()));
        let (kind, bytes) = content(unsafe { &*event.m.cast::<ipc_message>() });
        let notice = unsafe { bytes.as_ptr().cast::<ipc_notice>().read_unaligned() };
        let expected = if i32::from(kind) == IPC_MSG_SIGNAL { (SIGNAL, 0) } else { (0, id) };
        assert_eq!((bytes.len(), (notice.signo, notice.timer)), (size_of::<ipc_notice>(), expected));
        kinds.push(i32::from(kind));
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [IPC_MSG_SIGNAL, IPC_MSG_TIMER]);
    let signals = (0..2).map(|index| unsafe { *list.cinfos.add(index) });
    let signals = signals.into_iter().find(|info| unsafe { (**info).fd } != id).unwrap();
    let fd = unsafe { (*signals).fd };
    if how / 2 % 2 == 0 {
        assert_eq!(call(|| unsafe { ipc_del_timer(&mut *list, id) }), Ok(()));
        assert_eq!(call(|| unsafe { ipc_close(signals) }), Ok(()));
        assert_eq!(call(|| unsafe { ipc_del_fd(&mut *list, fd) }), Ok(()));
        unsafe { ipc_connections_free(&mut *list) };
    } else {
        let entries = (0..2).map(|index| unsafe { *list.cinfos.add(index) }).collect::<Vec<_>>();
        unsafe { ipc_connections_free(&mut *list) };
        entries.into_iter().for_each(super::world::free);
    }
    free_message(event.m.cast());
}
