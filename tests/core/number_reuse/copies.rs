//! Promise 32: a number is reused while the old open file is kept open by a copy: a duplicate, a child of
//! fork(2), or a message to another process. The old file stays registered in the epoll set, but it no longer
//! has the number.

use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use super::all_now;
use crate::support::ext::*;
use crate::support::foreign_files::*;
use crate::support::*;

/// What the library holds of the connection when its number is reused.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Nothing,
    HalfFrame,
    FramesReadAhead,
    QueuedOutput,
    /// The peer has sent bytes that the library has not received.
    BytesUnread,
    PeerClosed,
}

use Held::*;

const ALL: [Held; 6] = [Nothing, HalfFrame, FramesReadAhead, QueuedOutput, BytesUnread, PeerClosed];

impl Held {
    fn apply_state(self, checker: &mut EventChecker, peer: &mut UnixStream, fd: i32, origin: Origin) {
        let mut send = |bytes: &[u8]| peer.write_all(bytes).unwrap();
        match self {
            Nothing | PeerClosed => return,
            BytesUnread => return send(&frame(1, b"unread")),
            HalfFrame => send(&[frame(1, b"first"), frame(1, b"half of it")[..9].to_vec()].concat()),
            FramesReadAhead => send(&frame(1, b"first").repeat(4)),
            QueuedOutput => {
                send(&frame(1, b"first"));
                assert_eq!(write(fd, 1, &vec![0; 3_000_000]), IPC_ERROR_NONE);
            }
        }
        assert_eq!(checker.next(), (Reported::Message(fd, 1, b"first".to_vec()), origin));
    }
}

#[test]
fn promise_32_client_ends_although_a_copy_keeps_its_file() {
    own_process!(90);
    for (number, held) in ALL.into_iter().enumerate() {
        for (way, copy) in COPIES.into_iter().enumerate() {
            let kind = KINDS[(number + way) % KINDS.len()];
            let what = format!("{held:?}, copy {way}, then {kind:?}");
            let mut checker = EventChecker::new();
            let mut marker = checker.peer();
            let (mut peer, fd, origin) = checker.peer();
            held.apply_state(&mut checker, &mut peer, fd, origin);
            let foreign_file = ForeignFile::new(kind);
            let copy = copy(fd);
            foreign_file.take(fd);
            let peer = if held == PeerClosed {
                drop(peer);
                None
            } else {
                peer.write_all(&frame(1, b"to the old file")).unwrap();
                Some(peer)
            };
            let reported = checker.all_events(1, &mut marker);
            assert_eq!(reported, [(Reported::Disconnection(fd), origin)], "{what}");
            foreign_file.assert_untouched(fd);
            // The old file is closed as well, and the number is free for the next client.
            drop((copy, peer));
            assert_eq!(checker.all_events(0, &mut marker), [], "{what}");
            foreign_file.assert_untouched(fd);
            foreign_file.release(fd);
            checker.assert_nothing_more();
        }
    }
}

/// What the program has added. After the number was reused, the program must remove it and add it again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Added {
    Connection,
    ReadPipe,
    WatchedPipe,
    ReadSocket,
}

#[test]
fn promise_32_reused_descriptor_ignored_until_added_again() {
    own_process!(90);
    for (number, added) in
        [Added::Connection, Added::ReadPipe, Added::WatchedPipe, Added::ReadSocket].into_iter().enumerate()
    {
        for (way, copy) in COPIES.into_iter().enumerate() {
            let what = format!("{added:?}, copy {way}");
            let mut program = Program::server();
            let (mut client, client_fd) = program.peer();
            let (fd, mut writer): (i32, Box<dyn Write>) = match added {
                Added::Connection | Added::ReadSocket => {
                    let (one, other) = pair();
                    (one.into_raw_fd(), Box::new(at_high_number(other)))
                }
                Added::ReadPipe | Added::WatchedPipe => {
                    let (reader, writer) = pipe();
                    (reader.into_raw_fd(), Box::new(writer))
                }
            };
            let mut own = info(fd);
            let list = &mut program.list;
            let code = match added {
                Added::Connection => unsafe { ipc_add(list, &mut own) },
                Added::WatchedPipe => unsafe { ipc_watch_fd(list, fd) },
                Added::ReadPipe | Added::ReadSocket => unsafe { ipc_add_fd(list, fd) },
            };
            assert_eq!(code, IPC_ERROR_NONE);
            writer.write_all(&frame(1, b"before")).unwrap();
            let first = match added {
                Added::Connection => Seen::Reported(Reported::Message(fd, 1, b"before".to_vec())),
                Added::WatchedPipe => Seen::Ready(fd),
                Added::ReadPipe | Added::ReadSocket => {
                    Seen::Reported(Reported::Extra(fd, frame(1, b"before")))
                }
            };
            assert_eq!(program.poll(10_000), first, "{what}");
            let foreign_file = ForeignFile::new(KINDS[1 + (number + way) % 4]);
            let copy = copy(fd);
            foreign_file.take(fd);
            writer.write_all(&frame(1, b"to the old file")).unwrap();
            for _ in 0..3 {
                force_list_scan(&mut program.list);
                client.write_all(&frame(9, b"marker")).unwrap();
                assert_eq!(
                    all_now(&mut program),
                    [Seen::Reported(Reported::Message(client_fd, 9, b"marker".to_vec()))],
                    "{what}"
                );
            }
            foreign_file.assert_untouched(fd);
            drop(copy);
            if added == Added::Connection {
                // Removed and added again, the entry stands for the connection that has the number now.
                assert_eq!(unsafe { ipc_del(&mut program.list, &mut own) }, IPC_ERROR_NONE);
                let (one, other) = pair();
                at_number(one.as_raw_fd(), fd);
                drop(one);
                let mut other = at_high_number(other);
                assert_eq!(unsafe { ipc_add(&mut program.list, &mut own) }, IPC_ERROR_NONE);
                other.write_all(&frame(1, b"after")).unwrap();
                assert_eq!(program.poll(10_000), Reported::Message(fd, 1, b"after".to_vec()), "{what}");
                assert_eq!(unsafe { ipc_del(&mut program.list, &mut own) }, IPC_ERROR_NONE);
            } else {
                assert_eq!(program.del_fd(&fd), Ok(()), "{what}");
                let (reader, mut writer) = pipe();
                at_number(reader.as_raw_fd(), fd);
                assert_eq!(unsafe { ipc_add_fd(&mut program.list, fd) }, IPC_ERROR_NONE);
                writer.write_all(b"after").unwrap();
                assert_eq!(program.poll(10_000), Reported::Extra(fd, b"after".to_vec()), "{what}");
                assert_eq!(program.del_fd(&fd), Ok(()));
            }
            close(fd);
        }
    }
}

/// A regular file cannot be in an epoll set: the library treats it as always ready.
#[test]
fn promise_32_regular_file_reusing_a_number_is_not_read() {
    own_process!(30);
    for copy in COPIES {
        let mut program = Program::server();
        let (mut client, client_fd) = program.peer();
        let mut file = tempfile::tempfile().unwrap();
        // More bytes than one event delivers.
        file.write_all(&vec![b'x'; 200_000]).unwrap();
        assert_eq!(unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_SET) }, 0);
        let fd = file.into_raw_fd();
        assert_eq!(unsafe { ipc_add_fd(&mut program.list, fd) }, IPC_ERROR_NONE);
        assert!(
            matches!(program.poll(10_000), Seen::Reported(Reported::Extra(reported, bytes)) if reported == fd && !bytes.is_empty())
        );
        let foreign_file = ForeignFile::new(Kind::File);
        let copy = copy(fd);
        foreign_file.take(fd);
        client.write_all(&frame(9, b"marker")).unwrap();
        assert_eq!(
            all_now(&mut program),
            [Seen::Reported(Reported::Message(client_fd, 9, b"marker".to_vec()))]
        );
        foreign_file.assert_untouched(fd);
        drop(copy);
        assert_eq!(program.del_fd(&fd), Ok(()));
        close(fd);
    }
}

#[test]
fn promise_32_file_with_the_services_number_is_not_used() {
    own_process!(60);
    for (way, copy) in COPIES.into_iter().enumerate() {
        for kind in KINDS {
            let mut program = Program::server();
            let (mut client, client_fd) = program.peer();
            let fd = program.srv.as_ref().unwrap().fd;
            let foreign_file = ForeignFile::new(kind);
            let copy = copy(fd);
            foreign_file.take(fd);
            // This client is in the backlog of the old socket.
            let late = UnixStream::connect(&program.path).unwrap();
            for _ in 0..2 {
                client.write_all(&frame(9, b"marker")).unwrap();
                force_list_scan(&mut program.list);
                let marker = Seen::Reported(Reported::Message(client_fd, 9, b"marker".to_vec()));
                // The call may fail since the service's number is no socket; no client is accepted.
                let mut reported = Vec::new();
                until("the marker", || {
                    reported.extend(program.try_poll(50).ok().filter(|seen| *seen != Seen::Nothing));
                    !reported.is_empty()
                });
                assert_eq!(reported, [marker], "copy {way}, {kind:?}");
            }
            foreign_file.assert_untouched(fd);
            drop((copy, late));
            // The number belongs to the program's file: the end of the service must not close it.
            let service = program.srv.take().unwrap();
            unsafe { libc::free(service.spath.cast()) };
            foreign_file.release(fd);
        }
    }
}
