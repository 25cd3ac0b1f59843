//! A simple model of the frames in a stream of bytes: header (type, length in the machine's byte order),
//! payload, nothing between them.

use super::script::{Script, append_pattern};

/// The largest payload.
pub const MOST: usize = 7_999_995;

/// Bytes before the payload.
pub const HEADER: usize = 5;

/// The next element that a receiver can deliver of the bytes that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Too few bytes have arrived.
    Nothing,
    /// A message.
    Frame(u8, &'a [u8]),
    /// A header announces more than a frame may have.
    TooLong,
}

/// A stream, and how many bytes of it were delivered to the program.
pub struct Stream {
    bytes: Vec<u8>,
    delivered: usize,
    max_payload: usize,
}

impl Default for Stream {
    fn default() -> Self {
        Self { bytes: Vec::new(), delivered: 0, max_payload: MOST }
    }
}

impl Stream {
    /// The receiver accepts no longer payload from now on.
    pub fn limit(&mut self, max_payload: usize) {
        self.max_payload = max_payload;
    }

    /// The longest payload that the receiver accepts.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Appends bytes that the sender has sent.
    pub fn send(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The number of bytes sent.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All bytes sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The offset of the current frame: the number of bytes that were delivered.
    pub fn delivered(&self) -> usize {
        self.delivered
    }

    /// Type and length of the current frame's header, if the first `received` bytes include this header.
    pub fn announced(&self, received: usize) -> Option<(u8, usize)> {
        let header = self.bytes[..received].get(self.delivered..self.delivered + HEADER)?;
        Some((header[0], u32::from_ne_bytes(header[1..].try_into().unwrap()) as usize))
    }

    /// The next element to deliver, if the first `received` bytes have arrived.
    pub fn next(&self, received: usize) -> Next<'_> {
        let Some((kind, length)) = self.announced(received) else { return Next::Nothing };
        if length > self.max_payload {
            return Next::TooLong;
        }
        let begin = self.delivered + HEADER;
        match self.bytes[..received].get(begin..begin + length) {
            Some(payload) => Next::Frame(kind, payload),
            None => Next::Nothing,
        }
    }

    /// Notes that the current frame was delivered.
    pub fn deliver(&mut self) {
        match self.next(self.bytes.len()) {
            Next::Frame(_, payload) => self.delivered += HEADER + payload.len(),
            other => panic!("{other:?} was delivered as a frame"),
        }
    }

    /// Whether the sender stopped within a frame.
    pub fn is_partial(&self) -> bool {
        self.delivered < self.bytes.len()
    }

    /// Notes that this many bytes were delivered that are not frames.
    pub fn skip(&mut self, count: usize) {
        self.delivered += count;
    }

    /// The receiver drops its part of the current frame.
    pub fn drop_partial(&mut self) {
        self.delivered = self.bytes.len();
    }
}

/// A frame.
pub fn frame(kind: u8, size: usize, seed: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + size);
    frame.push(kind);
    frame.extend_from_slice(&u32::try_from(size).unwrap().to_ne_bytes());
    append_pattern(&mut frame, size, seed);
    frame
}

/// A header with a length that the script chooses, often near the maximum.
pub fn any_header(script: &mut Script<'_>) -> Vec<u8> {
    let kind = script.byte();
    let length = match script.below(8) {
        0 => 7_999_995,
        1 => 7_999_996,
        2 => 8_000_000,
        3 => u32::MAX,
        4 => 1 << 31,
        5 => 7_999_995 - u32::from(script.byte()),
        _ => u32::from_ne_bytes([script.byte(), script.byte(), script.byte(), script.byte()]),
    };
    [&[kind][..], &length.to_ne_bytes()].concat()
}
