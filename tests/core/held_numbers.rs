//! Promise 41: after the report of a connection's end, its number is held until the next call for the list:
//! it belongs to a placeholder that can only be closed. So a late write or close in another thread does not
//! reach another connection.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::foreign_files::*;
use crate::support::*;

child::roles! { forks_while_a_number_is_held }

/// Whether the number is held: an `O_PATH` descriptor, which cannot be read or written.
fn is_held(fd: RawFd) -> bool {
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_PATH != 0
}

fn is_free(fd: RawFd) -> bool {
    unsafe { libc::fcntl(fd, libc::F_GETFD) < 0 && errno() == libc::EBADF }
}

/// A server, and the number of a client whose end was just reported. The peer's descriptor has a high number.
fn with_held() -> (Box<Program>, RawFd) {
    let mut program = Program::server();
    let fd = end_of_a_client(&mut program);
    (program, fd)
}

fn end_of_a_client(program: &mut Program) -> RawFd {
    let peer = at_high_number(UnixStream::connect(&program.path).unwrap());
    let fd = program.next_connection();
    drop(peer);
    assert_eq!(program.next(), Reported::Disconnection(fd));
    assert!(is_held(fd));
    fd
}

#[test]
fn promise_41_calls_for_a_held_number_fail_without_effect() {
    own_process!(30);
    let (mut program, fd) = with_held();
    let sent = (IPC_ERROR_USOCK_SEND, libc::EBADF);
    let received = (IPC_ERROR_USOCK_RECV, libc::EBADF);
    let closed = (IPC_ERROR_USOCK_CLOSE, libc::EBADF);
    let (other, _end) = pipe();
    for _ in 0..2 {
        unsafe {
            assert_eq!(outcome(write(fd, 1, b"late")), Err(sent));
            assert_eq!(outcome(ipc_message_write(fd, &message(1, b"late"))), Err(sent));
            assert_eq!(outcome(usock_send(fd, c"late".as_ptr(), 4, none())), Err(sent));
            assert_eq!(queue(fd, 1, b"late"), Err(sent));
            assert_eq!(write_fd(fd, 1, b"late", &other), Err(sent));
            assert_eq!(flush(fd, 0), Err(sent));
            assert_eq!(outcome(ipc_pending(&info(fd), &mut 0)), Err(sent));
            assert_eq!(outcome(ipc_read(&info(fd), &mut { EMPTY_MESSAGE })), Err(received));
            assert_eq!(outcome(ipc_message_read(fd, &mut { EMPTY_MESSAGE })), Err(received));
            assert_eq!(outcome(ipc_close(&mut info(fd))), Err(closed));
            assert_eq!(outcome(usock_close(fd)), Err(closed));
            assert_eq!(limits(fd, 10, 10).map_err(|failure| failure.1), Err(libc::EBADF));
        }
        assert!(is_held(fd));
    }
    assert!(is_held(fd));
    assert_eq!(program.poll(0), Seen::Nothing);
    assert!(is_free(fd));
}

#[test]
fn promise_41_no_other_file_gets_a_held_number() {
    own_process!(30);
    let (mut program, fd) = with_held();
    let below = (0..fd).filter(|fd| is_free(*fd)).count();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Another server, whose connections are accepted meanwhile.
            let mut other = Program::server();
            let files: Vec<_> =
                (0..below + 20).map(|_| std::fs::File::open("/dev/null").unwrap().as_raw_fd()).collect();
            let accepted: Vec<_> = (0..20).map(|_| other.peer()).collect();
            assert!(!files.contains(&fd) && accepted.iter().all(|(_, given)| *given != fd));
            assert!(accepted.iter().all(|(peer, _)| peer.as_raw_fd() != fd));
        });
    });
    // Calls for other lists have not released the number.
    assert!(is_held(fd));
    assert_eq!(program.poll(0), Seen::Nothing);
    assert!(is_free(fd));
}

#[test]
fn promise_41_next_call_for_the_list_releases_the_number() {
    own_process!(30);
    type Call = fn(&mut Program);
    let calls: [(&str, Call); 5] = [
        ("ipc_wait_event_timeout", |program| assert_eq!(program.poll(0), Seen::Nothing)),
        ("ipc_wait_events", |program| assert_eq!(program.many(&mut events(3), 0), NOTHING)),
        ("ipc_wait_event", |program| {
            program.peer();
        }),
        ("ipc_connections_free", |program| unsafe { ipc_connections_free(&mut program.list) }),
        ("another end", |program| {
            let peer = UnixStream::connect(&program.path).unwrap();
            let fd = program.next_connection();
            drop(peer);
            assert_eq!(program.next(), Reported::Disconnection(fd));
        }),
    ];
    for (name, call) in calls {
        let (mut program, fd) = with_held();
        // A file that is opened now gets another number.
        let before = std::fs::File::open("/dev/null").unwrap();
        assert!(before.as_raw_fd() != fd && is_held(fd), "{name}");
        let (stays, _other) = pair();
        let _stays = at_high_number(stays);
        call(&mut program);
        assert!(!is_held(fd) || name == "another end", "{name}");
        if name == "another end" {
            assert_eq!(program.poll(0), Seen::Nothing);
            assert!(is_free(fd), "{name}");
        }
    }
}

#[test]
fn promise_41_peer_sees_the_end_at_once() {
    own_process!(30);
    let mut program = Program::server();
    // Ends at which the peer itself stays open.
    for bytes in [&[1, 255, 255, 255, 255][..], b""] {
        let (mut peer, fd) = program.peer();
        if bytes.is_empty() {
            peer.shutdown(std::net::Shutdown::Write).unwrap();
        } else {
            peer.write_all(bytes).unwrap();
            assert_eq!(program.next(), Reported::Error(fd));
        }
        assert_eq!(program.next(), Reported::Disconnection(fd));
        assert!(is_held(fd));
        // Without another call of the server.
        peer.set_read_timeout(Some(std::time::Duration::from_secs(10) * patience())).unwrap();
        let end = peer.read(&mut [0]);
        assert!(
            matches!(&end, Ok(0))
                || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
    }
}

#[test]
fn promise_41_program_may_close_and_reuse_the_number() {
    own_process!(30);
    for is_closed_first in [true, false] {
        for kind in KINDS {
            let (mut program, fd) = with_held();
            if is_closed_first {
                close(fd);
                assert!(is_free(fd));
            }
            let foreign_file = ForeignFile::new(kind);
            foreign_file.take(fd);
            assert_eq!(program.poll(0), Seen::Nothing);
            let other = end_of_a_client(&mut program);
            assert_ne!(other, fd);
            foreign_file.assert_untouched(fd);
            drop(program);
            foreign_file.assert_untouched(fd);
            foreign_file.release(fd);
        }
    }
}

/// A connection of the program may get the number by dup2(2): writing, reading and closing work.
#[test]
fn promise_41_new_connection_with_the_held_number_works() {
    own_process!(30);
    let (mut program, fd) = with_held();
    let (one, mut other) = pair();
    at_number(one.as_raw_fd(), fd);
    drop(one);
    assert_eq!(write(fd, 1, b"hello"), IPC_ERROR_NONE);
    assert_eq!(read_frame(&mut other), (1, b"hello".to_vec()));
    other.write_all(&frame(2, b"answer")).unwrap();
    assert_eq!(read(fd), Ok((2, b"answer".to_vec())));
    assert_eq!(program.poll(0), Seen::Nothing);
    assert_eq!(outcome(unsafe { ipc_close(&mut info(fd)) }), Ok(()));
    assert!(is_free(fd));
}

#[test]
fn promise_41_many_ends_hold_one_number_at_a_time() {
    own_process!(30);
    let mut program = Program::server();
    let peers: Vec<_> = (0..50).map(|_| program.peer()).collect();
    let (peers, fds): (Vec<_>, Vec<_>) = peers.into_iter().unzip();
    drop(peers);
    for count in 1..=50 {
        let Reported::Disconnection(fd) = program.next() else { panic!("{count}") };
        assert!(is_held(fd));
        assert_eq!(fds.iter().filter(|fd| is_held(**fd)).count(), 1);
    }
    assert_eq!(program.poll(0), Seen::Nothing);
    assert!(fds.iter().all(|fd| is_free(*fd)));
}

#[test]
fn promise_41_number_of_an_end_in_an_array_is_held() {
    own_process!(30);
    let mut program = Program::server();
    let (_busy, busy_fd) = program.peer();
    let (peer, fd) = program.peer();
    let mut events = events(8);
    drop(peer);
    assert_eq!(program.many(&mut events, 10_000), [Seen::Reported(Reported::Disconnection(fd))]);
    assert!(is_held(fd) && is_open(busy_fd));
    assert_eq!(program.many(&mut events, 0), NOTHING);
    assert!(is_free(fd));
}

fn forks_while_a_number_is_held() {
    let mut program = child::server();
    let peer = UnixStream::connect(&program.path).unwrap();
    let fd = program.next_connection();
    drop(peer);
    assert_eq!(program.next(), Reported::Disconnection(fd));
    for how in 0..3 {
        let child = fork();
        if child == 0 {
            assert!(is_held(fd));
            assert_eq!(outcome(write(fd, 1, b"late")), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
            match how {
                0 => unsafe { ipc_connections_free(&mut program.list) },
                1 => assert_eq!(program.poll(0), Seen::Nothing),
                _ => {}
            }
            assert_eq!(is_held(fd), how == 2);
            unsafe { libc::_exit(0) };
        }
        assert_eq!(wait_for(child), 0, "{how}");
        assert!(is_held(fd), "the child has not released the parent's number");
    }
    assert_eq!(program.poll(0), Seen::Nothing);
    assert!(is_free(fd));
}

#[test]
fn promise_41_each_process_holds_its_own_number_after_fork() {
    own_process!(30);
    assert!(Child::start(forks_while_a_number_is_held).end().success());
}
