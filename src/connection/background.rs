//! Queued bytes that are sent in the background: within later calls of any thread, whatever these calls do.
//!
//! * A *rest*: the queue of a connection that was closed with bytes queued, and a copy of its descriptor, so
//!   that the number is free at once and the peer reads end of file after the last byte. A rest ends when all
//!   is sent, when the peer closes the connection, when the peer has received nothing for [`STALL_TIMEOUT`],
//!   or at the deadline that the program set.
//! * A connection that was removed from its list with bytes queued.
//!
//! An epoll set reports which of them can send. Calls that wait also wait for this set. The set is made by
//! the process that uses it, and made anew if the program has closed it. All state is in [`Background`],
//! under one lock.
//!
//! [`STALL_TIMEOUT`]: crate::connection::stall::STALL_TIMEOUT

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::epoll::EpollFlags;

use crate::connection::send::{self, Flushed, flush_memory, is_passing};
use crate::connection::send_queue::SendQueue;
use crate::connection::stall::{LOOK, Stall};
use crate::connection::state::Connection;
use crate::frame::c_heap::OutOfMemory;
use crate::kernel::deadline::{Deadline, now};
use crate::kernel::fd;
use crate::kernel::internal_fds::KeptFd;
use crate::kernel::poller::{Poller, Readiness, control};
use crate::process::entry_guard::EntryGuard;
use crate::process::sharded::{NumberMap, empty_map};
use crate::process::sync::{self, AtomicBool, AtomicI64, AtomicU32, Mutex, MutexGuard, Ordering};

/// Whether anything is sent in the background.
static IS_ACTIVE: AtomicBool = AtomicBool::new(false);

/// The number of the present epoll set, counted from 1; 0 before the first set.
static SET_NUMBER: AtomicU32 = AtomicU32::new(0);

/// When a call last asked the set, and for how long no call asks again; both in microseconds.
static ASKED_AT: AtomicI64 = AtomicI64::new(0);
const PAUSE: i64 = 1000;

/// How many reports are handled before the lock is released.
const BATCH: usize = 32;

/// The epoll token of a rest is this bit and the number of the rest. The token of a connection is its
/// descriptor.
const REST: u64 = 1 << 32;

static BACKGROUND: Mutex<Background> = Mutex::new(Background {
    set: None,
    rests: empty_map(),
    rooms: 0,
    next: 0,
    connections: empty_map(),
    looked_at: 0,
});

/// All that is sent in the background. Its lock is held briefly, and taken after those of the loops and of
/// the table.
struct Background {
    set: Option<Poller>,
    rests: NumberMap<u32, Rest>,
    /// How many [`RestRoom`]s exist: there is memory for so many further rests.
    rooms: usize,
    next: u32,
    /// Connections that are in no list any more.
    connections: NumberMap<RawFd, ()>,
    /// When all entries were last checked, in microseconds.
    looked_at: i64,
}

/// The queued bytes of a connection that was closed.
struct Rest {
    descriptor: KeptFd,
    queue: SendQueue,
    stall: Stall,
    /// Until when the bytes may be sent.
    deadline: Deadline,
}

/// Memory for one further rest.
pub struct RestRoom {
    _private: (),
}

impl RestRoom {
    /// Allocates the memory.
    pub fn reserve(guard: &EntryGuard) -> Result<Self, OutOfMemory> {
        let mut background = lock_background(guard);
        let rooms = background.rooms + 1;
        background.rests.try_reserve(rooms)?;
        background.rooms = rooms;
        Ok(Self { _private: () })
    }
}

impl Drop for RestRoom {
    fn drop(&mut self) {
        sync::lock(&BACKGROUND).rooms -= 1;
    }
}

/// Whether anything is sent in the background.
pub fn is_active() -> bool {
    IS_ACTIVE.load(Ordering::Relaxed)
}

/// Which case an addition was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Nothing was sent in the background before: waiting threads do not wait for the set yet, and have to be
    /// woken.
    First,
    /// Other bytes are sent in the background already.
    Another,
}

fn lock_background(_guard: &EntryGuard) -> MutexGuard<'static, Background> {
    sync::lock(&BACKGROUND)
}

impl Rest {
    /// Sends what the kernel takes. Returns whether the rest has ended: all is sent, the peer has closed the
    /// connection, or the program has closed the copy of the descriptor.
    fn send_queued(&mut self) -> bool {
        let fd = self.descriptor.as_raw_fd();
        if !self.descriptor.is_intact() {
            return true;
        }
        match self.queue.flush(|pieces, descriptor| send::send(fd, pieces, descriptor)) {
            Ok(()) => true,
            Err(errno) => !is_passing(errno),
        }
    }

    /// The same; a rest also ends if the peer has received nothing for too long, or at its deadline.
    fn look(&mut self) -> bool {
        self.send_queued()
            || self.stall.look(self.descriptor.as_raw_fd(), &self.queue)
            || self.deadline.left() == 0
    }
}

impl Background {
    /// Makes the set, if there is none or the program has closed it.
    fn build(&mut self) {
        if self.set.as_ref().is_some_and(Poller::is_intact) {
            return;
        }
        self.set = Poller::without_clock().ok();
        SET_NUMBER.fetch_add(1, Ordering::Relaxed);
        for (number, rest) in &self.rests {
            if rest.descriptor.is_intact() {
                self.add(rest.descriptor.as_raw_fd(), REST | u64::from(*number));
            }
        }
        for fd in self.connections.keys() {
            self.add(*fd, u64::from(fd.unsigned_abs()));
        }
    }

    /// Has the set report when the descriptor can send. If this fails, the next check finds it.
    fn add(&self, fd: RawFd, token: u64) {
        let interest = EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        if let Some(set) = &self.set {
            let _ = control(set.fd(), libc::EPOLL_CTL_ADD, fd, interest, token);
        }
    }

    fn begin(&mut self) -> Begun {
        self.build();
        let was_active = IS_ACTIVE.swap(true, Ordering::Relaxed);
        if was_active { Begun::Another } else { Begun::First }
    }

    /// Called after a removal; returns the set if it is no longer needed.
    fn end(&mut self) -> Option<Poller> {
        let is_active = !self.rests.is_empty() || !self.connections.is_empty();
        IS_ACTIVE.store(is_active, Ordering::Relaxed);
        if is_active { None } else { self.set.take() }
    }

    fn stop_watching(&mut self, fd: RawFd) {
        if self.connections.remove(&fd).is_some() {
            self.set.iter().filter(|set| set.is_intact()).for_each(|set| set.unwatch(fd));
        }
    }

    /// Handles one batch of reports: sends rests, and collects in `fds` the connections that can send and in
    /// `over` the rests that have ended, which are to be dropped without the lock. Returns whether there may
    /// be more reports.
    fn step(&mut self, fds: &mut Vec<RawFd>, over: &mut Vec<Rest>) -> bool {
        self.build();
        let mut room = [const { MaybeUninit::<Readiness>::uninit() }; BATCH];
        let ready = self.set.as_ref().and_then(|set| set.ready(&mut room).ok()).unwrap_or_default();
        for token in ready.iter().map(|readiness| readiness.u64) {
            if token & REST == 0 {
                fds.extend(RawFd::try_from(token));
            } else if self.rests.get_mut(&(token as u32)).is_some_and(Rest::send_queued) {
                over.extend(self.rests.remove(&(token as u32)));
            }
        }
        ready.len() == BATCH
    }

    /// Checks all entries from time to time: errors that pass without a report, and peers that receive
    /// nothing.
    fn look(&mut self, fds: &mut Vec<RawFd>, over: &mut Vec<Rest>) {
        let now = now();
        if now - self.looked_at < i64::from(LOOK) * 1000 {
            return;
        }
        self.looked_at = now;
        if over.try_reserve(self.rests.len()).is_ok() && fds.try_reserve(self.connections.len()).is_ok() {
            let mut numbers = Vec::new();
            if numbers.try_reserve(self.rests.len()).is_ok() {
                let is_over = |(number, rest): (&u32, &mut Rest)| rest.look().then_some(*number);
                numbers.extend(self.rests.iter_mut().filter_map(is_over));
            }
            over.extend(numbers.into_iter().filter_map(|number| self.rests.remove(&number)));
            fds.extend(self.connections.keys());
        }
    }
}

/// A connection is about to be closed: its queue is no longer sent in the background.
pub fn stop_background(guard: &EntryGuard, fd: RawFd) {
    if is_active() {
        let mut background = lock_background(guard);
        background.stop_watching(fd);
        let unused = background.end();
        drop(background);
        drop(unused);
    }
}

/// A connection is being closed, and the table has it no more, so that no other call sends to the socket: its
/// queue becomes a rest, which is sent until `deadline`. Fails with the queue if there is no descriptor, or
/// without `room` no memory for that. If a thread is in the middle of a frame, the queue stays where it is.
pub fn take_over(
    guard: &EntryGuard,
    fd: RawFd,
    connection: &mut Connection,
    deadline: Deadline,
    room: Option<RestRoom>,
) -> Result<Option<Begun>, SendQueue> {
    if !connection.turn.is_free() || connection.send_queue.is_empty() {
        return Ok(None);
    }
    if matches!(flush_memory(connection, fd), Ok(Flushed::All) | Err(_)) {
        return Ok(None);
    }
    let queue = std::mem::take(&mut connection.send_queue);
    let Ok(room) = room.map_or_else(|| RestRoom::reserve(guard), Ok) else { return Err(queue) };
    let Ok(descriptor) = fd::duplicate(fd) else { return Err(queue) };
    let rest = Rest { stall: Stall::begin(fd, &queue), descriptor, queue, deadline };
    let mut background = lock_background(guard);
    let begun = background.begin();
    let number = background.next;
    background.next = number.wrapping_add(1);
    background.add(rest.descriptor.as_raw_fd(), REST | u64::from(number));
    background.rests.insert(number, rest);
    drop(background);
    drop(room);
    Ok(Some(begun))
}

/// A connection was removed from its list: its queue is sent in the background.
pub fn watch(guard: &EntryGuard, fd: RawFd) {
    let mut background = lock_background(guard);
    if background.connections.try_reserve(1).is_ok() {
        background.begin();
        background.add(fd, u64::from(fd.unsigned_abs()));
        background.connections.insert(fd, ());
    }
}

/// Sends what can be sent now; each call does this first. Not repeated within a millisecond, unless the call
/// has waited for it.
pub fn send(guard: &EntryGuard, has_waited: bool) {
    if !is_active() || !has_waited && now() - ASKED_AT.load(Ordering::Relaxed) < PAUSE {
        return;
    }
    let (mut fds, mut over) = (Vec::new(), Vec::new());
    if fds.try_reserve(BATCH).is_err() || over.try_reserve(BATCH).is_err() {
        return;
    }
    loop {
        let mut background = lock_background(guard);
        let has_more = background.step(&mut fds, &mut over);
        if !has_more {
            background.look(&mut fds, &mut over);
        }
        drop(background);
        over.clear();
        fds.retain(|fd| send::flush_connection(guard, *fd) == Flushed::All);
        let mut background = lock_background(guard);
        fds.drain(..).for_each(|fd| background.stop_watching(fd));
        let unused = background.end();
        drop(background);
        drop(unused);
        if !has_more || !is_active() {
            break;
        }
    }
    ASKED_AT.store(now(), Ordering::Relaxed);
}

/// The descriptor that is readable when something can be sent; `None` if nothing is sent in the background.
pub fn set(guard: &EntryGuard) -> Option<RawFd> {
    if !is_active() {
        return None;
    }
    let mut background = lock_background(guard);
    background.build();
    background.set.as_ref().map(Poller::fd)
}

/// Whether there are rests.
pub fn has_rests(guard: &EntryGuard) -> bool {
    is_active() && !lock_background(guard).rests.is_empty()
}

/// The number of the present set.
pub fn set_number() -> u32 {
    SET_NUMBER.load(Ordering::Relaxed)
}

/// Calls `act` with the set, if there is one.
pub fn with_set(guard: &EntryGuard, act: impl FnOnce(&Poller)) {
    if let Some(set) = &lock_background(guard).set {
        act(set);
    }
}

/// The whole state, locked for a fork.
pub struct Frozen(MutexGuard<'static, Background>);

/// Locks the state for a fork.
pub fn freeze(guard: &EntryGuard) -> Frozen {
    Frozen(lock_background(guard))
}

/// In the child of a fork: the parent sends these bytes. The returned value is to be dropped when no lock is
/// held.
pub fn leave_to_parent(Frozen(mut background): Frozen) -> impl Sized {
    IS_ACTIVE.store(false, Ordering::Relaxed);
    background.connections = empty_map();
    (background.set.take(), std::mem::replace(&mut background.rests, empty_map()))
}

/// At exit: frees everything.
pub fn release(guard: &EntryGuard) {
    let mut background = lock_background(guard);
    IS_ACTIVE.store(false, Ordering::Relaxed);
    let rests = std::mem::replace(&mut background.rests, empty_map());
    let set = background.set.take();
    background.connections = empty_map();
    drop(background);
    drop((rests, set));
}
