//! A frame on its way out, or what is left of it.

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

/// What is left of a frame: at most two pieces, and a descriptor that goes with the first byte.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    pieces: [&'a [u8]; 2],
    descriptor: Option<RawFd>,
}

impl<'a> Outgoing<'a> {
    /// These pieces, and this descriptor.
    pub fn new(pieces: [&'a [u8]; 2], descriptor: Option<RawFd>) -> Self {
        Self { pieces, descriptor }
    }

    /// Whether there may be room for it later: descriptors leave one by one.
    pub fn is_refused_for_its_descriptor(self, connection: &Connection) -> bool {
        self.descriptor.is_some() && !connection.outbound.takes_descriptor()
    }

    /// Puts it before all that is queued: a part of the frame is sent.
    pub fn prepend(self, connection: &mut Connection) -> Result<(), Errno> {
        connection.outbound.prepend(&self.slices())
    }

    /// Its bytes.
    pub fn len(self) -> usize {
        let [first, second] = self.pieces;
        first.len() + second.len()
    }

    /// What is left when so many bytes are sent.
    pub fn after(self, sent: usize) -> Self {
        let [first, second] = self.pieces;
        let into_second = sent.saturating_sub(first.len());
        let pieces = [first.get(sent..).unwrap_or_default(), second.get(into_second..).unwrap_or_default()];
        Self { pieces, descriptor: self.descriptor.filter(|_| sent == 0) }
    }

    /// Sends what the kernel takes.
    pub fn send(self, fd: RawFd) -> Result<usize, Errno> {
        match self.descriptor {
            None => send_frame(fd, self.pieces),
            Some(_) => send(fd, &self.slices(), self.descriptor),
        }
    }

    /// Keeps it in memory, behind what is there, if there is room.
    pub fn queue(self, connection: &mut Connection, room: Room) -> Result<(), Error> {
        let descriptor = self.descriptor.map(fd::duplicate).transpose().map_err(failed)?;
        connection.outbound.reserve(self.len(), room, descriptor.is_some()).map_err(refused)?;
        connection.outbound.append(&self.slices(), descriptor);
        Ok(())
    }

    fn slices(&self) -> [IoSlice<'a>; 2] {
        self.pieces.map(IoSlice::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_frame_spans_both_pieces() {
        let frame = Outgoing::new([b"head", b"body"], Some(0));
        let whole = b"headbody";
        for sent in 0..=8 {
            let Outgoing { pieces: [first, second], descriptor } = frame.after(sent);
            assert_eq!(descriptor.is_some(), sent == 0, "it goes with the first byte");
            assert_eq!([first, second].concat(), whole[sent..]);
        }
    }
}
