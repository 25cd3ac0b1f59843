//! `ipc wait`: until a service listens, or has ended. No connection is made.
//!
//! Files that appear and vanish are reported by inotify(7), the end of the server's process by pidfd_open(2).
//! Nothing reports listen(2), nor that a living process closes a socket and leaves its file: these two are
//! asked for again after a pause.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Globals;
use crate::cli;
use crate::error::Error;
use crate::routes::Way;
use crate::rundir::{self, State};
use crate::service::Service;
use crate::sockets::{Processes, bound_to};
use crate::system;

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
    let watch = Watch::new();
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
            let message = if is_until_gone { "its server still listens" } else { "no server listens" };
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
    match rundir::is_alive(path) {
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
    match State::of(Ok(true), bound.as_ref(), false) {
        Ok(State::Foreign) => Err(Error::plain(service, format!("{} is no service", path.display()))),
        Ok(State::Starting) => Ok(Presence::Starting),
        Ok(State::Dead) | Err(_) => Ok(Presence::Absent),
        Ok(State::Alive | State::Stopped) => {
            let pid = bound.and_then(|bound| Processes::with([&bound].into_iter()).server(&bound));
            Ok(Presence::There(pid.and_then(|pid| system::process(pid).ok())))
        }
    }
}

/// None if the user has as many as the kernel grants: the pauses are left then.
struct Watch(Option<Inotify>);

impl Watch {
    fn new() -> Self {
        Self(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok())
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
        let Some(inotify) = &self.0 else { return };
        for directory in path.ancestors().skip(1) {
            let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            if inotify.add_watch(directory, events).is_ok() {
                return;
            }
        }
    }

    /// Waits until something has happened, or the process has ended.
    fn wait(&self, process: Option<&OwnedFd>, pause: Duration) {
        let fds = [self.0.as_ref().map(Inotify::as_fd), process.map(OwnedFd::as_fd)];
        let mut fds: Vec<_> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let pause = pause.max(Duration::from_millis(1));
        let _ = poll(&mut fds, PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX));
        let read = |inotify: &Inotify| inotify.read_events().is_ok_and(|events| !events.is_empty());
        while self.0.as_ref().is_some_and(read) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    use std::ffi::OsStr;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn service_is_there_from_listen_to_the_end_of_its_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s-0-0");
        let service = Service::parse(OsStr::new("s")).unwrap();
        let look = || look(&service, &path).unwrap();
        assert!(matches!(look(), Presence::Absent));
        let server = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(server.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        assert!(matches!(look(), Presence::Starting));
        listen(&server, Backlog::new(1).unwrap()).unwrap();
        assert!(matches!(look(), Presence::There(Some(_))));
        drop(server);
        assert!(matches!(look(), Presence::Absent));
    }

    #[test]
    fn socket_of_another_kind_is_no_service() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s-0-0");
        let _socket = UnixDatagram::bind(&path).unwrap();
        assert!(look(&Service::parse(OsStr::new("s")).unwrap(), &path).is_err());
    }

    #[test]
    fn directory_is_watched_before_it_exists() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/s-0-0");
        let watch = Watch::new();
        watch.add_directory_of(&path);
        fs::create_dir(directory.path().join("run")).unwrap();
        // It returns at once: the limit is that of a test that fails.
        let begin = Instant::now();
        watch.wait(None, Duration::from_secs(60));
        watch.add_directory_of(&path);
        fs::write(&path, "").unwrap();
        watch.wait(None, Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
}
