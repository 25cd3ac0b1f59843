//! What the program and its peers say to each other.

use std::ffi::c_char;
use std::os::fd::RawFd;
use std::ptr;

use ipc::capi::server_and_client::{ipc_read, ipc_write};
use ipc::capi::types::*;
use ipc::capi::usock::{usock_recv, usock_send};
use ipc::error::ipc_errors::{self, *};

use super::connection::Due;
use super::extension::message_of;
use super::world::{SLOW, World, call, free};
use crate::targets::stream::{HEADER, Next, frame};
use crate::targets::trace;

/// A copy of what a message holds, whose payload ends in a NUL that does not count.
pub fn content(message: &ipc_message) -> (u8, Vec<u8>) {
    let length = message.length as usize;
    assert_eq!(message.payload.is_null(), length == 0);
    if length == 0 {
        return (message.r#type as u8, Vec::new());
    }
    let bytes = unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>(), length + 1) };
    assert_eq!(bytes[length], 0, "the NUL behind the payload");
    (message.r#type as u8, bytes[..length].to_vec())
}

impl World {
    /// ipc_write, usock_send of a frame, or ipc_write_fd.
    pub fn write(&mut self, number: usize, kind: u8, size: usize, way: usize) {
        // What was changed by hand the library knows only after it has waited.
        let is_listed = self.is_listed(number) && !self.changed && !self.hidden;
        let may_be_slow = self.slow < SLOW;
        let connection = &self.connections[number];
        if !is_listed && connection.reads && (!connection.owed.is_empty() || size > 1000) {
            // It would wait for the peer, which cannot read meanwhile.
            return;
        }
        if is_listed && !may_be_slow && connection.owed.len() + size > 1500 {
            return;
        }
        let bytes = frame(kind, size, connection.owed.len());
        let (queued, info, fd) = (connection.queued(), connection.info, connection.fd);
        let result = match way {
            0 => {
                let (mut sent, length) = (-1, bytes.len().cast_signed());
                let result = call(|| unsafe { usock_send(fd, bytes.as_ptr().cast(), length, &mut sent) });
                assert_eq!(sent, if result.is_ok() { length } else { 0 });
                result
            }
            1 => self.write_with_descriptor(info, &bytes),
            _ => call(|| unsafe { ipc_write(info, &message_of(&bytes)) }),
        };
        trace!("  {size} bytes are written to {fd}, way {way}");
        let connection = &mut self.connections[number];
        if result.is_ok() && connection.reads {
            connection.owed.extend(bytes);
            self.slow += usize::from(queued == 0 && connection.queued() > 0);
        } else {
            assert!(result.is_err(), "written to a peer that does not read");
            connection.assert_refusal(result, bytes.len(), queued);
        }
    }

    /// ipc_read, or usock_recv, where it is certain not to wait.
    pub fn read(&mut self, number: usize, by_bytes: bool) {
        let connection = &mut self.connections[number];
        let closed = |errno| Err((IPC_ERROR_CLOSED_RECIPIENT, errno));
        let expected: &[Result<Vec<u8>, _>] = match connection.next() {
            Next::Frame(kind, payload) => {
                let length = u32::try_from(payload.len()).unwrap().to_ne_bytes();
                &[Ok([&[kind][..], &length, payload].concat())]
            }
            Next::TooLong => &[Err((IPC_ERROR_USOCK_RECV, libc::EPROTO))],
            Next::Nothing if !connection.ended => return,
            Next::Nothing => match (connection.reset, connection.sent.is_partial()) {
                (Due::Never, false) => &[closed(libc::EPIPE)],
                (Due::Certainly, _) | (Due::Never, true) => &[closed(libc::ECONNRESET)],
                (Due::Perhaps, _) => &[closed(libc::ECONNRESET), closed(libc::EPIPE)],
            },
        };
        let result = if by_bytes { receive(connection.fd, expected) } else { read_message(connection.info) };
        trace!("  a read from {}: {:?}", connection.fd, result.as_ref().map(Vec::len));
        assert!(expected.contains(&result), "{result:?} instead of {expected:?}");
        match result {
            Ok(frame) => {
                let begin = connection.sent.told();
                connection.sent.tell();
                connection.take_descriptors(begin, frame.len() % 2 == 1);
            }
            Err((IPC_ERROR_CLOSED_RECIPIENT, _)) => {
                connection.sent.drop_partial();
                connection.reset = Due::Never;
            }
            Err(_) => connection.error_read = true,
        }
    }
}

/// ipc_read, as the bytes of the frame.
fn read_message(info: *const ipc_connection_info) -> Result<Vec<u8>, (ipc_errors, i32)> {
    let mut message = ipc_message { r#type: 0, length: 0, payload: ptr::null_mut() };
    call(|| unsafe { ipc_read(info, &mut message) })?;
    let (kind, payload) = content(&message);
    free(message.payload);
    Ok([&[kind][..], &message.length.to_ne_bytes(), &payload].concat())
}

/// usock_recv, first with too little room, then with enough, or with none so that it makes some.
fn receive(fd: RawFd, expected: &[Result<Vec<u8>, (ipc_errors, i32)>]) -> Result<Vec<u8>, (ipc_errors, i32)> {
    let mut room = vec![0_u8; HEADER - 1];
    if let Some(Ok(frame)) = expected.first() {
        let (mut place, mut size) = (room.as_mut_ptr().cast::<c_char>(), room.len().cast_signed());
        let result = call(|| unsafe { usock_recv(fd, &mut place, &mut size) });
        assert_eq!(result, Err((IPC_ERROR_USOCK_RECV, libc::EMSGSIZE)));
        assert_eq!(size, frame.len().cast_signed());
        if frame.len() % 2 == 0 {
            room.resize(frame.len(), 0);
            place = room.as_mut_ptr().cast();
            call(|| unsafe { usock_recv(fd, &mut place, &mut size) })?;
            assert_eq!(size, frame.len().cast_signed());
            return Ok(room);
        }
    }
    let (mut place, mut size) = (ptr::null_mut::<c_char>(), 0);
    call(|| unsafe { usock_recv(fd, &mut place, &mut size) })?;
    let frame = unsafe { std::slice::from_raw_parts(place.cast::<u8>(), size.cast_unsigned()) }.to_vec();
    free(place);
    Ok(frame)
}
