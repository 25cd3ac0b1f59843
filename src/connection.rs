//! One connection's memory: the half-received frame, the bytes read ahead, the bytes not yet sent. A
//! connection that has none of them has no such memory at all.

#![forbid(unsafe_code)]

use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::section::Thread;

/// One connection's memory.
pub struct Connection {
    /// Which socket it belongs to, beyond its number.
    pub cookie: u64,
    /// What has come in.
    pub inbound: Inbound,
    /// What is yet to go out.
    pub outbound: Outbound,
    /// The thread that is in the middle of sending a frame: no other may send meanwhile.
    pub writer: Option<Thread>,
    /// A fork left it to the parent to send the rest of a frame: this process must not send behind it.
    pub left_to_parent: bool,
}

impl Connection {
    /// The memory of the socket with this cookie.
    pub fn new(cookie: u64) -> Self {
        Self {
            cookie,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            writer: None,
            left_to_parent: false,
        }
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self) -> bool {
        self.inbound.is_empty() && self.may_send()
    }

    /// Whether nothing stands before what is to be sent next.
    pub fn may_send(&self) -> bool {
        self.outbound.is_empty() && self.writer.is_none() && !self.left_to_parent
    }
}
