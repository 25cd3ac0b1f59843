//! One connection's memory: the half-received frame, the bytes read ahead, the bytes not yet sent. A connection that
//! has none of them has no such memory at all. What the program has set for it is kept beside that.

#![forbid(unsafe_code)]

use std::ffi::CString;

use nix::unistd::getpid;

use crate::connection::frame_decoder::{FrameDecoder, MaxPayload};
use crate::connection::send_queue::{QUEUE_LIMIT, Room, SendQueue};
use crate::connection::turn::Turn;
use crate::kernel::file::FileId;
use crate::process::fork_epoch;

/// What a program may set for a connection, or for all that a service accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The longest payload that the peer may announce.
    pub longest: MaxPayload,
    /// Bytes that may wait to be sent; none if the program has set no limit of its own.
    pub queue: Option<usize>,
    /// Whether descriptors are received.
    pub descriptors: bool,
}

impl Settings {
    /// Sets both limits; 0 is the default.
    pub fn set_limits(&mut self, longest: usize, queue: usize) {
        let default = Self::default();
        self.longest = if longest == 0 { default.longest } else { MaxPayload(longest) };
        self.queue = (queue != 0).then_some(queue);
    }

    /// How far the queue may grow.
    pub fn room(self) -> Room {
        Room::Own(self.queue.unwrap_or(QUEUE_LIMIT))
    }

    /// What comes in, from now on.
    pub fn decoder(self) -> FrameDecoder {
        let mut decoder = FrameDecoder::default();
        self.apply(&mut decoder);
        decoder
    }

    /// Has what comes in keep to the settings.
    pub fn apply(self, decoder: &mut FrameDecoder) {
        decoder.longest = self.longest;
        if self.descriptors {
            decoder.descriptors.get_or_insert_default();
        }
    }
}

/// A service that this process, or the one it was forked from, has opened.
pub struct Service {
    /// Which file was made at its path; none if somebody else has made the socket, whose the file is, too.
    pub file: Option<FileId>,
    /// Which process made it: its number, and how many forks lie between the program's start and it. Processes of
    /// different PID namespaces may have the same number.
    pub maker: (i32, u32),
    /// Where that file is, if the program has another path for it, one that depends on its directory.
    pub absolute: Option<CString>,
}

impl Service {
    /// The process that calls.
    pub fn this_process() -> (i32, u32) {
        (getpid().as_raw(), fork_epoch::generation())
    }
}

/// One connection's memory, or one service's.
pub struct Connection {
    /// What has come in.
    pub decoder: FrameDecoder,
    /// What is yet to go out.
    pub send_queue: SendQueue,
    /// Which thread is in the middle of sending a frame: no other may send meanwhile.
    pub turn: Turn,
    /// A fork left it to the parent to send the rest of a frame: this process must not send behind it.
    pub left_to_parent: bool,
    /// Whether frames were queued on the assumption that the descriptor is still this socket.
    pub is_assumed: bool,
    /// What the program has set: a copy.
    pub settings: Settings,
    /// What is known of a service.
    pub service: Option<Service>,
    /// Whether a list has set O_NONBLOCK for this listening socket, which the program had not.
    pub waits_for_clients: bool,
}

impl Connection {
    /// The memory of a connection for which the program has set this.
    pub fn new(settings: Settings) -> Self {
        Self {
            decoder: settings.decoder(),
            send_queue: SendQueue::default(),
            turn: Turn::default(),
            left_to_parent: false,
            is_assumed: false,
            settings,
            service: None,
            waits_for_clients: false,
        }
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self) -> bool {
        self.decoder.is_empty()
            && self.may_send()
            && self.turn.is_unused()
            && self.service.is_none()
            && !self.waits_for_clients
    }

    /// Whether anything is yet to be sent: queued, or being written by a thread.
    pub fn has_unsent(&self) -> bool {
        !self.send_queue.is_empty() || !self.turn.is_unused()
    }

    /// Whether nothing stands before what is to be sent next.
    pub fn may_send(&self) -> bool {
        self.send_queue.is_empty() && self.turn.is_free() && !self.left_to_parent
    }
}
