//! Which member holds a number: a hash table of slots.
//!
//! The numbers themselves are in the members, so that the table needs four bytes for each; at most seven
//! eighths of its places are taken, and it grows by a small part: what an idle connection costs is counted.
//! Every call gets the function that reads the number of a slot; while a slot is in the table, its number
//! does not change.
//!
//! Collisions are resolved by linear probing. When a number is removed, the entries after it move up, unless
//! that would put an entry before the place that its hash names, so that there are no tombstones.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::frame::c_heap::OutOfMemory;
use crate::process::growth::increment;

/// A place that is free.
const FREE: u32 = u32::MAX;

/// Slots by the numbers of their members.
pub struct Holders {
    places: Vec<u32>,
    count: usize,
}

impl Holders {
    /// No number is held.
    pub fn new() -> Self {
        Self { places: Vec::new(), count: 0 }
    }

    /// Allocates the memory for `count` numbers in all. There are never more: a free place ends each search.
    pub fn reserve(&mut self, count: usize, number: impl Fn(u32) -> RawFd) -> Result<(), OutOfMemory> {
        if count * 8 <= self.places.len() * 7 {
            return Ok(());
        }
        let size = ((count * 8).div_ceil(7)).max(self.places.len() + increment(self.places.len(), 0));
        let mut places = Vec::new();
        places.try_reserve_exact(size)?;
        places.resize(size, FREE);
        let former = std::mem::replace(&mut self.places, places);
        former.into_iter().filter(|slot| *slot != FREE).for_each(|slot| self.put(number(slot), slot));
        Ok(())
    }

    /// The slot that holds the number.
    pub fn find(&self, fd: RawFd, number: impl Fn(u32) -> RawFd) -> Option<u32> {
        self.position(fd, number).and_then(|place| self.places.get(place)).copied()
    }

    /// Has the slot hold its number, which no other one holds. There is room for it.
    pub fn insert(&mut self, fd: RawFd, slot: u32) {
        self.count += 1;
        self.put(fd, slot);
    }

    /// Frees the number.
    pub fn remove(&mut self, fd: RawFd, number: impl Fn(u32) -> RawFd) {
        let Some(mut free) = self.position(fd, &number) else { return };
        self.count -= 1;
        let mut next = self.after(free);
        while let Some(slot) = self.places.get(next).copied().filter(|slot| *slot != FREE) {
            let distance = |from: usize, to: usize| (to + self.places.len() - from) % self.places.len();
            if distance(self.home(number(slot)), next) >= distance(free, next) {
                self.set(free, slot);
                free = next;
            }
            next = self.after(next);
        }
        self.set(free, FREE);
    }

    fn position(&self, fd: RawFd, number: impl Fn(u32) -> RawFd) -> Option<usize> {
        let mut place = self.home(fd);
        loop {
            let slot = *self.places.get(place).filter(|slot| **slot != FREE)?;
            if number(slot) == fd {
                return Some(place);
            }
            place = self.after(place);
        }
    }

    fn put(&mut self, fd: RawFd, slot: u32) {
        let mut place = self.home(fd);
        while self.places.get(place).is_some_and(|slot| *slot != FREE) {
            place = self.after(place);
        }
        self.set(place, slot);
    }

    fn set(&mut self, place: usize, slot: u32) {
        if let Some(place) = self.places.get_mut(place) {
            *place = slot;
        }
    }

    fn home(&self, fd: RawFd) -> usize {
        let hash = (fd as u32).wrapping_mul(0x9E37_79B9);
        ((u64::from(hash) * self.places.len() as u64) >> 32) as usize
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 < self.places.len() { place + 1 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn table_is_as_a_map_whatever_is_inserted_and_removed() {
        let mut random: u64 = 0x5EED;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for range in [4, 20, 1000] {
            let (mut holders, mut map) = (Holders::new(), HashMap::new());
            // The number of a slot is the slot but for a sign, and an offset.
            let number = |slot: u32| (slot as RawFd).wrapping_mul(3) - 50;
            for _ in 0..5000 {
                let slot = next(range) as u32;
                let fd = number(slot);
                if map.remove(&fd).is_some() {
                    holders.remove(fd, number);
                } else {
                    holders.reserve(map.len() + 1, number).unwrap();
                    holders.insert(fd, slot);
                    map.insert(fd, slot);
                }
                let slot = next(range) as u32;
                assert_eq!(holders.find(number(slot), number), map.get(&number(slot)).copied());
            }
            for slot in 0..range as u32 {
                assert_eq!(holders.find(number(slot), number), map.get(&number(slot)).copied());
            }
            assert_eq!(holders.count, map.len());
        }
    }

    #[test]
    fn empty_table_holds_nothing_and_has_no_memory() {
        let mut holders = Holders::new();
        holders.remove(3, |_| 3);
        assert_eq!(holders.find(3, |_| 3), None);
        assert_eq!(holders.places.capacity(), 0);
    }
}
