//! Sending what waits, on whatever connection: while the library waits for something else, and at the end.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::output::{Flushed, flush_of_another, is_queued, pause};
use crate::section::Section;
use crate::{connections, event_loop, limit, socket};

/// How long closing and exiting try to send what is queued, in milliseconds: one after the other in all.
const LAST_CHANCE: i64 = 1000;

/// After this time, in milliseconds, what has been waited for so is forgotten.
const LAST_CHANCE_RETURNS: i64 = 10_000;

/// What closing has waited lately, and when it last did.
static WAITED: AtomicI64 = AtomicI64::new(0);
static WAITED_AT: AtomicI64 = AtomicI64::new(0);

/// Whether any connection may have bytes queued. Set with each, cleared by a look that finds none.
static QUEUED: AtomicBool = AtomicBool::new(false);

/// Has later calls send what is queued.
pub fn has_queued(section: &Section, fd: RawFd) {
    QUEUED.store(true, Ordering::Relaxed);
    event_loop::watch_output(section, fd);
}

/// Whether bytes may wait to be sent on any connection.
pub fn any_queued() -> bool {
    QUEUED.load(Ordering::Relaxed)
}

/// The connections with bytes to send, as many as there is memory for, and whether these are all.
fn queued(section: &Section) -> (Vec<RawFd>, bool) {
    let (mut found, mut all) = (Vec::new(), true);
    if QUEUED.swap(false, Ordering::Relaxed) {
        let mut any = false;
        connections::for_each(section, |fd, connection| {
            if connection.outbound.is_empty() || connection.writer.is_some() {
                return;
            }
            any = true;
            match found.try_reserve(1) {
                Ok(()) => found.push(fd),
                Err(_) => all = false,
            }
        });
        if any {
            QUEUED.store(true, Ordering::Relaxed);
        }
    }
    (found, all)
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
        asked.push(PollFd::new(socket::borrow(fd)?, events));
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
    let start = limit::milliseconds();
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
        waited = limit::milliseconds() - start;
    }
    if waited > 0 {
        WAITED.store(spent + waited, Ordering::Relaxed);
        WAITED_AT.store(start + waited, Ordering::Relaxed);
    }
}
