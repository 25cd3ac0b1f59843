//! A stream of bytes, cut into arbitrary pieces, received by `FrameDecoder` in all its ways, against the
//! model of the frames. Two connections take turns and share the read-ahead buffer, as in the event loop.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;

use ipc::internals::{Block, c_heap};
use ipc::internals::{
    DecodeError, Frame, FrameDecoder, MaxPayload, READ_AHEAD, ReadError, ReadOutcome, first_room,
};
use ipc::internals::{Header, TooLong};
use nix::errno::Errno;

use super::script::Script;
use super::stream::{HEADER, MOST, Next, Stream, any_header, frame};
use super::trace;

/// How much may be allocated for a payload of which little has arrived, and how many times as much as has
/// arrived.
const ANNOUNCED: usize = 64 << 10;
const GROWTH: usize = 16;

/// Limit of the bytes of one stream, without one frame of the maximum size.
const BUDGET: usize = 500_000;

/// A way to receive.
#[derive(Clone, Copy, Debug)]
enum Way {
    Exact,
    Ahead,
    Expected(usize),
}

/// The result of the kernel for a receive.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// At most this many bytes; if none are left, EAGAIN.
    Bytes(usize),
    /// All bytes; if none are left, end of file.
    Rest,
    Error(Errno),
}

/// One connection: the bytes that its peer sends, how many of them the kernel has delivered, and the decoder.
#[derive(Default)]
struct Lane {
    stream: Stream,
    given: usize,
    decoder: FrameDecoder,
    /// A frame was reported as too long: nothing more can be received.
    broken: bool,
    had_largest: bool,
    /// The largest buffer that was allowed for the current frame by the bytes that had arrived, although
    /// fewer were received.
    room: usize,
}

pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut lanes = [Lane::default(), Lane::default()];
    let mut spare = Block::default();
    while let Some(step) = script.next() {
        let number = usize::from(step & 1);
        trace!("connection {number}:");
        lanes[number].play(step >> 1, &mut script, &mut spare);
    }
    for lane in &mut lanes {
        lane.finish(&mut spare);
    }
}

impl Lane {
    fn play(&mut self, step: u8, script: &mut Script<'_>, spare: &mut Block) {
        match step % 11 {
            0 => self.send(&frame(script.byte(), script.size(), self.stream.len())),
            1 => {
                let (count, size) = (1 + script.below(256), script.below(256));
                let frames = (0..count).flat_map(|n| frame(n as u8, size, n)).collect::<Vec<_>>();
                self.send(&frames);
            }
            2 => {
                let count = script.below(32);
                self.send(script.bytes(count));
            }
            3 => self.send(&any_header(script)),
            4 => {
                let whole = frame(script.byte(), script.size(), self.stream.len());
                self.send(&whole[..whole.len().min(script.size())]);
            }
            // This takes long: only once, and seldom by chance.
            5 if script.byte() == 0xA5 && !self.had_largest => {
                self.had_largest = true;
                self.stream.send(&frame(3, MOST - script.below(2), 0));
            }
            5 | 6 => _ = self.cut(),
            // The program limits the length that the peer may announce.
            10 if !self.broken => self.limit([MOST, script.size(), MOST - 1, 0][script.below(4)]),
            7 => self.receive_if_nothing(Way::Exact, answer(script), spare),
            8 => self.receive_if_nothing(Way::Ahead, answer(script), spare),
            _ => self.receive_if_nothing(Way::Expected(script.size()), answer(script), spare),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.stream.len() + bytes.len() <= BUDGET {
            trace!("  {} bytes are sent", bytes.len());
            self.stream.send(bytes);
        }
    }

    fn limit(&mut self, max_payload: usize) {
        trace!("  the limit is {max_payload}");
        self.stream.limit(max_payload);
        self.decoder.longest = MaxPayload(max_payload);
    }

    /// Receives in this way, after all complete frames were delivered.
    fn receive_if_nothing(&mut self, way: Way, answer: Answer, spare: &mut Block) {
        while self.cut() {}
        if !self.broken {
            let way =
                if let (Way::Expected(_), true) = (way, self.decoder.has_begun()) { Way::Ahead } else { way };
            self.receive(way, answer, spare);
            if !matches!(way, Way::Exact) {
                self.cut();
                self.decoder.return_spare(spare);
            }
            self.check_what_is_held();
        }
    }

    /// Decodes one frame; returns whether there was one.
    fn cut(&mut self) -> bool {
        self.check_what_is_held();
        let announced = self.stream.announced(self.given).map(|(kind, length)| Header { kind, length });
        match announced {
            Some(header) if header.length > self.stream.max_payload() => {
                assert_eq!(self.decoder.announced(), Err(TooLong))
            }
            announced => assert_eq!(self.decoder.announced(), Ok(announced)),
        }
        let cut = self.decoder.cut();
        match (self.stream.next(self.given), cut) {
            (Next::Frame(kind, payload), Ok(Some(frame))) => {
                trace!("  a frame of {} bytes", payload.len());
                check_frame(frame, kind, payload);
                self.stream.deliver();
                self.room = 0;
                true
            }
            (Next::Nothing, Ok(None)) => {
                assert!(!self.decoder.has_ahead(), "bytes read ahead are left");
                false
            }
            (Next::TooLong, Err(DecodeError::TooLong)) => {
                self.broken = true;
                false
            }
            (expected, cut) => {
                panic!(
                    "{:?} instead of {expected:?}",
                    cut.map(|frame| frame.map(|frame| frame.payload.len()))
                )
            }
        }
    }

    fn check_what_is_held(&self) {
        let held = self.given - self.stream.delivered();
        assert_eq!(self.decoder.is_empty(), held == 0, "{held} bytes are held");
        assert_eq!(self.decoder.is_empty(), !self.decoder.has_begun() && !self.decoder.has_ahead());
    }

    fn receive(&mut self, way: Way, answer: Answer, spare: &mut Block) -> bool {
        let left = &self.stream.bytes()[self.given..];
        let mut asked = 0;
        let mut count_for = |room: usize| {
            asked = room;
            match answer {
                Answer::Error(errno) => Err(errno),
                Answer::Bytes(_) if left.is_empty() => Err(Errno::EAGAIN),
                Answer::Bytes(most) => Ok(room.min(most).min(left.len())),
                Answer::Rest => Ok(room.min(left.len())),
            }
        };
        let mut count = Ok(0);
        let outcome = match way {
            Way::Exact => self.decoder.receive_exact(|room, _| {
                count = count_for(room.len());
                Ok(write(room, &left[..count?]))
            }),
            Way::Ahead => self.decoder.receive_ahead(spare, |room, _| {
                count = count_for(room.len());
                Ok(write(room, &left[..count?]))
            }),
            Way::Expected(size) => {
                self.decoder.receive_expected(first_room(size, || left.len()), |head, room| {
                    count = count_for(HEADER + room.len());
                    let (front, rest) = left[..count?].split_at(HEADER.min(count?));
                    head[..front.len()].copy_from_slice(front);
                    Ok((front.len(), write(room, rest)))
                })
            }
        };
        trace!("  {way:?}, room for {asked}: {count:?}");
        assert!(asked > 0, "no room: nothing could come but what looks like the end");
        let available = left.len();
        self.check_room(way, asked, available);
        match (count, outcome) {
            (Ok(0), Ok(ReadOutcome::End)) => return false,
            (Ok(count), Ok(outcome)) => {
                assert_eq!(
                    outcome,
                    if count < asked { ReadOutcome::All } else { ReadOutcome::Full },
                    "{count} of {asked}"
                );
                self.given += count;
            }
            (Err(errno), Err(ReadError::System(reported))) => assert_eq!(reported, errno),
            (count, outcome) => panic!("{outcome:?} instead of {count:?}"),
        }
        true
    }

    /// Checks that the buffer to be filled is within bounds.
    fn check_room(&mut self, way: Way, asked: usize, available: usize) {
        let announced = self.stream.announced(self.given);
        match (way, announced) {
            (Way::Expected(size), _) => {
                let room = size.min(ANNOUNCED.max(GROWTH * available));
                assert!(asked <= HEADER + room);
                self.room = self.room.max(room);
            }
            (Way::Ahead, None) => assert!(asked <= READ_AHEAD),
            (Way::Exact, None) => {
                assert!(asked <= self.stream.delivered() + HEADER - self.given, "bytes beyond the header");
            }
            (Way::Exact | Way::Ahead, Some((_, length))) => {
                let have = self.given - self.stream.delivered() - HEADER;
                assert!(asked <= length - have, "bytes beyond the frame");
                assert!(
                    asked <= ANNOUNCED.max(GROWTH * have).max(self.room),
                    "room for {asked} bytes when {have} have come"
                );
            }
        }
    }

    /// Receives all bytes that are left.
    fn finish(&mut self, spare: &mut Block) {
        loop {
            while self.cut() {}
            self.decoder.return_spare(spare);
            if self.broken {
                return;
            }
            if !self.receive(Way::Ahead, Answer::Rest, spare) {
                break;
            }
        }
        assert_eq!(self.given, self.stream.len());
        assert_eq!(self.decoder.is_empty(), !self.stream.is_partial());
    }
}

fn answer(script: &mut Script<'_>) -> Answer {
    match script.below(8) {
        0 => Answer::Error([Errno::EAGAIN, Errno::EINTR, Errno::ECONNRESET, Errno::EBADF][script.below(4)]),
        1..4 => Answer::Bytes(usize::MAX),
        _ => Answer::Bytes(script.size().max(1)),
    }
}

/// Checks that a frame is what was sent, and that its payload is fit for C: followed by a NUL, NULL if it is
/// empty, and in a block that is not much larger.
fn check_frame(frame: Frame, kind: u8, payload: &[u8]) {
    assert_eq!(frame.kind, kind);
    assert!(frame.payload.bytes() == payload, "another payload, of {} bytes", frame.payload.len());
    assert!(frame.payload.capacity() <= 2 * payload.len(), "a block of {}", frame.payload.capacity());
    let c = frame.payload.into_c();
    assert_eq!(c.is_null(), payload.is_empty());
    if !c.is_null() {
        let last = unsafe { CStr::from_ptr(c.add(payload.len())) };
        assert!(last.is_empty(), "no NUL after the payload");
    }
    unsafe { c_heap::free(c) };
}

/// Writes the bytes to the front of the room.
fn write<'a>(room: &'a mut [MaybeUninit<u8>], bytes: &[u8]) -> &'a mut [u8] {
    let (front, _) = room.split_at_mut(bytes.len());
    // SAFETY: the front has room for them, and is written as a whole.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), front.as_mut_ptr().cast(), bytes.len());
        &mut *(ptr::from_mut(front) as *mut [u8])
    }
}
