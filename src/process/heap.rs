//! The heap of the library's own tables on i386: blocks of malloc(3) alone.
//!
//! A program may bring a malloc(3) of its own, and free(3) with it, but not posix_memalign(3). Rust's standard library calls
//! that for what is aligned to more than 8 bytes there, as its hash tables are. Here such a block lies within a larger one,
//! whose address stands before it.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

/// What malloc(3) aligns to, whosever it is.
const ALIGNED: usize = 8;

/// The heap.
pub struct Heap;

#[cfg(not(test))]
#[global_allocator]
static HEAP: Heap = Heap;

/// How much larger the outer block is.
fn around(layout: Layout) -> usize {
    layout.align() + size_of::<*mut u8>()
}

// SAFETY: the blocks are those of malloc(3), or lie within them.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGNED {
            // SAFETY: malloc takes any size.
            return unsafe { libc::malloc(layout.size()) }.cast();
        }
        let Some(size) = layout.size().checked_add(around(layout)) else { return ptr::null_mut() };
        // SAFETY: malloc takes any size.
        let outer: *mut u8 = unsafe { libc::malloc(size) }.cast();
        if outer.is_null() {
            return outer;
        }
        let least = outer.addr() + size_of::<*mut u8>();
        let offset = least.next_multiple_of(layout.align()) - outer.addr();
        // SAFETY: the offset is at most `around(layout)`, and leaves room for a pointer before the block, which may lie at any
        // address.
        unsafe {
            let block = outer.add(offset);
            block.cast::<*mut u8>().sub(1).write_unaligned(outer);
            block
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ALIGNED {
            // SAFETY: from malloc(3), as promised by the caller.
            return unsafe { libc::realloc(block.cast(), size) }.cast();
        }
        // SAFETY: the caller's promise: the size is one that a layout may have.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as promised by the caller.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let outer = if layout.align() <= ALIGNED {
            block
        } else {
            // SAFETY: `alloc` has written it there.
            unsafe { block.cast::<*mut u8>().sub(1).read_unaligned() }
        };
        // SAFETY: from malloc(3).
        unsafe { libc::free(outer.cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_keep_what_is_written() {
        for align in [1, 4, 8, 16, 64, 4096] {
            for size in [1, 16, 1000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: of the same layout, and written within it.
                unsafe {
                    let block = Heap.alloc(layout);
                    assert!(!block.is_null() && block.addr() % align == 0);
                    block.write_bytes(7, size);
                    let block = Heap.realloc(block, layout, 2 * size);
                    assert_eq!(std::slice::from_raw_parts(block, size), vec![7; size]);
                    Heap.dealloc(block, Layout::from_size_align(2 * size, align).unwrap());
                }
            }
        }
    }
}
