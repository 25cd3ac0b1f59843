//! The list is the program's: what it has changed by hand is noticed here.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::RawFd;

use nix::errno::Errno;

use super::watch::index_u32;
use super::{Entry, EventLoop, Gone, List, State};
use crate::connection::table;
use crate::error::Error;
use crate::kernel::deadline;
use crate::process::entry_guard::Section;

/// An audit asks the kernel about a part of the list at a time, and there is a pause between the parts: what
/// it takes of the time does not grow with the list.
const PART: usize = 64;
pub(super) const PAUSE_MS: i64 = 10;

/// Where a member stands that the list does not have any more, and one with another structure in it.
const UNLISTED: u32 = u32::MAX;
const CLAIMED: u32 = u32::MAX - 1;

/// How far the list has been looked at since the program last ran.
#[derive(Default)]
pub struct Audit {
    /// Where the next part begins.
    from: usize,
    /// What is yet to be looked at.
    left: Left,
    /// When the last part was, in milliseconds, and whether the call that goes on now may wait.
    looked_at: i64,
    may_wait: bool,
}

#[derive(Default, PartialEq, Eq)]
enum Left {
    /// Nothing: the list is as it was seen.
    #[default]
    Nothing,
    /// What begins at `from`.
    Rest,
    /// All of it, from the beginning; `from` belongs to an audit that began before the program ran.
    All,
}

impl Audit {
    /// The program has run, and calls.
    pub fn begin_anew(&mut self, may_wait: bool) {
        self.left = Left::All;
        self.may_wait = may_wait;
    }

    /// Whether anything is yet to be looked at when the clock ticks.
    pub fn is_due(&self) -> bool {
        self.left != Left::Nothing && self.may_wait
    }

    /// Whether it is time to look without a clock: it would wake who asks again and again without waiting.
    pub fn is_overdue(&self) -> bool {
        !self.may_wait && deadline::milliseconds() - self.looked_at >= PAUSE_MS
    }

    /// All of it has been looked at, at once.
    fn restart(&mut self) {
        (self.from, self.left) = (0, Left::Nothing);
    }

    /// The next part of a list of this size.
    fn part(&mut self, size: usize) -> Range<usize> {
        if self.from == 0 && self.left == Left::All {
            self.left = Left::Rest;
        }
        if !self.may_wait {
            self.looked_at = deadline::milliseconds();
        }
        let part = self.from..size.min(self.from + PART);
        if part.end < size {
            self.from = part.end;
        } else {
            self.from = 0;
            if self.left == Left::Rest {
                self.left = Left::Nothing;
            }
        }
        part
    }
}

/// Whether only its end is yet to be told: it has no claim to its number.
fn is_gone(gone: &VecDeque<Gone>, entry: Entry) -> bool {
    gone.iter().any(|gone| gone.identity == entry.identity)
}

impl EventLoop {
    /// Goes through the whole list: takes in whom the program has added, drops whom it has removed.
    pub(super) fn reconcile<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        let (_, size) = list.shape();
        self.members.values_mut().for_each(|member| member.index = UNLISTED);
        for index in 0..size {
            if let Some(entry) = list.entry(index)
                && let Some(member) = self.members.get_mut(&entry.fd)
            {
                if member.is(entry) {
                    member.index = index_u32(index);
                } else if member.index == UNLISTED && !is_gone(&self.gone, entry) {
                    member.index = CLAIMED;
                }
            }
        }
        let mut removed = Vec::new();
        removed.try_reserve(self.members.len())?;
        let unlisted = self.members.iter().filter(|(_, member)| member.index == UNLISTED);
        removed.extend(unlisted.map(|(fd, _)| *fd));
        removed.into_iter().for_each(|fd| self.drop_unlisted(list, fd));
        // Of two new entries with one descriptor the last counts: the other may be older than the descriptor.
        for index in (0..size).rev() {
            let Some(entry) = list.entry(index) else { continue };
            let member = self.members.get(&entry.fd);
            let is_claimed = member.is_some_and(|member| member.index == CLAIMED);
            let is_new = member.is_none() || is_claimed;
            if is_new && !is_gone(&self.gone, entry) && !(is_claimed && self.follow_copy(entry, index)) {
                self.admit(section, entry, index, State::Open)?;
            }
        }
        self.seen = list.shape();
        Ok(())
    }

    /// The program has taken the member out by hand, or its descriptor alone from its structure.
    pub(super) fn drop_unlisted<L: List>(&mut self, list: &L, fd: RawFd) {
        let identity = self.members.get(&fd).map(|member| member.identity);
        let (_, size) = list.shape();
        if (0..size).any(|index| list.identity(index) == identity) {
            self.lose(fd);
        } else {
            self.dismiss(fd);
        }
    }

    /// Looks at a part of the list for what the program has changed without changing the array or its size:
    /// entries replaced, descriptors closed, their numbers in use again.
    pub(super) fn audit<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        let (_, size) = list.shape();
        let part = self.audit.part(size);
        if part.start == 0 {
            let unknown = |entry: Entry| self.members.get(&entry.fd).is_none_or(|member| !member.is(entry));
            let listed = (0..size).filter_map(|index| list.entry(index));
            let (entries, changed) =
                listed.fold((0, false), |(entries, changed), entry| (entries + 1, changed || unknown(entry)));
            if changed || entries != self.members.len() {
                self.reconcile(section, list)?;
            }
            self.register_listener()?;
        }
        self.check_some(section, list, part)
    }

    /// Does what an audit does for the whole list at once.
    pub(super) fn check_all<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        let (_, size) = list.shape();
        self.audit.restart();
        self.register_listener()?;
        self.check_some(section, list, 0..size)
    }

    fn check_some<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        mut indices: Range<usize>,
    ) -> Result<(), Error> {
        indices.try_for_each(|index| list.entry(index).map_or(Ok(()), |entry| self.check(section, entry)))
    }

    /// Notices that the program has closed the member's descriptor, also where the number is in use again.
    /// Of one whose coming the program was told this is the end: the number may be anything's. Another one
    /// is taken in anew: the program has connected it again.
    fn check(&mut self, section: &Section, entry: Entry) -> Result<(), Error> {
        let fd = entry.fd;
        let (Some(member), Some(set)) = (self.members.get(&fd), self.own_set()) else { return Ok(()) };
        let (Some(interest), true) = (member.interest(), member.is(entry)) else { return Ok(()) };
        let (announced, always_ready) = (member.announced, member.always_ready);
        // Adding it again changes nothing if it is watched already.
        match set.add(fd, member.token(fd).data(), interest) {
            Err(Errno::EEXIST) => Ok(()),
            Err(Errno::EPERM) if always_ready => Ok(()),
            Ok(()) | Err(Errno::EPERM) if announced => {
                self.lose(fd);
                Ok(())
            }
            // What the old registration may still tell is no longer this member's.
            Ok(()) => {
                table::forget_stranger(section, fd);
                let generation = self.next_generation();
                self.update(fd, |member| {
                    member.generation = generation;
                    member.state = State::Open;
                    member.queued = false;
                });
                self.make_room()?;
                self.make_ready(fd, true, true);
                self.register(fd)
            }
            result => self.registered(fd, result),
        }
    }
}
