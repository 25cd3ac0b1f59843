//! How tables grow whose size depends on the number of connections. A caller reserves room before it adds an
//! element, so that lack of memory is found while nothing is changed yet.
//!
//! The collections of the standard library double. Here a large table grows by 1/32, because the memory of
//! each idle connection matters. A small table doubles, too: malloc(3) keeps freed small blocks in a list for
//! each size, and many sizes would leave many unused blocks. No state here.

#![forbid(unsafe_code)]

use std::collections::{TryReserveError, VecDeque};

use crate::frame::c_heap::OutOfMemory;

/// How many elements a table has room for at first, and the smallest increment.
const FIRST: usize = 8;

/// A table with this many elements or more is large.
const LARGE: usize = 256;

/// By how many elements a table of this length grows when `more` are needed.
pub fn increment(len: usize, more: usize) -> usize {
    more.max(if len < LARGE { len } else { len / 32 }).max(FIRST)
}

/// Makes room for `more` further elements.
pub fn reserve<T>(table: &mut Vec<T>, more: usize) -> Result<(), TryReserveError> {
    if table.capacity() - table.len() >= more {
        return Ok(());
    }
    table.try_reserve_exact(increment(table.len(), more))
}

/// Makes room for `more` further elements of a queue. The increment depends on the queue's capacity, not on
/// its length, because a queue is emptied again and again.
pub fn reserve_queue<T>(queue: &mut VecDeque<T>, more: usize) -> Result<(), TryReserveError> {
    if queue.capacity() - queue.len() >= more {
        return Ok(());
    }
    let capacity = queue.capacity();
    queue.try_reserve_exact(more.max(capacity + increment(capacity, 0) - queue.len()))
}

/// The value in a heap block of its own; unlike `Box::new`, this fails if there is no memory.
pub fn boxed<T>(value: T) -> Result<Box<[T; 1]>, OutOfMemory> {
    let mut one = Vec::new();
    one.try_reserve_exact(1)?;
    one.push(value);
    // The capacity equals the length, so the conversion allocates nothing.
    one.into_boxed_slice().try_into().map_err(|_| OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_grows_by_a_part_and_has_the_reserved_room() {
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
