//! Accepting a client, for the calls that wait for it.
//!
//! The wait is accept4(2) itself, which obeys O_NONBLOCK and SO_RCVTIMEO of the service's socket. If a list has made the
//! socket non-blocking for itself it is poll(2), for the time that the socket has.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::Result;
use nix::errno::Errno;

use crate::calls::flow::Flow;
use crate::connection::table;
use crate::kernel::deadline::{Limit, now};
use crate::kernel::wait::Wait;
use crate::kernel::{fd, signals, socket};
use crate::process::entry_guard::Section;

/// An accept, between its steps: plain data.
#[derive(Clone, Copy)]
pub struct Accept {
    listener: RawFd,
    begun: i64,
}

impl Accept {
    /// Accepts a client of this service.
    pub fn new(listener: RawFd) -> Self {
        Self { listener, begun: now() }
    }

    /// The first step has no outcome of a wait, each further one that of the wait before.
    pub fn step(&self, section: &Section, outcome: Option<&Wait>) -> Result<Flow<RawFd>> {
        let accept = Ok(Flow::Wait(Wait::accept(self.listener)));
        let Some(outcome) = outcome else { return accept };
        match (outcome.is_poll(), outcome.result()) {
            (true, Ok(0)) => Err(Errno::EAGAIN),
            (true, Err(Errno::EINTR)) if !signals::all_restart() => Err(Errno::EINTR),
            (true, Ok(_) | Err(Errno::EINTR)) | (false, Err(Errno::ECONNABORTED)) => accept,
            (false, Err(Errno::EAGAIN)) => self.wait(section),
            (_, Err(errno)) => Err(errno),
            (false, Ok(client)) => {
                self.adopt(section, RawFd::try_from(client).map_err(|_| Errno::EBADF)?).map(Flow::Done)
            }
        }
    }

    /// There is no client, and the socket does not wait: by the program's word, or by a list's.
    fn wait(&self, section: &Section) -> Result<Flow<RawFd>> {
        let by_list =
            table::lock(section, self.listener).get().is_some_and(|service| service.waits_for_clients);
        if !by_list {
            return Err(Errno::EAGAIN);
        }
        match Limit::since(self.begun, socket::receive_time(self.listener)?).left() {
            0 => Err(Errno::EAGAIN),
            left => Ok(Flow::Wait(Wait::poll(self.listener, libc::POLLIN, left))),
        }
    }

    fn adopt(&self, section: &Section, client: RawFd) -> Result<RawFd> {
        let settings = table::lock(section, self.listener).settings();
        let prepared = table::Prepared::new(settings).map_err(|_| Errno::ENOMEM);
        let adopted = prepared.and_then(|prepared| table::give_out(section, client, prepared));
        adopted.map(|()| client).inspect_err(|_| {
            let _ = fd::close(client);
        })
    }
}
