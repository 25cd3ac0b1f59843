//! Accepting a client, for the calls that wait for one.
//!
//! The wait is accept4(2) itself, which obeys O_NONBLOCK and SO_RCVTIMEO of the service's socket. If a list
//! has made the socket non-blocking for its own use, the wait is poll(2), with the timeout of the socket.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::Result;
use nix::errno::Errno;

use crate::calls::flow::Flow;
use crate::connection::table;
use crate::kernel::deadline::{Deadline, now};
use crate::kernel::wait::Wait;
use crate::kernel::{fd, signals, socket};
use crate::process::entry_guard::EntryGuard;

/// An accept, between its steps. Plain data.
#[derive(Clone, Copy)]
pub struct Accept {
    listener: RawFd,
    begun: i64,
}

impl Accept {
    /// An accept of a client of this service.
    pub fn new(listener: RawFd) -> Self {
        Self { listener, begun: now() }
    }

    /// The next step. `wait` has the result of the last wait, if there was one, and gets the next one.
    pub fn step(&self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<RawFd>> {
        match (wait.is_first(), wait.is_poll(), wait.result()) {
            (true, ..) => {}
            (_, true, Ok(0)) => return Err(Errno::EAGAIN),
            (.., Err(Errno::EINTR)) if !signals::all_restart() => return Err(Errno::EINTR),
            (_, true, Ok(_) | Err(Errno::EINTR)) | (_, false, Err(Errno::ECONNABORTED)) => {}
            // With SO_RCVTIMEO a stop of the process ends accept4(2), too; poll(2) is not ended by it.
            (_, false, Err(Errno::EINTR)) => return self.wait_in_poll(wait),
            (_, false, Err(Errno::EAGAIN)) => return self.wait_for_client(guard, wait),
            (.., Err(errno)) => return Err(errno),
            (_, false, Ok(client)) => {
                let client = RawFd::try_from(client).map_err(|_| Errno::EBADF)?;
                return self.adopt(guard, socket::beyond_standard_raw(client)).map(Flow::Done);
            }
        }
        wait.accept_client(self.listener);
        Ok(Flow::Wait)
    }

    /// There is no client, and the socket is non-blocking: EAGAIN if the program has made it so; waits if a
    /// list has.
    fn wait_for_client(&self, guard: &EntryGuard, wait: &mut Wait) -> Result<Flow<RawFd>> {
        let by_list =
            table::lock_verified(guard, self.listener).get().is_some_and(|service| service.waits_for_clients);
        if !by_list {
            return Err(Errno::EAGAIN);
        }
        self.wait_in_poll(wait)
    }

    fn wait_in_poll(&self, wait: &mut Wait) -> Result<Flow<RawFd>> {
        match Deadline::since(self.begun, socket::receive_timeout(self.listener)?).left() {
            0 => Err(Errno::EAGAIN),
            left => {
                wait.poll(self.listener, libc::POLLIN, left);
                Ok(Flow::Wait)
            }
        }
    }

    fn adopt(&self, guard: &EntryGuard, client: RawFd) -> Result<RawFd> {
        let prepared = table::Prepared::for_client(guard, self.listener).map_err(|_| Errno::ENOMEM);
        let adopted = prepared.and_then(|prepared| table::give_out(guard, client, prepared));
        adopted.map(|()| client).inspect_err(|_| {
            let _ = fd::close(client);
        })
    }
}
