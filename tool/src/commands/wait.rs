//! `ipc wait`: until a service is there, or is there no more. Nothing is connected.
//!
//! Files that appear and vanish are reported by inotify(7), the end of the server's process by pidfd_open(2). Nothing reports
//! listen(2), nor that a living process closes a socket and leaves its file: these two are asked for again after a pause.

#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use ipc::internals;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Globals;
use crate::cli;
use crate::error::Error;
use crate::libipc;
use crate::routes::Way;
use crate::rundir::{self, State};
use crate::service::Service;
use crate::sockets::{Bound, Processes, Sockets};

/// Between bind(2) and listen(2) of a server.
const WHILE_STARTING: Duration = Duration::from_millis(5);
/// While a service is there, for one that closes its socket and leaves the file.
const WHILE_THERE: Duration = Duration::from_millis(200);
/// While it is not, for file systems that report nothing.
const WHILE_ABSENT: Duration = Duration::from_secs(1);

/// Runs the command.
pub fn run(_globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let service = cli::service_of(matches)?;
    let path = Way::of(service).path.map_err(|errno| Error::failed(service, "cannot wait", errno))?;
    let is_until_gone = matches.get_flag("gone");
    let deadline = cli::timeout_of(matches).and_then(|time| Instant::now().checked_add(time));
    let watch = Watch::new().map_err(|errno| Error::failed(service, "cannot watch the directory", errno))?;
    loop {
        // Before the look, so that nothing that happens after it is missed.
        watch.add_directory_of(&path);
        let presence = look(service, &path)?;
        let is_there = matches!(presence, Presence::There(_));
        if is_there != is_until_gone {
            return Ok(ExitCode::SUCCESS);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let message = if is_until_gone { "still there" } else { "not there" };
            return Err(Error::timeout(service, message));
        }
        let (pause, process) = match presence {
            Presence::There(process) => (WHILE_THERE, process),
            Presence::Starting => (WHILE_STARTING, None),
            Presence::Absent => (WHILE_ABSENT, None),
        };
        watch.wait(process.as_ref(), left.map_or(pause, |left| left.min(pause)));
    }
}

enum Presence {
    Absent,
    Starting,
    /// With the server's process, if it is known.
    There(Option<OwnedFd>),
}

fn look(service: &Service, path: &Path) -> Result<Presence, Error> {
    let refused = |errno| Error::failed(service, format!("cannot connect to {}", path.display()), errno);
    // Only what listens is of interest, so the kernel's list is asked after the probe has found something.
    match internals::is_alive(&libipc::c_string(path.as_os_str())) {
        Ok(true) => {}
        Ok(false) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Presence::Absent),
        Err(errno @ (Errno::EACCES | Errno::EPERM)) => {
            // A server that starts may be about to give this user the right.
            let is_starting = bound_to(path).is_ok_and(|bound| bound.is_none_or(|bound| !bound.is_listening));
            return if is_starting { Ok(Presence::Starting) } else { Err(refused(errno)) };
        }
        Err(errno) => return Err(refused(errno)),
    }
    let Ok(bound) = bound_to(path) else { return Ok(Presence::Absent) };
    match rundir::probe(path, bound.as_ref(), None) {
        Ok(State::Foreign) => Err(Error::plain(service, format!("{} is no service", path.display()))),
        Ok(State::Starting) => Ok(Presence::Starting),
        Ok(State::Dead) | Err(_) => Ok(Presence::Absent),
        Ok(State::Alive | State::Stopped) => {
            let pid = bound.and_then(|bound| Processes::with([&bound].into_iter()).server(&bound));
            Ok(Presence::There(pid.and_then(|pid| libipc::process(pid).ok())))
        }
    }
}

/// The socket at the path, as far as the kernel says it; an error if there is no file, or it cannot be looked at.
fn bound_to(path: &Path) -> std::io::Result<Option<Bound>> {
    let file = fs::metadata(path)?;
    Ok(Sockets::ask().ok().and_then(|sockets| sockets.bound_to(path, &file)))
}

struct Watch(Inotify);

impl Watch {
    fn new() -> nix::Result<Self> {
        Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map(Self)
    }

    /// Watches the directory of the path, or, as long as that is missing, the nearest one above it.
    fn add_directory_of(&self, path: &Path) {
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for directory in path.ancestors().skip(1) {
            let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            if self.0.add_watch(directory, events).is_ok() {
                return;
            }
        }
    }

    /// Waits until something has happened, or the process has ended.
    fn wait(&self, process: Option<&OwnedFd>, pause: Duration) {
        let mut fds = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        fds.extend(process.map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN)));
        let pause = pause.max(Duration::from_millis(1));
        let _ = poll(&mut fds, PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX));
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}
