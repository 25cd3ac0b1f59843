//! A pointer that the program has set for a connection, and the function called with it once the connection
//! has ended.
//!
//! ```text
//! set ──► in the table of descriptors ──the library closes the connection──► kept until the end was reported
//!             │                                                                   │
//!             └──replaced, or the number is found to be another file's────────────┴──► due ──► destroyed
//! ```
//!
//! The code that drops a [`UserData`] may hold locks, and the program's function must not run under a lock.
//! So a drop only puts the pointer on the list of due ones, which needs no memory; the exported functions
//! call the destroy functions when they return or wait, outside the library.

#![forbid(unsafe_code)]

use std::ffi::c_void;

use crate::frame::c_heap::OutOfMemory;
use crate::process::entry_guard::EntryGuard;
use crate::process::growth::boxed;
use crate::process::sync::{AtomicBool, AtomicPtr, Mutex, MutexGuard, Ordering, lock};

/// The function that is called with the pointer.
pub type Destroy = extern "C" fn(*mut c_void);

/// A pointer set by the program, and its destroy function, if any.
pub struct UserData {
    /// Always there but while the value is dropped.
    node: Option<Node>,
}

type Node = Box<[Entry; 1]>;

struct Entry {
    /// Atomic only so that the entry may move between threads.
    pointer: AtomicPtr<c_void>,
    destroy: Option<Destroy>,
    next: Option<Node>,
}

/// The first of the pointers that are due. Locked briefly, after every other lock of the library but those of
/// `kernel::internal_fds`.
static DUE: Mutex<Option<Node>> = Mutex::new(None);

/// Whether any pointer is due.
static IS_DUE: AtomicBool = AtomicBool::new(false);

impl UserData {
    /// The pointer, and a function to be called with it.
    pub fn new(pointer: *mut c_void, destroy: Option<Destroy>) -> Result<Self, OutOfMemory> {
        let entry = Entry { pointer: AtomicPtr::new(pointer), destroy, next: None };
        boxed(entry).map(|node| Self { node: Some(node) })
    }

    /// The pointer.
    pub fn pointer(&self) -> *mut c_void {
        let pointer = |node: &Node| {
            let [entry] = &**node;
            entry.pointer.load(Ordering::Relaxed)
        };
        self.node.as_ref().map_or(std::ptr::null_mut(), pointer)
    }

    /// Drops the value without calling the function: the pointer is the program's again.
    pub fn give_back(mut self) {
        self.node = None;
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        let Some(mut node) = self.node.take() else { return };
        let [entry] = &mut *node;
        if entry.destroy.is_some() {
            let mut due = lock(&DUE);
            entry.next = due.take();
            *due = Some(node);
            IS_DUE.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether any pointer is due.
pub fn is_due() -> bool {
    IS_DUE.load(Ordering::Relaxed)
}

/// The next pointer that is due, and its function.
pub fn next_due(_guard: &EntryGuard) -> Option<(*mut c_void, Destroy)> {
    let mut due = lock(&DUE);
    let node = due.take().map(|node| *node);
    let [Entry { pointer, destroy, next }] = node?;
    IS_DUE.store(next.is_some(), Ordering::Relaxed);
    *due = next;
    drop(due);
    Some((pointer.into_inner(), destroy?))
}

/// The list of due pointers, locked for a fork.
pub struct Frozen {
    _due: MutexGuard<'static, Option<Node>>,
}

/// Locks the list for a fork.
pub fn freeze() -> Frozen {
    Frozen { _due: lock(&DUE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    static DESTROYED: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn destroy(pointer: *mut c_void) {
        DESTROYED.fetch_add(pointer.addr(), Ordering::Relaxed);
    }

    /// Other tests in this process may have pointers due, too.
    fn destroy_all() {
        while let Some((pointer, destroy)) = EntryGuard::enter().and_then(|guard| next_due(&guard)) {
            destroy(pointer);
        }
    }

    #[test]
    fn each_pointer_is_destroyed_once_after_it_was_dropped() {
        let number = |number| std::ptr::without_provenance_mut::<c_void>(number);
        let all = [1, 20, 300].map(|pointer| UserData::new(number(pointer), Some(destroy)).unwrap());
        let [one, two, three] = &all;
        assert_eq!([one, two, three].map(|data| data.pointer().addr()), [1, 20, 300]);
        destroy_all();
        assert_eq!(DESTROYED.load(Ordering::Relaxed), 0);
        drop(all);
        assert!(is_due());
        destroy_all();
        assert_eq!(DESTROYED.load(Ordering::Relaxed), 321);
        UserData::new(number(4), Some(destroy)).unwrap().give_back();
        drop(UserData::new(number(5), None).unwrap());
        destroy_all();
        assert_eq!((DESTROYED.load(Ordering::Relaxed), is_due()), (321, false));
    }
}
