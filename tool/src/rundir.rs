//! The run directory, and the files that services have there.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use ipc::internals;
use nix::errno::Errno;
use nix::unistd::{Uid, User};

use crate::service::Service;
use crate::sockets::{self, Bound, Processes, Sockets};
use crate::system;

/// The run directory, and whether the user has chosen it, with --rundir or IPC_RUNDIR.
pub fn current() -> (PathBuf, bool) {
    match env::var_os("IPC_RUNDIR") {
        // The paths of services then begin with the slash that follows.
        Some(directory) if directory.is_empty() => (PathBuf::from("/"), true),
        Some(directory) => (PathBuf::from(directory), true),
        None => (PathBuf::from(OsStr::from_bytes(internals::DEFAULT_RUNDIR.to_bytes())), false),
    }
}

/// The path of a service's socket, as the library writes it; ENAMETOOLONG.
pub fn path_of(name: &OsStr, service: &Service) -> Result<PathBuf, Errno> {
    let chosen = env::var_os("IPC_RUNDIR").map(|directory| system::c_string(&directory));
    let rundir = chosen.as_deref().unwrap_or(internals::DEFAULT_RUNDIR);
    let path = internals::path(rundir, &system::c_string(name), service.index, service.version)?;
    Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

/// The name of a user; the number, if it has none.
pub fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// What is at the path of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A server that takes clients.
    Alive,
    /// A server whose process is stopped.
    Stopped,
    /// A server that is about to start: bound, and not listening yet.
    Starting,
    /// A socket of another kind: no service of this library.
    Foreign,
    /// A file that a dead server has left.
    Dead,
}

impl State {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Foreign => "foreign",
            Self::Dead => "dead",
        }
    }
}

/// Whether a socket is bound to the file, as `ipc_server_init` asks. ENOENT if there is no such file any
/// more, EACCES without the right to connect.
pub fn is_alive(path: &Path) -> Result<bool, Errno> {
    internals::is_alive(&system::c_string(path.as_os_str()))
}

impl State {
    /// By what [`is_alive`] and the kernel's list say.
    pub fn of(is_alive: Result<bool, Errno>, bound: Option<&Bound>, is_stopped: bool) -> Result<Self, Errno> {
        let is_alive = match is_alive {
            Err(Errno::EACCES | Errno::EPERM) => bound.is_some(),
            answer => answer?,
        };
        Ok(match bound {
            _ if !is_alive => Self::Dead,
            Some(bound) if !bound.is_stream => Self::Foreign,
            Some(bound) if !bound.is_listening => Self::Starting,
            _ if is_stopped => Self::Stopped,
            // One of another network namespace is in no list.
            _ => Self::Alive,
        })
    }
}

/// A service that has a file in the directory.
#[derive(Debug)]
pub struct Entry {
    /// Its name, index and version.
    pub service: Service,
    /// Its file.
    pub path: PathBuf,
    /// The file itself: its owner.
    pub file: fs::Metadata,
    /// Whether its server lives.
    pub state: State,
    /// What the kernel knows of its socket.
    pub bound: Option<Bound>,
    /// The server's process.
    pub pid: Option<i32>,
}

/// The services that have a file in the directory, sorted by name, index and version.
pub fn services(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let Ok(entry) = entry else { continue };
        let Some(service) = Service::of_file_name(&entry.file_name()) else { continue };
        let path = entry.path();
        // What vanishes meanwhile is not there.
        let Ok(file) = fs::metadata(&path) else { continue };
        if file.file_type().is_socket() {
            let is_alive = is_alive(&path);
            found.push(Found { service, path, file, is_alive, bound: None });
        }
    }
    found.sort_by(|a, b| a.service.cmp(&b.service));
    look_up(&mut found);
    let processes = Processes::with(found.iter().filter_map(|found| found.bound.as_ref()));
    let mut stopped = HashMap::new();
    let entries = found.into_iter().filter_map(|Found { service, path, file, is_alive, bound }| {
        let pid = bound.as_ref().and_then(|bound| processes.server(bound));
        // One process may serve them all.
        let is_stopped =
            pid.is_some_and(|pid| *stopped.entry(pid).or_insert_with(|| sockets::is_stopped(pid)));
        let state = State::of(is_alive, bound.as_ref(), is_stopped).ok()?;
        Some(Entry { service, path, file, state, bound, pid })
    });
    Ok(entries.collect())
}

/// A file that may be a service's.
struct Found {
    service: Service,
    path: PathBuf,
    file: fs::Metadata,
    is_alive: Result<bool, Errno>,
    bound: Option<Bound>,
}

/// Looks up all sockets at once. Without the kernel's answer (in a sandbox) there are none.
fn look_up(found: &mut [Found]) {
    for _ in 0..sockets::ATTEMPTS {
        let Ok(sockets) = Sockets::ask() else { return };
        let is_missing = |found: &&mut Found| found.bound.is_none() && found.is_alive != Ok(false);
        for found in found.iter_mut().filter(is_missing) {
            found.bound = sockets.bound_to(&found.path, &found.file);
        }
        if !found.iter_mut().any(|found| is_missing(&found)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn services_are_listed_with_their_states() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let _alive = UnixListener::bind(at("b-0-0")).unwrap();
        let _second = UnixListener::bind(at("b-0-10")).unwrap();
        drop(UnixListener::bind(at("a-7-0")).unwrap());
        let _foreign = UnixDatagram::bind(at("c-0-0")).unwrap();
        let starting = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(starting.as_raw_fd(), &UnixAddr::new(&at("d-0-0")).unwrap()).unwrap();
        let _other = UnixListener::bind(at("bus")).unwrap();
        fs::write(at("file-0-0"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", at("link-0-0")).unwrap();
        let listed: Vec<_> = services(directory.path())
            .unwrap()
            .iter()
            .map(|entry| format!("{} {}", entry.service, entry.state.word()))
            .collect();
        assert_eq!(listed, ["a-7-0 dead", "b alive", "b-0-10 alive", "c foreign", "d starting"]);
    }

    #[test]
    fn file_that_vanished_is_reported_as_absent() {
        assert_eq!(is_alive(Path::new("/nonexistent/s-0-0")), Err(Errno::ENOENT));
    }
}
