//! The documents say what is true: programs in them compile and do what is said, commands work as they are written, and
//! the manual says what the headers say. `make check-docs` runs these tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../staging/mod.rs"]
mod staging;

mod manual;
mod programs;
mod promises;
mod readme;
mod troubleshooting;
