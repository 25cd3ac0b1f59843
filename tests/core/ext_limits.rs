//! ipc_limits: the largest message and the largest queue of a connection.

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::support::ext::*;
use crate::support::*;

const LARGEST: u32 = 7_999_995;
const REFUSED: Result<(), Failure> = Err((IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, libc::EAGAIN));

/// The header of a message of this size, without the payload.
fn header(size: u32) -> Vec<u8> {
    [&[1][..], &size.to_ne_bytes()].concat()
}

fn message_of(fd: RawFd, size: usize) -> Reported {
    Reported::Message(fd, 1, vec![7; size])
}

/// The peer breaks the protocol with these bytes: asserts that an ERROR and a DISCONNECTION are reported.
fn assert_broken(program: &mut Program, peer: &mut UnixStream, fd: RawFd, bytes: &[u8]) {
    peer.write_all(bytes).unwrap();
    assert_eq!(program.poll(10_000), Reported::Error(fd));
    assert_eq!(program.poll(10_000), Reported::Disconnection(fd));
    assert!(!is_open(fd));
}

#[test]
fn event_loop_accepts_payloads_up_to_the_limit() {
    own_process!(30);
    for limit in [1, 2, 100, 20_000, 1_000_000] {
        let mut server = Program::server();
        let (peer, fd) = server.peer();
        let (mut other, other_fd) = server.peer();
        limits(fd, limit, 0).unwrap();
        let size = limit as usize;
        for size in [0, size - 1, size, size] {
            let writer = write_in_thread(peer.try_clone().unwrap(), frame(1, &vec![7; size]));
            assert_eq!(server.poll(10_000), message_of(fd, size));
            writer.join().unwrap();
        }
        // Three messages at once, so that they are read ahead.
        let writer = write_in_thread(peer.try_clone().unwrap(), frame(1, &vec![7; size]).repeat(3));
        (0..3).for_each(|_| assert_eq!(server.poll(10_000), message_of(fd, size)));
        // A length of one byte more is an error at once, before any byte of the payload, also after another
        // message.
        let mut peer = writer.join().unwrap();
        peer.write_all(&frame(1, b"7")).unwrap();
        assert_eq!(server.poll(10_000), Reported::Message(fd, 1, b"7".to_vec()));
        assert_broken(&mut server, &mut peer, fd, &header(limit + 1));
        // Other connections are not affected, and have no such limit.
        let writer = write_in_thread(other.try_clone().unwrap(), frame(1, &vec![7; size + 1]));
        assert_eq!(server.poll(10_000), message_of(other_fd, size + 1));
        writer.join().unwrap();
        other.write_all(&frame(1, b"")).unwrap();
        assert_eq!(server.poll(10_000), message_of(other_fd, 0));
    }
}

#[test]
fn messages_before_an_oversized_one_are_reported() {
    own_process!(30);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    limits(fd, 10, 0).unwrap();
    peer.write_all(&[frame(1, &[7; 10]), frame(1, &[7; 9]), header(11)].concat()).unwrap();
    let expected = [message_of(fd, 10), message_of(fd, 9), Reported::Error(fd), Reported::Disconnection(fd)];
    assert_eq!(server.all(), expected.map(Seen::Reported));
}

#[test]
fn ipc_read_accepts_payloads_up_to_the_limit() {
    own_process!(30);
    for limit in [1, 100, 70_000] {
        let (ours, mut peer) = patient_pair();
        let fd = ours.as_raw_fd();
        limits(fd, limit, 0).unwrap();
        peer.write_all(&[frame(1, &vec![7; limit as usize]), header(limit + 1)].concat()).unwrap();
        assert!(read(fd) == Ok((1, vec![7; limit as usize])));
        for _ in 0..3 {
            assert_eq!(read(fd), Err(IPC_ERROR_USOCK_RECV));
            assert_eq!(errno(), libc::EPROTO);
        }
        let mut message = EMPTY_MESSAGE;
        assert_eq!(unsafe { ipc_message_read(fd, &mut message) }, IPC_ERROR_USOCK_RECV);
        assert_eq!(errno(), libc::EPROTO);
        let (mut buffer, mut length) = (none(), 0);
        assert_eq!(unsafe { usock_recv(fd, &mut buffer, &mut length) }, IPC_ERROR_USOCK_RECV);
        assert_eq!((errno(), buffer.is_null()), (libc::EPROTO, true));
        // The limit applies to received messages only.
        assert_eq!(write(fd, 1, &vec![7; limit as usize + 1]), IPC_ERROR_NONE);
        assert_eq!(read_frame(&mut peer).1.len(), limit as usize + 1);
    }
}

#[test]
fn service_limits_apply_to_clients_accepted_later() {
    own_process!(30);
    let mut server = Program::server();
    let service = server.srv.unwrap().fd;
    let (mut before, before_fd) = server.peer();
    limits(service, 10, 0).unwrap();
    let (mut limited, limited_fd) = server.peer();
    limits(service, 20, 0).unwrap();
    let (mut later, later_fd) = server.peer();
    limits(service, 0, 0).unwrap();
    let (mut free, free_fd) = server.peer();
    for (peer, fd, size) in [(&mut limited, limited_fd, 10), (&mut later, later_fd, 20)] {
        peer.write_all(&frame(1, &vec![7; size as usize])).unwrap();
        assert_eq!(server.poll(10_000), message_of(fd, size as usize));
        assert_broken(&mut server, peer, fd, &header(size + 1));
    }
    for (peer, fd) in [(&mut before, before_fd), (&mut free, free_fd)] {
        peer.write_all(&frame(1, &[7; 1000])).unwrap();
        assert_eq!(server.poll(10_000), message_of(fd, 1000));
    }
    // The limit also applies to clients that ipc_accept and handle_new_connection have accepted.
    limits(service, 10, 0).unwrap();
    let _waiting = [(); 2].map(|()| UnixStream::connect(&server.path).unwrap());
    let (mut accepted, mut new) = (EMPTY_INFO, none());
    let srv = server.srv();
    assert_eq!(unsafe { ipc_accept(srv, &mut accepted) }, IPC_ERROR_NONE);
    assert_eq!(unsafe { handle_new_connection(srv, &mut server.list, &mut new) }, IPC_ERROR_NONE);
    server.clients.push(new);
    (&_waiting[0]).write_all(&header(11)).unwrap();
    assert_eq!((read(accepted.fd), errno()), (Err(IPC_ERROR_USOCK_RECV), libc::EPROTO));
    assert_eq!(unsafe { ipc_close(&mut accepted) }, IPC_ERROR_NONE);
    let fd = unsafe { (*new).fd };
    (&_waiting[1]).write_all(&header(11)).unwrap();
    assert_eq!(server.poll(10_000), Reported::Error(fd));
}

#[test]
fn limit_zero_means_the_default() {
    own_process!(30);
    let mut server = Program::server();
    let (peer, fd) = server.peer();
    limits(fd, 10, 100).unwrap();
    limits(fd, 0, 0).unwrap();
    let writer = write_in_thread(peer, frame(1, &vec![7; LARGEST as usize]));
    assert!(server.poll(-1) == message_of(fd, LARGEST as usize));
    let mut peer = writer.join().unwrap();
    queue(fd, 1, &[7; 100_000]).unwrap();
    assert_broken(&mut server, &mut peer, fd, &header(LARGEST + 1));
    // A limit of the maximum is the same as the default.
    let (mut peer, fd) = server.peer();
    limits(fd, LARGEST, 0).unwrap();
    assert_broken(&mut server, &mut peer, fd, &header(LARGEST + 1));
    // One of the two limits alone.
    let (ours, mut peer) = patient_pair();
    let ours = Queued::new(ours);
    limits(ours.as_raw_fd(), 0, 100).unwrap();
    peer.write_all(&frame(1, &[7; 1000])).unwrap();
    assert!(read(ours.as_raw_fd()).is_ok());
    assert_eq!(queue(ours.as_raw_fd(), 1, &[7; 96]), REFUSED);
    limits(ours.as_raw_fd(), 10, 0).unwrap();
    queue(ours.as_raw_fd(), 1, &[7; 96]).unwrap();
    peer.write_all(&header(11)).unwrap();
    assert_eq!((read(ours.as_raw_fd()), errno()), (Err(IPC_ERROR_USOCK_RECV), libc::EPROTO));
}

#[test]
fn ipc_write_keeps_the_queue_limit_if_peer_does_not_read() {
    own_process!(30);
    const ROOM: usize = 200_000;
    const SIZE: usize = 10_000;
    let (ours, peer) = listed();
    limits(ours.fd(), 0, ROOM).unwrap();
    let mut accepted = 0;
    while write(ours.fd(), 1, &pattern(SIZE, accepted)) == IPC_ERROR_NONE {
        accepted += 1;
    }
    assert_eq!(errno(), libc::EAGAIN);
    let left = pending(ours.fd());
    assert!(left <= ROOM && left + SIZE + 5 > ROOM, "{left} bytes of {ROOM} are queued");
    // A limit below the number of queued bytes refuses more messages, and drops nothing.
    limits(ours.fd(), 0, 1).unwrap();
    assert_eq!(queue(ours.fd(), 1, b""), REFUSED);
    assert_eq!(pending(ours.fd()), left);
    let mut peer = peer;
    let reader = std::thread::spawn(move || {
        for number in 0..accepted {
            assert!(read_frame(&mut peer) == (1, pattern(SIZE, number)), "message {number}");
        }
        peer
    });
    flush(ours.fd(), 20_000).unwrap();
    let mut peer = reader.join().unwrap();
    // A message that the kernel accepts at once is not queued, and has no limit.
    assert_eq!(write(ours.fd(), 2, &[1; 1000]), IPC_ERROR_NONE);
    assert_eq!(read_frame(&mut peer), (2, vec![1; 1000]));
    assert_eq!(queue(ours.fd(), 1, b""), REFUSED);
}

#[test]
fn partial_message_over_a_new_limit_is_a_protocol_error() {
    own_process!(30);
    for half in [5, 6, 50, 20_000] {
        let mut server = Program::server();
        let (mut peer, fd) = server.peer();
        let whole = frame(1, &[7; 50_000]);
        peer.write_all(&whole[..half]).unwrap();
        assert_eq!(server.poll(0), Seen::Nothing);
        limits(fd, 49_999, 0).unwrap();
        assert_broken(&mut server, &mut peer, fd, &whole[half..=half]);
        // The same with ipc_read.
        let (ours, mut peer) = patient_pair();
        let ours_fd = ours.as_raw_fd();
        ours.set_nonblocking(true).unwrap();
        peer.write_all(&whole[..half]).unwrap();
        assert_eq!((read(ours_fd), errno()), (Err(IPC_ERROR_USOCK_RECV), libc::EAGAIN));
        limits(ours_fd, 49_999, 0).unwrap();
        assert_eq!((read(ours_fd), errno()), (Err(IPC_ERROR_USOCK_RECV), libc::EPROTO));
        // With a sufficient limit the read continues: nothing was lost.
        limits(ours_fd, 50_000, 0).unwrap();
        peer.write_all(&whole[half..]).unwrap();
        assert!(read(ours_fd) == Ok((1, vec![7; 50_000])));
    }
}

#[test]
fn read_ahead_frame_over_a_new_limit_is_a_protocol_error() {
    own_process!(30);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    peer.write_all(&[frame(1, &[7; 10]), frame(1, &[7; 5]), frame(1, &[7; 10])].concat()).unwrap();
    assert_eq!(server.poll(0), message_of(fd, 10));
    limits(fd, 9, 0).unwrap();
    let expected = [message_of(fd, 5), Reported::Error(fd), Reported::Disconnection(fd)];
    assert_eq!(server.all(), expected.map(Seen::Reported));
}

#[test]
fn limits_set_and_reset_cost_no_memory() {
    own_process!(30);
    const CLIENTS: usize = 400;
    if !heap_can_be_counted() {
        return;
    }
    raise_descriptor_limit();
    let pairs: Vec<_> = (0..CLIENTS).map(|_| pair()).collect();
    let set = |pairs: &[(UnixStream, UnixStream)], max_message, max_queue| {
        pairs.iter().for_each(|(ours, _)| limits(ours.as_raw_fd(), max_message, max_queue).unwrap());
    };
    // Not exact: the threads of the harness allocate memory while they start.
    let nothing = CLIENTS * 16;
    let costs_nothing = |before, what| {
        let now = heap_in_use();
        assert!(now < before + nothing, "{what}: {before} bytes of heap, now {now}");
    };
    // The library's table gets an entry for a number when the number is first used.
    set(&pairs, 0, 0);
    let before = heap_in_use();
    set(&pairs, 0, 0);
    set(&pairs, LARGEST, 0);
    costs_nothing(before, "limits that are the defaults");
    // Twenty at a time: the first ones let the library's tables grow; the others need no more memory.
    let mut before = None;
    for some in pairs.chunks(20) {
        set(some, 10, 0);
        set(some, 0, 0);
        costs_nothing(*before.get_or_insert_with(heap_in_use), "limits that were reset");
    }
    let before = heap_in_use();
    set(&pairs, 10, 10);
    assert!(heap_in_use() >= before + nothing, "limits that are set take memory");
}

#[test]
fn wrong_arguments_are_reported() {
    own_process!(30);
    let (ours, mut peer) = patient_pair();
    let ours = Queued::new(ours);
    let fd = ours.as_raw_fd();
    let null = outcome(unsafe { ipc_limits(none(), 1, 1) });
    assert_eq!(null, Err((IPC_ERROR_CONNECTION_GEN__NO_CINFO, libc::EINVAL)));
    for too_long in [LARGEST + 1, u32::MAX] {
        assert_eq!(limits(fd, too_long, 1), Err((IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE)));
    }
    // Neither limit was set.
    peer.write_all(&frame(1, &[7; 1000])).unwrap();
    assert_eq!(read(fd).unwrap().1.len(), 1000);
    queue(fd, 1, &[7; 1000]).unwrap();
    for closed in [-1, 900_000] {
        assert_eq!(limits(closed, 1, 1), Err((IPC_ERROR_USOCK_RECV, libc::EBADF)));
        assert_eq!(limits(closed, 0, 0), Err((IPC_ERROR_USOCK_RECV, libc::EBADF)));
    }
    let (reader, _writer) = pipe();
    assert_eq!(limits(reader.as_raw_fd(), 1, 1), Err((IPC_ERROR_USOCK_RECV, libc::ENOTSOCK)));
    set_errno(4711);
    limits(fd, 1, usize::MAX).unwrap();
    assert_eq!(errno(), 4711);
}
