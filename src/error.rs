//! The errors of a failed call: the C code, the message for the code, and errno.
//!
//! The contract: a function that fails returns one code of the frozen [`ipc_errors`] and sets errno. On
//! success the function leaves errno as it was. If a system call failed, errno is the value that this system
//! call set.
//!
//! An [`Error`] is made where the failure is found; `capi::boundary` sets errno and returns the code. This
//! file has no state.

#![forbid(unsafe_code)]

use std::collections::TryReserveError;
use std::ffi::CStr;

use nix::errno::Errno;

/// A failed call, as the program sees it: the code that the function returns, and errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The code that the function returns.
    pub code: ipc_errors,
    /// The value that errno is set to.
    pub errno: Errno,
}

impl Error {
    /// A failure with this code and this errno.
    pub const fn new(code: ipc_errors, errno: Errno) -> Self {
        Self { code, errno }
    }

    /// A wrong argument: errno is EINVAL.
    pub const fn argument(code: ipc_errors) -> Self {
        Self::new(code, Errno::EINVAL)
    }
}

impl From<TryReserveError> for Error {
    fn from(_: TryReserveError) -> Self {
        Self::new(ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY, Errno::ENOMEM)
    }
}

/// What a function returns: IPC_ERROR_NONE, or the code of the error. The values are frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names are those of the C interface")]
pub enum ipc_errors {
    /// No error.
    IPC_ERROR_NONE = 0,
    /// Not enough memory.
    IPC_ERROR_NOT_ENOUGH_MEMORY = 1,
    /// The peer has closed the connection.
    IPC_ERROR_CLOSED_RECIPIENT = 2,
    /// Server init: no environment.
    IPC_ERROR_SERVER_INIT__NO_ENVIRONMENT_PARAM = 3,
    /// Server init: no service structure.
    IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM = 4,
    /// Server init: no server name.
    IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM = 5,
    /// Server init: not enough memory.
    IPC_ERROR_SERVER_INIT__MALLOC = 6,
    /// Connection: no structure for the server.
    IPC_ERROR_CONNECTION__NO_SERVER = 7,
    /// Connection: no service name.
    IPC_ERROR_CONNECTION__NO_SERVICE_NAME = 8,
    /// Connection: no environment.
    IPC_ERROR_CONNECTION__NO_ENVIRONMENT_PARAM = 9,
    /// Connection: no connection structure, or no place for the result.
    IPC_ERROR_CONNECTION_GEN__NO_CINFO = 10,
    /// Accept: no service structure.
    IPC_ERROR_ACCEPT__NO_SERVICE_PARAM = 11,
    /// Accept: no client structure.
    IPC_ERROR_ACCEPT__NO_CLIENT_PARAM = 12,
    /// Accept: no client was accepted.
    IPC_ERROR_ACCEPT = 13,
    /// New connection: no service structure.
    IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFO_PARAM = 14,
    /// New connection: no list of connections.
    IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFOS_PARAM = 15,
    /// Wait for an event: waiting failed or was interrupted, or a descriptor cannot be watched.
    IPC_ERROR_WAIT_EVENT__SELECT = 16,
    /// Wait for an event: no list of connections, or nothing to wait for.
    IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM = 17,
    /// Wait for an event: no place for the result.
    IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM = 18,
    /// New connection: not enough memory.
    IPC_ERROR_HANDLE_NEW_CONNECTION__MALLOC = 19,
    /// Add: the list is invalid, or the connection is already in the list.
    IPC_ERROR_ADD__EMPTY_LIST = 20,
    /// Add: no list of connections.
    IPC_ERROR_ADD__NO_PARAM_CLIENTS = 21,
    /// Add: no connection.
    IPC_ERROR_ADD__NO_PARAM_CLIENT = 22,
    /// Add a descriptor, signal or timer: no list of connections.
    IPC_ERROR_ADD_FD__NO_PARAM_CINFOS = 23,
    /// Delete: the list is empty.
    IPC_ERROR_DEL__EMPTY_LIST = 24,
    /// Delete: the list has a size but no array.
    IPC_ERROR_DEL__EMPTIED_LIST = 25,
    /// Delete or end: the list has no such entry.
    IPC_ERROR_DEL__CANNOT_FIND_CLIENT = 26,
    /// Delete or end: no list of connections.
    IPC_ERROR_DEL__NO_CLIENTS_PARAM = 27,
    /// Delete or end: no connection.
    IPC_ERROR_DEL__NO_CLIENT_PARAM = 28,
    /// Send: the bytes cannot be sent, or the connection is invalid.
    IPC_ERROR_USOCK_SEND = 29,
    /// Connect: no connection to the service.
    IPC_ERROR_USOCK_CONNECT__SOCKET = 30,
    /// Connect: the place for the descriptor is NULL.
    IPC_ERROR_USOCK_CONNECT__WRONG_FILE_DESCRIPTOR = 31,
    /// Connect: empty path, or one that is too long.
    IPC_ERROR_USOCK_CONNECT__EMPTY_PATH = 32,
    /// Close: the descriptor cannot be closed.
    IPC_ERROR_USOCK_CLOSE = 33,
    /// Remove: the socket's file cannot be removed.
    IPC_ERROR_USOCK_REMOVE__UNLINK = 34,
    /// Remove: the file does not exist, or belongs to another server.
    IPC_ERROR_USOCK_REMOVE__NO_FILE = 35,
    /// Listen: the place for the descriptor is NULL.
    IPC_ERROR_USOCK_INIT__EMPTY_FILE_DESCRIPTOR = 36,
    /// Listen: the socket cannot be created, or the given one cannot be used.
    IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR = 37,
    /// Listen: empty path, or one that is too long.
    IPC_ERROR_USOCK_INIT__EMPTY_PATH = 38,
    /// Listen: the path cannot be bound, or an option is invalid.
    IPC_ERROR_USOCK_INIT__BIND = 39,
    /// Listen: the socket cannot listen.
    IPC_ERROR_USOCK_INIT__LISTEN = 40,
    /// Accept: the place for the descriptor is NULL.
    IPC_ERROR_USOCK_ACCEPT__PATH_FILE_DESCRIPTOR = 41,
    /// Accept: no client was accepted from the socket.
    IPC_ERROR_USOCK_ACCEPT = 42,
    /// Receive: no buffer.
    IPC_ERROR_USOCK_RECV__NO_BUFFER = 43,
    /// Receive: no length.
    IPC_ERROR_USOCK_RECV__NO_LENGTH = 44,
    /// Receive: nothing valid was received, or the connection is invalid.
    IPC_ERROR_USOCK_RECV = 45,
    /// New message: the place for the message is NULL.
    IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM = 46,
    /// Read a message: no message structure.
    IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM = 47,
    /// Write a message: no message structure.
    IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM = 48,
    /// Write a message: the peer or the queue does not accept all of the message now.
    IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA = 49,
    /// Format a message: no message structure.
    IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM = 50,
    /// Format a message: the payload, its length or the number of pieces is invalid.
    IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS = 51,
    /// Format a message: the length is below 0 or over the maximum.
    IPC_ERROR_MESSAGE_FORMAT__LENGTH = 52,
    /// Message to buffer: no message structure.
    IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE = 53,
    /// Message to buffer: the place for the size is NULL.
    IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE = 54,
    /// Message to buffer: the place for the buffer is NULL.
    IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER = 55,
    /// Buffer to message: no message structure.
    IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE = 56,
    /// Buffer to message: no buffer.
    IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER = 57,
    /// Buffer to message: the size is not that of one frame.
    IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE = 58,
    /// Empty a message: no message structure.
    IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST = 59,
}

/// The messages that `ipc_errors_get` returns, in the order of the codes. A message fits all functions of
/// `ipc.h` and `ipc_ext.h` that return its code.
const MESSAGES: [&CStr; 60] = [
    c"no error",
    c"not enough memory",
    c"the peer has closed the connection",
    c"server init: no environment",
    c"server init: no service structure",
    c"server init: no server name",
    c"server init: not enough memory",
    c"connection: no structure for the server",
    c"connection: no service name",
    c"connection: no environment",
    c"connection: no connection structure, or no place for the result",
    c"accept: no service structure",
    c"accept: no client structure",
    c"accept: no client was accepted",
    c"new connection: no service structure",
    c"new connection: no list of connections",
    c"wait for an event: waiting failed or was interrupted, or a descriptor cannot be watched",
    c"wait for an event: no list of connections, or nothing to wait for",
    c"wait for an event: no place for the result",
    c"new connection: not enough memory",
    c"add: the list is invalid, or the connection is already in the list",
    c"add: no list of connections",
    c"add: no connection",
    c"add a descriptor, signal or timer: no list of connections",
    c"delete: the list is empty",
    c"delete: the list has a size but no array",
    c"delete or end: the list has no such entry",
    c"delete or end: no list of connections",
    c"delete or end: no connection",
    c"send: the bytes cannot be sent, or the connection is invalid",
    c"connect: no connection to the service",
    c"connect: the place for the descriptor is NULL",
    c"connect: empty path, or one that is too long",
    c"close: the descriptor cannot be closed",
    c"remove: the socket's file cannot be removed",
    c"remove: the file does not exist, or belongs to another server",
    c"listen: the place for the descriptor is NULL",
    c"listen: the socket cannot be created, or the given one cannot be used",
    c"listen: empty path, or one that is too long",
    c"listen: the path cannot be bound, or an option is invalid",
    c"listen: the socket cannot listen",
    c"accept: the place for the descriptor is NULL",
    c"accept: no client was accepted from the socket",
    c"receive: no buffer",
    c"receive: no length",
    c"receive: nothing valid was received, or the connection is invalid",
    c"new message: the place for the message is NULL",
    c"read a message: no message structure",
    c"write a message: no message structure",
    c"write a message: the peer or the queue does not accept all of the message now",
    c"format a message: no message structure",
    c"format a message: the payload, its length or the number of pieces is invalid",
    c"format a message: the length is below 0 or over the maximum",
    c"message to buffer: no message structure",
    c"message to buffer: the place for the size is NULL",
    c"message to buffer: the place for the buffer is NULL",
    c"buffer to message: no message structure",
    c"buffer to message: no buffer",
    c"buffer to message: the size is not that of one frame",
    c"empty a message: no message structure",
];

/// The message for an error code; None if the number is not an error code.
pub fn message(code: i32) -> Option<&'static CStr> {
    MESSAGES.get(usize::try_from(code).ok()?).copied()
}
