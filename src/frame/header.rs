//! The frame: `type` (1 byte), `length` (4 bytes, the machine's own byte order), then `length` bytes of
//! payload. Frames follow each other on the stream with nothing between them. This file only converts between
//! bytes and headers: it has no state and does no I/O.

#![forbid(unsafe_code)]

/// Bytes before the payload.
pub const HEADER_SIZE: usize = 5;

/// The largest payload of one frame: 8,000,000 bytes less the header.
pub const MAX_PAYLOAD: usize = 8_000_000 - HEADER_SIZE;

/// The type of messages that carry a program's data (`MSG_TYPE_DATA`).
pub const TYPE_DATA: u8 = 2;

/// The types of messages that report a signal and the expiration of a timer.
pub const TYPE_SIGNAL: u8 = 3;
pub const TYPE_TIMER: u8 = 4;

/// The header of a frame: what precedes each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's type, any value, chosen by the sender; the library gives it no meaning.
    pub kind: u8,
    /// The payload's size in bytes, at most [`MAX_PAYLOAD`].
    pub length: usize,
}

/// The length field exceeds the allowed maximum, which is at most [`MAX_PAYLOAD`]: the peer does not follow
/// the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Header {
    /// The header's bytes on the wire.
    pub fn encode(self) -> Result<[u8; HEADER_SIZE], TooLong> {
        let mut bytes = [0; HEADER_SIZE];
        self.write_to(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the header's bytes on the wire to `bytes`.
    #[inline]
    pub fn write_to(self, bytes: &mut [u8; HEADER_SIZE]) -> Result<(), TooLong> {
        let [kind, rest @ ..] = bytes;
        match u32::try_from(self.length) {
            Ok(length) if self.length <= MAX_PAYLOAD => (*kind, *rest) = (self.kind, length.to_ne_bytes()),
            _ => return Err(TooLong),
        }
        Ok(())
    }

    /// The header in these bytes; an error if its payload is longer than `max_payload`.
    pub fn decode([kind, a, b, c, d]: [u8; HEADER_SIZE], max_payload: usize) -> Result<Self, TooLong> {
        match usize::try_from(u32::from_ne_bytes([a, b, c, d])) {
            Ok(length) if length <= max_payload => Ok(Self { kind, length }),
            _ => Err(TooLong),
        }
    }
}

/// The header and the payload of the frame that `bytes` begin with; None if the frame is not complete, and an
/// error if its payload is longer than `max_payload`.
pub fn parse_front(bytes: &[u8], max_payload: usize) -> Result<Option<(Header, &[u8])>, TooLong> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_SIZE>() else { return Ok(None) };
    let header = Header::decode(*head, max_payload)?;
    Ok(rest.get(..header.length).map(|payload| (header, payload)))
}

/// Splits `bytes`, which must be exactly one whole frame, into header and payload.
pub fn parse_exact(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let frame = parse_front(bytes, MAX_PAYLOAD).ok()??;
    (HEADER_SIZE + frame.1.len() == bytes.len()).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type, payload and first bytes of frames on the wire, as the original library sends them: the length is
    /// in the byte order of the machine.
    #[cfg(target_endian = "little")]
    const GOLDEN: [(u8, &[u8], &[u8]); 4] = [
        (0, b"", b"\x00\x00\x00\x00\x00"),
        (2, b"hello", b"\x02\x05\x00\x00\x00hello"),
        (255, b"\0", b"\xff\x01\x00\x00\x00\x00"),
        (b'a', &[b'x'; 258], b"a\x02\x01\x00\x00"),
    ];
    #[cfg(target_endian = "big")]
    const GOLDEN: [(u8, &[u8], &[u8]); 4] = [
        (0, b"", b"\x00\x00\x00\x00\x00"),
        (2, b"hello", b"\x02\x00\x00\x00\x05hello"),
        (255, b"\0", b"\xff\x00\x00\x00\x01\x00"),
        (b'a', &[b'x'; 258], b"a\x00\x00\x01\x02"),
    ];

    #[test]
    fn frames_are_those_of_the_original_library() {
        for (kind, payload, wire) in GOLDEN {
            let header = Header { kind, length: payload.len() };
            let bytes = [&header.encode().unwrap()[..], payload].concat();
            assert!(bytes.starts_with(wire), "{kind} {bytes:?}");
            assert_eq!(bytes.len(), HEADER_SIZE + payload.len());
            assert_eq!(parse_exact(&bytes), Some((header, payload)));
        }
    }

    #[test]
    fn header_is_refused_when_length_exceeds_the_maximum() {
        let largest = Header { kind: 1, length: MAX_PAYLOAD };
        assert_eq!(MAX_PAYLOAD, 7_999_995);
        assert_eq!(Header::decode(largest.encode().unwrap(), MAX_PAYLOAD), Ok(largest));
        assert_eq!(Header { kind: 1, length: MAX_PAYLOAD + 1 }.encode(), Err(TooLong));
        let [a, b, c, d] = 7_999_996_u32.to_ne_bytes();
        assert_eq!(Header::decode([1, a, b, c, d], MAX_PAYLOAD), Err(TooLong));
        assert_eq!(Header::decode([1, 255, 255, 255, 255], MAX_PAYLOAD), Err(TooLong));
        assert_eq!(Header::decode(largest.encode().unwrap(), MAX_PAYLOAD - 1), Err(TooLong));
    }

    #[test]
    fn frame_is_refused_when_bytes_are_missing_or_left_over() {
        let [a, b, c, d] = 3_u32.to_ne_bytes();
        let frame = [1, a, b, c, d, b'a', b'b', b'c'];
        assert!(parse_exact(&frame).is_some());
        for short in 0..frame.len() {
            assert_eq!(parse_exact(&frame[..short]), None);
        }
        assert_eq!(parse_exact(&[&frame[..], b"x"].concat()), None);
    }
}
