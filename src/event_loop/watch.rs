//! Whom the loop of a list watches: its members and their registrations.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::listener::{self, Listener};
use super::{Entry, EventLoop, Gone, Kind, List, Member, Readable, State, Token, audit, failed};
use crate::connection::send::{self, Flushed};
use crate::connection::table;
use crate::error::Error;
use crate::kernel::poller::{Poller, Readiness, TICK};
use crate::kernel::socket::Cookie;
use crate::process::entry_guard::Section;

pub(super) fn index_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl EventLoop {
    /// The set, to be asked who is ready. Its clock runs, if there is something to look after meanwhile.
    pub(super) fn set_to_ask(&mut self) -> Result<Option<RawFd>, Error> {
        let is_paused = self.listener.is_some_and(Listener::is_paused);
        let Some(set) = self.set.as_mut().filter(|set| set.is_own()) else { return Ok(None) };
        if self.audit.is_due() || self.is_stalled {
            set.tick_in(audit::PAUSE_MS).map_err(failed)?;
        } else if is_paused {
            set.tick_in(i64::from(listener::PAUSE_MS)).map_err(failed)?;
        }
        Ok(Some(set.fd()))
    }

    /// The clock of the set has ticked.
    fn look_after<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        self.retry_listener();
        self.retry_output(section);
        if self.audit.is_due() { self.audit(section, list) } else { Ok(()) }
    }

    pub(super) fn next_generation(&mut self) -> u32 {
        self.generations = self.generations.wrapping_add(1);
        self.generations
    }

    /// The epoll set, if it is this process's own.
    pub(super) fn own_set(&self) -> Option<&Poller> {
        self.set.as_ref().filter(|set| set.is_own())
    }

    /// Makes the epoll set where there is none.
    pub(super) fn build(&mut self, section: &Section) -> Result<(), Error> {
        if self.own_set().is_some() {
            return Ok(());
        }
        let mut fds = Vec::new();
        fds.try_reserve(self.members.len())?;
        fds.extend(self.members.keys().copied());
        // The parent's, in a forked child, makes room for the new one.
        self.drop_set();
        self.set = Some(Poller::new().map_err(failed)?);
        let registered = self.show_set().and_then(|()| self.register_listener()).and_then(|()| {
            fds.into_iter().try_for_each(|fd| {
                // It may be another socket than when the member came.
                table::forget_stranger(section, fd);
                if self.members.get(&fd).is_some_and(|member| member.is_another_by_now(fd)) {
                    self.lose(fd);
                }
                self.register(fd)
            })
        });
        if registered.is_err() {
            self.drop_set();
        }
        registered
    }

    fn drop_set(&mut self) {
        if let (Some(readable), Some(set)) = (self.own_readable(), self.own_set()) {
            readable.leave(set.as_fd());
        }
        self.set = None;
    }

    fn show_set(&self) -> Result<(), Error> {
        let readable = self.readable.as_ref().filter(|readable| readable.is_own());
        if let (Some(readable), Some(set)) = (readable, &self.set) {
            readable.follow(set.as_fd()).map_err(failed)?;
        }
        Ok(())
    }

    fn own_readable(&self) -> Option<&Readable> {
        self.readable.as_ref().filter(|readable| readable.is_own())
    }

    /// The descriptor for other event loops, made if there is none of this process yet.
    pub(super) fn make_readable(&mut self) -> Result<RawFd, Error> {
        if self.own_readable().is_none() {
            self.readable = Some(Readable::new().map_err(failed)?);
            if let Err(error) = self.show_set() {
                self.readable = None;
                return Err(error);
            }
        }
        self.show();
        self.readable.as_ref().map(Readable::fd).ok_or(failed(Errno::EBADF))
    }

    /// Takes in what epoll tells. A registration that outlived its member (the program closed the descriptor
    /// with close(2), and another process still has it open) cannot be removed alone: the set is made anew.
    pub(super) fn collect<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        brought: &[Readiness],
    ) -> Result<(), Error> {
        let (mut stale, mut ticked) = (false, false);
        for readiness in brought {
            let token = Token::of(readiness.u64);
            if readiness.u64 == TICK {
                ticked = true;
                if let Some(set) = &mut self.set {
                    set.ticked();
                }
                continue;
            }
            let flags = EpollFlags::from_bits_truncate(readiness.events.cast_signed());
            let over = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            match self.members.get(&token.fd) {
                _ if self.is_listener(token) => self.ready.push_back(token),
                Some(member) if member.generation == token.generation => {
                    let readable = over || flags.contains(EpollFlags::EPOLLIN);
                    let writable = over || flags.contains(EpollFlags::EPOLLOUT);
                    self.make_ready(token.fd, readable, writable);
                }
                _ => stale = true,
            }
        }
        if stale {
            // Whom the old set does not watch any more the new one must not, either.
            let mut closed = Vec::new();
            closed.try_reserve(self.members.len())?;
            let watched = self.members.iter().filter(|(_, member)| member.interest().is_some());
            closed.extend(watched.map(|(fd, _)| *fd).filter(|fd| !self.is_watched(*fd)));
            closed.into_iter().for_each(|fd| self.lose(fd));
            self.drop_set();
            self.build(section)?;
        }
        if ticked {
            self.look_after(section, list)?;
        }
        self.turns = self.ready.len().max(self.shortest_round);
        Ok(())
    }

    pub(super) fn unregister(&self, fd: RawFd) {
        if let Some(set) = self.own_set() {
            set.remove(fd);
        }
    }

    /// Has epoll watch the member for what it waits for.
    pub(super) fn register(&mut self, fd: RawFd) -> Result<(), Error> {
        self.tell_epoll(fd, Poller::watch)
    }

    fn tell_epoll(
        &mut self,
        fd: RawFd,
        tell: fn(&Poller, RawFd, u64, EpollFlags) -> nix::Result<()>,
    ) -> Result<(), Error> {
        let (Some(member), Some(set)) = (self.members.get(&fd), self.own_set()) else { return Ok(()) };
        let Some(interest) = member.interest() else { return Ok(()) };
        let result = tell(set, fd, member.token(fd).data(), interest);
        self.registered(fd, result)
    }

    pub(super) fn registered(&mut self, fd: RawFd, result: nix::Result<()>) -> Result<(), Error> {
        match result {
            Ok(()) => {}
            Err(Errno::EPERM) if self.members.get(&fd).is_some_and(|member| member.kind == Kind::Watched) => {
                // It was closed, and its number is that of a regular file now; or it is just being added.
                self.lose(fd);
            }
            Err(Errno::EPERM) => {
                self.update(fd, |member| member.always_ready = true);
                self.make_ready(fd, true, false);
            }
            // Perhaps its number is now one of the library's own descriptors; ELOOP is what ipc_event_fd gives out.
            Err(Errno::EBADF | Errno::ELOOP) => self.lose(fd),
            Err(errno) => return Err(failed(errno)),
        }
        Ok(())
    }

    pub(super) fn update(&mut self, fd: RawFd, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.members.get_mut(&fd) {
            change(member);
        }
    }

    /// Queues the member for its turn. There is always room: it was made when the member came.
    pub(super) fn make_ready(&mut self, fd: RawFd, readable: bool, writable: bool) {
        if let Some(member) = self.members.get_mut(&fd) {
            member.readable |= readable;
            member.writable |= writable;
            if !std::mem::replace(&mut member.queued, true) {
                self.ready.push_back(member.token(fd));
            }
        }
    }

    /// Finds the memory for one more member.
    pub(super) fn make_room(&mut self) -> Result<(), Error> {
        self.members.try_reserve(1)?;
        self.gone.try_reserve(1)?;
        if self.ready.len() > 2 * self.members.len() + 2 {
            // Many have come and gone without a wait.
            let (members, listener) = (&self.members, self.listener);
            self.ready.retain(|token| {
                listener.is_some_and(|listener| listener.token() == *token)
                    || members.get(&token.fd).is_some_and(|member| member.generation == token.generation)
            });
        }
        // A place for each member and for the listener, and for what is in the queue without being a member.
        self.ready.try_reserve(self.members.len() + 2)?;
        Ok(())
    }

    /// Takes a member in, or takes one anew that has another structure or another socket.
    pub(super) fn admit(
        &mut self,
        section: &Section,
        entry: Entry,
        index: usize,
        state: State,
    ) -> Result<(), Error> {
        if self.is_service(entry.fd) {
            return Ok(());
        }
        self.make_room()?;
        table::forget_stranger(section, entry.fd);
        if let Some(old) = self.members.get(&entry.fd)
            && old.announced
            && old.identity != entry.identity
        {
            let gone = old.gone(entry.fd);
            if self.follow_copy(entry, index) {
                return Ok(());
            }
            self.gone.push_back(gone);
        }
        // Its memory may have been that of one that has gone.
        self.gone.retain(|gone| gone.identity != entry.identity);
        let generation = self.next_generation();
        let member = Member {
            index: index_u32(index),
            identity: entry.identity,
            generation,
            state,
            announced: state == State::Fresh,
            cookie: (state == State::Fresh).then(|| Cookie::of(entry.fd).ok()).flatten(),
            // It may have something queued from before; a look will show.
            sending: send::any_queued(),
            kind: match entry.kind {
                Kind::Extra if self.watched.contains(&entry.identity) => Kind::Watched,
                kind => kind,
            },
            always_ready: false,
            queued: false,
            readable: false,
            writable: false,
        };
        self.members.insert(entry.fd, member);
        if let Err(error) = self.register(entry.fd) {
            self.members.remove(&entry.fd);
            return Err(error);
        }
        // A new client is to be told; another one may have frames that another list has read ahead.
        self.make_ready(entry.fd, true, true);
        Ok(())
    }

    /// Where the entry is a copy of the member's structure, in its place, it is as good, and the member is that from
    /// now on; whether it is. A regular file may be another one by now.
    pub(super) fn follow_copy(&mut self, entry: Entry, index: usize) -> bool {
        let Some(member) = self.members.get(&entry.fd).copied() else { return false };
        let is_alike = (member.kind == Kind::Peer) == (entry.kind == Kind::Peer);
        if !is_alike || member.always_ready || !self.is_watched(entry.fd) {
            return false;
        }
        let known = self.watched.iter_mut().filter(|known| **known == member.identity);
        known.for_each(|known| *known = entry.identity);
        self.update(entry.fd, |member| {
            (member.index, member.identity) = (index_u32(index), entry.identity);
        });
        true
    }

    /// Whether epoll watches the descriptor as it is now.
    pub(super) fn is_watched(&self, fd: RawFd) -> bool {
        let (Some(member), Some(set)) = (self.members.get(&fd), self.own_set()) else { return false };
        match set.add(fd, member.token(fd).data(), EpollFlags::empty()) {
            Err(Errno::EEXIST) => true,
            Err(Errno::EPERM) => member.always_ready,
            Err(_) => false,
            Ok(()) => {
                // It was not, and is not to be from now on.
                set.remove(fd);
                false
            }
        }
    }

    /// Forgets a member that is in the list no more.
    pub(super) fn dismiss(&mut self, fd: RawFd) {
        self.unregister(fd);
        if let Some(member) = self.members.remove(&fd) {
            // Its memory may be another structure's from now on.
            self.watched.retain(|identity| *identity != member.identity);
        }
    }

    /// The member's descriptor is closed, or no more what it was. If the program was told of its coming, it
    /// is told of its going.
    pub(super) fn lose(&mut self, fd: RawFd) {
        let Some(member) = self.members.get(&fd) else { return };
        self.unregister(fd);
        if member.announced {
            if self.gone.try_reserve(1).is_err() {
                // The next audit finds it so again.
                return;
            }
            self.gone.push_back(member.gone(fd));
        }
        self.members.remove(&fd);
    }

    /// After an entry was taken out at `index`: the one that stands there now has come from the end.
    pub(super) fn follow_move<L: List>(&mut self, list: &L, index: usize) {
        if let Some(moved) = list.entry(index)
            && let Some(member) = self.members.get_mut(&moved.fd)
            && member.identity == moved.identity
        {
            member.index = index_u32(index);
        }
    }

    /// Has epoll tell when more can be sent, or no longer. Should the number be another file's by now, epoll does not
    /// watch it, and the next audit finds it so.
    pub(super) fn watch_output(&mut self, fd: RawFd, sending: bool) {
        self.update(fd, |member| member.sending = sending);
        // Should it fail, later calls for this connection send what is queued.
        let _ = self.tell_epoll(fd, Poller::change);
    }

    /// Sends what is queued for the member.
    pub(super) fn send_queued(&mut self, section: &Section, fd: RawFd) {
        let flushed = send::flush(section, fd);
        if flushed != Flushed::Full {
            self.watch_output(fd, false);
        }
        // Epoll would tell again and again that there is room.
        self.is_stalled |= flushed == Flushed::Later;
    }

    /// Has another try at what could not be sent for want of something that nobody tells of.
    fn retry_output(&mut self, section: &Section) {
        if std::mem::take(&mut self.is_stalled) {
            let mut stalled = Vec::new();
            for (fd, member) in &self.members {
                if !member.sending && send::is_queued(section, *fd) {
                    if stalled.try_reserve(1).is_err() {
                        self.is_stalled = true;
                        break;
                    }
                    stalled.push(*fd);
                }
            }
            stalled.into_iter().for_each(|fd| self.watch_output(fd, true));
        }
    }
}

impl Member {
    pub(super) fn token(&self, fd: RawFd) -> Token {
        Token { fd, generation: self.generation }
    }

    fn gone(&self, fd: RawFd) -> Gone {
        Gone { identity: self.identity, index: self.index, fd }
    }

    /// Whether the number is no more that of the client that has come.
    fn is_another_by_now(&self, fd: RawFd) -> bool {
        self.cookie.is_some_and(|cookie| !Cookie::of(fd).is_ok_and(|now| now.may_be(cookie)))
    }

    /// Whether it is this entry of the list.
    pub(super) fn is(&self, entry: Entry) -> bool {
        (self.identity, self.kind == Kind::Peer) == (entry.identity, entry.kind == Kind::Peer)
    }

    /// What epoll is to tell of it; none for one that is not watched.
    ///
    /// An extra descriptor is told once for each thing that happens: it is read until it is empty, and one
    /// that cannot be read (a listening socket) must not be told again and again. A watched one is the
    /// program's to read.
    pub(super) fn interest(&self) -> Option<EpollFlags> {
        let mut interest = match self.state {
            State::Told => return None,
            State::Ending => EpollFlags::empty(),
            State::Fresh | State::Open | State::Failed if self.kind == Kind::Extra => {
                EpollFlags::EPOLLIN | EpollFlags::EPOLLET
            }
            State::Fresh | State::Open | State::Failed => EpollFlags::EPOLLIN,
        };
        interest.set(EpollFlags::EPOLLOUT, self.sending);
        Some(interest)
    }
}
