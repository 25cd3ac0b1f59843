//! The allocator of Rust's collections in the libraries for C programs on i386. It calls malloc(3),
//! realloc(3) and free(3) only, so a program that replaces the heap has to replace these functions and no
//! others.
//!
//! Rust's default allocator calls posix_memalign(3) for a block that needs a larger alignment than malloc(3)
//! is assumed to give. On i386 that is 8, and hash tables need 16; on other machines no collection of the
//! library needs more than malloc(3) gives.
//!
//! There are two kinds of blocks. A block that needs at most [`MALLOC_ALIGNMENT`] is a block of malloc(3). A
//! block that needs more is placed inside a larger block of malloc(3), whose address is kept in the word
//! before the inner block. The layout that Rust passes to each call decides which kind a block is; there is
//! no other state.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

/// The alignment in bytes that every block of malloc(3) is assumed to have.
const MALLOC_ALIGNMENT: usize = 8;

pub struct Malloc;

#[cfg(all(libipc_for_c, target_arch = "x86"))]
#[global_allocator]
static MALLOC: Malloc = Malloc;

/// Bytes to allocate in front of a block, for its alignment and for the word with the outer block's address;
/// 0 if the block can be a block of malloc(3).
fn extra(layout: Layout) -> usize {
    if layout.align() > MALLOC_ALIGNMENT { layout.align().max(2 * size_of::<usize>()) } else { 0 }
}

// SAFETY: a block is aligned and large enough. Each block is a block of malloc(3) or lies within a block of
// its own, so no two blocks overlap.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let extra = extra(layout);
        let Some(size) = layout.size().checked_add(extra) else { return ptr::null_mut() };
        // SAFETY: malloc takes any size.
        let start = unsafe { libc::malloc(size) }.cast::<u8>();
        if extra == 0 || start.is_null() {
            return start;
        }
        let offset = extra - start.addr() % layout.align();
        // SAFETY: `start` is a multiple of MALLOC_ALIGNMENT, so the offset is at least MALLOC_ALIGNMENT,
        // which has room for a word, and at most `extra`.
        unsafe {
            let block = start.add(offset);
            block.sub(size_of::<usize>()).cast::<*mut u8>().write_unaligned(start);
            block
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is from `alloc` with this layout.
        unsafe {
            let start = match extra(layout) {
                0 => block,
                _ => block.sub(size_of::<usize>()).cast::<*mut u8>().read_unaligned(),
            };
            libc::free(start.cast());
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if extra(layout) == 0 {
            // SAFETY: the block is one of malloc(3).
            return unsafe { libc::realloc(block.cast(), size) }.cast();
        }
        // SAFETY: the caller promises a valid size for this alignment; both blocks have the bytes that are
        // copied.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_keep_their_bytes() {
        for align in [1, 2, 4, 8, 16, 32, 64, 4096] {
            for size in [1, 7, 16, 100, 5000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: each access stays within the size that the block was allocated with.
                unsafe {
                    let block = Malloc.alloc(layout);
                    assert!(!block.is_null() && block.addr() % align == 0, "{layout:?}");
                    block.write_bytes(7, size);
                    let larger = Malloc.realloc(block, layout, size + 1000);
                    assert!(!larger.is_null() && larger.addr() % align == 0, "{layout:?}");
                    assert!(std::slice::from_raw_parts(larger, size).iter().all(|byte| *byte == 7));
                    Malloc.dealloc(larger, Layout::from_size_align(size + 1000, align).unwrap());
                }
            }
        }
    }

    #[test]
    fn allocation_fails_when_size_overflows() {
        let layout = Layout::from_size_align(isize::MAX.unsigned_abs() - 15, 16).unwrap();
        // SAFETY: the size is not 0.
        assert!(unsafe { Malloc.alloc(layout) }.is_null());
    }
}
