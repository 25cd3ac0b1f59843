//! The loops of all lists of the process, by the address of the list, and what other modules ask of them.
//!
//! A connection is in one list; the table of descriptors knows in which. The loops are divided into parts,
//! each with a lock, which is taken before those of the table of descriptors.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::connection::table;
use crate::error::Error;
use crate::event_loop::list::{Kind, List};
use crate::event_loop::list_loop::{Ended, EventLoop};
use crate::event_loop::members::{Reason, Token};
pub use crate::event_loop::registry::Parting;
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::deadline;
use crate::kernel::internal_fds::KeptFd;
use crate::kernel::notices::Signals;
use crate::kernel::wait::PollSet;
use crate::process::entry_guard::EntryGuard;
use crate::process::sharded::{LockedPart, Part, ShardedTable};
use crate::process::sorted_map::SortedMap;

const PARTS: usize = 16;

/// The loops of some lists.
type Loops = SortedMap<EventLoop>;

static LOOPS: ShardedTable<Loops, PARTS> = ShardedTable([const { Part::new(SortedMap::new()) }; PARTS]);

/// The addresses of two lists differ by at least eight.
fn part(list: usize) -> usize {
    list >> 3
}

/// All loops, locked for a fork.
pub type Frozen = [LockedPart<'static, Loops>; PARTS];

/// Locks the loops of all lists for a fork.
pub fn freeze() -> Frozen {
    LOOPS.freeze()
}

/// At exit: frees the table's memory, if no loop is left.
pub fn release(guard: &EntryGuard) {
    LOOPS.for_each(guard, SortedMap::release);
}

/// Calls `act` with the loop of a list, made if there is none yet. A loop that is no longer of use is
/// removed; the loop and the memory of closed connections are dropped after the lock.
pub fn with_loop<R>(
    guard: &EntryGuard,
    list: usize,
    act: impl FnOnce(&mut EventLoop) -> Result<R, Error>,
) -> Result<R, Error> {
    let mut shard = LOOPS.lock_part(guard, part(list));
    shard.add(list, || EventLoop::new(list))?;
    visit(guard, shard, list, act).unwrap_or(Err(OutOfMemory.into()))
}

/// Calls `act` with the loop of a list, if there is one. `act` must leave nothing to drop, and no change for
/// the event descriptor.
pub fn with_loop_quickly<R>(
    guard: &EntryGuard,
    list: usize,
    act: impl FnOnce(&mut EventLoop) -> Option<R>,
) -> Option<R> {
    LOOPS.lock_part(guard, part(list)).get_mut(list).and_then(act)
}

/// Like [`with_loop`], but only if there is a loop.
fn with_existing<R>(guard: &EntryGuard, list: usize, act: impl FnOnce(&mut EventLoop) -> R) -> Option<R> {
    visit(guard, LOOPS.lock_part(guard, part(list)), list, act)
}

/// Calls `act` with the loop, if it is in this part, and does what may be due after any change of a loop.
fn visit<R>(
    guard: &EntryGuard,
    mut shard: LockedPart<'_, Loops>,
    list: usize,
    act: impl FnOnce(&mut EventLoop) -> R,
) -> Option<R> {
    let event_loop = shard.get_mut(list)?;
    let result = act(event_loop);
    event_loop.update_event_fd(guard);
    event_loop.shrink();
    let discarded = event_loop.take_discarded();
    let unused = if event_loop.is_unused() { shard.remove(list) } else { None };
    drop(shard);
    drop((discarded, unused));
    Some(result)
}

/// Calls `act` with the loop that has the connection, and the connection's slot.
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
/// `before` is the result of [`List::shape`] before that. `kind` is the entry's true kind: the list shows
/// some kinds as the same.
pub fn note_added<L: List>(
    guard: &EntryGuard,
    list: &L,
    before: (usize, usize),
    index: usize,
    kind: Kind,
) -> Result<(), Error> {
    with_loop(guard, list.key(), |event_loop| event_loop.note_added(guard, list, before, index, kind))
}

/// The program has removed an entry from its list, by [`List::remove_entry`] at this index. `before` is the
/// result of [`List::shape`] before that, `addr` the address of the structure.
pub fn note_removed<L: List>(
    guard: &EntryGuard,
    list: &L,
    before: (usize, usize),
    addr: usize,
    index: usize,
) {
    with_existing(guard, list.key(), |event_loop| event_loop.note_removed(guard, list, before, addr, index));
}

/// The result of [`EventLoop::status`]; zeros for a list without a loop.
pub fn status(guard: &EntryGuard, list: usize) -> (usize, u64, bool) {
    LOOPS.lock_part(guard, part(list)).get(list).map(EventLoop::status).unwrap_or_default()
}

/// The descriptor from which the list reads signals, if there is one, and which signals these are.
pub fn signals(guard: &EntryGuard, list: usize) -> Option<(RawFd, Signals)> {
    LOOPS.lock_part(guard, part(list)).get_mut(list)?.signals()
}

/// The list reads these signals from now on.
pub fn note_signals(guard: &EntryGuard, list: usize, signals: Signals) {
    if let Some(event_loop) = LOOPS.lock_part(guard, part(list)).get_mut(list) {
        event_loop.note_signals(signals);
    }
}

/// Whether the number is a timer in the list.
pub fn is_timer(guard: &EntryGuard, list: usize, fd: RawFd) -> bool {
    LOOPS.lock_part(guard, part(list)).get_mut(list).is_some_and(|event_loop| event_loop.is_timer(fd))
}

/// The program has freed the list.
pub fn note_freed(guard: &EntryGuard, list: usize) {
    let event_loop = LOOPS.lock_part(guard, part(list)).remove(list);
    for mut event_loop in event_loop.into_iter().flat_map(|block| *block) {
        event_loop.note_freed(guard);
    }
}

/// The wait of a list's loop has ended, and no step follows.
pub fn stop_waiting(guard: &EntryGuard, list: usize) {
    with_existing(guard, list, EventLoop::stop_waiting);
}

/// The connection whose end the list reports was closed; `held` keeps its number in use.
pub fn hold(guard: &EntryGuard, list: usize, held: Option<KeptFd>) {
    let mut shard = LOOPS.lock_part(guard, part(list));
    if let Some(event_loop) = shard.get_mut(list) {
        event_loop.hold(held);
    }
}

/// The program ends a connection of this list: the member is closed. Returns its token; `None` if the list
/// does not have the connection.
pub fn mark_ended(guard: &EntryGuard, list: usize, fd: RawFd) -> Result<Option<Token>, OutOfMemory> {
    with_existing(guard, list, |event_loop| event_loop.mark_ended(guard, fd)).unwrap_or(Ok(None))
}

/// A connection that the program has ended was closed; `held` keeps its number in use until its end was
/// reported.
pub fn hold_member(guard: &EntryGuard, list: usize, token: Token, held: Option<KeptFd>) {
    if let Some(event_loop) = LOOPS.lock_part(guard, part(list)).get_mut(list) {
        event_loop.hold_member(token, held);
    }
}

/// Calls `look` with what is kept of a connection whose end a list has reported last, if its structure has
/// this address and its descriptor had this number.
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

/// Calls `look` with what is kept of a connection that the program has ended and whose end is yet to be
/// reported, and with the reason.
pub fn find_parting<R>(guard: &EntryGuard, fd: RawFd, look: impl Fn(&Parting, Reason) -> R) -> Option<R> {
    let mut found = None;
    LOOPS.for_each(guard, |loops| {
        let parting = || loops.values().find_map(|event_loop| event_loop.parting(fd));
        found = found.take().or_else(|| parting().map(|(parting, reason)| look(parting, reason)));
    });
    found
}

/// Why the connection with this number is about to end, if a list has it.
pub fn reason(guard: &EntryGuard, fd: RawFd) -> Option<Reason> {
    let list = table::lock_verified(guard, fd).list()?;
    LOOPS.lock_part(guard, part(list)).get(list)?.reason(fd)
}

/// The library is about to close this descriptor, because the program asked for it.
pub fn note_closing(guard: &EntryGuard, fd: RawFd) {
    with_member(guard, fd, |event_loop, slot| event_loop.note_closing(guard, slot));
}

/// Has the connection's list look at the bytes in memory: the kernel may have nothing more to report.
pub fn note_input(guard: &EntryGuard, fd: RawFd) {
    with_member(guard, fd, |event_loop, slot| event_loop.note_input(slot));
}

/// The queue of the connection is empty. If its peer sends no more, the list reports the end only then, and
/// epoll would report only when the kernel has much room.
pub fn note_sent(guard: &EntryGuard, fd: RawFd) {
    with_member(guard, fd, |event_loop, slot| event_loop.note_sent(slot));
}

/// Has the connection's list send the queued bytes.
pub fn watch_output(guard: &EntryGuard, fd: RawFd) {
    with_member(guard, fd, |event_loop, slot| event_loop.watch_output(slot));
}

/// How long a writer may wait for a peer of the list, in milliseconds.
pub fn allowance(guard: &EntryGuard, list: usize) -> i32 {
    let mut shard = LOOPS.lock_part(guard, part(list));
    shard.get_mut(list).map_or(0, |event_loop| event_loop.allowance.left(deadline::now()))
}

/// A writer has waited for a peer of the list since this time; `has_taken` says whether the peer has taken
/// bytes.
pub fn note_waited(guard: &EntryGuard, list: usize, since: i64, has_taken: bool) {
    let mut shard = LOOPS.lock_part(guard, part(list));
    if let Some(event_loop) = shard.get_mut(list) {
        event_loop.allowance.note(since, deadline::now(), has_taken);
    }
}

/// What a writer that is held back waits for: that its connection takes bytes, or that another member of the
/// list is ready. `None` if another member is ready already.
pub fn others(guard: &EntryGuard, list: usize, fd: RawFd) -> Option<PollSet> {
    let shard = LOOPS.lock_part(guard, part(list));
    shard.get(list)?.others(guard, fd)
}

/// Something is sent in the background from now on: threads that wait have to wait for that set, too.
pub fn note_background_began(guard: &EntryGuard) {
    LOOPS.for_each(guard, |loops| {
        for event_loop in loops.values_mut() {
            event_loop.update_event_fd(guard);
            event_loop.wake();
        }
    });
}

/// A descriptor that is readable whenever a wait for the list would return at once.
pub fn event_fd<L: List>(guard: &EntryGuard, list: &L, listener: Option<RawFd>) -> Result<RawFd, Error> {
    with_loop(guard, list.key(), |event_loop| event_loop.make_event_fd(guard, list, listener))
}
