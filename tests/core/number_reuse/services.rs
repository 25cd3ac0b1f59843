//! A service reuses the number of another file, or another file reuses a service's number.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::{PAUSE, all_now, put_at};
use crate::support::ext::*;
use crate::support::*;

/// Opens a listening socket at exactly this number; what had the number is closed.
fn listen_at(fd: RawFd, path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    put_at(fd, listener);
}

/// A service that gets this number, which must be the lowest free one; and the service's path.
fn service_with(number: RawFd, name: &str) -> (ipc_connection_info, PathBuf) {
    let path = rundir().join(name);
    let path_in_c = CString::new(path.to_str().unwrap()).unwrap();
    let mut listener = -1;
    assert_eq!(unsafe { usock_init(&mut listener, path_in_c.as_ptr()) }, IPC_ERROR_NONE);
    assert_eq!(listener, number, "the number is reused");
    (info(listener), path)
}

/// A client is closed with close(2), and a new service gets its number.
#[test]
fn promise_7_service_with_a_clients_number_hides_no_end() {
    own_process!(60);
    let mut server = Program::server();
    let (_first, _) = server.peer();
    let (_peer, fd) = server.peer();
    close(fd);
    let old = server.srv.replace(service_with(fd, "closed").0).unwrap();
    let reported = all_now(&mut server);
    server.srv.replace(old);
    assert_eq!(reported, [Seen::Reported(Reported::Disconnection(fd))]);
}

/// The program closes its service, a client and the library's epoll set, all with close(2).
#[test]
fn promise_7_dead_service_hides_no_end_when_the_set_is_lost() {
    own_process!(60);
    let mut server = Program::server();
    let (_peer, fd) = server.peer();
    let is_set = |number: &RawFd| {
        let file = std::fs::read_link(format!("/proc/self/fd/{number}"));
        file.is_ok_and(|file| file == Path::new("anon_inode:[eventpoll]"))
    };
    (3..100).filter(is_set).chain([fd, server.srv.as_ref().unwrap().fd]).for_each(close);
    // errno says what has the number now: nothing, or the new set.
    assert_eq!(server.try_poll(10_000).unwrap_err().0, IPC_ERROR_WAIT_EVENT__SELECT);
    assert_eq!(server.poll(10_000), Reported::Disconnection(fd));
    let srv = server.srv.take().unwrap();
    unsafe { libc::free(srv.spath.cast()) };
}

/// A connection of the list is closed with ipc_close, and a service gets its number, before the first wait
/// and later.
#[test]
fn promise_7_service_with_a_dead_entrys_number_is_served() {
    own_process!(60);
    for is_waited_for in [false, true] {
        let mut program = Program::client();
        let (kept, _kept) = pair();
        let mut kept = info(kept.into_raw_fd());
        if is_waited_for {
            assert_eq!(unsafe { ipc_add(&mut program.list, &mut kept) }, IPC_ERROR_NONE);
            assert_eq!(program.poll(0), Seen::Nothing);
        }
        let (ours, theirs) = pair();
        let _theirs = at_high_number(theirs);
        let mut dead = info(ours.into_raw_fd());
        assert_eq!(unsafe { ipc_add(&mut program.list, &mut dead) }, IPC_ERROR_NONE);
        assert_eq!(unsafe { ipc_close(&mut dead) }, IPC_ERROR_NONE);
        let (service, path) = service_with(dead.fd, &format!("dead {is_waited_for}"));
        program.srv = Some(service);
        if is_waited_for {
            assert_eq!(program.poll(50), Seen::Nothing);
            force_list_scan(&mut program.list);
        }
        let _client = at_high_number(UnixStream::connect(&path).unwrap());
        let reported = program.try_poll(10_000);
        assert!(is_open(service.fd), "the library has closed the service: {reported:?}");
        assert!(matches!(reported, Ok(Seen::Reported(Reported::Connection(_)))), "{reported:?}");
        program.srv = None;
        close(service.fd);
        close(kept.fd);
    }
}

/// Another listening socket gets the service's number, and the list was changed by hand.
#[test]
fn promise_7_service_with_a_closed_services_number_is_served() {
    own_process!(60);
    let mut server = Program::server();
    let (_peer, _fd) = server.peer();
    let number = server.srv.as_ref().unwrap().fd;
    let path = rundir().join("e1");
    listen_at(number, &path);
    force_list_scan(&mut server.list);
    let _client = at_high_number(UnixStream::connect(&path).unwrap());
    let reported = server.poll(10_000);
    assert!(matches!(reported, Seen::Reported(Reported::Connection(_))), "{reported:?}");
}

/// Another listening socket gets the service's number: the library must not block in accept(2).
#[test]
fn promise_7_service_with_a_reused_number_does_not_block() {
    own_process!(60);
    let mut server = Program::server();
    let (mut peer, _fd) = server.peer();
    let number = server.srv.as_ref().unwrap().fd;
    let path = rundir().join("e2");
    listen_at(number, &path);
    assert_eq!(server.poll(50), Seen::Nothing);
    peer.write_all(&frame(1, b"word").repeat(2)).unwrap();
    let _client = at_high_number(UnixStream::connect(&path).unwrap());
    let mut reported = Vec::new();
    // If the message is reported first, the program accepts the client itself.
    reported.push(server.poll(10_000));
    if let Seen::Reported(Reported::Message(..)) = reported[0] {
        let mut taken = EMPTY_INFO;
        let srv = server.srv();
        assert_eq!(unsafe { ipc_accept(srv, &mut taken) }, IPC_ERROR_NONE);
    } else {
        panic!("the client was reported first: {reported:?}");
    }
    reported.extend(all_now(&mut server));
    assert_eq!(reported.len(), 2, "{reported:?}");
}

/// The service's socket lives on as a copy and gets a client; another listening socket, at which accept(2)
/// waits for clients, has the service's number. The list has so many connections that epoll is asked.
#[test]
fn promise_32_service_is_verified_before_a_client_is_accepted() {
    own_process!(60);
    let mut server = Program::server();
    let _peers: Vec<_> = (0..10).map(|_| server.peer()).collect();
    let number = server.srv.as_ref().unwrap().fd;
    let copy = UnixListener::from(unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().unwrap());
    let old_path = copy.local_addr().unwrap().as_pathname().unwrap().to_owned();
    let path = rundir().join("e3");
    // The list is scanned in this wait, so that no scan is due when the next one begins.
    assert_eq!(server.poll(50), Seen::Nothing);
    listen_at(number, &path);
    let _waits = at_high_number(UnixStream::connect(old_path).unwrap());
    assert_eq!(server.poll(100), Seen::Nothing, "and the call has ended");
    let _client = at_high_number(UnixStream::connect(&path).unwrap());
    let reported = server.poll(10_000);
    assert!(matches!(reported, Seen::Reported(Reported::Connection(_))), "{reported:?}");
}

/// A service is closed with close(2), and a connection of the list gets its number.
#[test]
fn promise_7_connection_with_a_services_number_is_served() {
    own_process!(60);
    let mut server = Program::server();
    let (_first, _) = server.peer();
    let (ours, mut peer) = pair();
    std::thread::sleep(PAUSE);
    assert_eq!(server.poll(0), Seen::Nothing);
    let srv = server.srv.take().unwrap();
    unsafe { libc::free(srv.spath.cast()) };
    put_at(srv.fd, ours);
    let mut own = info(srv.fd);
    assert_eq!(unsafe { ipc_add(&mut server.list, &mut own) }, IPC_ERROR_NONE);
    let fd = server.event_fd();
    assert_eq!(server.all(), NOTHING);
    peer.write_all(&frame(1, b"word")).unwrap();
    assert!(becomes_readable(fd, 10_000));
    assert_eq!(server.poll(0), Reported::Message(own.fd, 1, b"word".to_vec()));
}

/// A new service must not have the limits that were set for the previous service with this number.
#[test]
fn promise_7_service_inherits_no_settings_by_its_number() {
    own_process!(60);
    let mut server = Program::server();
    let number = server.srv.as_ref().unwrap().fd;
    limits(number, 10, 0).unwrap();
    let path = rundir().join("r1");
    listen_at(number, &path);
    let mut client = UnixStream::connect(&path).unwrap();
    let reported = server.poll(10_000);
    let Seen::Reported(Reported::Connection(fd)) = reported else { panic!("{reported:?}") };
    client.write_all(&frame(1, b"longer than ten bytes")).unwrap();
    assert_eq!(server.poll(10_000), Reported::Message(fd, 1, b"longer than ten bytes".to_vec()));
}
