//! The C interface: the functions of `ipc.h` and `ipc_ext.h`. It handles what is particular to that interface
//! (out-parameters, ownership, codes, NULL) and nothing else: each function reads its arguments, calls the
//! core, and turns the result into a code.
//!
//! The program's structures are read through raw pointers, one field at a time: there is no Rust reference to
//! memory that the program may change.
//!
//! The comments of exported functions are written for the C programmer: cbindgen copies them into the
//! headers. Each pointer argument is NULL, or points to a valid object of its type.
#![allow(clippy::missing_safety_doc, reason = "the paragraph above holds for all exported functions")]

mod boundary;
pub mod clients;
pub mod entries;
pub mod events;
mod list;
pub mod log;
pub mod messages;
#[cfg(all(test, libipc_model))]
mod model;
pub mod notices;
pub mod passing;
pub mod printing;
mod process;
pub mod queueing;
pub mod sending;
pub mod server_and_client;
pub mod services;
pub mod types;
pub mod usock;
pub mod waiting;
