//! A simple model of the frames in a stream of bytes: header (type, length in the machine's byte order),
//! payload, nothing between them.

use super::script::{Script, append_pattern};

/// The largest payload.
pub const MOST: usize = 7_999_995;

/// Bytes before the payload.
pub const HEADER: usize = 5;

/// What a receiver can tell next of the bytes that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Too little is there.
    Nothing,
    /// A message.
    Frame(u8, &'a [u8]),
    /// More was announced than a frame may hold.
    TooLong,
}

/// A stream, and how far it was told.
pub struct Stream {
    bytes: Vec<u8>,
    told: usize,
    longest: usize,
}

impl Default for Stream {
    fn default() -> Self {
        Self { bytes: Vec::new(), told: 0, longest: MOST }
    }
}

impl Stream {
    /// The receiver takes no payload that is longer.
    pub fn limit(&mut self, longest: usize) {
        self.longest = longest;
    }

    /// The longest payload that the receiver takes.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Appends what the sender sends.
    pub fn send(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes sent in all.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All bytes sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the frame at hand begins.
    pub fn told(&self) -> usize {
        self.told
    }

    /// Type and length that the frame at hand announces, if the first `come` bytes have brought its header.
    pub fn announced(&self, come: usize) -> Option<(u8, usize)> {
        let header = self.bytes[..come].get(self.told..self.told + HEADER)?;
        Some((header[0], u32::from_ne_bytes(header[1..].try_into().unwrap()) as usize))
    }

    /// What is to be told next, when the first `come` bytes have come.
    pub fn next(&self, come: usize) -> Next<'_> {
        let Some((kind, length)) = self.announced(come) else { return Next::Nothing };
        if length > self.longest {
            return Next::TooLong;
        }
        let begin = self.told + HEADER;
        match self.bytes[..come].get(begin..begin + length) {
            Some(payload) => Next::Frame(kind, payload),
            None => Next::Nothing,
        }
    }

    /// The frame at hand was told.
    pub fn tell(&mut self) {
        match self.next(self.bytes.len()) {
            Next::Frame(_, payload) => self.told += HEADER + payload.len(),
            other => panic!("{other:?} was told as a frame"),
        }
    }

    /// Whether the sender stopped within a frame.
    pub fn is_partial(&self) -> bool {
        self.told < self.bytes.len()
    }

    /// So many bytes were told, where they are no frames.
    pub fn skip(&mut self, count: usize) {
        self.told += count;
    }

    /// The receiver forgets what it has of the frame at hand.
    pub fn drop_partial(&mut self) {
        self.told = self.bytes.len();
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

/// A header that announces a length that the script chooses, much of it near the largest.
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
