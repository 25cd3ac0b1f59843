//! The messages between the program and its peers.

use std::ffi::c_char;
use std::os::fd::RawFd;
use std::ptr;

use ipc::capi::messages::{ipc_message_read, ipc_message_write};
use ipc::capi::sending::{ipc_broadcast, ipc_send, ipc_sendv};
use ipc::capi::server_and_client::{ipc_read, ipc_write};
use ipc::capi::types::ipc_errors::{self, *};
use ipc::capi::types::*;
use ipc::capi::usock::{usock_recv, usock_send};
use ipc::capi::waiting::ipc_read_timeout;

use super::connection::{Connection, Due, Kind, State};
use super::looking::AMPLE;
use super::queueing::message_of;
use super::sockets;
use super::world::{SLOW, World, call, free};
use crate::targets::stream::{HEADER, Next, frame};
use crate::targets::trace;

/// A copy of a message's bytes; its payload is followed by a NUL that does not count.
pub fn content(message: &ipc_message) -> (u8, Vec<u8>) {
    let length = message.length as usize;
    assert_eq!(message.payload.is_null(), length == 0);
    if length == 0 {
        return (message.r#type as u8, Vec::new());
    }
    let bytes = unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>(), length + 1) };
    assert_eq!(bytes[length], 0, "the NUL after the payload");
    (message.r#type as u8, bytes[..length].to_vec())
}

impl World {
    /// ipc_write, ipc_message_write, usock_send of a frame, or ipc_write_fd.
    pub fn write(&mut self, number: usize, kind: u8, size: usize, way: usize) {
        // The library knows changes that were made by hand only after a scan.
        let is_listed = self.is_served(number) && !self.here.changed && !self.here.hidden;
        let may_be_slow = self.slow < SLOW;
        let connection = &self.connections[number];
        if !is_listed && connection.reads && (!connection.outgoing.is_empty() || size > 1000) {
            // The call would wait for the peer, which cannot read meanwhile.
            return;
        }
        if is_listed && !may_be_slow && connection.outgoing.len() + size > 1500 {
            return;
        }
        let bytes = frame(kind, size, connection.outgoing.len());
        let (queued, info, fd) = (connection.queued(), connection.info, connection.fd);
        let result = match way {
            0 => {
                let (mut sent, length) = (-1, bytes.len() as isize);
                let result = call(|| unsafe { usock_send(fd, bytes.as_ptr().cast(), length, &mut sent) });
                assert_eq!(sent, if result.is_ok() { length } else { 0 });
                result
            }
            1 => self.write_with_descriptor(info, &bytes),
            2 => call(|| unsafe { ipc_message_write(fd, &message_of(&bytes)) }),
            _ => match size % 3 {
                0 => call(|| unsafe { ipc_write(info, &message_of(&bytes)) }),
                1 => {
                    let (payload, length) = (bytes[HEADER..].as_ptr().cast(), bytes.len() - HEADER);
                    call(|| unsafe { ipc_send(info, kind as c_char, payload, length) })
                }
                _ => send_in_pieces(info, &bytes),
            },
        };
        trace!("  {size} bytes are written to {fd}, way {way}");
        let connection = &mut self.connections[number];
        if result.is_ok() && connection.reads {
            if way == 1 {
                connection.outgoing_descriptors.push_back(connection.has_read + connection.outgoing.len());
            }
            connection.outgoing.extend(bytes);
            self.slow += usize::from(queued == 0 && connection.queued() > 0);
        } else {
            assert!(result.is_err(), "written to a peer that does not read");
            connection.assert_refusal(result, bytes.len(), queued);
        }
    }

    /// ipc_broadcast, if it is certain which connections get the message: those whose peers read, and whose
    /// queues have room.
    pub fn broadcast(&mut self, kind: u8, size: usize) {
        let listed: Vec<_> = self.here.listed.iter().flatten().copied().collect();
        let bytes = frame(kind, size, 7);
        let is_certain = |number: &usize| {
            let one = &self.connections[*number];
            one.kind == Kind::Extra && one.state == State::Open
                || one.is_usable()
                    && !one.is_dead
                    && (!one.reads || one.queued() + bytes.len() <= one.settings.queue)
        };
        if !listed.iter().all(is_certain) {
            return;
        }
        trace!("  {size} bytes are sent to all of {}", listed.len());
        let (list, mut failed) = (&raw mut *self.here.list, usize::MAX);
        let message = message_of(&bytes);
        let result = call(|| unsafe { ipc_broadcast(list, &message, ptr::null(), &mut failed) });
        assert_eq!(result, Ok(()));
        let usable = |number: &&usize| self.connections[**number].is_usable();
        let lost = listed.iter().filter(usable).filter(|number| !self.connections[**number].reads).count();
        assert!(failed <= lost, "{failed} do not get a message, {lost} of them do not read");
        for number in listed {
            let connection = &mut self.connections[number];
            if connection.is_usable() && connection.reads {
                connection.outgoing.extend(&bytes);
            }
        }
    }

    /// ipc_read, usock_recv or ipc_message_read, if the call certainly does not wait.
    pub fn read(&mut self, number: usize, way: u8) {
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
        let result = match way % 8 {
            7 => return connection.find_no_room(),
            1 | 3 | 5 => receive(connection.fd, expected),
            4 => {
                read_message(&mut self.message, |message| unsafe { ipc_message_read(connection.fd, message) })
            }
            2 | 6 => read_message(&mut self.message, |message| {
                let timeout = if way % 8 == 2 { 0 } else { AMPLE };
                unsafe { ipc_read_timeout(connection.info, message, timeout) }
            }),
            _ => read_message(&mut self.message, |message| unsafe { ipc_read(connection.info, message) }),
        };
        trace!("  a read from {}: {:?}", connection.fd, result.as_ref().map(Vec::len));
        assert!(expected.contains(&result), "{result:?} instead of {expected:?}");
        match result {
            Ok(frame) => {
                let begin = connection.sent.delivered();
                connection.sent.deliver();
                connection.assert_nothing_is_ahead();
                connection.take_descriptors(begin, frame.len() % 2 == 1);
            }
            Err((IPC_ERROR_CLOSED_RECIPIENT, _)) => {
                connection.sent.drop_partial();
                connection.reset = Due::Never;
            }
            // ipc_wait_event checks it, too.
            Err(_) if !connection.ended => connection.over_by_limit = None,
            Err(_) => {}
        }
    }
}

impl Connection {
    /// Direct reads take no byte beyond their frame.
    fn assert_nothing_is_ahead(&self) {
        let left = self.sent.len() - self.sent.delivered();
        assert!(self.is_looped || sockets::unread(self.fd) == left, "a read took more than its frame");
    }

    /// usock_recv with a buffer that is too small for the current frame, which stays for another call of any
    /// kind.
    fn find_no_room(&self) {
        let Next::Frame(_, payload) = self.next() else { return };
        trace!("  there is no room for what is read from {}", self.fd);
        let mut room = [0_u8; HEADER - 1];
        assert_eq!(receive_without_room(self.fd, &mut room), (HEADER + payload.len()) as isize);
    }
}

/// ipc_sendv, with a piece that is empty.
fn send_in_pieces(info: *const ipc_connection_info, frame: &[u8]) -> Result<(), (ipc_errors, i32)> {
    let (first, second) = frame[HEADER..].split_at((frame.len() - HEADER) / 2);
    let piece =
        |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let pieces = [piece(first), libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }, piece(second)];
    call(|| unsafe { ipc_sendv(info, frame[0] as c_char, pieces.as_ptr(), 3) })
}

/// ipc_read or ipc_message_read; returns the bytes of the frame. The message has the payload of an earlier
/// read; it must be unchanged if the read fails.
fn read_message(
    message: &mut ipc_message,
    read: impl FnOnce(*mut ipc_message) -> ipc_errors,
) -> Result<Vec<u8>, (ipc_errors, i32)> {
    let before = (message.r#type, message.length, message.payload);
    let result = call(|| read(message));
    if result.is_err() {
        assert_eq!(
            (message.r#type, message.length, message.payload),
            before,
            "a message of a read that failed"
        );
    }
    result?;
    let (kind, payload) = content(message);
    Ok([&[kind][..], &message.length.to_ne_bytes(), &payload].concat())
}

/// usock_recv into a buffer that is too small; returns the size that is needed.
fn receive_without_room(fd: RawFd, room: &mut [u8]) -> isize {
    let (mut place, mut size) = (room.as_mut_ptr().cast::<c_char>(), room.len() as isize);
    let result = call(|| unsafe { usock_recv(fd, &mut place, &mut size) });
    assert_eq!(result, Err((IPC_ERROR_USOCK_RECV, libc::EMSGSIZE)));
    size
}

/// usock_recv, first with a buffer that is too small, then with a large one, or with NULL so that the call
/// allocates one.
fn receive(fd: RawFd, expected: &[Result<Vec<u8>, (ipc_errors, i32)>]) -> Result<Vec<u8>, (ipc_errors, i32)> {
    let mut room = vec![0_u8; HEADER - 1];
    if let Some(Ok(frame)) = expected.first() {
        let mut size = receive_without_room(fd, &mut room);
        assert_eq!(size, frame.len() as isize);
        if frame.len() % 2 == 0 {
            room.resize(frame.len(), 0);
            let mut place = room.as_mut_ptr().cast();
            call(|| unsafe { usock_recv(fd, &mut place, &mut size) })?;
            assert_eq!(size, frame.len() as isize);
            return Ok(room);
        }
    }
    let (mut place, mut size) = (ptr::null_mut::<c_char>(), 0);
    call(|| unsafe { usock_recv(fd, &mut place, &mut size) })?;
    let frame = unsafe { std::slice::from_raw_parts(place.cast::<u8>(), size as usize) }.to_vec();
    free(place);
    Ok(frame)
}
