//! The C interface: the functions of `ipc.h` and `ipc_ext.h`. Each function reads its arguments, calls the
//! core, and converts the result to a code. The quirks of the interface are here and in no other module:
//! parameters that return values, NULL, ownership of memory, codes.
//!
//! Structures of C are read through raw pointers, member by member: there is no Rust reference to memory that
//! C may change.
//!
//! The comments of exported functions are written for C programmers: they become the comments of the headers.
//! Each pointer parameter is NULL or points to what its type says.
#![allow(clippy::missing_safety_doc, reason = "said above, once for all exported functions")]

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
