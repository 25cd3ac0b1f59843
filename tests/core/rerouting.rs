//! Which socket ipc_connection connects to if IPC_NETWORK or a service's own variable is set. (The tests of
//! `src/service/route.rs` have the syntax of targets, and which variable applies.)

use std::ffi::{CStr, CString};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::child::{self, Child};
use crate::support::ext::*;
use crate::support::*;

child::roles! { connects_once }

fn set(name: &str, value: &str) {
    unsafe { std::env::set_var(name, value) };
}

fn unset(name: &str) {
    unsafe { std::env::remove_var(name) };
}

/// Connects by ipc_connection and by ipc_connection_timeout, which must give the same result.
fn connect(name: &str) -> Result<i32, Failure> {
    rundir();
    let c_name = CString::new(name).unwrap();
    let mut info = ipc_connection_info { index: 1, version: 2, ..EMPTY_INFO };
    let first = outcome(unsafe { ipc_connection(env(), &mut info, c_name.as_ptr()) });
    let fd = info.fd;
    let second = outcome(unsafe { ipc_connection_timeout(&mut info, c_name.as_ptr(), 1000) });
    if second.is_ok() {
        assert_eq!(usock_close(info.fd), IPC_ERROR_NONE);
    }
    let in_time = first.map_err(|(code, errno)| match errno {
        libc::ENOENT => (code, libc::ETIMEDOUT),
        errno => (code, errno),
    });
    assert_eq!(second, in_time);
    assert_eq!(fd >= 0, first.is_ok());
    first.map(|()| fd)
}

/// A listening socket, which counts its clients.
struct Place {
    listener: UnixListener,
}

impl Place {
    fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    fn service(name: &str) -> Self {
        Self::at(&rundir().join(format!("{name}-1-2")))
    }

    /// How many clients have connected since the last call.
    fn clients(&self) -> usize {
        std::iter::from_fn(|| self.listener.accept().ok()).count()
    }
}

/// Asserts that connections to the service arrive at this socket.
fn assert_connects_to(name: &str, place: &Place) {
    let fd = connect(name).unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
    assert_eq!(place.clients(), 2, "{name}");
    let mut peer = ipc_peer { pid: 0, uid: 0, gid: 0 };
    assert_eq!(outcome(unsafe { ipc_peer(&info(fd), &mut peer) }), Ok(()));
    assert_eq!(peer.pid, unsafe { libc::getpid() }, "the real server");
    assert_eq!(usock_close(fd), IPC_ERROR_NONE);
}

#[test]
fn connections_follow_the_network_variables() {
    own_process!(30);
    let [audio, pong, other] = ["audio", "pong", "other"].map(Place::service);
    let elsewhere = Place::at(&rundir().join("elsewhere"));
    assert_connects_to("audio", &audio);
    let path = rundir().join("elsewhere");
    set("IPC_NETWORK", &format!("audio unix:{}; pong other; * direct:; aud ssh:", path.display()));
    assert_connects_to("audio", &elsewhere);
    assert_connects_to("pong", &other);
    assert_connects_to("other", &other);
    set("IPC_NETWORK_AUDIO", "unix://pong");
    assert_connects_to("audio", &pong);
    set("IPC_NETWORK_AUDIO", "direct:");
    assert_connects_to("audio", &audio);
    set("IPC_NETWORK_AUDIO", "");
    assert_connects_to("audio", &elsewhere);
    set("IPC_NETWORK", "* other; pong direct:");
    for (name, place) in [("audio", &other), ("unknown", &other), ("pong", &pong)] {
        assert_connects_to(name, place);
    }
    let network = Place::service("network");
    set("IPC_NETWORK_NETWORK", "other");
    assert_connects_to("network", &network);
    set("IPC_NETWORK_MY_SVC_1", "other");
    unset("IPC_NETWORK");
    assert_connects_to("my-svc.1", &other);
}

#[test]
fn target_paths_up_to_path_max_are_connected() {
    own_process!(30);
    let mut directory = rundir().clone();
    while directory.as_os_str().len() < 3860 {
        directory.push("d".repeat(200));
    }
    std::fs::create_dir_all(&directory).unwrap();
    let name = "s".repeat(4095 - directory.as_os_str().len() - 1);
    let longest = directory.join(&name);
    assert_eq!(longest.as_os_str().len(), 4095);
    // Bound by a short relative path: a socket's address has room for no more.
    let here = std::env::current_dir().unwrap();
    std::env::set_current_dir(&directory).unwrap();
    let listener = UnixListener::bind("short").unwrap();
    std::fs::rename("short", &name).unwrap();
    std::env::set_current_dir(here).unwrap();
    listener.set_nonblocking(true).unwrap();
    set("IPC_NETWORK_FAR", &format!("unix:{}", longest.display()));
    assert_connects_to("far", &Place { listener });
    set("IPC_NETWORK_FAR", &format!("unix:{}x", longest.display()));
    assert_eq!(connect("far"), Err((IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, libc::ENAMETOOLONG)));
}

#[test]
fn invalid_target_is_an_error_without_a_connection() {
    own_process!(60);
    let [audio, other] = ["audio", "other"].map(Place::service);
    let long = format!("ssh://{}", "x".repeat(1019));
    let invalid = Err((IPC_ERROR_USOCK_CONNECT__SOCKET, libc::EINVAL));
    for target in
        ["ssh:", "://x", " ", "$(id)", "ssh://$(id)", &long, "ssh://a\nb", "ssh://\u{e4}", "unix:", "a/b"]
    {
        set("IPC_NETWORK_AUDIO", target);
        assert_eq!(connect("audio"), invalid, "{target}");
        assert_connects_to("other", &other);
    }
    for target in ["ssh://host", "ssh://me@host:22/audio", "tor://host/audio"] {
        set("IPC_NETWORK_AUDIO", target);
        assert_eq!(connect("audio"), Err((IPC_ERROR_USOCK_CONNECT__SOCKET, libc::ENETUNREACH)), "{target}");
    }
    set("IPC_NETWORK_AUDIO", "unknown");
    assert_eq!(connect("audio"), Err((IPC_ERROR_USOCK_CONNECT__SOCKET, libc::ENOENT)));
    assert_eq!(audio.clients(), 0, "no connection to the service itself");
}

#[test]
fn server_paths_and_names_are_not_rerouted() {
    own_process!(30);
    set("IPC_NETWORK", "* other");
    let mut program = Program::server();
    let path = program.path.clone();
    assert!(path.exists());
    let stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    program.next_connection();
    drop(stream);
    let mut named = [0; libc::PATH_MAX as usize];
    unsafe { service_path(named.as_mut_ptr(), c"any".as_ptr(), 1, 2) };
    let named = unsafe { CStr::from_ptr(named.as_ptr()) }.to_bytes();
    assert!(named.ends_with(b"/any-1-2"));
    let mut fd = -1;
    let path = CString::new(path.to_str().unwrap()).unwrap();
    assert_eq!(unsafe { usock_connect(&mut fd, path.as_ptr()) }, IPC_ERROR_NONE);
    assert_eq!(usock_close(fd), IPC_ERROR_NONE);
}

/// Connects between two getppid(2), which mark the place in the trace.
fn connects_once() {
    child::read_line();
    let mut info = EMPTY_INFO;
    unsafe {
        libc::getppid();
        let code = ipc_connection(env(), &mut info, c"traced".as_ptr());
        libc::getppid();
        child::send_line(format!("{code:?}"));
    }
}

/// The names of the system calls of a connect with these variables; None if strace cannot trace.
fn system_calls_of_a_connect(variables: &[(&str, &str)]) -> Option<Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let log: PathBuf = directory.path().join("log");
    let command = child::command(connects_once);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o"]).arg(&log).arg(command.get_program()).args(command.get_args());
    command.get_envs().for_each(|(name, value)| _ = traced.env(name, value.unwrap()));
    traced.envs(variables.iter().copied());
    let mut program = Child::run(traced.stdin(Stdio::piped()).stdout(Stdio::piped()));
    program.send_line("go");
    let code = program.read_line();
    if !program.end().success() {
        return None;
    }
    assert_eq!(code, "IPC_ERROR_NONE", "{variables:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    let names = text.lines().filter_map(|line| Some(line.split_once(' ')?.1.trim().split_once('(')?.0));
    let between = names.skip_while(|name| *name != "getppid").skip(1).take_while(|name| *name != "getppid");
    Some(between.map(str::to_owned).collect())
}

#[test]
fn connect_without_variables_makes_the_same_system_calls() {
    own_process!(60);
    if Command::new("strace").arg("-V").output().is_err() {
        return say("SKIPPED: system calls are not compared, strace is not installed");
    }
    let path = rundir().join("traced-0-0");
    let _listener = UnixListener::bind(&path).unwrap();
    let Some(before) = system_calls_of_a_connect(&[]) else {
        return say("SKIPPED: system calls are not compared, strace cannot trace here");
    };
    let expected = ["socket", "setsockopt", "connect", "getsockopt"];
    let known: Vec<_> = before.iter().filter(|name| expected.contains(&name.as_str())).collect();
    assert_eq!(known, expected);
    assert!(before.iter().all(|name| expected.contains(&name.as_str()) || name == "brk"), "{before:?}");
    let unix = format!("unix:{}", path.display());
    for variables in [
        &[("IPC_NETWORK", "other ssh://host")][..],
        &[("IPC_NETWORK", "* ssh:"), ("IPC_NETWORK_TRACED", "direct:")],
        &[("IPC_NETWORK_TRACED", &unix)],
    ] {
        assert_eq!(system_calls_of_a_connect(variables), Some(before.clone()), "{variables:?}");
    }
}
