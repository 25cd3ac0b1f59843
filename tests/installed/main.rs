//! The library as it is installed: its files and symbols, and what programs in C, C++ and Python get from it. There is
//! one installation for all of them, made by `make install`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../staging/mod.rs"]
mod staging;

mod abi;
mod c_programs;
mod examples;
mod examples_ext;
mod examples_services;
mod examples_transfers;
mod files;
mod languages;
mod rerouting;
mod soak;
mod static_programs;
