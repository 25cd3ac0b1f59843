//! The code of the fuzz targets, for the fuzzer and for the ordinary tests, which run the corpora again. An
//! input is a script: bytes that say what to do next. A target runs it against the library and against a
//! model of what the library promises, and panics if the two differ.
//!
//! `FUZZ_TRACE=1` in the environment prints each step.
#![allow(dead_code, reason = "each fuzz target uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the functions are called as their header says")]

pub mod formats;
pub mod frames;
pub mod peers;
pub mod routes;
pub mod script;
mod stream;

/// Prints a step of the script, if the environment asks for it.
macro_rules! trace {
    ($($what:tt)*) => {
        if $crate::targets::script::is_traced() {
            eprintln!($($what)*);
        }
    };
}
use trace;
