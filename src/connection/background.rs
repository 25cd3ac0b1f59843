//! What leaves in the background: from within later calls of any thread, whatever they are about.
//!
//! * The rest of a connection that was closed with bytes queued: its queue, and a copy of its descriptor, so that the number
//!   is free at once and the peer sees the end after the last byte. A rest ends when it is sent, when the peer closes the
//!   connection, when the peer has taken nothing for [`STALL_TIMEOUT`], or when the time is over that the program gave it.
//! * A connection that was taken out of its list with bytes queued.
//!
//! An epoll set reports which of them take bytes. Calls that wait also wait for the set. It is made by the process that
//! uses it, and made anew if the program has closed it.
//!
//! [`STALL_TIMEOUT`]: crate::connection::stall::STALL_TIMEOUT

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::epoll::EpollFlags;

use crate::connection::send::{self, Flushed, flush_queue, is_passing};
use crate::connection::send_queue::SendQueue;
use crate::connection::stall::{LOOK, Stall};
use crate::connection::table;
use crate::kernel::deadline::{Deadline, now};
use crate::kernel::fd;
use crate::kernel::internal_fds::KeptFd;
use crate::kernel::poller::{Poller, Readiness, control};
use crate::process::entry_guard::EntryGuard;
use crate::process::sharded::{NumberMap, empty_map};
use crate::process::sync::{self, AtomicBool, AtomicI64, AtomicU32, Mutex, MutexGuard, Ordering};

/// Whether anything leaves in the background.
static IS_ACTIVE: AtomicBool = AtomicBool::new(false);

/// Which set it is: they are counted. 0 is none.
static SET_NUMBER: AtomicU32 = AtomicU32::new(0);

/// When calls last asked the set, in microseconds, and how long they do not ask again.
static ASKED_AT: AtomicI64 = AtomicI64::new(0);
const PAUSE: i64 = 1000;

/// How many are looked at before the lock is given back.
const BATCH: usize = 32;

/// The token of a rest: this, and its number. That of a connection is its descriptor.
const REST: u64 = 1 << 32;

static BACKGROUND: Mutex<Background> =
    Mutex::new(Background { set: None, rests: empty_map(), next: 0, connections: empty_map(), looked_at: 0 });

/// All that leaves in the background. Locked for moments, after the loops and the table of descriptors.
struct Background {
    set: Option<Poller>,
    rests: NumberMap<u32, Rest>,
    next: u32,
    /// Connections that are in no list any more.
    connections: NumberMap<RawFd, ()>,
    /// When all were last looked at, in microseconds.
    looked_at: i64,
}

/// What is left of a connection that was closed.
struct Rest {
    descriptor: KeptFd,
    queue: SendQueue,
    stall: Stall,
    /// How long it may take.
    limit: Deadline,
}

/// Whether anything leaves in the background.
pub fn is_active() -> bool {
    IS_ACTIVE.load(Ordering::Relaxed)
}

/// What was begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Nothing has left in the background before: threads that wait do not know.
    First,
    /// One more.
    Another,
}

fn lock_background(_section: &EntryGuard) -> MutexGuard<'static, Background> {
    sync::lock(&BACKGROUND)
}

impl Rest {
    /// Sends what the kernel takes; whether it is over: all is sent, the peer has closed the connection, or the program has
    /// closed the copy.
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

    /// The same; whether the peer has taken nothing for too long, or the time is over, too.
    fn look(&mut self) -> bool {
        self.send_queued()
            || self.stall.look(self.descriptor.as_raw_fd(), &self.queue)
            || self.limit.left() == 0
    }
}

impl Background {
    /// Makes the set, if there is none, or the program has closed it.
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

    /// Has the set report when this takes bytes. Should it fail, a look will find it.
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

    /// Something does not leave in the background any more; the set, if nothing does.
    fn end(&mut self) -> Option<Poller> {
        let is_active = !self.rests.is_empty() || !self.connections.is_empty();
        IS_ACTIVE.store(is_active, Ordering::Relaxed);
        if is_active { None } else { self.set.take() }
    }

    fn stop_watching(&mut self, fd: RawFd) {
        if self.connections.remove(&fd).is_some() {
            self.set.iter().for_each(|set| set.remove(fd));
        }
    }

    /// Sends what leaves by now; the connections that take bytes, and rests that are over, to be dropped without the lock; and
    /// whether there may be more.
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

    /// Looks at all, from time to time: what passes without a report, and peers that take nothing.
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

/// A connection is about to be closed: what is queued for it is no more looked after here.
pub fn leave_to_caller(guard: &EntryGuard, fd: RawFd) {
    if is_active() {
        let mut background = lock_background(guard);
        background.stop_watching(fd);
        let unused = background.end();
        drop(background);
        drop(unused);
    }
}

/// A connection is about to be closed: what is queued for it leaves in the background, until `limit` at most. If there is no
/// descriptor or no memory for that, the queue is returned.
pub fn take_over(guard: &EntryGuard, fd: RawFd, limit: Deadline) -> Result<Option<Begun>, SendQueue> {
    leave_to_caller(guard, fd);
    let mut slot = table::lock_unverified(guard, fd);
    let has_unsent = |slot: &mut table::Slot<'_>| {
        let connection = slot.get().filter(|connection| connection.turn.is_free());
        connection.is_some_and(|connection| !connection.send_queue.is_empty())
    };
    if !has_unsent(&mut slot) {
        return Ok(None);
    }
    slot.drop_if_reused();
    if !has_unsent(&mut slot) || flush_queue(&mut slot, fd).is_err() || !has_unsent(&mut slot) {
        return Ok(None);
    }
    let queue = slot.get().map(|connection| std::mem::take(&mut connection.send_queue)).unwrap_or_default();
    drop(slot);
    let Ok(descriptor) = fd::duplicate(fd) else { return Err(queue) };
    let rest = Rest { stall: Stall::begin(fd, &queue), descriptor, queue, limit };
    let mut background = lock_background(guard);
    if background.rests.try_reserve(1).is_err() {
        drop(background);
        return Err(rest.queue);
    }
    let begun = background.begin();
    let number = background.next;
    background.next = number.wrapping_add(1);
    background.add(rest.descriptor.as_raw_fd(), REST | u64::from(number));
    background.rests.insert(number, rest);
    Ok(Some(begun))
}

/// A connection that is in no list any more: what is queued for it leaves in the background.
pub fn watch(guard: &EntryGuard, fd: RawFd) {
    let mut background = lock_background(guard);
    if background.connections.try_reserve(1).is_ok() {
        background.begin();
        background.add(fd, u64::from(fd.unsigned_abs()));
        background.connections.insert(fd, ());
    }
}

/// Sends what takes bytes by now, as each call does; not again within a millisecond, unless the call has waited for it.
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

/// The descriptor that is readable when something takes bytes; none if nothing leaves in the background.
pub fn set(guard: &EntryGuard) -> Option<RawFd> {
    if !is_active() {
        return None;
    }
    let mut background = lock_background(guard);
    background.build();
    background.set.as_ref().map(Poller::fd)
}

/// Whether there are rests of connections that were closed.
pub fn has_rests(guard: &EntryGuard) -> bool {
    is_active() && !lock_background(guard).rests.is_empty()
}

/// Which set it is.
pub fn set_number() -> u32 {
    SET_NUMBER.load(Ordering::Relaxed)
}

/// Acts on the set, if there is one.
pub fn with_set(guard: &EntryGuard, act: impl FnOnce(&Poller)) {
    if let Some(set) = &lock_background(guard).set {
        act(set);
    }
}

/// All that leaves in the background, locked for a fork.
pub struct Frozen(MutexGuard<'static, Background>);

/// Locks it.
pub fn freeze(guard: &EntryGuard) -> Frozen {
    Frozen(lock_background(guard))
}

/// In the child of a fork: it is the parent's to send. What is returned is to be dropped when nothing is locked.
pub fn leave_to_parent(Frozen(mut background): Frozen) -> impl Sized {
    IS_ACTIVE.store(false, Ordering::Relaxed);
    background.connections = empty_map();
    (background.set.take(), std::mem::replace(&mut background.rests, empty_map()))
}

/// At the end of the process: gives back what is kept for all of it.
pub fn release(guard: &EntryGuard) {
    let mut background = lock_background(guard);
    IS_ACTIVE.store(false, Ordering::Relaxed);
    let rests = std::mem::replace(&mut background.rests, empty_map());
    let set = background.set.take();
    background.connections = empty_map();
    drop(background);
    drop((rests, set));
}
