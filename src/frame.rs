//! The frame on the wire, and the blocks of malloc(3) in which the program gets a received frame. No system
//! calls.

#[cfg(any(test, all(libipc_for_c, target_arch = "x86")))]
pub mod allocator;
pub mod c_heap;
pub mod header;
