//! Who speaks next: the epoll set of one list, the ready queue, turns.
//!
//! The list is the program's: it may change `cinfos` and `size` by hand, set entries to NULL, close
//! descriptors. The loop keeps its own members beside it, by descriptor. It compares the array's address and
//! size at each call, checks an entry against the list before it tells of it, and goes through the whole
//! list (an audit) only when these differ or when some time has passed.
//!
//! One wait may bring many ready descriptors: they are told one by one, in turns, and the kernel is asked
//! again after each round, so that a peer that floods does not keep the others waiting.

#![forbid(unsafe_code)]

mod audit;
mod event_fd;
mod listener;
mod lists;
mod turn;
mod watch;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::errno::Errno;

use self::audit::Audit;
use self::event_fd::Readable;
use self::listener::Listener;
pub use self::lists::{
    Frozen, added, closing, freed, freeze, has_input, has_sent, is_listed, readable, release, removed,
    watch_output,
};
use self::lists::{LOOPS, loop_of, part};
use crate::connection::frame_decoder::Frame;
use crate::error::{Error, ipc_errors as Code};
use crate::frame::c_heap::Block;
use crate::kernel::deadline::Limit;
use crate::kernel::poller::{self, Poller, Readiness};
use crate::kernel::socket::Cookie;
use crate::process::entry_guard::Section;
use crate::process::fork_epoch;
use crate::process::sharded::NumberMap;

/// How many ready descriptors one wait brings.
const BATCH: usize = 64;

/// After how many turns at least the kernel is asked who else is ready: a single one that sends much would
/// cost a system call for each message.
const SHORTEST_ROUND: usize = 2;

/// The program's list, as the loop sees it.
pub trait List {
    /// What an event names its connection with.
    type Origin: Copy;
    /// Which list it is.
    fn key(&self) -> usize;
    /// The array's address and its size: another one means that the program has changed it.
    fn shape(&self) -> (usize, usize);
    /// The entry there, if it is one.
    fn entry(&self, index: usize) -> Option<Entry>;
    /// Which structure stands there, whatever its descriptor.
    fn identity(&self, index: usize) -> Option<usize>;
    /// What events name this entry with.
    fn origin(&self, index: usize) -> Option<Self::Origin>;
    /// Finds the memory for one more entry, has its descriptor made, and adds it. `make` is told where the
    /// entry will stand and which structure it will be. If it fails the descriptor is the caller's to close.
    fn push(&mut self, make: impl FnOnce(usize, usize) -> Result<RawFd, Error>) -> Result<usize, Error>;
    /// Takes the entry out; the last one takes its place.
    fn remove(&mut self, index: usize);
}

/// One connection of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its descriptor.
    pub fd: RawFd,
    /// Which structure it is.
    pub identity: usize,
    /// What is to be done when it is ready.
    pub kind: Kind,
}

/// What is to be done when a descriptor of a list is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection: its frames are told.
    Peer,
    /// Added by `ipc_add_fd`: its bytes are told, whatever they are.
    Extra,
    /// Added by `ipc_watch_fd`: it is told that it is ready, and the program reads. In a list it is an extra one.
    Watched,
}

/// What happened, and to whom.
pub struct Event<O> {
    /// The connection.
    pub origin: O,
    /// What happened to it.
    pub what: What,
}

/// What happened.
pub enum What {
    /// A client has come.
    Connection,
    /// A connection is over; its descriptor is closed and it is in the list no more.
    Disconnection,
    /// The peer broke the protocol or the connection failed; its disconnection follows.
    Error,
    /// A message.
    Message(Frame),
    /// Bytes of an extra descriptor; none at its end.
    Extra(Frame),
    /// A watched descriptor is ready.
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Accepted, and to be told.
    Fresh,
    /// As it should be.
    Open,
    /// An error was told; the end follows.
    Failed,
    /// The peer sends no more; what is queued for it goes out before the end.
    Ending,
    /// An extra descriptor whose end was told.
    Told,
}

#[derive(Clone, Copy)]
struct Member {
    /// Where in the list it was last seen, and which structure it is.
    index: u32,
    identity: usize,
    /// Which registration of this number it is.
    generation: u32,
    state: State,
    /// Whether the program was told of its coming by this loop, and which socket came.
    announced: bool,
    cookie: Option<Cookie>,
    /// Whether it waits to be able to send.
    sending: bool,
    kind: Kind,
    /// Whether epoll cannot watch it (a regular file): it is ready at all times.
    always_ready: bool,
    /// Whether it stands in the ready queue, and what for.
    queued: bool,
    readable: bool,
    writable: bool,
}

#[derive(Clone, Copy)]
struct Gone {
    identity: usize,
    /// Where in the list it was last seen.
    index: u32,
    /// The descriptor that it had.
    fd: RawFd,
}

/// Which registration an epoll event speaks of.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Token {
    fd: RawFd,
    generation: u32,
}

impl Token {
    fn data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.fd.cast_unsigned())
    }

    fn of(data: u64) -> Self {
        let low = (data & u64::from(u32::MAX)) as u32;
        Self { fd: low.cast_signed(), generation: (data >> 32) as u32 }
    }
}

/// What an event may be: in a batch, one after which the program's next look at the same call's events cannot be
/// wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Batch {
    /// The first of a call: any.
    None,
    /// A further one: no connection ends, since its number would be free for another before the program has seen
    /// what came before.
    Goes,
    /// One would end: the rest is for the next call.
    Over,
}

/// The loop of one list.
pub struct EventLoop {
    /// Made when first needed, and made anew by a forked child and where a registration has gone stale.
    set: Option<Poller>,
    members: NumberMap<RawFd, Member>,
    listener: Option<Listener>,
    ready: VecDeque<Token>,
    /// The extra descriptors that are only watched, by their structures.
    watched: Vec<usize>,
    /// Those whose coming the program was told and whose descriptor it has closed itself: their end is still
    /// to be told.
    gone: VecDeque<Gone>,
    /// How many of `ready` may still be served before the kernel is asked again.
    turns: usize,
    /// How many of `ready` are there since an earlier call: the program may have closed them meanwhile.
    old: usize,
    /// What [`fork_epoch::shares`] said when the program last called, and the newest registration then: of these another
    /// process may have the file, so that epoll tells of it when the number is another one's here.
    shares: u32,
    shared: u32,
    /// After how many turns at least the kernel is asked who else is ready.
    shortest_round: usize,
    batch: Batch,
    /// The watched descriptors that this call has told of.
    shown: Vec<RawFd>,
    generations: u32,
    seen: (usize, usize),
    audit: Audit,
    /// Whether a thread waits for the set.
    waiting: bool,
    /// Whether something could not be sent, and nobody will tell when it can.
    is_stalled: bool,
    /// What the program has for another event loop.
    readable: Option<Readable>,
    /// The size of the last message: the next ones are likely to have it, too.
    expected: usize,
    /// A buffer for read-ahead that no connection needs at present.
    spare: Block,
}

fn failed(errno: Errno) -> Error {
    Error::new(Code::IPC_ERROR_WAIT_EVENT__SELECT, errno)
}

fn nobody() -> Error {
    Error::argument(Code::IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM)
}

/// Waits until something happens to one of the list's connections or at the listener; none where the time is
/// over before. The program wants `most` events: one, and the others by [`at_hand`].
pub fn wait<L: List>(
    section: &mut Section,
    list: &mut L,
    listener: Option<RawFd>,
    limit: Limit,
    most: usize,
) -> Result<Option<Event<L::Origin>>, Error> {
    let key = list.key();
    let mut timeout = limit.left();
    let mut looks = 0;
    let mut room = [const { MaybeUninit::uninit() }; BATCH];
    let mut brought: Option<&[Readiness]> = None;
    loop {
        let mut shard = LOOPS.lock(section, part(key));
        let event_loop = loop_of(&mut shard, key)?;
        event_loop.waiting = false;
        let result = match brought {
            Some(brought) if event_loop.own_set().is_some() => event_loop.collect(section, list, brought),
            // A signal handler or another thread may have let go of the list meanwhile.
            _ => event_loop.begin(section, list, listener, timeout != 0, most),
        };
        let result = result.and_then(|()| event_loop.next(section, list));
        if let Ok(None) = result
            && event_loop.can_happen()
            && let Some(set) = event_loop.set_to_ask()?
        {
            // One look brings a part of those who are ready, and another one what is behind half a message: until all
            // of them have been looked at, or nobody is left.
            let enough = looks > event_loop.members.len() / BATCH + 1;
            if timeout == 0 && (enough || brought.is_some_and(<[_]>::is_empty)) {
                event_loop.show();
                return Ok(None);
            }
            looks += 1;
            event_loop.waiting = true;
            drop(shard);
            match section.outside(|| poller::wait_epoll(set, &mut room, timeout)) {
                Ok(ready) => brought = Some(ready),
                // Whoever calls again after each signal would wait for ever.
                Err(Errno::EINTR) if timeout > 0 => brought = None,
                Err(errno) => {
                    stop_waiting(section, key);
                    return Err(failed(errno));
                }
            }
            timeout = limit.left();
            continue;
        }
        event_loop.show();
        if event_loop.is_unused() {
            shard.remove(&key);
        }
        return result?.ok_or(nobody()).map(Some);
    }
}

/// What else has happened after the last call of [`wait`] for this list, without waiting for it.
pub fn at_hand<L: List>(section: &Section, list: &mut L) -> Result<Option<Event<L::Origin>>, Error> {
    let mut shard = LOOPS.lock(section, part(list.key()));
    let Some(event_loop) = shard.get_mut(&list.key()) else { return Ok(None) };
    event_loop.batch = Batch::Goes;
    let event = event_loop.serve(section, list);
    event_loop.batch = Batch::None;
    let event = event?;
    event_loop.seen = list.shape();
    event_loop.show();
    if event_loop.is_unused() {
        shard.remove(&list.key());
    }
    Ok(event)
}

/// The wait has failed: the loop stays, if it is of use.
fn stop_waiting(section: &Section, key: usize) {
    let mut shard = LOOPS.lock(section, part(key));
    if let Some(event_loop) = shard.get_mut(&key) {
        event_loop.waiting = false;
        if event_loop.is_unused() {
            shard.remove(&key);
        }
    }
}

impl EventLoop {
    fn new() -> Self {
        Self {
            set: None,
            members: NumberMap::default(),
            listener: None,
            ready: VecDeque::new(),
            watched: Vec::new(),
            gone: VecDeque::new(),
            turns: 0,
            old: 0,
            shares: fork_epoch::shares(),
            shared: 0,
            shortest_round: SHORTEST_ROUND,
            batch: Batch::None,
            shown: Vec::new(),
            generations: 0,
            seen: (0, 0),
            audit: Audit::default(),
            waiting: false,
            is_stalled: false,
            readable: None,
            expected: 0,
            spare: Block::default(),
        }
    }

    fn is_unused(&self) -> bool {
        self.members.is_empty() && self.gone.is_empty() && self.listener.is_none() && self.readable.is_none()
    }

    /// Shows other event loops whether something is left to tell.
    fn show(&mut self) {
        let is_left = !self.ready.is_empty() || !self.gone.is_empty();
        if let Some(readable) = self.readable.as_mut().filter(|readable| readable.is_own()) {
            readable.raise(is_left);
        }
    }

    /// Whether anything can happen at all.
    fn can_happen(&self) -> bool {
        self.listener.is_some() || self.members.values().any(|member| member.state != State::Told)
    }

    /// The program has called: what has it changed meanwhile?
    #[inline(never)]
    fn begin<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        listener: Option<RawFd>,
        may_wait: bool,
        most: usize,
    ) -> Result<(), Error> {
        self.old = self.ready.len();
        if std::mem::replace(&mut self.shares, fork_epoch::shares()) != fork_epoch::shares() {
            self.shared = self.generations;
        }
        self.shown.clear();
        self.shortest_round = most.clamp(SHORTEST_ROUND, BATCH);
        if most > 1 {
            // Who is ready by now is told beside those of whom much has been read ahead.
            self.turns = 0;
        }
        self.audit.begin_anew(may_wait);
        let is_other = self.watch_listener(listener)?;
        let changed = self.seen != list.shape();
        if changed || is_other {
            // An entry may have the number of the service, or of the one before.
            self.reconcile(section, list)?;
        }
        self.build(section)?;
        if changed {
            self.check_all(section, list)?;
        } else if self.audit.is_overdue() {
            self.audit(section, list)?;
        }
        Ok(())
    }

    /// Serves those who are ready until there is something to tell.
    fn next<L: List>(&mut self, section: &Section, list: &mut L) -> Result<Option<Event<L::Origin>>, Error> {
        let mut event = self.serve(section, list)?;
        if event.is_none() && !self.can_happen() {
            // Before saying that nobody is there: all of the list, as it is now.
            self.reconcile(section, list)?;
            self.check_all(section, list)?;
            event = self.serve(section, list)?;
        }
        if event.is_some() {
            self.seen = list.shape();
        }
        Ok(event)
    }
}
