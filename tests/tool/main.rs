//! The tool `ipc` as it is installed, from outside: what each command prints, with which status it ends, and what servers and
//! clients see of it. Peers are programs of examples-c, or sockets of the test itself, which speaks the protocol byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../staging/mod.rs"]
mod staging;
mod support;

mod bench;
mod chat;
mod explain;
mod help;
mod list;
mod listen;
mod monitor;
mod monitor_ends;
mod names;
mod page;
mod run;
mod send;
mod wait;
