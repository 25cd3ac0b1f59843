//! What fork(2) leaves the child.
//!
//! Daemons fork after `ipc_server_init`, servers fork workers. While the process is copied all locks of the
//! library are held, so that the child finds every table whole and no lock taken by a thread that it does
//! not have. Then the child leaves to its parent what it has not sent yet, and makes epoll sets of its own
//! when it waits: a shared one would let each process change the other's.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::section::Section;
use crate::{connections, event_loop, own, socket};

static GENERATION: AtomicU32 = AtomicU32::new(0);
static SHARES: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between the program's start and this process.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// How often another process may have got the descriptors that were open then. What is closed here stays open
/// there, and epoll tells of it by a number that is another file's.
pub fn shares() -> u32 {
    SHARES.load(Ordering::Relaxed)
}

/// Another process may have the descriptors that are open now.
pub fn shares_descriptors() {
    SHARES.fetch_add(1, Ordering::Relaxed);
}

/// Every table of the library, locked. Dropping it unlocks them.
struct Frozen {
    connections: connections::Frozen,
    _loops: event_loop::Frozen,
    /// Dropped last.
    _section: Section,
}

thread_local! {
    /// Never dropped with its thread: a thread-local that is needs memory at its first use.
    static FROZEN: RefCell<Option<ManuallyDrop<Frozen>>> = const { RefCell::new(None) };

    /// How many forks of signal handlers, which interrupted the library, are between their two halves.
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// Before the fork, in the thread that forks. A signal handler that interrupted the library leaves the
/// tables alone.
pub fn prepare() {
    let Some(section) = Section::enter() else {
        NESTED.set(NESTED.get() + 1);
        return;
    };
    // In the order in which the event loop takes them.
    let loops = event_loop::freeze();
    let connections = connections::freeze();
    let frozen = Frozen { connections, _loops: loops, _section: section };
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
pub fn parent() {
    shares_descriptors();
    drop(thaw());
}

/// After the fork, in the child.
pub fn child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    shares_descriptors();
    own::retain_open(|fd| socket::check_open(fd).is_ok());
    if let Some(mut frozen) = thaw() {
        connections::leave_output_to_parent(&mut frozen.connections);
    }
}
