//! What the tests use of the library: the functions and types of its headers. Only one other file names the
//! library: `event_loop_cost.rs`, which counts accesses inside the event loop.

pub use ipc::capi::clients::*;
pub use ipc::capi::entries::*;
pub use ipc::capi::events::*;
pub use ipc::capi::log::*;
pub use ipc::capi::messages::*;
pub use ipc::capi::notices::*;
pub use ipc::capi::passing::*;
pub use ipc::capi::printing::*;
pub use ipc::capi::queueing::*;
pub use ipc::capi::sending::*;
pub use ipc::capi::server_and_client::*;
pub use ipc::capi::services::*;
pub use ipc::capi::types::ipc_errors::{self, *};
pub use ipc::capi::types::*;
pub use ipc::capi::usock::*;
pub use ipc::capi::waiting::*;
