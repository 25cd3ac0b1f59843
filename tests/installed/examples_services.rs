//! The example daemon kvd with its clients; and services that are started on demand, as in docs/services.md.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::staging::examples::{Raw, Server, Under, command, frame, stderr_of};
use crate::staging::{Running, has, outcome, printed, sanitizers, skipped, text_of, until};

fn kv(server: &Server, arguments: &[&str]) -> (String, Option<i32>) {
    let (text, stderr, status) = outcome(&mut server.client("kv", arguments));
    assert_eq!(stderr, "", "kv {arguments:?}");
    (text, status.code())
}

fn signal(running: &Running, signal: i32) {
    let process = i32::try_from(running.child().id()).unwrap();
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}

fn keep_values(under: Under) {
    let server = Server::start("kvd", "kvd", &[], under);
    let answer = |text: &str, status| (text.to_owned(), Some(status));
    assert_eq!(kv(&server, &["get", "colour"]), answer("", 1));
    assert_eq!(kv(&server, &["set", "colour", "blue"]), answer("blue\n", 0));
    assert_eq!(kv(&server, &["set", "empty", ""]), answer("\n", 0));
    assert_eq!(kv(&server, &["get", "colour"]), answer("blue\n", 0));
    assert_eq!(kv(&server, &["get", "empty"]), answer("\n", 0));
    let watch = Running::start(server.client("kv", &["watch", "colour", "2"]).stdout(Stdio::piped()));
    until("it watches", || {
        signal(&server.running, libc::SIGUSR1);
        server.stdout().contains("\n1 clients, 0 bytes queued, 6 requests\n")
    });
    assert_eq!(kv(&server, &["set", "colour", "green"]), answer("green\n", 0));
    assert_eq!(kv(&server, &["delete", "colour"]), answer("", 0));
    assert_eq!(kv(&server, &["delete", "colour"]), answer("", 1));
    let mut text = String::new();
    let mut output = watch.child().stdout.take().unwrap();
    std::io::Read::read_to_string(&mut output, &mut text).unwrap();
    assert_eq!((text.as_str(), watch.end().code()), ("blue\ngreen\n\n", Some(0)));
    // A client with another protocol is closed, and no other client is.
    let (mut good, mut bad) = (server.connect(), server.connect());
    bad.send(b"no such request");
    assert_eq!(bad.receive_all(), b"");
    std::io::Write::write_all(&mut good.0, &[&b"g"[..], &frame(b"empty")[1..]].concat()).unwrap();
    assert_eq!(good.receive(), "empty\0");
    server.stop_content();
}

#[test]
fn kvd_keeps_values_and_notifies_watchers() {
    keep_values(Under::Nothing);
}

#[test]
fn kvd_in_valgrind() {
    if !has("valgrind") {
        return skipped("kvd under valgrind", "valgrind");
    }
    keep_values(Under::Valgrind);
    serve_two_hundred(Under::Valgrind);
}

#[test]
fn kvd_with_sanitizers() {
    if sanitizers::watch("kvd") {
        keep_values(Under::Sanitizers);
        serve_two_hundred(Under::Sanitizers);
    }
}

/// Clients that send requests, that send nothing, that leave in the middle, and that never read.
fn serve_two_hundred(under: Under) {
    use std::io::Write;
    let server = Server::start("kvd", "kvd", &[], under);
    let mut clients: Vec<Raw> = (0..200).map(|_| server.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let text = format!("key{}\0value {number}", number % 7);
        let request = [&b"s"[..], &frame(text.as_bytes())[1..]].concat();
        match number % 4 {
            0 => client.0.write_all(&request).unwrap(),
            1 => client.0.write_all(&request[..request.len() / 2]).unwrap(),
            2 => client.0.write_all(&request.repeat(50)).unwrap(),
            _ => {}
        }
    }
    for (number, client) in clients.iter_mut().enumerate().filter(|(number, _)| number % 4 == 0) {
        assert_eq!(client.receive(), format!("key{}\0value {number}", number % 7));
    }
    // Half of the clients leave, the others are closed when kvd ends.
    clients.truncate(100);
    until("the clients have left", || {
        signal(&server.running, libc::SIGUSR1);
        server.stdout().contains("\n100 clients, ")
    });
    server.stop_content();
}

#[test]
fn kvd_serves_two_hundred_clients_of_all_kinds() {
    serve_two_hundred(Under::Nothing);
}

#[test]
fn kvd_closes_idle_clients_and_keeps_watchers() {
    use std::io::Write;
    let server = Server::start("kvd", "kvd", &["1"], Under::Nothing);
    let (mut idle, mut watches) = (server.connect(), server.connect());
    watches.0.write_all(&[&b"w"[..], &frame(b"key")[1..]].concat()).unwrap();
    assert_eq!(watches.receive(), "");
    assert_eq!(idle.receive_all(), b"");
    assert_eq!(kv(&server, &["set", "key", "1"]).1, Some(0));
    assert_eq!(watches.receive(), "key\x001");
    server.stop_content();
}

#[test]
fn kv_waits_while_kvd_is_killed_and_restarted() {
    let server = Server::start("kvd", "kvd", &[], Under::Nothing);
    let Server { running, rundir, socket, .. } = server;
    signal(&running, libc::SIGKILL);
    assert_eq!(running.end().code(), None);
    assert!(socket.exists(), "a dead socket");
    let client = Running::start(
        command("kv", rundir.path(), Under::Nothing).args(["set", "a", "b"]).stdout(Stdio::null()),
    );
    let again = Running::start(command("kvd", rundir.path(), Under::Nothing).stdout(Stdio::null()));
    assert_eq!(client.end().code(), Some(0));
    signal(&again, libc::SIGTERM);
    assert_eq!(again.end().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn kv_prints_its_errors() {
    let rundir = tempfile::tempdir().unwrap();
    for wrong in [&[][..], &["get"], &["set", "a"], &["put", "a", "b"], &["delete", "a", "b"]] {
        let text = stderr_of(command("kv", rundir.path(), Under::Nothing).args(wrong));
        assert!(text.starts_with("usage: kv "), "{text}");
    }
    let text = stderr_of(command("kv", rundir.path(), Under::Nothing).args(["get", "a"]));
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("kv: connecting to kvd: "), "{text}");
}

/// What starts a service on demand: the line of docs/services.md, with the listening socket at descriptor 3.
fn on_demand(program: &Command, listener: &UnixListener) -> Command {
    const LAUNCH: &str = "LISTEN_PID=$$ LISTEN_FDS=1 exec ";
    assert!(text_of("docs/services.md").contains(LAUNCH));
    let mut launcher = Command::new("sh");
    launcher.args(["-c", &format!("{LAUNCH}\"$0\"")]).arg(program.get_program());
    for (name, value) in program.get_envs() {
        value.into_iter().for_each(|value| _ = launcher.env(name, value));
    }
    let fd = listener.as_raw_fd();
    // SAFETY: a system call between fork and exec.
    unsafe {
        launcher.pre_exec(move || {
            // The socket may have that number already: then dup2 and close would close it.
            match libc::dup2(fd, 3).min(libc::fcntl(3, libc::F_SETFD, 0)) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    };
    launcher
}

/// A service manager: it holds the socket, and starts the server when a client has connected, each time after
/// the server has ended.
fn starts_on_demand(name: &str, service: &str, ask: &dyn Fn(&Path)) {
    let rundir = tempfile::tempdir().unwrap();
    let socket = rundir.path().join(format!("{service}-0-0"));
    let listener = UnixListener::bind(&socket).unwrap();
    for _ in 0..2 {
        // The client waits in the backlog, and is not lost.
        let early = Raw::connect(&socket);
        let program = command(name, rundir.path(), Under::Nothing);
        let server = Running::start(on_demand(&program, &listener).stdout(Stdio::null()));
        ask(rundir.path());
        signal(&server, libc::SIGTERM);
        assert_eq!(server.end().code(), Some(0));
        let mut early = early;
        assert_eq!(early.receive_all(), b"");
        assert!(socket.exists(), "the file is the manager's");
    }
}

#[test]
fn daemon_starts_on_demand() {
    starts_on_demand("kvd", "kvd", &|rundir| {
        let mut client = command("kv", rundir, Under::Nothing);
        assert_eq!(printed(client.args(["set", "a", "b"])), "b\n");
    });
}

/// pongd has no code for this: it uses only ipc.h, as in 2019.
#[test]
fn program_of_2019_starts_on_demand_unchanged() {
    let source = text_of("examples-c/pongd.c");
    assert!(!source.contains("ipc_ext.h") && !source.contains("LISTEN"));
    starts_on_demand("pongd", "pongd", &|rundir| {
        assert_eq!(printed(&mut command("pong", rundir, Under::Nothing)), "hello\n");
    });
}
