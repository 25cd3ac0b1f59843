//! One connection: its state in the program, what its peer has done, and the events that must be reported for
//! it.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use ipc::capi::types::ipc_connection_info;
use nix::errno::Errno;

use super::queueing::Settings;
use super::sockets;
use crate::targets::stream::{Next, Stream};
use crate::targets::trace;

/// How the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client of the service.
    Client,
    /// A connection that the program has made itself.
    Own,
    /// A descriptor that was added with ipc_add_fd.
    Extra,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the backlog of the service.
    Waiting,
    /// Accepted and in the list, but not reported yet: the end of the connection that had its number before
    /// was reported first.
    Fresh,
    /// In normal use.
    Open,
    /// An ERROR was reported; the DISCONNECTION follows.
    ErrorReported,
    /// The program has closed the descriptor.
    Closed,
    /// No event follows; the structure is freed.
    Over,
}

/// Whether an event must be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    Never,
    /// The event may be reported or not.
    Perhaps,
    Certainly,
}

pub struct Connection {
    pub kind: Kind,
    pub state: State,
    /// The program's structure; NULL in the states Waiting and Over.
    pub info: *mut ipc_connection_info,
    pub fd: RawFd,
    pub peer: Option<OwnedFd>,
    /// The bytes that the peer has sent.
    pub sent: Stream,
    /// Bytes that the peer will send, piece by piece.
    pub unsent: VecDeque<u8>,
    /// Whether the peer has stopped sending.
    pub ended: bool,
    /// Whether the peer reads.
    pub reads: bool,
    /// Whether the connection fails before it ends: the peer has closed with bytes unread.
    pub reset: Due,
    /// Bytes that the program has written and the peer has not read; how many bytes the peer has read before;
    /// and the offsets of messages with which a descriptor is passed, counted from the first byte ever
    /// written.
    pub outgoing: VecDeque<u8>,
    pub has_read: usize,
    pub outgoing_descriptors: VecDeque<usize>,
    /// Whether such descriptors may be lost.
    pub may_lack_descriptors: bool,
    /// Whether written bytes may be lost.
    pub lossy: bool,
    /// Whether the DISCONNECTION is reported if the program closes the connection itself.
    pub own_end: Due,
    /// The peer announced more than a limit that the program has set since. The library may have that header
    /// in memory, and checks it again when the peer has sent more than this many bytes.
    pub over_by_limit: Option<usize>,
    /// Whether the connection was in the list during a call that waits: the library may have read ahead.
    pub is_looped: bool,
    /// How often others were reported while an event of this connection was due.
    pub passed_over: usize,
    /// Whether the end of file of an extra descriptor was reported.
    pub end_reported: bool,
    /// Whether the program reads this extra descriptor itself.
    pub is_watched: bool,
    pub settings: Settings,
    /// The offsets of frames with which descriptors were sent, and how many descriptors the program gets, if
    /// that is certain.
    pub passed: VecDeque<(usize, Option<usize>)>,
    /// Whether the number now belongs to another file of the program.
    pub number_taken: bool,
    /// The same open file at another number: as if another process had it open.
    pub copy: Option<OwnedFd>,
    /// Whether the program has put another socket at the number while the entry was in the list: no event
    /// names the entry before it is deleted and added again.
    pub is_dead: bool,
    /// Whether the connection is in the list that the program does not use now.
    pub is_elsewhere: bool,
    /// Whether the entry differs from the one that the library knows, or has another number.
    pub is_unnoticed: bool,
    /// The pointer of ipc_set_data.
    pub data: Option<usize>,
    /// Whether the program has ended the connection with ipc_end.
    pub was_ended: bool,
}

impl Connection {
    pub fn new(kind: Kind, fd: RawFd, peer: OwnedFd) -> Self {
        Self {
            kind,
            state: if kind == Kind::Client { State::Waiting } else { State::Open },
            info: ptr::null_mut(),
            fd,
            peer: Some(peer),
            sent: Stream::default(),
            unsent: VecDeque::new(),
            ended: false,
            reads: true,
            reset: Due::Never,
            outgoing: VecDeque::new(),
            has_read: 0,
            outgoing_descriptors: VecDeque::new(),
            may_lack_descriptors: false,
            lossy: false,
            own_end: if kind == Kind::Client { Due::Certainly } else { Due::Never },
            over_by_limit: None,
            is_looped: false,
            passed_over: 0,
            end_reported: false,
            is_watched: false,
            settings: Settings::default(),
            passed: VecDeque::new(),
            number_taken: false,
            copy: None,
            is_dead: false,
            is_elsewhere: false,
            is_unnoticed: false,
            data: None,
            was_ended: false,
        }
    }

    /// Whether this is a connection, not an extra descriptor, that the program may use.
    pub fn is_usable(&self) -> bool {
        self.kind != Kind::Extra && matches!(self.state, State::Open | State::ErrorReported)
    }

    /// Whether the program may add the connection to the list again. A watched descriptor would then be read
    /// by the library.
    pub fn may_be_added(&self) -> bool {
        self.state == State::Open && !self.is_watched
    }

    /// The next element that the peer has sent and that was not reported.
    pub fn next(&self) -> Next<'_> {
        self.sent.next(self.sent.len())
    }

    /// How many bytes the library has queued.
    pub fn queued(&self) -> usize {
        match &self.peer {
            Some(peer) if self.is_usable() && self.reads => {
                self.outgoing.len() - sockets::unread(peer.as_raw_fd())
            }
            _ => 0,
        }
    }

    /// Whether the disconnection can be reported now: the queue for a peer that reads is sent first.
    fn end_is_due(&self) -> bool {
        self.ended && (!self.reads || self.queued() == 0)
    }

    /// Whether an event of the connection is certain, if it is in the list.
    pub fn event_is_due(&self) -> bool {
        match (self.state, self.kind) {
            (State::Waiting | State::Over, _) => false,
            _ if self.is_dead => false,
            (State::Closed, _) => self.own_end == Due::Certainly,
            (State::Fresh | State::ErrorReported, _) => true,
            (State::Open, Kind::Extra) => self.sent.is_partial() || self.ended && !self.end_reported,
            (State::Open, _) => {
                let next = match self.next() {
                    Next::Nothing => false,
                    Next::Frame(..) => true,
                    Next::TooLong => self.over_by_limit.is_none_or(|sent| sent < self.sent.len()),
                };
                next || self.reset == Due::Certainly || self.end_is_due()
            }
        }
    }

    /// Whether an event of the connection is possible at any time, if it is in the list.
    pub fn is_alive(&self) -> Due {
        match self.state {
            State::Waiting | State::Over => Due::Never,
            _ if self.is_dead => Due::Never,
            State::Closed => self.own_end,
            State::Fresh | State::ErrorReported => Due::Certainly,
            State::Open if self.kind == Kind::Extra && self.end_reported => Due::Never,
            State::Open => Due::Certainly,
        }
    }

    pub fn assert_error_is_due(&self) {
        match self.state {
            State::Open if self.kind != Kind::Extra => match self.next() {
                Next::TooLong => {}
                Next::Nothing => assert!(self.reset >= Due::Perhaps, "an ERROR that nothing has caused"),
                Next::Frame(..) => panic!("an ERROR before a message"),
            },
            // The library could not know that the number belongs to another file.
            State::Closed if self.number_taken => {}
            state => panic!("an ERROR of a connection that is {state:?}"),
        }
    }

    pub fn assert_end_is_due(&self) {
        match self.state {
            State::Open if self.kind != Kind::Extra => {
                assert!(self.ended, "a DISCONNECTION of a peer that has not closed");
                let is_over = self.next() == Next::Nothing || self.over_by_limit.is_some();
                assert!(is_over, "a DISCONNECTION before messages that were sent");
                assert!(self.reset != Due::Certainly, "a DISCONNECTION without the ERROR before it");
                assert!(self.end_is_due(), "a DISCONNECTION before the queue is sent");
            }
            State::ErrorReported => {}
            State::Closed => {
                assert!(self.own_end >= Due::Perhaps, "the DISCONNECTION of one closed by the program")
            }
            state => panic!("a DISCONNECTION of a connection that is {state:?}"),
        }
    }

    /// The peer sends these bytes, as far as the kernel accepts them; returns how many.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let Some(peer) = &self.peer else { return 0 };
        let count = match self.kind {
            _ if self.ended => 0,
            Kind::Extra => sockets::write(peer, bytes),
            _ => sockets::send(peer, bytes),
        };
        trace!("  the peer of {} sends {count} bytes", self.fd);
        self.sent.send(&bytes[..count]);
        count
    }

    /// The peer shuts down sending, receiving, or both.
    pub fn shut_down(&mut self, how: i32) {
        let Some(peer) = &self.peer else { return };
        trace!("  the peer of {} shuts down {how}", self.fd);
        sockets::shutdown(peer, how);
        self.ended |= how != libc::SHUT_RD;
        if how != libc::SHUT_WR {
            self.reads = false;
            self.lossy = true;
        }
    }

    /// The peer closes its end.
    pub fn leave(&mut self) {
        let Some(peer) = self.peer.take() else { return };
        if self.kind != Kind::Extra && sockets::unread(peer.as_raw_fd()) > 0 {
            // If its end of file was reported before, the library may be closing the connection already.
            self.reset = if self.ended { Due::Perhaps } else { Due::Certainly };
        }
        trace!("  the peer of {} closes; reset: {:?}", self.fd, self.reset);
        (self.ended, self.reads, self.lossy) = (true, false, true);
        self.unsent.clear();
    }

    /// The peer reads at most `count` bytes, which must be those that were written; returns whether it read
    /// any.
    pub fn read(&mut self, count: usize) -> bool {
        let Some(peer) = self.peer.as_ref().filter(|_| self.reads && self.kind != Kind::Extra) else {
            return false;
        };
        match sockets::receive(peer.as_raw_fd(), count) {
            Ok((bytes, descriptors)) if !bytes.is_empty() => {
                trace!("  the peer of {} reads {} bytes", self.fd, bytes.len());
                assert!(bytes.len() <= self.outgoing.len(), "a peer got more than it was sent");
                self.has_read += bytes.len();
                assert!(
                    self.outgoing.drain(..bytes.len()).eq(bytes),
                    "a peer got other bytes than it was sent"
                );
                let arrived = self.outgoing_descriptors.partition_point(|begin| *begin < self.has_read);
                let is_right = descriptors == arrived || descriptors < arrived && self.may_lack_descriptors;
                assert!(is_right, "{descriptors} descriptors go with bytes that {arrived} go with");
                self.outgoing_descriptors.drain(..arrived);
                true
            }
            Err(Errno::EAGAIN) => false,
            Ok(_) | Err(Errno::ECONNRESET) => {
                trace!("  the peer of {} has reached end of file", self.fd);
                assert!(
                    matches!(self.state, State::Closed | State::Over) && self.copy.is_none(),
                    "closed, and not reported"
                );
                assert!(self.lossy || self.outgoing.is_empty(), "{} bytes are lost", self.outgoing.len());
                self.reads = false;
                false
            }
            Err(errno) => panic!("a peer's read: {errno}"),
        }
    }
}
