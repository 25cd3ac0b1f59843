//! The memory of one connection: the partly received frame, the bytes read ahead, the bytes not yet sent. A
//! connection without any of them has no such memory. What the program has set for a connection is kept
//! separately (`table.rs`); here is a copy of it.
//!
//! All of it lies in the table of descriptors and is accessed under the lock of the descriptor's part.

#![forbid(unsafe_code)]

use std::ffi::CString;

use nix::unistd::getpid;

use crate::connection::frame_decoder::{FrameDecoder, MaxPayload};
use crate::connection::send_queue::{QUEUE_LIMIT, Room, SendQueue};
use crate::connection::send_turn::SendTurn;
use crate::kernel::file::FileId;
use crate::process::fork_epoch;

/// What a program may set for a connection, or for all connections that a service accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The longest payload that the peer may announce.
    pub longest: MaxPayload,
    /// The most bytes that may wait to be sent; `None` if the program has set no limit.
    pub queue: Option<usize>,
    /// Whether file descriptors (SCM_RIGHTS) are received.
    pub descriptors: bool,
}

impl Settings {
    /// Sets both limits, in bytes; 0 means the default.
    pub fn set_limits(&mut self, longest: usize, queue: usize) {
        let default = Self::default();
        self.longest = if longest == 0 { default.longest } else { MaxPayload(longest) };
        self.queue = (queue != 0).then_some(queue);
    }

    /// How far the send queue may grow.
    pub fn room(self) -> Room {
        Room::Own(self.queue.unwrap_or(QUEUE_LIMIT))
    }

    /// A decoder that follows these settings.
    pub fn decoder(self) -> FrameDecoder {
        let mut decoder = FrameDecoder::default();
        self.apply(&mut decoder);
        decoder
    }

    /// Applies these settings to a decoder in use.
    pub fn apply(self, decoder: &mut FrameDecoder) {
        decoder.longest = self.longest;
        if self.descriptors {
            decoder.descriptors.get_or_insert_default();
        }
    }
}

/// A service that this process, or the one it was forked from, has opened.
pub struct Service {
    /// The socket's file, made by this process at the service's path; `None` if the socket was made by
    /// another process, to which the file belongs, too.
    pub file: Option<FileId>,
    /// The process that made the file: its PID, and the number of forks between the program's start and that
    /// process. The PID alone is not enough: processes of different PID namespaces may have the same one.
    pub maker: (i32, u32),
    /// The absolute path of the file, if the path given by the program depends on the working directory.
    pub absolute: Option<CString>,
}

impl Service {
    /// The calling process, in the form of [`Service::maker`].
    pub fn this_process() -> (i32, u32) {
        (getpid().as_raw(), fork_epoch::generation())
    }
}

/// One connection's memory, or one service's.
pub struct Connection {
    /// Received bytes that are not a message yet.
    pub decoder: FrameDecoder,
    /// Bytes still to be sent.
    pub send_queue: SendQueue,
    /// The thread that is in the middle of sending a frame: no other thread may send meanwhile.
    pub turn: SendTurn,
    /// Set in the child of a fork when the parent has the rest of a frame to send: this process must not send
    /// after it.
    pub left_to_parent: bool,
    /// Whether frames were queued without checking that the descriptor is still this socket.
    pub is_assumed: bool,
    /// What the program has set: a copy.
    pub settings: Settings,
    /// For a listening socket: what the library knows of the service.
    pub service: Option<Service>,
    /// Whether a list, and not the program, has set O_NONBLOCK for this listening socket.
    pub waits_for_clients: bool,
}

impl Connection {
    /// The memory of a connection with these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            decoder: settings.decoder(),
            send_queue: SendQueue::default(),
            turn: SendTurn::default(),
            left_to_parent: false,
            is_assumed: false,
            settings,
            service: None,
            waits_for_clients: false,
        }
    }

    /// Whether there is nothing to keep, so that the memory can be removed.
    pub fn is_idle(&self) -> bool {
        self.decoder.is_empty()
            && self.may_send()
            && self.turn.is_unused()
            && self.service.is_none()
            && !self.waits_for_clients
    }

    /// Whether anything is still to be sent: bytes in the queue, or a frame that a thread is writing.
    pub fn has_unsent(&self) -> bool {
        !self.send_queue.is_empty() || !self.turn.is_unused()
    }

    /// Whether a new frame may be sent at once: the queue is empty, and no thread has the turn.
    pub fn may_send(&self) -> bool {
        self.send_queue.is_empty() && self.turn.is_free() && !self.left_to_parent
    }
}
