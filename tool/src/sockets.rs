//! What the kernel says of Unix sockets and of the processes that have them: sock_diag(7) and `/proc`. No
//! server notices it.
//!
//! A socket that listens, and those that it has accepted, name the file at which it was bound. So one dump of
//! all sockets answers for all services: which socket listens at a file, how many connections were accepted
//! there and are open, and how many wait to be accepted. The answer is that of this network namespace.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::sys::stat::{major, minor};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_VFS: u32 = 2;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_RQLEN: u16 = 4;

const ESTABLISHED: u8 = 1;
const LISTENING: u8 = 10;

const HEADER: usize = 16;
const MESSAGE: usize = 16;
const ATTRIBUTE: usize = 4;

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

/// The request: struct nlmsghdr and struct unix_diag_req.
fn request() -> [u8; HEADER + 24] {
    let mut bytes = [0; HEADER + 24];
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or(0);
    let family = u8::try_from(libc::AF_UNIX).unwrap_or(0);
    let show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_RQLEN;
    let fields: [(usize, &[u8]); 6] = [
        (0, &((HEADER + 24) as u32).to_ne_bytes()),
        (4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes()),
        (6, &flags.to_ne_bytes()),
        (HEADER, &[family]),
        (HEADER + 4, &u32::MAX.to_ne_bytes()),
        (HEADER + 12, &show.to_ne_bytes()),
    ];
    for (at, field) in fields {
        bytes.iter_mut().skip(at).zip(field).for_each(|(place, byte)| *place = *byte);
    }
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Cuts `bytes` at a length, and what follows at the next place that is aligned.
fn split(bytes: &[u8], length: usize) -> (&[u8], &[u8]) {
    let (front, _) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
    (front, bytes.get(length.next_multiple_of(4)..).unwrap_or_default())
}

/// One socket of the answer; None for one that has no file.
fn socket_of(message: &[u8]) -> Option<Socket> {
    let (kind, state) = (*message.get(HEADER + 1)?, *message.get(HEADER + 2)?);
    let mut socket = Socket {
        kind,
        state,
        inode: u32_at(message, HEADER + 4)?,
        name: OsString::new(),
        file: (0, 0),
        queue: (0, 0),
    };
    let mut has_file = false;
    let mut attributes = message.get(HEADER + MESSAGE..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let (attribute, others) = split(attributes, usize::from(length).max(ATTRIBUTE));
        let pair = u32_at(attribute, ATTRIBUTE).zip(u32_at(attribute, ATTRIBUTE + 4));
        match (kind, pair) {
            (UNIX_DIAG_NAME, _) => {
                let name = attribute.get(ATTRIBUTE..).unwrap_or_default();
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                socket.name = OsString::from_vec(name.get(..end).unwrap_or_default().to_vec());
            }
            (UNIX_DIAG_VFS, Some(file)) => (socket.file, has_file) = (file, true),
            (UNIX_DIAG_RQLEN, Some(queue)) => socket.queue = queue,
            _ => {}
        }
        attributes = others;
    }
    has_file.then_some(socket)
}

/// Reads one part of the answer; whether it is the last.
fn read_part(mut bytes: &[u8], sockets: &mut Vec<Socket>) -> Result<bool, Errno> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = usize::try_from(length).ok().filter(|length| *length >= HEADER).ok_or(Errno::EPROTO)?;
        let (message, rest) = split(bytes, length);
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let errno = u32_at(message, HEADER).map_or(0, |errno| (errno as i32).wrapping_neg());
                return Err(Errno::from_raw(errno));
            }
            _ => sockets.extend(socket_of(message)),
        }
        bytes = rest;
    }
    Ok(false)
}

fn dump() -> Result<Vec<Socket>, Errno> {
    let asker =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    send(asker.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut sockets = Vec::new();
    let mut room = vec![0; 64 << 10];
    loop {
        let count = recv(asker.as_raw_fd(), &mut room, MsgFlags::empty())?;
        if count == 0 {
            return Err(Errno::EPROTO);
        }
        if read_part(room.get(..count).unwrap_or_default(), &mut sockets)? {
            return Ok(sockets);
        }
    }
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
        for socket in dump()? {
            of_file.entry(socket.file.0).or_default().push(socket);
        }
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
    fn answer_that_is_cut_off_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let asker = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )
        .unwrap();
        send(asker.as_raw_fd(), &request(), MsgFlags::empty()).unwrap();
        let mut room = vec![0; 64 << 10];
        let count = recv(asker.as_raw_fd(), &mut room, MsgFlags::empty()).unwrap();
        for end in 0..count.min(2000) {
            let _ = read_part(&room[..end], &mut Vec::new());
        }
        room[..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert_eq!(read_part(&room, &mut Vec::new()), Err(Errno::EPROTO));
    }

    #[test]
    fn process_is_not_stopped_while_it_runs() {
        let pid = std::process::id() as i32;
        assert!(!is_stopped(pid));
        assert!(program(pid).is_some());
        assert!(!is_stopped(0) && program(0).is_none());
    }
}
