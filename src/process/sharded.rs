//! A table kept by number, cut in parts that are locked each for itself, so that threads which work on
//! different connections seldom meet.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::process::entry_guard::EntryGuard;
use crate::process::sync::{Mutex, MutexGuard, lock};

/// Spreads small numbers and addresses; what comes from outside cannot choose them.
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

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_i32(&mut self, number: i32) {
        self.write_u64(u64::from(number as u32));
    }
}

/// A hash map keyed by numbers.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// A map with nothing in it.
pub const fn empty_map<K, V>() -> NumberMap<K, V> {
    HashMap::with_hasher(BuildHasherDefault::new())
}

/// Gives back the map's memory, if nothing is in it.
pub fn release_map<K, V>(map: &mut NumberMap<K, V>) {
    if map.is_empty() {
        *map = empty_map();
    }
}

/// One part of the table.
pub struct Part<T> {
    table: Mutex<T>,
}

impl<T> Part<T> {
    /// The part that begins so.
    pub const fn new(table: T) -> Self {
        Self { table: Mutex::new(table) }
    }
}

/// The table, in `N` parts.
pub struct Shards<T, const N: usize>(pub [Part<T>; N]);

/// One part, locked.
pub type Shard<'a, T> = MutexGuard<'a, T>;

impl<T, const N: usize> Shards<T, N> {
    #[expect(clippy::indexing_slicing, reason = "a remainder is below its divisor")]
    fn part(&self, number: usize) -> &Part<T> {
        &self.0[number % N]
    }

    /// Locks the part that `number` belongs to. The guard lives no longer than the guard is borrowed, so
    /// it cannot be held across a blocking call.
    pub fn lock<'a>(&'a self, _section: &'a EntryGuard, number: usize) -> Shard<'a, T> {
        lock(&self.part(number).table)
    }

    /// Locks every part, one after the other, and calls `visit` on each.
    pub fn for_each(&self, _section: &EntryGuard, mut visit: impl FnMut(&mut T)) {
        for part in &self.0 {
            visit(&mut lock(&part.table));
        }
    }

    /// Locks all parts at once: nothing is in the middle of a change until the guards are dropped.
    pub fn freeze(&self) -> [Shard<'_, T>; N] {
        self.0.each_ref().map(|part| lock(&part.table))
    }
}
