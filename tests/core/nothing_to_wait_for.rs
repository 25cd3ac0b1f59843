//! Promise 14: if no connection can be waited for, ipc_wait_event returns an error instead of waiting for
//! ever.

use std::os::fd::AsRawFd;

use crate::support::*;

/// Asserts that each call for this list fails, since no event is possible.
fn assert_nothing_to_wait_for(program: &mut Program) {
    for _ in 0..3 {
        set_errno(0);
        assert_eq!(program.try_next(), Err(IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM));
        assert_eq!(errno(), libc::EINVAL);
        assert!(program.event.origin.is_null() && program.event.m.is_null());
    }
}

#[test]
fn promise_14_empty_list_without_service_is_an_error() {
    own_process!(30);
    assert_nothing_to_wait_for(&mut Program::client());
}

#[test]
fn promise_14_list_of_null_entries_is_an_error() {
    own_process!(30);
    let mut program = Program::client();
    replace_array(&mut program.list, &[std::ptr::null_mut(); 5]);
    assert_nothing_to_wait_for(&mut program);
}

#[test]
fn promise_14_list_of_closed_descriptors_is_an_error() {
    own_process!(30);
    let mut program = Program::client();
    // Numbers that no file has.
    let mut infos = [-1, 900_001, 900_002].map(|fd| ipc_connection_info { fd, ..EMPTY_INFO });
    for info in &mut infos {
        assert_eq!(unsafe { ipc_add(&mut program.list, info) }, IPC_ERROR_NONE);
    }
    assert_nothing_to_wait_for(&mut program);
}

#[test]
fn promise_14_missing_array_or_negative_size_is_an_error() {
    own_process!(30);
    let mut program = Program::client();
    program.list.size = 3;
    assert_nothing_to_wait_for(&mut program);
    program.list.size = 0;
    let (one, _two) = pair();
    let mut info = connection(&one);
    assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
    program.list.size = -1;
    assert_nothing_to_wait_for(&mut program);
}

#[test]
fn promise_14_ended_extra_descriptors_are_an_error() {
    own_process!(30);
    let mut program = Program::client();
    let (reader, writer) = pipe();
    let file = std::fs::File::open("/dev/null").unwrap();
    for fd in [reader.as_raw_fd(), file.as_raw_fd()] {
        assert_eq!(unsafe { ipc_add_fd(&mut program.list, fd) }, IPC_ERROR_NONE);
    }
    assert_eq!(program.next(), Reported::Extra(file.as_raw_fd(), vec![]));
    drop(writer);
    assert_eq!(program.next(), Reported::Extra(reader.as_raw_fd(), vec![]));
    assert_nothing_to_wait_for(&mut program);
    free_extras(&mut program);
}

/// If the peer has left bytes unread, the end of a socket is an error.
#[test]
fn promise_14_failed_extra_socket_is_an_error() {
    own_process!(30);
    let mut program = Program::client();
    let (mut one, two) = pair();
    assert_eq!(unsafe { ipc_add_fd(&mut program.list, one.as_raw_fd()) }, IPC_ERROR_NONE);
    std::io::Write::write_all(&mut one, b"never read").unwrap();
    drop(two);
    assert_eq!(program.next(), Reported::Extra(one.as_raw_fd(), vec![]));
    assert_nothing_to_wait_for(&mut program);
    free_extras(&mut program);
}

#[test]
fn promise_14_list_after_its_last_end_is_an_error() {
    own_process!(30);
    let mut program = Program::client();
    let (one, two) = pair();
    let mut info = ipc_connection_info { fd: std::os::fd::IntoRawFd::into_raw_fd(one), ..EMPTY_INFO };
    assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
    drop(two);
    assert_eq!(program.next(), Reported::Disconnection(info.fd));
    assert!(program.list.cinfos.is_null());
    assert_nothing_to_wait_for(&mut program);
}

#[test]
fn promise_14_list_with_an_open_member_is_waited_for() {
    own_process!(30);
    // A service without clients: the call waits.
    let mut server = Program::server();
    let path = server.path.clone();
    let client = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::os::unix::net::UnixStream::connect(path).unwrap()
    });
    server.next_connection();
    client.join().unwrap();
}
