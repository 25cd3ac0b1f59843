//! Sending a payload that is in no `struct ipc_message`, and sending one message to all connections of a
//! list.
//!
//! The payload is the caller's memory: it is borrowed until the call returns, and copied only if it must be
//! queued. This file has no state of its own.

use std::ffi::{c_char, c_int, c_void};
use std::io::IoSlice;
use std::ptr;
use std::slice;

use nix::errno::Errno;

use super::boundary::{call, fd_of, required, required_const};
use super::list::CList;
use super::messages;
use super::types::{ipc_connection_info, ipc_connection_infos, ipc_message};
use crate::calls::outgoing::{MOST_PIECES, Outgoing};
use crate::calls::queue;
use crate::error::{Error, ipc_errors};
use crate::event_loop::{Kind, List};
use crate::frame::header::{HEADER_SIZE, Header};

/// The largest number of pieces for ipc_sendv.
pub const IPC_MAX_PIECES: c_int = 64;
const _: () = assert!(IPC_MAX_PIECES as usize == MOST_PIECES);

/// Sends a message of this type with the `length` bytes at `payload`, as ipc_write does. If `length` is 0,
/// `payload` may be NULL. The bytes stay yours; the library reads them until the call returns.
///
/// Errors: IPC_ERROR_MESSAGE_FORMAT__LENGTH: `length` is over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: `payload` is NULL, and `length` is not 0 (EINVAL).
/// IPC_ERROR_USOCK_SEND, IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, IPC_ERROR_NOT_ENOUGH_MEMORY: as for
/// ipc_write.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_send(
    p: *const ipc_connection_info,
    r#type: c_char,
    payload: *const c_void,
    length: usize,
) -> ipc_errors {
    // A length of more than 32 bits is over the maximum, as u32::MAX is.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let message = ipc_message { r#type, length, payload: payload.cast_mut().cast() };
    // SAFETY: the caller's structure and payload; this frame has plain data only.
    unsafe { messages::write_message(&raw const message, fd_of(p, ipc_errors::IPC_ERROR_USOCK_SEND), None) }
}

/// Sends a message as ipc_send does; its payload is made of `count` pieces, one after the other, 0 to
/// IPC_MAX_PIECES of them: writev(2) for messages. The pieces are copied only if they must be queued. A piece
/// of length 0 may be NULL.
///
/// Errors: as for ipc_send; the length is that of all pieces together.
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: `count` is below 0 or over IPC_MAX_PIECES, or `pieces` is
/// NULL and `count` is not 0 (EINVAL).
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_sendv(
    p: *const ipc_connection_info,
    r#type: c_char,
    pieces: *const libc::iovec,
    count: c_int,
) -> ipc_errors {
    let mut slices = [IoSlice::new(&[]); MOST_PIECES];
    let mut header = [0; HEADER_SIZE];
    // SAFETY: the caller's structure and pieces; this frame has plain data only.
    unsafe {
        let frame = gather(r#type, pieces, count, &mut slices);
        let more = frame.map_or(&[][..], |(head, more)| {
            header = head;
            more
        });
        let target = frame.and(fd_of(p, ipc_errors::IPC_ERROR_USOCK_SEND));
        messages::send_frame(target, Outgoing::new([&header, &[]]).and(more))
    }
}

/// The header of a message whose payload consists of these pieces, and the pieces.
///
/// # Safety
/// `pieces` is NULL or has `count` pieces; each piece is NULL or has `iov_len` bytes, which are not changed
/// as long as the result is used.
unsafe fn gather<'a>(
    kind: c_char,
    pieces: *const libc::iovec,
    count: c_int,
    slices: &'a mut [IoSlice<'a>; MOST_PIECES],
) -> Result<([u8; HEADER_SIZE], &'a [IoSlice<'a>]), Error> {
    let wrong = Error::argument(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS);
    let room = usize::try_from(count).ok().and_then(|count| slices.get_mut(..count)).ok_or(wrong)?;
    if !room.is_empty() {
        required_const(pieces, wrong.code)?;
    }
    // SAFETY: as promised by the caller.
    let piece = |index| unsafe { *pieces.add(index) };
    let length = (0..room.len()).fold(0_usize, |length, index| length.saturating_add(piece(index).iov_len));
    let too_long = Error::new(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__LENGTH, Errno::EMSGSIZE);
    let header = Header { kind: kind as u8, length }.encode().map_err(|_| too_long)?;
    for (index, slice) in room.iter_mut().enumerate() {
        let libc::iovec { iov_base, iov_len } = piece(index);
        if iov_len > 0 {
            let start = required(iov_base, wrong.code)?;
            // SAFETY: as promised by the caller; the piece is not longer than a message.
            *slice = IoSlice::new(unsafe { slice::from_raw_parts(start.cast(), iov_len) });
        }
    }
    Ok((header, room))
}

/// Sends the message to all connections of the list except the connection `except`, which may be NULL.
/// Descriptors of ipc_add_fd and ipc_watch_fd do not get the message. The function does not wait: bytes that
/// the kernel does not take at once are queued for the connection, as by ipc_queue.
///
/// `except` may be a copy of the structure.
///
/// `*failed`, unless `failed` is NULL, becomes the number of connections that do not get the message: because
/// their queue is full, because there is no memory, or because the peer has closed the connection. The other
/// connections get the message, and IPC_ERROR_NONE is returned. A closed connection is reported by
/// ipc_wait_event.
///
/// Errors: IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM: `clients` is NULL (EINVAL).
/// IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, IPC_ERROR_MESSAGE_FORMAT__LENGTH,
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: as for ipc_write. After each of these errors nothing was
/// sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_broadcast(
    clients: *mut ipc_connection_infos,
    m: *const ipc_message,
    except: *const ipc_connection_info,
    failed: *mut usize,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_SEND, |guard| {
        let clients = required(clients, ipc_errors::IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM)?;
        let m = required_const(m, ipc_errors::IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM)?;
        // SAFETY: the caller's list and message.
        let (list, (header, payload)) = unsafe { (CList::new(clients, ptr::null()), messages::parts(m)?) };
        // SAFETY: the caller's structure, or a copy of it.
        let except_fd = unsafe { except.as_ref() }.map(|except| except.fd);
        let mut count = 0;
        for index in 0..list.size() {
            let entry = list.entry(index).filter(|entry| entry.kind == Kind::Connection);
            if let Some(entry) = entry.filter(|entry| Some(entry.fd) != except_fd) {
                let frame = Outgoing::new([&header, payload]);
                count += usize::from(queue::send_or_queue(guard, entry.fd, frame).is_err());
            }
        }
        if !failed.is_null() {
            // SAFETY: the caller's room for a number.
            unsafe { failed.write(count) };
        }
        Ok(())
    })
}
