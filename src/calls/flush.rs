//! Sending queued bytes: of all connections, while a call waits for something else and at exit; of one
//! connection, when the program asks for it ([`Flush`]).

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::calls::flow::Flow;
use crate::connection::send::{
    Flushed, any_queued, failed, flush_connection, flush_queue, note_queued, queued,
};
use crate::connection::stall::{LOOK, Stall};
use crate::connection::state::Connection;
use crate::connection::{background, table};
use crate::error::Error;
use crate::event_loop::loops;
use crate::kernel::deadline::{Deadline, milliseconds};
use crate::kernel::fd;
use crate::kernel::wait::{PollSet, Wait};
use crate::process::entry_guard::EntryGuard;
use crate::process::sharded::NumberMap;

/// How long to wait when the kernel lacks memory, in milliseconds.
pub const MEMORY_PAUSE: u8 = 1;

/// Bytes were queued for the connection: its list or later calls send them.
pub fn send_later(guard: &EntryGuard, fd: RawFd) {
    note_queued();
    loops::watch_output(guard, fd);
}

/// Whether anything is queued that is to be sent while a call waits for something else.
pub fn is_any_queued() -> bool {
    any_queued() || background::is_active()
}

/// [`flush_connection`]; if all is sent, the connection's list is notified.
fn flush_and_note(guard: &EntryGuard, fd: RawFd) -> Flushed {
    let flushed = flush_connection(guard, fd);
    if flushed == Flushed::All {
        loops::note_sent(guard, fd);
    }
    flushed
}

/// The connections with queued bytes, while a call waits for another descriptor. Plain data.
#[derive(Clone, Copy, Default)]
pub struct Flushing(Option<PollSet>);

impl Flushing {
    /// Waits until the descriptor is readable or one of the connections can send, at most `left`
    /// milliseconds; negative means without end.
    pub fn wait_for_input(
        &mut self,
        guard: &EntryGuard,
        wait: &mut Wait,
        fd: RawFd,
        left: i32,
    ) -> Result<(), Errno> {
        let (waiting, are_all) = queued(guard);
        if !are_all {
            // The peer of the call may be waiting for the bytes of a connection that is left out.
            return Err(Errno::ENOMEM);
        }
        let background = background::set(guard);
        if waiting.is_empty() && background.is_none() {
            wait.poll(fd, libc::POLLIN, left);
            return Ok(());
        }
        let left = if background.is_none() || (0..LOOK).contains(&left) { left } else { LOOK };
        let mut set = PollSet::with_room(waiting.len() + 2)?;
        set.push(fd, libc::POLLIN);
        waiting.into_iter().for_each(|fd| set.push(fd, libc::POLLOUT));
        background.into_iter().for_each(|fd| set.push(fd, libc::POLLIN));
        self.0 = Some(set);
        set.prepare(wait, left);
        Ok(())
    }

    /// The wait is over: sends what can be sent.
    pub fn finish(&mut self, guard: &mut EntryGuard) {
        let mut is_stalled = false;
        if let Some(set) = self.0.take() {
            set.finish(1, |fd| is_stalled |= flush_and_note(guard, fd) == Flushed::Later);
        }
        if is_stalled {
            pause(guard);
        }
    }
}

/// Waits a little, for a condition whose end the kernel does not report.
fn pause(guard: &mut EntryGuard) {
    let _ = guard.outside(|| poll(&mut [], MEMORY_PAUSE));
}

/// How long exit waits for queued bytes, in milliseconds.
const AT_EXIT: i64 = 30_000;

/// At exit: waits until no bytes are queued whose peer receives.
pub fn finish_at_exit(guard: &mut EntryGuard) {
    let begun = milliseconds();
    let mut stalls = NumberMap::default();
    while milliseconds() - begun < AT_EXIT {
        background::send(guard, true);
        let (mut waiting, are_all) = queued(guard);
        waiting.retain(|fd| {
            if flush_and_note(guard, *fd) == Flushed::All {
                return false;
            }
            if stalls.try_reserve(1).is_err() {
                return true;
            }
            let mut slot = table::lock_verified(guard, *fd);
            let Some(Connection { send_queue, .. }) = slot.get() else { return false };
            !stalls.entry(*fd).or_insert_with(|| Stall::begin(*fd, send_queue)).look(*fd, send_queue)
        });
        let background = background::set(guard);
        if are_all && waiting.is_empty() && !background::has_rests(guard) {
            break;
        }
        let mut asked = Vec::new();
        if asked.try_reserve(waiting.len() + 1).is_ok() {
            let writable = waiting.iter().map(|fd| (*fd, PollFlags::POLLOUT));
            let all = writable.chain(background.map(|set| (set, PollFlags::POLLIN)));
            asked
                .extend(all.filter_map(|(fd, events)| fd::borrow(fd).ok().map(|fd| PollFd::new(fd, events))));
        }
        let _ = guard.outside(|| poll(&mut asked, LOOK as u16));
    }
}

/// A flush that the program has asked for, between its steps. Plain data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    fd: RawFd,
    deadline: Deadline,
    is_pausing: bool,
}

impl Flush {
    /// Sends the queued bytes of the connection, and waits for its peer until `deadline`.
    pub fn new(fd: RawFd, deadline: Deadline) -> Self {
        Self { fd, deadline, is_pausing: false }
    }

    /// The first step. ETIMEDOUT at the deadline.
    pub fn begin(&mut self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<()>, Error> {
        fd::check_usable(self.fd).map_err(failed)?;
        self.flush_or_wait(guard, wait, false)
    }

    /// The next step, after a wait.
    pub fn go_on(&mut self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<()>, Error> {
        let has_paused = std::mem::take(&mut self.is_pausing);
        if !has_paused {
            match wait.events() {
                // As in a wait for an event: with a deadline, a signal neither ends nor prolongs the wait.
                Err(Errno::EINTR) if self.deadline.left() >= 0 => {}
                result => drop(result.map_err(failed)?),
            }
        }
        self.flush_or_wait(guard, wait, !has_paused && wait.events().is_ok_and(|events| events != 0))
    }

    fn flush_or_wait(
        &mut self,
        guard: &EntryGuard,
        wait: &mut Wait,
        is_writable: bool,
    ) -> Result<Flow<()>, Error> {
        let fd = self.fd;
        let timeout = self.deadline.left();
        let mut slot = table::lock_unverified(guard, fd);
        let Some(connection) = slot.get().filter(|connection| !connection.may_send()) else {
            return Ok(Flow::Done(()));
        };
        let mut flushed = Flushed::Full;
        if connection.turn.is_free() {
            slot.verify().map_err(failed)?;
            flushed = flush_queue(&mut slot, fd)?;
        } else if connection.turn.has(guard.thread()) {
            // A signal handler has interrupted a write to the same connection.
            return Err(failed(Errno::EDEADLK));
        } else if is_writable {
            // The thread that has the turn is about to send.
            flushed = Flushed::Later;
        }
        if flushed == Flushed::All {
            slot.remove_if_idle();
            drop(slot);
            loops::note_sent(guard, fd);
            return Ok(Flow::Done(()));
        }
        if timeout == 0 {
            return Err(failed(Errno::ETIMEDOUT));
        }
        if flushed == Flushed::Later {
            self.is_pausing = true;
            wait.pause(MEMORY_PAUSE.into());
        } else {
            wait.poll(fd, libc::POLLOUT, timeout);
        }
        Ok(Flow::Wait)
    }
}
