//! The event loop of one list.
//!
//! [`EventLoop::step`] drives the loop. Each step runs under the loop's lock, and returns an event, or
//! something that the caller has to do without the lock before the next step, or what to wait for. A call of
//! the program begins with [`Input::Begin`]; further events of the same call are asked for by
//! [`Input::More`].

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::send;
use crate::connection::table::Memory;
use crate::connection::user_data::UserData;
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::accept;
use crate::event_loop::allowance::Allowance;
use crate::event_loop::list::{Kind, List};
use crate::event_loop::members::{LISTENER, Member, READABLE, REPORTED, Reason, SENDING, State};
use crate::event_loop::receive::Receiver;
use crate::event_loop::registry::{Collected, Parting, Registry, failed};
use crate::event_loop::scan::PART_PAUSE;
use crate::event_loop::step::{FdArray, Input, Step, WaitFor};
use crate::event_loop::turns::BATCH;
use crate::event_loop::upkeep::Upkeep;
use crate::kernel::internal_fds::KeptFd;
use crate::kernel::notices::Signals;
use crate::kernel::threads;
use crate::kernel::wait::FEW;
use crate::process::entry_guard::EntryGuard;
use crate::process::sync::{AtomicUsize, Ordering};
use crate::service::endpoint;

mod accepting;
mod edits;
mod quick;
mod turn;

pub use self::quick::Served;

/// The event loop of one list. All of it is accessed under the lock of the loop's part (`loops.rs`).
pub struct EventLoop {
    registry: Registry,
    upkeep: Upkeep,
    receiver: Receiver,
    /// Which signals the member of kind `Signals` reads.
    signals: Signals,
    /// The connection whose end was reported last, until the next call of the program.
    ended: Option<Ended>,
    /// The slots of members with the flag VERIFIED: a call that reports many events verifies each member
    /// once.
    verified: Vec<u32>,
    /// The watched descriptors that this call has reported.
    reported_watched: Vec<RawFd>,
    /// Whether this call has reported an event already, and asks for more.
    is_batch: bool,
    /// Whether a thread waits for this loop.
    is_waiting: bool,
    /// How long writers may wait for the loop's members.
    pub allowance: Allowance,
    /// Whether bytes could not be sent for lack of memory, whose end the kernel does not report:
    /// `retry_output` tries again. Written by `send_queued` and `retry_output`.
    is_stalled: bool,
    /// Whether the program runs only within the waits of this call, and has not run in the last one: there is
    /// no other thread, signals are blocked between waits, and no handler has ended the last one. Written by
    /// `reset_call` and `note_blocked`.
    is_undisturbed: bool,
}

/// What is kept of a connection whose end was reported.
pub struct Ended {
    addr: usize,
    fd: RawFd,
    /// Why the connection has ended.
    pub reason: Reason,
    /// The program's pointer.
    pub data: Option<UserData>,
    /// Keeps the number in use until the program calls again.
    held: Option<KeptFd>,
}

/// How many `Ended` exist.
static ENDED: AtomicUsize = AtomicUsize::new(0);

impl Ended {
    fn new(Member { addr, fd, reason, .. }: Member, Parting { held, data }: Parting) -> Self {
        ENDED.fetch_add(1, Ordering::Relaxed);
        Self { addr, fd, reason, data, held }
    }

    /// Whether any list keeps an ended connection.
    pub fn is_any() -> bool {
        ENDED.load(Ordering::Relaxed) > 0
    }

    /// Whether this is the connection of the structure at this address, or of a copy of the structure.
    pub fn is(&self, addr: usize, fd: RawFd) -> bool {
        // While the number is held, no other connection has it.
        self.fd == fd && (self.addr == addr || self.held.is_some())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        ENDED.fetch_sub(1, Ordering::Relaxed);
    }
}

fn no_member() -> Error {
    Error::argument(Code::IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM)
}

impl EventLoop {
    /// A loop for the list at this address.
    pub fn new(list: usize) -> Self {
        Self {
            registry: Registry::new(list),
            upkeep: Upkeep::default(),
            receiver: Receiver::default(),
            signals: Signals::default(),
            ended: None,
            verified: Vec::new(),
            reported_watched: Vec::new(),
            is_batch: false,
            is_waiting: false,
            allowance: Allowance::default(),
            is_stalled: false,
            is_undisturbed: false,
        }
    }

    /// Whether the loop may be removed.
    pub fn is_unused(&self) -> bool {
        // Another thread may wait for the set, whose number must not become another file's meanwhile.
        self.registry.members.is_empty()
            && !self.registry.has_event_fd()
            && !self.is_waiting
            && self.ended.is_none()
    }

    /// Drops the set, if there is nothing to watch.
    pub fn shrink(&mut self) {
        if self.registry.members.is_empty() && !self.registry.has_event_fd() && !self.is_waiting {
            self.registry.drop_set();
        }
    }

    /// The memory of closed connections, to be dropped when no lock is held.
    pub fn take_discarded(&mut self) -> Vec<Memory> {
        std::mem::take(&mut self.registry.discarded)
    }

    /// Makes the event descriptor show whether something is left to report.
    pub fn update_event_fd(&mut self, guard: &EntryGuard) {
        self.registry.update_event_fd(guard);
    }

    /// Makes a step.
    pub fn step<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &mut L,
        input: Input<L::Client>,
    ) -> Result<Step<L::Origin>, Error> {
        let mut is_idle = false;
        let step = match input {
            Input::Begin(listener, may_wait, max_events) => {
                self.begin(guard, list, listener, may_wait, max_events)?;
                None
            }
            Input::Woken(ready, is_blocked) => {
                self.note_blocked(is_blocked);
                is_idle = self.wake_up(guard, list, ready)?;
                None
            }
            Input::Blocked => {
                self.note_blocked_signals();
                None
            }
            Input::More => {
                self.is_batch = true;
                None
            }
            Input::Accepted(client, fd, prepared, shapes) => {
                self.note_shape(shapes);
                self.add_client(guard, list, client, fd, prepared)
            }
            Input::NotAccepted(errno, shapes) => {
                self.note_shape(shapes);
                self.note_not_accepted(guard, errno).map_or(Ok(None), Err)?
            }
            Input::Read(token, read) => {
                self.registry.drop_lost_set();
                self.finish_read(guard, list, token, read)?.map(Step::Event)
            }
        };
        let step = match step {
            Some(step) => Some(step),
            None => self.serve(guard, list)?,
        };
        if let Some(step) = step {
            if let Step::Event(_) | Step::End { .. } = step {
                self.upkeep.seen = list.shape();
            }
            return Ok(step);
        }
        if self.is_batch {
            return Ok(Step::Nothing);
        }
        if !self.can_happen() {
            // Before the error that no event can happen: the whole list is checked as it is now.
            self.upkeep.sync(guard, &mut self.registry, list)?;
            self.upkeep.check_all(guard, &mut self.registry, list)?;
            if let Some(step) = self.serve(guard, list)? {
                return Ok(step);
            }
            if !self.can_happen() {
                return Err(no_member());
            }
        }
        self.wait_for(list, is_idle).map(Step::Wait)
    }

    /// A call of the program begins: looks for changes that the program has made since the last call.
    fn begin<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        listener: Option<RawFd>,
        may_wait: bool,
        max_events: usize,
    ) -> Result<(), Error> {
        self.ended = None;
        let seems_unchanged = self.begin_call(list, listener, may_wait, max_events);
        if seems_unchanged && self.registry.intact_poller().is_some() {
            return Ok(());
        }
        let services = endpoint::opened();
        self.registry.drop_lost_set();
        let is_other = self.registry.set_listener(guard, listener)?;
        if self.upkeep.seen != list.shape() || is_other {
            // An entry may have the number of this service, or of the former one.
            self.upkeep.sync(guard, &mut self.registry, list)?;
        }
        self.registry.build(guard)?;
        if is_other || self.upkeep.services != services {
            self.registry.register_listener(guard)?;
            self.upkeep.services = services;
        }
        if self.upkeep.is_unchecked {
            self.upkeep.check_all(guard, &mut self.registry, list)
        } else if self.upkeep.scan.is_overdue() {
            self.upkeep.scan_part(guard, &mut self.registry, list)
        } else {
            Ok(())
        }
    }

    /// [`EventLoop::reset_call`]. Returns whether nothing is left to report, and the list seems unchanged.
    fn begin_call<L: List>(
        &mut self,
        list: &L,
        listener: Option<RawFd>,
        may_wait: bool,
        max_events: usize,
    ) -> bool {
        self.reset_call(may_wait, max_events);
        let turns = &self.registry.turns;
        self.seems_unchanged(list, listener)
            && turns.is_empty()
            && !turns.has_ends()
            && !self.upkeep.scan.is_overdue()
    }

    /// Resets what belongs to one call.
    fn reset_call(&mut self, may_wait: bool, max_events: usize) {
        (self.is_batch, self.is_waiting, self.is_undisturbed) = (false, false, false);
        self.reported_watched.clear();
        self.clear_verified();
        self.registry.turns.begin(max_events);
        self.upkeep.scan.begin(may_wait);
    }

    /// Signals were blocked just now, before another wait: from here on the program runs nothing except during
    /// waits.
    pub fn note_blocked_signals(&mut self) {
        self.note_blocked(true);
        self.clear_verified();
    }

    /// Notes whether signals are blocked except during waits, and no handler has ended the last one.
    fn note_blocked(&mut self, is_blocked: bool) {
        self.is_undisturbed = is_blocked && threads::is_single_threaded();
    }

    /// Whether array, size and service are those of the last check. Changes within the array are not seen
    /// here.
    fn seems_unchanged<L: List>(&self, list: &L, listener: Option<RawFd>) -> bool {
        self.upkeep.seen == list.shape()
            && !self.upkeep.is_unchecked
            && self.registry.has_listener(listener)
            && self.upkeep.services == endpoint::opened()
    }

    /// A wait has ended. Queues the members that it has found ready; if it has found the set, the clock or
    /// nothing, or if the tick is due, asks the kernel. Returns whether the kernel had nothing to report.
    fn wake_up<L: List>(&mut self, guard: &EntryGuard, list: &L, ready: FdArray) -> Result<bool, Error> {
        self.is_waiting = false;
        let ready = ready.as_slice();
        if !self.is_undisturbed || ready.is_empty() {
            self.clear_verified();
        }
        // Before any member is verified by the set.
        self.registry.drop_lost_set();
        let poller = self.registry.poller_mut();
        let (set, clock) = poller.as_ref().map_or((-1, None), |poller| (poller.fd(), poller.clock()));
        let (has_set, has_clock) = (ready.contains(&set), clock.is_some_and(|clock| ready.contains(&clock)));
        let is_late = poller.is_none_or(|poller| poller.is_tick_due());
        if !ready.is_empty() && !has_set && !has_clock && !is_late {
            for fd in ready {
                self.slot_of(*fd).into_iter().for_each(|slot| self.registry.make_ready(slot, READABLE));
            }
            self.registry.turns.begin_round();
            return Ok(false);
        }
        if (has_clock || ready.is_empty()) && !self.registry.has_clock() {
            // The program has closed the clock, but not the set.
            self.registry.drop_set();
        }
        self.ask_the_kernel(guard, list)
    }

    /// Asks the kernel which members are ready, and does the periodic work if it is due. Returns whether the
    /// kernel had nothing to report.
    fn ask_the_kernel<L: List>(&mut self, guard: &EntryGuard, list: &L) -> Result<bool, Error> {
        if self.is_batch {
            // The first event of the call may have been reported without the set.
            self.registry.drop_lost_set();
        }
        self.registry.build(guard)?;
        let collected = self.collect()?;
        if collected.is_stale {
            self.registry.rebuild(guard)?;
        }
        if collected.has_ticked {
            self.do_periodic_work(guard, list)?;
        }
        Ok(!collected.is_something)
    }

    /// Asks the kernel, and queues the members that are ready: a round begins.
    #[inline]
    fn collect(&mut self) -> Result<Collected, Error> {
        let mut room = [const { MaybeUninit::uninit() }; BATCH];
        // The tick is scheduled here, too: a program that always finds events never waits, and its list must
        // still be checked.
        let has_ticked = self.tick() == 0;
        match self.registry.poller_unchecked().map(|poller| poller.ready(&mut room)) {
            Some(Ok(reports)) => Ok(self.registry.collect(reports, has_ticked)),
            Some(Err(errno)) => Err(failed(errno)),
            None => Ok(Collected::default()),
        }
    }

    /// The periodic work.
    fn do_periodic_work<L: List>(&mut self, guard: &EntryGuard, list: &L) -> Result<(), Error> {
        if self.registry.pause.is_over() {
            self.resume_accepting(guard);
        }
        self.retry_output(guard);
        if self.upkeep.scan.is_due() {
            self.upkeep.scan_part(guard, &mut self.registry, list)
        } else {
            Ok(())
        }
    }

    /// Whether any event can ever happen.
    fn can_happen(&self) -> bool {
        let members = &self.registry.members;
        let lives =
            |member: &Member| member.is_registered() || member.state == State::Closed && member.has(REPORTED);
        members.listener().is_some() || members.slots().any(|(_, member)| lives(member))
    }

    /// Schedules the tick for the next periodic work; returns in how many milliseconds it is due. The clock
    /// itself is set only for an event descriptor.
    fn tick(&mut self) -> u32 {
        let mut pause = if self.is_stalled { PART_PAUSE } else { self.upkeep.scan.pause() };
        if self.registry.pause.is_on() {
            pause = pause.min(accept::PAUSE);
        }
        let for_others = self.registry.has_event_fd();
        self.registry.poller_mut().map_or(pause, |poller| poller.tick_in(pause, for_others))
    }

    /// What to wait for, when no event is there.
    fn wait_for<L: List>(&mut self, list: &L, is_idle: bool) -> Result<WaitFor, Error> {
        self.wait_on(list, is_idle).ok_or(failed(Errno::EBADF))
    }

    /// What to wait for: the members, if they are few, or else the set; also the clock, by which other
    /// threads wake this one, if there are other threads; and a timeout until the next periodic work. No
    /// timeout is needed if the members themselves are polled, all verified, and there is no other thread
    /// that could change them: a signal handler ends the wait.
    fn wait_on<L: List>(&mut self, list: &L, is_idle: bool) -> Option<WaitFor> {
        let mut fds = FdArray::NONE;
        if self.members_alone(list, |fd| _ = fds.push(fd)) {
            let asks_needed = self.asks_needed();
            return Some(WaitFor { fds, clock: None, timeout: None, is_idle, asks_needed });
        }
        self.wait_with_timeout(is_idle)
    }

    fn asks_needed(&self) -> usize {
        self.registry.members.count() / BATCH + 1
    }

    /// [`EventLoop::wait_on`] if more than the members has to be waited for.
    pub fn wait_with_timeout(&mut self, is_idle: bool) -> Option<WaitFor> {
        let asks_needed = self.asks_needed();
        self.is_waiting = true;
        let poller = self.registry.poller_unchecked()?;
        let mut fds = self.few_members().unwrap_or(FdArray::one(poller.fd()));
        let clock = poller.clock().filter(|_| !threads::is_single_threaded());
        clock.into_iter().for_each(|clock| _ = fds.push(clock));
        // Not only what is left until the tick: for a short timeout the kernel sets its timer anew at each
        // wait.
        let timeout = self.tick().max(PART_PAUSE);
        Some(WaitFor { fds, clock, timeout: Some(timeout), is_idle, asks_needed })
    }

    /// Whether the members themselves are polled: waiting for a few members takes half the time of waiting
    /// for the set. The service, the clock and the set of background sending are polled along with them.
    fn has_few_members(&self) -> bool {
        let members = &self.registry.members;
        members.count() + 3 <= FEW && !members.is_empty() && !self.registry.pause.is_on()
    }

    /// The few members, if poll(2) reports each of them as the set does.
    fn few_members(&self) -> Option<FdArray> {
        if !self.has_few_members() {
            return None;
        }
        let mut fds = FdArray::NONE;
        let members = &self.registry.members;
        let mut all = members.slots().map(|(_, member)| member).chain(members.listener());
        all.all(|member| is_pollable(member) && fds.push(member.fd)).then_some(fds)
    }

    /// Calls `add` for each of the few members. Returns whether nothing but them need be waited for: there is
    /// no other thread, the mirror equals the list, and each number, also the service's, is its file's.
    #[inline(always)]
    fn members_alone<L: List>(&mut self, list: &L, add: impl FnMut(RawFd)) -> bool {
        let is_alone = !self.is_stalled && self.has_few_members() && threads::is_single_threaded();
        if !is_alone || self.add_registered(list, add).is_none() {
            return false;
        }
        if self.is_undisturbed {
            self.note_all_verified();
        }
        self.is_waiting = true;
        true
    }

    /// `None` if the mirror differs from the list, or a number is not its file's.
    #[inline(always)]
    fn add_registered<L: List>(&self, list: &L, mut add: impl FnMut(RawFd)) -> Option<()> {
        let members = &self.registry.members;
        let (_, size) = list.shape();
        if size != members.count() {
            return None;
        }
        for index in 0..size {
            let slot = members.at(index)?;
            let member = members.get(slot).filter(|member| is_pollable(member))?;
            if !member.is(list.entry(index)?) || !self.is_verified(slot, member) {
                return None;
            }
            add(member.fd);
        }
        if let Some(service) = members.listener() {
            if !is_pollable(service) || !self.is_verified(LISTENER, service) {
                return None;
            }
            add(service.fd);
        }
        Some(())
    }

    /// The wait has ended, and no step follows.
    pub fn stop_waiting(&mut self) {
        self.is_waiting = false;
    }

    /// Lets ready members take turns until one has something to report; `None` if no member is ready any
    /// more.
    fn serve<L: List>(&mut self, guard: &EntryGuard, list: &mut L) -> Result<Option<Step<L::Origin>>, Error> {
        self.registry.build(guard)?;
        loop {
            if self.registry.turns.has_ends() {
                if self.is_batch {
                    // Reporting an end frees the former ended connection's number, but events already in this
                    // batch may still name it.
                    return Ok(None);
                }
                if let Some(step) = self.report_end(guard, list)? {
                    return Ok(Some(step));
                }
                continue;
            }
            if self.registry.turns.is_empty() {
                return Ok(None);
            }
            if self.registry.turns.is_over() {
                self.ask_the_kernel(guard, list)?;
            }
            let Some(slot) = self.registry.turns.pop() else { continue };
            if let Some(step) = self.turn(guard, list, slot)? {
                return Ok(Some(step));
            }
        }
    }

    /// The connection whose end is reported was closed; `held` keeps its number in use until the program
    /// calls again.
    pub fn hold(&mut self, held: Option<KeptFd>) {
        if let Some(ended) = &mut self.ended {
            ended.held = held;
        }
    }

    /// The connection whose end was reported last, if the program has not called since.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// Has epoll report again, for each member whose bytes could not be sent for lack of memory, that it can
    /// send.
    fn retry_output(&mut self, guard: &EntryGuard) {
        if std::mem::take(&mut self.is_stalled) {
            let mut stalled = Vec::new();
            for (slot, member) in self.registry.members.slots() {
                if !member.has(SENDING) && member.is_registered() && send::is_queued(guard, member.fd) {
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
}

/// Whether poll(2) for input reports the member as the set does: a connection without queued bytes, or a
/// service.
fn is_pollable(member: &Member) -> bool {
    member.state == State::Open
        && matches!(member.kind, Kind::Connection | Kind::Listener)
        && !member.has(SENDING)
}
