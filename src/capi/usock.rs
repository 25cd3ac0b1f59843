//! `usock_*`: the same sockets, one step below services and messages.

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

/// Sends `len` bytes as they are, and waits as ipc_write does; a frame from ipc_message_format_write can be
/// sent with it. More bytes than the largest frame has are taken in runs of that size. `*sent`, if `sent` is
/// not NULL, becomes the number of bytes that were taken: `len`, or less if the function fails.
///
/// Errors: IPC_ERROR_USOCK_SEND: `buf` is NULL with a `len` that is not 0, or `len` is below 0 (EINVAL); and as
/// for ipc_write.
/// IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, IPC_ERROR_NOT_ENOUGH_MEMORY: as for ipc_write; nothing was sent
/// but the runs that `*sent` counts.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn usock_send(
    fd: i32,
    buf: *const c_char,
    len: libc::ssize_t,
    sent: *mut libc::ssize_t,
) -> ipc_errors {
    let mut place = 0;
    // SAFETY: the caller's place for a number, if any.
    let sent = if sent.is_null() { &mut place } else { unsafe { &mut *sent } };
    *sent = 0;
    let (target, bytes): (_, &[u8]) = match usize::try_from(len) {
        Ok(0) => (Ok(fd), &[]),
        // SAFETY: the caller's buffer of `len` bytes.
        Ok(size) if !buf.is_null() => (Ok(fd), unsafe { slice::from_raw_parts(buf.cast(), size) }),
        _ => (Err(Error::argument(ipc_errors::IPC_ERROR_USOCK_SEND)), &[]),
    };
    let mut rest = bytes;
    loop {
        let (run, after) = rest.split_at_checked(HEADER_SIZE + MAX_PAYLOAD).unwrap_or((rest, &[]));
        // SAFETY: plain data in this frame.
        let code = unsafe { messages::send(target, Outgoing::new([run, &[]])) };
        if code != ipc_errors::IPC_ERROR_NONE {
            return code;
        }
        *sent += run.len() as isize;
        rest = after;
        if rest.is_empty() {
            return code;
        }
    }
}

/// Waits for one whole frame of the socket, header included, and no byte beyond it. If `*buf` is NULL it
/// becomes a new buffer from malloc(3), yours to free; else the frame goes to `*buf`, which has room for
/// `*len` bytes. `*len` becomes the frame's size.
///
/// Errors: IPC_ERROR_USOCK_RECV__NO_BUFFER, IPC_ERROR_USOCK_RECV__NO_LENGTH: NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: the frame is larger than the room (EMSGSIZE): `*len` becomes its size, and the next
/// call gets it; and as for ipc_read.
/// IPC_ERROR_CLOSED_RECIPIENT, IPC_ERROR_NOT_ENOUGH_MEMORY: as for ipc_read.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn usock_recv(
    fd: i32,
    buf: *mut *mut c_char,
    len: *mut libc::ssize_t,
) -> ipc_errors {
    let mut read = None;
    // SAFETY: plain data in this frame; the caller's places.
    unsafe {
        run(ipc_errors::IPC_ERROR_USOCK_RECV, |guard, wait| {
            let buf = required(buf, ipc_errors::IPC_ERROR_USOCK_RECV__NO_BUFFER)?;
            let len = required(len, ipc_errors::IPC_ERROR_USOCK_RECV__NO_LENGTH)?;
            let (place, room) = (*buf, (*len).max(0) as usize);
            let mut admit = |header: Header| {
                let size = HEADER_SIZE + header.length;
                if !place.is_null() && size > room {
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
            if place.is_null() {
                match Block::with_capacity(size) {
                    Ok(made) => buf.write(made.filled_with([&header, frame.payload.bytes()]).into_c()),
                    Err(error) => {
                        // The next call gets it.
                        put_back(guard, fd, frame);
                        return Err(error.into());
                    }
                }
            } else {
                messages::put_frame(place, header, frame.payload.bytes().as_ptr(), frame.payload.len());
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

unsafe fn path_of<'a>(path: *const c_char, code: ipc_errors) -> Result<&'a CStr, Error> {
    // SAFETY: the caller's promise: NULL or a string.
    required_const(path, code).map(|path| unsafe { CStr::from_ptr(path) })
}

/// Connects to the socket at `path`, of at most PATH_MAX bytes with its NUL; `*fd` becomes the descriptor.
///
/// Errors: IPC_ERROR_USOCK_CONNECT__WRONG_FILE_DESCRIPTOR: `fd` is NULL (EINVAL).
/// IPC_ERROR_USOCK_CONNECT__EMPTY_PATH: NULL or empty (EINVAL), or too long (ENAMETOOLONG).
/// IPC_ERROR_USOCK_CONNECT__SOCKET: no such service (ENOENT), its server is dead (ECONNREFUSED), it is not
/// for you (EACCES), a socket of another type is there (EPROTOTYPE), a signal handler has run (EINTR), there is
/// no descriptor left (EMFILE), or socket(2) or connect(2) failed otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn usock_connect(fd: *mut i32, path: *const c_char) -> ipc_errors {
    let mut connect = None;
    // SAFETY: plain data in this frame; the caller's string, and place for a descriptor.
    unsafe {
        run(ipc_errors::IPC_ERROR_USOCK_CONNECT__SOCKET, |guard, wait| {
            let fd = required(fd, ipc_errors::IPC_ERROR_USOCK_CONNECT__WRONG_FILE_DESCRIPTOR)?;
            server_and_client::connect(guard, wait, &mut connect, |wait| {
                let path = path_of(path, ipc_errors::IPC_ERROR_USOCK_CONNECT__EMPTY_PATH)?;
                Connect::new(path, wait)
            })
            .map(|flow| flow.map(|connection| fd.write(connection)))
        })
    }
}

/// Listens on a new socket at `path`, of at most PATH_MAX bytes with its NUL; `*fd` becomes the descriptor.
/// A socket that a dead server has left there is removed first.
///
/// Errors: IPC_ERROR_USOCK_INIT__EMPTY_FILE_DESCRIPTOR: `fd` is NULL (EINVAL).
/// IPC_ERROR_USOCK_INIT__EMPTY_PATH: NULL or empty (EINVAL), or too long (ENAMETOOLONG).
/// IPC_ERROR_USOCK_INIT__BIND: another server has the path (EADDRINUSE), or the socket cannot be made, and errno has the reason
/// (EACCES, ENOENT, ENOTDIR, EROFS, EMFILE; ENAMETOOLONG for a name that is too long for the file system; ...).
/// IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR, IPC_ERROR_USOCK_INIT__LISTEN: as for ipc_server_init.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn usock_init(fd: *mut i32, path: *const c_char) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_INIT__BIND, |guard| {
        let fd = required(fd, ipc_errors::IPC_ERROR_USOCK_INIT__EMPTY_FILE_DESCRIPTOR)?;
        // SAFETY: the caller's string, and place for a descriptor.
        unsafe {
            let path = path_of(path, ipc_errors::IPC_ERROR_USOCK_INIT__EMPTY_PATH)?;
            fd.write(endpoint::listen(guard, path, &Options::default())?);
        }
        Ok(())
    })
}

/// Waits for a client at the listening socket `fd` and takes it; `*pfd` becomes its descriptor.
///
/// Errors: IPC_ERROR_USOCK_ACCEPT__PATH_FILE_DESCRIPTOR: `pfd` is NULL (EINVAL).
/// IPC_ERROR_USOCK_ACCEPT: accept4(2) failed, and errno has the reason.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn usock_accept(fd: c_int, pfd: *mut i32) -> ipc_errors {
    let accept = Accept::new(fd);
    // SAFETY: plain data in this frame; the caller's place for a descriptor.
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
/// Errors: IPC_ERROR_USOCK_REMOVE__NO_FILE: there is none (ENOENT).
/// IPC_ERROR_USOCK_REMOVE__UNLINK: NULL (EINVAL), or unlink(2) failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn usock_remove(path: *const c_char) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_REMOVE__UNLINK;
    // SAFETY: the caller's string.
    call(code, |_| endpoint::remove_file(unsafe { path_of(path, code) }?))
}
