//! Sending what is queued, on whatever connection: while the library waits for something else, at the program's word, and
//! at the end.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::calls::flow::Flow;
use crate::connection::send::{Flushed, failed, flush, flush_queue, is_queued, note_queued, queued};
use crate::connection::table;
use crate::error::Error;
use crate::event_loop::loops;
use crate::kernel::deadline::{self, Limit};
use crate::kernel::fd;
use crate::kernel::wait::{PollSet, Wait};
use crate::process::entry_guard::Section;

/// How long closing and exiting try to send what is queued, in milliseconds: one after the other in all.
const LAST_CHANCE: i64 = 1000;

/// After this time, in milliseconds, what has been waited for so is forgotten.
const LAST_CHANCE_RETURNS: i64 = 10_000;

/// What closing has waited lately, and when it last did.
static WAITED: AtomicI64 = AtomicI64::new(0);
static WAITED_AT: AtomicI64 = AtomicI64::new(0);

/// How long to wait for memory of the kernel's, in milliseconds.
pub const MEMORY_PAUSE: u8 = 1;

/// Has later calls send what is queued.
pub fn has_queued(section: &Section, fd: RawFd) {
    note_queued();
    loops::watch_output(section, fd);
}

/// [`flush`], and what follows for the list that has the connection.
fn flush_and_note(section: &Section, fd: RawFd) -> Flushed {
    let flushed = flush(section, fd);
    if flushed == Flushed::All {
        loops::note_sent(section, fd);
    }
    flushed
}

/// While a call waits for one descriptor: the connections that something is queued for. Plain data.
#[derive(Clone, Copy, Default)]
pub struct Flushing(Option<PollSet>);

impl Flushing {
    /// Waits until the descriptor is readable or one of the connections takes bytes, for so many milliseconds, below 0
    /// without end.
    pub fn wait(&mut self, section: &Section, wait: &mut Wait, fd: RawFd, left: i32) -> Result<(), Errno> {
        let (waiting, are_all) = queued(section);
        if !are_all {
            // What is left out may be what the peer waits for.
            return Err(Errno::ENOMEM);
        }
        if waiting.is_empty() {
            wait.poll(fd, libc::POLLIN, left);
            return Ok(());
        }
        let mut set = PollSet::with_room(waiting.len() + 1)?;
        set.push(fd, libc::POLLIN);
        waiting.into_iter().for_each(|fd| set.push(fd, libc::POLLOUT));
        self.0 = Some(set);
        set.wait(wait, left);
        Ok(())
    }

    /// The wait is over: sends what can be sent.
    pub fn finish(&mut self, section: &mut Section) {
        let mut is_stalled = false;
        if let Some(set) = self.0.take() {
            set.finish(1, |fd| is_stalled |= flush_and_note(section, fd) == Flushed::Later);
        }
        if is_stalled {
            pause(section);
        }
    }
}

/// Waits a little for what passes without the kernel's saying so.
fn pause(section: &mut Section) {
    let _ = section.outside(|| poll(&mut [], MEMORY_PAUSE));
}

/// Waits until one of `fds` takes bytes, and sends what can be sent.
fn flush_some(section: &mut Section, fds: &[RawFd], limit: PollTimeout) -> Result<(), Errno> {
    let mut asked = Vec::new();
    asked.try_reserve(fds.len()).map_err(|_| Errno::ENOMEM)?;
    for fd in fds {
        asked.push(PollFd::new(fd::borrow(*fd)?, PollFlags::POLLOUT));
    }
    section.outside(|| poll(&mut asked, limit))?;
    let ready = fds.iter().zip(&asked).filter(|(_, asked)| asked.any() != Some(false));
    let is_stalled =
        ready.fold(false, |later, (fd, _)| later | (flush_and_note(section, *fd) == Flushed::Later));
    if is_stalled {
        pause(section);
    }
    Ok(())
}

/// The last chance of what is queued: for all connections, until nothing waits for the one that is asked for, or for any.
/// Calls that follow each other have one second in all: a program that closes many connections with peers that do not read
/// is not held up by each.
pub fn last_flush(section: &mut Section, only: Option<RawFd>) {
    if only.is_some_and(|fd| !is_queued(section, fd)) {
        return;
    }
    for fd in queued(section).0 {
        flush_and_note(section, fd);
    }
    let start = deadline::milliseconds();
    let spent = if start - WAITED_AT.load(Ordering::Relaxed) < LAST_CHANCE_RETURNS {
        WAITED.load(Ordering::Relaxed)
    } else {
        0
    };
    let mut waited = 0;
    loop {
        let (waiting, all) = queued(section);
        let done = all && only.map_or(waiting.is_empty(), |fd| !waiting.contains(&fd));
        let left = LAST_CHANCE - spent - waited;
        if done || left <= 0 {
            break;
        }
        let limit = Duration::from_millis(left.unsigned_abs());
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        let flushed = if all { flush_some(section, &waiting, limit) } else { Err(Errno::ENOMEM) };
        if flushed == Err(Errno::ENOMEM) {
            pause(section);
        }
        waited = deadline::milliseconds() - start;
    }
    if waited > 0 {
        WAITED.store(spent + waited, Ordering::Relaxed);
        WAITED_AT.store(start + waited, Ordering::Relaxed);
    }
}

/// A flush at the program's word, between its steps: plain data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    fd: RawFd,
    limit: Limit,
    is_pausing: bool,
}

impl Flush {
    /// Sends what is queued for the connection, and waits for its peer until `limit`.
    pub fn new(fd: RawFd, limit: Limit) -> Self {
        Self { fd, limit, is_pausing: false }
    }

    /// Begins. ETIMEDOUT when the time is over.
    pub fn begin(&mut self, section: &Section, wait: &mut Wait) -> Result<Flow<()>, Error> {
        fd::check_usable(self.fd).map_err(failed)?;
        self.flush(section, wait)
    }

    /// Goes on after a wait.
    pub fn go_on(&mut self, section: &Section, wait: &mut Wait) -> Result<Flow<()>, Error> {
        if !std::mem::take(&mut self.is_pausing) {
            match wait.events() {
                // As in a wait for an event: with a limit, a signal neither ends nor prolongs it.
                Err(Errno::EINTR) if self.limit.left() >= 0 => {}
                result => drop(result.map_err(failed)?),
            }
        }
        self.flush(section, wait)
    }

    fn flush(&mut self, section: &Section, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let fd = self.fd;
        loop {
            let timeout = self.limit.left();
            let mut slot = table::lock_known(section, fd);
            let writer = match slot.get() {
                Some(connection) if !connection.may_send() => connection.writer,
                _ => return Ok(Flow::Done(())),
            };
            let mut flushed = Flushed::Full;
            if writer.is_none() {
                slot.verify().map_err(failed)?;
                flushed = flush_queue(&mut slot, fd)?;
            }
            if flushed == Flushed::All {
                slot.tidy();
                drop(slot);
                loops::note_sent(section, fd);
                return Ok(Flow::Done(()));
            }
            if writer == Some(section.thread()) {
                // A signal handler has interrupted a write to the same connection.
                return Err(failed(Errno::EDEADLK));
            }
            if timeout == 0 {
                return Err(failed(Errno::ETIMEDOUT));
            }
            if writer.is_some() {
                let limit = u64::try_from(timeout).ok().map(Duration::from_millis);
                drop(slot.wait(limit).map_err(failed)?);
                continue;
            }
            if flushed == Flushed::Later {
                self.is_pausing = true;
                wait.pause(MEMORY_PAUSE.into());
            } else {
                wait.poll(fd, libc::POLLOUT, timeout);
            }
            return Ok(Flow::Wait);
        }
    }
}
