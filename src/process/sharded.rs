//! A table indexed by number (a descriptor, an address) and divided into parts. Each part has a lock of its
//! own, so threads that work on different connections rarely wait for each other.
//!
//! A part is unlocked, or locked by one thread. A thread holds at most one part of a table at a time
//! ([`ShardedTable::lock_part`]); only a fork locks all parts at once ([`ShardedTable::freeze`]), in the
//! order of their indexes. The content of a part is accessed under the part's lock only.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::process::entry_guard::EntryGuard;
use crate::process::sync::{Mutex, MutexGuard, lock};

/// A hash function for descriptors and other small numbers. It does not resist chosen keys: peers cannot choose these
/// numbers.
#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }

    fn write_i32(&mut self, number: i32) {
        self.write_u64(u64::from(number as u32));
    }
}

/// A hash map keyed by numbers.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// An empty map, which has allocated nothing.
pub const fn empty_map<K, V>() -> NumberMap<K, V> {
    HashMap::with_hasher(BuildHasherDefault::new())
}

/// Frees the map's memory if the map is empty.
pub fn release_map<K, V>(map: &mut NumberMap<K, V>) {
    if map.is_empty() {
        *map = empty_map();
    }
}

/// One part of the table, in cache lines of its own: threads that use different parts do not wait for each
/// other's.
#[repr(align(64))]
pub struct Part<T> {
    table: Mutex<T>,
}

impl<T> Part<T> {
    /// A part with this initial content.
    pub const fn new(table: T) -> Self {
        Self { table: Mutex::new(table) }
    }
}

/// The table, in `N` parts.
pub struct ShardedTable<T, const N: usize>(pub [Part<T>; N]);

/// One part, locked.
pub type LockedPart<'a, T> = MutexGuard<'a, T>;

impl<T, const N: usize> ShardedTable<T, N> {
    #[expect(clippy::indexing_slicing, reason = "a remainder is below its divisor")]
    fn part(&self, number: usize) -> &Part<T> {
        &self.0[number % N]
    }

    /// Locks the part that `number` belongs to. The lock borrows the `EntryGuard`, so it cannot be held
    /// during a blocking call, which needs the `EntryGuard` mutably.
    pub fn lock_part<'a>(&'a self, _guard: &'a EntryGuard, number: usize) -> LockedPart<'a, T> {
        lock(&self.part(number).table)
    }

    /// Locks every part, one after the other, and calls `visit` on each.
    pub fn for_each(&self, _guard: &EntryGuard, mut visit: impl FnMut(&mut T)) {
        for part in &self.0 {
            visit(&mut lock(&part.table));
        }
    }

    /// Locks all parts at once, for a fork: no thread changes a part until the returned locks are dropped.
    pub fn freeze(&self) -> [LockedPart<'_, T>; N] {
        self.0.each_ref().map(|part| lock(&part.table))
    }
}
