//! Handlers that the library registers once in the process: for fork(2) and for exit(3).
//!
//! Daemons fork after `ipc_server_init`, servers fork workers. While the process is copied all locks of the
//! library are held, so that the child finds every table whole and no lock taken by a thread that it does
//! not have. Then the child leaves to its parent what it has not sent yet, and makes epoll sets of its own
//! when it waits: a shared one would let each process change the other's.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

use crate::calls::flush;
use crate::connection::{background, table, user_data};
use crate::event_loop::loops;
use crate::kernel::internal_fds;
use crate::process::entry_guard::EntryGuard;
use crate::process::fork_epoch;

/// Run by the loader, before any function of the library: a handler that interrupts the program's first call
/// finds it done. Miri and the concurrency model, which run unit tests, have neither handler.
#[used]
#[cfg_attr(not(any(miri, all(test, libipc_model))), unsafe(link_section = ".init_array"))]
pub static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    // SAFETY: the handlers are functions that live as long as this library; libc forgets them when it is
    // unloaded. Without memory for them the library works, but for these two conveniences.
    unsafe {
        libc::pthread_atfork(Some(before_fork), Some(parent_after_fork), Some(child_after_fork));
        libc::atexit(at_exit);
    }
}

extern "C" fn at_exit() {
    if let Some(mut guard) = EntryGuard::enter() {
        flush::finish_at_exit(&mut guard);
        background::release(&guard);
        table::release(&guard);
        loops::release(&guard);
        internal_fds::release();
    }
}

/// Every table of the library, locked. Dropping it unlocks them.
struct Frozen {
    connections: table::Frozen,
    background: background::Frozen,
    _loops: loops::Frozen,
    user_data: user_data::Frozen,
    internal_fds: internal_fds::Frozen,
    /// Dropped last.
    _section: EntryGuard,
}

thread_local! {
    /// Never dropped with its thread: a thread-local that is needs memory at its first use.
    static FROZEN: RefCell<Option<ManuallyDrop<Frozen>>> = const { RefCell::new(None) };

    /// How many forks of signal handlers, which interrupted the library, are between their two halves.
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// Before the fork, in the thread that forks. A signal handler that interrupted the library leaves the
/// tables alone.
pub(super) extern "C" fn before_fork() {
    fork_epoch::note_fork();
    let Some(guard) = EntryGuard::enter() else {
        NESTED.set(NESTED.get() + 1);
        return;
    };
    // In the order in which the event loop takes them.
    let loops = loops::freeze();
    let connections = table::freeze();
    let background = background::freeze(&guard);
    let user_data = user_data::freeze();
    let internal_fds = internal_fds::freeze();
    let frozen = Frozen { connections, background, _loops: loops, user_data, internal_fds, _section: guard };
    FROZEN.set(Some(ManuallyDrop::new(frozen)));
}

fn thaw() -> Option<Frozen> {
    match NESTED.get() {
        0 => FROZEN.take().map(ManuallyDrop::into_inner),
        nested => {
            NESTED.set(nested - 1);
            None
        }
    }
}

/// After the fork, in the parent.
pub(super) extern "C" fn parent_after_fork() {
    if let Some(mut frozen) = thaw() {
        table::note_shared(&mut frozen.connections);
    }
}

/// After the fork, in the child.
extern "C" fn child_after_fork() {
    fork_epoch::next_generation();
    // The first of these is dropped last.
    if let Some(Frozen { _section, _loops, mut connections, background, user_data, internal_fds }) = thaw() {
        // Descriptors that were to be sent are closed, which asks what is noted of them. There is no other thread.
        drop((internal_fds, user_data));
        drop(background::leave_to_parent(background));
        table::note_shared(&mut connections);
        table::leave_output_to_parent(&mut connections);
    }
}
