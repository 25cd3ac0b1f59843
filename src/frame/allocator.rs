//! The allocator of Rust's collections in the libraries for C programs on i386: malloc(3) and its kin alone, which are all that a
//! program with a heap of its own has to bring.
//!
//! Rust takes blocks from posix_memalign(3) if they need more than the alignment that it expects of malloc(3). On i386 that is 8,
//! and hash tables ask for 16; on the other machines no collection of the library asks for more than malloc(3) gives.
//! Such a block stands within a larger one of malloc(3), whose address is kept in the word before it.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

/// What malloc(3) is expected to align blocks to.
const OF_MALLOC: usize = 8;

pub struct Malloc;

#[cfg(all(libipc_for_c, target_arch = "x86"))]
#[global_allocator]
static MALLOC: Malloc = Malloc;

/// Room in front of a block, for its alignment and the word.
fn extra(layout: Layout) -> usize {
    if layout.align() > OF_MALLOC { layout.align().max(2 * size_of::<usize>()) } else { 0 }
}

// SAFETY: a block is aligned and large enough, and overlaps no other one, since it is one of malloc(3), or within one.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let extra = extra(layout);
        let Some(size) = layout.size().checked_add(extra) else { return ptr::null_mut() };
        // SAFETY: no pointer.
        let start = unsafe { libc::malloc(size) }.cast::<u8>();
        if extra == 0 || start.is_null() {
            return start;
        }
        let offset = extra - start.addr() % layout.align();
        // SAFETY: `start` is a multiple of OF_MALLOC, so the offset is between that, which has room for a word, and `extra`.
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
        // SAFETY: the caller promises a valid size for this alignment; the blocks are of the sizes that are copied.
        unsafe {
            let other = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !other.is_null() {
                ptr::copy_nonoverlapping(block, other, layout.size().min(size));
                self.dealloc(block, layout);
            }
            other
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
                // SAFETY: the sizes are those that were asked for.
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
    fn size_that_overflows_has_no_block() {
        let layout = Layout::from_size_align(isize::MAX.unsigned_abs() - 15, 16).unwrap();
        // SAFETY: the size is not 0.
        assert!(unsafe { Malloc.alloc(layout) }.is_null());
    }
}
