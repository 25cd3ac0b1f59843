//! The C interface: the functions of `ipc.h`, and nothing but the quirks of that interface: out-parameters,
//! ownership, codes, NULL. Each reads its arguments, calls the core, and turns the result into a code.
//!
//! What C passes is read through raw pointers, member by member: no Rust reference to what C may change.
//!
//! The comments of exported functions are written for the C programmer: they become those of the header. A
//! pointer that they name is NULL or points to what its type says.
#![allow(clippy::missing_safety_doc, reason = "said above, once for all exported functions")]

mod boundary;
pub mod clients;
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
