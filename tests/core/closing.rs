//! Promise 17: what is queued leaves on ipc_close, ipc_server_close, ipc_connections_free and at the end of the
//! program, which wait for a peer that does not read for about a second in all.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::child::{self, Child};
use crate::support::*;

child::roles! { queues_and_closes }

const SIZE: usize = 3_000_000;

/// About a second, on a machine that has other things to do.
const ABOUT_A_SECOND: Duration = Duration::from_secs(5);

/// A program that has connections in its list, and a service, queues a message for each connection, and then
/// does what it is told to, one thing after the other.
fn queues_and_closes() {
    let mut program = child::server();
    let path = child::hear();
    let count: usize = child::hear().parse().unwrap();
    let mut connections: Vec<_> = (0..count)
        .map(|_| ipc_connection_info { fd: child::connect(Path::new(&path)), ..EMPTY_INFO })
        .collect();
    for connection in &mut connections {
        assert_eq!(unsafe { ipc_add(&mut program.list, connection) }, IPC_ERROR_NONE);
        assert_eq!(write(connection.fd, 1, &pattern(SIZE, 17)), IPC_ERROR_NONE);
    }
    child::say("queued");
    let ways = child::hear();
    for way in ways.split(' ') {
        match way {
            "ipc_close" => connections
                .iter_mut()
                .for_each(|connection| assert_eq!(unsafe { ipc_close(connection) }, IPC_ERROR_NONE)),
            "usock_close" => connections
                .iter()
                .for_each(|connection| assert_eq!(usock_close(connection.fd), IPC_ERROR_NONE)),
            "ipc_server_close" => assert_eq!(unsafe { ipc_server_close(program.srv()) }, IPC_ERROR_NONE),
            "ipc_connections_free" => unsafe { ipc_connections_free(&mut program.list) },
            "exit" => unsafe { libc::exit(0) },
            _ => unsafe { libc::_exit(0) },
        }
    }
}

/// Such a program and its peers, with everything in the queues.
fn queued(peers: usize) -> (Child, Vec<UnixStream>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers");
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = Child::start(queues_and_closes);
    child.say(path.to_str().unwrap());
    child.say(peers.to_string());
    let peers = (0..peers).map(|_| listener.accept().unwrap().0).collect();
    assert_eq!(child.hear(), "queued");
    (child, peers)
}

fn everything_arrives(mut peer: UnixStream, way: &str) {
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert!(got == frame(1, &pattern(SIZE, 17)), "{way}: {} of {} bytes", got.len(), SIZE + 5);
}

#[test]
fn promise_17_what_is_queued_leaves_by_each_way_to_close() {
    own_process!(60);
    for way in ["ipc_close", "usock_close", "ipc_server_close", "ipc_connections_free", "exit"] {
        let (mut child, peers) = queued(3);
        // Behind its back comes _exit, which sends nothing.
        child.say(format!("{way} _exit"));
        let readers: Vec<_> =
            peers.into_iter().map(|peer| std::thread::spawn(move || everything_arrives(peer, way))).collect();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(child.end().success());
    }
}

#[test]
fn promise_17_one_peer_that_never_reads_does_not_keep_the_others_from_theirs() {
    own_process!(60);
    for way in ["ipc_connections_free", "ipc_server_close", "exit"] {
        let (mut child, mut peers) = queued(3);
        let _stuck = peers.remove(1);
        child.say(format!("{way} _exit"));
        let readers: Vec<_> =
            peers.into_iter().map(|peer| std::thread::spawn(move || everything_arrives(peer, way))).collect();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(child.end().success());
    }
}

/// How long the program takes for this while none of its peers reads.
fn time_with_stuck_peers(peers: usize, ways: &str) -> Duration {
    let (mut child, _stuck) = queued(peers);
    let start = Instant::now();
    child.say(ways);
    assert!(child.end().success());
    start.elapsed()
}

#[test]
fn promise_17_a_peer_that_never_reads_is_waited_for_about_a_second() {
    own_process!(60);
    for way in ["ipc_close", "usock_close", "ipc_server_close", "ipc_connections_free", "exit"] {
        let took = time_with_stuck_peers(1, &format!("{way} _exit"));
        assert!(took < ABOUT_A_SECOND, "{way}: {took:?}");
    }
}

#[test]
fn promise_17_many_peers_that_never_read_are_waited_for_about_a_second_in_all() {
    own_process!(60);
    for ways in [
        "ipc_connections_free ipc_server_close ipc_close exit",
        "ipc_server_close ipc_connections_free usock_close exit",
        "exit",
    ] {
        let took = time_with_stuck_peers(6, ways);
        assert!(took < ABOUT_A_SECOND, "{ways}: {took:?}");
    }
}

#[test]
fn promise_17_many_peers_that_never_read_are_closed_one_by_one_in_about_a_second_in_all() {
    own_process!(60);
    for ways in ["ipc_close ipc_connections_free ipc_server_close exit", "usock_close exit"] {
        let took = time_with_stuck_peers(6, ways);
        assert!(took < ABOUT_A_SECOND, "{ways}: {took:?}");
    }
}
