//! How connections, programs and the monitor itself end, and what becomes of descriptors on their way.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use crate::monitor::{client, stand_in};
use crate::staging::{outcome, until};
use crate::support::{Peer, Place, Talk};

/// A client that ends its half, and still gets its answer.
#[test]
fn half_closed_connection_stays_half_open() {
    let place = Place::new();
    let listener = place.service("own");
    let (_monitor, path) = stand_in(&place, &["own"]);
    let mut client = client(&path);
    let mut server = Peer::accept(&listener);
    client.send(b"the last message");
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.payload(), b"the last message");
    server.assert_at_end();
    server.send(b"an answer");
    assert_eq!(client.payload(), b"an answer");
    server.0.shutdown(Shutdown::Write).unwrap();
    client.assert_at_end();

    // The other way round.
    let mut client = crate::monitor::client(&path);
    let mut server = Peer::accept(&listener);
    server.send(b"no more from here");
    server.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.payload(), b"no more from here");
    client.assert_at_end();
    client.send(b"a question");
    assert_eq!(server.payload(), b"a question");
}

#[test]
fn end_of_one_side_is_the_end_of_the_other() {
    let place = Place::new();
    let listener = place.service("own");
    let (mut monitor, path) = stand_in(&place, &["own"]);
    let mut first = client(&path);
    let server = Peer::accept(&listener);
    assert_eq!(monitor.words()[2], "connect");
    drop(server);
    first.assert_at_end();
    assert_eq!(monitor.words()[2..], ["close", "server"]);

    let second = client(&path);
    let mut server = Peer::accept(&listener);
    drop(second);
    server.assert_at_end();

    // What was sent before the end arrives before the end.
    let mut third = client(&path);
    let mut server = Peer::accept(&listener);
    for _ in 0..20 {
        third.send(&[b'x'; 1000]);
    }
    drop(third);
    for _ in 0..20 {
        assert_eq!(server.payload().len(), 1000);
    }
    server.assert_at_end();
}

/// The part of a message is passed on, as is what is no message.
#[test]
fn bytes_that_are_no_message_pass_and_are_named() {
    let place = Place::new();
    let listener = place.service("own");
    let (mut monitor, path) = stand_in(&place, &["own"]);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[2, 5, 0, 0, 0, b'h'], &[2]] {
        let mut client = client(&path);
        let mut server = Peer::accept(&listener);
        client.0.write_all(bytes).unwrap();
        drop(client);
        let mut received = Vec::new();
        server.0.read_to_end(&mut received).unwrap();
        assert_eq!(received, bytes);
        drop(server);
        let mut said = Vec::new();
        while said.last().is_none_or(|event| event != "error") {
            said.push(monitor.words()[2].clone());
        }
    }
}

/// The client of a service that is not there has its connection closed, and the reason is printed.
#[test]
fn connection_without_a_server_is_closed() {
    let place = Place::new();
    let (mut monitor, path) = stand_in(&place, &["own"]);
    client(&path).assert_at_end();
    assert_eq!(monitor.words()[2], "connect");
    let line = monitor.line();
    assert!(line.contains("error") && line.contains("ENOENT"), "{line}");
    let _pongd = place.listen("own", &["--echo"]);
    let mut client = client(&path);
    client.send(b"hello");
    assert_eq!(client.payload(), b"hello");
}

/// openfiled hands out the descriptors of open files; the monitor passes them on.
#[test]
fn descriptors_are_passed_on() {
    let place = Place::new();
    let room = tempfile::tempdir().unwrap();
    std::fs::write(room.path().join("note"), "what the file holds\n").unwrap();
    let mut openfiled = place.example("openfiled");
    let mut openfiled = Talk::start(openfiled.arg(room.path()));
    assert!(openfiled.line().starts_with("listening at"));
    let openfile = place.example("openfile");
    let openfile = openfile.get_program().to_str().unwrap();
    let mut command = place.ipc(&["monitor", "openfiled", "--", openfile, "note"]);
    let (printed, errors, status) = outcome(command.env("LD_LIBRARY_PATH", crate::staging::stage().lib()));
    assert_eq!(status.code(), Some(0), "{printed}{errors}");
    assert!(printed.lines().any(|line| line == "what the file holds"), "{printed}");
    assert!(printed.contains("descriptors"), "{printed}");
}

/// Only this user can get to the stand-in socket, and nothing of it stays.
#[test]
fn stand_in_is_private_and_removed() {
    let place = Place::new();
    for (number, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let (monitor, path) = stand_in(&place, &["own"]);
        let directory = path.parent().unwrap().to_owned();
        let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        monitor.signal(number);
        assert_eq!(monitor.end().1.code(), Some(status));
        assert!(!directory.exists());
    }
    place.assert_empty();
}

#[test]
fn signal_at_each_moment_leaves_no_stand_in() {
    let place = Place::new();
    let room = tempfile::tempdir().unwrap();
    for delay in 0..60 {
        let mut command = place.ipc(&["monitor", "own"]);
        command.env("TMPDIR", room.path()).env_remove("XDG_RUNTIME_DIR");
        let monitor = Talk::start(&mut command);
        std::thread::sleep(std::time::Duration::from_micros(delay * 100));
        monitor.signal(libc::SIGINT);
        let (_, status) = monitor.end();
        assert!(status.code() == Some(130) || status.signal() == Some(libc::SIGINT), "{status}");
        let left: Vec<_> = std::fs::read_dir(room.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A signal is for the program; the monitor ends with its status, and removes its socket.
#[test]
fn signals_reach_the_monitored_program() {
    let place = Place::new();
    let room = tempfile::tempdir().unwrap();
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let mut command = place.ipc(&["monitor", "own", "--", "sh", "-c", script]);
    let mut monitor = Talk::start(command.env("TMPDIR", room.path()).env_remove("XDG_RUNTIME_DIR"));
    assert_eq!(monitor.line(), "ready");
    monitor.signal(libc::SIGTERM);
    assert_eq!(monitor.end().1.code(), Some(9));
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);
}

#[test]
fn monitor_ends_with_124_after_its_timeout() {
    let place = Place::new();
    let (monitor, path) = stand_in(&place, &["--timeout", "0.2", "own"]);
    assert_eq!(monitor.end().1.code(), Some(124));
    assert!(!path.exists());
    let (_, _, status) =
        outcome(&mut place.ipc(&["monitor", "--timeout", "0.2", "own", "--", "sleep", "600"]));
    assert_eq!(status.code(), Some(124));
}

/// The program goes on when nothing reads what the monitor prints.
#[test]
fn program_goes_on_without_a_reader_of_the_monitor() {
    let place = Place::new();
    let _echo = place.listen("own", &["--echo"]);
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("file");
    let tools = crate::staging::stage().usr().join("bin");
    let script = format!(
        "echo ready; read go; for i in 1 2 3; do {}/ipc send -w 1 own $i || exit 1; done > {}; exit 8",
        tools.display(),
        file.display()
    );
    let mut monitor = Talk::start(&mut place.ipc(&["monitor", "own", "--", "sh", "-c", &script]));
    assert_eq!(monitor.line(), "ready");
    monitor.close_output();
    monitor.write(b"go\n");
    assert_eq!(monitor.end().1.code(), Some(8));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1\n2\n3\n");
}

/// Without a program there is no more to do: as `ipc listen own | head -n 1`.
#[test]
fn stand_in_ends_when_its_reader_ends() {
    let place = Place::new();
    let (mut monitor, path) = stand_in(&place, &["own"]);
    monitor.close_output();
    assert_eq!(monitor.end().1.code(), Some(141));
    until("the socket is removed", || !path.exists());
}

/// A client that the monitored program starts and leaves, such as a daemon, still gets its bytes through before the end.
#[test]
fn messages_of_the_last_moment_arrive() {
    let place = Place::new();
    let listener = place.service("own");
    let tools = crate::staging::stage().usr().join("bin");
    let script = format!("{}/ipc send own last", tools.display());
    let monitor = Talk::start(&mut place.ipc(&["monitor", "own", "--", "sh", "-c", &script]));
    let mut server = Peer::accept(&listener);
    assert_eq!(server.payload(), b"last");
    server.assert_at_end();
    drop(server);
    let printed = monitor.ends_well();
    assert!(printed.lines().any(|line| line.contains("->") && line.ends_with(" 4 last")), "{printed}");
}
