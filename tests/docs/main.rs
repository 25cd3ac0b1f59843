//! The documents are true: their programs compile and do what the text says, their commands work as they are
//! written, and the manual agrees with the headers. `make check-docs` runs these tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../staging/mod.rs"]
mod staging;

mod manual;
mod programs;
mod promises;
mod readme;
mod troubleshooting;
