//! The structures, enumerations and constants of `ipc.h`. Layout and values are frozen; the assertions below
//! and `tests/c/layout.c` check them. No state.
#![expect(non_camel_case_types, reason = "the names are those of the C interface")]

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;

use crate::frame::header;

pub use crate::error::ipc_errors;

/// Bytes of a frame's header: type (1 byte), length (4 bytes, in the machine's byte order).
pub const IPC_HEADER_SIZE: u32 = 5;

/// The length of the largest payload of a message, in bytes.
pub const IPC_MAX_MESSAGE_SIZE: u32 = 8_000_000 - 5;

/// The version of the protocol.
pub const IPC_VERSION: u32 = 1;

/// The return type of a function that `ipc.h` declares with int8_t. As an int it sets the whole register,
/// which bindings of other languages read.
pub type int8_t = c_int;

const _: () = assert!(IPC_HEADER_SIZE as usize == header::HEADER_SIZE);
const _: () = assert!(IPC_MAX_MESSAGE_SIZE as usize == header::MAX_PAYLOAD);
const _: () = assert!(msg_types::MSG_TYPE_DATA as u8 == header::TYPE_DATA);

/// Types of messages. The library gives them no meaning: a program may use any value of a char.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum msg_types {
    /// The server is about to end.
    MSG_TYPE_SERVER_CLOSE = 0,
    /// An error.
    MSG_TYPE_ERR,
    /// The program's data.
    MSG_TYPE_DATA,
}

/// The event that ipc_wait_event reports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ipc_event_type {
    /// No event: the call failed, or its timeout has expired.
    IPC_EVENT_TYPE_NOT_SET,
    /// A peer broke the protocol or its connection failed. Its DISCONNECTION follows.
    IPC_EVENT_TYPE_ERROR,
    /// Bytes were read from a descriptor of ipc_add_fd: m holds them, and has length 0 at end of file. Or a
    /// descriptor of ipc_watch_fd is readable: m is NULL.
    IPC_EVENT_TYPE_EXTRA_SOCKET,
    /// A client has connected: origin is its new ipc_connection_info, already in the list.
    IPC_EVENT_TYPE_CONNECTION,
    /// A connection has ended; it is closed and no longer in the list. origin is yours to free.
    IPC_EVENT_TYPE_DISCONNECTION,
    /// A message was received: m holds the message.
    IPC_EVENT_TYPE_MESSAGE,
}

/// One connection, or one service. The library identifies a connection by fd alone: the structure may be
/// copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_connection_info {
    /// Part of the service's path; yours to set before ipc_server_init or ipc_connection.
    pub version: u32,
    /// Part of the service's path; yours to set before ipc_server_init or ipc_connection.
    pub index: u32,
    /// The socket.
    pub fd: i32,
    /// 'a' for a descriptor added with ipc_add_fd; no other value has a meaning.
    pub r#type: c_char,
    /// For a service: the path of its socket, from malloc(3).
    pub spath: *mut c_char,
}

/// A list of connections. Initialise it with zeros.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_connection_infos {
    /// The array of pointers, from malloc(3). The structures stay the program's.
    pub cinfos: *mut *mut ipc_connection_info,
    /// The number of pointers in the array.
    pub size: i32,
}

/// A message.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_message {
    /// The message's type, see enum msg_types.
    pub r#type: c_char,
    /// The length of the payload in bytes, at most IPC_MAX_MESSAGE_SIZE.
    pub length: u32,
    /// The payload, from malloc(3); NULL if there is none. In a message that the library has made, the
    /// payload is followed by one NUL byte, which length does not count.
    pub payload: *mut c_char,
}

/// An event. Initialise it with zeros before the first ipc_wait_event.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_event {
    /// The event's type.
    pub r#type: MaybeUninit<ipc_event_type>,
    /// The connection, service or descriptor that the event is about.
    pub origin: *mut ipc_connection_info,
    /// A struct ipc_message *, or NULL. The next ipc_wait_event with this event frees message and payload.
    pub m: *mut c_void,
}

// The layout that a C compiler gives these structures: each member is aligned to its size, on 32-bit
// machines, too.
const _: () = {
    use std::mem::{offset_of, size_of};
    const POINTER: usize = size_of::<*mut c_void>();
    assert!(size_of::<ipc_connection_info>() == 16 + POINTER);
    assert!(offset_of!(ipc_connection_info, version) == 0);
    assert!(offset_of!(ipc_connection_info, index) == 4);
    assert!(offset_of!(ipc_connection_info, fd) == 8);
    assert!(offset_of!(ipc_connection_info, r#type) == 12);
    assert!(offset_of!(ipc_connection_info, spath) == 16);
    assert!(size_of::<ipc_connection_infos>() == 2 * POINTER);
    assert!(offset_of!(ipc_connection_infos, cinfos) == 0);
    assert!(offset_of!(ipc_connection_infos, size) == POINTER);
    assert!(size_of::<ipc_message>() == 8 + POINTER);
    assert!(offset_of!(ipc_message, r#type) == 0);
    assert!(offset_of!(ipc_message, length) == 4);
    assert!(offset_of!(ipc_message, payload) == 8);
    assert!(size_of::<ipc_event>() == 3 * POINTER);
    assert!(offset_of!(ipc_event, r#type) == 0);
    assert!(offset_of!(ipc_event, origin) == POINTER);
    assert!(offset_of!(ipc_event, m) == 2 * POINTER);
};
