//! The loop of one list.
//!
//! It is driven by [`EventLoop::step`]: each step takes what is there, under the loop's lock, and returns an event, or
//! something that is to be done without the lock before the next step, or what to wait for. A call of the program begins
//! with [`Input::Begin`]; a further event of the same call is asked for with [`Input::More`].

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::frame_decoder::Frame;
use crate::connection::send::{self, Flushed};
use crate::connection::table::{self, Memory, Prepared};
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::accept::{self, Pause, Refused};
use crate::event_loop::extra::{self, Read};
use crate::event_loop::list::{Entry, Event, Kind, List, What};
use crate::event_loop::members::{
    ALWAYS_READY, LISTENER, Member, QUEUED, READABLE, REPORTED, SENDING, State, Token, VERIFIED, WRITABLE,
};
use crate::event_loop::receive::{Received, Receiver};
use crate::event_loop::registry::{Registry, failed};
use crate::event_loop::scan::{PART_PAUSE, Scan};
use crate::event_loop::turns::BATCH;
use crate::frame::c_heap::{Block, OutOfMemory};
use crate::frame::header::TYPE_DATA;
use crate::kernel::event_fd::EventFd;
use crate::kernel::internal_fds::KeptFd;
use crate::kernel::socket::Cookie;
use crate::kernel::wait::FEW;
use crate::process::entry_guard::Section;
use crate::service::endpoint;

/// What a step begins with.
pub enum Input<C> {
    /// The program calls: its service, if any; whether the call may wait; how many events it wants.
    Begin(Option<RawFd>, bool, usize),
    /// The kernel may have something; these descriptors are ready.
    Woken(Few),
    /// The program wants a further event of the same call.
    More,
    /// A client of [`Step::Accept`], and the list's shape before and after it was prepared for.
    Accepted(C, RawFd, Prepared, [(usize, usize); 2]),
    /// None.
    NotAccepted(Errno, [(usize, usize); 2]),
    /// What [`Step::Read`] has come to.
    Read(Token, Read),
}

/// What a step ends with.
pub enum Step<O> {
    /// Something happened.
    Event(Event<O>),
    /// Nothing more is there, in this call.
    Nothing,
    /// A client is to be accepted at this service, without the lock: it gets these settings.
    Accept(RawFd, Prepared),
    /// This descriptor is to be read, without the lock: by [`extra::read`].
    Read(Token, RawFd, bool),
    /// This connection has ended: it is to be closed, without the lock, and then reported.
    End(RawFd, O),
    /// This descriptor is to be closed, without the lock; then the call fails, or goes on.
    Drop(RawFd, Option<Error>),
    /// This set is to be waited for, for at most so many milliseconds.
    Wait(WaitFor),
}

/// A few descriptors.
#[derive(Clone, Copy)]
pub struct Few {
    fds: [RawFd; FEW],
    count: usize,
}

impl Few {
    /// None.
    pub const NONE: Self = Self { fds: [-1; FEW], count: 0 };

    /// Adds one; whether there was room.
    pub fn push(&mut self, fd: RawFd) -> bool {
        let place = self.fds.get_mut(self.count);
        self.count += usize::from(place.is_some());
        place.map(|place| *place = fd).is_some()
    }

    /// The descriptors.
    pub fn as_slice(&self) -> &[RawFd] {
        self.fds.get(..self.count).unwrap_or_default()
    }
}

/// What to wait for.
#[derive(Clone, Copy)]
pub struct WaitFor {
    /// Until one of these is readable: the set, or a few members, and the clock, if there is one.
    pub fds: Few,
    /// The clock: it is readable when the loop has work of its own.
    pub clock: Option<RawFd>,
    /// For how long at most, in milliseconds.
    pub limit: Option<u32>,
    /// Whether the kernel was asked just now, and had nothing.
    pub is_idle: bool,
    /// How often it is to be asked until all descriptors that were ready have been looked at.
    pub looks: usize,
}

/// The loop of one list.
pub struct EventLoop {
    registry: Registry,
    /// The list's shape when the mirror was last made as it is.
    seen: (usize, usize),
    /// Whether the program has changed its list, and not all of it was checked since.
    is_unchecked: bool,
    scan: Scan,
    /// How many services the process had opened when the service's socket was last registered.
    services: u32,
    /// While descriptors or memory have run out.
    pause: Pause,
    receiver: Receiver,
    /// What the program has for another event loop.
    event_fd: Option<EventFd>,
    /// The number of the connection whose end was reported last: given to nobody until the program calls again.
    held: Option<KeptFd>,
    is_holding: bool,
    /// The slots of members whose numbers were verified for an event of this call: a call that reports many events does so
    /// once for each member.
    verified: Vec<u32>,
    /// The watched descriptors that this call has reported.
    shown: Vec<RawFd>,
    /// Whether an event was reported in this call.
    is_batch: bool,
    /// Whether a thread waits for the set.
    is_waiting: bool,
    /// Whether something could not be sent, and nothing will report when it can.
    is_stalled: bool,
}

fn nobody() -> Error {
    Error::argument(Code::IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM)
}

impl EventLoop {
    /// The loop of the list at this address.
    pub fn new(list: usize) -> Self {
        Self {
            registry: Registry::new(list),
            seen: (0, 0),
            is_unchecked: false,
            scan: Scan::default(),
            services: 0,
            pause: Pause::default(),
            receiver: Receiver::default(),
            event_fd: None,
            held: None,
            is_holding: false,
            verified: Vec::new(),
            shown: Vec::new(),
            is_batch: false,
            is_waiting: false,
            is_stalled: false,
        }
    }

    /// Whether it may be removed.
    pub fn is_unused(&self) -> bool {
        // Another thread may wait for the set, which must not become another file under it.
        self.registry.members.is_empty() && self.event_fd.is_none() && !self.is_waiting && !self.is_holding
    }

    /// Gives back what it does not need: the set, if there is nothing to watch.
    pub fn shrink(&mut self) {
        if self.registry.members.is_empty() && self.event_fd.is_none() && !self.is_waiting {
            self.registry.drop_set();
        }
    }

    /// Memory of connections that were closed, to be dropped where no lock is held.
    pub fn take_discarded(&mut self) -> Vec<Memory> {
        std::mem::take(&mut self.registry.discarded)
    }

    /// Shows other event loops whether something is left to report.
    pub fn show(&mut self) {
        let turns = &self.registry.turns;
        let is_left = !turns.is_empty() || turns.has_ends();
        self.event_fd.iter_mut().for_each(|event_fd| event_fd.raise(is_left));
    }

    /// Makes a step.
    pub fn step<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
        input: Input<L::Client>,
    ) -> Result<Step<L::Origin>, Error> {
        let mut is_idle = false;
        let step = match input {
            Input::Begin(listener, may_wait, most) => {
                self.begin(section, list, listener, may_wait, most)?;
                None
            }
            Input::Woken(ready) => {
                is_idle = self.wake_up(section, list, ready)?;
                None
            }
            Input::More => {
                self.is_batch = true;
                None
            }
            Input::Accepted(client, fd, prepared, shapes) => {
                self.forget_lost_set();
                self.note_shape(shapes);
                self.accepted(section, list, client, fd, prepared)
            }
            Input::NotAccepted(errno, shapes) => {
                self.forget_lost_set();
                self.note_shape(shapes);
                self.not_accepted(section, errno).map_or(Ok(None), Err)?
            }
            Input::Read(token, read) => {
                self.forget_lost_set();
                self.finish_read(section, list, token, read)?.map(Step::Event)
            }
        };
        let step = match step {
            Some(step) => Some(step),
            None => self.serve(section, list)?,
        };
        if let Some(step) = step {
            if let Step::Event(_) | Step::End(..) = step {
                self.seen = list.shape();
            }
            return Ok(step);
        }
        if self.is_batch {
            return Ok(Step::Nothing);
        }
        if !self.can_happen() {
            // Before saying that nobody is there: all of the list, as it is now.
            self.sync(section, list)?;
            self.check_all(section, list)?;
            if let Some(step) = self.serve(section, list)? {
                return Ok(step);
            }
            if !self.can_happen() {
                return Err(nobody());
            }
        }
        if !self.registry.has_clock() {
            self.drop_set();
            return self.step(section, list, Input::Woken(Few::NONE));
        }
        self.wait_for(is_idle).map(Step::Wait)
    }

    /// The program has called: what has it changed meanwhile?
    fn begin<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        listener: Option<RawFd>,
        may_wait: bool,
        most: usize,
    ) -> Result<(), Error> {
        self.held = None;
        (self.is_holding, self.is_batch, self.is_waiting) = (false, false, false);
        self.shown.clear();
        self.forget_verified();
        self.registry.turns.begin(most);
        self.scan.begin(may_wait);
        let services = endpoint::opened();
        let turns = &self.registry.turns;
        let is_steady = self.seen == list.shape()
            && !self.is_unchecked
            && self.registry.has_listener(listener)
            && self.services == services
            && turns.is_empty()
            && !turns.has_ends()
            && !self.scan.is_overdue();
        if is_steady {
            // The set is looked at before the wait.
            return Ok(());
        }
        self.forget_lost_set();
        let is_other = self.registry.set_listener(section, listener)?;
        if self.seen != list.shape() || is_other {
            // An entry may have the number of the service, or of the one before.
            self.sync(section, list)?;
        }
        self.build(section)?;
        if is_other || self.services != services {
            self.registry.register_listener(section, self.pause.is_on())?;
            self.services = services;
        }
        if self.is_unchecked {
            self.check_all(section, list)
        } else if self.scan.is_overdue() {
            self.scan_part(section, list)
        } else {
            Ok(())
        }
    }

    /// The kernel is asked, and the clock, unless it has said which members are ready; whether there was nothing.
    fn wake_up<L: List>(&mut self, section: &Section, list: &L, ready: Few) -> Result<bool, Error> {
        self.is_waiting = false;
        self.forget_verified();
        let poller = self.registry.poller_mut().map(|poller| (poller.fd(), poller.clock()));
        let is_own = |fd: &RawFd| poller.is_none_or(|(set, clock)| *fd == set || Some(*fd) == clock);
        if !ready.as_slice().is_empty() && !ready.as_slice().iter().any(is_own) {
            for fd in ready.as_slice() {
                self.slot_of(*fd).into_iter().for_each(|slot| self.registry.make_ready(slot, READABLE));
            }
            self.registry.turns.begin_round();
            return Ok(false);
        }
        self.forget_lost_set();
        self.ask_the_kernel(section, list)
    }

    fn ask_the_kernel<L: List>(&mut self, section: &Section, list: &L) -> Result<bool, Error> {
        let mut room = [const { MaybeUninit::uninit() }; BATCH];
        self.build(section)?;
        // A program that always finds something does not wait, and is looked after all the same.
        self.tick();
        let Some(poller) = self.registry.poller_mut() else { return Ok(true) };
        let brought = poller.ready(&mut room).map_err(failed)?;
        let is_idle = brought.is_empty();
        let collected = self.registry.collect(brought);
        if collected.is_stale {
            self.registry.check_all(section)?;
            self.drop_set();
            self.build(section)?;
        }
        if collected.has_ticked {
            self.look_after(section, list)?;
        }
        Ok(is_idle)
    }

    /// The clock has ticked.
    fn look_after<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        if self.pause.is_over() {
            self.resume_accepting(section);
        }
        self.retry_output(section);
        if self.scan.is_due() { self.scan_part(section, list) } else { Ok(()) }
    }

    /// What the program has closed is not to be used, nor closed.
    fn forget_lost_set(&mut self) {
        let registry = &mut self.registry;
        if registry.poller_mut().is_some() && registry.poller().is_none() {
            registry.drop_set();
        }
        self.event_fd.iter_mut().for_each(EventFd::mend);
    }

    /// The set is to be made anew.
    fn drop_set(&mut self) {
        if let (Some(event_fd), Some(poller)) = (&self.event_fd, self.registry.poller()) {
            // A forked child may have the set, too, so that it would not leave by itself.
            event_fd.leave(poller);
        }
        self.registry.drop_set();
    }

    fn build(&mut self, section: &Section) -> Result<(), Error> {
        if self.registry.poller_mut().is_none() {
            self.registry.build(section, self.pause.is_on())?;
            self.follow_set();
        }
        Ok(())
    }

    /// The set is new.
    fn follow_set(&self) {
        if let (Some(event_fd), Some(poller)) = (&self.event_fd, self.registry.poller())
            && event_fd.is_intact()
        {
            let _ = event_fd.follow(poller);
        }
    }

    fn sync<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        self.forget_lost_set();
        self.registry.sync(section, list)?;
        (self.seen, self.is_unchecked) = (list.shape(), true);
        Ok(())
    }

    /// Looks through a part of the list for what the program has changed without changing the array or its size: entries
    /// replaced, descriptors closed, their numbers in use again.
    fn scan_part<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        let (_, size) = list.shape();
        let part = self.scan.part(size);
        if part.start == 0 {
            if self.seen != list.shape() || self.registry.members.differs(list, 0..size) {
                self.sync(section, list)?;
            }
            self.registry.register_listener(section, self.pause.is_on())?;
        }
        self.check(section, part)
    }

    /// The same for the whole list at once.
    fn check_all<L: List>(&mut self, section: &Section, list: &L) -> Result<(), Error> {
        let (_, size) = list.shape();
        self.scan.finish();
        let listener = self.registry.register_listener(section, self.pause.is_on());
        self.check(section, 0..size)?;
        // What is no service any more fails this call, and does not keep the next ones from the connections.
        self.is_unchecked = false;
        listener
    }

    fn check(&mut self, section: &Section, mut places: std::ops::Range<usize>) -> Result<(), Error> {
        places.try_for_each(|index| match self.registry.members.at(index) {
            Some(slot) => self.registry.check(section, slot),
            None => Ok(()),
        })
    }

    /// Whether anything can happen at all.
    fn can_happen(&self) -> bool {
        let members = &self.registry.members;
        let lives =
            |member: &Member| member.is_registered() || member.state == State::Closed && member.has(REPORTED);
        members.listener().is_some() || members.slots().any(|(_, member)| lives(member))
    }

    /// Has the clock tick when there is something to look after. Without a clock it returns how long a wait may take.
    fn tick(&mut self) -> Option<u32> {
        let mut pause = if self.is_stalled { PART_PAUSE } else { self.scan.pause() };
        if self.pause.is_on() {
            pause = pause.min(accept::PAUSE);
        }
        self.registry.poller_mut().and_then(|poller| poller.tick_in(pause))
    }

    /// Nothing is there: what to wait for.
    fn wait_for(&mut self, is_idle: bool) -> Result<WaitFor, Error> {
        let looks = self.registry.members.count() / BATCH + 1;
        let limit = self.tick();
        let poller = self.registry.poller_mut().ok_or(failed(Errno::EBADF))?;
        let (set, clock) = (poller.fd(), poller.clock());
        let mut fds = self.few_members().unwrap_or(Few { fds: [set; FEW], count: 1 });
        clock.into_iter().for_each(|clock| _ = fds.push(clock));
        self.is_waiting = true;
        Ok(WaitFor { fds, clock, limit, is_idle, looks })
    }

    /// The members, if they are few: to wait for them takes half of the time that it takes to wait for the
    /// set. Only those that poll(2) reports as the set does: a connection that can be read, or a service.
    fn few_members(&self) -> Option<Few> {
        let members = &self.registry.members;
        // With the service and the clock.
        if members.count() + 2 > FEW || self.pause.is_on() {
            return None;
        }
        let mut fds = Few::NONE;
        let listener = members.listener().into_iter();
        for member in members.slots().map(|(_, member)| member).chain(listener) {
            let is_plain = member.state == State::Open
                && matches!(member.kind, Kind::Connection | Kind::Listener)
                && !member.has(SENDING);
            if !is_plain {
                return None;
            }
            fds.push(member.fd);
        }
        Some(fds)
    }

    /// The wait has ended, and no step follows.
    pub fn stop_waiting(&mut self) {
        self.is_waiting = false;
    }

    /// Gives turns to those who are ready until one has something to report; none when nobody is left.
    fn serve<L: List>(&mut self, section: &Section, list: &mut L) -> Result<Option<Step<L::Origin>>, Error> {
        self.build(section)?;
        loop {
            if self.registry.turns.has_ends() {
                if self.is_batch {
                    // Its number would be free for another one before the program has seen what came before it.
                    return Ok(None);
                }
                if let Some(step) = self.report_end(section, list)? {
                    return Ok(Some(step));
                }
                continue;
            }
            if self.registry.turns.is_empty() {
                return Ok(None);
            }
            if self.registry.turns.is_over() {
                self.ask_the_kernel(section, list)?;
            }
            let Some(token) = self.registry.turns.pop() else { continue };
            if let Some(step) = self.turn(section, list, token)? {
                return Ok(Some(step));
            }
        }
    }

    /// Where the member stands in the list, after all that the program has changed; none if it is there no more.
    fn locate<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        token: Token,
    ) -> Result<Option<(Member, L::Origin)>, Error> {
        let Some(member) = self.registry.members.find(token).copied() else { return Ok(None) };
        if !list.entry(member.index()).is_some_and(|entry| member.is(entry)) {
            // Once for all that it has changed.
            self.sync(section, list)?;
        }
        let Some(member) = self.registry.members.find(token).copied() else { return Ok(None) };
        Ok(list.origin(member.index()).map(|origin| (member, origin)))
    }

    /// One member's turn.
    fn turn<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
        token: Token,
    ) -> Result<Option<Step<L::Origin>>, Error> {
        let slot = token.slot;
        if self.registry.members.find(token).is_none() {
            return Ok(None);
        }
        let Some(member) = self.registry.members.get_mut(slot) else { return Ok(None) };
        member.take(QUEUED);
        let (is_readable, is_writable) = (member.take(READABLE), member.take(WRITABLE));
        let is_writable = is_writable && member.has(SENDING);
        if slot == LISTENER {
            return Ok(self.accept(section));
        }
        let located = self.locate(section, list, token);
        // Without memory, or a watch for a new entry: the next call goes on.
        let located = located.inspect_err(|_| self.registry.make_ready(slot, READABLE | WRITABLE))?;
        let Some((member, origin)) = located else { return Ok(None) };
        let happened = |what| Ok(Some(Step::Event(Event { origin, what })));
        match member.state {
            State::Accepted => {
                self.set_state(slot, State::Open);
                if is_readable {
                    // Its first message may be there already, and epoll has reported it.
                    self.registry.make_ready(slot, READABLE);
                }
                return happened(What::Connection);
            }
            State::Open | State::Draining => {}
            State::Waiting | State::Broken | State::AtEof | State::Closed | State::Vacant => return Ok(None),
        }
        if !is_readable && !is_writable {
            return Ok(None);
        }
        if !member.has(VERIFIED) && !self.verify(section, slot)? {
            self.registry.mark_closed(section, slot);
            return Ok(None);
        }
        self.note_verified(slot);
        if is_writable {
            self.send_queued(section, slot, member.fd);
        }
        if member.state == State::Draining {
            if !is_owed(section, member.fd) {
                self.registry.turns.push_end(token);
            }
            return Ok(None);
        }
        match member.kind {
            _ if !is_readable => Ok(None),
            Kind::Watched => match self.show_ready(section, slot, member.fd)? {
                true => happened(What::Ready),
                false => Ok(None),
            },
            Kind::Extra | Kind::Listener => Ok(Some(Step::Read(token, member.fd, member.has(ALWAYS_READY)))),
            Kind::Connection => match self.receive(section, token, member.fd)? {
                Some(what) => happened(what),
                None => Ok(None),
            },
        }
    }

    /// Whether the member's number still is the file that was registered. If it is not in the set, that may be another file
    /// by now: the program has closed it.
    fn verify(&mut self, section: &Section, slot: u32) -> Result<bool, Error> {
        if self.registry.verify(section, slot) {
            return Ok(true);
        }
        if self.registry.poller().is_some() {
            return Ok(false);
        }
        self.forget_lost_set();
        self.build(section)?;
        Ok(self.registry.verify(section, slot))
    }

    fn note_verified(&mut self, slot: u32) {
        if self.verified.try_reserve(1).is_ok()
            && let Some(member) = self.registry.members.get_mut(slot).filter(|member| !member.has(VERIFIED))
        {
            member.set(VERIFIED, true);
            self.verified.push(slot);
        }
    }

    fn forget_verified(&mut self) {
        for slot in self.verified.drain(..) {
            self.registry.members.get_mut(slot).into_iter().for_each(|member| member.set(VERIFIED, false));
        }
    }

    fn set_state(&mut self, slot: u32, state: State) {
        self.registry.members.get_mut(slot).into_iter().for_each(|member| member.state = state);
    }

    /// Receives a frame of the connection, or what else its peer has done.
    fn receive(&mut self, section: &Section, token: Token, fd: RawFd) -> Result<Option<What>, Error> {
        let slot = token.slot;
        let (received, has_more) =
            self.receiver.receive(section, fd).inspect_err(|_| self.registry.make_ready(slot, READABLE))?;
        if has_more {
            self.registry.make_ready(slot, READABLE);
        }
        match received {
            Received::Message(frame) => return Ok(Some(What::Message(frame))),
            Received::Nothing => {}
            Received::End => {
                send::flush(section, fd);
                if is_owed(section, fd) {
                    // It may still read.
                    self.set_state(slot, State::Draining);
                    self.registry.watch_output(slot, true);
                } else {
                    self.registry.turns.push_end(token);
                    self.set_state(slot, State::Draining);
                }
            }
            Received::Broken => {
                self.set_state(slot, State::Broken);
                self.registry.turns.push_end(token);
                return Ok(Some(What::Error));
            }
            Received::Closed => self.registry.mark_closed(section, slot),
        }
        Ok(None)
    }

    /// Whether a watched descriptor is to be reported: once in a call, if it still is readable. The program may have
    /// read it meanwhile, and would wait. Epoll reports it again as long as it is.
    fn show_ready(&mut self, section: &Section, slot: u32, fd: RawFd) -> Result<bool, Error> {
        if self.shown.contains(&fd) || self.shown.try_reserve(1).is_err() {
            return Ok(false);
        }
        match extra::is_ready(fd) {
            Ok(true) => {
                self.shown.push(fd);
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(Errno::EBADF) => {
                self.registry.mark_closed(section, slot);
                Ok(false)
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// What the read of an extra descriptor has come to.
    fn finish_read<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        token: Token,
        read: Read,
    ) -> Result<Option<Event<L::Origin>>, Error> {
        let slot = token.slot;
        let is_end = matches!(read, Read::End);
        let bytes = match read {
            Read::Nothing => return Ok(None),
            Read::Bytes(bytes) => {
                // Epoll reports only what is new: this may not have been all.
                self.registry.make_ready(slot, READABLE);
                bytes
            }
            Read::End | Read::Unreadable => Block::default(),
            Read::Again(errno) => {
                self.registry.make_ready(slot, READABLE);
                return match errno {
                    Some(Errno::ENOMEM) => Err(OutOfMemory.into()),
                    Some(errno) => Err(failed(errno)),
                    None => Ok(None),
                };
            }
            Read::Closed => {
                self.registry.mark_closed(section, slot);
                return Ok(None);
            }
        };
        let located = self.locate(section, list, token)?;
        if is_end {
            self.registry.finish_extra(section, slot);
        }
        let what = What::Extra(Frame::new(TYPE_DATA, bytes));
        Ok(located.map(|(_, origin)| Event { origin, what }))
    }

    /// The end of the next connection that has one. What is sent to it is sent; then it is closed, unless the program has
    /// done so.
    fn report_end<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
    ) -> Result<Option<Step<L::Origin>>, Error> {
        let Some(token) = self.registry.turns.pop_end() else { return Ok(None) };
        let located = self.locate(section, list, token);
        let located = located.inspect_err(|_| self.registry.turns.push_end(token))?;
        let Some((member, origin)) = located else { return Ok(None) };
        if !matches!(member.state, State::Broken | State::Draining | State::Closed) {
            return Ok(None);
        }
        // What is no socket is not closed, either.
        let is_it = member.state != State::Closed
            && self.verify(section, token.slot)?
            && Cookie::of(member.fd).is_ok();
        if is_it {
            send::flush(section, member.fd);
        }
        list.remove(member.index());
        if let Some(member) = self.registry.members.swap_remove(member.index()) {
            self.registry.unregister(section, token.slot, &member);
        }
        self.resume_accepting(section);
        if is_it {
            let memory = table::note_closing(section, member.fd);
            self.registry.discard(memory);
            self.is_holding = true;
            return Ok(Some(Step::End(member.fd, origin)));
        }
        Ok(Some(Step::Event(Event { origin, what: What::Disconnection })))
    }

    /// The connection whose end is reported was closed; its number is held until the program calls again.
    pub fn hold(&mut self, held: Option<KeptFd>) {
        self.held = held;
    }

    /// Asks for a client, if there is memory for one: else it waits in the kernel's queue.
    fn accept<O>(&mut self, section: &Section) -> Option<Step<O>> {
        let fd = self.registry.members.listener()?.fd;
        if self.pause.is_on() {
            return None;
        }
        let has_room = self.registry.make_room().and_then(|()| table::make_room(section, fd));
        let settings = table::lock_known(section, fd).settings();
        match has_room.and_then(|()| Prepared::new(settings)) {
            Ok(prepared) => Some(Step::Accept(fd, prepared)),
            Err(_) => {
                self.pause_accepting(section);
                None
            }
        }
    }

    /// The array is another one since it was made larger for a client.
    fn note_shape(&mut self, [before, after]: [(usize, usize); 2]) {
        if self.seen == before {
            self.seen = after;
        }
    }

    fn not_accepted(&mut self, section: &Section, errno: Errno) -> Option<Error> {
        match Refused::from(errno) {
            Refused::Nobody => None,
            Refused::NoService => Some(failed(errno)),
            Refused::Later => {
                self.pause_accepting(section);
                None
            }
        }
    }

    /// Takes a client in, and reports it.
    fn accepted<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
        client: L::Client,
        fd: RawFd,
        prepared: Prepared,
    ) -> Option<Step<L::Origin>> {
        let has_room = table::give_out(section, fd, prepared).is_ok() && self.registry.make_room().is_ok();
        if !has_room {
            self.pause_accepting(section);
            return Some(Step::Drop(fd, None));
        }
        if self.seen != list.shape() {
            // Somebody has changed it while this call was not looking: it is found with the rest.
            let _ = self.sync(section, list);
        }
        let Some(index) = list.push(client, fd) else {
            // A signal handler has freed it.
            return Some(Step::Drop(fd, Some(failed(Errno::EINTR))));
        };
        let addr = list.entry(index).map_or(0, |entry| entry.addr);
        let entry = Entry { fd, addr, kind: Kind::Connection };
        let slot = self.registry.members.push(entry, index, State::Accepted);
        self.registry.members.get_mut(slot).into_iter().for_each(|member| member.set(REPORTED, true));
        self.seen = list.shape();
        if self.registry.register(section, slot).is_err() {
            list.take_back(index);
            if let Some(member) = self.registry.members.swap_remove(index) {
                self.registry.unregister(section, slot, &member);
            }
            self.seen = list.shape();
            self.pause_accepting(section);
            return Some(Step::Drop(fd, None));
        }
        if self.registry.turns.has_ends() {
            // That of the connection which had the number goes before.
            return None;
        }
        let member = self.registry.members.get_mut(slot)?;
        member.state = State::Open;
        // Epoll reports what it has sent.
        member.take(READABLE | WRITABLE);
        let origin = list.origin(index)?;
        Some(Step::Event(Event { origin, what: What::Connection }))
    }

    /// Descriptors or memory have run out.
    fn pause_accepting(&mut self, section: &Section) {
        if self.pause.set(true) {
            // Should it fail, the next pass through the list tries again.
            let _ = self.registry.register_listener(section, true);
        }
    }

    /// A descriptor has come free.
    fn resume_accepting(&mut self, section: &Section) {
        if self.pause.set(false) {
            let _ = self.registry.register_listener(section, false);
        }
    }

    /// Sends what is queued for the member.
    fn send_queued(&mut self, section: &Section, slot: u32, fd: RawFd) {
        let flushed = send::flush(section, fd);
        if flushed != Flushed::Full {
            self.registry.watch_output(slot, false);
        }
        // Epoll would report again and again that there is room.
        self.is_stalled |= flushed == Flushed::Later;
    }

    /// Has another try at what could not be sent for want of something that nothing reports.
    fn retry_output(&mut self, section: &Section) {
        if std::mem::take(&mut self.is_stalled) {
            let mut stalled = Vec::new();
            for (slot, member) in self.registry.members.slots() {
                if !member.has(SENDING) && member.is_registered() && send::is_queued(section, member.fd) {
                    if stalled.try_reserve(1).is_err() {
                        self.is_stalled = true;
                        break;
                    }
                    stalled.push(slot);
                }
            }
            stalled.into_iter().for_each(|slot| self.registry.watch_output(slot, true));
        }
    }

    /// The program has added the entry at this index. `before` is the list's shape before that.
    pub fn added<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        before: (usize, usize),
        index: usize,
        is_watched: bool,
    ) -> Result<(), Error> {
        let Some(entry) = list.entry(index) else { return Ok(()) };
        if self.seen == before {
            self.registry.make_room()?;
            self.registry.members.push(entry, index, State::Waiting);
        } else {
            // A structure that was there before at this address is another one.
            self.registry.members.forget_address(entry.addr);
            self.sync(section, list)?;
        }
        self.seen = list.shape();
        let Some(slot) = self.registry.members.at(index) else { return Ok(()) };
        let result = self.register_added(section, slot, entry, is_watched);
        if result.is_err() {
            if let Some(member) = self.registry.members.swap_remove(index) {
                self.registry.unregister(section, slot, &member);
            }
            self.seen = before;
        }
        if self.is_waiting {
            self.registry.poller().into_iter().for_each(|poller| poller.wake());
        }
        result
    }

    fn register_added(
        &mut self,
        section: &Section,
        slot: u32,
        entry: Entry,
        is_watched: bool,
    ) -> Result<(), Error> {
        if is_watched {
            self.registry.members.rebind(slot, Entry { kind: Kind::Watched, ..entry }, State::Waiting);
            // It is refused now if epoll cannot watch it.
            self.forget_lost_set();
            self.build(section)?;
        }
        let state = |event_loop: &Self| event_loop.registry.members.get(slot).map(|member| member.state);
        if state(self) == Some(State::Waiting) {
            self.forget_lost_set();
            self.registry.register(section, slot)?;
        }
        if is_watched && state(self) == Some(State::Closed) {
            return Err(failed(Errno::EPERM));
        }
        Ok(())
    }

    /// The program has taken the entry with this structure out of its list, at this index.
    pub fn removed<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        before: (usize, usize),
        addr: usize,
        index: usize,
    ) {
        let members = &self.registry.members;
        let slot =
            members.at(index).filter(|slot| members.get(*slot).is_some_and(|member| member.addr == addr));
        if let (Some(slot), true) = (slot, self.seen == before) {
            if let Some(member) = self.registry.members.swap_remove(index) {
                self.registry.unregister(section, slot, &member);
            }
            self.seen = list.shape();
        } else {
            // The program has changed more than that.
            let _ = self.sync(section, list);
        }
    }

    /// The list is no more.
    pub fn leave(&mut self, section: &Section) {
        let mut fds = Vec::new();
        let members = self.registry.members.slots().filter(|(_, member)| member.kind == Kind::Connection);
        for (_, member) in members {
            if fds.try_reserve(1).is_ok() {
                fds.push(member.fd);
            }
        }
        let key = self.registry.key();
        fds.into_iter().for_each(|fd| table::note_unlisted(section, fd, key));
        self.wake();
    }

    /// The slot of the member that holds this number.
    pub fn slot_of(&self, fd: RawFd) -> Option<u32> {
        self.registry.members.holder(fd)
    }

    /// A member's descriptor is about to be closed by the library, at the program's word.
    pub fn closing(&mut self, section: &Section, slot: u32) {
        self.registry.mark_closed(section, slot);
        self.resume_accepting(section);
        self.wake();
    }

    /// There is something in memory for the member's turn.
    pub fn note_ready(&mut self, slot: u32, why: u8) {
        if why == WRITABLE {
            self.registry.members.get_mut(slot).into_iter().for_each(|member| member.set(SENDING, true));
        }
        self.registry.make_ready(slot, why);
        self.wake();
    }

    /// Bytes are queued for the member.
    pub fn watch_output(&mut self, slot: u32) {
        self.registry.watch_output(slot, true);
        self.wake();
    }

    /// Another thread may wait for the set.
    fn wake(&self) {
        if self.is_waiting {
            self.registry.poller().into_iter().for_each(|poller| poller.wake());
        }
    }

    /// The descriptor for other event loops, made if there is none of this process yet.
    pub fn make_event_fd<L: List>(
        &mut self,
        section: &Section,
        list: &L,
        listener: Option<RawFd>,
    ) -> Result<RawFd, Error> {
        self.forget_lost_set();
        self.begin(section, list, listener, true, 1)?;
        self.build(section)?;
        if self.event_fd.as_ref().is_none_or(|event_fd| !event_fd.is_intact()) {
            let event_fd = EventFd::new().map_err(failed)?;
            if let Some(poller) = self.registry.poller() {
                event_fd.follow(poller).map_err(failed)?;
            }
            self.event_fd = Some(event_fd);
        }
        self.show();
        self.event_fd.as_ref().map(EventFd::fd).ok_or(failed(Errno::EBADF))
    }
}

/// Whether anything is yet to be sent to the connection: queued, or being written by a thread.
fn is_owed(section: &Section, fd: RawFd) -> bool {
    table::lock(section, fd).get().is_some_and(|connection| connection.is_owed())
}
