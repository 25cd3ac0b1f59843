//! Settings of ipc_ext.h for a connection, after fork(2).

use std::io::Write;
use std::os::fd::AsRawFd;

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::*;

child::roles! { forks_with_settings, forks_with_a_connection }

fn assert_too_long(fd: i32) {
    assert_eq!(read(fd), Err(IPC_ERROR_USOCK_RECV));
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPROTO));
}

fn forks_with_settings() {
    let (limited, mut of_limited) = pair();
    let (allowed, of_allowed) = pair();
    let (both, mut of_both) = pair();
    limits(limited.as_raw_fd(), 100, 0).unwrap();
    allow(allowed.as_raw_fd());
    limits(both.as_raw_fd(), 100, 0).unwrap();
    let worker = fork();
    if worker == 0 {
        of_limited.write_all(&frame(1, &[0; 101])).unwrap();
        assert_too_long(limited.as_raw_fd());
        send_with(&of_allowed, &frame(1, b"with a file"), &[numbered_file(7).as_raw_fd()]);
        assert_eq!(read(allowed.as_raw_fd()), Ok((1, b"with a file".to_vec())));
        assert_eq!(take_numbers(allowed.as_raw_fd()), [7]);
        // This does not change the parent's limit.
        limits(both.as_raw_fd(), 0, 0).unwrap();
        unsafe { libc::exit(0) };
    }
    assert_eq!(wait_for(worker), 0);
    of_both.write_all(&frame(1, &[0; 101])).unwrap();
    assert_too_long(both.as_raw_fd());
}

#[test]
fn child_inherits_settings_and_changes_only_its_own() {
    own_process!(60);
    assert!(Child::start(forks_with_settings).end().success());
}

fn forks_with_a_connection() {
    let (ours, mut peer) = pair();
    let worker = fork();
    if worker == 0 {
        assert_eq!(usock_close(ours.as_raw_fd()), IPC_ERROR_NONE);
        unsafe { libc::_exit(0) };
    }
    assert_eq!(wait_for(worker), 0);
    peer.write_all(&frame(1, b"still there")).unwrap();
    assert_eq!(read(ours.as_raw_fd()), Ok((1, b"still there".to_vec())));
}

/// The peer sees the end once both processes have closed the connection.
#[test]
fn child_closes_its_own_copy_of_a_connection_only() {
    own_process!(60);
    assert!(Child::start(forks_with_a_connection).end().success());
}
