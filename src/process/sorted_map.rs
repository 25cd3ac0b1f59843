//! A map for few entries: a sorted array, which is searched in less time than a hash is computed.
//!
//! Each value is in a block of its own, so adding or removing an entry moves only pointers.

#![forbid(unsafe_code)]

use crate::frame::c_heap::OutOfMemory;
use crate::process::growth::{boxed, reserve};

/// The map.
pub struct SortedMap<V> {
    /// In the order of the keys.
    entries: Vec<(usize, Box<[V; 1]>)>,
}

impl<V> SortedMap<V> {
    /// An empty map, which has allocated nothing.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// The place of the key, or the place at which it would be added.
    fn place(&self, key: usize) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&key, |(other, _)| *other)
    }

    /// The value of the key.
    pub fn get(&self, key: usize) -> Option<&V> {
        let (_, value) = self.entries.get(self.place(key).ok()?)?;
        value.first()
    }

    /// The value of the key.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut V> {
        let place = self.place(key).ok()?;
        let (_, value) = self.entries.get_mut(place)?;
        value.first_mut()
    }

    /// Adds the value that `make` returns, unless the key has a value.
    pub fn add(&mut self, key: usize, make: impl FnOnce() -> V) -> Result<(), OutOfMemory> {
        if let Err(place) = self.place(key) {
            reserve(&mut self.entries, 1)?;
            self.entries.insert(place, (key, boxed(make())?));
        }
        Ok(())
    }

    /// Removes the key, and returns its value.
    pub fn remove(&mut self, key: usize) -> Option<Box<[V; 1]>> {
        let place = self.place(key).ok()?;
        let (_, value) = self.entries.remove(place);
        Some(value)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().flat_map(|(_, value)| &**value)
    }

    /// All values.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().flat_map(|(_, value)| &mut **value)
    }

    /// Frees the map's memory if the map is empty.
    pub fn release(&mut self) {
        if self.entries.is_empty() {
            self.entries = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_whatever_order_they_were_added() {
        let mut map = SortedMap::new();
        for key in [5, 1, 9, 3, 7] {
            map.add(key, || key * 10).unwrap();
            map.add(key, || 0).unwrap();
        }
        assert_eq!(map.values().copied().collect::<Vec<_>>(), [10, 30, 50, 70, 90]);
        assert_eq!(map.remove(3).map(|value| *value), Some([30]));
        for key in 0..10 {
            let value = [1, 5, 7, 9].contains(&key).then_some(key * 10);
            assert_eq!((map.get(key).copied(), map.get_mut(key).copied()), (value, value));
        }
        map.values_mut().for_each(|value| *value += 1);
        map.release();
        assert_eq!(map.get(9), Some(&91));
        for key in [9, 7, 5, 1] {
            assert!(map.remove(key).is_some() && map.remove(key).is_none());
        }
        map.release();
        assert_eq!(map.values().count(), 0);
    }
}
