//! Handlers for fork(2) and exit(3), which the library registers once in the process.
//!
//! Daemons fork after `ipc_server_init`, and servers fork workers:
//!
//! ```text
//! unlocked ──before_fork──► frozen ──fork──┬─ parent_after_fork ──► unlocked
//!                                          └─ child_after_fork ───► unlocked, in a new generation
//! ```
//!
//! *Frozen*: the forking thread holds all locks of the library, so that the child finds no half-made change
//! and no lock held by a thread that does not exist in the child. The child drops its copies of queued bytes,
//! which the parent sends, and makes epoll sets of its own when it waits: in a shared set each process would
//! change the registrations of the other. If a signal handler that interrupted the library forks, the locks
//! cannot be taken; such forks are counted in `NESTED` instead.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

use crate::calls::flush;
use crate::connection::{background, table, user_data};
use crate::event_loop::loops;
use crate::kernel::internal_fds;
use crate::process::entry_guard::EntryGuard;
use crate::process::fork_epoch;

/// The loader calls `register` before any function of the library can be called. So the handlers are also
/// registered if a signal handler interrupts the program's first call. Miri and the concurrency model, which
/// run unit tests, do without the handlers.
#[used]
#[cfg_attr(not(any(miri, all(test, libipc_model))), unsafe(link_section = ".init_array"))]
pub static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    // SAFETY: the handlers are functions of this library; libc removes the registrations when the library is
    // unloaded. If there is no memory for the registrations, the library works without what the handlers do.
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

/// The locked tables of the library. Dropping the value unlocks them.
struct Frozen {
    connections: table::Frozen,
    background: background::Frozen,
    _loops: loops::Frozen,
    user_data: user_data::Frozen,
    internal_fds: internal_fds::Frozen,
    /// The thread stays inside the library until all locks are released: dropped last.
    _guard: EntryGuard,
}

thread_local! {
    /// The locks of a fork in progress; set by `before_fork` and taken by `thaw`, in the forking thread.
    /// ManuallyDrop, since a thread-local with a destructor needs memory at its first use.
    static FROZEN: RefCell<Option<ManuallyDrop<Frozen>>> = const { RefCell::new(None) };

    /// The number of forks in progress by signal handlers that interrupted the library: counted up by
    /// `before_fork` and down by `thaw`.
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// Before the fork, in the forking thread. In a signal handler that interrupted the library, no table is
/// locked.
pub(super) extern "C" fn before_fork() {
    fork_epoch::note_fork();
    let Some(guard) = EntryGuard::enter() else {
        NESTED.set(NESTED.get() + 1);
        return;
    };
    // In the order in which calls take the locks.
    let loops = loops::freeze();
    let connections = table::freeze();
    let background = background::freeze(&guard);
    let user_data = user_data::freeze();
    let internal_fds = internal_fds::freeze();
    let frozen = Frozen { connections, background, _loops: loops, user_data, internal_fds, _guard: guard };
    FROZEN.set(Some(ManuallyDrop::new(frozen)));
}

/// Returns the locks that `before_fork` has taken; `None` if it has taken none.
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
    // Variables are dropped in reverse order: the guard last.
    if let Some(Frozen { _guard, _loops, mut connections, background, user_data, internal_fds }) = thaw() {
        // Unlocked first: dropping queued descriptors closes them, which takes these two locks. The child has
        // no other thread.
        drop((internal_fds, user_data));
        drop(background::leave_to_parent(background));
        table::note_shared(&mut connections);
        table::leave_output_to_parent(&mut connections);
    }
}
