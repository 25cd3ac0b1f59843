//! The functions of ipc_ext.h for writing: queued messages, and limits.

use std::ffi::c_char;
use std::ptr;

use ipc::capi::queueing::{ipc_flush, ipc_limits, ipc_pending, ipc_queue};
use ipc::capi::types::ipc_errors::{self, *};
use ipc::capi::types::*;

use super::connection::Connection;
use super::world::{World, call};
use crate::targets::stream::{HEADER, MOST, Next, frame};
use crate::targets::trace;

/// The limit of a queue if the program has set none.
const QUEUE: usize = 16 << 20;

/// The settings of a connection, or of a service for its future clients.
#[derive(Clone, Copy)]
pub struct Settings {
    pub max_payload: usize,
    pub queue: usize,
    pub descriptors: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_payload: MOST, queue: QUEUE, descriptors: false }
    }
}

impl World {
    /// ipc_queue.
    pub fn queue(&mut self, number: usize, kind: u8, size: usize) {
        let connection = &mut self.connections[number];
        let bytes = frame(kind, size, connection.outgoing.len());
        let message = message_of(&bytes);
        let result = call(|| unsafe { ipc_queue(connection.info, &message) });
        trace!("  {size} bytes are queued for {}", connection.fd);
        match result {
            Ok(()) if connection.reads => connection.outgoing.extend(bytes),
            result => connection.assert_refusal(result, bytes.len(), connection.queued()),
        }
    }

    /// ipc_flush, and ipc_pending before and after it. ipc_flush may wait only if it ends at once.
    pub fn flush(&mut self, number: usize) {
        let connection = &self.connections[number];
        connection.check_pending();
        let timeout = if connection.queued() == 0 { -1 } else { 0 };
        let result = call(|| unsafe { ipc_flush(connection.info, timeout) });
        trace!("  {} is flushed: {result:?}", connection.fd);
        let late = Err((IPC_ERROR_USOCK_SEND, libc::ETIMEDOUT));
        let closed = Err((IPC_ERROR_USOCK_SEND, libc::EPIPE));
        if connection.reads {
            assert_eq!(result, if connection.queued() == 0 { Ok(()) } else { late });
        } else {
            assert!(result == Ok(()) || result == closed, "{result:?}");
        }
        connection.check_pending();
    }

    /// Messages that were queued for another connection, which the program has closed with close(2), do not
    /// belong to the connection that has its number now: ipc_queue does not check that each time, ipc_flush
    /// does.
    pub fn forget_other_queue(&self, number: usize) {
        let result = call(|| unsafe { ipc_flush(self.connections[number].info, 0) });
        assert!(matches!(result, Ok(()) | Err((IPC_ERROR_USOCK_SEND, libc::EBADF))), "{result:?}");
    }

    /// ipc_limits, of a connection or of the service.
    pub fn limit(&mut self, number: Option<usize>, max_payload: usize, queue: usize) {
        trace!("  limits of {number:?}: {max_payload}, {queue}");
        let or = |limit, without| if limit == 0 { without } else { limit };
        let set = |settings: &mut Settings| {
            (settings.max_payload, settings.queue) = (or(max_payload, MOST), or(queue, QUEUE));
        };
        let info: *const _ = match number {
            Some(number) if self.connections[number].next() == Next::TooLong => return,
            Some(number) => self.connections[number].info,
            None if self.srv.is_none() => return,
            None => self.srv(),
        };
        let max_payload = u32::try_from(max_payload).unwrap();
        assert_eq!(call(|| unsafe { ipc_limits(info, max_payload, queue) }), Ok(()));
        match number {
            None => set(&mut self.settings),
            Some(number) => {
                let connection = &mut self.connections[number];
                set(&mut connection.settings);
                connection.sent.limit(connection.settings.max_payload);
                let is_over = connection.next() == Next::TooLong;
                connection.over_by_limit = is_over.then_some(connection.sent.len());
            }
        }
    }
}

impl Connection {
    /// ipc_pending returns the number of bytes that the kernel does not have.
    fn check_pending(&self) {
        let mut bytes = usize::MAX;
        assert_eq!(call(|| unsafe { ipc_pending(self.info, &mut bytes) }), Ok(()));
        if self.reads {
            assert_eq!(bytes, self.queued(), "ipc_pending");
        }
        let nowhere = call(|| unsafe { ipc_pending(self.info, ptr::null_mut()) });
        assert_eq!(nowhere, Err((IPC_ERROR_USOCK_SEND, libc::EINVAL)));
    }

    /// A message was refused: the queue has no room, or the peer does not read.
    pub fn assert_refusal(&self, result: Result<(), (ipc_errors, i32)>, size: usize, queued: usize) {
        match result {
            Ok(()) => assert!(!self.reads),
            Err((IPC_ERROR_USOCK_SEND, libc::EPIPE)) => assert!(!self.reads, "EPIPE, and the peer reads"),
            Err((IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, libc::EAGAIN)) => {
                assert!(queued + size > self.settings.queue, "no room after {queued} bytes");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The message of a frame.
pub fn message_of(frame: &[u8]) -> ipc_message {
    ipc_message {
        r#type: frame[0] as c_char,
        length: u32::try_from(frame.len() - HEADER).unwrap(),
        payload: frame[HEADER..].as_ptr().cast_mut().cast(),
    }
}
