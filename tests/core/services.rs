//! Promise 19: which server gets the path of a service, which server keeps the path, and what is removed at
//! its end.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use crate::child::{self, Child};
use crate::support::*;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};

child::roles! { opens_a_service, opens_many_at_once, serves }

/// Opens the service and sends the result to the test.
fn open(name: &str) -> ipc_connection_info {
    let mut srv = EMPTY_INFO;
    let name = CString::new(name).unwrap();
    set_errno(0);
    let code = unsafe { ipc_server_init(env(), &mut srv, name.as_ptr()) };
    child::send_line(format!("{} {}", code as i32, errno()));
    srv
}

const OPEN: &str = "0 0";

fn refused(errno: i32) -> String {
    format!("{} {errno}", IPC_ERROR_USOCK_INIT__BIND as i32)
}

fn opens_a_service() {
    let mut srv = open(&child::read_line());
    if child::read_line() == "close" {
        let code = unsafe { ipc_server_close(&mut srv) };
        child::send_line(format!("{}", code as i32));
    }
}

/// Starts a process that opens the service "s" in this directory. Returns the process and its result.
fn start(rundir: &Path) -> (Child, String) {
    let mut child = Child::run(child::command(opens_a_service).env("IPC_RUNDIR", rundir));
    child.send_line("s");
    let result = child.read_line();
    (child, result)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn promise_19_last_directory_is_made_if_missing() {
    own_process!(60);
    let top = tempfile::tempdir().unwrap();
    let (mut child, result) = start(&top.path().join("run"));
    assert_eq!(result, OPEN);
    UnixStream::connect(top.path().join("run/s-0-0")).unwrap();
    child.send_line("close");
    assert_eq!(child.read_line(), "0");
    let (_child, result) = start(&top.path().join("a/b"));
    assert_eq!(result, refused(libc::ENOENT));
    assert_eq!(names(top.path()), ["run"]);
    std::fs::write(top.path().join("file"), "").unwrap();
    let (_child, result) = start(&top.path().join("file"));
    assert_eq!(result, refused(libc::ENOTDIR));
}

#[test]
fn promise_19_dead_servers_socket_is_replaced() {
    own_process!(60);
    let rundir = tempfile::tempdir().unwrap();
    let path = rundir.path().join("s-0-0");
    for _ in 0..3 {
        let (mut child, result) = start(rundir.path());
        assert_eq!(result, OPEN);
        UnixStream::connect(&path).unwrap();
        child.signal(libc::SIGKILL);
        child.end();
        assert_eq!(names(rundir.path()), ["s-0-0"], "the dead server's socket is left");
        assert!(UnixStream::connect(&path).is_err());
    }
    // A socket that was bound and never listened is replaced, too.
    std::fs::remove_file(&path).unwrap();
    drop(bound(&path));
    let (_child, result) = start(rundir.path());
    assert_eq!(result, OPEN);
    UnixStream::connect(&path).unwrap();
}

/// A socket that is bound and does not listen.
fn bound(path: &Path) -> OwnedFd {
    let bound = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(bound.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    bound
}

fn usock_init_at(path: &Path) -> (ipc_errors, i32, i32) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut fd = -1;
    let code = unsafe { usock_init(&mut fd, path.as_ptr()) };
    (code, errno(), fd)
}

/// Asserts that no other server gets the path, neither in this process nor in another process.
fn assert_path_is_kept(rundir: &Path) {
    let before = names(rundir);
    let (code, errno, fd) = usock_init_at(&rundir.join("s-0-0"));
    assert_eq!((code, errno, fd), (IPC_ERROR_USOCK_INIT__BIND, libc::EADDRINUSE, -1));
    let (_child, result) = start(rundir);
    assert_eq!(result, refused(libc::EADDRINUSE));
    assert_eq!(names(rundir), before);
}

#[test]
fn promise_19_running_server_keeps_its_path() {
    own_process!(60);
    let rundir = tempfile::tempdir().unwrap();
    let path = rundir.path().join("s-0-0");
    let has_only_this_client = |listener: &UnixListener| {
        UnixStream::connect(&path).unwrap().write_all(b"here").unwrap();
        let mut got = String::new();
        listener.accept().unwrap().0.read_to_string(&mut got).unwrap();
        assert_eq!(got, "here", "no other client has connected before");
    };
    // A server of this library.
    let (mut child, result) = start(rundir.path());
    assert_eq!(result, OPEN);
    assert_path_is_kept(rundir.path());
    UnixStream::connect(&path).unwrap();
    child.send_line("close");
    assert_eq!(child.read_line(), "0");
    // A socket made with bind and listen; then a socket with a full backlog.
    let listener = UnixListener::bind(&path).unwrap();
    assert_path_is_kept(rundir.path());
    has_only_this_client(&listener);
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let waiting = UnixStream::connect(&path).unwrap();
    assert_path_is_kept(rundir.path());
    drop((listener.accept().unwrap(), waiting));
    has_only_this_client(&listener);
    drop(listener);
    // A socket that is bound and does not listen yet.
    std::fs::remove_file(&path).unwrap();
    let early = bound(&path);
    assert_path_is_kept(rundir.path());
    assert_eq!(unsafe { libc::listen(early.as_raw_fd(), 5) }, 0);
    has_only_this_client(&UnixListener::from(early));
    // A socket of another kind.
    std::fs::remove_file(&path).unwrap();
    let datagrams = UnixDatagram::bind(&path).unwrap();
    assert_path_is_kept(rundir.path());
    datagrams.connect(&path).unwrap();
}

#[test]
fn promise_19_file_that_is_no_socket_is_not_replaced() {
    own_process!(60);
    let rundir = tempfile::tempdir().unwrap();
    let path = rundir.path().join("s-0-0");
    std::fs::write(&path, "kept").unwrap();
    assert_path_is_kept(rundir.path());
    assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_path_is_kept(rundir.path());
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    assert_path_is_kept(rundir.path());
    assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("/nowhere"));
}

/// In each round: waits until the test unlocks the file, opens the service, and, after all processes have
/// sent their results, closes the socket so that it is dead.
fn opens_many_at_once() {
    let shot = std::env::var("SHOT").unwrap();
    for round in 0..ROUNDS {
        child::send_line("ready");
        let file = std::fs::File::open(&shot).unwrap();
        drop(Flock::lock(file, FlockArg::LockShared).unwrap());
        let srv = open(&format!("r{round}"));
        child::read_line();
        if srv.fd >= 0 {
            drop(unsafe { OwnedFd::from_raw_fd(srv.fd) });
        }
    }
}

const ROUNDS: usize = 10;

#[test]
fn promise_19_one_of_many_servers_started_at_once_wins() {
    own_process!(60);
    let rundir = tempfile::tempdir().unwrap();
    let shot = rundir.path().join("shot");
    std::fs::write(&shot, "").unwrap();
    let hold = || {
        let file = std::fs::File::open(&shot).unwrap();
        Flock::lock(file, FlockArg::LockExclusive).unwrap()
    };
    let mut held = hold();
    let mut command = child::command(opens_many_at_once);
    command.env("IPC_RUNDIR", rundir.path()).env("SHOT", &shot);
    let mut children: Vec<_> = (0..20).map(|_| Child::run(&mut command)).collect();
    for round in 0..ROUNDS {
        let path = rundir.path().join(format!("r{round}-0-0"));
        if round % 2 == 1 {
            // A dead socket, which all servers try to replace.
            drop(UnixListener::bind(&path).unwrap());
        }
        children.iter_mut().for_each(|child| assert_eq!(child.read_line(), "ready"));
        drop(held);
        let result: Vec<_> = children.iter_mut().map(Child::read_line).collect();
        let (winners, losers): (Vec<_>, Vec<_>) = result.iter().partition(|result| *result == OPEN);
        assert_eq!(winners.len(), 1, "round {round}: {result:?}");
        assert!(losers.iter().all(|result| **result == refused(libc::EADDRINUSE)), "{losers:?}");
        UnixStream::connect(&path).unwrap();
        held = hold();
        children.iter_mut().for_each(|child| child.send_line("on"));
    }
    drop(held);
    assert!(children.iter_mut().all(|child| child.end().success()));
}

/// Opens a service until the test sends a line, and then sends the result of ipc_server_close.
fn serves() {
    let mut program = child::server();
    child::send_line(program.path.to_str().unwrap());
    child::read_line();
    let spath = unsafe { std::ffi::CStr::from_ptr(program.srv.unwrap().spath) }.to_owned();
    assert_eq!(spath.as_bytes(), program.path.as_os_str().as_bytes());
    let code = unsafe { ipc_server_close(program.srv()) };
    child::send_line(format!("{} {}", code as i32, if code == IPC_ERROR_NONE { 0 } else { errno() }));
    assert!(program.srv.take().unwrap().spath.is_null());
}

#[test]
fn promise_19_server_removes_its_own_socket_only() {
    own_process!(60);
    let no_file = format!("{} {}", IPC_ERROR_USOCK_REMOVE__NO_FILE as i32, libc::ENOENT);
    let close_after = |change: fn(&Path), left: &str, check: fn(&Path)| {
        let rundir = tempfile::tempdir().unwrap();
        let mut child = Child::run(child::command(serves).env("IPC_RUNDIR", rundir.path()));
        let path = child.read_line();
        let path = Path::new(&path);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(names(rundir.path()), [name], "no lock file and no other file");
        change(path);
        child.send_line("end");
        assert_eq!(child.read_line(), left);
        assert!(child.end().success());
        check(path);
        assert!(names(rundir.path()).iter().all(|left| left == name));
    };
    close_after(|_| {}, "0 0", |path| assert!(!path.exists()));
    close_after(|path| std::fs::remove_file(path).unwrap(), &no_file, |path| assert!(!path.exists()));
    close_after(
        |path| {
            std::fs::remove_file(path).unwrap();
            std::mem::forget(UnixListener::bind(path).unwrap());
        },
        &no_file,
        |path| drop(UnixStream::connect(path).unwrap()),
    );
    close_after(
        |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, "kept").unwrap();
        },
        &no_file,
        |path| assert_eq!(std::fs::read(path).unwrap(), b"kept"),
    );
}

/// A child that closes the service of its parent cannot find out whether the service is alive: it has no
/// descriptor for that. The parent's file stays.
#[test]
fn promise_19_child_without_descriptors_keeps_its_parents_socket() {
    own_process!(30);
    let mut server = Program::server();
    let child = child::fork();
    if child == 0 {
        let lowest_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        // The number of the service is then free for the lock of the directory, and no other one.
        set_descriptor_limit(lowest_free as u64);
        let code = unsafe { ipc_server_close(server.srv()) };
        unsafe { libc::_exit(i32::from(code != IPC_ERROR_NONE)) };
    }
    child::wait_for(child);
    let _client = UnixStream::connect(&server.path).unwrap();
    assert!(matches!(server.next(), Reported::Connection(_)));
}
