//! Connecting with a deadline, also to a service that does not exist yet.
//!
//! ```text
//! try ──connected──► done
//!  ▲ └──no such service, or a dead one──► watch the directory, and try once more ──the same──► wait
//!  └──────────────────a change in the directory, or the pause is over────────────────────────────┘
//! ```
//!
//! The socket's file appears at bind(2), but the service takes clients only from listen(2) on, which nothing
//! reports: so a socket that refuses is tried again after some milliseconds.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, stat};

use crate::calls::flow::Flow;
use crate::error::{Error, ipc_errors as Code};
use crate::kernel::deadline::Deadline;
use crate::kernel::wait::Wait;
use crate::kernel::{dir_watch, fd, socket};
use crate::process::entry_guard::EntryGuard;
use crate::service::endpoint::Connect;
use crate::service::path::c_string;

/// The shortest and the longest pause between two tries of a socket that refuses, in milliseconds; and the
/// longest pause while the directory is watched.
const PAUSE: i32 = 5;
const LONGEST_PAUSE: i32 = 200;
const WATCHED_PAUSE: i32 = 1000;

/// A connect with a deadline, between its steps. Plain data.
#[derive(Clone, Copy)]
pub struct TimedConnect {
    deadline: Deadline,
    /// The present try; `None` between two tries.
    connect: Option<Connect>,
    /// The inotify descriptor that watches the directory; negative if there is none yet.
    watch: RawFd,
    /// Whether the directory was watched before the last try began.
    is_watched: bool,
    pause: i32,
}

impl TimedConnect {
    /// A connect that lasts until `deadline` at most.
    pub fn new(deadline: Deadline) -> Self {
        Self { deadline, connect: None, watch: -1, is_watched: false, pause: PAUSE }
    }

    /// The next step; `path` is the service's. Returns the connection's descriptor. ETIMEDOUT at the
    /// deadline.
    pub fn step(&mut self, guard: &EntryGuard, path: &CStr, wait: &mut Wait) -> Result<Flow<RawFd>, Error> {
        self.try_step(guard, path, wait).inspect_err(|_| self.stop_watching())
    }

    fn try_step(&mut self, guard: &EntryGuard, path: &CStr, wait: &mut Wait) -> Result<Flow<RawFd>, Error> {
        let is_endless = self.deadline.left() < 0;
        let Some(connect) = self.connect.take() else {
            if !wait.is_first() {
                match wait.result() {
                    Err(errno) if is_endless => return Err(failed(errno)),
                    Ok(1..) => {
                        self.pause = PAUSE;
                        dir_watch::drain(self.watch);
                    }
                    _ => {}
                }
                self.watch_directory(path);
            }
            return self.begin(path, wait);
        };
        let error = match connect.finish(guard, wait) {
            Ok(fd) => {
                let _ = socket::set_send_timeout(fd, -1);
                self.stop_watching();
                return Ok(Flow::Done(fd));
            }
            Err(error) => error,
        };
        self.go_on(error, path, wait)
    }

    /// Begins a try.
    fn begin(&mut self, path: &CStr, wait: &mut Wait) -> Result<Flow<RawFd>, Error> {
        // The time limits the kernel's wait for a place in the service's backlog. 0 would mean without end.
        let time = self.deadline.left();
        let time = if time == 0 { 1 } else { time };
        match Connect::new(path, wait) {
            Ok(connect) => {
                let _ = socket::set_send_timeout(connect.socket(), time);
                wait.close_if_cancelled(self.watch);
                self.connect = Some(connect);
                Ok(Flow::Wait)
            }
            Err(error) => self.go_on(error, path, wait),
        }
    }

    /// A try has failed: begins another one, or waits.
    fn go_on(&mut self, error: Error, path: &CStr, wait: &mut Wait) -> Result<Flow<RawFd>, Error> {
        let left = self.deadline.left();
        let is_refused = error.errno == Errno::ECONNREFUSED;
        match error.errno {
            Errno::ENOENT if error.code == Code::IPC_ERROR_USOCK_CONNECT__SOCKET => {}
            // A file of another kind refuses connections, too, and will never accept any.
            Errno::ECONNREFUSED
                if error.code == Code::IPC_ERROR_USOCK_CONNECT__SOCKET && !is_other_file(path) => {}
            // The kernel's wait for a place in the backlog is over.
            Errno::EAGAIN => {}
            Errno::EINTR if left >= 0 => {}
            _ => return Err(error),
        }
        if left == 0 {
            return Err(failed(Errno::ETIMEDOUT));
        }
        if matches!(error.errno, Errno::EAGAIN | Errno::EINTR) {
            return self.begin(path, wait);
        }
        if self.watch < 0 {
            self.watch = dir_watch::open().unwrap_or(-1);
            self.watch_directory(path);
            if self.is_watched {
                // The service may have appeared before the directory was watched.
                return self.begin(path, wait);
            }
        }
        let pause = if is_refused || !self.is_watched { self.pause } else { WATCHED_PAUSE };
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        wait.poll(self.watch, libc::POLLIN, if left < 0 { pause } else { pause.min(left) });
        wait.close_if_cancelled(self.watch);
        Ok(Flow::Wait)
    }

    /// Watches the directory of the path; if the directory does not exist, the nearest existing one above it.
    fn watch_directory(&mut self, path: &CStr) {
        let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
        let name = |directory: &Path| {
            let bytes = directory.as_os_str().as_bytes();
            c_string(if bytes.is_empty() { b"." } else { bytes }).ok()
        };
        let mut added =
            path.ancestors().skip(1).filter_map(name).map(|name| dir_watch::add(self.watch, &name));
        self.is_watched = self.watch >= 0 && added.find(|added| *added != Err(Errno::ENOENT)) == Some(Ok(()));
    }

    /// The call ends without a further step.
    pub fn give_up(&mut self) {
        self.connect.take().into_iter().for_each(Connect::give_up);
        self.stop_watching();
    }

    fn stop_watching(&mut self) {
        if self.watch >= 0 {
            let _ = fd::close(std::mem::replace(&mut self.watch, -1));
        }
    }
}

/// Whether there is a file at the path that is no socket.
fn is_other_file(path: &CStr) -> bool {
    stat(path).is_ok_and(|file| SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK)
}

fn failed(errno: Errno) -> Error {
    Error::new(Code::IPC_ERROR_USOCK_CONNECT__SOCKET, errno)
}
