//! ipc_server_open: mode, owner and socket of a service; services whose sockets a service manager hands over;
//! ipc_connection_timeout: connecting within a timeout, also to a service that starts later.

use std::ffi::{CString, c_int};
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::child::{self, Child, fork};
use crate::support::ext::*;
use crate::support::*;

child::roles! { serves_with_inherited_socket, leaves_sockets_of_other_processes, cancels_a_waiting_thread }

const NONE: ipc_server_options = ipc_server_options { flags: 0, mode: 0, uid: 0, gid: 0, backlog: 0, fd: 0 };

/// The run directory; a child process has its test's.
fn directory() -> PathBuf {
    std::env::var_os("IPC_RUNDIR").map_or_else(|| rundir().clone(), PathBuf::from)
}

/// The path of the service with this name.
fn path_of(name: &str) -> PathBuf {
    directory().join(format!("{name}-0-0"))
}

fn open(name: &str, options: *const ipc_server_options) -> Result<ipc_connection_info, Failure> {
    directory();
    let mut srv = EMPTY_INFO;
    let name = CString::new(name).unwrap();
    let result = outcome(unsafe { ipc_server_open(&mut srv, name.as_ptr(), options) });
    if result.is_err() {
        assert_eq!(srv.fd, -1);
        unsafe { libc::free(srv.spath.cast()) };
    }
    result.map(|()| srv)
}

fn close(mut srv: ipc_connection_info) {
    assert_eq!(outcome(unsafe { ipc_server_close(&mut srv) }), Ok(()));
}

fn connect(name: &str, timeout: c_int) -> Result<c_int, Failure> {
    directory();
    let mut mine = ipc_connection_info { fd: 4711, ..EMPTY_INFO };
    let name = CString::new(name).unwrap();
    set_errno(4711);
    let result = outcome(unsafe { ipc_connection_timeout(&mut mine, name.as_ptr(), timeout) });
    match result {
        Ok(()) => assert_eq!(errno(), 4711),
        Err(_) => assert_eq!(mine.fd, -1),
    }
    result.map(|()| mine.fd)
}

const TIMED_OUT: Failure = (IPC_ERROR_USOCK_CONNECT__SOCKET, libc::ETIMEDOUT);

fn is_root() -> bool {
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn ipc_server_open_without_options_is_ipc_server_init() {
    own_process!(30);
    let options = NONE;
    for options in [std::ptr::null(), &raw const options] {
        let srv = open("plain", options).unwrap();
        assert_eq!(open("plain", options).err(), Some((IPC_ERROR_USOCK_INIT__BIND, libc::EADDRINUSE)));
        let mine = connect("plain", 0).unwrap();
        assert_eq!(usock_close(mine), IPC_ERROR_NONE);
        close(srv);
        assert!(!path_of("plain").exists());
    }
}

#[test]
fn mode_is_as_requested_for_any_umask() {
    own_process!(30);
    for umask in [0o077, 0o022, 0, 0o777] {
        unsafe { libc::umask(umask) };
        for mode in [0, 0o600, 0o660, 0o666, 0o777, 0o400] {
            for name in ["mode".to_owned(), "m".repeat(120), "n".repeat(250)] {
                let options = ipc_server_options { flags: IPC_SERVER_MODE, mode, ..NONE };
                let srv = open(&name, &options).unwrap();
                let file = std::fs::symlink_metadata(path_of(&name)).unwrap();
                assert_eq!(file.permissions().mode() & 0o7777, mode, "umask {umask:o}");
                close(srv);
                assert!(!path_of(&name).exists());
            }
        }
    }
    unsafe { libc::umask(0o022) };
}

#[test]
fn owner_and_group_are_as_requested_or_open_fails() {
    own_process!(30);
    if !is_root() {
        say("SKIPPED: another owner of a socket, which only root can give");
        let options = ipc_server_options { flags: IPC_SERVER_UID, uid: 0, ..NONE };
        assert_eq!(open("owner", &options).err(), Some((IPC_ERROR_USOCK_INIT__BIND, libc::EPERM)));
        assert!(!path_of("owner").exists());
        return;
    }
    for (flags, owner) in [
        (IPC_SERVER_UID, (4321, 0)),
        (IPC_SERVER_GID, (0, 1234)),
        (IPC_SERVER_UID | IPC_SERVER_GID | IPC_SERVER_MODE, (4321, 1234)),
    ] {
        let options = ipc_server_options { flags, mode: 0o660, uid: 4321, gid: 1234, ..NONE };
        let srv = open("owner", &options).unwrap();
        let file = std::fs::symlink_metadata(path_of("owner")).unwrap();
        assert_eq!((file.uid(), file.gid()), owner);
        close(srv);
    }
}

/// A user without the right to connect is refused at any moment while services are opened: mode and group are
/// set before the first client can connect.
#[test]
fn no_client_connects_before_the_mode_is_set() {
    own_process!(60);
    if !is_root() {
        return say("SKIPPED: a client of another user, only root can start one");
    }
    std::fs::set_permissions(rundir(), Permissions::from_mode(0o755)).unwrap();
    for parent in rundir().ancestors().skip(1).take_while(|parent| *parent != Path::new("/tmp")) {
        let _ = std::fs::set_permissions(parent, Permissions::from_mode(0o755));
    }
    unsafe { libc::umask(0) };
    let client = fork();
    if client == 0 {
        // The client is in the group that the socket has before its group is set.
        unsafe {
            libc::setgroups(0, std::ptr::null());
            libc::setuid(4321);
        }
        let end = Instant::now() + Duration::from_secs(2);
        let mut refused = 0;
        while Instant::now() < end {
            match UnixStream::connect(path_of("shut")) {
                Ok(_) => unsafe { libc::_exit(1) },
                Err(error) => refused += u32::from(error.raw_os_error() == Some(libc::EACCES)),
            }
        }
        unsafe { libc::_exit(if refused > 0 { 0 } else { 2 }) };
    }
    let mut status = 0;
    while unsafe { libc::waitpid(client, &mut status, libc::WNOHANG) } == 0 {
        let options =
            ipc_server_options { flags: IPC_SERVER_MODE | IPC_SERVER_GID, mode: 0o660, gid: 5, ..NONE };
        let srv = open("shut", &options).unwrap();
        let mut event = EMPTY_EVENT;
        let (mut list, mut service) = (EMPTY_LIST, srv);
        assert_eq!(
            outcome(unsafe { ipc_wait_event_timeout(&mut list, &mut service, &mut event, 0) }),
            Ok(())
        );
        assert!(event.origin.is_null());
        close(srv);
    }
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:x}");
}

#[test]
fn backlog_option_limits_waiting_clients() {
    own_process!(30);
    let options = ipc_server_options { flags: IPC_SERVER_BACKLOG, backlog: 2, ..NONE };
    let srv = open("short", &options).unwrap();
    let clients: Vec<_> = (0..3).map(|_| connect("short", 0).unwrap()).collect();
    let begin = Instant::now();
    assert_eq!(connect("short", 50).err(), Some(TIMED_OUT));
    assert!(begin.elapsed() >= Duration::from_millis(50));
    // ipc_accept makes room while a client waits.
    let waiter = std::thread::spawn(|| connect("short", 60_000));
    let (mut service, mut client) = (srv, EMPTY_INFO);
    assert_eq!(outcome(unsafe { ipc_accept(&mut service, &mut client) }), Ok(()));
    let late = waiter.join().unwrap().unwrap();
    let mut times: libc::timeval = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&times) as u32;
    let asked = unsafe {
        libc::getsockopt(late, libc::SOL_SOCKET, libc::SO_SNDTIMEO, (&raw mut times).cast(), &mut size)
    };
    assert_eq!((asked, times.tv_sec, times.tv_usec), (0, 0, 0), "SO_SNDTIMEO was set for the connect only");
    for mine in clients.into_iter().chain([late, client.fd]) {
        assert_eq!(usock_close(mine), IPC_ERROR_NONE);
    }
    close(srv);
    let options = ipc_server_options { flags: IPC_SERVER_BACKLOG, backlog: c_int::MAX, ..NONE };
    close(open("long", &options).unwrap());
}

#[test]
fn number_is_minus_one_after_each_failure() {
    own_process!(30);
    rundir();
    let wrong = ipc_server_options { flags: 32, ..NONE };
    let name = c"none".as_ptr();
    type Call<'a> = &'a dyn Fn(*mut ipc_connection_info) -> ipc_errors;
    let calls: [Call<'_>; 7] = [
        &|p| unsafe { ipc_server_open(p, name, &wrong) },
        &|p| unsafe { ipc_server_open(p, none(), none()) },
        &|p| unsafe { ipc_server_init(env(), p, none()) },
        &|p| unsafe { ipc_server_init(std::ptr::null_mut(), p, name) },
        &|p| unsafe { ipc_connection(env(), p, none()) },
        &|p| unsafe { ipc_connection(std::ptr::null_mut(), p, name) },
        &|p| unsafe { ipc_connection_timeout(p, none(), 0) },
    ];
    for (number, call) in calls.iter().enumerate() {
        let mut info = ipc_connection_info { fd: 0, ..EMPTY_INFO };
        assert_ne!(call(&mut info), IPC_ERROR_NONE, "{number}");
        assert_eq!(info.fd, -1, "{number}");
    }
}

#[test]
fn wrong_options_open_nothing() {
    own_process!(30);
    let before = open_descriptors();
    let (stream, other) = UnixStream::pair().unwrap();
    let datagrams = UnixDatagram::unbound().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (file, _end) = pipe();
    let invalid = Some((IPC_ERROR_USOCK_INIT__BIND, libc::EINVAL));
    for options in [
        ipc_server_options { flags: 32, ..NONE },
        ipc_server_options { flags: u32::MAX, ..NONE },
        ipc_server_options { flags: IPC_SERVER_MODE, mode: 0o1000, ..NONE },
        ipc_server_options { flags: IPC_SERVER_BACKLOG, backlog: -1, ..NONE },
        ipc_server_options { flags: IPC_SERVER_FD | IPC_SERVER_MODE, fd: stream.as_raw_fd(), ..NONE },
        ipc_server_options { flags: IPC_SERVER_FD | IPC_SERVER_BACKLOG, fd: stream.as_raw_fd(), ..NONE },
    ] {
        assert_eq!(open("wrong", &options).err(), invalid);
    }
    for (fd, errno) in [
        (-1, libc::EBADF),
        (900_000, libc::EBADF),
        (file.as_raw_fd(), libc::ENOTSOCK),
        (stream.as_raw_fd(), libc::EINVAL),
        (other.as_raw_fd(), libc::EINVAL),
        (datagrams.as_raw_fd(), libc::EINVAL),
        (tcp.as_raw_fd(), libc::EINVAL),
    ] {
        let options = ipc_server_options { flags: IPC_SERVER_FD, fd, ..NONE };
        let expected = Some((IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR, errno));
        assert_eq!(open("wrong", &options).err(), expected, "{fd}");
    }
    let name = c"wrong".as_ptr();
    let code = unsafe { ipc_server_open(none(), name, &NONE) };
    assert_eq!(outcome(code), Err((IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM, libc::EINVAL)));
    let mut srv = EMPTY_INFO;
    let code = unsafe { ipc_server_open(&mut srv, none(), &NONE) };
    assert_eq!(outcome(code), Err((IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM, libc::EINVAL)));
    let code = unsafe { ipc_connection_timeout(none(), name, 0) };
    assert_eq!(outcome(code), Err((IPC_ERROR_CONNECTION__NO_SERVER, libc::EINVAL)));
    let code = unsafe { ipc_connection_timeout(&mut srv, none(), 0) };
    assert_eq!(outcome(code), Err((IPC_ERROR_CONNECTION__NO_SERVICE_NAME, libc::EINVAL)));
    assert_eq!(
        connect(&"x".repeat(5000), -1).err(),
        Some((IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, libc::ENAMETOOLONG))
    );
    assert!(!path_of("wrong").exists());
    drop((stream, other, datagrams, tcp, file, _end));
    assert_eq!(open_descriptors(), before);
}

/// Waits for events until the first message of a client, and returns its payload.
fn first_message(srv: &mut ipc_connection_info) -> Vec<u8> {
    let (mut list, mut event) = (EMPTY_LIST, EMPTY_EVENT);
    loop {
        assert_eq!(outcome(unsafe { ipc_wait_event(&mut list, srv, &mut event) }), Ok(()));
        if unsafe { event.r#type.assume_init() } == ipc_event_type::IPC_EVENT_TYPE_MESSAGE {
            let message = event.m.cast::<ipc_message>();
            let (_, payload) = take_payload(unsafe { *message });
            unsafe {
                ipc_close(event.origin);
                ipc_del(&mut list, event.origin);
                libc::free(event.origin.cast());
                ipc_message_empty(message);
                libc::free(message.cast());
            }
            return payload;
        }
    }
}

#[test]
fn socket_of_the_program_serves_and_its_file_is_kept() {
    own_process!(30);
    let elsewhere = rundir().join("anywhere");
    let listener = UnixListener::bind(&elsewhere).unwrap();
    let fd = listener.into_raw_fd();
    let options = ipc_server_options { flags: IPC_SERVER_FD, fd, ..NONE };
    let mut srv = open("given", &options).unwrap();
    assert_eq!(srv.fd, fd);
    assert_eq!(open("again", &options).err(), Some((IPC_ERROR_USOCK_INIT__BIND, libc::EBUSY)));
    let mut peer = UnixStream::connect(&elsewhere).unwrap();
    peer.write_all(&frame(1, b"hello")).unwrap();
    assert_eq!(first_message(&mut srv), b"hello");
    close(srv);
    assert!(!is_open(fd));
    assert!(elsewhere.exists());
}

/// A child in this role, whose descriptors 3 and 4 are these sockets.
fn handed_over(role: impl Fn(), listeners: &[UnixListener; 2]) -> Child {
    let fds = listeners.each_ref().map(AsRawFd::as_raw_fd);
    let mut command = child::command(role);
    let hand_over = move || {
        // First to high numbers, so that neither dup2 closes the other socket.
        for (place, fd) in (200..).zip(fds) {
            unsafe { libc::dup2(fd, place) };
        }
        for place in [0, 1] {
            unsafe { libc::dup2(200 + place, 3 + place) };
            unsafe { libc::close(200 + place) };
        }
        Ok(())
    };
    unsafe { command.pre_exec(hand_over) };
    Child::run(&mut command)
}

/// Descriptors 3 and 4 are listening sockets; the second one is the service's.
fn serves_with_inherited_socket() {
    child::read_line();
    for (name, value) in [(c"LISTEN_PID", unsafe { libc::getpid() }), (c"LISTEN_FDS", 2)] {
        let value = CString::new(value.to_string()).unwrap();
        unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) };
    }
    let mut srv = EMPTY_INFO;
    assert_eq!(outcome(unsafe { ipc_server_init(env(), &mut srv, c"activated".as_ptr()) }), Ok(()));
    assert_eq!(srv.fd, 4);
    assert_eq!(unsafe { libc::fcntl(4, libc::F_GETFD) }, libc::FD_CLOEXEC);
    let path = unsafe { std::ffi::CStr::from_ptr(srv.spath) };
    assert_eq!(path.to_bytes().last_chunk(), Some(b"/activated-0-0"));
    assert_eq!(first_message(&mut srv), b"wake up");
    // The handed-over socket is in use already; a service without a handed-over socket gets a new one.
    let mut other = EMPTY_INFO;
    let code = unsafe { ipc_server_init(env(), &mut other, c"activated".as_ptr()) };
    assert_eq!(outcome(code), Err((IPC_ERROR_USOCK_INIT__BIND, libc::EADDRINUSE)));
    unsafe { libc::free(other.spath.cast()) };
    close(srv);
    assert!(!is_open(4) && is_open(3));
    let another = open("another", none()).unwrap();
    assert!(path_of("another").exists());
    close(another);
    child::send_line("ended");
}

#[test]
fn socket_of_a_service_manager_is_used_and_file_is_kept() {
    own_process!(60);
    let listeners = ["other", "activated"].map(|name| UnixListener::bind(path_of(name)).unwrap());
    let mut peer = UnixStream::connect(path_of("activated")).unwrap();
    peer.write_all(&frame(1, b"wake up")).unwrap();
    for round in 0..2 {
        let mut child = handed_over(serves_with_inherited_socket, &listeners);
        child.send_line("go");
        assert_eq!(child.read_line(), "ended");
        assert!(child.end().success());
        assert!(path_of("activated").exists(), "the file belongs to the manager");
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        if round == 0 {
            // A client that connects between two starts is served by the next process.
            peer = UnixStream::connect(path_of("activated")).unwrap();
            peer.write_all(&frame(1, b"wake up")).unwrap();
        }
    }
}

/// Descriptors 3 and 4 are listening sockets, but LISTEN_PID and LISTEN_FDS do not give them to this process.
fn leaves_sockets_of_other_processes() {
    child::read_line();
    let set = |name: &std::ffi::CStr, value: String| {
        let value = CString::new(value).unwrap();
        unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) };
    };
    let me = unsafe { libc::getpid() };
    for (pid, count) in [(me + 1, "2"), (me, "0"), (me, "two"), (me, "1")] {
        set(c"LISTEN_PID", pid.to_string());
        set(c"LISTEN_FDS", count.to_owned());
        let taken = open("activated", none()).err();
        assert_eq!(taken, Some((IPC_ERROR_USOCK_INIT__BIND, libc::EADDRINUSE)), "{pid} {count}");
    }
    child::send_line("ended");
}

#[test]
fn sockets_for_other_processes_are_left_alone() {
    own_process!(60);
    let listeners = ["other", "activated"].map(|name| UnixListener::bind(path_of(name)).unwrap());
    let mut child = handed_over(leaves_sockets_of_other_processes, &listeners);
    child.send_line("go");
    assert_eq!(child.read_line(), "ended");
    assert!(child.end().success());
}

#[test]
fn service_started_within_timeout_is_connected() {
    own_process!(60);
    let before = open_descriptors();
    for timeout in [60_000, -1] {
        let waiter = std::thread::spawn(move || connect("late", timeout));
        until("the call waits", || open_descriptors() > before);
        let srv = open("late", none()).unwrap();
        let mine = waiter.join().unwrap().unwrap();
        assert_eq!(usock_close(mine), IPC_ERROR_NONE);
        close(srv);
        assert_eq!(open_descriptors(), before);
    }
}

#[test]
fn restarted_service_is_connected() {
    own_process!(60);
    for timeout in [60_000, -1] {
        drop(UnixListener::bind(path_of("dead")).unwrap());
        let before = open_descriptors();
        let waiter = std::thread::spawn(move || connect("dead", timeout));
        until("the call waits", || open_descriptors() > before);
        let srv = open("dead", none()).unwrap();
        let mine = waiter.join().unwrap().unwrap();
        assert_eq!(usock_close(mine), IPC_ERROR_NONE);
        close(srv);
    }
}

#[test]
fn service_that_listens_after_bind_is_connected() {
    own_process!(60);
    rundir();
    let before = open_descriptors();
    let waiter = std::thread::spawn(|| connect("slow", 60_000));
    until("the call waits", || open_descriptors() > before);
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    let path = path_of("slow");
    for (place, byte) in address.sun_path.iter_mut().zip(path.as_os_str().as_encoded_bytes()) {
        *place = *byte as _;
    }
    let size = size_of_val(&address) as u32;
    assert_eq!(unsafe { libc::bind(socket, (&raw const address).cast(), size) }, 0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished());
    assert_eq!(unsafe { libc::listen(socket, 5) }, 0);
    let mine = waiter.join().unwrap().unwrap();
    assert_eq!((usock_close(mine), usock_close(socket)), (IPC_ERROR_NONE, IPC_ERROR_NONE));
}

#[test]
fn service_in_a_directory_made_later_is_connected() {
    own_process!(60);
    let top = rundir().clone();
    let run = top.join("a/b/c");
    unsafe { std::env::set_var("IPC_RUNDIR", &run) };
    let before = open_descriptors();
    let waiter = std::thread::spawn(|| {
        let mut mine = EMPTY_INFO;
        let result = outcome(unsafe { ipc_connection_timeout(&mut mine, c"deep".as_ptr(), 60_000) });
        result.map(|()| mine.fd)
    });
    until("the call waits", || open_descriptors() > before);
    for part in ["a", "a/b", "a/b/c"] {
        std::thread::sleep(Duration::from_millis(5));
        std::fs::create_dir(top.join(part)).unwrap();
    }
    let listener = UnixListener::bind(run.join("deep-0-0")).unwrap();
    let mine = waiter.join().unwrap().unwrap();
    assert_eq!(usock_close(mine), IPC_ERROR_NONE);
    drop(listener);
}

#[test]
fn connection_timeout_ends_in_time_and_leaves_nothing() {
    own_process!(60);
    rundir();
    let _other_kind = UnixDatagram::bind(path_of("datagrams")).unwrap();
    drop(UnixListener::bind(path_of("dead")).unwrap());
    let before = open_descriptors();
    for name in ["missing", "dead"] {
        for timeout in [0, 1, 30, 300] {
            let begin = Instant::now();
            assert_eq!(connect(name, timeout).err(), Some(TIMED_OUT), "{name}");
            assert!(begin.elapsed() >= Duration::from_millis(timeout.unsigned_abs().into()));
        }
    }
    // Failures that a longer wait cannot change are reported at once.
    std::fs::write(path_of("file"), "").unwrap();
    std::fs::create_dir(path_of("directory")).unwrap();
    let wrong = |errno| Some((IPC_ERROR_USOCK_CONNECT__SOCKET, errno));
    assert_eq!(connect("datagrams", -1).err(), wrong(libc::EPROTOTYPE));
    for name in ["file", "directory"] {
        assert_eq!(connect(name, -1).err(), wrong(libc::ECONNREFUSED), "{name}");
    }
    assert_eq!(open_descriptors(), before);
}

extern "C" fn nothing(_: c_int) {}

#[test]
fn signal_handler_ends_only_a_wait_without_timeout() {
    own_process!(60);
    rundir();
    unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t) };
    let before = open_descriptors();
    for timeout in [300, -1] {
        let (sender, ids) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            sender.send(unsafe { libc::pthread_self() }).unwrap();
            let begin = Instant::now();
            (connect("missing", timeout).err().unwrap(), begin.elapsed())
        });
        let thread = ids.recv().unwrap();
        until("the call waits", || open_descriptors() > before);
        while !waiter.is_finished() {
            assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
            std::thread::sleep(Duration::from_millis(10));
        }
        let (failure, elapsed) = waiter.join().unwrap();
        if timeout < 0 {
            assert_eq!(failure, (IPC_ERROR_USOCK_CONNECT__SOCKET, libc::EINTR));
        } else {
            assert_eq!(failure, TIMED_OUT);
            assert!(elapsed >= Duration::from_millis(300));
        }
        assert_eq!(open_descriptors(), before);
    }
}

extern "C" fn waits_for_ever(_: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
    let mut mine = EMPTY_INFO;
    unsafe { ipc_connection_timeout(&mut mine, c"missing".as_ptr(), -1) };
    none()
}

fn cancels_a_waiting_thread() {
    let before = open_descriptors();
    for _ in 0..3 {
        let mut thread = unsafe { std::mem::zeroed() };
        assert_eq!(unsafe { libc::pthread_create(&mut thread, none(), waits_for_ever, none()) }, 0);
        until("the call waits", || open_descriptors() > before);
        unsafe {
            libc::pthread_cancel(thread);
            libc::pthread_join(thread, none());
        }
        assert_eq!(open_descriptors(), before);
    }
}

#[test]
fn cancelled_thread_leaves_no_descriptor_open() {
    own_process!(60);
    assert!(Child::start(cancels_a_waiting_thread).end().success());
}
