//! The socket file at a path: listen on the path, connect to the path, close the service and remove its file.
//!
//! A path has one of these states:
//!
//! ```text
//! no file ──bind──► alive ──the socket's last descriptor is closed──► dead ──unlink──► no file
//!                     └───unlink, by the process that opened the service───────────────► no file
//! ```
//!
//! Alive means that a socket is bound to the file. A server never takes a path that is alive, and replaces a
//! socket file that is dead. To find out which it is, the library calls connect(2) with a datagram socket:
//! the call fails with EPROTOTYPE if a stream socket is bound to the path, and with ECONNREFUSED if no socket
//! is. No server gets a client by this test, whether the server uses this library or the original one, or has
//! not called listen(2) yet.
//!
//! The process that has opened a service removes its file; the connection table notes which process that is
//! (`connection::state::Service`). Another process that closes the service, such as a forked child, removes
//! the file only if it is dead afterwards. A lock of the directory (flock(2)) keeps two starts apart, and a
//! start from a close by another process than the maker; the maker removes its file while the socket is
//! bound, and needs no lock.
//!
//! `sun_path` has 108 bytes. A longer path is reached through `/proc/self/fd`.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect as connect_to, socket};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, getpid, linkat, unlink, unlinkat};

use crate::connection::state::Service;
use crate::connection::table;
use crate::error::{Error, ipc_errors as Code};
use crate::kernel::deadline::Deadline;
use crate::kernel::fd;
use crate::kernel::file::File;
use crate::kernel::internal_fds::beyond_standard;
use crate::kernel::socket as kernel_socket;
use crate::kernel::socket_diag;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::EntryGuard;
use crate::service::path::{PATH_MAX, c_string};

/// How long a start, or a close by another process than the maker, waits for the lock of the directory. Any
/// user that can read the directory can hold its lock, so the wait has a deadline. Without the lock, two
/// servers that start within the same microseconds may conflict.
const DIRECTORY_LOCK_TIMEOUT_MS: i32 = 100;

/// The longest path in `sun_path`: 108 bytes with the NUL.
const SUN_PATH_MAX: usize = 107;

/// A socket address that fits into `sun_path`.
struct Address {
    /// The path itself, or a path below `/proc/self/fd`.
    address: UnixAddr,
    /// The descriptor that a path below `/proc/self/fd` refers to: it stays open as long as the address is
    /// used.
    through: Option<OwnedFd>,
}

impl Address {
    /// The address of a socket, or of the file `name` in a directory, through its descriptor. Does not use
    /// the heap: the caller may be a signal handler that has interrupted malloc(3).
    fn through(directory_or_socket: OwnedFd, name: &[u8]) -> nix::Result<Self> {
        let mut place = [0; SUN_PATH_MAX];
        let mut rest = &mut place[..];
        let written = write!(rest, "/proc/self/fd/{}", directory_or_socket.as_raw_fd()).and_then(|()| {
            if name.is_empty() { Ok(()) } else { rest.write_all(b"/").and_then(|()| rest.write_all(name)) }
        });
        written.map_err(|_| Errno::ENAMETOOLONG)?;
        let length = SUN_PATH_MAX - rest.len();
        let address = UnixAddr::new(place.get(..length).unwrap_or_default())?;
        Ok(Self { address, through: Some(directory_or_socket) })
    }

    /// The address of a socket file that exists.
    fn of_existing(path: &CStr) -> nix::Result<Self> {
        match path.count_bytes() {
            ..=SUN_PATH_MAX => Ok(Self { address: UnixAddr::new(path)?, through: None }),
            PATH_MAX.. => Err(Errno::ENAMETOOLONG),
            _ => Self::through(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?, b""),
        }
    }

    /// The bytes of `struct sockaddr_un`: the family, and the path with its NUL.
    fn bytes(&self) -> [u8; 2 + SUN_PATH_MAX + 1] {
        let mut bytes = [0; 2 + SUN_PATH_MAX + 1];
        let family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(0).to_ne_bytes();
        let path = self.address.path().map(|path| path.as_os_str().as_bytes()).unwrap_or_default();
        bytes.iter_mut().zip(family.iter().chain(path)).for_each(|(place, byte)| *place = *byte);
        bytes
    }

    /// The address of a socket file that is to be made in `directory`.
    fn in_directory(directory: &CStr, name: &[u8]) -> nix::Result<Self> {
        Self::through(open_directory(directory)?, name)
    }
}

fn open_directory(directory: &CStr) -> nix::Result<OwnedFd> {
    open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// A new stream socket, and whether it refuses descriptors (SO_PASSRIGHTS is off). The sockets that a
/// listening socket accepts inherit that.
fn stream_socket() -> nix::Result<(OwnedFd, bool)> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let socket = beyond_standard(socket);
    let refuses = kernel_socket::set_fd_passing(socket.as_raw_fd(), false).is_ok();
    Ok((socket, refuses))
}

fn as_path(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

fn directory_of(path: &CStr) -> &Path {
    match as_path(path).parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Takes the lock of the directory of `path`, until the returned descriptor is dropped. None if this user may
/// not read the directory, or another process holds the lock for too long: the caller then continues without
/// the lock.
fn lock_directory(path: &CStr) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // nix opens a shorter name without the heap.
    let name = Some(directory_of(path)).filter(|name| name.as_os_str().len() < 1024)?;
    let directory = open(name, flags, Mode::empty()).ok()?;
    let deadline = Deadline::of(DIRECTORY_LOCK_TIMEOUT_MS);
    loop {
        match fd::lock_file(&directory) {
            Ok(()) => return Some(directory),
            Err(Errno::EAGAIN | Errno::EINTR) if deadline.left() > 0 => {}
            Err(_) => return None,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a socket is bound to the path, which must be that of a socket file: any other file counts as dead.
/// ENOENT if there is no file.
pub fn is_alive(path: &CStr) -> nix::Result<bool> {
    let datagrams = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    match connect_to(datagrams.as_raw_fd(), &Address::of_existing(path)?.address) {
        Ok(()) | Err(Errno::EPROTOTYPE) => Ok(true),
        Err(Errno::ECONNREFUSED) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes a dead socket file; EADDRINUSE if a socket is bound to it. A file that is no socket stays, and
/// bind(2) then fails with EADDRINUSE.
fn remove_dead(path: &CStr) -> nix::Result<()> {
    match File::at(path) {
        Ok(file) if file.is(SFlag::S_IFSOCK) => match is_alive(path) {
            Ok(false) => unlink(path),
            Ok(true) => Err(Errno::EADDRINUSE),
            Err(Errno::ENOENT) => Ok(()),
            // This user may have the permission to remove the file, but not to connect to it.
            Err(Errno::EACCES | Errno::EPERM) => match socket_diag::is_bound(file.id()) {
                Ok(false) => unlink(path),
                _ => Err(Errno::EADDRINUSE),
            },
            Err(errno) => Err(errno),
        },
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Binds the socket to the path; EADDRINUSE if there is a file.
fn bind_at(socket: &OwnedFd, path: &CStr) -> nix::Result<()> {
    if path.count_bytes() <= SUN_PATH_MAX {
        return bind(socket.as_raw_fd(), &UnixAddr::new(path)?);
    }
    let directory = &c_string(directory_of(path).as_os_str().as_bytes())?;
    let name = as_path(path).file_name().ok_or(Errno::EINVAL)?.as_bytes();
    match Address::in_directory(directory, name) {
        Ok(address) => bind(socket.as_raw_fd(), &address.address),
        // The name alone is too long. The socket is bound to a short name, which is then linked to the long
        // name and removed. link(2) does not replace an existing file, as rename(2) would.
        Err(Errno::ENAMETOOLONG) => {
            let mut stand_in = [0; 32];
            let mut rest = &mut stand_in[..];
            write!(rest, ".ipc-{}", getpid()).map_err(|_| Errno::ENAMETOOLONG)?;
            let length = 32 - rest.len();
            let stand_in = stand_in.get(..length).unwrap_or_default();
            let parent = open_directory(directory)?;
            let _ = unlinkat(&parent, stand_in, UnlinkatFlags::NoRemoveDir);
            bind(socket.as_raw_fd(), &Address::in_directory(directory, stand_in)?.address)?;
            let linked = linkat(&parent, stand_in, AT_FDCWD, path, AtFlags::empty());
            unlinkat(&parent, stand_in, UnlinkatFlags::NoRemoveDir)?;
            match linked {
                Err(Errno::EEXIST) => Err(Errno::EADDRINUSE),
                result => result,
            }
        }
        Err(errno) => Err(errno),
    }
}

/// How many services the process has opened so far; written by `adopt` and `listen`.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// How many services the process has opened so far. If this has changed, a descriptor number that was checked
/// before may be that of a new service by now.
pub fn opened() -> u32 {
    OPENED.load(Ordering::Relaxed)
}

/// The options of a service's socket.
#[derive(Clone, Copy, Default)]
pub struct Options {
    /// The mode of the socket file; None: the umask decides.
    pub mode: Option<Mode>,
    /// The owner of the socket file; None: the user of this process.
    pub user: Option<Uid>,
    /// The group of the socket file; None: the group of this process.
    pub group: Option<Gid>,
    /// The backlog: how many clients may wait to be accepted; None: as many as the kernel allows.
    pub backlog: Option<i32>,
}

impl Options {
    /// Sets owner, group and mode of the socket file. This is done before listen(2), until which no client
    /// can connect: so no client can connect that the options do not permit.
    fn apply(&self, path: &CStr) -> nix::Result<()> {
        let Self { mode, user, group, .. } = *self;
        if (mode, user, group) == (None, None, None) {
            return Ok(());
        }
        // Any user that can write to the directory may have replaced the file by a symbolic link.
        let file = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        if !File::of(file.as_raw_fd())?.is(SFlag::S_IFSOCK) {
            return Err(Errno::EADDRINUSE);
        }
        if user.is_some() || group.is_some() {
            fchownat(&file, c"", user, group, AtFlags::AT_EMPTY_PATH)?;
        }
        let Some(mode) = mode else { return Ok(()) };
        let mut name = [0; 32];
        let mut rest = &mut name[..];
        write!(rest, "/proc/self/fd/{}", file.as_raw_fd()).map_err(|_| Errno::ENAMETOOLONG)?;
        let length = 32 - rest.len();
        fchmodat(AT_FDCWD, name.get(..length).unwrap_or_default(), mode, FchmodatFlags::FollowSymlink)
    }
}

/// Opens a service with a listening socket that was handed over to the process. Closing the service leaves
/// its file.
pub fn adopt(guard: &EntryGuard, fd: RawFd) -> nix::Result<()> {
    fd::set_close_on_exec(fd)?;
    // The longest backlog that the kernel allows; if that fails, the socket keeps its backlog.
    let _ = kernel_socket::listen(fd, None);
    table::lock_verified(guard, fd).connection()?.service =
        Some(Service { file: None, maker: Service::this_process(), absolute: None });
    OPENED.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Opens a service at the path; a dead socket file at the path is replaced.
pub fn listen(guard: &mut EntryGuard, path: &CStr, options: &Options) -> Result<RawFd, Error> {
    match path.count_bytes() {
        0 => return Err(Error::new(Code::IPC_ERROR_USOCK_INIT__EMPTY_PATH, Errno::EINVAL)),
        PATH_MAX.. => return Err(Error::new(Code::IPC_ERROR_USOCK_INIT__EMPTY_PATH, Errno::ENAMETOOLONG)),
        _ => {}
    }
    let failed_to_bind = |errno| Error::new(Code::IPC_ERROR_USOCK_INIT__BIND, errno);
    let (socket, refuses) = stream_socket()
        .map_err(|errno| Error::new(Code::IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR, errno))?;
    let _lock = guard.outside(|| lock_directory(path));
    remove_dead(path).map_err(failed_to_bind)?;
    // bind(2) makes the file with the socket's mode. If a mode is set, only this user has rights until the
    // file has its owner and group.
    let is_given_away = options.user.is_some() || options.group.is_some();
    let initial_mode = options.mode.map(|mode| if is_given_away { mode & Mode::S_IRWXU } else { mode });
    initial_mode.map_or(Ok(()), |mode| fchmod(&socket, mode)).map_err(failed_to_bind)?;
    bind_at(&socket, path).map_err(failed_to_bind)?;
    let fd = socket.as_raw_fd();
    let listen = || kernel_socket::listen(fd, options.backlog);
    let result = options
        .apply(path)
        .map_err(failed_to_bind)
        .and_then(|()| listen().map_err(|errno| Error::new(Code::IPC_ERROR_USOCK_INIT__LISTEN, errno)))
        .and_then(|()| note_service(guard, fd, path, refuses).map_err(failed_to_bind));
    match result {
        Ok(()) => {
            OPENED.fetch_add(1, Ordering::Relaxed);
            Ok(socket.into_raw_fd())
        }
        Err(error) => {
            let _ = unlink(path);
            Err(error)
        }
    }
}

/// Notes in the connection table that this process serves the path with this descriptor.
fn note_service(guard: &EntryGuard, fd: RawFd, path: &CStr, refuses: bool) -> nix::Result<()> {
    let service = Service {
        file: Some(File::at(path)?.id()),
        maker: Service::this_process(),
        absolute: absolute(path)?,
    };
    let mut slot = table::lock_verified(guard, fd);
    slot.connection()?.service = Some(service);
    if refuses {
        slot.note_refuses();
    }
    Ok(())
}

/// The absolute path for a relative path: the program may change its directory later, as daemon(3) does. None
/// if the path is absolute already, or if the current directory cannot be read or the absolute path is too
/// long.
fn absolute(path: &CStr) -> nix::Result<Option<CString>> {
    if path.to_bytes().first() == Some(&b'/') {
        return Ok(None);
    }
    let mut room = [0; PATH_MAX];
    let Ok(directory) = fd::current_directory(&mut room) else { return Ok(None) };
    let mut whole = Vec::new();
    whole.try_reserve_exact(directory.len() + 1 + path.count_bytes()).map_err(|_| Errno::ENOMEM)?;
    whole.extend_from_slice(directory);
    whole.push(b'/');
    whole.extend_from_slice(path.to_bytes());
    c_string(&whole).map(|whole| Some(whole).filter(|whole| whole.count_bytes() < PATH_MAX))
}

/// Whether the number is that of a service that this process, or a process that it was forked from, has
/// opened.
pub fn is_service(guard: &EntryGuard, fd: RawFd) -> bool {
    table::lock_verified(guard, fd).get().is_some_and(|connection| connection.service.is_some())
}

/// Closes a service and removes its socket file, unless another server has put its own file at the path, or
/// another process (such as the parent of a fork) still serves the file. If the file is not this service's,
/// the service is closed, and the error is IPC_ERROR_USOCK_REMOVE__NO_FILE.
///
/// A signal handler that interrupted the library has no guard, and so cannot look up which process made the
/// socket.
pub fn close_service(guard: Option<&mut EntryGuard>, fd: RawFd, path: &CStr) -> Result<(), Error> {
    let owned = guard.as_deref().and_then(|guard| {
        let mut slot = table::lock_verified(guard, fd);
        let service = slot.get().and_then(|connection| connection.service.take());
        if service.is_some() {
            slot.clear();
        }
        service
    });
    if owned.is_none() {
        // The library has not opened this socket, but it may be a service all the same: it must at least
        // listen.
        kernel_socket::check_listener(fd)
            .map_err(|_| Error::new(Code::IPC_ERROR_USOCK_CLOSE, Errno::EBADF))?;
    }
    let path = owned.as_ref().and_then(|service| service.absolute.as_deref()).unwrap_or(path);
    let file_now = File::at(path);
    let is_same_file = match (&owned, &file_now) {
        (Some(owned), Ok(file)) => owned.file == Some(file.id()),
        (None, Ok(file)) => file.is(SFlag::S_IFSOCK),
        (_, Err(_)) => false,
    };
    match &owned {
        Some(Service { file: None, .. }) => close(fd),
        // The file is removed before the socket is closed: no other server replaces a file whose socket is
        // still bound, so the removed file cannot be another server's.
        Some(owned) if is_same_file && owned.maker == Service::this_process() => {
            let removed = remove_file(path);
            close(fd).and(removed)
        }
        _ => {
            let closed = close(fd);
            let _lock = match guard {
                Some(guard) => guard.outside(|| lock_directory(path)),
                None => lock_directory(path),
            };
            let removed = match (file_now, is_same_file, is_alive(path)) {
                (_, true, Ok(false) | Err(Errno::ENOENT)) => remove_file(path),
                // Alive, or not known: the file stays.
                (_, true, _) => Ok(()),
                (Err(errno), ..) if errno != Errno::ENOENT => {
                    Err(Error::new(Code::IPC_ERROR_USOCK_REMOVE__UNLINK, errno))
                }
                _ => Err(Error::new(Code::IPC_ERROR_USOCK_REMOVE__NO_FILE, Errno::ENOENT)),
            };
            closed.and(removed)
        }
    }
}

/// Closes a descriptor, with the error code of the C interface.
pub fn close(fd: RawFd) -> Result<(), Error> {
    fd::close(fd).map_err(|errno| Error::new(Code::IPC_ERROR_USOCK_CLOSE, errno))
}

/// Removes the file at the path, with the error codes of the C interface.
pub fn remove_file(path: &CStr) -> Result<(), Error> {
    unlink(path).map_err(|errno| match errno {
        Errno::ENOENT => Error::new(Code::IPC_ERROR_USOCK_REMOVE__NO_FILE, errno),
        errno => Error::new(Code::IPC_ERROR_USOCK_REMOVE__UNLINK, errno),
    })
}

/// A connection that is being made, between its steps. Plain data: `give_up` or `finish` closes the
/// descriptors, or wait.c if the thread is cancelled.
#[derive(Clone, Copy)]
pub struct Connect {
    /// The socket.
    socket: RawFd,
    /// Whether the socket refuses descriptors.
    refuses: bool,
    /// The descriptor that the address leads through ([`Address`]), -1 if there is none.
    through: RawFd,
}

impl Connect {
    /// Makes a socket for the service at the path, and prepares the wait: connect(2).
    pub fn new(path: &CStr, wait: &mut Wait) -> Result<Self, Error> {
        match path.count_bytes() {
            0 => return Err(Error::new(Code::IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, Errno::EINVAL)),
            PATH_MAX.. => {
                return Err(Error::new(Code::IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, Errno::ENAMETOOLONG));
            }
            _ => {}
        }
        let (socket, refuses) = stream_socket().map_err(failed_to_connect)?;
        let address = Address::of_existing(path).map_err(failed_to_connect)?;
        let bytes = address.bytes();
        let through = address.through.map_or(-1, IntoRawFd::into_raw_fd);
        let connect = Self { socket: socket.into_raw_fd(), refuses, through };
        wait.connect(connect.socket, &bytes, [connect.socket, through]);
        Ok(connect)
    }

    /// The socket that is being connected.
    pub fn socket(&self) -> RawFd {
        self.socket
    }

    /// Closes the descriptors: the connection is not made.
    pub fn give_up(self) {
        for fd in [self.through, self.socket].into_iter().filter(|fd| *fd >= 0) {
            let _ = fd::close(fd);
        }
    }

    /// After the wait: the descriptor of the connection, which is noted in the table; or the error of
    /// connect(2).
    pub fn finish(self, guard: &EntryGuard, outcome: &Wait) -> Result<RawFd, Error> {
        if self.through >= 0 {
            let _ = fd::close(self.through);
        }
        let connected = outcome.result().and_then(|_| {
            let prepared = table::Prepared::without_settings(self.refuses);
            table::give_out(guard, self.socket, prepared)
        });
        connected.map(|()| self.socket).map_err(|errno| {
            let _ = fd::close(self.socket);
            failed_to_connect(errno)
        })
    }
}

fn failed_to_connect(errno: Errno) -> Error {
    Error::new(Code::IPC_ERROR_USOCK_CONNECT__SOCKET, errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wait::run_in_test;
    use nix::sys::socket::Backlog;
    use std::ffi::CString;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn c(path: &Path) -> CString {
        CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    fn enter() -> EntryGuard {
        EntryGuard::enter().unwrap()
    }

    #[test]
    fn bound_socket_is_alive_before_it_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert_eq!(is_alive(&c(&path)), Err(Errno::ENOENT));
        let (server, _) = stream_socket().unwrap();
        bind(server.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        assert_eq!(is_alive(&c(&path)), Ok(true));
        nix::sys::socket::listen(&server, Backlog::new(1).unwrap()).unwrap();
        assert_eq!(is_alive(&c(&path)), Ok(true));
        let listener = UnixListener::from(server);
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop(listener);
        assert_eq!(is_alive(&c(&path)), Ok(false));
    }

    #[test]
    fn listen_is_refused_when_another_file_has_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let (file, datagram) = (directory.path().join("f"), directory.path().join("d"));
        std::fs::write(&file, "kept").unwrap();
        let _other = UnixDatagram::bind(&datagram).unwrap();
        for path in [&file, &datagram] {
            let error = listen(&mut enter(), &c(path), &Options::default()).unwrap_err();
            assert_eq!(error, Error::new(Code::IPC_ERROR_USOCK_INIT__BIND, Errno::EADDRINUSE));
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn paths_longer_than_sun_path_are_served_and_connected_to() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        for name in ["short".to_owned(), "n".repeat(90), "n".repeat(255)] {
            for parent in [directory.path(), deep.as_path()] {
                let path = parent.join(&name);
                let server = listen(&mut enter(), &c(&path), &Options::default()).unwrap();
                let mut client = None;
                let wait = run_in_test(|wait| client = Some(Connect::new(&c(&path), wait).unwrap()));
                let client = client.unwrap().finish(&enter(), &wait).unwrap();
                let accepted = kernel_socket::accept(server).unwrap();
                let taken = listen(&mut enter(), &c(&path), &Options::default()).unwrap_err();
                assert_eq!(taken.errno, Errno::EADDRINUSE);
                close(client).unwrap();
                close(accepted).unwrap();
                close_service(Some(&mut enter()), server, &c(&path)).unwrap();
                assert_eq!(
                    std::fs::read_dir(parent)
                        .unwrap()
                        .filter(|entry| { entry.as_ref().unwrap().file_type().unwrap().is_file() })
                        .count(),
                    0
                );
                assert!(!path.exists());
            }
        }
    }

    #[test]
    fn close_service_keeps_file_of_another_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let first = listen(&mut enter(), &c(&path), &Options::default()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = UnixListener::bind(&path).unwrap();
        let error = close_service(Some(&mut enter()), first, &c(&path)).unwrap_err();
        assert_eq!(error.code, Code::IPC_ERROR_USOCK_REMOVE__NO_FILE);
        UnixStream::connect(&path).unwrap();
        drop(second);
    }
}
