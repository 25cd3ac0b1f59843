//! One connection and its peer, and what must hold after each call.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use super::expected::{Expected, bytes_in_kernel};
use crate::support::ext::*;
use crate::support::*;

/// The limit of the queue if no other limit is set.
const QUEUE_LIMIT: usize = 16 << 20;

/// How many bytes ipc_queue collects before it sends them itself.
const BATCH: usize = 64 << 10;

/// When the peer begins to read: at once, or after a time that a call for a list would not wait.
pub const AT_ONCE: Duration = Duration::ZERO;
pub const LATER: Duration = Duration::from_millis(15);

const DONE: Result<(), Failure> = Ok(());
const REFUSED: Result<(), Failure> = Err((IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, libc::EAGAIN));
const CLOSED: Result<(), Failure> = Err((IPC_ERROR_USOCK_SEND, libc::EPIPE));
const TIMED_OUT: Result<(), Failure> = Err((IPC_ERROR_USOCK_SEND, libc::ETIMEDOUT));

/// Calls the library, and checks that a call that succeeds does not change errno.
fn call(call: impl FnOnce() -> Result<(), Failure>) -> Result<Result<(), Failure>, String> {
    set_errno(4711);
    let reported = call();
    ensure!(reported.is_err() || errno() == 4711, "the call succeeds, and errno is {}", errno());
    Ok(reported)
}

pub struct Connection {
    /// The structure; the list refers to it by its address while `is_listed`.
    pub info: Box<ipc_connection_info>,
    pub is_listed: bool,
    /// The peer's socket, None when the peer has closed it.
    pub peer: Option<UnixStream>,
    /// Whether the peer has not shut down its reading side, and its writing side.
    pub reads: bool,
    pub writes: bool,
    pub expected: Expected,
    pub limit: usize,
    /// How many bytes the peer receives at a time while a call runs.
    pub pace: usize,
}

impl Connection {
    pub fn new(pace: usize) -> Self {
        let (ours, peer) = pair();
        Self {
            info: Box::new(info(ours.into_raw_fd())),
            is_listed: false,
            // The peer has a high number, so that only the library's connections reuse closed numbers.
            peer: Some(at_high_number(peer)),
            reads: true,
            writes: true,
            expected: Expected::default(),
            limit: QUEUE_LIMIT,
            pace,
        }
    }

    pub fn fd(&self) -> RawFd {
        self.info.fd
    }

    /// Whether the kernel has room, by poll(2).
    pub fn is_writable(&self) -> bool {
        let mut asked = libc::pollfd { fd: self.fd(), events: libc::POLLOUT, revents: 0 };
        assert!(unsafe { libc::poll(&mut asked, 1, 0) } >= 0);
        asked.revents & libc::POLLOUT != 0
    }

    /// Checks that every accepted byte is received, in the kernel, or queued in the library, exactly once.
    pub fn check(&self) -> Result<(), String> {
        let queued = pending(self.fd());
        match &self.peer {
            Some(peer) if self.reads => {
                let (expected, kernel) = (self.expected.bytes, bytes_in_kernel(peer));
                ensure!(
                    kernel + queued == expected,
                    "{kernel} bytes and {queued} queued, of {expected} accepted"
                );
            }
            _ => ensure!(
                queued <= self.expected.bytes,
                "{queued} bytes queued of {} accepted",
                self.expected.bytes
            ),
        }
        Ok(())
    }

    /// Checks that no bytes are queued while the kernel has room.
    pub fn check_sent(&self) -> Result<(), String> {
        let queued = pending(self.fd());
        ensure!(queued == 0 || !self.is_writable(), "{queued} bytes are queued, and the kernel has room");
        Ok(())
    }

    /// The result of the call while the peer reads in another thread, which begins to read after this time.
    pub fn while_reading<T>(
        &mut self,
        begin: Duration,
        call: impl FnOnce(&mut ipc_connection_info) -> T,
    ) -> Result<T, String> {
        let (expected, pace) = (&mut self.expected, self.pace);
        let Some(peer) = self.peer.as_ref().filter(|_| self.reads) else { return Ok(call(&mut self.info)) };
        let (over, is_over) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut was_over = is_over.recv_timeout(begin) == Err(RecvTimeoutError::Disconnected);
                loop {
                    match expected.receive(peer, pace) {
                        Ok((_, true)) => return Ok(()),
                        Ok(_) if was_over => return Ok(()),
                        Ok((0, _)) => _ = becomes_readable(peer.as_raw_fd(), 1),
                        Ok(_) => {}
                        Err(what) => {
                            // Ends the call, which may wait for the peer.
                            let _ = peer.shutdown(Shutdown::Both);
                            return Err(what);
                        }
                    }
                    was_over = is_over.try_recv() == Err(TryRecvError::Disconnected);
                }
            });
            let answer = call(&mut self.info);
            drop(over);
            reader.join().map_err(|_| "the reader has panicked")?.map(|()| answer)
        })
    }

    /// Sends a message by `send`, and checks the result against the model.
    pub fn write(
        &mut self,
        kind: u8,
        payload: &[u8],
        file: Option<usize>,
        reading: bool,
        send: impl FnOnce(RawFd) -> Result<(), Failure>,
    ) -> Result<(), String> {
        let (before, size) = (pending(self.fd()), payload.len() + 5);
        self.expected.push(kind, payload, file);
        let begin = if reading { AT_ONCE } else { LATER };
        // For a connection in no list the call waits for the peer.
        let reading = reading || !self.is_listed;
        let reported = match reading {
            true => self.while_reading(begin, |info| call(|| send(info.fd)))??,
            false => call(|| send(self.info.fd))?,
        };
        let queued = pending(self.fd());
        if !self.reads {
            ensure!(
                reported == CLOSED && queued == 0,
                "{reported:?} after the peer has closed, {queued} bytes queued"
            );
            return self.expected.take_back();
        }
        if reported == REFUSED && self.is_listed {
            self.expected.take_back()?;
            let least = if reading { before } else { queued };
            ensure!(least + size > self.limit, "refused, and {least} bytes are queued of {}", self.limit);
            ensure!(reading || !self.is_writable(), "refused, and the kernel has room");
            return Ok(());
        }
        ensure!(reported == DONE, "{reported:?}");
        ensure!(self.is_listed || queued == 0, "in no list, and {queued} bytes are queued");
        // The rest of a frame that is sent in part is queued whatever the limit is.
        ensure!(queued <= self.limit || queued < size, "{queued} bytes queued of {}", self.limit);
        if reading { Ok(()) } else { self.check_sent() }
    }

    pub fn queue(&mut self, kind: u8, payload: &[u8]) -> Result<(), String> {
        let (before, size) = (pending(self.fd()), payload.len() + 5);
        self.expected.push(kind, payload, None);
        let reported = call(|| queue(self.fd(), kind, payload))?;
        let queued = pending(self.fd());
        match reported {
            Ok(()) => {
                ensure!(queued <= self.limit, "{queued} bytes queued of {}", self.limit);
                if before + size <= self.limit && before / BATCH < (before + size) / BATCH {
                    self.check_sent()?;
                } else if before + size <= self.limit {
                    // The bytes of a connection that was removed from its list are sent in the background.
                    let is_left = queued == before + size || !self.is_listed && queued <= size;
                    ensure!(is_left, "{before} and {size} bytes, and {queued} are queued");
                }
                Ok(())
            }
            REFUSED => {
                self.expected.take_back()?;
                ensure!(
                    queued + size > self.limit,
                    "refused, and {queued} bytes are queued of {}",
                    self.limit
                );
                self.check_sent()
            }
            _ => {
                ensure!(
                    reported == CLOSED && !self.reads && queued == 0,
                    "{reported:?}, {queued} bytes queued"
                );
                self.expected.take_back()
            }
        }
    }

    /// Writes one message and, as soon as the kernel has a part of it, queues a second message after it.
    pub fn queue_second(&mut self, kind: u8, payload: &[u8], second: &[u8]) -> Result<(), String> {
        self.peer_reads(usize::MAX)?;
        if !self.reads || self.expected.bytes > 0 {
            return Ok(());
        }
        let (fd, is_listed) = (self.fd(), self.is_listed);
        self.expected.push(kind, payload, None);
        self.expected.push(kind, second, None);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| outcome(write(fd, kind, payload)));
            until("a part of the message is sent", || {
                self.peer.as_ref().is_some_and(|peer| bytes_in_kernel(peer) > 0)
            });
            let queued = call(|| queue(fd, kind, second));
            // For a connection in no list the call waits for the peer.
            let join = || writer.join().map_err(|_| "the writer has panicked");
            let reported = if is_listed { join()? } else { self.while_reading(AT_ONCE, |_| join())?? };
            ensure!(reported == DONE, "the first: {reported:?}");
            let (reported, sizes) = (queued?, payload.len() + second.len() + 10);
            if reported == REFUSED {
                ensure!(sizes > self.limit, "refused, and {} bytes may be queued", self.limit);
                return self.expected.take_back();
            }
            ensure!(reported == DONE, "the second: {reported:?}");
            Ok(())
        })
    }

    /// ipc_limits; 0 sets the default limit.
    pub fn set_limit(&mut self, bytes: usize) -> Result<(), String> {
        let reported = call(|| limits(self.fd(), 0, bytes))?;
        ensure!(reported == DONE, "ipc_limits: {reported:?}");
        self.limit = if bytes == 0 { QUEUE_LIMIT } else { bytes };
        Ok(())
    }

    pub fn flush(&mut self, timeout: Option<i32>) -> Result<(), String> {
        let before = pending(self.fd());
        let reported = match timeout {
            Some(timeout) => call(|| flush(self.fd(), timeout))?,
            None => self.while_reading(AT_ONCE, |info| call(|| flush(info.fd, -1)))??,
        };
        let queued = pending(self.fd());
        if before > 0 && !self.reads {
            ensure!(
                reported == CLOSED && queued == 0,
                "{reported:?} after the peer has closed, {queued} bytes queued"
            );
        } else if queued == 0 {
            ensure!(reported == DONE, "{reported:?}, and nothing is queued");
        } else {
            ensure!(
                reported == TIMED_OUT && timeout.is_some(),
                "{reported:?}, and {queued} bytes are queued"
            );
            self.check_sent()?;
        }
        Ok(())
    }

    pub fn peer_reads(&mut self, most: usize) -> Result<(), String> {
        let Some(peer) = &self.peer else { return Ok(()) };
        self.expected.receive(peer, most).map(drop)
    }

    pub fn peer_writes(&self, bytes: &[u8]) {
        self.peer.as_ref().unwrap().write_all(bytes).unwrap();
    }

    pub fn peer_shuts_down(&mut self, how: Shutdown) {
        if let Some(peer) = &self.peer {
            peer.shutdown(how).unwrap();
            self.reads &= how == Shutdown::Write;
            self.writes &= how == Shutdown::Read;
        }
    }

    pub fn peer_closes(&mut self) {
        (self.peer, self.reads, self.writes) = (None, false, false);
    }

    /// The peer receives some bytes. Returns whether the peer can receive more, now or later.
    pub fn peer_reads_on(&mut self) -> Result<bool, String> {
        let Some(peer) = &self.peer else { return Ok(false) };
        let (_, is_over) = self.expected.receive(peer, self.pace)?;
        Ok(!is_over && self.reads)
    }

    /// The peer receives everything up to end of file. If `complete`, no accepted byte may be missing.
    pub fn peer_reads_to_the_end(&mut self, complete: bool) -> Result<(), String> {
        let Some(peer) = &self.peer else { return Ok(()) };
        let (_, is_over) = self.expected.receive(peer, usize::MAX)?;
        ensure!(is_over, "the peer does not see the end of a closed connection");
        let missing = self.expected.bytes;
        ensure!(missing == 0 || !complete || !self.reads, "{missing} bytes of what was accepted are missing");
        Ok(())
    }
}
