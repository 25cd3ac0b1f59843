//! libipc: framed messages between programs on one machine.
//!
//! A server opens a named service, clients connect, both exchange framed messages over a Unix stream
//! socket, and one call tells what happened next. Programs use it through the C interface of
//! `include/ipc.h`; this crate is what stands behind it.
//!
//! The way of a message in: kernel → [`socket`] (one receive for many frames) → [`inbound`] (cut into
//! frames) → [`event_loop`] (whose turn it is) → [`capi`] (the `ipc_event`). The way out: `ipc_write` →
//! [`output`] (one `sendmsg` of header and payload) → what the kernel does not take stays in
//! [`outbound`] and leaves from later calls.
//!
//! | module | what it holds |
//! |---|---|
//! | [`wire`] | the frame: header, lengths, limits |
//! | [`error`] | each way a call can fail: its C code, its sentence, its errno |
//! | [`service`] | name, index, version, run directory → path |
//! | [`endpoint`] | who owns a path: listen, connect, close a service |
//! | [`socket`] | the door to the kernel for descriptors |
//! | [`limit`] | until when a call may wait |
//! | [`own`] | which descriptors are the library's own |
//! | [`section`] | whether this thread is inside the library (signal handlers ask) |
//! | [`shards`] | a locked map from number to value, cut in parts |
//! | [`connection`] | one connection's memory: what has come in, what is yet to go out |
//! | [`inbound`] | the half-received frame and the bytes read ahead; cutting them into frames |
//! | [`outbound`] | the bytes not yet sent |
//! | [`descriptors`] | the descriptors that came with messages |
//! | [`connections`] | descriptor → connection, for the process |
//! | [`input`], [`output`] | reading one frame; writing one frame |
//! | [`batch`] | many frames in one system call |
//! | [`drain`] | sending what waits, on whatever connection |
//! | [`event_loop`] | who speaks next: the epoll set of one list, the ready queue, turns |
//! | [`fork`] | what fork(2) leaves the child |
//! | [`memory`] | the C heap: blocks from malloc(3) that C frees |
//! | [`capi`] | the door to C |

pub mod batch;
pub mod capi;
pub mod connection;
pub mod connections;
pub mod descriptors;
pub mod drain;
pub mod endpoint;
pub mod error;
pub mod event_loop;
pub mod fork;
pub mod inbound;
pub mod input;
pub mod limit;
pub mod memory;
pub mod outbound;
pub mod output;
pub mod own;
pub mod section;
pub mod service;
pub mod shards;
pub mod socket;
pub mod wire;
