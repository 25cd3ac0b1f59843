//! Receiving for a connection's turn: the next frame of the bytes read ahead, or of the bytes that the kernel
//! has.
//!
//! The `_quickly` functions are the fast path: they handle the common cases and return `None` for all others.
//! Whatever they have received before that is in the connection's memory, so that [`Receiver::receive`] goes
//! on with it.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::frame_decoder::{
    DecodeError, Frame, FrameDecoder, READ_AHEAD, ReadError, ReadOutcome, first_room,
};
use crate::connection::received_fds::Unwanted;
use crate::connection::table::{self, Slot};
use crate::event_loop::members::{Reason, Token};
use crate::frame::c_heap::{Block, OutOfMemory};
use crate::frame::header::{self, HEADER_SIZE, Header, MAX_PAYLOAD};
use crate::kernel::ancillary::Arriving;
use crate::kernel::{ancillary, socket};
use crate::process::entry_guard::EntryGuard;

/// How often a connection receives in one turn, as long as a partly received frame has more bytes.
const RECEIVES: usize = 4;

/// From this size on, copying a payload costs more than receiving it apart from its header.
const LARGE: usize = 4096;

/// The result of a turn's receiving.
pub enum Received {
    /// A whole frame.
    Message(Frame),
    /// Nothing to report yet.
    Nothing,
    /// The peer sends no more, for this reason.
    End(Reason),
    /// The peer broke the protocol, or the connection failed.
    Broken(Reason),
    /// The program has closed the descriptor.
    Closed,
}

/// The result of the fast path.
pub enum Quick {
    /// A whole frame, and whether bytes are left to cut.
    Frame(Frame, bool),
    /// A part of a payload; its rest has not arrived.
    Part,
}

/// What the connections of one list share for receiving.
#[derive(Default)]
pub struct Receiver {
    /// The payload size of the last message: the next messages are likely to have the same.
    expected: usize,
    /// A buffer for read-ahead that no connection uses at present.
    spare: Block,
    /// How many frames were received.
    pub received: u64,
    /// An error of a receive in the fast path: the kernel reports an error once, so the step finds it here.
    failure: Option<(Token, Errno)>,
}

impl Receiver {
    /// Cuts a frame of the bytes read ahead, or receives one; also returns whether bytes are left to cut. The
    /// number must be verified.
    pub fn receive(
        &mut self,
        guard: &EntryGuard,
        token: Token,
        fd: RawFd,
    ) -> Result<(Received, bool), OutOfMemory> {
        let mut slot = table::lock_unverified(guard, fd);
        // Before anything is received, so that no bytes are lost for lack of memory.
        slot.reserve().map_err(|_| OutOfMemory)?;
        let refuses = slot.refuses_descriptors();
        let mut unwanted = Unwanted::default();
        let (outcome, cut, more);
        let mut end = Reason::Ended;
        if let Some(connection) = slot.get() {
            (outcome, cut) = self.pull(&mut connection.decoder, token, fd, refuses, &mut unwanted);
            more = connection.decoder.has_ahead();
            if connection.decoder.has_begun() {
                end = Reason::Cut;
            }
            if connection.is_idle() {
                slot.remove_if_idle();
            }
        } else {
            let mut decoder = slot.settings().decoder();
            (outcome, cut) = self.pull(&mut decoder, token, fd, refuses, &mut unwanted);
            more = decoder.has_ahead();
            let connection = if decoder.is_empty() { None } else { slot.connection().ok() };
            if let Some(connection) = connection {
                connection.decoder = decoder;
            }
        }
        drop(slot);
        drop(unwanted);
        let received = match (outcome, cut) {
            (_, Ok(Some(frame))) => Received::Message(frame),
            (Ok(ReadOutcome::End), _) => Received::End(end),
            (Err(ReadError::System(Errno::EAGAIN | Errno::EINTR)), _) => Received::Nothing,
            (Err(ReadError::System(Errno::EBADF)), _) => Received::Closed,
            (Err(ReadError::System(_)), _) => Received::Broken(Reason::Reset),
            (_, Err(DecodeError::TooLong)) => Received::Broken(Reason::TooLong),
            (Err(ReadError::OutOfMemory), _) | (_, Err(DecodeError::OutOfMemory)) => return Err(OutOfMemory),
            (_, Ok(None)) => Received::Nothing,
        };
        Ok((received, more))
    }

    /// The next frame, of the bytes read ahead or of the bytes that the kernel has.
    #[inline(always)]
    pub fn next_quickly(&mut self, guard: &EntryGuard, token: Token, fd: RawFd) -> Option<Quick> {
        let mut slot = table::lock(guard, fd);
        if slot.get().is_some() {
            return self.go_on_quickly(slot.into(), token, fd);
        }
        slot.plain()?;
        if self.expected >= LARGE {
            return self.receive_expected_quickly(slot.into(), token, fd);
        }
        self.spare.reserve(READ_AHEAD).ok()?;
        self.spare.clear();
        let received = self.spare.fill(READ_AHEAD, |room| socket::receive(fd, room));
        let count = received.map_err(|errno| self.note_failure(token, errno)).ok()?;
        let front = header::parse_front(self.spare.bytes(), MAX_PAYLOAD).ok().flatten();
        let whole = front.filter(|(_, payload)| HEADER_SIZE + payload.len() == count);
        if let Some((header, Ok(payload))) = whole.map(|(header, payload)| (header, Block::copy_of(payload)))
        {
            self.note_frame(header.length);
            return Some(Quick::Frame(Frame::new(header.kind, payload), false));
        }
        if count > 0 {
            self.keep_ahead(slot.into());
        }
        None
    }

    /// Keeps the received bytes for the step.
    #[cold]
    #[inline(never)]
    fn keep_ahead(&mut self, mut slot: Slot<'_>) {
        if let Ok(connection) = slot.connection() {
            connection.decoder.read_ahead(&mut self.spare);
        }
    }

    /// A frame of the expected size, received directly into the block that the program gets.
    fn receive_expected_quickly(&mut self, mut slot: Slot<'_>, token: Token, fd: RawFd) -> Option<Quick> {
        let room = first_room(self.expected, || socket::available(fd));
        let mut payload = Block::with_capacity(room).ok()?;
        let (mut head, mut filled) = ([0; HEADER_SIZE], 0);
        let count = payload.fill(room, |room| {
            let (count, rest) = ancillary::receive_apart(fd, &mut head, room, Arriving::None)?;
            filled = count;
            Ok::<_, Errno>(rest)
        });
        match Header::decode(head, MAX_PAYLOAD) {
            Ok(header) if filled == HEADER_SIZE && count == Ok(header.length) => {
                if payload.capacity() > 2 * payload.len() {
                    payload.shrink();
                }
                self.note_frame(header.length);
                return Some(Quick::Frame(Frame::new(header.kind, payload), false));
            }
            _ => {}
        }
        if let Err(errno) = count {
            self.note_failure(token, errno);
            return None;
        }
        let connection = if filled > 0 { slot.connection().ok() } else { None };
        connection?.decoder.begin(head, filled, payload);
        self.cut_quickly(slot)
    }

    fn note_frame(&mut self, size: usize) {
        self.expected = size;
        self.received += 1;
    }

    fn note_failure(&mut self, token: Token, errno: Errno) {
        if errno != Errno::EAGAIN {
            self.failure = Some((token, errno));
        }
    }

    /// Goes on with bytes read ahead, or with a frame that has begun.
    #[inline(never)]
    fn go_on_quickly(&mut self, mut slot: Slot<'_>, token: Token, fd: RawFd) -> Option<Quick> {
        if !slot.get()?.decoder.has_ahead() {
            let has_no_settings = slot.has_no_settings();
            let decoder = &mut slot.get()?.decoder;
            if !decoder.is_amid_payload() || !has_no_settings || self.failure.is_some() {
                return None;
            }
            match decoder.receive_exact(|room, _| socket::receive(fd, room)) {
                Ok(ReadOutcome::All | ReadOutcome::Full) => {}
                Err(ReadError::System(errno)) => {
                    self.note_failure(token, errno);
                    return None;
                }
                Ok(ReadOutcome::End) | Err(ReadError::OutOfMemory) => return None,
            }
        }
        self.cut_quickly(slot)
    }

    /// The next frame of the received bytes.
    #[inline(always)]
    fn cut_quickly(&mut self, mut slot: Slot<'_>) -> Option<Quick> {
        let decoder = &mut slot.get()?.decoder;
        if decoder.descriptors.is_some() {
            return None;
        }
        let Some(frame) = decoder.cut().ok()? else {
            return if decoder.is_amid_payload() { Some(Quick::Part) } else { None };
        };
        self.note_frame(frame.payload.len());
        let has_more = decoder.has_ahead();
        if !has_more {
            decoder.return_spare(&mut self.spare);
            slot.remove_if_idle();
        }
        Some(Quick::Frame(frame, has_more))
    }

    /// Cuts a frame of the received bytes, and receives until there is one, [`RECEIVES`] times at most.
    fn pull(
        &mut self,
        decoder: &mut FrameDecoder,
        token: Token,
        fd: RawFd,
        refuses: bool,
        unwanted: &mut Unwanted,
    ) -> (Result<ReadOutcome, ReadError>, Result<Option<Frame>, DecodeError>) {
        let mut cut = decoder.cut();
        let mut outcome = Ok(ReadOutcome::Full);
        for _ in 0..RECEIVES {
            let (Ok(None), Ok(ReadOutcome::Full)) = (&cut, outcome) else { break };
            if let Some((_, errno)) = self.failure.take().filter(|(failed, _)| *failed == token) {
                outcome = Err(ReadError::System(errno));
                break;
            }
            outcome = if self.expected < LARGE || decoder.has_begun() || decoder.descriptors.is_some() {
                decoder.receive_ahead(&mut self.spare, |room, wanted| {
                    unwanted.receive(refuses, wanted, |arriving| ancillary::receive(fd, room, arriving))
                })
            } else {
                let room = first_room(self.expected, || socket::available(fd));
                decoder.receive_expected(room, |head, room| {
                    unwanted
                        .receive(refuses, None, |arriving| ancillary::receive_apart(fd, head, room, arriving))
                })
            };
            if let Ok(ReadOutcome::All | ReadOutcome::Full) = outcome {
                cut = decoder.cut();
            }
        }
        if let Ok(Some(frame)) = &cut {
            self.note_frame(frame.payload.len());
        }
        unwanted.collect(&mut decoder.descriptors);
        decoder.return_spare(&mut self.spare);
        (outcome, cut)
    }
}
