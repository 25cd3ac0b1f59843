//! ipc_del_fd, and watched descriptors that the program closes or removes by hand.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use crate::support::ext::*;
use crate::support::*;

/// Removes from the list what the test has added.
fn clear(program: &mut Program, fds: &[RawFd]) {
    fds.iter().for_each(|fd| assert_eq!(program.del_fd(fd), Ok(())));
}

/// A watched descriptor that the program has closed itself is no longer reported, and does not delay others.
#[test]
fn watched_descriptor_may_be_closed_by_the_program() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    let (reader, mut writer) = pipe();
    let fd = ours.program.watch(&reader);
    writer.write_all(b"x").unwrap();
    assert_eq!(ours.program.poll(-1), Seen::Ready(fd));
    drop(reader);
    peer.write_all(&frame(1, b"goes on")).unwrap();
    assert_eq!(ours.program.poll(-1), Reported::Message(ours.fd(), 1, b"goes on".to_vec()));
    assert_eq!(ours.program.poll(0), Seen::Nothing);
    clear(&mut ours.program, &[fd]);
    // The number is free for another descriptor.
    let (reader, mut writer) = pipe();
    let fd = ours.program.watch(&reader);
    writer.write_all(b"x").unwrap();
    assert_eq!(ours.program.poll(-1), Seen::Ready(fd));
    clear(&mut ours.program, &[fd]);
}

#[test]
fn del_fd_removes_both_kinds_and_leaves_descriptor_open() {
    own_process!(30);
    const COUNT: usize = 100;
    let (mut ours, mut peer) = listed();
    let mut pipes: Vec<_> = (0..COUNT).map(|_| pipe()).collect();
    let round = |program: &mut Program, pipes: &mut [(std::fs::File, std::fs::File)]| {
        for (number, (reader, _)) in pipes.iter().enumerate() {
            if number % 2 == 0 {
                program.watch(reader);
            } else {
                assert_eq!(unsafe { ipc_add_fd(&mut program.list, reader.as_raw_fd()) }, IPC_ERROR_NONE);
            }
        }
        assert_eq!(program.list.size, COUNT as i32 + 1);
        // Not in the order in which they were added.
        for number in (0..COUNT).map(|number| number * 37 % COUNT) {
            let (reader, writer) = &mut pipes[number];
            set_errno(4711);
            assert_eq!(program.del_fd(reader), Ok(()));
            assert_eq!(errno(), 4711);
            assert_eq!(program.del_fd(reader), Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT)));
            writer.write_all(b"x").unwrap();
            reader.read_exact(&mut [0]).unwrap();
            writer.write_all(b"unwatched").unwrap();
        }
        assert_eq!(program.list.size, 1);
        assert_eq!(program.poll(0), Seen::Nothing);
        for (reader, _) in pipes {
            reader.read_exact(&mut [0; 9]).unwrap();
        }
    };
    round(&mut ours.program, &mut pipes);
    let before = heap_in_use();
    for _ in 0..10 {
        round(&mut ours.program, &mut pipes);
    }
    if heap_can_be_counted() {
        let left = heap_in_use().saturating_sub(before);
        assert!(left < 10 * COUNT * 24, "{left} bytes are left of {} structures", 10 * COUNT);
    }
    peer.write_all(&frame(1, b"a client")).unwrap();
    assert_eq!(ours.program.poll(-1), Reported::Message(ours.fd(), 1, b"a client".to_vec()));
}

#[test]
fn del_fd_removes_a_descriptor_with_pending_events() {
    own_process!(30);
    let (mut ours, _peer) = listed();
    let (reader, mut writer) = pipe();
    assert_eq!(unsafe { ipc_add_fd(&mut ours.program.list, reader.as_raw_fd()) }, IPC_ERROR_NONE);
    // More bytes than one event delivers.
    writer.write_all(&[0; 1000]).unwrap();
    assert!(matches!(ours.program.poll(-1), Seen::Reported(Reported::Extra(..))));
    writer.write_all(&[0; 1000]).unwrap();
    clear(&mut ours.program, &[reader.as_raw_fd()]);
    assert_eq!(ours.program.poll(0), Seen::Nothing);
    // After its end was reported, a descriptor is still in the list, and can be removed.
    let (reader, writer) = pipe();
    assert_eq!(unsafe { ipc_add_fd(&mut ours.program.list, reader.as_raw_fd()) }, IPC_ERROR_NONE);
    drop(writer);
    assert_eq!(ours.program.poll(-1), Reported::Extra(reader.as_raw_fd(), vec![]));
    clear(&mut ours.program, &[reader.as_raw_fd()]);
    assert!(is_open(reader.as_raw_fd()));
    // A removed descriptor can be added again, as the other kind.
    let fd = ours.program.watch(&reader);
    assert_eq!(ours.program.poll(-1), Seen::Ready(fd));
    clear(&mut ours.program, &[fd]);
}

#[test]
fn del_fd_reports_wrong_arguments() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    let (reader, _writer) = pipe();
    let missing = Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT));
    let mut other = Program::client();
    assert_eq!(
        outcome(unsafe { ipc_del_fd(none(), 0) }),
        Err((IPC_ERROR_DEL__NO_CLIENTS_PARAM, libc::EINVAL))
    );
    assert_eq!(other.del_fd(&reader), Err((IPC_ERROR_DEL__EMPTY_LIST, libc::ENOENT)));
    other.list.size = 2;
    assert_eq!(other.del_fd(&reader), Err((IPC_ERROR_DEL__EMPTIED_LIST, libc::EINVAL)));
    other.list.size = -2;
    assert_eq!(other.del_fd(&reader), Err((IPC_ERROR_DEL__EMPTY_LIST, libc::ENOENT)));
    other.list.size = 0;
    // The wrong list, an unknown descriptor, a connection's descriptor.
    let fd = ours.program.watch(&reader);
    let (second, _writer) = pipe();
    other.watch(&second);
    assert_eq!(other.del_fd(&fd), missing);
    for wrong in [-1, 900_000, second.as_raw_fd(), ours.fd()] {
        assert_eq!(ours.program.del_fd(&wrong), missing);
    }
    assert_eq!(ours.program.list.size, 2);
    peer.write_all(&frame(1, b"still there")).unwrap();
    assert_eq!(ours.program.poll(-1), Reported::Message(ours.fd(), 1, b"still there".to_vec()));
    clear(&mut ours.program, &[fd]);
    clear(&mut other, &[second.as_raw_fd()]);
    assert_eq!(
        (other.list.size, other.list.cinfos),
        (0, none()),
        "the last entry was removed, and the array is freed"
    );
}
