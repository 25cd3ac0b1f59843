//! The frame: `type` (1 byte), `length` (4 bytes, the machine's own byte order), then `length` bytes of
//! payload. Frames follow each other on the stream with nothing between them. No I/O here.

#![forbid(unsafe_code)]

/// Bytes before the payload.
pub const HEADER_SIZE: usize = 5;

/// The largest payload of one frame: 8,000,000 bytes less the header.
pub const MAX_PAYLOAD: usize = 8_000_000 - HEADER_SIZE;

/// The type of messages that carry a program's data (`MSG_TYPE_DATA`).
pub const TYPE_DATA: u8 = 2;

/// The types of messages that report a signal, and a time.
pub const TYPE_SIGNAL: u8 = 3;
pub const TYPE_TIMER: u8 = 4;

/// What stands before each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's type; the library gives it no meaning.
    pub kind: u8,
    /// The payload's size in bytes, at most [`MAX_PAYLOAD`].
    pub length: usize,
}

/// A length field over what is allowed, [`MAX_PAYLOAD`] at most: the peer does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Header {
    /// The header as it goes over the wire.
    pub fn encode(self) -> Result<[u8; HEADER_SIZE], TooLong> {
        if self.length > MAX_PAYLOAD {
            return Err(TooLong);
        }
        let length = u32::try_from(self.length).map_err(|_| TooLong)?;
        let [a, b, c, d] = length.to_ne_bytes();
        Ok([self.kind, a, b, c, d])
    }

    /// The header that these bytes hold, of a payload that may be so long.
    pub fn decode([kind, a, b, c, d]: [u8; HEADER_SIZE], longest: usize) -> Result<Self, TooLong> {
        match usize::try_from(u32::from_ne_bytes([a, b, c, d])) {
            Ok(length) if length <= longest => Ok(Self { kind, length }),
            _ => Err(TooLong),
        }
    }
}

/// The frame that `bytes` begin with, if all of it is there: its header and its payload, which may be so long.
pub fn parse_front(bytes: &[u8], longest: usize) -> Result<Option<(Header, &[u8])>, TooLong> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_SIZE>() else { return Ok(None) };
    let header = Header::decode(*head, longest)?;
    Ok(rest.get(..header.length).map(|payload| (header, payload)))
}

/// A whole frame in `bytes`, and nothing beside it: its header and its payload.
pub fn parse_exact(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let frame = parse_front(bytes, MAX_PAYLOAD).ok()??;
    (HEADER_SIZE + frame.1.len() == bytes.len()).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames as the original library puts them on the wire: the length is in the byte order of the machine.
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
    fn golden_vectors() {
        for (kind, payload, wire) in GOLDEN {
            let header = Header { kind, length: payload.len() };
            let bytes = [&header.encode().unwrap()[..], payload].concat();
            assert!(bytes.starts_with(wire), "{kind} {bytes:?}");
            assert_eq!(bytes.len(), HEADER_SIZE + payload.len());
            assert_eq!(parse_exact(&bytes), Some((header, payload)));
        }
    }

    #[test]
    fn the_largest_length_and_one_more() {
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
    fn a_frame_with_bytes_missing_or_left_over_is_none() {
        let [a, b, c, d] = 3_u32.to_ne_bytes();
        let frame = [1, a, b, c, d, b'a', b'b', b'c'];
        assert!(parse_exact(&frame).is_some());
        for short in 0..frame.len() {
            assert_eq!(parse_exact(&frame[..short]), None);
        }
        assert_eq!(parse_exact(&[&frame[..], b"x"].concat()), None);
    }
}
