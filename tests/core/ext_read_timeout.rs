//! ipc_read_timeout: ipc_read with a timeout, which loses no bytes.

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use crate::support::ext::*;
use crate::support::*;

const TIMED_OUT: Result<(u8, Vec<u8>), Failure> = Err((IPC_ERROR_USOCK_RECV, libc::ETIMEDOUT));

fn read_timeout(fd: RawFd, timeout: i32) -> Result<(u8, Vec<u8>), Failure> {
    let mut message = EMPTY_MESSAGE;
    outcome(unsafe { ipc_read_timeout(&info(fd), &mut message, timeout) })?;
    let reported = take_payload(message);
    unsafe { ipc_message_empty(&mut message) };
    Ok(reported)
}

#[test]
fn pending_message_is_read_without_waiting() {
    own_process!(30);
    let (ours, mut peer) = patient_pair();
    let fd = ours.as_raw_fd();
    for timeout in [0, 1, 10_000, i32::MAX, -1, i32::MIN] {
        for size in [0, 5, 70_000] {
            peer.write_all(&frame(3, &pattern(size, 1))).unwrap();
            set_errno(4711);
            assert!(read_timeout(fd, timeout) == Ok((3, pattern(size, 1))));
            assert_eq!(errno(), 4711);
        }
    }
    assert_eq!(read_timeout(fd, 0), TIMED_OUT);
}

#[test]
fn timed_read_ends_in_time_and_keeps_a_partial_message() {
    own_process!(60);
    let (ours, mut peer) = patient_pair();
    let fd = ours.as_raw_fd();
    let whole = frame(1, &pattern(300, 7));
    let (first, rest) = whole.split_at(100);
    let writer = std::thread::spawn({
        let first = first.to_vec();
        move || {
            for byte in first {
                peer.write_all(&[byte]).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
            peer
        }
    });
    let begin = Instant::now();
    assert_eq!(read_timeout(fd, 50), TIMED_OUT);
    assert!(begin.elapsed() >= Duration::from_millis(50), "not before");
    let mut peer = writer.join().unwrap();
    assert_eq!(read_timeout(fd, 0), TIMED_OUT);
    peer.write_all(rest).unwrap();
    assert_eq!(read_timeout(fd, 0), Ok((1, pattern(300, 7))));
}

#[test]
fn timed_read_ignores_so_rcvtimeo_and_o_nonblock() {
    own_process!(30);
    let (ours, mut peer) = pair();
    let fd = ours.as_raw_fd();
    ours.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    for nonblocking in [false, true] {
        ours.set_nonblocking(nonblocking).unwrap();
        let begin = Instant::now();
        assert_eq!(read_timeout(fd, 30), TIMED_OUT);
        assert!(begin.elapsed() >= Duration::from_millis(30));
        let (id_of_reader, ids) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            id_of_reader.send(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap();
            read_timeout(fd, 60_000)
        });
        let id = ids.recv().unwrap();
        until("the call waits", || thread_sleeps(id));
        peer.write_all(&frame(1, b"late")).unwrap();
        assert_eq!(reader.join().unwrap(), Ok((1, b"late".to_vec())));
    }
}

#[test]
fn end_within_a_message_is_reported_without_a_wait() {
    own_process!(30);
    for size in [1, 4, 5, 6, 100] {
        let (ours, mut peer) = patient_pair();
        peer.write_all(&frame(1, &pattern(300, 7))[..size]).unwrap();
        drop(peer);
        let expected = Err((IPC_ERROR_CLOSED_RECIPIENT, libc::ECONNRESET));
        assert_eq!(read_timeout(ours.as_raw_fd(), 0), expected, "after {size} bytes");
    }
}

#[test]
fn timed_read_reports_end_and_wrong_arguments_like_ipc_read() {
    own_process!(30);
    let (ours, peer) = pair();
    let good = info(ours.as_raw_fd());
    let mut message = EMPTY_MESSAGE;
    unsafe {
        let no_message = Err((IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM, libc::EINVAL));
        assert_eq!(outcome(ipc_read_timeout(&good, none(), 0)), no_message);
        assert_eq!(
            outcome(ipc_read_timeout(none(), &mut message, 0)),
            Err((IPC_ERROR_USOCK_RECV, libc::EINVAL))
        );
        let closed = outcome(ipc_read_timeout(&info(900_000), &mut message, 0));
        assert_eq!(closed, Err((IPC_ERROR_USOCK_RECV, libc::EBADF)));
    }
    drop(peer);
    assert_eq!(read_timeout(good.fd, 10_000), Err((IPC_ERROR_CLOSED_RECIPIENT, libc::EPIPE)));
}
