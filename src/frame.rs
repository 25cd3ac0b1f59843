//! The frame, and the memory that a received one is handed over in.

pub mod c_heap;
pub mod header;
