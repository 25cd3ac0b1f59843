//! A frame that is being sent, or the part of it that is not sent yet.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::send::{failed, refused, send};
use crate::connection::send_queue::Room;
use crate::connection::state::Connection;
use crate::error::Error;
use crate::kernel::fd;
use crate::kernel::socket::send_frame;

/// How many pieces a payload may have.
pub const MOST_PIECES: usize = 64;

/// The unsent part of a frame: its pieces, and a descriptor that is sent with the first byte.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// Usually the header and the payload.
    pieces: [&'a [u8]; 2],
    /// Further pieces of the payload.
    more: &'a [IoSlice<'a>],
    descriptor: Option<RawFd>,
}

impl<'a> Outgoing<'a> {
    /// A frame of these pieces, in this order.
    pub fn new(pieces: [&'a [u8]; 2]) -> Self {
        Self { pieces, more: &[], descriptor: None }
    }

    /// The frame with further pieces, at most [`MOST_PIECES`].
    pub fn and(self, more: &'a [IoSlice<'a>]) -> Self {
        Self { more, ..self }
    }

    /// The frame with this descriptor.
    pub fn with(self, descriptor: Option<RawFd>) -> Self {
        Self { descriptor, ..self }
    }

    /// EBADF if the frame has a descriptor that is not open.
    pub fn check_descriptor(self) -> Result<(), Errno> {
        self.descriptor.map_or(Ok(()), fd::check_open)
    }

    /// Whether the frame has a descriptor.
    pub fn has_descriptor(self) -> bool {
        self.descriptor.is_some()
    }

    /// Whether the queue has as many descriptors as it may have: waiting for room in bytes does not help
    /// then.
    pub fn is_refused_for_its_descriptor(self, connection: &Connection) -> bool {
        self.descriptor.is_some() && !connection.send_queue.takes_descriptor()
    }

    /// Puts the frame before all queued bytes: its first part is sent.
    pub fn prepend(self, connection: &mut Connection) -> Result<(), Errno> {
        connection.send_queue.prepend(self.pieces())
    }

    /// How many bytes the frame has.
    pub fn len(self) -> usize {
        let [first, second] = self.pieces;
        self.more.iter().fold(first.len() + second.len(), |length, piece| length + piece.len())
    }

    /// What is left after so many bytes were sent.
    pub fn after(self, sent: usize) -> Self {
        let [first, second] = self.pieces;
        let into_second = sent.saturating_sub(first.len());
        let pieces = [first.get(sent..).unwrap_or_default(), second.get(into_second..).unwrap_or_default()];
        let descriptor = self.descriptor.filter(|_| sent == 0);
        let into_more = into_second.saturating_sub(second.len());
        match self.more {
            [next, rest @ ..] if into_more > 0 => {
                Self { pieces: [next, &[]], more: rest, descriptor }.after(into_more)
            }
            more => Self { pieces, more, descriptor },
        }
    }

    /// Sends what the kernel takes; returns how many bytes that is.
    #[inline]
    pub fn send(self, fd: RawFd) -> Result<usize, Errno> {
        match (self.descriptor, self.more) {
            (None, []) => send_frame(fd, self.pieces),
            _ => self.send_all(fd),
        }
    }

    #[inline(never)]
    fn send_all(self, fd: RawFd) -> Result<usize, Errno> {
        let mut slices = [IoSlice::new(&[]); 2 + MOST_PIECES];
        let filled = slices.iter_mut().zip(self.pieces()).map(|(slice, piece)| *slice = IoSlice::new(piece));
        let count = filled.count();
        send(fd, slices.get(..count).unwrap_or_default(), self.descriptor)
    }

    /// Adds the frame to the connection's queue, with a copy of its descriptor, if there is room.
    pub fn queue(self, connection: &mut Connection, room: Room) -> Result<(), Error> {
        let descriptor = self.descriptor.map(fd::duplicate).transpose().map_err(failed)?;
        connection.send_queue.reserve(self.len(), room, descriptor.is_some()).map_err(refused)?;
        connection.send_queue.append(self.pieces(), descriptor);
        Ok(())
    }

    /// The pieces, also empty ones.
    pub fn pieces(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.pieces.into_iter().chain(self.more.iter().map(|piece| &**piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_of_a_frame_spans_all_pieces() {
        let more = [b"".as_slice(), b"in", b"", b"", b"pieces", b""].map(IoSlice::new);
        for (more, whole) in [(more.as_slice(), b"headbodyinpieces".as_slice()), (&[], b"headbody")] {
            let frame = Outgoing::new([b"head", b"body"]).and(more).with(Some(0));
            for sent in 0..=whole.len() {
                let rest = frame.after(sent);
                assert_eq!(rest.has_descriptor(), sent == 0, "it goes with the first byte");
                assert_eq!(rest.pieces().collect::<Vec<_>>().concat(), whole[sent..]);
                assert_eq!(rest.len(), whole.len() - sent);
                for further in 0..=rest.len() {
                    let rest = rest.after(further);
                    assert_eq!(rest.pieces().collect::<Vec<_>>().concat(), whole[sent + further..]);
                }
            }
        }
    }
}
