//! Waiting for the events of a list.
//!
//! The list's loop says what to do without its lock (accept, read, close) and what to wait for. The wait is
//! poll(2) on the loop's epoll set or on few members: epoll_wait(2) would be ended by a stop and a continue
//! of the process.
//!
//! A wait without a deadline fails with EINTR if a signal handler has run since the call began. The first
//! wait of a call ends when a member is ready, when a handler has run, or when the loop has work of its own.
//! If there is nothing to report then, another wait follows, and from there on signals are blocked except
//! during waits, so that no handler is missed. (Work of the loop's own ends the wait by poll's timeout, not
//! by a readable descriptor: if a handler has run as well, poll(2) reports EINTR.)

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::calls::flow::Flow;
use crate::connection::stall::LOOK;
use crate::connection::{background, table};
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::list_loop::{EventLoop, Served};
use crate::event_loop::step::{FdArray, Input, Step, WaitFor};
use crate::event_loop::{Event, List, What, extra, loops};
use crate::kernel::deadline::Deadline;
use crate::kernel::wait::Wait;
use crate::kernel::{ancillary, fd, internal_fds, socket};
use crate::process::entry_guard::EntryGuard;

/// A wait for events, between its steps. Plain data.
#[derive(Clone, Copy)]
pub struct WaitEvent {
    listener: Option<RawFd>,
    deadline: Deadline,
    /// How many events the program asks for.
    max_events: usize,
    /// How often the kernel was asked without waiting.
    asks: usize,
    /// Descriptors in the wait for work of the library's own: the loop's clock, and the set of background
    /// sending.
    internal: [Option<RawFd>; 2],
}

impl WaitEvent {
    /// A wait until `deadline` for events of this service and of the list's connections. The program asks for
    /// `max_events` events: one by the steps, and the others by `more`.
    pub fn new(listener: Option<RawFd>, deadline: Deadline, max_events: usize) -> Self {
        Self { listener, deadline, max_events, asks: 0, internal: [None; 2] }
    }

    /// The fast path of the first step, for an unchanged list: the message of a member that is still queued, or
    /// `Part` and the wait for the members. In any other case returns `None`, and the step does its work.
    #[inline]
    pub fn begin_quickly<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        wait: &mut Wait,
    ) -> Option<Served<L::Origin>> {
        let left = self.deadline.left();
        if left == 0 {
            return None;
        }
        loops::with_loop_quickly(guard, list.key(), |event_loop| {
            let served = event_loop.begin_quickly(guard, list, self.listener)?;
            let is_done = matches!(served, Served::Message(..));
            (is_done || self.wait_quickly(guard, list, event_loop, wait, left)).then_some(served)
        })
    }

    /// The same for a further step: the message of the member that the wait has found ready, or the wait for
    /// the rest of the message.
    #[inline]
    pub fn go_on_quickly<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        wait: &mut Wait,
    ) -> Option<Served<L::Origin>> {
        let (ready, is_blocked) = (wait.only_ready()?, wait.has_blocked_signals());
        loops::with_loop_quickly(guard, list.key(), |event_loop| {
            let served = event_loop.serve_quickly(guard, list, ready, is_blocked)?;
            let is_done = matches!(served, Served::Message(..));
            (is_done || self.wait_again_quickly(guard, list, event_loop, wait)).then_some(served)
        })
    }

    /// Prepares the wait for the rest of a message. Apart, since most messages need no such wait.
    #[inline(never)]
    fn wait_again_quickly<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        event_loop: &mut EventLoop,
        wait: &mut Wait,
    ) -> bool {
        let left = self.deadline.left();
        if left < 0 && wait.block_signals() {
            event_loop.note_blocked_signals();
        }
        left != 0 && self.wait_quickly(guard, list, event_loop, wait, left)
    }

    /// Prepares a wait; returns false if the step has to.
    #[inline(always)]
    fn wait_quickly<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        event_loop: &mut EventLoop,
        wait: &mut Wait,
        left: i32,
    ) -> bool {
        self.internal = [None; 2];
        if event_loop.wait_quickly(list, wait, left) {
            return true;
        }
        let Some(next) = event_loop.wait_with_timeout(false) else { return false };
        self.wait_for_members(guard, wait, next, left);
        true
    }

    /// The next step. `wait` has the result of the last wait, if there was one, and gets the next one. `None`
    /// at the deadline.
    pub fn step<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &mut L,
        wait: &mut Wait,
    ) -> Result<Flow<Option<Event<L::Origin>>>, Error> {
        let mut input = if wait.is_first() {
            Input::Begin(self.listener, self.deadline.left() != 0, self.max_events)
        } else {
            self.woken(guard, list, wait)?
        };
        loop {
            match drive(guard, list, input)? {
                Driven::Event(event) => return Ok(Flow::Done(Some(event))),
                Driven::Nothing => return Ok(Flow::Done(None)),
                Driven::Wait(next) => {
                    let left = self.deadline.left();
                    if left < 0 && !wait.is_first() && wait.block_signals() {
                        input = Input::Blocked;
                        continue;
                    }
                    if left != 0 {
                        self.wait_for_members(guard, wait, next, left);
                        return Ok(Flow::Wait);
                    }
                    // One look handles a part of the ready members, and another look finds what follows half
                    // a message: repeated until all of them have been handled, or none is left.
                    if next.is_idle || self.asks > next.asks_needed {
                        loops::stop_waiting(guard, list.key());
                        return Ok(Flow::Done(None));
                    }
                    self.asks += 1;
                    input = Input::Woken(FdArray::NONE, false);
                }
            }
        }
    }

    /// A wait has ended: the input of the next step.
    fn woken<L: List>(
        &mut self,
        guard: &EntryGuard,
        list: &L,
        wait: &mut Wait,
    ) -> Result<Input<L::Client>, Error> {
        let is_endless = self.deadline.left() < 0;
        let is_blocked = wait.has_blocked_signals();
        match wait.result() {
            // With a deadline EINTR is not reported: a program that calls again after each signal would wait
            // without end.
            Err(Errno::EINTR) if !is_endless => {}
            Err(errno) => {
                loops::stop_waiting(guard, list.key());
                return Err(Error::new(Code::IPC_ERROR_WAIT_EVENT__SELECT, errno));
            }
            Ok(_) => {}
        }
        self.asks = 0;
        let mut ready = FdArray::NONE;
        wait.ready().for_each(|fd| _ = ready.push(fd));
        if is_endless && ready.as_slice().iter().all(|fd| self.internal.contains(&Some(*fd))) {
            // There is work of the library's own, and then another wait.
            wait.block_signals();
        }
        Ok(Input::Woken(ready, is_blocked))
    }

    fn wait_for_members(&mut self, guard: &EntryGuard, wait: &mut Wait, mut next: WaitFor, left: i32) {
        self.internal = [next.clock, None];
        let mut timeout = next.timeout;
        if let Some(set) = background::set(guard) {
            self.internal = [next.clock, Some(set)];
            next.fds.push(set);
            timeout = Some(timeout.unwrap_or(u32::MAX).min(LOOK.unsigned_abs()));
        }
        let timeout = timeout.map_or(-1, |timeout| i32::try_from(timeout).unwrap_or(i32::MAX));
        // `left` is negative without a deadline.
        let timeout = if left < 0 || (0..left).contains(&timeout) { timeout } else { left };
        wait.poll_few(next.fds.as_slice(), libc::POLLIN, timeout);
    }
}

/// A further event of the list after the last [`WaitEvent::step`], without waiting; `None` if there is none.
pub fn more<L: List>(guard: &EntryGuard, list: &mut L) -> Result<Option<Event<L::Origin>>, Error> {
    let key = list.key();
    if let Some((origin, frame)) =
        loops::with_loop_quickly(guard, key, |event_loop| event_loop.more_quickly(guard, list))
    {
        return Ok(Some(Event { origin, what: What::Message(frame) }));
    }
    match drive(guard, list, Input::More)? {
        Driven::Event(event) => Ok(Some(event)),
        Driven::Nothing | Driven::Wait(_) => Ok(None),
    }
}

enum Driven<O> {
    Event(Event<O>),
    Nothing,
    Wait(WaitFor),
}

/// Makes steps, and does without the loop's lock what each of them asks for.
fn drive<L: List>(
    guard: &EntryGuard,
    list: &mut L,
    mut input: Input<L::Client>,
) -> Result<Driven<L::Origin>, Error> {
    loop {
        let step = loops::with_loop(guard, list.key(), |event_loop| event_loop.step(guard, list, input))?;
        input = match step {
            Step::Event(event) => return Ok(Driven::Event(event)),
            Step::Nothing => return Ok(Driven::Nothing),
            Step::Wait(wait) => return Ok(Driven::Wait(wait)),
            Step::Accept(listener, prepared) => {
                let before = list.shape();
                let client = list.prepare();
                let shapes = [before, list.shape()];
                match client.map_err(|_| Errno::ENOMEM) {
                    Err(errno) => Input::NotAccepted(errno, shapes),
                    Ok(client) => match socket::accept(listener) {
                        Ok(fd) => Input::Accepted(client, fd, prepared, shapes),
                        Err(errno) => Input::NotAccepted(errno, shapes),
                    },
                }
            }
            Step::Read(token, fd, source) => Input::Read(token, extra::read(fd, source)),
            Step::End { fd, may_hold, origin } => {
                if may_hold {
                    ancillary::disarm_unreceived(fd);
                }
                let held = internal_fds::close_and_hold(fd);
                table::note_closed(guard, fd);
                loops::hold(guard, list.key(), held);
                return Ok(Driven::Event(Event { origin, what: What::Disconnection }));
            }
            Step::Drop(fd, error) => {
                let _ = fd::close(fd);
                match error {
                    Some(error) => return Err(error),
                    None => Input::Woken(FdArray::NONE, false),
                }
            }
        };
    }
}
