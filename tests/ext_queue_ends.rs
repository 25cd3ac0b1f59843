//! ipc_queue where something ends: the connection, the peer, the process, its parent.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the functions are called as their header says")]

mod child;
mod support;

use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use child::{Child, fork, wait_for};
use support::ext::*;
use support::*;

child::roles! { queues_and_ends, queues_to_who_has_gone, forks_with_a_queue }

/// How much is put together before it leaves without being asked.
const BATCH: usize = 64 << 10;

const GONE: Result<(), Failure> = Err((IPC_ERROR_USOCK_SEND, libc::EPIPE));

fn queues_and_ends() {
    let fd = child::connect(Path::new(&child::hear()));
    let count: usize = child::hear().parse().unwrap();
    for number in 0..count {
        queue(fd, 1, number.to_string().as_bytes()).unwrap();
    }
    let mut info = info(fd);
    match child::hear().as_str() {
        "ipc_close" => assert_eq!(unsafe { ipc_close(&mut info) }, IPC_ERROR_NONE),
        "usock_close" => assert_eq!(usock_close(fd), IPC_ERROR_NONE),
        "ipc_flush" => flush(fd, 20_000).unwrap(),
        "exit" => unsafe { libc::exit(0) },
        _ => return,
    }
    // Without what happens at exit.
    unsafe { libc::_exit(0) };
}

#[test]
fn what_is_queued_leaves_on_ipc_close_and_at_exit() {
    const COUNT: usize = 500;
    let _limit = limit(60);
    let directory = tempfile::tempdir().unwrap();
    for end in ["ipc_close", "usock_close", "exit", "return", "ipc_flush"] {
        let path = directory.path().join(end);
        let listener = UnixListener::bind(&path).unwrap();
        let mut program = Child::start("queues_and_ends");
        program.say(path.to_str().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        program.say(COUNT.to_string());
        program.say(end);
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        let expected: Vec<u8> =
            (0..COUNT).flat_map(|number| frame(1, number.to_string().as_bytes())).collect();
        assert!(got == expected, "{end}: {} bytes of {}", got.len(), expected.len());
        assert!(program.end().success(), "{end}");
    }
}

fn queues_to_who_has_gone() {
    let (ours, peer) = pair();
    let fd = ours.as_raw_fd();
    queue(fd, 1, b"never read").unwrap();
    drop(peer);
    // SIGPIPE would end this program.
    assert_eq!(flush(fd, -1), GONE);
    assert_eq!(pending(fd), 0, "with the peer went what was queued");
    assert_eq!(flush(fd, -1), Ok(()), "nothing is left");
    // It may be taken, as the peer is asked only when a batch is full.
    let told = (0..100).map(|_| queue(fd, 1, &[1; 1000])).find(Result::is_err);
    assert_eq!(told, Some(GONE));
    assert_eq!(pending(fd), 0);
    assert_eq!(queue(fd, 1, &vec![1; BATCH]), GONE);
    // In a list: from within the wait, which tells the end.
    let (mut ours, peer) = listed();
    let fd = ours.fd();
    queue(fd, 1, b"never read").unwrap();
    drop(peer);
    assert_eq!(ours.program.look(-1), Told::Disconnection(fd));
    assert_eq!(queue(fd, 1, b"closed"), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
    // On a closing call and at exit it is no more than lost.
    let (ours, peer) = pair();
    let (left, left_peer) = pair();
    queue(ours.as_raw_fd(), 1, b"never read").unwrap();
    queue(left.as_raw_fd(), 1, b"never read").unwrap();
    drop((peer, left_peer));
    assert_eq!(usock_close(ours.into_raw_fd()), IPC_ERROR_NONE);
    child::say("alive");
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    let _limit = limit(60);
    let mut program = Child::start("queues_to_who_has_gone");
    assert_eq!(program.hear(), "alive");
    assert!(program.end().success());
}

fn forks_with_a_queue() {
    let fd = child::connect(Path::new(&child::hear()));
    queue(fd, 1, b"of the parent").unwrap();
    let worker = fork();
    if worker == 0 {
        // It is the parent's to send.
        assert_eq!(pending(fd), 0);
        assert_eq!(queue(fd, 9, b"out of turn"), Err((IPC_ERROR_USOCK_SEND, libc::EBUSY)));
        assert_eq!(flush(fd, 1000), Err((IPC_ERROR_USOCK_SEND, libc::EBUSY)));
        // A connection without a queue is as good as any other.
        let (one, two) = pair();
        queue(one.as_raw_fd(), 1, b"mine").unwrap();
        flush(one.as_raw_fd(), 0).unwrap();
        assert_eq!(read(two.as_raw_fd()), Ok((1, b"mine".to_vec())));
        assert_eq!(usock_close(fd), IPC_ERROR_NONE);
        unsafe { libc::exit(0) };
    }
    assert_eq!(wait_for(worker), 0);
    child::say("the child has ended");
    assert_eq!(child::hear(), "nothing has come");
    assert_eq!(pending(fd), frame(1, b"of the parent").len());
    queue(fd, 2, b"later").unwrap();
    flush(fd, -1).unwrap();
}

#[test]
fn a_forked_child_does_not_send_what_its_parent_has_queued() {
    let _limit = limit(60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    let mut program = Child::start("forks_with_a_queue");
    program.say(path.to_str().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(program.hear(), "the child has ended");
    assert_eq!(at_hand(&mut stream), b"");
    program.say("nothing has come");
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, [frame(1, b"of the parent"), frame(2, b"later")].concat());
    assert!(program.end().success());
}

/// The program has closed a connection with close(2), and with it what was queued: none of that is sent to
/// another one that has got its number, and nothing that was queued for that one is lost without a word.
#[test]
fn what_was_queued_for_a_closed_connection_is_not_sent_to_the_next_one_with_its_number() {
    let _limit = limit(30);
    for size in [10, 1000, BATCH] {
        for flushed in [true, false] {
            let (first, _peer) = pair();
            let fd = first.as_raw_fd();
            // It reads nothing, so that something is left of the largest, too.
            queue(fd, 1, &pattern(size, 1)).unwrap();
            queue(fd, 1, &vec![1; 40_000]).unwrap();
            let (second, mut peer) = patient_pair();
            assert_eq!(unsafe { libc::dup2(second.as_raw_fd(), fd) }, fd);
            drop(second);
            queue(fd, 2, &pattern(size, 2)).unwrap();
            let told = if flushed { flush(fd, 0) } else { outcome(write(fd, 3, b"written")) };
            assert_eq!(pending(fd), 0);
            let got = at_hand(&mut peer);
            if told == Err((IPC_ERROR_USOCK_SEND, libc::EBADF)) {
                // It is said that the queue is gone, and from then on the connection is as good as any.
                assert!(got.is_empty(), "{} bytes at {size}", got.len());
                queue(fd, 2, &pattern(size, 2)).unwrap();
                flush(fd, 0).unwrap();
                assert!(at_hand(&mut peer) == frame(2, &pattern(size, 2)));
                continue;
            }
            assert_eq!(told, Ok(()));
            let mut expected = frame(2, &pattern(size, 2));
            if !flushed {
                expected.extend(frame(3, b"written"));
            }
            assert!(got == expected, "{} bytes of {} at {size}, {flushed}", got.len(), expected.len());
        }
    }
}

/// Nothing was queued for this one: nothing can have been lost of it.
#[test]
fn a_connection_does_not_pay_for_the_queue_of_one_that_had_its_number_before() {
    let _limit = limit(30);
    for size in [10, BATCH] {
        let new = || {
            let (first, _peer) = pair();
            let fd = first.into_raw_fd();
            queue(fd, 1, b"never sent").unwrap();
            let (second, peer) = patient_pair();
            assert_eq!(unsafe { libc::dup2(second.as_raw_fd(), fd) }, fd);
            (fd, peer)
        };
        let (fd, mut peer) = new();
        assert_eq!(flush(fd, -1), Ok(()), "nothing is queued");
        queue(fd, 2, &pattern(size, 2)).unwrap();
        flush(fd, -1).unwrap();
        assert!(at_hand(&mut peer) == frame(2, &pattern(size, 2)));
        close(fd);
        let (fd, mut peer) = new();
        queue(fd, 2, &pattern(BATCH, 2)).unwrap();
        flush(fd, -1).unwrap();
        assert!(at_hand(&mut peer) == frame(2, &pattern(BATCH, 2)));
        close(fd);
    }
}
