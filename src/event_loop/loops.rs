//! The loops of all lists of the process, by the address of the list, and what the rest of the library asks of them.
//!
//! A connection is in one list, and the table of descriptors knows in which.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::connection::table;
use crate::error::Error;
use crate::event_loop::list::{Kind, List};
use crate::event_loop::list_loop::{Ended, EventLoop};
use crate::event_loop::members::{Reason, Token};
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::deadline;
use crate::kernel::internal_fds::KeptFd;
use crate::kernel::notices::Signals;
use crate::kernel::wait::PollSet;
use crate::process::entry_guard::EntryGuard;
use crate::process::sharded::{NumberMap, Part, Shard, Shards, empty_map, release_map};

const PARTS: usize = 16;

/// The loops of some lists.
type Loops = NumberMap<usize, EventLoop>;

static LOOPS: Shards<Loops, PARTS> = Shards([const { Part::new(empty_map()) }; PARTS]);

/// Lists lie at addresses of at least eight bytes' distance.
fn part(list: usize) -> usize {
    list >> 3
}

/// All loops, locked for a fork.
pub type Frozen = [Shard<'static, Loops>; PARTS];

/// Locks the loops of all lists.
pub fn freeze() -> Frozen {
    LOOPS.freeze()
}

/// At the end of the process: gives back the table's memory, if nothing is in it.
pub fn release(guard: &EntryGuard) {
    LOOPS.for_each(guard, release_map);
}

/// Acts on the loop of a list, made if there is none yet. What is of no use any more is removed; it and the memory of
/// closed connections are dropped without the lock.
pub fn with_loop<R>(
    guard: &EntryGuard,
    list: usize,
    act: impl FnOnce(&mut EventLoop) -> Result<R, Error>,
) -> Result<R, Error> {
    let mut shard = LOOPS.lock(guard, part(list));
    if !shard.contains_key(&list) {
        shard.try_reserve(1)?;
    }
    let event_loop = shard.entry(list).or_insert_with(|| EventLoop::new(list));
    let result = act(event_loop);
    event_loop.update_event_fd(guard);
    event_loop.shrink();
    let discarded = event_loop.take_discarded();
    let unused = if event_loop.is_unused() { shard.remove(&list) } else { None };
    drop(shard);
    drop((discarded, unused));
    result
}

/// Acts on the loop of a list, if there is one, in a way that leaves nothing to show or to give back.
pub fn with_loop_quickly<R>(
    guard: &EntryGuard,
    list: usize,
    act: impl FnOnce(&mut EventLoop) -> Option<R>,
) -> Option<R> {
    LOOPS.lock(guard, part(list)).get_mut(&list).and_then(act)
}

/// [`with_loop`], if there is one.
fn with_existing<R>(guard: &EntryGuard, list: usize, act: impl FnOnce(&mut EventLoop) -> R) -> Option<R> {
    let mut shard = LOOPS.lock(guard, part(list));
    let event_loop = shard.get_mut(&list)?;
    let result = act(event_loop);
    event_loop.update_event_fd(guard);
    event_loop.shrink();
    let discarded = event_loop.take_discarded();
    let unused = if event_loop.is_unused() { shard.remove(&list) } else { None };
    drop(shard);
    drop((discarded, unused));
    Some(result)
}

/// Acts on the loop that has the connection, and the slot of it there.
fn with_member(guard: &EntryGuard, fd: RawFd, act: impl FnOnce(&mut EventLoop, u32)) {
    let list = table::lock_unverified(guard, fd).list();
    if let Some(list) = list {
        with_existing(guard, list, |event_loop| {
            if let Some(slot) = event_loop.slot_of(fd) {
                act(event_loop, slot);
            }
        });
    }
}

/// The program has added an entry to its list, at this index.
///
/// `before` is what [`List::shape`] was before, `kind` what the entry is: the list cannot tell all of them apart.
pub fn note_added<L: List>(
    guard: &EntryGuard,
    list: &L,
    before: (usize, usize),
    index: usize,
    kind: Kind,
) -> Result<(), Error> {
    with_loop(guard, list.key(), |event_loop| event_loop.note_added(guard, list, before, index, kind))
}

/// The program has taken an entry out of its list, by [`List::remove`] at this index; `before` is what [`List::shape`]
/// was, `addr` the address of the structure.
pub fn note_removed<L: List>(
    guard: &EntryGuard,
    list: &L,
    before: (usize, usize),
    addr: usize,
    index: usize,
) {
    with_existing(guard, list.key(), |event_loop| event_loop.note_removed(guard, list, before, addr, index));
}

/// What [`EventLoop::status`] says; nothing of a list that has no loop.
pub fn status(guard: &EntryGuard, list: usize) -> (usize, u64, bool) {
    LOOPS.lock(guard, part(list)).get(&list).map(EventLoop::status).unwrap_or_default()
}

/// The descriptor from which the list reads signals, if there is one, and which these are.
pub fn signals(guard: &EntryGuard, list: usize) -> Option<(RawFd, Signals)> {
    LOOPS.lock(guard, part(list)).get_mut(&list)?.signals()
}

/// The list reads these signals from now on.
pub fn note_signals(guard: &EntryGuard, list: usize, signals: Signals) {
    if let Some(event_loop) = LOOPS.lock(guard, part(list)).get_mut(&list) {
        event_loop.note_signals(signals);
    }
}

/// Whether the number is that of a timer in the list.
pub fn is_timer(guard: &EntryGuard, list: usize, fd: RawFd) -> bool {
    LOOPS.lock(guard, part(list)).get_mut(&list).is_some_and(|event_loop| event_loop.is_timer(fd))
}

/// The list is no more.
pub fn note_freed(guard: &EntryGuard, list: usize) {
    let event_loop = LOOPS.lock(guard, part(list)).remove(&list);
    if let Some(mut event_loop) = event_loop {
        event_loop.note_freed(guard);
    }
}

/// The wait of a list's loop is over without a further step.
pub fn stop_waiting(guard: &EntryGuard, list: usize) {
    with_existing(guard, list, EventLoop::stop_waiting);
}

/// The connection whose end a list's loop reports was closed: its number is held.
pub fn hold(guard: &EntryGuard, list: usize, held: Option<KeptFd>) {
    let mut shard = LOOPS.lock(guard, part(list));
    if let Some(event_loop) = shard.get_mut(&list) {
        event_loop.hold(held);
    }
}

/// The program ends a connection of this list: none if the list does not have it. Which member it was.
pub fn mark_ended(guard: &EntryGuard, list: usize, fd: RawFd) -> Result<Option<Token>, OutOfMemory> {
    with_existing(guard, list, |event_loop| event_loop.mark_ended(guard, fd)).unwrap_or(Ok(None))
}

/// The number of a connection that the program has ended is held until its end was reported.
pub fn hold_member(guard: &EntryGuard, list: usize, token: Token, held: Option<KeptFd>) {
    if let Some(event_loop) = LOOPS.lock(guard, part(list)).get_mut(&list) {
        event_loop.hold_member(token, held);
    }
}

/// Looks at what is left of the connection of the structure at this address, with this number, if it is the one whose end a list
/// has reported last.
pub fn find_ended<R>(guard: &EntryGuard, addr: usize, fd: RawFd, look: impl Fn(&Ended) -> R) -> Option<R> {
    if !Ended::is_any() {
        return None;
    }
    let mut found = None;
    LOOPS.for_each(guard, |loops| {
        let ended = || loops.values().filter_map(EventLoop::ended).find(|ended| ended.is(addr, fd));
        found = found.take().or_else(|| ended().map(&look));
    });
    found
}

/// Why the connection with this number is about to end, if a list has it.
pub fn reason(guard: &EntryGuard, fd: RawFd) -> Option<Reason> {
    let list = table::lock_verified(guard, fd).list()?;
    LOOPS.lock(guard, part(list)).get(&list)?.reason(fd)
}

/// A descriptor is about to be closed by the library, at the program's word.
pub fn note_closing(guard: &EntryGuard, fd: RawFd) {
    with_member(guard, fd, |event_loop, slot| event_loop.note_closing(guard, slot));
}

/// Has the list that has the connection look at what is in memory of it: the kernel may have nothing more.
pub fn note_input(guard: &EntryGuard, fd: RawFd) {
    with_member(guard, fd, |event_loop, slot| event_loop.note_input(slot));
}

/// Has the list that has the connection look at what is queued for it: the end of one whose peer sends no more waits until
/// that is sent, and epoll reports only when the kernel has much room.
pub fn note_sent(guard: &EntryGuard, fd: RawFd) {
    with_member(guard, fd, |event_loop, slot| event_loop.note_sent(slot));
}

/// Has the list that has the connection send what is queued for it.
pub fn watch_output(guard: &EntryGuard, fd: RawFd) {
    with_member(guard, fd, |event_loop, slot| event_loop.watch_output(slot));
}

/// How long a writer may wait for a peer of the list, in milliseconds.
pub fn allowance(guard: &EntryGuard, list: usize) -> i32 {
    let mut shard = LOOPS.lock(guard, part(list));
    shard.get_mut(&list).map_or(0, |event_loop| event_loop.allowance.left(deadline::now()))
}

/// A writer has waited for a peer of the list, since this time; whether the peer has taken bytes.
pub fn note_waited(guard: &EntryGuard, list: usize, since: i64, has_taken: bool) {
    let mut shard = LOOPS.lock(guard, part(list));
    if let Some(event_loop) = shard.get_mut(&list) {
        event_loop.allowance.note(since, deadline::now(), has_taken);
    }
}

/// What a writer to the connection waits for while it is held back: that the connection takes bytes, or that something else
/// in the list waits to be served. None if something does.
pub fn others(guard: &EntryGuard, list: usize, fd: RawFd) -> Option<PollSet> {
    let shard = LOOPS.lock(guard, part(list));
    shard.get(&list)?.others(guard, fd)
}

/// Something leaves in the background from now on: those that wait are to wait for that, too.
pub fn note_background_began(guard: &EntryGuard) {
    LOOPS.for_each(guard, |loops| {
        for event_loop in loops.values_mut() {
            event_loop.update_event_fd(guard);
            event_loop.wake();
        }
    });
}

/// A descriptor that is readable while a wait for the list would not wait.
pub fn event_fd<L: List>(guard: &EntryGuard, list: &L, listener: Option<RawFd>) -> Result<RawFd, Error> {
    with_loop(guard, list.key(), |event_loop| event_loop.make_event_fd(guard, list, listener))
}
