//! The next connection with a number inherits neither read-ahead, settings nor queue of the previous one.

use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use crate::support::ext::*;
use crate::support::*;

/// How many bytes ipc_queue collects before it sends them itself.
const BATCH: usize = 64 << 10;

#[test]
fn promise_3_bytes_of_a_closed_connection_not_inherited() {
    own_process!(60);
    for half in [false, true] {
        let (mut one, two) = pair();
        let fd = two.into_raw_fd();
        let mut program = Program::client();
        let mut info = ipc_connection_info { fd, ..EMPTY_INFO };
        assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
        let ahead = if half { frame(1, b"stale")[..7].to_vec() } else { frame(1, b"stale").repeat(3) };
        one.write_all(&[frame(1, b"first"), ahead].concat()).unwrap();
        assert_eq!(program.next(), Reported::Message(fd, 1, b"first".to_vec()));
        // dup2(2) closes the connection, and another connection gets the number.
        let (mut new, other) = pair();
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), fd) }, fd);
        new.write_all(&[frame(2, b"new"), frame(3, b"new too")].concat()).unwrap();
        assert_eq!(read(fd), Ok((2, b"new".to_vec())));
        // The entry belongs to the old connection until the program adds it again (promise 32).
        assert_eq!(unsafe { ipc_del(&mut program.list, &mut info) }, IPC_ERROR_NONE);
        assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
        assert_eq!(program.next(), Reported::Message(fd, 3, b"new too".to_vec()));
        unsafe { ipc_close(&mut info) };
    }
}

/// Limits, and the permission for descriptors, apply to the previous connection with the number only.
#[test]
fn settings_of_a_closed_connection_not_inherited() {
    own_process!(30);
    // The next connection: a socket pair of the program, an accepted client, a connected one.
    for next in 0..3 {
        for by_the_library in [true, false] {
            let mut server = Program::server();
            // The first call opens the library's own descriptors for the loop.
            assert_eq!(server.poll(0), Seen::Nothing);
            let free = at_high_number(UnixStream::connect(&server.path).unwrap());
            let (old, _peer) = pair();
            let mut old = info(old.into_raw_fd());
            limits(old.fd, 1, 1).unwrap();
            allow(old.fd);
            let end = |info: &mut ipc_connection_info| match by_the_library {
                true => assert_eq!(unsafe { ipc_close(info) }, IPC_ERROR_NONE),
                false => close(info.fd),
            };
            let (fd, peer) = match next {
                0 => {
                    let (two, peer) = pair();
                    end(&mut old);
                    let fd = unsafe { libc::dup2(two.as_raw_fd(), old.fd) };
                    (fd, peer)
                }
                1 => {
                    end(&mut old);
                    (server.next_connection(), free)
                }
                _ => {
                    let other = std::os::unix::net::UnixListener::bind(rundir().join("another-0-0"));
                    end(&mut old);
                    let mut new = EMPTY_INFO;
                    assert_eq!(
                        unsafe { ipc_connection(env(), &mut new, c"another".as_ptr()) },
                        IPC_ERROR_NONE
                    );
                    std::fs::remove_file(rundir().join("another-0-0")).unwrap();
                    (new.fd, other.unwrap().accept().unwrap().0)
                }
            };
            assert_eq!(fd, old.fd, "the number is reused");
            let file = numbered_file(1);
            send_with(&peer, &frame(1, b"longer"), &[file.as_raw_fd()]);
            let before = open_descriptors();
            if next == 1 {
                assert_eq!(server.poll(-1), Reported::Message(fd, 1, b"longer".to_vec()));
            } else {
                assert_eq!(read(fd), Ok((1, b"longer".to_vec())));
            }
            assert!(take(fd).is_none(), "{next} {by_the_library}");
            assert_eq!(open_descriptors(), before);
            queue(fd, 1, b"longer").unwrap();
            if next != 1 {
                assert_eq!(unsafe { ipc_close(&mut info(fd)) }, IPC_ERROR_NONE);
            }
        }
    }
}

/// The program closes a connection that has bytes queued, and another connection gets its number. No byte of
/// the old queue is sent to it, and no byte that is queued for the new connection is lost without an error.
#[test]
fn queue_of_a_closed_connection_not_sent_to_its_successor() {
    own_process!(30);
    for size in [10, 1000, BATCH] {
        for flushed in [true, false] {
            let (first, _peer) = pair();
            let fd = first.as_raw_fd();
            // The peer does not read, so that bytes are left of the largest size, too.
            queue(fd, 1, &pattern(size, 1)).unwrap();
            queue(fd, 1, &vec![1; 40_000]).unwrap();
            let (second, mut peer) = patient_pair();
            assert_eq!(unsafe { libc::dup2(second.as_raw_fd(), fd) }, fd);
            drop(second);
            queue(fd, 2, &pattern(size, 2)).unwrap();
            let reported = if flushed { flush(fd, 0) } else { outcome(write(fd, 3, b"written")) };
            assert_eq!(pending(fd), 0);
            let got = readable_now(&mut peer);
            if reported == Err((IPC_ERROR_USOCK_SEND, libc::EBADF)) {
                // The error reports that the queue was dropped; after it the connection works.
                assert!(got.is_empty(), "{} bytes at {size}", got.len());
                queue(fd, 2, &pattern(size, 2)).unwrap();
                flush(fd, 0).unwrap();
                assert!(readable_now(&mut peer) == frame(2, &pattern(size, 2)));
                continue;
            }
            assert_eq!(reported, Ok(()));
            let mut expected = frame(2, &pattern(size, 2));
            if !flushed {
                expected.extend(frame(3, b"written"));
            }
            assert!(got == expected, "{} bytes of {} at {size}, {flushed}", got.len(), expected.len());
        }
    }
}

/// Nothing was queued for the new connection, so its flush succeeds.
#[test]
fn queue_of_a_closed_connection_not_counted_for_successor() {
    own_process!(30);
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
        assert!(readable_now(&mut peer) == frame(2, &pattern(size, 2)));
        close(fd);
        let (fd, mut peer) = new();
        queue(fd, 2, &pattern(BATCH, 2)).unwrap();
        flush(fd, -1).unwrap();
        assert!(readable_now(&mut peer) == frame(2, &pattern(BATCH, 2)));
        close(fd);
    }
}
