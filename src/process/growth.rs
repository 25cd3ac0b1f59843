//! Room in tables that grow with the number of connections: asked for before it is needed, with a little to spare.
//!
//! The standard library doubles. What an idle connection costs is counted, so large tables grow by a thirty-second. Small ones
//! double, too: malloc(3) keeps the small blocks that are given back for each size that there was.

#![forbid(unsafe_code)]

use std::collections::{TryReserveError, VecDeque};

use crate::frame::c_heap::OutOfMemory;

/// Elements that a table begins with.
const FIRST: usize = 8;

/// Elements from which on a table is large.
const LARGE: usize = 256;

/// By how many elements a table of this length grows when `more` are needed.
pub fn enough(len: usize, more: usize) -> usize {
    more.max(if len < LARGE { len } else { len / 32 }).max(FIRST)
}

/// Makes sure that the table finds memory for so many elements more.
pub fn reserve<T>(table: &mut Vec<T>, more: usize) -> Result<(), TryReserveError> {
    if table.capacity() - table.len() >= more {
        return Ok(());
    }
    table.try_reserve_exact(enough(table.len(), more))
}

/// The same for a queue, which is emptied again and again: it grows as its capacity says.
pub fn reserve_queue<T>(queue: &mut VecDeque<T>, more: usize) -> Result<(), TryReserveError> {
    if queue.capacity() - queue.len() >= more {
        return Ok(());
    }
    let capacity = queue.capacity();
    queue.try_reserve_exact(more.max(capacity + enough(capacity, 0) - queue.len()))
}

/// A value in a block of its own.
pub fn boxed<T>(value: T) -> Result<Box<[T; 1]>, OutOfMemory> {
    let mut one = Vec::new();
    one.try_reserve_exact(1)?;
    one.push(value);
    // A Vec without room to spare becomes a block as it is.
    one.into_boxed_slice().try_into().map_err(|_| OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_grows_by_a_part_and_has_the_room_asked_for() {
        let mut table: Vec<u64> = Vec::new();
        for n in 0..10_000 {
            reserve(&mut table, 1).unwrap();
            let capacity = table.capacity();
            table.push(n);
            assert_eq!(table.capacity(), capacity);
            assert!(capacity <= (table.len() + table.len() / 32).max(2 * LARGE) + FIRST);
        }
        assert!(reserve(&mut table, usize::MAX).is_err());
        assert_eq!(*boxed(5).unwrap(), [5]);
    }
}
