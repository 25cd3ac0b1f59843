//! libipc: framed messages between programs on one machine.
//!
//! A server opens a named service, clients connect, both exchange framed messages over a Unix stream
//! socket, and one call reports what happened next. Programs use it through the C interface of
//! `include/ipc.h`; this crate implements it.
//!
//! The path of a received message: the kernel → `kernel::socket` (one receive for many frames) →
//! `connection::frame_decoder` (splits the bytes into frames) → `event_loop` (takes turns among the
//! connections) → [`capi`] (the `ipc_event`). The path of a sent message: `ipc_write` → `calls::write` (one
//! `sendmsg` of header and payload) → the bytes that the kernel does not accept stay in
//! `connection::send_queue`, and later calls send them.
//!
//! A module imports only from modules that stand before it in this table, and no two files import each other.
//!
//! | module | what it contains |
//! |---|---|
//! | `error` | the errors of a failed call: code, message for the code, errno |
//! | `frame` | the frame's header; blocks of the C heap that the program frees |
//! | `process` | whether this thread is inside the library; tables with locks; forks |
//! | `kernel` | system calls: sockets, descriptor passing, epoll, the clock; the library's own descriptors |
//! | `connection` | the memory of a connection: half-received frames, bytes to send; sending these bytes |
//! | `service` | name, index, version, run directory → path; listen, connect, close a service |
//! | `event_loop` | which connection of a list takes its turn, and which event is reported |
//! | `calls` | what a call does, in steps, and what it waits for: read, write, queue, flush, close |
//! | [`capi`] | the C interface |

mod calls;
pub mod capi;
mod connection;
mod error;
mod event_loop;
mod frame;
mod kernel;
mod process;
mod service;

/// For the project's own fuzz targets, benchmarks and tool: not an interface; it changes with each version.
#[doc(hidden)]
pub mod internals {
    pub use crate::calls::flow::Flow;
    pub use crate::calls::wait_event::WaitEvent;
    pub use crate::connection::frame_decoder::{
        DecodeError, Frame, FrameDecoder, MaxPayload, READ_AHEAD, ReadError, ReadOutcome, first_room,
    };
    pub use crate::event_loop::loops::{note_closing, note_freed};
    pub use crate::event_loop::{Entry, Kind, List, What};
    pub use crate::frame::c_heap::{self, Block, OutOfMemory};
    pub use crate::frame::header::{HEADER_SIZE, Header, MAX_PAYLOAD, TooLong, parse_exact};
    pub use crate::kernel::deadline::Deadline;
    pub use crate::kernel::socket_diag::{
        SocketReport, UDIAG_SHOW_VFS, UNIX_DIAG_VFS, two_numbers, visit_sockets,
    };
    pub use crate::kernel::wait::Wait;
    pub use crate::process::entry_guard::EntryGuard;
    pub use crate::service::endpoint::is_alive;
    pub use crate::service::path::{DEFAULT_RUNDIR, PATH_MAX, path};
    pub use crate::service::route::{Route, route, variable};
    pub use nix::errno::Errno;
}
