//! Writing one frame, and before it the frames that are queued on its connection.
//!
//! A frame leaves in one `sendmsg` of header and payload, without a copy. What the kernel does not take at once depends on
//! where the connection is:
//!
//! * in no list: the call waits until the kernel has all of it;
//! * in a list: the same while the peer drains. Once it has drained nothing for [`PATIENCE`], the rest is queued in the
//!   connection's memory and leaves from within later calls, so that a peer that does not read costs milliseconds, once.
//!
//! While a call waits it has the connection's turn: no other thread's bytes come between the parts of its frame. A thread
//! that is cancelled then leaves the rest of a frame that has begun to the queue ([`Write::abandon`]).

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::calls::flow::Flow;
use crate::calls::flush::{Flush, MEMORY_PAUSE, has_queued};
use crate::connection::send::{
    Flushed, failed, flush_queue, give_up, is_passing, not_remembered, refused, send,
};
use crate::connection::state::Connection;
use crate::connection::table::{self, Slot};
use crate::error::Error;
use crate::event_loop::loops;
use crate::kernel::deadline::Limit;
use crate::kernel::fd;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::{Section, Thread};

/// How long a peer in a list may drain nothing before the rest is queued, in milliseconds.
const PATIENCE: i32 = 5;

/// What is left of a frame on its way: at most two pieces, and a descriptor that goes with the first byte.
#[derive(Clone, Copy)]
struct Rest<'a>([&'a [u8]; 2], Option<RawFd>);

impl<'a> Rest<'a> {
    fn len(self) -> usize {
        let [first, second] = self.0;
        first.len() + second.len()
    }

    fn after(self, sent: usize) -> Self {
        let [first, second] = self.0;
        let into_second = sent.saturating_sub(first.len());
        let pieces = [first.get(sent..).unwrap_or_default(), second.get(into_second..).unwrap_or_default()];
        Self(pieces, self.1.filter(|_| sent == 0))
    }

    /// Sends what the kernel takes.
    fn send(self, fd: RawFd) -> Result<usize, Errno> {
        send(fd, &self.slices(), self.1)
    }

    /// Keeps it in memory, behind what is there, if that stays below the limit.
    fn queue(self, connection: &mut Connection) -> Result<(), Error> {
        let descriptor = self.1.map(fd::duplicate).transpose().map_err(failed)?;
        connection.outbound.reserve(self.len(), connection.settings.queue).map_err(refused)?;
        connection.outbound.append(&self.slices(), descriptor);
        Ok(())
    }

    fn slices(&self) -> [IoSlice<'a>; 2] {
        self.0.map(IoSlice::new)
    }
}

/// How a call with the turn goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not begun.
    New,
    /// It has the turn, and waits until the peer takes more.
    Peer,
    /// It has the turn, and waits a little: for memory.
    Memory,
    /// Its frame is sent; what a signal handler has queued behind it leaves now.
    Behind(Flush),
}

/// A write, between its steps: plain data.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    fd: RawFd,
    frame: Rest<'a>,
    sent: usize,
    phase: Phase,
    is_listed: bool,
}

impl<'a> Write<'a> {
    /// Sends `pieces` as one run of bytes, which no other thread's bytes come into, and a descriptor with it.
    pub fn new(fd: RawFd, pieces: [&'a [u8]; 2], descriptor: Option<RawFd>) -> Self {
        Self { fd, frame: Rest(pieces, descriptor), sent: 0, phase: Phase::New, is_listed: false }
    }

    /// `wait` has the outcome of the wait before, if there was one, and gets the next one.
    pub fn step(&mut self, section: &Section, wait: &mut Wait) -> Result<Flow<()>, Error> {
        if let Phase::Behind(flush) = &mut self.phase {
            // The frame itself is sent.
            return Ok(flush.go_on(section, wait).unwrap_or(Flow::Done(())));
        }
        let next = match self.phase {
            Phase::New => self.begin(section, wait),
            _ => self.go_on(section, wait),
        };
        let result = match next {
            Ok(Flow::Wait) => return Ok(Flow::Wait),
            Ok(Flow::Done(())) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(Error { errno, .. }) = result
            && self.sent > 0
        {
            give_up(self.fd, errno);
        }
        if self.phase == Phase::New {
            return result.map(Flow::Done);
        }
        let is_queued = self.pass_turn(section);
        if result.is_ok() && is_queued && !self.is_listed {
            // A signal handler has queued a frame after this one, and no list sends it.
            let mut flush = Flush::new(self.fd, Limit::NONE);
            if let Ok(Flow::Wait) = flush.begin(section, wait) {
                self.phase = Phase::Behind(flush);
                return Ok(Flow::Wait);
            }
        }
        result.map(Flow::Done)
    }

    /// Sends the frame, if nothing stands before it and the kernel takes all of it; else takes the turn, and says what to
    /// wait for. It is done if the frame is sent or queued.
    fn begin(&mut self, section: &Section, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let (fd, frame) = (self.fd, self.frame);
        if frame.len() == 0 {
            return fd::check_usable(fd).map_err(failed).map(Flow::Done);
        }
        let thread = section.thread();
        let mut slot = table::lock_known(section, fd);
        slot.verify().map_err(failed)?;
        let mut flushed = None;
        if slot.get().is_some_and(|connection| !connection.may_send()) {
            while let Some(connection) = slot.get()
                && let Some(writer) = connection.writer
            {
                if writer == thread {
                    // A signal handler has interrupted a write to the same connection: its frame goes behind.
                    return frame.queue(connection).map(Flow::Done);
                }
                slot = slot.wait(None).map_err(failed)?;
            }
            flushed = Some(flush_queue(&mut slot, fd)?);
            slot.tidy();
        }
        self.is_listed = slot.list().is_some();
        if flushed.is_none_or(|flushed| flushed == Flushed::All) {
            slot.reserve().map_err(not_remembered)?;
            match frame.send(fd) {
                Ok(count) if count == frame.len() => {
                    drop(slot);
                    if flushed.is_some() {
                        loops::note_sent(section, fd);
                    }
                    return Ok(Flow::Done(()));
                }
                Ok(count) => self.sent = count,
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        let connection = slot.entry().map_err(not_remembered)?;
        let was_queued = !connection.outbound.is_empty();
        connection.writer = Some(thread);
        self.phase = Phase::Peer;
        if was_queued && self.is_listed {
            // Its patience was used up before.
            return self.enqueue(connection).map(Flow::Done);
        }
        Ok(self.wait_for_peer(wait))
    }

    fn wait_for_peer(&mut self, wait: &mut Wait) -> Flow<()> {
        self.phase = Phase::Peer;
        wait.poll(self.fd, libc::POLLOUT, if self.is_listed { PATIENCE } else { -1 });
        Flow::Wait
    }

    fn wait_for_memory(&mut self, wait: &mut Wait) -> Flow<()> {
        self.phase = Phase::Memory;
        wait.pause(MEMORY_PAUSE.into());
        Flow::Wait
    }

    /// The connection, as long as this call has its turn: a signal handler or another thread may have closed it.
    fn own_turn<'s>(slot: &'s mut Slot<'_>, thread: Thread) -> Result<&'s mut Connection, Error> {
        slot.get().filter(|connection| connection.writer == Some(thread)).ok_or(failed(Errno::EBADF))
    }

    /// Sends what the peer takes now; then waits again, in a list as long as the peer drains.
    fn go_on(&mut self, section: &Section, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let fd = self.fd;
        let ready = wait.events();
        // The number may be another socket's by now.
        let mut slot = table::lock(section, fd);
        let connection = Self::own_turn(&mut slot, section.thread())?;
        if self.phase == Phase::Peer {
            match ready {
                // A signal handler has run: to start the patience anew could be to wait for ever.
                Err(Errno::EINTR) if !self.is_listed => return Ok(self.wait_for_peer(wait)),
                Err(errno) if is_passing(errno) && !self.is_listed => {
                    return Ok(self.wait_for_memory(wait));
                }
                Ok(events) if events != 0 => {}
                Ok(_) | Err(Errno::EINTR | Errno::ENOMEM) => return self.enqueue_or_wait(connection, wait),
                Err(errno) => return Err(failed(errno)),
            }
        }
        // What was queued before goes out first; what a signal handler has queued since goes out last.
        if self.sent == 0 && !connection.outbound.is_empty() {
            match flush_queue(&mut slot, fd)? {
                Flushed::All => {}
                Flushed::Full => return Ok(self.wait_for_peer(wait)),
                Flushed::Later if self.is_listed => {
                    let connection = Self::own_turn(&mut slot, section.thread())?;
                    return self.enqueue(connection).map(Flow::Done);
                }
                Flushed::Later => return Ok(self.wait_for_memory(wait)),
            }
        }
        match self.frame.after(self.sent).send(fd) {
            Ok(count) => self.sent += count,
            Err(Errno::EAGAIN) => {}
            // Half of it is sent: the rest has to follow, once the kernel has memory again.
            Err(errno) if self.sent > 0 && is_passing(errno) => {
                if self.is_listed {
                    let connection = Self::own_turn(&mut slot, section.thread())?;
                    return self.enqueue_or_wait(connection, wait);
                }
                return Ok(self.wait_for_memory(wait));
            }
            Err(errno) => return Err(failed(errno)),
        }
        if self.sent < self.frame.len() { Ok(self.wait_for_peer(wait)) } else { Ok(Flow::Done(())) }
    }

    /// Keeps the rest of the frame in memory; later calls send it.
    fn enqueue(&self, connection: &mut Connection) -> Result<(), Error> {
        let rest = self.frame.after(self.sent);
        if self.sent == 0 {
            rest.queue(connection)
        } else {
            connection.outbound.prepend(&rest.slices()).map_err(refused)
        }
    }

    fn enqueue_or_wait(&mut self, connection: &mut Connection, wait: &mut Wait) -> Result<Flow<()>, Error> {
        match self.enqueue(connection) {
            // Half of it is sent already: rather than lose the rest, wait for memory or the peer.
            Err(Error { errno: Errno::ENOMEM | Errno::EAGAIN, .. }) if self.sent > 0 => {
                Ok(self.wait_for_memory(wait))
            }
            result => result.map(Flow::Done),
        }
    }

    /// Lets others write again, and has the event loop send what is queued; whether anything is.
    fn pass_turn(&self, section: &Section) -> bool {
        let fd = self.fd;
        // The step has just asked which socket it is.
        let mut slot = table::lock_known(section, fd);
        let Ok(connection) = Self::own_turn(&mut slot, section.thread()) else { return false };
        connection.writer = None;
        let is_queued = !connection.outbound.is_empty();
        slot.notify();
        slot.tidy();
        drop(slot);
        if is_queued {
            has_queued(section, fd);
        } else {
            // The end of a peer that sends no more may have waited for it.
            loops::note_sent(section, fd);
        }
        is_queued
    }

    /// The thread that waits in this write ends. The rest of a frame that has begun to leave goes before what is queued; a
    /// frame that has not is not sent.
    pub fn abandon(&self, section: &Section) {
        if !matches!(self.phase, Phase::Peer | Phase::Memory) {
            return;
        }
        if self.sent > 0 {
            let mut slot = table::lock(section, self.fd);
            let Ok(connection) = Self::own_turn(&mut slot, section.thread()) else { return };
            if self.enqueue(connection).is_err() {
                give_up(self.fd, Errno::ENOMEM);
            }
        }
        self.pass_turn(section);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_frame_spans_both_pieces() {
        let frame = Rest([b"head", b"body"], Some(0));
        let whole = b"headbody";
        for sent in 0..=8 {
            let Rest([first, second], descriptor) = frame.after(sent);
            assert_eq!(descriptor.is_some(), sent == 0, "it goes with the first byte");
            assert_eq!([first, second].concat(), whole[sent..]);
        }
    }
}
