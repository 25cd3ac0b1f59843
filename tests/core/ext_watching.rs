//! ipc_watch_fd and ipc_del_fd: descriptors that the program reads itself.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::support::ext::*;
use crate::support::*;

/// Removes from the list what the test has added.
fn clear(program: &mut Program, fds: &[RawFd]) {
    fds.iter().for_each(|fd| assert_eq!(program.del_fd(fd), Ok(())));
}

#[test]
fn watched_pipe_is_reported_until_it_is_read() {
    own_process!(30);
    let mut program = Program::client();
    let (mut reader, mut writer) = pipe();
    let fd = program.watch(&reader);
    assert_eq!(program.poll(0), Seen::Nothing);
    for _ in 0..3 {
        writer.write_all(b"not the library's").unwrap();
        for timeout in [-1, 0, 1000, -1] {
            assert_eq!(program.poll(timeout), Seen::Ready(fd));
        }
        let mut bytes = [0; 17];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"not the library's", "the library has read no byte");
        assert_eq!(program.poll(0), Seen::Nothing);
    }
    // End of file is reported as well, although there are no bytes.
    drop(writer);
    for _ in 0..3 {
        assert_eq!(program.poll(-1), Seen::Ready(fd));
    }
    clear(&mut program, &[fd]);
}

#[test]
fn error_of_a_watched_descriptor_is_reported() {
    own_process!(30);
    let mut program = Program::client();
    let (mut one, two) = pair();
    let fd = program.watch(&one);
    one.write_all(b"never read").unwrap();
    drop(two);
    for _ in 0..3 {
        assert_eq!(program.poll(-1), Seen::Ready(fd));
    }
    assert_eq!(one.read(&mut [0; 1]).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
    clear(&mut program, &[fd]);
    // The end of a pipe that has no reader is an error for the writer.
    let (reader, writer) = pipe();
    let fd = program.watch(&writer);
    assert_eq!(program.poll(0), Seen::Nothing);
    drop(reader);
    assert_eq!(program.poll(-1), Seen::Ready(fd));
    clear(&mut program, &[fd]);
}

#[test]
fn watched_listener_is_reported_until_clients_are_accepted() {
    own_process!(30);
    let mut server = Program::server();
    let path = rundir().join("own-listener");
    // accept(2) on this listener would wait for ever if no client had connected.
    let listener = UnixListener::bind(&path).unwrap();
    let fd = server.watch(&listener);
    assert_eq!(server.poll(0), Seen::Nothing);
    let _clients = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
    for _ in 0..3 {
        assert_eq!(server.poll(-1), Seen::Ready(fd));
        assert_eq!(server.poll(-1), Seen::Ready(fd));
        listener.accept().unwrap();
    }
    assert_eq!(server.poll(0), Seen::Nothing);
    clear(&mut server, &[fd]);
}

/// Both descriptors are ready, and the program reads both after the report of one. The second one is in the
/// library's queue by then, and must not be reported.
#[test]
fn watched_descriptor_emptied_before_its_turn_not_reported() {
    own_process!(30);
    let mut program = Program::client();
    let path = rundir().join("taken-before");
    let listener = UnixListener::bind(&path).unwrap();
    let (mut reader, mut writer) = pipe();
    let fds = [program.watch(&listener), program.watch(&reader)];
    for _ in 0..20 {
        let _client = UnixStream::connect(&path).unwrap();
        writer.write_all(b"x").unwrap();
        // Both are ready; the program reads both after the first report.
        assert!(matches!(program.poll(-1), Seen::Ready(_)));
        listener.accept().unwrap();
        reader.read_exact(&mut [0]).unwrap();
        assert_eq!(program.poll(0), Seen::Nothing);
        let mut array = events(8);
        assert_eq!(program.many(&mut array, 0), NOTHING);
    }
    clear(&mut program, &fds);
}

#[test]
fn event_fd_is_readable_while_a_watched_descriptor_is() {
    own_process!(30);
    let mut program = Program::client();
    let (mut reader, mut writer) = pipe();
    let fd = program.watch(&reader);
    let event_fd = program.event_fd();
    program.all();
    assert!(!is_readable(event_fd));
    writer.write_all(b"x").unwrap();
    for _ in 0..5 {
        assert!(is_readable(event_fd));
        assert_eq!(program.poll(0), Seen::Ready(fd));
    }
    reader.read_exact(&mut [0]).unwrap();
    assert_eq!(program.poll(0), Seen::Nothing);
    assert!(!is_readable(event_fd));
    writer.write_all(b"x").unwrap();
    assert!(is_readable(event_fd));
    clear(&mut program, &[fd]);
    assert!(!is_readable(event_fd), "removed from the list");
}

#[test]
fn batch_names_a_watched_descriptor_once() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    let (mut reader, mut writer) = pipe();
    let fd = ours.program.watch(&reader);
    let mut array = events(50);
    writer.write_all(b"x").unwrap();
    peer.write_all(&frame(1, b"message").repeat(5)).unwrap();
    for messages in [5, 0, 0] {
        let reported = ours.program.many(&mut array, -1);
        let ready = reported.iter().filter(|seen| **seen == Seen::Ready(fd)).count();
        assert_eq!(
            (reported.len() - ready, ready),
            (messages, 1),
            "the program cannot have read it meanwhile"
        );
    }
    reader.read_exact(&mut [0]).unwrap();
    assert_eq!(ours.program.many(&mut array, 0), NOTHING);
    clear(&mut ours.program, &[fd]);
}

#[test]
fn connections_take_turns_with_an_unread_watched_descriptor() {
    own_process!(30);
    let mut server = Program::server();
    let (reader, mut writer) = pipe();
    let fd = server.watch(&reader);
    writer.write_all(b"never read").unwrap();
    let mut peer = UnixStream::connect(&server.path).unwrap();
    until("a connection", || matches!(server.poll(-1), Seen::Reported(Reported::Connection(_))));
    let peer_fd = unsafe { (*server.event.origin).fd };
    peer.write_all(&frame(1, b"turn").repeat(50)).unwrap();
    let (mut reported, mut ready) = (0, 0);
    while reported < 50 {
        match server.poll(-1) {
            Seen::Ready(_) => ready += 1,
            seen => {
                assert_eq!(seen, Reported::Message(peer_fd, 1, b"turn".to_vec()));
                reported += 1;
            }
        }
        assert!(
            ready <= 2 * reported + 4 && reported <= 2 * ready + 4,
            "{reported} messages, {ready} times ready"
        );
    }
    clear(&mut server, &[fd]);
}

#[test]
fn regular_file_is_refused_and_leaves_the_list_unchanged() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    let before = (ours.program.list.size, entries(&ours.program.list));
    let (file, directory) = (numbered_file(1), std::fs::File::open("/").unwrap());
    for fd in [file.as_raw_fd(), directory.as_raw_fd()] {
        let reported = outcome(unsafe { ipc_watch_fd(&mut ours.program.list, fd) });
        assert_eq!(reported, Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EPERM)));
        assert_eq!((ours.program.list.size, entries(&ours.program.list)), before);
        assert_eq!(ours.program.del_fd(&fd), Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT)));
    }
    // The same for a list without an epoll set, and for one with an empty set.
    let mut program = Program::client();
    for _ in 0..2 {
        let reported = outcome(unsafe { ipc_watch_fd(&mut program.list, file.as_raw_fd()) });
        assert_eq!(reported, Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EPERM)));
        assert_eq!(program.list.size, 0);
        assert_eq!(program.try_poll(0), Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)));
    }
    peer.write_all(&frame(1, b"goes on")).unwrap();
    assert_eq!(ours.program.poll(-1), Reported::Message(ours.fd(), 1, b"goes on".to_vec()));
    assert_eq!(ours.program.poll(0), Seen::Nothing);
}

#[test]
fn closed_descriptor_is_refused() {
    own_process!(30);
    let mut program = Program::client();
    for fd in [-1, -100, 900_000] {
        let reported = outcome(unsafe { ipc_watch_fd(&mut program.list, fd) });
        assert_eq!(reported, Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EBADF)));
    }
    assert_eq!((program.list.size, program.list.cinfos), (0, none()));
}

#[test]
fn watch_fd_reports_wrong_arguments() {
    own_process!(30);
    let (reader, _writer) = pipe();
    let fd = reader.as_raw_fd();
    let reported = outcome(unsafe { ipc_watch_fd(none(), fd) });
    assert_eq!(reported, Err((IPC_ERROR_ADD_FD__NO_PARAM_CINFOS, libc::EINVAL)));
    let mut list = EMPTY_LIST;
    for size in [-1, 3] {
        list.size = size;
        let reported = outcome(unsafe { ipc_watch_fd(&mut list, fd) });
        assert_eq!((reported, list.size), (Err((IPC_ERROR_ADD__EMPTY_LIST, libc::EINVAL)), size));
    }
}

/// A watched descriptor may be a connection: the loop reads no byte of it, and ipc_read returns each message.
#[test]
fn watched_connection_is_read_by_the_program_with_ipc_read() {
    own_process!(30);
    let mut program = Program::client();
    let (ours, mut peer) = pair();
    let fd = program.watch(&ours);
    for n in 0..20 {
        peer.write_all(&frame(1, &[n]).repeat(2)).unwrap();
        for _ in 0..2 {
            assert_eq!(program.poll(-1), Seen::Ready(fd));
            assert_eq!(read(fd), Ok((1, vec![n])));
        }
        assert_eq!(program.poll(0), Seen::Nothing);
    }
    clear(&mut program, &[fd]);
    // After its end, the connection's descriptor stays open, and in the list until the program removes it.
    let fd = program.watch(&ours);
    drop(peer);
    assert_eq!(program.poll(-1), Seen::Ready(fd));
    clear(&mut program, &[fd]);
    assert!(is_open(ours.into_raw_fd()));
}
