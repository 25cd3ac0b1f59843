//! The number of a client that the program has closed is reused by the next client, or by a connection or a
//! file of the program. Each end is reported once and with the right origin.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use super::{PAUSE, all_now};
use crate::list_by_hand::with_own;
use crate::support::ext::*;
use crate::support::*;

#[test]
fn promise_7_disconnection_reported_when_next_client_reuses_fd() {
    own_process!(30);
    for end in [IpcClose, Close, ReadAheadThenIpcClose, HalfReadThenClose] {
        let mut checker = EventChecker::new();
        // A second client follows in the list, so that the closed one is not the last entry.
        let (first, fd, origin) = checker.peer();
        let (mut second, second_fd, second_origin) = checker.peer();
        let _first = end.apply(&mut checker, first, fd, origin);
        let mut next = checker.connect();
        next.write_all(&frame(1, b"from the next")).unwrap();
        let mut reported = vec![checker.next(), checker.next(), checker.next()];
        let place =
            reported.iter().position(|(reported, _)| *reported == Reported::Disconnection(fd)).unwrap();
        assert_eq!(reported.remove(place), (Reported::Disconnection(fd), origin), "{end:?}");
        let [(Reported::Connection(next_fd), next_origin), message] = &reported[..] else {
            panic!("{end:?}: {reported:?}")
        };
        assert_eq!(*next_fd, fd, "the number is reused");
        assert_eq!(*message, (Reported::Message(fd, 1, b"from the next".to_vec()), *next_origin), "{end:?}");
        let next_origin = *next_origin;
        second.write_all(&frame(1, b"still here")).unwrap();
        assert_eq!(checker.next(), (Reported::Message(second_fd, 1, b"still here".to_vec()), second_origin));
        drop(next);
        assert_eq!(checker.next(), (Reported::Disconnection(fd), next_origin), "{end:?}");
        drop(second);
        assert_eq!(checker.next(), (Reported::Disconnection(second_fd), second_origin), "{end:?}");
        checker.assert_nothing_more();
    }
}

/// The program may have moved the entries since the library last saw them.
#[test]
fn promise_7_disconnection_reported_at_any_place_in_the_list() {
    own_process!(30);
    for end in [IpcClose, Close] {
        let mut checker = EventChecker::new();
        let (peer, fd, origin) = checker.peer();
        let mut marker = checker.peer();
        let _peer = end.apply(&mut checker, peer, fd, origin);
        let mut next = checker.connect();
        next.write_all(&frame(1, b"from the next")).unwrap();
        unsafe {
            checker.list.cinfos.write(marker.2);
            checker.list.cinfos.add(1).write(origin);
        }
        let mut reported = vec![checker.next()];
        reported.extend(checker.all_events(2, &mut marker));
        assert!(reported.contains(&(Reported::Disconnection(fd), origin)), "{end:?}: {reported:?}");
        let connection = reported.iter().find(|(reported, _)| *reported == Reported::Connection(fd)).unwrap();
        assert!(
            reported.contains(&(Reported::Message(fd, 1, b"from the next".to_vec()), connection.1)),
            "{end:?}: {reported:?}"
        );
        assert_eq!(reported.len(), 3, "{end:?}: {reported:?}");
    }
}

/// A server closes a client and then makes a connection of its own, which gets the client's number.
#[test]
fn promise_7_own_connection_reusing_a_number_hides_no_end() {
    own_process!(30);
    for end in [IpcClose, Close] {
        let mut checker = EventChecker::new();
        let mut marker = checker.peer();
        let (peer, fd, origin) = checker.peer();
        let _peer = end.apply(&mut checker, peer, fd, origin);
        let (one, other) = pair();
        let (one, mut other) = (at_high_number(one), at_high_number(other));
        assert_eq!(unsafe { libc::dup2(one.as_raw_fd(), fd) }, fd);
        drop(one);
        let mut own = ipc_connection_info { fd, ..EMPTY_INFO };
        assert_eq!(unsafe { ipc_add(&mut checker.list, &mut own) }, IPC_ERROR_NONE);
        checker.connected.insert(&raw mut own);
        other.write_all(&frame(1, b"to the new one")).unwrap();
        let reported = checker.all_events(2, &mut marker);
        let message = (Reported::Message(fd, 1, b"to the new one".to_vec()), &raw mut own);
        assert!(reported.contains(&message), "{end:?}: {reported:?}");
        assert!(reported.contains(&(Reported::Disconnection(fd), origin)), "{end:?}: {reported:?}");
        assert_eq!(reported.len(), 2, "{reported:?}");
        assert_eq!(unsafe { ipc_del(&mut checker.list, &mut own) }, IPC_ERROR_NONE);
        close(fd);
        checker.assert_nothing_more();
    }
}

/// A program closes a client and opens a file, which gets the client's number.
#[test]
fn promise_7_own_file_reusing_a_number_is_left_alone() {
    own_process!(30);
    for end in [IpcClose, Close, HalfReadThenClose, PeerAnnouncesTooMuch] {
        let mut checker = EventChecker::new();
        let mut marker = checker.peer();
        let (peer, fd, origin) = checker.peer();
        let _peer = end.apply(&mut checker, peer, fd, origin);
        if end.is_an_error() {
            assert_eq!(checker.next(), (Reported::Error(fd), origin));
            close(fd);
        }
        let (reader, mut writer) = pipe();
        assert_eq!(reader.into_raw_fd(), fd, "the number is reused");
        writer.write_all(b"the program's").unwrap();
        let reported = checker.all_events(1, &mut marker);
        // An ERROR may be reported before.
        assert_eq!(reported.last(), Some(&(Reported::Disconnection(fd), origin)), "{end:?}");
        assert!(is_open(fd), "{end:?}: the library has closed the program's file");
        let mut bytes = [0; 13];
        unsafe { std::fs::File::from_raw_fd(fd) }.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"the program's");
        checker.assert_nothing_more();
    }
}

/// A program leaves the structure of a closed connection in the list, and a client gets the number. The
/// client's events have the client's structure as origin.
#[test]
fn promise_7_dead_entry_does_not_take_events_of_its_number() {
    own_process!(30);
    let mut checker = EventChecker::new();
    let _first = checker.peer();
    let (one, other) = pair();
    let _other = at_high_number(other);
    let mut dead = connection(&one);
    assert_eq!(unsafe { ipc_add(&mut checker.list, &mut dead) }, IPC_ERROR_NONE);
    assert_eq!(unsafe { ipc_close(&mut dead) }, IPC_ERROR_NONE);
    std::mem::forget(one);
    let (mut peer, fd, origin) = checker.peer();
    assert_eq!(fd, dead.fd, "the number is reused");
    for n in 0..3 {
        peer.write_all(&frame(1, &[n])).unwrap();
        assert_eq!(checker.next(), (Reported::Message(fd, 1, vec![n]), origin));
        force_list_scan(&mut checker.list);
    }
    drop(peer);
    assert_eq!(checker.next(), (Reported::Disconnection(fd), origin));
}

/// Some programs set the number of a closed connection to -1.
#[test]
fn promise_7_disconnection_reported_if_fd_set_to_minus_one() {
    own_process!(30);
    for by_the_library in [true, false] {
        let mut server = Program::server();
        let (_peer, fd) = server.peer();
        let (mut other, other_fd) = server.peer();
        let info = server.info(fd);
        unsafe {
            if by_the_library {
                assert_eq!(ipc_close(info), IPC_ERROR_NONE);
            } else {
                libc::close(fd);
            }
            (*info).fd = -1;
        }
        force_list_scan(&mut server.list);
        assert_eq!(server.next(), Reported::Disconnection(-1));
        other.write_all(&frame(1, b"still here")).unwrap();
        assert_eq!(server.next(), Reported::Message(other_fd, 1, b"still here".to_vec()));
        assert_eq!(server.list.size, 1);
    }
}

/// The number now belongs to a connection that was in the list with another number, and bytes are queued for
/// this connection before the library scans the list.
#[test]
fn promise_7_number_given_to_another_entry_hides_no_end() {
    own_process!(30);
    let mut server = Program::server();
    let (_peer, fd) = server.peer();
    let (ours, _theirs) = pair();
    let mut own = ipc_connection_info { fd: ours.into_raw_fd(), ..EMPTY_INFO };
    assert_eq!(unsafe { ipc_add(&mut server.list, &mut own) }, IPC_ERROR_NONE);
    force_list_scan(&mut server.list);
    let (ours, mut theirs) = pair();
    unsafe { (*server.info(fd)).fd = -1 };
    assert_eq!(unsafe { libc::dup2(ours.as_raw_fd(), fd) }, fd);
    drop(ours);
    close(std::mem::replace(&mut own.fd, fd));
    queue(fd, 1, b"to the new one").unwrap();
    force_list_scan(&mut server.list);
    assert_eq!(server.next(), Reported::Disconnection(-1));
    flush(fd, 10_000).unwrap();
    let mut bytes = frame(0, b"to the new one");
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, frame(1, b"to the new one"));
    theirs.write_all(&frame(2, b"from the new one")).unwrap();
    assert_eq!(server.next(), Reported::Message(fd, 2, b"from the new one".to_vec()));
    assert_eq!(unsafe { ipc_del(&mut server.list, &mut own) }, IPC_ERROR_NONE);
    close(fd);
}

/// In an array of events, the DISCONNECTION of a closed client precedes the CONNECTION of the client with its
/// number.
#[test]
fn promise_7_disconnection_precedes_next_connection_of_number() {
    own_process!(60);
    let mut server = Program::server();
    let (mut first, first_fd) = server.peer();
    let (_peer, fd) = server.peer();
    first.write_all(&frame(1, b"word").repeat(2)).unwrap();
    assert_eq!(server.poll(10_000), Reported::Message(first_fd, 1, b"word".to_vec()));
    std::thread::sleep(PAUSE);
    close(fd);
    let _next = at_high_number(UnixStream::connect(&server.path).unwrap());
    let mut array = events(8);
    let mut reported = server.many(&mut array, 10_000);
    for _ in 0..3 {
        reported.extend(server.many(&mut array, 50));
    }
    let end = reported.iter().position(|seen| *seen == Reported::Disconnection(fd)).unwrap();
    let connection = reported.iter().position(|seen| *seen == Reported::Connection(fd)).unwrap();
    assert!(end < connection, "{reported:?}");
}

/// In a forked child, before the child's first wait.
#[test]
fn promise_7_child_reuses_the_number_of_a_closed_client() {
    own_process!(60);
    let mut server = Program::server();
    let (_first, _) = server.peer();
    let (_peer, fd) = server.peer();
    assert_eq!(server.poll(0), Seen::Nothing);
    let worker = unsafe { libc::fork() };
    assert!(worker >= 0);
    if worker == 0 {
        unsafe { libc::alarm(10) };
        // A connection of the child, in no list, has the number.
        close(fd);
        let (ours, theirs) = pair();
        assert_eq!(ours.as_raw_fd(), fd, "the number is reused");
        let mut theirs = at_high_number(theirs);
        theirs.write_all(&frame(1, b"to the child's own")).unwrap();
        let reported = all_now(&mut server);
        let mut ours = ours;
        let left = readable_now(&mut ours);
        let good = reported == [Seen::Reported(Reported::Disconnection(fd))]
            && left == frame(1, b"to the child's own");
        if !good {
            say(&format!("{reported:?}, left: {left:?}"));
        }
        unsafe { libc::_exit(if good { 0 } else { 1 }) };
    }
    let mut status = -1;
    assert_eq!(unsafe { libc::waitpid(worker, &mut status, 0) }, worker);
    assert_eq!(status, 0);
}

#[test]
fn promise_13_socket_replaced_by_dup2_needs_to_be_added_again() {
    own_process!(30);
    for half_a_frame in [false, true] {
        let (mut program, mut own) = with_own(2);
        if half_a_frame {
            own[0].peer.write_all(&frame(1, b"half")[..7]).unwrap();
            own[1].assert_reported(&mut program);
        }
        let (peer, end) = pair();
        // dup2(2) closes the previous connection.
        assert_eq!(unsafe { libc::dup2(end.as_raw_fd(), own[0].fd()) }, own[0].fd());
        drop(end);
        own[0].peer = peer;
        own[0].peer.write_all(&frame(9, b"to the new one")).unwrap();
        own[1].assert_reported(&mut program);
        force_list_scan(&mut program.list);
        own[1].assert_reported(&mut program);
        // The entry belongs to the old connection until the program adds it again (promise 32): the new
        // connection is not read.
        let info: *mut ipc_connection_info = &mut *own[0].info;
        assert_eq!(unsafe { ipc_del(&mut program.list, info) }, IPC_ERROR_NONE);
        assert_eq!(unsafe { ipc_add(&mut program.list, info) }, IPC_ERROR_NONE);
        assert_eq!(program.next(), Reported::Message(own[0].fd(), 9, b"to the new one".to_vec()));
        own[0].assert_reported(&mut program);
        let fd = own[0].fd();
        own[0].peer.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(program.next(), Reported::Disconnection(fd));
        own[0].info.fd = -1;
    }
}

#[test]
fn waiting_member_not_taken_for_previous_user_of_its_number() {
    own_process!(30);
    let mut server = Program::server();
    let (peer, fd) = server.peer();
    allow(fd);
    let (passed, mut other_end) = UnixStream::pair().unwrap();
    let (mut ours, _theirs) =
        UnixStream::pair().map(|(ours, theirs)| (info(ours.into_raw_fd()), theirs)).unwrap();
    assert_eq!(unsafe { ipc_add(&mut server.list, &mut ours) }, IPC_ERROR_NONE);
    // The entry stays in the list, as in a program that does not call ipc_del.
    assert_eq!(unsafe { ipc_close(&mut ours) }, IPC_ERROR_NONE);
    other_end.write_all(&frame(9, b"of the program's own")).unwrap();
    send_with(&peer, &frame(1, b"with a file"), &[passed.as_raw_fd()]);
    assert_eq!(server.poll(10_000), Reported::Message(fd, 1, b"with a file".to_vec()));
    assert!(is_open(ours.fd), "the received descriptor has the number");
    // A second ipc_close for the structure must not close the received descriptor.
    let again = outcome(unsafe { ipc_close(&mut ours) });
    assert_eq!(again, Err((IPC_ERROR_USOCK_CLOSE, libc::EBADF)));
    force_list_scan(&mut server.list);
    assert_eq!(server.poll(0), Seen::Nothing);
    let mut taken = UnixStream::from(take(fd).unwrap());
    assert_eq!(taken.as_raw_fd(), ours.fd);
    let mut bytes = frame(0, b"of the program's own");
    taken.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, frame(9, b"of the program's own"));
    assert_eq!(unsafe { ipc_del(&mut server.list, &mut ours) }, IPC_ERROR_NONE);
}
