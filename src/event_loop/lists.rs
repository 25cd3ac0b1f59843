//! The loops of all lists of the process, by the address of the list, and what the rest of the library asks of
//! them.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use super::{EventLoop, List, State, failed};
use crate::error::Error;
use crate::process::entry_guard::Section;
use crate::process::sharded::{NumberMap, Part, Shard, Shards, empty_map, release_map};

const PARTS: usize = 16;

/// The loops of some lists.
type Loops = NumberMap<usize, EventLoop>;

pub(super) static LOOPS: Shards<Loops, PARTS> = Shards([const { Part::new(empty_map()) }; PARTS]);

/// Lists lie at addresses of at least eight bytes' distance.
pub(super) fn part(list: usize) -> usize {
    list >> 3
}

/// All loops, locked for a fork.
pub type Frozen = [Shard<'static, Loops>; PARTS];

/// Locks the loops of all lists.
pub fn freeze() -> Frozen {
    LOOPS.freeze()
}

/// At the end of the process: gives back the table's memory, if nothing is in it.
pub fn release(section: &Section) {
    LOOPS.for_each(section, release_map);
}

/// The loop of a list, made if there is none yet.
pub(super) fn loop_of<'a>(shard: &'a mut Shard<'_, Loops>, list: usize) -> Result<&'a mut EventLoop, Error> {
    if !shard.contains_key(&list) {
        shard.try_reserve(1)?;
    }
    Ok(shard.entry(list).or_insert_with(EventLoop::new))
}

/// A descriptor that is readable while [`wait`] would not wait.
pub fn readable<L: List>(section: &Section, list: &mut L, listener: Option<RawFd>) -> Result<RawFd, Error> {
    let mut shard = LOOPS.lock(section, part(list.key()));
    let event_loop = loop_of(&mut shard, list.key())?;
    let result = event_loop.begin(section, list, listener, true, 1).and_then(|()| event_loop.make_readable());
    if event_loop.is_unused() {
        shard.remove(&list.key());
    }
    result
}

/// The program has added an entry to its list.
///
/// `before` is what [`List::shape`] was before. `watched` is whether it is a descriptor that is only to be
/// watched: the list cannot tell.
pub fn added<L: List>(
    section: &Section,
    list: &L,
    before: (usize, usize),
    index: usize,
    watched: bool,
) -> Result<(), Error> {
    let Some(entry) = list.entry(index) else { return Ok(()) };
    let mut shard = LOOPS.lock(section, part(list.key()));
    let event_loop = loop_of(&mut shard, list.key())?;
    // Where the program has changed the list by hand before, the next wait goes through all of it.
    let was_known = event_loop.seen == before;
    // The memory of the structure may have been that of one that has gone.
    event_loop.watched.retain(|identity| *identity != entry.identity);
    if watched {
        // It is refused now if epoll cannot watch it.
        event_loop.build(section)?;
        event_loop.watched.try_reserve(1)?;
        event_loop.watched.push(entry.identity);
    }
    if let Err(error) = event_loop.admit(section, entry, index, State::Open) {
        event_loop.watched.retain(|identity| *identity != entry.identity);
        return Err(error);
    }
    if watched && !event_loop.members.contains_key(&entry.fd) && !event_loop.is_service(entry.fd) {
        return Err(failed(Errno::EPERM));
    }
    event_loop.show();
    if was_known {
        event_loop.seen = list.shape();
    }
    Ok(())
}

/// The program has taken this structure, with this descriptor if it has one, out of its list, by [`List::remove`] at
/// this index; `before` is what [`List::shape`] was.
pub fn removed<L: List>(
    section: &Section,
    list: &L,
    before: (usize, usize),
    (identity, fd): (usize, Option<RawFd>),
    index: usize,
) {
    let mut shard = LOOPS.lock(section, part(list.key()));
    let Some(event_loop) = shard.get_mut(&list.key()) else { return };
    event_loop.gone.retain(|gone| gone.identity != identity);
    event_loop.watched.retain(|watched| *watched != identity);
    let (_, size) = list.shape();
    let stands = |identity| (0..size).any(|index| list.identity(index) == Some(identity));
    if let Some(fd) = fd
        && let Some(member) = event_loop.members.get(&fd)
        // Or it is a copy, in the place of the structure that the loop knows.
        && (member.identity == identity || !stands(member.identity))
    {
        event_loop.dismiss(fd);
    }
    event_loop.follow_move(list, index);
    if event_loop.seen == before {
        event_loop.seen = list.shape();
    }
    if event_loop.is_unused() {
        shard.remove(&list.key());
    }
}

/// The list is no more.
pub fn freed(section: &Section, list: usize) {
    LOOPS.lock(section, part(list)).remove(&list);
}

/// A descriptor is about to be closed by the library, at the program's word.
pub fn closing(section: &Section, fd: RawFd) {
    LOOPS.for_each(section, |loops| {
        loops.retain(|_, event_loop| {
            if event_loop.listener.is_some_and(|listener| listener.fd == fd) {
                event_loop.listener = None;
                event_loop.unregister(fd);
            }
            event_loop.lose(fd);
            event_loop.resume_listener();
            event_loop.show();
            // Another thread may wait for a set, which must not become another file under it.
            event_loop.waiting || !event_loop.is_unused()
        });
    });
}

/// Calls `act` on the loop of each list that has the connection.
fn for_each_with(section: &Section, fd: RawFd, act: &mut dyn FnMut(&mut EventLoop)) {
    LOOPS.for_each(section, |loops| {
        loops.values_mut().filter(|event_loop| event_loop.members.contains_key(&fd)).for_each(&mut *act);
    });
}

/// Has the lists that have the connection look at what is in memory of it: the kernel may have nothing more.
pub fn has_input(section: &Section, fd: RawFd) {
    for_each_with(section, fd, &mut |event_loop| {
        event_loop.make_ready(fd, true, false);
        event_loop.show();
    });
}

/// Has the lists that have the connection look at what is queued for it: the end of one whose peer sends no more waits
/// until that is sent, and epoll tells only when the kernel has much room.
pub fn has_sent(section: &Section, fd: RawFd) {
    for_each_with(section, fd, &mut |event_loop| {
        event_loop.make_ready(fd, false, true);
        event_loop.show();
    });
}

/// Whether any list has the connection.
pub fn is_listed(section: &Section, fd: RawFd) -> bool {
    let mut found = false;
    for_each_with(section, fd, &mut |_| found = true);
    found
}

/// Has the lists that have the connection send what is queued for it.
pub fn watch_output(section: &Section, fd: RawFd) {
    for_each_with(section, fd, &mut |event_loop| event_loop.watch_output(fd, true));
}
