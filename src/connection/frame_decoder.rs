//! The bytes received on one connection that are not a message yet: the partly received frame, and the bytes
//! read ahead.
//!
//! ```text
//! receive_ahead ──► ahead ──┐
//! receive_exact ────────────┴──► header, payload ──cut──► Frame
//! ```
//!
//! `cut` returns the next whole frame; if there is none, it has moved all bytes read ahead into the current
//! frame. So the receive functions are called only after `cut` has found no frame. Memory for a payload is
//! allocated as bytes arrive, not by the length that the peer has announced.

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;

use nix::errno::Errno;

use crate::connection::received_fds::Descriptors;
use crate::frame::c_heap::{Block, OutOfMemory};
use crate::frame::header::{self, HEADER_SIZE, Header, TooLong};

/// How many bytes `ipc_wait_event` receives at once while the length of the next frame is unknown.
pub const READ_AHEAD: usize = 16 << 10;

/// The most that is allocated for a payload that was announced but not received. More is allocated as bytes
/// arrive.
pub const ANNOUNCED: usize = 64 << 10;

/// Then the allocation grows to so many times what was received: few steps, each of which copies, up to the
/// largest payload.
const GROWTH: usize = 16;

/// How much to allocate for a payload of this size of which nothing was received, if `available` bytes may be
/// in the kernel.
pub fn first_room(expected: usize, available: impl FnOnce() -> usize) -> usize {
    if expected <= ANNOUNCED {
        expected
    } else {
        expected.min(ANNOUNCED.max(available().saturating_mul(GROWTH)))
    }
}

/// The longest payload that a peer may announce, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPayload(pub usize);

impl Default for MaxPayload {
    fn default() -> Self {
        Self(header::MAX_PAYLOAD)
    }
}

/// A received message.
pub struct Frame {
    /// The message's type.
    pub kind: u8,
    /// The message's payload.
    pub payload: Block,
    /// Whether descriptors arrived with the message.
    pub has_descriptors: bool,
}

impl Frame {
    /// A frame without descriptors.
    pub fn new(kind: u8, payload: Block) -> Self {
        Self { kind, payload, has_descriptors: false }
    }
}

/// Why no frame could be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The peer announced a longer payload than it may send; the bytes that follow cannot be interpreted.
    TooLong,
    /// No memory for the payload; nothing is lost, and another try may succeed.
    OutOfMemory,
}

impl From<TooLong> for DecodeError {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl From<OutOfMemory> for DecodeError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The result of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// End of file.
    End,
    /// Less than there was room for: all bytes that the kernel had.
    All,
    /// As much as there was room for; the kernel may have more.
    Full,
}

impl ReadOutcome {
    fn of(count: usize, room: usize) -> Self {
        match count {
            0 => Self::End,
            count if count < room => Self::All,
            _ => Self::Full,
        }
    }
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The system call failed.
    System(Errno),
    /// No memory; nothing was taken from the kernel.
    OutOfMemory,
}

impl From<OutOfMemory> for ReadError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

/// The place for descriptors that arrive with the bytes; `None` if the program has not allowed them.
pub type Wanted<'a> = Option<&'a mut Descriptors>;

fn wanted(descriptors: &mut Option<Descriptors>) -> Result<Wanted<'_>, OutOfMemory> {
    if let Some(descriptors) = descriptors {
        descriptors.begin()?;
    }
    Ok(descriptors.as_mut())
}

/// The bytes received that are not a message yet.
#[derive(Default)]
pub struct FrameDecoder {
    header: [u8; HEADER_SIZE],
    /// How many bytes of `header` were received.
    filled: usize,
    payload: Block,
    /// Bytes received after those of the current frame; the ones before `start` are used.
    ahead: Block,
    start: usize,
    /// The longest payload that the peer may announce.
    pub longest: MaxPayload,
    /// The descriptors received; `None` unless the program has allowed them.
    pub descriptors: Option<Descriptors>,
}

impl FrameDecoder {
    /// Whether there are neither bytes nor descriptors.
    pub fn is_empty(&self) -> bool {
        !self.has_begun() && !self.has_ahead() && self.descriptors.as_ref().is_none_or(Descriptors::is_empty)
    }

    /// Whether the current frame has begun.
    pub fn has_begun(&self) -> bool {
        self.filled > 0
    }

    /// Whether the current frame's header is complete and no bytes are read ahead.
    pub fn is_amid_payload(&self) -> bool {
        self.filled == HEADER_SIZE && !self.has_ahead()
    }

    /// Whether there are bytes that [`FrameDecoder::cut`] has not used.
    pub fn has_ahead(&self) -> bool {
        self.start < self.ahead.len()
    }

    fn unread(&self) -> &[u8] {
        self.ahead.bytes().get(self.start..).unwrap_or_default()
    }

    /// The header of the current frame, once it was received.
    pub fn announced(&self) -> Result<Option<Header>, TooLong> {
        let mut header = self.header;
        if self.filled < HEADER_SIZE {
            let (_, missing) = header.split_at_mut(self.filled);
            let Some(found) = self.unread().get(..missing.len()) else { return Ok(None) };
            missing.copy_from_slice(found);
        }
        Header::decode(header, self.longest.0).map(Some)
    }

    /// The next whole frame. If there is none, all bytes read ahead were moved into the current frame.
    pub fn cut(&mut self) -> Result<Option<Frame>, DecodeError> {
        let mut frame = self.cut_bytes()?;
        if let (Some(descriptors), Some(frame)) = (&mut self.descriptors, &mut frame) {
            frame.has_descriptors = descriptors.report(self.start >= self.ahead.len());
        }
        Ok(frame)
    }

    fn cut_bytes(&mut self) -> Result<Option<Frame>, DecodeError> {
        let front = if self.filled == 0 { header::parse_front(self.unread(), self.longest.0)? } else { None };
        if let Some((header, payload)) = front {
            let payload = Block::copy_of(payload)?;
            self.start += HEADER_SIZE + payload.len();
            return Ok(Some(Frame::new(header.kind, payload)));
        }
        if self.has_ahead() {
            self.take_ahead()?;
        }
        if self.filled < HEADER_SIZE {
            return Ok(None);
        }
        let header = Header::decode(self.header, self.longest.0)?;
        if self.payload.len() < header.length {
            return Ok(None);
        }
        self.filled = 0;
        let mut payload = std::mem::take(&mut self.payload);
        if payload.capacity() > 2 * payload.len() {
            // More memory was allocated than the payload needs.
            payload.shrink();
        }
        Ok(Some(Frame::new(header.kind, payload)))
    }

    /// Moves bytes read ahead into the current frame.
    fn take_ahead(&mut self) -> Result<(), DecodeError> {
        let (_, missing) = self.header.split_at_mut(self.filled);
        let rest = self.ahead.bytes().get(self.start..).unwrap_or_default();
        let count = rest.len().min(missing.len());
        missing.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
        self.filled += count;
        self.start += count;
        if self.filled < HEADER_SIZE {
            return Ok(());
        }
        let length = Header::decode(self.header, self.longest.0)?.length;
        let rest = self.ahead.bytes().get(self.start..).unwrap_or_default();
        let rest = rest.get(..length.saturating_sub(self.payload.len())).unwrap_or(rest);
        if !rest.is_empty() {
            // Room for the bytes to follow, too, within the limit for announced payloads.
            self.payload.reserve(length.min(ANNOUNCED.max(self.payload.len() + rest.len())))?;
            self.payload.push(rest);
            self.start += rest.len();
        }
        Ok(())
    }

    /// Receives no byte beyond the current frame. Requires that `cut` has found no frame.
    pub fn receive_exact(
        &mut self,
        source: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>], Wanted<'_>) -> Result<&'a mut [u8], Errno>,
    ) -> Result<ReadOutcome, ReadError> {
        let wanted = wanted(&mut self.descriptors)?;
        if self.filled < HEADER_SIZE {
            let mut room = [MaybeUninit::uninit(); HEADER_SIZE];
            let (_, missing) = self.header.split_at_mut(self.filled);
            let (room, _) = room.split_at_mut(missing.len());
            let received = source(room, wanted)?;
            missing.iter_mut().zip(&*received).for_each(|(place, byte)| *place = *byte);
            self.filled += received.len();
            return Ok(ReadOutcome::of(received.len(), missing.len()));
        }
        // If the length is over the maximum, `cut` has returned that error.
        let length = Header::decode(self.header, self.longest.0).map_or(0, |header| header.length);
        let have = self.payload.len();
        if have == self.payload.capacity() {
            self.payload.reserve(length.min(ANNOUNCED.max(GROWTH * have)))?;
        }
        let room = length.saturating_sub(have).min(self.payload.capacity() - have);
        Ok(ReadOutcome::of(self.payload.fill(room, |room| source(room, wanted))?, room))
    }

    /// Receives all that the kernel has, within the buffer's size: into the payload if one is partly
    /// received, else into `spare`, which is kept while it holds bytes. Requires that `cut` has found no
    /// frame.
    pub fn receive_ahead(
        &mut self,
        spare: &mut Block,
        source: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>], Wanted<'_>) -> Result<&'a mut [u8], Errno>,
    ) -> Result<ReadOutcome, ReadError> {
        if self.filled == HEADER_SIZE {
            return self.receive_exact(source);
        }
        spare.reserve(READ_AHEAD)?;
        spare.clear();
        let wanted = wanted(&mut self.descriptors)?;
        let count = spare.fill(READ_AHEAD, |room| source(room, wanted))?;
        std::mem::swap(&mut self.ahead, spare);
        self.start = 0;
        Ok(ReadOutcome::of(count, READ_AHEAD))
    }

    /// Receives a frame directly into the block that C will own, allocated for a payload of this size.
    /// Requires that no frame has begun, and that descriptors are not wanted.
    pub fn receive_expected(
        &mut self,
        size: usize,
        source: impl for<'a> FnOnce(
            &mut [u8; HEADER_SIZE],
            &'a mut [MaybeUninit<u8>],
        ) -> Result<(usize, &'a mut [u8]), Errno>,
    ) -> Result<ReadOutcome, ReadError> {
        let mut payload = Block::with_capacity(size)?;
        let room = payload.capacity();
        let count = payload.fill(room, |room| {
            let (count, rest) = source(&mut self.header, room)?;
            self.filled = count;
            Ok::<_, Errno>(rest)
        })?;
        let outcome = ReadOutcome::of(self.filled + count, HEADER_SIZE + room);
        self.begin(self.header, self.filled, payload);
        Ok(outcome)
    }

    /// Begins with a frame that was partly received elsewhere: bytes of its header, and the bytes after it.
    /// Requires an empty decoder.
    pub fn begin(&mut self, header: [u8; HEADER_SIZE], filled: usize, rest: Block) {
        (self.header, self.filled) = (header, filled);
        let length = Header::decode(header, self.longest.0).map_or(0, |header| header.length);
        if rest.len() > length {
            // The payload is shorter: other frames follow.
            (self.ahead, self.start) = (rest, 0);
        } else if !rest.is_empty() {
            self.payload = rest;
        }
    }

    /// Takes over bytes that were received elsewhere. Requires an empty decoder.
    pub fn read_ahead(&mut self, bytes: &mut Block) {
        std::mem::swap(&mut self.ahead, bytes);
        self.start = 0;
    }

    /// Takes back the frame that [`FrameDecoder::cut`] has returned last.
    pub fn put_back(&mut self, frame: Frame) {
        if let Ok(header) = (Header { kind: frame.kind, length: frame.payload.len() }).encode() {
            (self.header, self.filled, self.payload) = (header, HEADER_SIZE, frame.payload);
        }
    }

    /// Returns the buffer of bytes read ahead once it is empty. A block that was allocated for a large
    /// payload but received small frames is freed instead.
    pub fn return_spare(&mut self, spare: &mut Block) {
        if self.has_ahead() {
            return;
        }
        self.start = 0;
        let mut ahead = std::mem::take(&mut self.ahead);
        if (1..=READ_AHEAD).contains(&ahead.capacity()) {
            ahead.clear();
            *spare = ahead;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::c_heap::write_front;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let head = Header { kind, length: payload.len() }.encode().unwrap();
        [&head[..], payload].concat()
    }

    /// A stream that delivers at most `step` bytes at a time.
    fn source<'s, 'b>(
        stream: &'s mut &'b [u8],
        step: usize,
    ) -> impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>], Wanted<'_>) -> Result<&'a mut [u8], Errno> + use<'s, 'b>
    {
        move |room, _| {
            let count = room.len().min(step).min(stream.len());
            let (now, later) = stream.split_at(count);
            *stream = later;
            Ok(write_front(room, now))
        }
    }

    /// The same for a header and the bytes after it.
    #[expect(clippy::type_complexity, reason = "a closure's")]
    fn source_apart<'s, 'b>(
        stream: &'s mut &'b [u8],
        step: usize,
    ) -> impl for<'a> FnOnce(
        &mut [u8; HEADER_SIZE],
        &'a mut [MaybeUninit<u8>],
    ) -> Result<(usize, &'a mut [u8]), Errno>
    + use<'s, 'b> {
        move |head, room| {
            let count = step.min(stream.len()).min(HEADER_SIZE + room.len());
            let (now, later) = stream.split_at(count);
            *stream = later;
            let (front, rest) = now.split_at(count.min(HEADER_SIZE));
            head[..front.len()].copy_from_slice(front);
            Ok((front.len(), write_front(room, rest)))
        }
    }

    /// By which function a stream is received.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Way {
        Exact,
        Ahead,
        Expected(usize),
    }

    fn drain(stream: &[u8], step: usize, way: Way) -> Vec<(u8, Vec<u8>)> {
        let (mut rest, mut decoder, mut spare) = (stream, FrameDecoder::default(), Block::default());
        let mut frames = Vec::new();
        loop {
            while let Some(frame) = decoder.cut().unwrap() {
                frames.push((frame.kind, frame.payload.bytes().to_vec()));
                if way == Way::Exact {
                    let cut: usize = frames.iter().map(|(_, payload)| payload.len() + HEADER_SIZE).sum();
                    assert_eq!(stream.len() - rest.len(), cut, "read beyond the frame");
                }
            }
            decoder.return_spare(&mut spare);
            let outcome = match way {
                Way::Exact => decoder.receive_exact(source(&mut rest, step)).unwrap(),
                Way::Expected(size) if !decoder.has_begun() => {
                    decoder.receive_expected(first_room(size, || 0), source_apart(&mut rest, step)).unwrap()
                }
                _ => decoder.receive_ahead(&mut spare, source(&mut rest, step)).unwrap(),
            };
            if outcome == ReadOutcome::End {
                assert!(decoder.is_empty());
                return frames;
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes hours there")]
    fn frames_do_not_depend_on_how_stream_is_split() {
        let sent = [
            (0, vec![]),
            (1, b"x".to_vec()),
            (2, vec![7; READ_AHEAD]),
            (3, vec![]),
            (255, (0..200_000).map(|n| n as u8).collect()),
        ];
        let stream: Vec<u8> = sent.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
        for step in [1, 2, 5, 6, 7, 4096, READ_AHEAD, 65_541, usize::MAX] {
            for way in [
                Way::Exact,
                Way::Ahead,
                Way::Expected(1),
                Way::Expected(READ_AHEAD),
                Way::Expected(usize::MAX),
            ] {
                assert_eq!(drain(&stream, step, way), sent, "step {step}, {way:?}");
            }
        }
    }

    #[test]
    fn header_alone_allocates_nothing_and_first_byte_little() {
        let mut decoder = FrameDecoder::default();
        let header = Header { kind: 2, length: header::MAX_PAYLOAD }.encode().unwrap();
        let (mut rest, mut spare) = (&header[..], Block::default());
        decoder.receive_ahead(&mut spare, source(&mut rest, 5)).unwrap();
        assert!(decoder.cut().unwrap().is_none());
        decoder.return_spare(&mut spare);
        assert_eq!((decoder.payload.capacity(), decoder.ahead.capacity()), (0, 0));
        decoder.receive_exact(source(&mut &b"x"[..], 1)).unwrap();
        assert_eq!(decoder.payload.capacity(), ANNOUNCED);
    }

    #[test]
    fn block_of_a_large_payload_is_not_kept_for_reading_ahead() {
        let stream = [&[1][..], &1_u32.to_ne_bytes(), &[7]].concat().repeat(2);
        let (mut rest, mut spare) = (&stream[..], Block::default());
        let mut decoder = FrameDecoder::default();
        decoder.receive_expected(1 << 20, source_apart(&mut rest, stream.len())).unwrap();
        (0..2).for_each(|_| assert_eq!(decoder.cut().unwrap().unwrap().payload.bytes(), [7]));
        decoder.return_spare(&mut spare);
        assert_eq!((decoder.ahead.capacity(), spare.capacity()), (0, 0));
    }

    #[test]
    fn length_over_maximum_remains_an_error() {
        let mut decoder = FrameDecoder::default();
        let mut rest = &[1, 255, 255, 255, 255, 1, 2, 3][..];
        decoder.receive_ahead(&mut Block::default(), source(&mut rest, 8)).unwrap();
        for _ in 0..3 {
            assert_eq!(decoder.cut().err(), Some(DecodeError::TooLong));
        }
    }
}
