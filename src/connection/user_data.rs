//! A pointer that the program has set for a connection, and the function that is called with it once the connection is over.
//!
//! ```text
//! set ──► in the table of descriptors ──the library closes the connection──► kept until its end was reported
//!             │                                                                   │
//!             └──replaced, or the number is found to be another file's────────────┴──► due ──► destroyed
//! ```
//!
//! Whoever drops a [`UserData`] may hold locks. So dropping one only puts it on a list, in its own memory; the exported functions
//! destroy what stands there when they return or wait, outside of the library.

#![forbid(unsafe_code)]

use std::ffi::c_void;

use crate::frame::c_heap::OutOfMemory;
use crate::process::entry_guard::EntryGuard;
use crate::process::growth::boxed;
use crate::process::sync::{AtomicBool, AtomicPtr, Mutex, MutexGuard, Ordering, lock};

/// What is called with the pointer.
pub type Destroy = extern "C" fn(*mut c_void);

/// A pointer that was set, with a function or none.
pub struct UserData {
    /// None while it is dropped.
    node: Option<Node>,
}

type Node = Box<[Entry; 1]>;

struct Entry {
    /// Atomic because it goes from thread to thread.
    pointer: AtomicPtr<c_void>,
    destroy: Option<Destroy>,
    next: Option<Node>,
}

/// What is to be destroyed. Locked for moments, after every other lock of the library.
static DUE: Mutex<Option<Node>> = Mutex::new(None);

/// Whether there is any.
static IS_DUE: AtomicBool = AtomicBool::new(false);

impl UserData {
    /// The pointer, with a function that is to be called with it.
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

    /// Drops it, and calls no function: the pointer is the program's again.
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

/// Whether anything is to be destroyed.
pub fn is_due() -> bool {
    IS_DUE.load(Ordering::Relaxed)
}

/// The next pointer that is to be destroyed, and by what.
pub fn next_due(_section: &EntryGuard) -> Option<(*mut c_void, Destroy)> {
    let mut due = lock(&DUE);
    let node = due.take().map(|node| *node);
    let [Entry { pointer, destroy, next }] = node?;
    IS_DUE.store(next.is_some(), Ordering::Relaxed);
    *due = next;
    drop(due);
    Some((pointer.into_inner(), destroy?))
}

/// The list, locked for a fork.
pub struct Frozen {
    _due: MutexGuard<'static, Option<Node>>,
}

/// Locks it.
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

    /// What a test of its own process would not need: others of this one may have something due.
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
