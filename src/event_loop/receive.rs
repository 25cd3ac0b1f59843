//! What a connection's turn brings: a frame of what was read ahead, or of what the kernel has.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::frame_decoder::{Came, Cut, Frame, Inbound, Receive};
use crate::connection::received_fds::Unwanted;
use crate::connection::table;
use crate::frame::c_heap::{Block, OutOfMemory};
use crate::kernel::ancillary;
use crate::kernel::fd::Patience;
use crate::process::entry_guard::Section;

/// How often a connection receives in one turn, as long as there is more of a frame that is half received.
const RECEIVES: usize = 4;

/// From which size on a payload costs more to copy than to be received apart from its header.
const LARGE: usize = 4096;

/// What a turn's receiving has brought.
pub enum Received {
    /// A whole frame.
    Message(Frame),
    /// Nothing to report yet.
    Nothing,
    /// The peer sends no more.
    End,
    /// The peer broke the protocol, or the connection failed.
    Broken,
    /// The program has closed the descriptor.
    Closed,
}

/// What the connections of one list have in common.
#[derive(Default)]
pub struct Receiver {
    /// The size of the last message: the next ones are likely to have it, too.
    expected: usize,
    /// A buffer for read-ahead that no connection needs at present.
    spare: Block,
}

impl Receiver {
    /// Receives a frame of the connection, or cuts one of what an earlier receive has brought; and whether there is more
    /// to cut. The descriptor still is the connection.
    pub fn receive(&mut self, section: &Section, fd: RawFd) -> Result<(Received, bool), OutOfMemory> {
        let mut slot = table::lock_known(section, fd);
        // Before anything is taken from the kernel, so that nothing is lost for want of it.
        slot.reserve().map_err(|_| OutOfMemory)?;
        let refuses = slot.refuses_descriptors();
        let mut unwanted = Unwanted::default();
        let (came, cut, more);
        if let Some(connection) = slot.get() {
            (came, cut) = self.pull(&mut connection.inbound, fd, refuses, &mut unwanted);
            more = connection.inbound.has_ahead();
            if connection.is_idle() {
                slot.remove_if_idle();
            }
        } else {
            let mut inbound = slot.settings().inbound();
            (came, cut) = self.pull(&mut inbound, fd, refuses, &mut unwanted);
            more = inbound.has_ahead();
            if !inbound.is_empty()
                && let Ok(connection) = slot.entry()
            {
                connection.inbound = inbound;
            }
        }
        drop(slot);
        drop(unwanted);
        let received = match (came, cut) {
            (_, Ok(Some(frame))) => Received::Message(frame),
            (Ok(Came::End), _) => Received::End,
            (Err(Receive::System(Errno::EAGAIN | Errno::EINTR)), _) => Received::Nothing,
            (Err(Receive::System(Errno::EBADF)), _) => Received::Closed,
            (Err(Receive::System(_)), _) | (_, Err(Cut::TooLong)) => Received::Broken,
            (Err(Receive::OutOfMemory), _) | (_, Err(Cut::OutOfMemory)) => return Err(OutOfMemory),
            (_, Ok(None)) => Received::Nothing,
        };
        Ok((received, more))
    }

    /// Cuts a frame of what has come in, and receives as long as there is none.
    fn pull(
        &mut self,
        inbound: &mut Inbound,
        fd: RawFd,
        refuses: bool,
        unwanted: &mut Unwanted,
    ) -> (Result<Came, Receive>, Result<Option<Frame>, Cut>) {
        let mut cut = inbound.cut();
        let mut came = Ok(Came::Full);
        for _ in 0..RECEIVES {
            let (Ok(None), Ok(Came::Full)) = (&cut, came) else { break };
            came = if self.expected < LARGE || inbound.has_begun() || inbound.descriptors.is_some() {
                inbound.receive_ahead(&mut self.spare, |room, wanted| {
                    unwanted.receive(refuses, wanted, |arriving| {
                        ancillary::receive(fd, room, Patience::DontWait, arriving)
                    })
                })
            } else {
                inbound.receive_expected(self.expected, |head, room| {
                    unwanted
                        .receive(refuses, None, |arriving| ancillary::receive_apart(fd, head, room, arriving))
                })
            };
            if let Ok(Came::All | Came::Full) = came {
                cut = inbound.cut();
            }
        }
        if let Ok(Some(frame)) = &cut {
            self.expected = frame.payload.len();
        }
        unwanted.collect(&mut inbound.descriptors);
        inbound.return_spare(&mut self.spare);
        (came, cut)
    }
}
