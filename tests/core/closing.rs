//! Promise 17: what is queued goes on leaving after ipc_close, ipc_server_close and ipc_connections_free, from within later
//! calls, and at the end of the program, which waits for peers that read.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
            "calls" => makes_calls_until_it_hears(&connections[0]),
            "exit" => unsafe { libc::exit(0) },
            _ => unsafe { libc::_exit(0) },
        }
    }
}

/// Calls that have nothing to do with what was queued.
fn makes_calls_until_it_hears(connection: &ipc_connection_info) {
    let stop = Arc::new(AtomicBool::new(false));
    let hears = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            child::hear();
            stop.store(true, Ordering::Relaxed);
        })
    };
    let mut queued = 0;
    while !stop.load(Ordering::Relaxed) {
        unsafe { ipc_pending(connection, &mut queued) };
    }
    hears.join().unwrap();
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

/// Each of the peers gets everything, while the program does this.
fn all_arrives(child: &mut Child, peers: Vec<UnixStream>, ways: &str) {
    child.say(ways);
    let read = |peer| {
        let ways = ways.to_owned();
        std::thread::spawn(move || everything_arrives(peer, &ways))
    };
    let readers: Vec<_> = peers.into_iter().map(read).collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// They return at once; what they leave behind is sent later.
const CLOSING: [&str; 4] = ["ipc_close", "usock_close", "ipc_server_close ipc_close", "ipc_connections_free"];

#[test]
fn promise_17_queue_is_sent_at_exit_after_each_kind_of_close() {
    own_process!(60);
    for way in CLOSING.into_iter().chain(["ipc_server_close", "exit"]) {
        let (mut child, peers) = queued(3);
        all_arrives(&mut child, peers, &format!("{way} exit"));
        assert!(child.end().success());
    }
}

#[test]
fn promise_17_queue_is_sent_during_unrelated_calls() {
    own_process!(60);
    for way in CLOSING {
        // A connection that is not closed stays open, and its peer sees no end.
        let closes = if way == "ipc_connections_free" { " ipc_close" } else { "" };
        let (mut child, peers) = queued(3);
        all_arrives(&mut child, peers, &format!("{way}{closes} calls _exit"));
        child.say("stop");
        assert!(child.end().success());
    }
}

#[test]
fn promise_17_stalled_peer_does_not_delay_other_queues() {
    own_process!(60);
    for way in CLOSING.into_iter().chain(["exit"]) {
        let (mut child, mut peers) = queued(3);
        let _stuck = peers.remove(1);
        all_arrives(&mut child, peers, &format!("{way} exit"));
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

/// More than the peers that a program may wait for one after the other.
const MANY: usize = 20;

#[test]
fn promise_17_stalled_peers_waited_for_together_only_at_exit() {
    own_process!(120);
    for ways in
        ["ipc_close exit", "usock_close exit", "ipc_connections_free exit", "ipc_server_close exit", "exit"]
    {
        let took = time_with_stuck_peers(MANY, ways);
        assert!(took < ABOUT_A_SECOND, "{ways}: {took:?}");
    }
}
