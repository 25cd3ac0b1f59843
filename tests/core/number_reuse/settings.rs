//! What was read ahead, set and queued for a connection is nothing to the next one with its number.

use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use crate::support::ext::*;
use crate::support::*;

/// How much is put together before it leaves without being asked.
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
        one.write_all(&[frame(1, b"told"), ahead].concat()).unwrap();
        assert_eq!(program.next(), Reported::Message(fd, 1, b"told".to_vec()));
        // The program closes it with close(2), and the number is taken again.
        let (mut new, other) = pair();
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), fd) }, fd);
        new.write_all(&[frame(2, b"new"), frame(3, b"new too")].concat()).unwrap();
        assert_eq!(read(fd), Ok((2, b"new".to_vec())));
        // The entry is that of the old connection until it is added anew (promise 32).
        assert_eq!(unsafe { ipc_del(&mut program.list, &mut info) }, IPC_ERROR_NONE);
        assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
        assert_eq!(program.next(), Reported::Message(fd, 3, b"new too".to_vec()));
        unsafe { ipc_close(&mut info) };
    }
}

/// A number is used again: limits, and permission for descriptors, are of the connection before alone.
#[test]
fn settings_of_a_closed_connection_not_inherited() {
    own_process!(30);
    // What the next one is: a pair of the program's, an accepted client, one who connects.
    for next in 0..3 {
        for by_the_library in [true, false] {
            let mut server = Program::server();
            // With all the descriptors that the library makes for the loop.
            assert_eq!(server.look(0), Seen::Nothing);
            let free = out_of_the_way(UnixStream::connect(&server.path).unwrap());
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
            assert_eq!(fd, old.fd, "the number is used again");
            let file = numbered_file(1);
            send_with(&peer, &frame(1, b"longer"), &[file.as_raw_fd()]);
            let before = open_descriptors();
            if next == 1 {
                assert_eq!(server.look(-1), Reported::Message(fd, 1, b"longer".to_vec()));
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

/// The program has closed a connection with close(2), and with it what was queued: none of that is sent to
/// another one that has got its number, and nothing that was queued for that one is lost without a word.
#[test]
fn queue_of_a_closed_connection_not_sent_to_its_successor() {
    own_process!(30);
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
            let reported = if flushed { flush(fd, 0) } else { outcome(write(fd, 3, b"written")) };
            assert_eq!(pending(fd), 0);
            let got = at_hand(&mut peer);
            if reported == Err((IPC_ERROR_USOCK_SEND, libc::EBADF)) {
                // It is said that the queue is gone, and from then on the connection is as good as any.
                assert!(got.is_empty(), "{} bytes at {size}", got.len());
                queue(fd, 2, &pattern(size, 2)).unwrap();
                flush(fd, 0).unwrap();
                assert!(at_hand(&mut peer) == frame(2, &pattern(size, 2)));
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

/// Nothing was queued for this one: nothing can have been lost of it.
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
        assert!(at_hand(&mut peer) == frame(2, &pattern(size, 2)));
        close(fd);
        let (fd, mut peer) = new();
        queue(fd, 2, &pattern(BATCH, 2)).unwrap();
        flush(fd, -1).unwrap();
        assert!(at_hand(&mut peer) == frame(2, &pattern(BATCH, 2)));
        close(fd);
    }
}
