//! The owner of a path: listen on the path, connect to it, close its service.
//!
//! A living server keeps its path. Whether one lives is asked with a datagram socket: connect(2) then
//! answers EPROTOTYPE where any socket is bound to the path and ECONNREFUSED where none is, and the server
//! never sees a client that is none, be it one of ours, one of the original library, or one that has not
//! come to listen(2) yet.
//!
//! `sun_path` holds 108 bytes. A longer path is reached through `/proc/self/fd`.

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
use crate::kernel::socket as door;
use crate::kernel::socket_diag;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::EntryGuard;
use crate::service::path::{PATH_MAX, c_string};

/// How long a start or an end waits for another server's start or end in the same directory. Whoever can
/// read the directory can hold its lock, so the wait has a limit; what then remains is a window of
/// microseconds between two servers that start at once.
const DIRECTORY_LOCK_LIMIT_MS: i32 = 100;

/// The longest path in `sun_path`: 108 bytes with the NUL.
const SUN_PATH_MAX: usize = 107;

/// An address that fits, and the descriptor that it leads through.
struct Address {
    address: UnixAddr,
    through: Option<OwnedFd>,
}

impl Address {
    /// Without the heap: a signal handler may have interrupted it.
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

    /// Of a socket that is there.
    fn of_existing(path: &CStr) -> nix::Result<Self> {
        match path.count_bytes() {
            ..=SUN_PATH_MAX => Ok(Self { address: UnixAddr::new(path)?, through: None }),
            PATH_MAX.. => Err(Errno::ENAMETOOLONG),
            _ => Self::through(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?, b""),
        }
    }

    /// As the kernel takes it: the family, and the path with its NUL.
    fn bytes(&self) -> [u8; 2 + SUN_PATH_MAX + 1] {
        let mut bytes = [0; 2 + SUN_PATH_MAX + 1];
        let family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(0).to_ne_bytes();
        let path = self.address.path().map(|path| path.as_os_str().as_bytes()).unwrap_or_default();
        bytes.iter_mut().zip(family.iter().chain(path)).for_each(|(place, byte)| *place = *byte);
        bytes
    }

    /// Of a socket that is to be made in `directory`.
    fn in_directory(directory: &CStr, name: &[u8]) -> nix::Result<Self> {
        Self::through(open_directory(directory)?, name)
    }
}

fn open_directory(directory: &CStr) -> nix::Result<OwnedFd> {
    open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// A socket, and whether it refuses descriptors. Those of a service's clients inherit that.
fn stream_socket() -> nix::Result<(OwnedFd, bool)> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let socket = beyond_standard(socket);
    let refuses = door::pass_descriptors(socket.as_raw_fd(), false).is_ok();
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

/// Waits for the directory of `path` to be ours; without the right to read it, or without result, goes on alone.
fn lock_directory(path: &CStr) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // A name that is no longer than this is opened without the heap.
    let name = Some(directory_of(path)).filter(|name| name.as_os_str().len() < 1024)?;
    let directory = open(name, flags, Mode::empty()).ok()?;
    let limit = Deadline::of(DIRECTORY_LOCK_LIMIT_MS);
    loop {
        match fd::lock(&directory) {
            Ok(()) => return Some(directory),
            Err(Errno::EAGAIN | Errno::EINTR) if limit.left() > 0 => {}
            Err(_) => return None,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a socket is bound to the path; ENOENT where there is no file.
pub fn is_alive(path: &CStr) -> nix::Result<bool> {
    let asker = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    match connect_to(asker.as_raw_fd(), &Address::of_existing(path)?.address) {
        Ok(()) | Err(Errno::EPROTOTYPE) => Ok(true),
        Err(Errno::ECONNREFUSED) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes a socket whose server is dead. What is no socket stays; bind(2) then says EADDRINUSE.
fn remove_dead(path: &CStr) -> nix::Result<()> {
    match File::at(path) {
        Ok(file) if file.is(SFlag::S_IFSOCK) => match is_alive(path) {
            Ok(false) => unlink(path),
            Ok(true) => Err(Errno::EADDRINUSE),
            Err(Errno::ENOENT) => Ok(()),
            // The file may be this user's to remove, and not to connect to.
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

fn bind_at(socket: &OwnedFd, path: &CStr) -> nix::Result<()> {
    if path.count_bytes() <= SUN_PATH_MAX {
        return bind(socket.as_raw_fd(), &UnixAddr::new(path)?);
    }
    let directory = &c_string(directory_of(path).as_os_str().as_bytes())?;
    let name = as_path(path).file_name().ok_or(Errno::EINVAL)?.as_bytes();
    match Address::in_directory(directory, name) {
        Ok(address) => bind(socket.as_raw_fd(), &address.address),
        // The name alone is too long: bound under a short one, which becomes the long one. link(2) does
        // not replace a file as rename(2) would.
        Err(Errno::ENAMETOOLONG) => {
            let mut stand_in = [0; 32];
            let mut rest = &mut stand_in[..];
            write!(rest, ".ipc-{}", getpid()).map_err(|_| Errno::ENAMETOOLONG)?;
            let length = 32 - rest.len();
            let stand_in = stand_in.get(..length).unwrap_or_default();
            let there = open_directory(directory)?;
            let _ = unlinkat(&there, stand_in, UnlinkatFlags::NoRemoveDir);
            bind(socket.as_raw_fd(), &Address::in_directory(directory, stand_in)?.address)?;
            let linked = linkat(&there, stand_in, AT_FDCWD, path, AtFlags::empty());
            unlinkat(&there, stand_in, UnlinkatFlags::NoRemoveDir)?;
            match linked {
                Err(Errno::EEXIST) => Err(Errno::EADDRINUSE),
                result => result,
            }
        }
        Err(errno) => Err(errno),
    }
}

/// How many services the process has opened.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// How many services the process has opened so far: a number that was one's before may be another's by now.
pub fn opened() -> u32 {
    OPENED.load(Ordering::Relaxed)
}

/// How a service's socket is made.
#[derive(Clone, Copy, Default)]
pub struct Options {
    /// The mode of its file; if there is none, the umask decides.
    pub mode: Option<Mode>,
    /// The owner of its file, if it differs from the user of this process.
    pub user: Option<Uid>,
    /// The group of its file, if it is another one.
    pub group: Option<Gid>,
    /// How many new clients may wait; if there is none, as many as the kernel grants.
    pub backlog: Option<i32>,
}

impl Options {
    /// Before listen(2): until then no client can connect, so at no moment can the wrong ones.
    fn apply(&self, path: &CStr) -> nix::Result<()> {
        let Self { mode, user, group, .. } = *self;
        if (mode, user, group) == (None, None, None) {
            return Ok(());
        }
        // Whoever can write to the directory may have put a link there.
        let file = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        if !File::behind(file.as_raw_fd())?.is(SFlag::S_IFSOCK) {
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

/// Serves by a listening socket that somebody else has made, whose file stays at the end.
pub fn adopt(guard: &EntryGuard, fd: RawFd) -> nix::Result<()> {
    fd::set_close_on_exec(fd)?;
    // A longer queue, if that can be had.
    let _ = door::listen(fd, None);
    table::lock_verified(guard, fd).entry()?.service =
        Some(Service { file: None, maker: Service::this_process(), absolute: None });
    OPENED.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Opens a service at the path; a dead socket that is there is replaced.
pub fn listen(guard: &mut EntryGuard, path: &CStr, options: &Options) -> Result<RawFd, Error> {
    match path.count_bytes() {
        0 => return Err(Error::new(Code::IPC_ERROR_USOCK_INIT__EMPTY_PATH, Errno::EINVAL)),
        PATH_MAX.. => return Err(Error::new(Code::IPC_ERROR_USOCK_INIT__EMPTY_PATH, Errno::ENAMETOOLONG)),
        _ => {}
    }
    let failed_to_bind = |errno| Error::new(Code::IPC_ERROR_USOCK_INIT__BIND, errno);
    let (socket, refuses) = stream_socket()
        .map_err(|errno| Error::new(Code::IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR, errno))?;
    let _alone = guard.outside(|| lock_directory(path));
    remove_dead(path).map_err(failed_to_bind)?;
    // The file gets no more rights than the socket has: until it has its owner and group, none for others than the owner.
    let is_given_away = options.user.is_some() || options.group.is_some();
    let first = options.mode.map(|mode| if is_given_away { mode & Mode::S_IRWXU } else { mode });
    first.map_or(Ok(()), |mode| fchmod(&socket, mode)).map_err(failed_to_bind)?;
    bind_at(&socket, path).map_err(failed_to_bind)?;
    let fd = socket.as_raw_fd();
    let listen = || door::listen(fd, options.backlog);
    let result = options
        .apply(path)
        .map_err(failed_to_bind)
        .and_then(|()| listen().map_err(|errno| Error::new(Code::IPC_ERROR_USOCK_INIT__LISTEN, errno)))
        .and_then(|()| remember(guard, fd, path, refuses).map_err(failed_to_bind));
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

fn remember(guard: &EntryGuard, fd: RawFd, path: &CStr, refuses: bool) -> nix::Result<()> {
    let service = Service {
        file: Some(File::at(path)?.id()),
        maker: Service::this_process(),
        absolute: absolute(path)?,
    };
    let mut slot = table::lock_verified(guard, fd);
    slot.entry()?.service = Some(service);
    if refuses {
        slot.note_refuses();
    }
    Ok(())
}

/// The whole path of a relative one: the program may change its directory, as daemon(3) does. None if it is whole already,
/// or cannot be had.
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

/// Whether the number is that of a service which this process, or the one it was forked from, has opened.
pub fn is_service(guard: &EntryGuard, fd: RawFd) -> bool {
    table::lock_verified(guard, fd).get().is_some_and(|connection| connection.service.is_some())
}

/// Closes a service and removes its socket, and only its own: not one that another server has put at the
/// path since, and not one that the process it was forked from still serves.
///
/// A signal handler that interrupted the library has no guard and cannot look up which process made the socket.
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
        // One that the program has from elsewhere listens at least.
        door::check_listener(fd).map_err(|_| Error::new(Code::IPC_ERROR_USOCK_CLOSE, Errno::EBADF))?;
    }
    let path = owned.as_ref().and_then(|service| service.absolute.as_deref()).unwrap_or(path);
    let there = File::at(path);
    let ours = match (&owned, &there) {
        (Some(owned), Ok(file)) => owned.file == Some(file.id()),
        (None, Ok(file)) => file.is(SFlag::S_IFSOCK),
        (_, Err(_)) => false,
    };
    match &owned {
        Some(Service { file: None, .. }) => close(fd),
        // While the socket lives no server replaces it: removed first, there is no moment for a mistake.
        Some(owned) if ours && owned.maker == Service::this_process() => {
            let removed = remove(path);
            close(fd).and(removed)
        }
        _ => {
            let closed = close(fd);
            let _alone = match guard {
                Some(guard) => guard.outside(|| lock_directory(path)),
                None => lock_directory(path),
            };
            let removed = match (there, ours, is_alive(path)) {
                (_, true, Ok(true)) => Ok(()),
                (_, true, _) => remove(path),
                (Err(errno), ..) if errno != Errno::ENOENT => {
                    Err(Error::new(Code::IPC_ERROR_USOCK_REMOVE__UNLINK, errno))
                }
                _ => Err(Error::new(Code::IPC_ERROR_USOCK_REMOVE__NO_FILE, Errno::ENOENT)),
            };
            closed.and(removed)
        }
    }
}

/// Closes a descriptor.
pub fn close(fd: RawFd) -> Result<(), Error> {
    fd::close(fd).map_err(|errno| Error::new(Code::IPC_ERROR_USOCK_CLOSE, errno))
}

/// Removes the file at the path.
pub fn remove(path: &CStr) -> Result<(), Error> {
    unlink(path).map_err(|errno| match errno {
        Errno::ENOENT => Error::new(Code::IPC_ERROR_USOCK_REMOVE__NO_FILE, errno),
        errno => Error::new(Code::IPC_ERROR_USOCK_REMOVE__UNLINK, errno),
    })
}

/// A connection that is being made, between its steps: plain data.
#[derive(Clone, Copy)]
pub struct Connect {
    socket: RawFd,
    refuses: bool,
    through: RawFd,
}

impl Connect {
    /// Makes a socket for the service at the path, and says what to wait for: connect(2).
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

    /// No connection is made.
    pub fn give_up(self) {
        for fd in [self.through, self.socket].into_iter().filter(|fd| *fd >= 0) {
            let _ = fd::close(fd);
        }
    }

    /// The wait is over: the descriptor of the connection.
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
    fn a_bound_socket_is_alive_before_it_listens_and_sees_no_client() {
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
    fn other_files_and_other_sockets_keep_the_path() {
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
    fn a_path_of_each_awkward_length_is_listened_on_and_connected_to() {
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
                let accepted = door::accept(server).unwrap();
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
    fn another_servers_socket_at_the_path_stays() {
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
