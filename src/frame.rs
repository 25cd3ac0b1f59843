//! The frame, and the memory that a received one is handed over in.

#[cfg(any(test, all(libipc_for_c, target_arch = "x86")))]
pub mod allocator;
pub mod c_heap;
pub mod header;
