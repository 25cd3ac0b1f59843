//! Writing one frame, and the frames that wait to be written on its connection.
//!
//! A frame leaves in one `sendmsg` of header and payload, without a copy. What the kernel does not take at
//! once depends on where the connection is:
//!
//! * in no list: the call returns when the kernel has all of it;
//! * in a list: the same while the peer drains. Once it has drained nothing for [`PATIENCE`], the rest is
//!   queued in the connection's memory and leaves from within later calls, so that a peer that does not
//!   read costs milliseconds, once.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use crate::calls::flush::{flush_waiting, has_queued, pause};
use crate::connection::send::{
    Flushed, failed, flush_queue, give_up, is_passing, not_remembered, refused, send,
};
use crate::connection::state::Connection;
use crate::connection::table::{self, Slot};
use crate::error::Error;
use crate::event_loop;
use crate::kernel::deadline::Limit;
use crate::kernel::fd;
use crate::kernel::fd::Patience;
use crate::kernel::socket;
use crate::process::entry_guard::{Section, Thread};

/// How long a peer in a list may drain nothing before the rest is queued, in milliseconds.
const PATIENCE: u8 = 5;

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

/// Sends `pieces` as one run of bytes, which no other thread's bytes come into, and a descriptor with it.
pub fn write(
    section: &mut Section,
    fd: RawFd,
    pieces: [&[u8]; 2],
    descriptor: Option<RawFd>,
) -> Result<(), Error> {
    let frame = Rest(pieces, descriptor);
    if frame.len() == 0 {
        return fd::check_open(fd).map_err(failed);
    }
    let mut sent = 0;
    let result = write_frame(section, fd, frame, &mut sent);
    if let Err(Error { errno, .. }) = result
        && sent > 0
    {
        give_up(fd, errno);
    }
    result
}

/// Sends a frame, or its rest is queued; how much of it was sent.
fn write_frame(section: &mut Section, fd: RawFd, frame: Rest<'_>, sent: &mut usize) -> Result<(), Error> {
    let thread = section.thread();
    let mut slot = table::lock_known(section, fd);
    let mut flushed = None;
    if slot.get().is_some_and(|connection| !connection.may_send()) {
        slot.verify().map_err(failed)?;
        while let Some(connection) = slot.get()
            && let Some(writer) = connection.writer
        {
            if writer == thread {
                // A signal handler has interrupted a write to the same connection: its frame goes behind.
                return frame.queue(connection);
            }
            slot = slot.wait(None).map_err(failed)?;
        }
        flushed = Some(flush_queue(&mut slot, fd)?);
        slot.tidy();
    }
    if flushed.is_none_or(|flushed| flushed == Flushed::All) {
        slot.reserve().map_err(refused)?;
        match frame.send(fd) {
            Ok(count) if count == frame.len() => {
                drop(slot);
                if flushed.is_some() {
                    event_loop::has_sent(section, fd);
                }
                return Ok(());
            }
            Ok(count) => *sent = count,
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    slot.forget_stranger();
    let connection = slot.entry().map_err(not_remembered)?;
    let was_queued = !connection.outbound.is_empty();
    connection.writer = Some(thread);
    drop(slot);
    let listed = event_loop::is_listed(section, fd);
    let result = match (was_queued, listed) {
        // Its patience was used up before.
        (true, true) => enqueue(section, fd, thread, frame, *sent),
        (false, false) if frame.after(*sent).1.is_none() => send_waiting(section, fd, thread, frame, sent),
        (_, listed) => send_rest(section, fd, thread, frame, sent, listed),
    };
    let is_queued = finish(section, fd, thread);
    if flushed.is_some() && !is_queued {
        event_loop::has_sent(section, fd);
    }
    if is_queued && !listed && result.is_ok() {
        // A signal handler has queued a frame behind this one, and in no list nobody else would send it.
        let _ = flush_waiting(section, fd, Limit::NONE);
    }
    result
}

/// The connection, as long as this thread is the one that writes to it: a signal handler may have closed it.
fn own_turn<'s>(slot: &'s mut Slot<'_>, thread: Thread) -> Result<&'s mut Connection, Error> {
    slot.get().filter(|connection| connection.writer == Some(thread)).ok_or(failed(Errno::EBADF))
}

/// Waits for the peer and sends, as often as it takes; in a list, as long as the peer drains.
fn send_rest(
    section: &mut Section,
    fd: RawFd,
    thread: Thread,
    frame: Rest<'_>,
    sent: &mut usize,
    listed: bool,
) -> Result<(), Error> {
    let limit = if listed { PollTimeout::from(PATIENCE) } else { PollTimeout::NONE };
    while *sent < frame.len() {
        let ready = section.outside(|| fd::wait(fd, PollFlags::POLLOUT, limit));
        let mut slot = table::lock_known(section, fd);
        if ready == Err(Errno::EINTR) {
            slot.forget_stranger();
        }
        let connection = own_turn(&mut slot, thread)?;
        match ready {
            // A signal handler has run: to start the patience anew could be to wait for ever.
            Err(Errno::EINTR) if !listed => continue,
            Err(errno) if is_passing(errno) && !listed => {
                drop(slot);
                pause(section);
                continue;
            }
            Ok(events) if !events.is_empty() => {}
            Ok(_) | Err(Errno::EINTR | Errno::ENOMEM) => {
                drop(slot);
                match enqueue(section, fd, thread, frame, *sent) {
                    // Half of it is sent already: rather than lose the rest, wait for memory or the peer.
                    Err(Error { errno: Errno::ENOMEM | Errno::EAGAIN, .. }) if *sent > 0 => {
                        pause(section);
                        continue;
                    }
                    result => return result,
                }
            }
            Err(errno) => return Err(failed(errno)),
        }
        // What was queued before goes out first; what a signal handler has queued since goes out last.
        if *sent == 0 && !connection.outbound.is_empty() {
            match flush_queue(&mut slot, fd)? {
                Flushed::All => {}
                Flushed::Full => continue,
                Flushed::Later if listed => {
                    drop(slot);
                    return enqueue(section, fd, thread, frame, *sent);
                }
                Flushed::Later => {
                    drop(slot);
                    pause(section);
                    continue;
                }
            }
        }
        match frame.after(*sent).send(fd) {
            Ok(count) => *sent += count,
            Err(Errno::EAGAIN) => {}
            // Half of it is sent: the rest has to follow, once the kernel has memory again.
            Err(errno) if *sent > 0 && is_passing(errno) && listed => {
                drop(slot);
                return enqueue(section, fd, thread, frame, *sent);
            }
            Err(errno) if *sent > 0 && is_passing(errno) => {
                drop(slot);
                pause(section);
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// Has the kernel wait for the peer, which it does best where nothing limits the wait and nothing goes first.
fn send_waiting(
    section: &mut Section,
    fd: RawFd,
    thread: Thread,
    frame: Rest<'_>,
    sent: &mut usize,
) -> Result<(), Error> {
    let Ok(own) = fd::duplicate(fd) else { return send_rest(section, fd, thread, frame, sent, false) };
    while *sent < frame.len() {
        let rest = frame.after(*sent);
        match section.outside(|| socket::send_pieces(own.as_raw_fd(), &rest.slices(), Patience::Wait)) {
            Ok(count) => *sent += count,
            Err(Errno::EINTR) => {}
            // The program has set O_NONBLOCK or a time-out, or there is no memory for now.
            Err(errno) if errno == Errno::EAGAIN || *sent > 0 && is_passing(errno) => {
                return send_rest(section, fd, thread, frame, sent, false);
            }
            Err(errno) => return Err(failed(errno)),
        }
        if *sent < frame.len() {
            own_turn(&mut table::lock(section, fd), thread)?;
        }
    }
    Ok(())
}

/// Keeps the rest of the frame in memory; later calls send it.
fn enqueue(section: &Section, fd: RawFd, thread: Thread, frame: Rest<'_>, sent: usize) -> Result<(), Error> {
    let rest = frame.after(sent);
    let mut slot = table::lock(section, fd);
    let connection = own_turn(&mut slot, thread)?;
    if sent == 0 {
        rest.queue(connection)
    } else {
        connection.outbound.prepend(&rest.slices()).map_err(refused)
    }
}

/// Lets others write again, and has the event loop send what is queued; whether anything is.
fn finish(section: &Section, fd: RawFd, thread: Thread) -> bool {
    let mut slot = table::lock_known(section, fd);
    let queued = match own_turn(&mut slot, thread) {
        Ok(connection) => {
            connection.writer = None;
            !connection.outbound.is_empty()
        }
        Err(_) => false,
    };
    slot.notify();
    slot.tidy();
    drop(slot);
    if queued {
        has_queued(section, fd);
    }
    queued
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
