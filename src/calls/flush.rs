//! Sending what waits, on whatever connection: while the library waits for something else, and at the end.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::connection::send::{
    Flushed, any_queued, failed, flush, flush_queue, flush_through, is_queued, note_queued, queued,
};
use crate::connection::table;
use crate::error::Error;
use crate::event_loop;
use crate::kernel::deadline::{self, Limit};
use crate::kernel::fd;
use crate::kernel::socket;
use crate::process::entry_guard::Section;

/// How long closing and exiting try to send what is queued, in milliseconds: one after the other in all.
const LAST_CHANCE: i64 = 1000;

/// After this time, in milliseconds, what has been waited for so is forgotten.
const LAST_CHANCE_RETURNS: i64 = 10_000;

/// What closing has waited lately, and when it last did.
static WAITED: AtomicI64 = AtomicI64::new(0);
static WAITED_AT: AtomicI64 = AtomicI64::new(0);

/// How long to wait for memory of the kernel's, in milliseconds.
const MEMORY_PAUSE: u8 = 1;

/// Has later calls send what is queued.
pub fn has_queued(section: &Section, fd: RawFd) {
    note_queued();
    event_loop::watch_output(section, fd);
}

/// Waits a little for what passes without the kernel's telling.
pub fn pause(section: &mut Section) {
    let _ = section.outside(|| poll(&mut [], MEMORY_PAUSE));
}

/// [`flush`] for a connection of another thread. That may close it with close(2) at any time, and its number become
/// another connection's: it is sent through a descriptor that stays what it is.
pub fn flush_of_another(section: &Section, fd: RawFd) -> Flushed {
    let flushed = match fd::duplicate(fd) {
        Ok(own) => flush_through(section, fd, own.as_raw_fd()),
        Err(_) => flush(section, fd),
    };
    if flushed == Flushed::All {
        event_loop::has_sent(section, fd);
    }
    flushed
}

/// Waits until one of `fds` takes bytes, or `input` has some, and sends what can be sent.
fn flush_some(
    section: &mut Section,
    fds: &[RawFd],
    input: Option<RawFd>,
    limit: PollTimeout,
) -> Result<bool, Errno> {
    let mut asked = Vec::new();
    asked.try_reserve(fds.len() + 1).map_err(|_| Errno::ENOMEM)?;
    for (fd, events) in input
        .map(|fd| (fd, PollFlags::POLLIN))
        .into_iter()
        .chain(fds.iter().map(|fd| (*fd, PollFlags::POLLOUT)))
    {
        asked.push(PollFd::new(fd::borrow(fd)?, events));
    }
    let count = section.outside(|| poll(&mut asked, limit))?;
    let mut ready = asked.iter().map(|asked| asked.any() != Some(false));
    let input_ready = input.is_some() && ready.next() == Some(true);
    let mut later = false;
    for (fd, _) in fds.iter().zip(ready).filter(|(_, ready)| *ready) {
        later |= flush_of_another(section, *fd) == Flushed::Later;
    }
    if later {
        pause(section);
    }
    if count == 0 { Err(Errno::ETIMEDOUT) } else { Ok(input_ready) }
}

/// Before a read that waits for `fd`: sends what is queued, for whomever, until there is something to read.
pub fn flush_while_waiting(section: &mut Section, fd: RawFd) -> Result<(), Errno> {
    if !any_queued() {
        return Ok(());
    }
    let limit = socket::receive_limit(fd)?;
    loop {
        let (waiting, all) = queued(section);
        if !all {
            // Who is left out may be the one that the peer waits for.
            return Err(Errno::ENOMEM);
        }
        if waiting.is_empty() {
            return Ok(());
        }
        match flush_some(section, &waiting, Some(fd), limit) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(Errno::ETIMEDOUT) => return Err(Errno::EAGAIN),
            Err(errno) => return Err(errno),
        }
    }
}

/// The last chance of what is queued: for all connections, until nothing waits for the one that is asked
/// for, or for any. Calls that follow each other have one second in all: who closes many connections with
/// peers that do not read is not held up by each.
pub fn last_flush(section: &mut Section, only: Option<RawFd>) {
    if only.is_some_and(|fd| !is_queued(section, fd)) {
        return;
    }
    for fd in queued(section).0 {
        flush_of_another(section, fd);
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
        let flushed = if all { flush_some(section, &waiting, None, limit) } else { Err(Errno::ENOMEM) };
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

/// Sends what is queued for the connection, and waits for its peer: ETIMEDOUT when the time is over before.
pub fn flush_waiting(section: &mut Section, fd: RawFd, limit: Limit) -> Result<(), Error> {
    fd::check_open(fd).map_err(failed)?;
    let thread = section.thread();
    let mut timeout = limit.left();
    loop {
        let mut slot = table::lock_known(section, fd);
        let writer = match slot.get() {
            Some(connection) if !connection.may_send() => connection.writer,
            _ => return Ok(()),
        };
        let mut flushed = Flushed::Full;
        if writer.is_none() {
            slot.verify().map_err(failed)?;
            flushed = flush_queue(&mut slot, fd)?;
        }
        if flushed == Flushed::All {
            slot.tidy();
            drop(slot);
            event_loop::has_sent(section, fd);
            return Ok(());
        }
        if writer == Some(thread) {
            // A signal handler has interrupted a write to the same connection.
            return Err(failed(Errno::EDEADLK));
        }
        if timeout == 0 {
            return Err(failed(Errno::ETIMEDOUT));
        }
        if writer.is_some() {
            let limit = u64::try_from(timeout).ok().map(Duration::from_millis);
            drop(slot.wait(limit).map_err(failed)?);
        } else if flushed == Flushed::Later {
            drop(slot);
            pause(section);
        } else {
            drop(slot);
            let limit = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::NONE);
            match section.outside(|| fd::wait(fd, PollFlags::POLLOUT, limit)) {
                Ok(_) => {}
                // As in a wait for an event: with a limit, a signal neither ends nor prolongs it.
                Err(Errno::EINTR) if timeout > 0 => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        timeout = limit.left();
    }
}
