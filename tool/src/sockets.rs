//! What the kernel says of Unix sockets and of the processes that have them: sock_diag(7) and `/proc`. No
//! server notices it.
//!
//! A socket that listens, and those that it has accepted, name the file at which it was bound. So one dump of
//! all sockets answers for all services: which socket listens at a file, how many connections were accepted
//! there and are open, and how many wait to be accepted. The answer is that of this network namespace.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

use ipc::internals::{SocketReport, UDIAG_SHOW_VFS, UNIX_DIAG_VFS, two_numbers, visit_sockets};
use nix::errno::Errno;
use nix::sys::stat::{major, minor};

/// Numbers of linux/unix_diag.h, which libc does not have.
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_RQLEN: u16 = 4;

const ESTABLISHED: u8 = 1;
const LISTENING: u8 = 10;

/// The kernel answers in parts, and a socket that another process closes between two of them may hide one
/// that stays. So what must be there, and is not in the answer, is asked for so many times.
pub const ATTEMPTS: usize = 3;

/// A socket that is bound to a file, or was accepted from one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    /// SOCK_STREAM, ...
    kind: u8,
    state: u8,
    /// The inode of the socket itself, as `/proc` has it.
    inode: u32,
    /// The path that it was bound to, as it was written then.
    name: OsString,
    /// The inode of its file, or the lower half of it, and its device.
    file: (u32, u32),
    /// Of one that listens: the connections that wait, and how many may.
    queue: (u32, u32),
}

/// One socket of the answer; None for one that has no file.
fn socket_of(report: SocketReport<'_>) -> Option<Socket> {
    let (kind, state, inode) = (report.kind()?, report.state()?, report.inode()?);
    let (mut name, mut file, mut queue) = (OsString::new(), None, (0, 0));
    for (kind, content) in report.attributes() {
        match (kind, two_numbers(content)) {
            (UNIX_DIAG_NAME, _) => {
                let text = content.split(|byte| *byte == 0).next().unwrap_or_default();
                name = OsString::from_vec(text.to_vec());
            }
            (UNIX_DIAG_VFS, Some(pair)) => file = Some(pair),
            (UNIX_DIAG_RQLEN, Some(pair)) => queue = pair,
            _ => {}
        }
    }
    Some(Socket { kind, state, inode, name, file: file?, queue })
}

/// The socket that is bound to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Whether it is a stream socket, as those of services are.
    pub is_stream: bool,
    /// Whether it listens: without that it refuses clients.
    pub is_listening: bool,
    /// The connections that it has accepted, and that are open.
    pub clients: usize,
    /// The connections that wait to be accepted.
    pub waiting: u32,
    /// How many may wait.
    pub backlog: u32,
    inode: u32,
}

/// All Unix sockets that have a file.
pub struct Sockets {
    of_file: HashMap<u32, Vec<Socket>>,
}

impl Sockets {
    /// Asks the kernel.
    pub fn ask() -> Result<Self, Errno> {
        let mut of_file = HashMap::<u32, Vec<Socket>>::new();
        visit_sockets(u32::MAX, UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_RQLEN, |report| {
            let socket = socket_of(report);
            socket.into_iter().for_each(|socket| of_file.entry(socket.file.0).or_default().push(socket));
            ControlFlow::Continue(())
        })?;
        Ok(Self { of_file })
    }

    /// The socket that is bound to this file; None if there is none, or it is one of another network
    /// namespace.
    pub fn bound_to(&self, path: &Path, file: &fs::Metadata) -> Option<Bound> {
        let device = (major(file.dev()) << 20 | minor(file.dev())) as u32;
        // Some file systems report another device than the kernel has for the file: the name decides then.
        let name = without_double_slashes(path.as_os_str());
        let is_it =
            |socket: &&Socket| socket.file.1 == device || without_double_slashes(&socket.name) == name;
        let sockets: Vec<_> = self.of_file.get(&(file.ino() as u32))?.iter().filter(is_it).collect();
        // A datagram socket that something has connected to, such as a probe, is established, and accepts
        // nothing.
        let is_holder =
            |socket: &&&Socket| socket.state != ESTABLISHED || i32::from(socket.kind) == libc::SOCK_DGRAM;
        let holder = sockets.iter().find(is_holder)?;
        Some(Bound {
            is_stream: i32::from(holder.kind) == libc::SOCK_STREAM,
            is_listening: holder.state == LISTENING,
            clients: sockets
                .iter()
                .filter(|socket| socket.state == ESTABLISHED && socket.inode != holder.inode)
                .count(),
            waiting: if holder.state == LISTENING { holder.queue.0 } else { 0 },
            backlog: holder.queue.1,
            inode: holder.inode,
        })
    }
}

/// The socket that is bound to the file at this path: None if the kernel does not say. An error if there is
/// no such file, or it cannot be looked at.
pub fn bound_to(path: &Path) -> io::Result<Option<Bound>> {
    let file = fs::metadata(path)?;
    let ask = |_| Sockets::ask().ok().and_then(|sockets| sockets.bound_to(path, &file));
    Ok((0..ATTEMPTS).find_map(ask))
}

fn without_double_slashes(path: &OsStr) -> Vec<u8> {
    let mut bytes = path.as_bytes().to_vec();
    bytes.dedup_by(|a, b| (*a, *b) == (b'/', b'/'));
    bytes
}

/// Which processes have which sockets, of the processes that this user may look at.
pub struct Processes {
    of_socket: HashMap<u32, Vec<i32>>,
}

impl Processes {
    /// Looks for the processes that have one of these sockets.
    pub fn with<'a>(sockets: impl Iterator<Item = &'a Bound>) -> Self {
        let mut of_socket: HashMap<u32, Vec<i32>> = sockets.map(|bound| (bound.inode, Vec::new())).collect();
        if of_socket.is_empty() {
            return Self { of_socket };
        }
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            for fd in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
                let inode = fs::read_link(fd.path()).ok().and_then(|link| socket_inode(link.as_os_str()));
                let pids = inode.and_then(|inode| of_socket.get_mut(&inode));
                pids.into_iter().filter(|pids| pids.last() != Some(&pid)).for_each(|pids| pids.push(pid));
            }
        }
        Self { of_socket }
    }

    /// The process that serves by the socket. Of several the first: the parent of those that were forked. A
    /// service manager (process 1) that keeps the socket, too, does not count then.
    pub fn server(&self, bound: &Bound) -> Option<i32> {
        let pids = self.of_socket.get(&bound.inode)?;
        pids.iter().copied().filter(|pid| *pid != 1).min().or(pids.first().copied())
    }
}

/// The inode of `socket:[4711]`.
fn socket_inode(link: &OsStr) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether the process is stopped (SIGSTOP, SIGTSTP, or by a debugger): it has its sockets, and answers
/// nothing.
pub fn is_stopped(pid: i32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program is in parentheses, and may have some of its own.
    let end = stat.iter().rposition(|byte| *byte == b')').unwrap_or(stat.len());
    matches!(stat.get(end + 2), Some(b'T' | b't'))
}

/// The name of the program that the process runs.
pub fn program(pid: i32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::time::{Duration, Instant};

    fn bound(path: &Path) -> Option<Bound> {
        bound_to(path).unwrap()
    }

    #[test]
    fn clients_and_waiting_are_counted_while_the_server_lives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let clients: Vec<_> = (0..5).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let accepted: Vec<_> = (0..3).map(|_| listener.accept().unwrap()).collect();
        let found = bound(&path).unwrap();
        assert!(found.is_stream && found.is_listening);
        assert_eq!((found.clients, found.waiting), (3, 2));
        let processes = Processes::with([&found].into_iter());
        assert_eq!(processes.server(&found), Some(std::process::id() as i32));
        drop((listener, clients, accepted));
        // A child that another test starts has the sockets until its execve(2).
        let end = Instant::now() + Duration::from_secs(30);
        while bound(&path).is_some() {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
    }

    #[test]
    fn socket_of_another_kind_is_found_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        let socket = UnixDatagram::bind(&path).unwrap();
        for _ in 0..2 {
            let found = bound(&path).unwrap();
            assert!(!found.is_stream && !found.is_listening);
            UnixDatagram::unbound().unwrap().connect(&path).unwrap();
        }
        drop(socket);
    }

    #[test]
    fn report_that_is_cut_off_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let mut reports = Vec::new();
        visit_sockets(u32::MAX, UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_RQLEN, |report| {
            reports.push(report.0.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(!reports.is_empty());
        for report in &reports {
            for end in 0..report.len() {
                let _ = socket_of(SocketReport(&report[..end]));
            }
        }
    }

    #[test]
    fn process_is_not_stopped_while_it_runs() {
        let pid = std::process::id() as i32;
        assert!(!is_stopped(pid));
        assert!(program(pid).is_some());
        assert!(!is_stopped(0) && program(0).is_none());
    }
}
