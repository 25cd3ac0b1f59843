//! Reading one frame, for the calls that wait for one: `ipc_read`, `ipc_message_read`, `usock_recv`.
//!
//! These calls receive no byte beyond their frame, so that the program may poll the descriptor itself. Bytes
//! that the event loop has read ahead are used first. A read that is interrupted or times out keeps the
//! partly received frame for the next call.
//!
//! The wait for a frame is recv(2) with MSG_PEEK, which takes nothing and obeys O_NONBLOCK, SO_RCVTIMEO and
//! SA_RESTART by itself. Header and payload of a new frame are then received at once, under the lock of the
//! descriptor's entry, if the number still is the socket of the wait: `ipc_close` counts the close in the
//! entry, and after a close(2) by another thread the socket's cookie differs. poll(2) is the wait in three
//! cases: for the rest of a frame that arrived in pieces, if the socket has a timeout; while bytes are queued
//! on any connection; and if the call has its own deadline. It lasts for what is left of the timeout or the
//! deadline.

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::calls::flow::Flow;
use crate::calls::flush::{Flushing, is_any_queued};
use crate::connection::frame_decoder::{ANNOUNCED, DecodeError, Frame, ReadError, ReadOutcome, first_room};
use crate::connection::received_fds::Unwanted;
use crate::connection::send::any_queued;
use crate::connection::state::Connection;
use crate::connection::table::{self, Locked, Plain, Slot};
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::loops;
use crate::frame::c_heap::{Block, OutOfMemory};
use crate::frame::header::{HEADER_SIZE, Header, MAX_PAYLOAD};
use crate::kernel::ancillary::Arriving;
use crate::kernel::deadline::{Deadline, Moment};
use crate::kernel::socket::{Cookie, SMALL};
use crate::kernel::wait::Wait;
use crate::kernel::{ancillary, signals, socket};
use crate::process::entry_guard::EntryGuard;

/// A read, between its steps. Plain data.
#[derive(Clone, Copy)]
pub struct Read {
    fd: RawFd,
    /// When the call began: the socket's timeout counts from here.
    begun: Moment,
    /// The socket of the wait, and whether the cookie is certain; also how often the library had given out
    /// and closed the number.
    cookie: Cookie,
    is_certain: bool,
    counters: (u32, u32),
    /// Until when to wait: the call's own deadline, or the socket's timeout once it was asked for.
    deadline: Option<Deadline>,
    /// Whether `deadline` is the call's own.
    is_timed: bool,
    flushing: Flushing,
}

fn failed(errno: Errno) -> Error {
    if errno == Errno::ENOMEM { OutOfMemory.into() } else { Error::new(Code::IPC_ERROR_USOCK_RECV, errno) }
}

/// Why there is no frame.
enum Failure {
    /// The connection has ended.
    End(Errno),
    /// Any other error: a partly received frame is kept for another call.
    Passing(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Passing(error)
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        if errno == Errno::ECONNRESET { Self::End(errno) } else { Self::Passing(failed(errno)) }
    }
}

impl From<DecodeError> for Failure {
    fn from(cut: DecodeError) -> Self {
        match cut {
            DecodeError::OutOfMemory => Self::Passing(OutOfMemory.into()),
            DecodeError::TooLong => Self::Passing(failed(Errno::EPROTO)),
        }
    }
}

/// The result of a look for a frame.
enum Look {
    Frame(Frame),
    /// There is no frame yet; `has_begun`: a part of one was received.
    Nothing {
        has_begun: bool,
    },
}

type Admit<'a> = &'a mut dyn FnMut(Header) -> Result<(), Error>;

impl Read {
    /// A read of the connection's next frame. A `deadline` other than `NONE` replaces the timeout of the
    /// socket.
    pub fn new(fd: RawFd, deadline: Deadline) -> Self {
        let is_timed = deadline != Deadline::NONE;
        Self {
            fd,
            begun: Moment::now(),
            cookie: Cookie::NONE,
            is_certain: false,
            counters: (0, 0),
            deadline: is_timed.then_some(deadline),
            is_timed,
            flushing: Flushing::default(),
        }
    }

    /// The fast path of the first step, for a connection without memory in use: begins the wait for a header.
    /// Returns false in any other case.
    #[inline]
    pub fn begin_quickly(&mut self, guard: &EntryGuard, wait: &mut Wait) -> bool {
        let Some(plain) = self.plain(&table::lock(guard, self.fd)) else { return false };
        self.cookie = plain.identity.cookie;
        self.counters = plain.identity.counters;
        wait.peek(self.fd, HEADER_SIZE);
        true
    }

    #[inline]
    fn plain(&self, slot: &Locked<'_>) -> Option<Plain> {
        slot.plain().filter(|plain| !self.is_timed && !plain.is_listed && !any_queued())
    }

    /// The fast path of a further step: takes the frame whose header was peeked, if all of it has arrived. In
    /// any other case returns `None`; nothing is done then, except that received bytes are in the connection's
    /// memory.
    #[inline]
    pub fn take_quickly(&self, guard: &EntryGuard, wait: &Wait) -> Option<Frame> {
        let slot = table::lock(guard, self.fd);
        let plain = self.plain(&slot)?;
        let peeked = wait.first()?;
        let header = Header::decode(*peeked, MAX_PAYLOAD).ok().filter(|header| header.length <= ANNOUNCED)?;
        if plain.identity.counters != self.counters || !self.cookie.is_of(self.fd) {
            return None;
        }
        let mut payload = Block::with_capacity(header.length).ok()?;
        if HEADER_SIZE + header.length <= SMALL {
            return self.take_small(slot, *peeked, payload);
        }
        let mut head = [0; HEADER_SIZE];
        let mut filled = 0;
        // If the receive fails, nothing was received.
        let _ = payload.fill(header.length, |room| {
            let (count, rest) = ancillary::receive_apart(self.fd, &mut head, room, Arriving::None)?;
            filled = count;
            Ok::<_, Errno>(rest)
        });
        if filled == HEADER_SIZE && head == *peeked && payload.len() == header.length {
            return Some(Frame::new(header.kind, payload));
        }
        if filled > 0 {
            // Another thread has taken the frame that was seen, or only a part of the frame has arrived.
            keep_part(slot.into(), head, filled, payload);
        }
        None
    }

    /// The same for a frame that is received into one buffer. `payload` has room for its payload.
    #[inline(always)]
    fn take_small(&self, slot: Locked<'_>, peeked: [u8; HEADER_SIZE], mut payload: Block) -> Option<Frame> {
        let length = payload.capacity();
        let mut room = [const { MaybeUninit::uninit() }; SMALL];
        let (room, _) = room.split_at_mut_checked(HEADER_SIZE + length)?;
        // If the receive fails, nothing was received.
        let received = socket::receive(self.fd, room).ok()?;
        match received.split_first_chunk() {
            Some((head, rest)) if *head == peeked && rest.len() == length => {
                payload.push(rest);
                let [kind, ..] = peeked;
                Some(Frame::new(kind, payload))
            }
            _ => {
                keep_bytes(slot.into(), received, payload);
                None
            }
        }
    }

    /// The next step. `wait` has the result of the last wait, if there was one, and gets the next one.
    /// `admit` gets the frame's header first and can refuse the frame, which is then kept for another call.
    pub fn step(
        &mut self,
        guard: &mut EntryGuard,
        wait: &mut Wait,
        admit: Admit<'_>,
    ) -> Result<Flow<Frame>, Error> {
        let (mut unwanted, mut ended) = (Unwanted::default(), None);
        let mut slot = table::lock_verified(guard, self.fd);
        let look = self.look(&mut slot, wait, &mut unwanted, admit);
        if let Some(connection) = slot.get() {
            unwanted.collect(&mut connection.decoder.descriptors);
            if let Err(Failure::End(_)) = look {
                // A partly received frame will never be complete.
                let decoder = connection.settings.decoder();
                ended = Some(std::mem::replace(&mut connection.decoder, decoder));
            }
        }
        slot.remove_if_idle();
        drop(slot);
        drop((unwanted, ended));
        self.flushing.finish(guard);
        match look {
            Ok(Look::Frame(frame)) => Ok(Flow::Done(frame)),
            Ok(Look::Nothing { has_begun }) => self.wait_for_frame(guard, wait, has_begun),
            Err(Failure::Passing(error)) => {
                loops::note_input(guard, self.fd);
                Err(error)
            }
            Err(Failure::End(errno)) => Err(Error::new(Code::IPC_ERROR_CLOSED_RECIPIENT, errno)),
        }
    }

    /// Checks the result of the wait, and takes the frame if it is there.
    fn look(
        &mut self,
        slot: &mut Slot<'_>,
        outcome: &Wait,
        unwanted: &mut Unwanted,
        admit: Admit<'_>,
    ) -> Result<Look, Failure> {
        // Before anything is received, so that no bytes are lost for lack of memory.
        slot.reserve()?;
        let has_memory = slot.get().is_some_and(|connection| !connection.decoder.is_empty());
        if outcome.is_first() {
            (self.cookie, self.is_certain) = slot.last_cookie()?;
            self.counters = slot.counters();
            // While bytes are queued, the wait is for more than this socket; and with a deadline there may be
            // no time for a wait.
            let is_to_be_tried = has_memory || self.is_timed || is_any_queued();
            return if is_to_be_tried {
                self.take(slot, unwanted, admit)
            } else {
                Ok(Look::Nothing { has_begun: false })
            };
        }
        match outcome.result() {
            // The deadline may have passed.
            Ok(0) if outcome.is_poll() => return Ok(Look::Nothing { has_begun: has_memory }),
            Err(Errno::EINTR) if self.goes_on(outcome) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        if slot.counters() != self.counters {
            return Err(Errno::EBADF.into());
        }
        let cookie = slot.cookie_now()?;
        if !self.cookie.may_equal(cookie) {
            if self.is_certain {
                return Err(Errno::EBADF.into());
            }
            // The number was another socket's when it was last seen: the wait may have been for this socket
            // or for the former one.
            (self.cookie, self.is_certain) = (cookie, true);
            return Ok(Look::Nothing { has_begun: has_memory });
        }
        match outcome.peeked() {
            Ok(peeked) if !has_memory && !outcome.is_poll() && !peeked.is_empty() => {
                self.take_new(slot, peeked, unwanted, admit)
            }
            _ => self.take(slot, unwanted, admit),
        }
    }

    /// Whether to wait again after EINTR. poll(2) is ended by any handler. recv(2) without SO_RCVTIMEO is
    /// ended only by a handler without SA_RESTART; recv(2) with SO_RCVTIMEO is ended by any handler, and also
    /// when the process was stopped and continues, which does not end poll(2).
    fn goes_on(&mut self, outcome: &Wait) -> bool {
        if self.is_timed {
            return true;
        }
        if !signals::all_restart() {
            return false;
        }
        if !outcome.is_poll() {
            let Ok(time) = socket::receive_timeout(self.fd) else { return false };
            self.deadline = Some(Deadline::since(self.begun.microseconds(), time));
        }
        true
    }

    /// Takes a new frame whose header was peeked, in one receive.
    fn take_new(
        &mut self,
        slot: &mut Slot<'_>,
        peeked: &[u8],
        unwanted: &mut Unwanted,
        admit: Admit<'_>,
    ) -> Result<Look, Failure> {
        let settings = slot.settings();
        let (Ok(header), false) = (<[u8; HEADER_SIZE]>::try_from(peeked), settings.descriptors) else {
            return self.take(slot, unwanted, admit);
        };
        let header = Header::decode(header, settings.longest.0).map_err(|_| failed(Errno::EPROTO))?;
        admit(header)?;
        let mut decoder = settings.decoder();
        let fd = self.fd;
        let refuses = slot.refuses_descriptors();
        let room = first_room(header.length, || socket::available(fd));
        let outcome = decoder.receive_expected(room, |head, room| {
            unwanted.receive(refuses, None, |arriving| ancillary::receive_apart(fd, head, room, arriving))
        });
        match outcome {
            // Another thread or process has taken the frame.
            Err(ReadError::System(Errno::EAGAIN)) => return Ok(Look::Nothing { has_begun: false }),
            Err(ReadError::System(errno)) => return Err(errno.into()),
            Err(ReadError::OutOfMemory) => return Err(Failure::Passing(OutOfMemory.into())),
            Ok(ReadOutcome::End) => return Err(Failure::End(Errno::EPIPE)),
            Ok(ReadOutcome::All | ReadOutcome::Full) => {}
        }
        let is_empty = outcome == Ok(ReadOutcome::All);
        let cut = decoder.cut();
        if !decoder.is_empty() {
            slot.connection()?.decoder = decoder;
        }
        match cut? {
            Some(frame) => Ok(Look::Frame(frame)),
            None if is_empty => Ok(Look::Nothing { has_begun: true }),
            None => self.take(slot, unwanted, admit),
        }
    }

    /// Takes what is there, from memory first, up to the end of a frame.
    fn take(
        &mut self,
        slot: &mut Slot<'_>,
        unwanted: &mut Unwanted,
        admit: Admit<'_>,
    ) -> Result<Look, Failure> {
        let (fd, refuses) = (self.fd, slot.refuses_descriptors());
        let Connection { decoder, .. } = slot.connection()?;
        let mut outcome = Ok(ReadOutcome::Full);
        loop {
            if let Ok(Some(header)) = decoder.announced() {
                admit(header)?;
            }
            if let Some(frame) = decoder.cut()? {
                return Ok(Look::Frame(frame));
            }
            let has_begun = decoder.has_begun();
            if outcome == Ok(ReadOutcome::All) && !self.is_timed {
                // A receive with less than there was room for has taken all bytes: the wait will find whether
                // the connection has ended. A read with a deadline receives again instead, because there may
                // be no time for a wait.
                return Ok(Look::Nothing { has_begun });
            }
            outcome = decoder.receive_exact(|room, wanted| {
                unwanted.receive(refuses, wanted, |arriving| ancillary::receive(fd, room, arriving))
            });
            match outcome {
                Ok(ReadOutcome::All | ReadOutcome::Full) => {}
                Ok(ReadOutcome::End) if has_begun => return Err(Failure::End(Errno::ECONNRESET)),
                Ok(ReadOutcome::End) => return Err(Failure::End(Errno::EPIPE)),
                Err(ReadError::System(Errno::EAGAIN)) => return Ok(Look::Nothing { has_begun }),
                Err(ReadError::System(errno)) => return Err(errno.into()),
                Err(ReadError::OutOfMemory) => return Err(Failure::Passing(OutOfMemory.into())),
            }
        }
    }

    /// There is no frame yet: says what to wait for.
    fn wait_for_frame(
        &mut self,
        guard: &EntryGuard,
        wait: &mut Wait,
        has_begun: bool,
    ) -> Result<Flow<Frame>, Error> {
        if !has_begun && !is_any_queued() && self.deadline.is_none() {
            wait.peek(self.fd, HEADER_SIZE);
            return Ok(Flow::Wait);
        }
        let deadline = match self.deadline {
            Some(deadline) => deadline,
            None => {
                let is_nonblocking = socket::is_nonblocking(self.fd).map_err(failed)?;
                let time =
                    if is_nonblocking { 0 } else { socket::receive_timeout(self.fd).map_err(failed)? };
                *self.deadline.insert(Deadline::since(self.begun.microseconds(), time))
            }
        };
        match deadline.left() {
            0 => {
                loops::note_input(guard, self.fd);
                return Err(failed(if self.is_timed { Errno::ETIMEDOUT } else { Errno::EAGAIN }));
            }
            // This wait obeys SA_RESTART, which poll(2) does not.
            -1 if !is_any_queued() => wait.peek(self.fd, 1),
            left => self.flushing.wait_for_input(guard, wait, self.fd, left).map_err(failed)?,
        }
        Ok(Flow::Wait)
    }
}

/// Keeps a part of a frame for the next step.
#[cold]
#[inline(never)]
fn keep_part(mut slot: Slot<'_>, head: [u8; HEADER_SIZE], filled: usize, payload: Block) {
    if let Ok(connection) = slot.connection() {
        connection.decoder.begin(head, filled, payload);
    }
}

/// The same for the first bytes of a frame, or of several. `payload` is an empty block.
#[cold]
#[inline(never)]
fn keep_bytes(slot: Slot<'_>, received: &[u8], mut payload: Block) {
    let (front, rest) = received.split_at(received.len().min(HEADER_SIZE));
    let mut head = [0; HEADER_SIZE];
    head.iter_mut().zip(front).for_each(|(place, byte)| *place = *byte);
    payload.push(rest);
    if !front.is_empty() {
        keep_part(slot, head, front.len(), payload);
    }
}

/// Takes back a frame that could not be delivered to the program.
pub fn put_back(guard: &EntryGuard, fd: RawFd, frame: Frame) {
    // There is memory: the frame was received with it.
    if let Ok(connection) = table::lock_verified(guard, fd).connection() {
        connection.decoder.put_back(frame);
    }
    loops::note_input(guard, fd);
}
