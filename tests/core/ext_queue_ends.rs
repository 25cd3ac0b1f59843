//! ipc_queue when the connection, the peer, the process or its parent ends.

use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::*;

child::roles! { queues_and_ends, queues_to_a_closed_peer, forks_with_a_queue }

/// How many bytes ipc_queue collects before it sends them itself.
const BATCH: usize = 64 << 10;

const CLOSED: Result<(), Failure> = Err((IPC_ERROR_USOCK_SEND, libc::EPIPE));

fn queues_and_ends() {
    let fd = child::connect(Path::new(&child::read_line()));
    let count: usize = child::read_line().parse().unwrap();
    for number in 0..count {
        queue(fd, 1, number.to_string().as_bytes()).unwrap();
    }
    let mut info = info(fd);
    match child::read_line().as_str() {
        "ipc_close" => assert_eq!(unsafe { ipc_close(&mut info) }, IPC_ERROR_NONE),
        "usock_close" => assert_eq!(usock_close(fd), IPC_ERROR_NONE),
        "ipc_flush" => flush(fd, 20_000).unwrap(),
        "exit" => unsafe { libc::exit(0) },
        _ => return,
    }
    // Without the library's work at exit.
    unsafe { libc::_exit(0) };
}

#[test]
fn queued_bytes_are_sent_on_ipc_close_and_at_exit() {
    own_process!(60);
    const COUNT: usize = 500;
    let directory = tempfile::tempdir().unwrap();
    for end in ["ipc_close", "usock_close", "exit", "return", "ipc_flush"] {
        let path = directory.path().join(end);
        let listener = UnixListener::bind(&path).unwrap();
        let mut program = Child::start(queues_and_ends);
        program.send_line(path.to_str().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        program.send_line(COUNT.to_string());
        program.send_line(end);
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        let expected: Vec<u8> =
            (0..COUNT).flat_map(|number| frame(1, number.to_string().as_bytes())).collect();
        assert!(got == expected, "{end}: {} bytes of {}", got.len(), expected.len());
        assert!(program.end().success(), "{end}");
    }
}

fn queues_to_a_closed_peer() {
    let (ours, peer) = pair();
    let fd = ours.as_raw_fd();
    queue(fd, 1, b"never read").unwrap();
    drop(peer);
    // SIGPIPE would end this program.
    assert_eq!(flush(fd, -1), CLOSED);
    assert_eq!(pending(fd), 0, "the queued bytes were dropped when the peer closed");
    assert_eq!(flush(fd, -1), Ok(()), "nothing is left");
    // ipc_queue may accept messages: it sends, and notices the closed peer, only when a batch is full.
    let reported = (0..100).map(|_| queue(fd, 1, &[1; 1000])).find(Result::is_err);
    assert_eq!(reported, Some(CLOSED));
    assert_eq!(pending(fd), 0);
    assert_eq!(queue(fd, 1, &vec![1; BATCH]), CLOSED);
    // For a connection in a list, the wait sends the queue and reports the DISCONNECTION.
    let (mut ours, peer) = listed();
    let fd = ours.fd();
    queue(fd, 1, b"never read").unwrap();
    drop(peer);
    assert_eq!(ours.program.poll(-1), Reported::Disconnection(fd));
    assert_eq!(queue(fd, 1, b"closed"), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
    // Closing and exit drop the queued bytes without an error.
    let (ours, peer) = pair();
    let (left, left_peer) = pair();
    queue(ours.as_raw_fd(), 1, b"never read").unwrap();
    queue(left.as_raw_fd(), 1, b"never read").unwrap();
    drop((peer, left_peer));
    assert_eq!(usock_close(ours.into_raw_fd()), IPC_ERROR_NONE);
    child::send_line("alive");
}

#[test]
fn closed_peer_is_an_error_and_no_signal() {
    own_process!(60);
    let mut program = Child::start(queues_to_a_closed_peer);
    assert_eq!(program.read_line(), "alive");
    assert!(program.end().success());
}

fn forks_with_a_queue() {
    let fd = child::connect(Path::new(&child::read_line()));
    queue(fd, 1, b"of the parent").unwrap();
    let worker = fork();
    if worker == 0 {
        // The parent sends the queue.
        assert_eq!(pending(fd), 0);
        assert_eq!(queue(fd, 9, b"out of turn"), Err((IPC_ERROR_USOCK_SEND, libc::EBUSY)));
        assert_eq!(flush(fd, 1000), Err((IPC_ERROR_USOCK_SEND, libc::EBUSY)));
        // A connection that had no queue works in the child.
        let (one, two) = pair();
        queue(one.as_raw_fd(), 1, b"mine").unwrap();
        flush(one.as_raw_fd(), 0).unwrap();
        assert_eq!(read(two.as_raw_fd()), Ok((1, b"mine".to_vec())));
        assert_eq!(usock_close(fd), IPC_ERROR_NONE);
        unsafe { libc::exit(0) };
    }
    assert_eq!(wait_for(worker), 0);
    child::send_line("the child has ended");
    assert_eq!(child::read_line(), "nothing has arrived");
    assert_eq!(pending(fd), frame(1, b"of the parent").len());
    queue(fd, 2, b"later").unwrap();
    flush(fd, -1).unwrap();
}

#[test]
fn forked_child_does_not_send_its_parents_queue() {
    own_process!(60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    let mut program = Child::start(forks_with_a_queue);
    program.send_line(path.to_str().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(program.read_line(), "the child has ended");
    assert_eq!(readable_now(&mut stream), b"");
    program.send_line("nothing has arrived");
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, [frame(1, b"of the parent"), frame(2, b"later")].concat());
    assert!(program.end().success());
}
