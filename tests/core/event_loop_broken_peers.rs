//! Promise 8: if a peer breaks the protocol, or its connection fails, an ERROR and then a DISCONNECTION of
//! this connection are reported; other connections are not affected.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use crate::support::*;

/// Asserts that the broken connection reports ERROR and DISCONNECTION, and no other connection does; another
/// client sends messages meanwhile.
fn assert_error_and_end(
    program: &mut Program,
    fd: i32,
    other: &mut std::os::unix::net::UnixStream,
    other_fd: i32,
) {
    let (mut reported, mut origins) = (Vec::new(), Vec::new());
    for n in 0..4 {
        other.write_all(&frame(4, &[n])).unwrap();
        loop {
            // next() demands that the call itself returns IPC_ERROR_NONE.
            let event = program.next();
            if event == Reported::Message(other_fd, 4, vec![n]) {
                break;
            }
            reported.push(event);
            origins.push(program.event.origin);
        }
        assert_eq!(write(other_fd, 5, &[n]), IPC_ERROR_NONE);
        assert_eq!(read_frame(other), (5, vec![n]));
    }
    assert_eq!(reported, [Reported::Error(fd), Reported::Disconnection(fd)]);
    assert_eq!(origins[0], origins[1]);
}

#[test]
fn promise_8_length_over_the_maximum_is_an_error() {
    own_process!(30);
    let mut server = Program::server();
    let (mut other, other_fd) = server.peer();
    for length in [7_999_996, 8_000_000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let (mut peer, fd) = server.peer();
        let wrong = [&[2][..], &length.to_ne_bytes(), &frame(2, b"a frame after a wrong header")].concat();
        peer.write_all(&[frame(2, b"as it should be"), wrong].concat()).unwrap();
        assert_eq!(server.next(), Reported::Message(fd, 2, b"as it should be".to_vec()));
        assert_error_and_end(&mut server, fd, &mut other, other_fd);
        let end = peer.read(&mut [0]);
        assert!(
            matches!(end, Ok(0)) || end.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNRESET))
        );
    }
    assert_eq!(server.list.size, 1);
}

#[test]
fn promise_8_largest_length_is_no_error() {
    own_process!(30);
    let mut server = Program::server();
    let (mut other, other_fd) = server.peer();
    let (mut peer, fd) = server.peer();
    peer.write_all(&[&[2][..], &7_999_995_u32.to_ne_bytes()].concat()).unwrap();
    other.write_all(&frame(1, b"no error before this")).unwrap();
    assert_eq!(server.next(), Reported::Message(other_fd, 1, b"no error before this".to_vec()));
    drop(peer);
    assert_eq!(server.next(), Reported::Disconnection(fd));
}

#[test]
fn promise_8_close_with_our_bytes_unread_is_an_error() {
    own_process!(30);
    let mut server = Program::server();
    let (mut other, other_fd) = server.peer();
    let (peer, fd) = server.peer();
    assert_eq!(server.write(fd, 1, b"never read"), IPC_ERROR_NONE);
    drop(peer);
    assert_error_and_end(&mut server, fd, &mut other, other_fd);
}

#[test]
fn promise_8_broken_server_is_an_error_in_a_client() {
    own_process!(30);
    let mut program = Program::client();
    let (mut other, other_end) = pair();
    let (mut peer, end) = pair();
    // The library closes this end.
    let end = std::os::fd::IntoRawFd::into_raw_fd(end);
    let mut infos = [other_end.as_raw_fd(), end].map(|fd| ipc_connection_info { fd, ..EMPTY_INFO });
    for info in &mut infos {
        assert_eq!(unsafe { ipc_add(&mut program.list, info) }, IPC_ERROR_NONE);
    }
    peer.write_all(&[2, 255, 255, 255, 255]).unwrap();
    assert_error_and_end(&mut program, end, &mut other, infos[0].fd);
    assert_eq!(program.event.origin, &raw mut infos[0], "the last event was the other connection's");
    assert_eq!(program.list.size, 1);
}

#[test]
fn promise_8_descriptor_that_is_no_socket_fails() {
    own_process!(30);
    let mut program = Program::client();
    let (mut other, other_end) = pair();
    let (reader, mut writer) = pipe();
    writer.write_all(&frame(1, b"not from a socket")).unwrap();
    let reader = std::os::fd::IntoRawFd::into_raw_fd(reader);
    let mut infos = [other_end.as_raw_fd(), reader].map(|fd| ipc_connection_info { fd, ..EMPTY_INFO });
    for info in &mut infos {
        assert_eq!(unsafe { ipc_add(&mut program.list, info) }, IPC_ERROR_NONE);
    }
    assert_error_and_end(&mut program, reader, &mut other, infos[0].fd);
    // The library does not close a number that is no connection: the file is the program's.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(reader) });
}
