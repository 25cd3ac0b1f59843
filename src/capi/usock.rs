//! `usock_*`: the same sockets by descriptor and path, without the structures for services and messages.
//!
//! A descriptor of these functions is a connection as any other: its read-ahead, its queue and its settings
//! are in the table of descriptors. This file has no state of its own.

use std::ffi::{CStr, c_char, c_int};
use std::slice;

use nix::errno::Errno;

use super::boundary::{call, call_or, required, required_const, run};
use super::{messages, server_and_client};
use crate::calls::accept::Accept;
use crate::calls::close::close_connection;
use crate::calls::flow::Flow;
use crate::calls::outgoing::Outgoing;
use crate::calls::read::{Read, put_back};
use crate::error::{Error, ipc_errors};
use crate::frame::c_heap::Block;
use crate::frame::header::{HEADER_SIZE, Header, MAX_PAYLOAD};
use crate::kernel::deadline::Deadline;
use crate::service::endpoint::{self, Connect, Options};

/// Sends `len` bytes without a header, and waits as ipc_write does; the bytes may be a frame that
/// ipc_message_format_write has made. More bytes than those of the largest frame are sent in parts of that
/// size. `*sent`, unless `sent` is NULL, becomes the number of bytes that were sent or queued: `len`, or less
/// if the function fails.
///
/// Errors: IPC_ERROR_USOCK_SEND: `buf` is NULL and `len` is not 0, or `len` is below 0 (EINVAL); and as for
/// ipc_write.
/// IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, IPC_ERROR_NOT_ENOUGH_MEMORY: as for ipc_write; only the parts
/// that `*sent` counts were sent.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn usock_send(
    fd: i32,
    buf: *const c_char,
    len: libc::ssize_t,
    sent: *mut libc::ssize_t,
) -> ipc_errors {
    let mut unused = 0;
    // SAFETY: the caller's room for a number, if any.
    let sent = if sent.is_null() { &mut unused } else { unsafe { &mut *sent } };
    *sent = 0;
    let (target, bytes): (_, &[u8]) = match usize::try_from(len) {
        Ok(0) => (Ok(fd), &[]),
        // SAFETY: the caller's buffer of `len` bytes.
        Ok(size) if !buf.is_null() => (Ok(fd), unsafe { slice::from_raw_parts(buf.cast(), size) }),
        _ => (Err(Error::argument(ipc_errors::IPC_ERROR_USOCK_SEND)), &[]),
    };
    let mut rest = bytes;
    loop {
        let (part, after) = rest.split_at_checked(HEADER_SIZE + MAX_PAYLOAD).unwrap_or((rest, &[]));
        // SAFETY: this frame has plain data only.
        let code = unsafe { messages::send_frame(target, Outgoing::new([part, &[]])) };
        if code != ipc_errors::IPC_ERROR_NONE {
            return code;
        }
        *sent += part.len() as isize;
        rest = after;
        if rest.is_empty() {
            return code;
        }
    }
}

/// Waits for one whole frame of the socket, including the header, and reads no byte beyond the frame. If
/// `*buf` is NULL, `*buf` becomes a new buffer from malloc(3), yours to free; else the frame is written to
/// the buffer `*buf`, which has room for `*len` bytes. `*len` becomes the frame's size.
///
/// Errors: IPC_ERROR_USOCK_RECV__NO_BUFFER, IPC_ERROR_USOCK_RECV__NO_LENGTH: NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: the frame is larger than the buffer (EMSGSIZE): `*len` becomes the frame's size, and
/// the frame stays for the next call; and as for ipc_read.
/// IPC_ERROR_CLOSED_RECIPIENT, IPC_ERROR_NOT_ENOUGH_MEMORY: as for ipc_read.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn usock_recv(
    fd: i32,
    buf: *mut *mut c_char,
    len: *mut libc::ssize_t,
) -> ipc_errors {
    let mut read = None;
    // SAFETY: this frame has plain data only; the caller's buffer, and its room for pointer and length.
    unsafe {
        run(ipc_errors::IPC_ERROR_USOCK_RECV, |guard, wait| {
            let buf = required(buf, ipc_errors::IPC_ERROR_USOCK_RECV__NO_BUFFER)?;
            let len = required(len, ipc_errors::IPC_ERROR_USOCK_RECV__NO_LENGTH)?;
            let (buffer, room) = (*buf, (*len).max(0) as usize);
            let mut admit = |header: Header| {
                let size = HEADER_SIZE + header.length;
                if !buffer.is_null() && size > room {
                    len.write(size as isize);
                    return Err(Error::new(ipc_errors::IPC_ERROR_USOCK_RECV, Errno::EMSGSIZE));
                }
                Ok(())
            };
            let frame = match read
                .get_or_insert_with(|| Read::new(fd, Deadline::NONE))
                .step(guard, wait, &mut admit)?
            {
                Flow::Wait => return Ok(Flow::Wait),
                Flow::Done(frame) => frame,
            };
            let size = HEADER_SIZE + frame.payload.len();
            let header = Header { kind: frame.kind, length: frame.payload.len() }
                .encode()
                .map_err(|_| Error::new(ipc_errors::IPC_ERROR_USOCK_RECV, Errno::EPROTO))?;
            if buffer.is_null() {
                match Block::with_capacity(size) {
                    Ok(made) => buf.write(made.filled_with([&header, frame.payload.bytes()]).into_c()),
                    Err(error) => {
                        // The frame stays for the next call.
                        put_back(guard, fd, frame);
                        return Err(error.into());
                    }
                }
            } else {
                messages::put_frame(buffer, header, frame.payload.bytes().as_ptr(), frame.payload.len());
            }
            len.write(size as isize);
            Ok(Flow::Done(()))
        })
    }
}

/// Closes the descriptor, as ipc_close does.
///
/// Error: IPC_ERROR_USOCK_CLOSE: close(2) failed (EBADF).
#[unsafe(no_mangle)]
pub extern "C" fn usock_close(fd: i32) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_CLOSE;
    call_or(code, || endpoint::close(fd), |guard| close_connection(guard, fd))
}

/// The path as a string; if `path` is NULL, an error with this code and EINVAL.
///
/// # Safety
/// `path` is NULL or a string that exists for `'a`.
unsafe fn required_path<'a>(path: *const c_char, code: ipc_errors) -> Result<&'a CStr, Error> {
    // SAFETY: as promised by the caller.
    required_const(path, code).map(|path| unsafe { CStr::from_ptr(path) })
}

/// Connects to the socket at `path`, which has at most PATH_MAX bytes with its NUL; `*fd` becomes the
/// connection's descriptor.
///
/// Errors: IPC_ERROR_USOCK_CONNECT__WRONG_FILE_DESCRIPTOR: `fd` is NULL (EINVAL).
/// IPC_ERROR_USOCK_CONNECT__EMPTY_PATH: `path` is NULL or empty (EINVAL), or too long (ENAMETOOLONG).
/// IPC_ERROR_USOCK_CONNECT__SOCKET: there is no such service (ENOENT), its server is dead (ECONNREFUSED), you
/// may not connect (EACCES), the socket at the path has another type (EPROTOTYPE), a signal handler has run
/// (EINTR), there is no descriptor left (EMFILE), or socket(2) or connect(2) failed otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn usock_connect(fd: *mut i32, path: *const c_char) -> ipc_errors {
    let mut connect = None;
    // SAFETY: this frame has plain data only; the caller's string, and its room for a descriptor.
    unsafe {
        run(ipc_errors::IPC_ERROR_USOCK_CONNECT__SOCKET, |guard, wait| {
            let fd = required(fd, ipc_errors::IPC_ERROR_USOCK_CONNECT__WRONG_FILE_DESCRIPTOR)?;
            server_and_client::connect_step(guard, wait, &mut connect, |wait| {
                let path = required_path(path, ipc_errors::IPC_ERROR_USOCK_CONNECT__EMPTY_PATH)?;
                Connect::new(path, wait)
            })
            .map(|flow| flow.map(|connection| fd.write(connection)))
        })
    }
}

/// Listens on a new socket at `path`, which has at most PATH_MAX bytes with its NUL; `*fd` becomes the
/// socket's descriptor. The socket of a dead server at this path is removed first.
///
/// Errors: IPC_ERROR_USOCK_INIT__EMPTY_FILE_DESCRIPTOR: `fd` is NULL (EINVAL).
/// IPC_ERROR_USOCK_INIT__EMPTY_PATH: `path` is NULL or empty (EINVAL), or too long (ENAMETOOLONG).
/// IPC_ERROR_USOCK_INIT__BIND: another server has the path (EADDRINUSE), or the socket cannot be made, with
/// the reason in errno (EACCES, ENOENT, ENOTDIR, EROFS, EMFILE; ENAMETOOLONG for a name that is too long for
/// the file system; ...).
/// IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR, IPC_ERROR_USOCK_INIT__LISTEN: as for ipc_server_init.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn usock_init(fd: *mut i32, path: *const c_char) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_INIT__BIND, |guard| {
        let fd = required(fd, ipc_errors::IPC_ERROR_USOCK_INIT__EMPTY_FILE_DESCRIPTOR)?;
        // SAFETY: the caller's string, and its room for a descriptor.
        unsafe {
            let path = required_path(path, ipc_errors::IPC_ERROR_USOCK_INIT__EMPTY_PATH)?;
            fd.write(endpoint::listen(guard, path, &Options::default())?);
        }
        Ok(())
    })
}

/// Waits for a client at the listening socket `fd` and accepts the client; `*pfd` becomes the
/// client's descriptor.
///
/// Errors: IPC_ERROR_USOCK_ACCEPT__PATH_FILE_DESCRIPTOR: `pfd` is NULL (EINVAL).
/// IPC_ERROR_USOCK_ACCEPT: accept4(2) failed, with the reason in errno.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn usock_accept(fd: c_int, pfd: *mut i32) -> ipc_errors {
    let accept = Accept::new(fd);
    // SAFETY: this frame has plain data only; the caller's room for a descriptor.
    unsafe {
        run(ipc_errors::IPC_ERROR_USOCK_ACCEPT, |guard, wait| {
            let pfd = required(pfd, ipc_errors::IPC_ERROR_USOCK_ACCEPT__PATH_FILE_DESCRIPTOR)?;
            accept
                .step(guard, wait)
                .map_err(|errno| Error::new(ipc_errors::IPC_ERROR_USOCK_ACCEPT, errno))
                .map(|flow| flow.map(|client| pfd.write(client)))
        })
    }
}

/// Removes the file at `path`.
///
/// Errors: IPC_ERROR_USOCK_REMOVE__NO_FILE: there is no such file (ENOENT).
/// IPC_ERROR_USOCK_REMOVE__UNLINK: `path` is NULL (EINVAL), or unlink(2) failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn usock_remove(path: *const c_char) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_REMOVE__UNLINK;
    // SAFETY: the caller's string.
    call(code, |_| endpoint::remove_file(unsafe { required_path(path, code) }?))
}
