//! Promise 17: after ipc_close, ipc_server_close and ipc_connections_free, queued bytes are still sent:
//! during later calls, and at exit, which waits for peers that read.

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

/// About a second, with room for a busy machine.
const ABOUT_A_SECOND: Duration = Duration::from_secs(5);

/// A program with a service and with connections in its list queues a message for each connection, and then
/// does what the test's line says, in order.
fn queues_and_closes() {
    let mut program = child::server();
    let path = child::read_line();
    let count: usize = child::read_line().parse().unwrap();
    let mut connections: Vec<_> = (0..count)
        .map(|_| ipc_connection_info { fd: child::connect(Path::new(&path)), ..EMPTY_INFO })
        .collect();
    for connection in &mut connections {
        assert_eq!(unsafe { ipc_add(&mut program.list, connection) }, IPC_ERROR_NONE);
        assert_eq!(write(connection.fd, 1, &pattern(SIZE, 17)), IPC_ERROR_NONE);
    }
    child::send_line("queued");
    let actions = child::read_line();
    for action in actions.split(' ') {
        match action {
            "ipc_close" => connections
                .iter_mut()
                .for_each(|connection| assert_eq!(unsafe { ipc_close(connection) }, IPC_ERROR_NONE)),
            "usock_close" => connections
                .iter()
                .for_each(|connection| assert_eq!(usock_close(connection.fd), IPC_ERROR_NONE)),
            "ipc_server_close" => assert_eq!(unsafe { ipc_server_close(program.srv()) }, IPC_ERROR_NONE),
            "ipc_connections_free" => unsafe { ipc_connections_free(&mut program.list) },
            "calls" => call_until_line_arrives(&connections[0]),
            "exit" => unsafe { libc::exit(0) },
            _ => unsafe { libc::_exit(0) },
        }
    }
}

/// Makes calls that do not concern the queued bytes, until the test sends a line.
fn call_until_line_arrives(connection: &ipc_connection_info) {
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            child::read_line();
            stop.store(true, Ordering::Relaxed);
        })
    };
    let mut queued = 0;
    while !stop.load(Ordering::Relaxed) {
        unsafe { ipc_pending(connection, &mut queued) };
    }
    reader.join().unwrap();
}

/// A child in the role `queues_and_closes` that has queued its messages, and its peers.
fn queued(peers: usize) -> (Child, Vec<UnixStream>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers");
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = Child::start(queues_and_closes);
    child.send_line(path.to_str().unwrap());
    child.send_line(peers.to_string());
    let peers = (0..peers).map(|_| listener.accept().unwrap().0).collect();
    assert_eq!(child.read_line(), "queued");
    (child, peers)
}

fn assert_message_arrives(mut peer: UnixStream, action: &str) {
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert!(got == frame(1, &pattern(SIZE, 17)), "{action}: {} of {} bytes", got.len(), SIZE + 5);
}

/// Asserts that each of the peers receives its whole message while the program does these actions.
fn assert_all_arrive(child: &mut Child, peers: Vec<UnixStream>, actions: &str) {
    child.send_line(actions);
    let read = |peer| {
        let actions = actions.to_owned();
        std::thread::spawn(move || assert_message_arrives(peer, &actions))
    };
    let readers: Vec<_> = peers.into_iter().map(read).collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// The actions return at once; the queued bytes are sent later.
const CLOSING: [&str; 4] = ["ipc_close", "usock_close", "ipc_server_close ipc_close", "ipc_connections_free"];

#[test]
fn promise_17_queue_is_sent_at_exit_after_each_kind_of_close() {
    own_process!(60);
    for action in CLOSING.into_iter().chain(["ipc_server_close", "exit"]) {
        let (mut child, peers) = queued(3);
        assert_all_arrive(&mut child, peers, &format!("{action} exit"));
        assert!(child.end().success());
    }
}

#[test]
fn promise_17_queue_is_sent_during_unrelated_calls() {
    own_process!(60);
    for action in CLOSING {
        // ipc_connections_free leaves connections open; their peers see end of file only after ipc_close.
        let closes = if action == "ipc_connections_free" { " ipc_close" } else { "" };
        let (mut child, peers) = queued(3);
        assert_all_arrive(&mut child, peers, &format!("{action}{closes} calls _exit"));
        child.send_line("stop");
        assert!(child.end().success());
    }
}

#[test]
fn promise_17_stalled_peer_does_not_delay_other_queues() {
    own_process!(60);
    for action in CLOSING.into_iter().chain(["exit"]) {
        let (mut child, mut peers) = queued(3);
        let _stuck = peers.remove(1);
        assert_all_arrive(&mut child, peers, &format!("{action} exit"));
        assert!(child.end().success());
    }
}

/// How long the program takes for the actions while none of its peers reads.
fn time_with_stuck_peers(peers: usize, actions: &str) -> Duration {
    let (mut child, _stuck) = queued(peers);
    let start = Instant::now();
    child.send_line(actions);
    assert!(child.end().success());
    start.elapsed()
}

/// So many peers that waiting for each of them in turn would take too long.
const MANY: usize = 20;

#[test]
fn promise_17_stalled_peers_waited_for_together_only_at_exit() {
    own_process!(120);
    for actions in
        ["ipc_close exit", "usock_close exit", "ipc_connections_free exit", "ipc_server_close exit", "exit"]
    {
        let took = time_with_stuck_peers(MANY, actions);
        assert!(took < ABOUT_A_SECOND, "{actions}: {took:?}");
    }
}
