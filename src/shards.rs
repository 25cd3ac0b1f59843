//! A map from number to value, cut in parts that are locked each for itself, so that threads which work on
//! different connections seldom meet.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::section::Section;

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
        self.write_u64(u64::from(number.cast_unsigned()));
    }
}

/// A hash map keyed by numbers.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

const fn empty_map<K, V>() -> NumberMap<K, V> {
    HashMap::with_hasher(BuildHasherDefault::new())
}

struct Part<K, V> {
    map: Mutex<NumberMap<K, V>>,
    changed: Condvar,
    /// How many threads wait for a change; it changes only under the lock.
    waiting: AtomicUsize,
}

/// The map, in `N` parts.
pub struct Shards<K, V, const N: usize>([Part<K, V>; N]);

/// One part, locked.
pub type Shard<'a, K, V> = MutexGuard<'a, NumberMap<K, V>>;

impl<K, V, const N: usize> Shards<K, V, N> {
    /// An empty map.
    #[expect(clippy::new_without_default, reason = "made in statics, which want a const function")]
    pub const fn new() -> Self {
        Self(
            [const { Part { map: Mutex::new(empty_map()), changed: Condvar::new(), waiting: AtomicUsize::new(0) } };
                N],
        )
    }

    #[expect(clippy::indexing_slicing, reason = "a remainder is below its divisor")]
    fn part(&self, number: usize) -> &Part<K, V> {
        &self.0[number % N]
    }

    /// Locks the part that `number` belongs to. The guard lives no longer than the section is borrowed, so
    /// it cannot be held across a blocking call.
    pub fn lock<'a>(&'a self, _section: &'a Section, number: usize) -> Shard<'a, K, V> {
        lock(&self.part(number).map)
    }

    /// Lets the part of `number` go until another thread calls [`Shards::notify`] for it, or for so long. This thread stays
    /// inside its section: a signal handler that comes meanwhile finds it so.
    pub fn wait<'a>(
        &'a self,
        shard: Shard<'a, K, V>,
        number: usize,
        limit: Option<Duration>,
    ) -> Shard<'a, K, V> {
        let part = self.part(number);
        part.waiting.fetch_add(1, Ordering::Relaxed);
        let shard = match limit {
            Some(limit) => part.changed.wait_timeout(shard, limit).unwrap_or_else(PoisonError::into_inner).0,
            None => part.changed.wait(shard).unwrap_or_else(PoisonError::into_inner),
        };
        part.waiting.fetch_sub(1, Ordering::Relaxed);
        shard
    }

    /// Wakes the threads that wait for the part of `number`, which is locked.
    pub fn notify(&self, _shard: &Shard<'_, K, V>, number: usize) {
        let part = self.part(number);
        // To wake nobody would cost a system call.
        if part.waiting.load(Ordering::Relaxed) > 0 {
            part.changed.notify_all();
        }
    }

    /// Locks every part, one after the other, and calls `visit` on each.
    pub fn for_each(&self, _section: &Section, mut visit: impl FnMut(&mut NumberMap<K, V>)) {
        for part in &self.0 {
            visit(&mut lock(&part.map));
        }
    }

    /// Gives back the memory of the parts that hold nothing.
    pub fn release(&self, section: &Section) {
        self.for_each(section, |map| {
            if map.is_empty() {
                *map = empty_map();
            }
        });
    }

    /// Locks all parts at once: nothing is in the middle of a change until the guards are dropped.
    pub fn freeze(&self) -> [Shard<'_, K, V>; N] {
        self.0.each_ref().map(|part| lock(&part.map))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
