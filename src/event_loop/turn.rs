//! Whose turn it is, and what they have to tell.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use super::{BATCH, Entry, Event, EventLoop, List, State, Token, What, failed};
use crate::connection::{Cut, Frame, Receive};
use crate::connections;
use crate::error::{Error, ipc_errors as Code};
use crate::memory::{Block, OutOfMemory};
use crate::output;
use crate::section::Section;
use crate::socket::{self, Patience, Readiness};
use crate::wire::TYPE_DATA;

/// How much is read of an extra descriptor for one event.
const EXTRA_READ: usize = 64 << 10;

/// What one receive has brought.
enum Received {
    Message(Frame),
    /// Nothing to tell yet.
    Nothing,
    /// The peer sends no more.
    End,
    /// The peer broke the protocol, or the connection failed.
    Broken,
    /// The program has closed the descriptor.
    Closed,
}

impl EventLoop {
    /// Gives turns to those who are ready until one has something to tell; none when nobody is left.
    pub(super) fn serve<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
    ) -> Result<Option<Event<L::Origin>>, Error> {
        loop {
            if self.turns == 0 {
                if self.ready.is_empty() {
                    return Ok(None);
                }
                self.ask_the_kernel()?;
            }
            self.turns = self.turns.saturating_sub(1);
            let Some(token) = self.ready.pop_front() else { continue };
            if let Some(event) = self.turn(section, list, token)? {
                return Ok(Some(event));
            }
        }
    }

    /// A round is over: who else is ready by now?
    fn ask_the_kernel(&mut self) -> Result<(), Error> {
        let mut buffer = [Readiness { events: 0, u64: 0 }; BATCH];
        let Some(set) = self.own_epoll().map(|epoll| epoll.0.as_raw_fd()) else { return self.build() };
        let brought = socket::wait_epoll(set, &mut buffer, 0).map_err(failed)?;
        self.collect(brought)
    }

    fn turn<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
        token: Token,
    ) -> Result<Option<Event<L::Origin>>, Error> {
        if self.is_listener(token) {
            return self.accept(list);
        }
        let fd = token.fd;
        let Some(member) = self.members.get_mut(&fd).filter(|member| member.generation == token.generation)
        else {
            return Ok(None);
        };
        member.queued = false;
        let readable = std::mem::take(&mut member.readable);
        let writable = std::mem::take(&mut member.writable);
        let member = *member;
        let located = locate(list, fd, member.index as usize);
        let Some((index, origin)) = located.and_then(|index| Some((index, list.origin(index)?))) else {
            // The program has taken it out by hand.
            self.dismiss(fd);
            return Ok(None);
        };
        match member.state {
            State::Fresh => {
                self.update(fd, |member| member.state = State::Open);
                return Ok(Some(Event { origin, what: What::Connection }));
            }
            State::Failed => return Ok(self.end(section, list, fd, index, true)),
            State::Gone => return Ok(self.end(section, list, fd, index, false)),
            State::Told => return Ok(None),
            State::Open if member.extra => {
                let frame = self.read_extra(fd, member.always_ready)?;
                return Ok(frame.map(|frame| Event { origin, what: What::Extra(frame) }));
            }
            State::Open | State::Ending => {}
        }
        if writable && member.sending && self.send_queued(section, fd) && member.state == State::Ending {
            return Ok(self.end(section, list, fd, index, true));
        }
        if !readable || member.state == State::Ending {
            return Ok(None);
        }
        match self.receive(section, fd)? {
            Received::Message(frame) => Ok(Some(Event { origin, what: What::Message(frame) })),
            Received::Nothing => Ok(None),
            Received::End if output::is_queued(section, fd) => {
                // It may still read: what it is owed goes out first.
                self.update(fd, |member| member.state = State::Ending);
                self.watch_output(fd, true);
                Ok(None)
            }
            Received::End => Ok(self.end(section, list, fd, index, true)),
            Received::Broken => {
                self.update(fd, |member| member.state = State::Failed);
                self.make_ready(fd, true, false);
                Ok(Some(Event { origin, what: What::Error }))
            }
            Received::Closed => {
                self.lose(fd);
                Ok(None)
            }
        }
    }

    /// One receive for a connection, or one of the frames that an earlier one has brought.
    fn receive(&mut self, section: &Section, fd: RawFd) -> Result<Received, Error> {
        let mut slot = connections::lock(section, fd);
        if slot.reserve().is_err() {
            self.make_ready(fd, true, false);
            return Err(OutOfMemory.into());
        }
        let mut inbound = slot.take_inbound();
        let mut cut = if inbound.is_empty() { Ok(None) } else { inbound.cut() };
        let mut came = Ok(1);
        if let Ok(None) = cut {
            came =
                inbound.receive_ahead(&mut self.spare, |room| socket::receive(fd, room, Patience::DontWait));
            if let Ok(1..) = came {
                cut = inbound.cut();
            }
        }
        let more = inbound.has_ahead();
        inbound.return_spare(&mut self.spare);
        let _reserved_above = slot.put_inbound(inbound);
        drop(slot);
        if more {
            self.make_ready(fd, true, false);
        }
        match (came, cut) {
            (Ok(0), _) => Ok(Received::End),
            (Err(Receive::System(Errno::EAGAIN | Errno::EINTR)), _) => Ok(Received::Nothing),
            (Err(Receive::System(Errno::EBADF)), _) => Ok(Received::Closed),
            (Err(Receive::System(_)), _) | (_, Err(Cut::TooLong)) => Ok(Received::Broken),
            (Err(Receive::OutOfMemory), _) | (_, Err(Cut::OutOfMemory)) => {
                self.make_ready(fd, true, false);
                Err(OutOfMemory.into())
            }
            (_, Ok(None)) => Ok(Received::Nothing),
            (_, Ok(Some(frame))) => Ok(Received::Message(frame)),
        }
    }

    /// The bytes of an extra descriptor; none at its end, which is told once, and for one that cannot be
    /// read.
    fn read_extra(&mut self, fd: RawFd, always_ready: bool) -> Result<Option<Frame>, Error> {
        // The program or another process may have read it meanwhile, and read(2) would wait.
        match socket::wait(fd, PollFlags::POLLIN, PollTimeout::ZERO) {
            Ok(flags) if flags.is_empty() => return Ok(None),
            Ok(_) => {}
            Err(Errno::EBADF) => {
                self.lose(fd);
                return Ok(None);
            }
            Err(errno) => return Err(failed(errno)),
        }
        let block = Block::with_capacity(EXTRA_READ);
        let mut payload = block.inspect_err(|_| self.make_ready(fd, true, false))?;
        match payload.fill(EXTRA_READ, |room| socket::read(fd, room)) {
            Ok(0) => self.finish_extra(fd),
            // Epoll tells only what is new: this may not have been all.
            Ok(_) => self.make_ready(fd, true, false),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(_) if always_ready => self.finish_extra(fd),
            Err(_) => {}
        }
        payload.shrink();
        Ok(Some(Frame { kind: TYPE_DATA, payload }))
    }

    fn finish_extra(&mut self, fd: RawFd) {
        self.unregister(fd);
        self.update(fd, |member| member.state = State::Told);
    }

    /// Takes the connection out of the list, closes it, and tells so.
    fn end<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
        fd: RawFd,
        index: usize,
        open: bool,
    ) -> Option<Event<L::Origin>> {
        let origin = list.origin(index)?;
        list.remove(index);
        self.follow_move(list, index);
        self.dismiss(fd);
        if open {
            output::flush(section, fd);
            connections::lock(section, fd).forget();
            // Nothing can be done about a failure, and the number is free in any case.
            let _ = socket::close(fd);
        }
        self.resume_listener();
        Some(Event { origin, what: What::Disconnection })
    }

    /// Takes one client in, and tells of it.
    fn accept<L: List>(&mut self, list: &mut L) -> Result<Option<Event<L::Origin>>, Error> {
        let Some(listener) = self.listener else { return Ok(None) };
        let mut replaced = None;
        let pushed = list.push(|index| {
            let fd =
                socket::accept(listener.fd).map_err(|errno| Error::new(Code::IPC_ERROR_ACCEPT, errno))?;
            replaced = self.members.get(&fd).filter(|old| old.announced).map(|old| old.index as usize);
            self.admit(Entry { fd, extra: false }, index, State::Fresh).inspect_err(|_| {
                let _ = socket::close(fd);
            })?;
            Ok(fd)
        });
        match pushed {
            Ok(index) => Ok(self.announce(list, index, replaced)),
            // Another process took the client, or it has gone.
            Err(Error { errno: Errno::EAGAIN | Errno::EINTR | Errno::EPROTO, .. }) => Ok(None),
            // Descriptors, watches or memory have run out: the established go on, the new ones wait.
            Err(Error {
                errno: Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::ENOSPC,
                ..
            }) => {
                self.pause_listener(true);
                Ok(None)
            }
            Err(error) => Err(failed(error.errno)),
        }
    }

    /// Tells of the client that was taken in at `index`. Where its number belonged to another one that the
    /// program was told of, the program has closed that with close(2): its end is told first.
    fn announce<L: List>(
        &mut self,
        list: &mut L,
        index: usize,
        replaced: Option<usize>,
    ) -> Option<Event<L::Origin>> {
        let fd = list.entry(index)?.fd;
        let origin = list.origin(index)?;
        if let Some(before) = replaced.filter(|before| *before != index && stands_at(list, fd, *before)) {
            let origin = list.origin(before)?;
            list.remove(before);
            self.follow_move(list, before);
            return Some(Event { origin, what: What::Disconnection });
        }
        self.update(fd, |member| {
            member.state = State::Open;
            member.readable = false;
        });
        Some(Event { origin, what: What::Connection })
    }
}

fn stands_at<L: List>(list: &L, fd: RawFd, index: usize) -> bool {
    list.entry(index).is_some_and(|entry| entry.fd == fd)
}

/// Where in the list the descriptor is: where it was last seen, or elsewhere.
fn locate<L: List>(list: &L, fd: RawFd, hint: usize) -> Option<usize> {
    let (_, size) = list.shape();
    let found = |index: &usize| stands_at(list, fd, *index);
    Some(hint).filter(found).or_else(|| (0..size).find(found))
}
