//! Whose turn it is, and what they have to tell.

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};

use super::{BATCH, Batch, Entry, Event, EventLoop, Kind, List, State, Token, What, failed};
use crate::connection::frame_decoder::{Came, Cut, Frame, Inbound, Receive};
use crate::connection::send;
use crate::connection::table;
use crate::error::Error;
use crate::frame::c_heap::{Block, OutOfMemory};
use crate::frame::header::TYPE_DATA;
use crate::kernel::ancillary;
use crate::kernel::fd;
use crate::kernel::fd::Patience;
use crate::kernel::internal_fds;
use crate::kernel::poller;
use crate::kernel::socket;
use crate::process::entry_guard::Section;

/// How much is read of an extra descriptor for one event.
const EXTRA_READ: usize = 64 << 10;

/// What poll(2) tells of a socket that nothing more can come on.
const READ_END: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// How often a connection receives in one turn, as long as there is more of a frame that is half received.
const RECEIVES: usize = 4;

/// From which size on a payload costs more to copy than to be received apart from its header.
const LARGE: usize = 4096;

/// What a turn's receiving has brought.
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
            if self.batch == Batch::None
                && let Some(event) = self.tell_gone(section, list)
            {
                return Ok(Some(event));
            }
            if self.ready.is_empty() || self.batch == Batch::Over {
                return Ok(None);
            }
            if self.turns == 0 {
                self.ask_the_kernel(section, list)?;
            }
            self.turns = self.turns.saturating_sub(1);
            let Some(token) = self.ready.pop_front() else { continue };
            let known = self.old == 0 && token.generation > self.shared;
            self.old = self.old.saturating_sub(1);
            if let Some(event) = self.turn(section, list, token, known)? {
                return Ok(Some(event));
            }
        }
    }

    /// The end of one whose descriptor the program has closed.
    fn tell_gone<L: List>(&mut self, section: &Section, list: &mut L) -> Option<Event<L::Origin>> {
        while let Some(gone) = self.gone.pop_front() {
            table::forget_stranger(section, gone.fd);
            let (_, size) = list.shape();
            // The program may have set its descriptor to -1: it is no entry then, but stands there. Where it has a member
            // of its own it is another one, which has got the memory of one that was taken out.
            let is_member = |entry: Entry| self.members.get(&entry.fd).is_some_and(|member| member.is(entry));
            let is_it = |index: &usize| {
                list.identity(*index) == Some(gone.identity) && !list.entry(*index).is_some_and(is_member)
            };
            let found = Some(gone.index as usize).filter(is_it).or_else(|| (0..size).find(is_it));
            let Some(index) = found else { continue };
            let origin = list.origin(index)?;
            list.remove(index);
            self.follow_move(list, index);
            return Some(Event { origin, what: What::Disconnection });
        }
        None
    }

    /// A round is over: who else is ready by now?
    fn ask_the_kernel<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        let mut room = [const { MaybeUninit::uninit() }; BATCH];
        let Some(set) = self.set_to_ask()? else { return self.build(section) };
        let brought = poller::wait_epoll(set, &mut room, 0).map_err(failed)?;
        self.collect(section, list, brought)
    }

    /// `known` is whether the kernel has told in this call that the descriptor is what it was: bytes of the
    /// program's own file that has its number by now are not to be read, nor told what came before it.
    fn turn<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
        token: Token,
        known: bool,
    ) -> Result<Option<Event<L::Origin>>, Error> {
        if self.is_listener(token) {
            return self.accept(section, list);
        }
        let fd = token.fd;
        let Some(member) = self.members.get_mut(&fd).filter(|member| member.generation == token.generation)
        else {
            return Ok(None);
        };
        member.queued = false;
        let readable = std::mem::take(&mut member.readable);
        let writable = std::mem::take(&mut member.writable);
        let located = self.locate(section, list, token);
        // Without memory, or a watch for a new entry: the next call goes on.
        let located = located.inspect_err(|_| self.make_ready(fd, readable, writable))?;
        let Some((index, origin)) = located else { return Ok(None) };
        let Some(member) = self.members.get(&fd).copied() else { return Ok(None) };
        match member.state {
            State::Fresh => {
                self.update(fd, |member| member.state = State::Open);
                return Ok(Some(Event { origin, what: What::Connection }));
            }
            State::Failed => return Ok(self.end(section, list, fd, index)),
            State::Told => return Ok(None),
            State::Open | State::Ending => {}
        }
        // What another process has open still tells of a number that may be the library's own by now.
        if (!known || internal_fds::is_own(fd)) && !self.is_watched(fd) {
            table::forget_stranger(section, fd);
            self.lose(fd);
            return Ok(None);
        }
        if writable && member.sending {
            self.send_queued(section, fd);
        }
        if member.state == State::Ending {
            let is_over = !send::is_queued(section, fd);
            return Ok(if is_over { self.end(section, list, fd, index) } else { None });
        }
        if !readable {
            return Ok(None);
        }
        let what = match member.kind {
            Kind::Watched => self.show_ready(fd)?,
            Kind::Extra => self.read_extra(fd, member.always_ready)?.map(What::Extra),
            Kind::Peer => match self.receive(section, fd)? {
                Received::End if send::flush_whole(section, fd) => {
                    return Ok(self.end(section, list, fd, index));
                }
                received => self.take_in(fd, received),
            },
        };
        Ok(what.map(|what| Event { origin, what }))
    }

    /// Where the member stands in the list, and what events name it with; none if the program has taken it out.
    fn locate<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        token: Token,
    ) -> Result<Option<(usize, L::Origin)>, Error> {
        let fd = token.fd;
        let Some(member) = self.members.get(&fd).copied() else { return Ok(None) };
        let stands_there = |entry: Entry| (entry.fd, entry.identity) == (fd, member.identity);
        if !list.entry(member.index as usize).is_some_and(stands_there) {
            // The program has moved it, or put a copy in its place: once for all that it has changed.
            self.reconcile(section, list)?;
        }
        let Some(member) = self.members.get(&fd).filter(|member| member.generation == token.generation)
        else {
            return Ok(None);
        };
        let index = find(list, member.index, |entry| entry.fd == fd);
        let located = index.and_then(|index| Some((index, list.origin(index)?)));
        if located.is_none() {
            self.drop_unlisted(list, fd);
        }
        Ok(located)
    }

    /// What a turn's receiving comes to, beside the end of a connection that is owed nothing.
    fn take_in(&mut self, fd: RawFd, received: Received) -> Option<What> {
        match received {
            Received::Message(frame) => return Some(What::Message(frame)),
            Received::Nothing => {}
            // It may still read: what it is owed goes out first.
            Received::End => {
                self.update(fd, |member| member.state = State::Ending);
                self.watch_output(fd, true);
            }
            Received::Broken => {
                self.update(fd, |member| member.state = State::Failed);
                self.make_ready(fd, true, false);
                return Some(What::Error);
            }
            Received::Closed => self.lose(fd),
        }
        None
    }

    /// Receives a frame of the connection, or cuts one of what an earlier receive has brought.
    fn receive(&mut self, section: &Section, fd: RawFd) -> Result<Received, Error> {
        let mut slot = table::lock_known(section, fd);
        // Before anything is taken from the kernel, so that nothing is lost for want of it.
        if slot.reserve().is_err() {
            self.make_ready(fd, true, false);
            return Err(OutOfMemory.into());
        }
        let (came, cut, more);
        if let Some(connection) = slot.get() {
            (came, cut) = self.pull(&mut connection.inbound, fd);
            more = connection.inbound.has_ahead();
            if connection.is_idle() {
                slot.tidy();
            }
        } else {
            let (mut inbound, _) = slot.take_inbound();
            (came, cut) = self.pull(&mut inbound, fd);
            more = inbound.has_ahead();
            let _reserved_above = slot.put_inbound(&mut inbound, None);
        }
        drop(slot);
        if more {
            self.make_ready(fd, true, false);
        }
        match (came, cut) {
            (_, Ok(Some(frame))) => Ok(Received::Message(frame)),
            (Ok(Came::End), _) => Ok(Received::End),
            (Err(Receive::System(Errno::EAGAIN | Errno::EINTR)), _) => Ok(Received::Nothing),
            (Err(Receive::System(Errno::EBADF)), _) => Ok(Received::Closed),
            (Err(Receive::System(_)), _) | (_, Err(Cut::TooLong)) => Ok(Received::Broken),
            (Err(Receive::OutOfMemory), _) | (_, Err(Cut::OutOfMemory)) => {
                self.make_ready(fd, true, false);
                Err(OutOfMemory.into())
            }
            (_, Ok(None)) => Ok(Received::Nothing),
        }
    }

    /// Cuts a frame of what has come in, and receives as long as there is none.
    fn pull(
        &mut self,
        inbound: &mut Inbound,
        fd: RawFd,
    ) -> (Result<Came, Receive>, Result<Option<Frame>, Cut>) {
        let mut cut = inbound.cut();
        let mut came = Ok(Came::Full);
        for _ in 0..RECEIVES {
            let (Ok(None), Ok(Came::Full)) = (&cut, came) else { break };
            came = if self.expected < LARGE || inbound.has_begun() || inbound.descriptors.is_some() {
                inbound.receive_ahead(&mut self.spare, |room, arriving| {
                    ancillary::receive(fd, room, Patience::DontWait, arriving)
                })
            } else {
                inbound.receive_expected(self.expected, |head, room| socket::receive_apart(fd, head, room))
            };
            if let Ok(Came::All | Came::Full) = came {
                cut = inbound.cut();
            }
        }
        if let Ok(Some(frame)) = &cut {
            self.expected = frame.payload.len();
        }
        inbound.return_spare(&mut self.spare);
        (came, cut)
    }

    /// Tells of a watched descriptor once in a call, if it still is readable: the program may have read it
    /// meanwhile, and would wait. Epoll tells it again as long as it is.
    fn show_ready(&mut self, fd: RawFd) -> Result<Option<What>, Error> {
        if self.shown.contains(&fd) || self.shown.try_reserve(1).is_err() {
            return Ok(None);
        }
        match fd::wait(fd, PollFlags::POLLIN, PollTimeout::ZERO) {
            Ok(flags) if flags.is_empty() => Ok(None),
            Ok(_) => {
                self.shown.push(fd);
                Ok(Some(What::Ready))
            }
            Err(Errno::EBADF) => {
                self.lose(fd);
                Ok(None)
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The bytes of an extra descriptor; none at its end, which is told once, and for one that cannot be
    /// read.
    fn read_extra(&mut self, fd: RawFd, always_ready: bool) -> Result<Option<Frame>, Error> {
        // The program or another process may have read it meanwhile, and read(2) would wait.
        let ready = match fd::wait(fd, PollFlags::POLLIN | READ_END, PollTimeout::ZERO) {
            Ok(flags) if flags.is_empty() => return Ok(None),
            Ok(flags) => flags,
            Err(Errno::EBADF) => {
                self.lose(fd);
                return Ok(None);
            }
            Err(errno) => {
                self.make_ready(fd, true, false);
                return Err(failed(errno));
            }
        };
        let over = ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        let ended = over || ready.contains(READ_END);
        let block = Block::with_capacity(EXTRA_READ);
        let mut payload = block.inspect_err(|_| self.make_ready(fd, true, false))?;
        // A file's bytes are nobody else's, but may have to come from the disk, and nobody tells when they have.
        let patience = if always_ready { Patience::Wait } else { Patience::DontWait };
        match payload.fill(EXTRA_READ, |room| fd::read(fd, room, patience)) {
            // An empty datagram is no end, and there may be another one behind it.
            Ok(0) if !ended && socket::is_datagram(fd) => self.make_ready(fd, true, false),
            Ok(0) => self.finish_extra(fd),
            // Epoll tells only what is new: this may not have been all.
            Ok(_) => self.make_ready(fd, true, false),
            Err(Errno::EINTR) => {
                self.make_ready(fd, true, false);
                return Ok(None);
            }
            Err(Errno::EAGAIN) => return Ok(None),
            Err(_) if always_ready || over => self.finish_extra(fd),
            Err(_) => {}
        }
        payload.shrink();
        Ok(Some(Frame::new(TYPE_DATA, payload)))
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
    ) -> Option<Event<L::Origin>> {
        if self.batch != Batch::None {
            self.batch = Batch::Over;
            self.make_ready(fd, true, true);
            return None;
        }
        let origin = list.origin(index)?;
        // The program may have closed it, and its number be in use again. What is no socket is not closed, either.
        let is_it = self.is_watched(fd) && socket::Cookie::of(fd).is_ok();
        list.remove(index);
        self.follow_move(list, index);
        self.dismiss(fd);
        if is_it {
            send::flush(section, fd);
            table::lock(section, fd).forget();
            // Nothing can be done about a failure, and the number is free in any case.
            let _ = fd::close(fd);
        }
        self.resume_listener();
        Some(Event { origin, what: What::Disconnection })
    }
}

/// Where in the list the entry is: where it was last seen, or elsewhere.
fn find<L: List>(list: &L, hint: u32, is_it: impl Fn(Entry) -> bool) -> Option<usize> {
    let (_, size) = list.shape();
    let stands_at = |index: &usize| list.entry(*index).is_some_and(&is_it);
    Some(hint as usize).filter(stands_at).or_else(|| (0..size).find(stands_at))
}
