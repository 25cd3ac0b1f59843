//! ipc_send and ipc_sendv: like ipc_write, with the payload from any memory; ipc_broadcast: one message to
//! many clients.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::support::ext::*;
use crate::support::*;

const LARGEST: usize = 7_999_995;

fn send(fd: RawFd, kind: u8, payload: &[u8]) -> Result<(), Failure> {
    outcome(unsafe { ipc_send(&info(fd), kind as _, payload.as_ptr().cast(), payload.len()) })
}

fn pieces_of<'a>(bytes: &[&'a [u8]]) -> Vec<libc::iovec> {
    // A piece of length 0 may be NULL.
    let piece = |bytes: &&'a [u8]| libc::iovec {
        iov_base: if bytes.is_empty() { none() } else { bytes.as_ptr().cast_mut().cast() },
        iov_len: bytes.len(),
    };
    bytes.iter().map(piece).collect()
}

fn sendv(fd: RawFd, kind: u8, bytes: &[&[u8]]) -> Result<(), Failure> {
    let pieces = pieces_of(bytes);
    outcome(unsafe { ipc_sendv(&info(fd), kind as _, pieces.as_ptr(), pieces.len() as c_int) })
}

fn broadcast(list: *mut ipc_connection_infos, payload: &[u8], except: *const ipc_connection_info) -> usize {
    let mut failed = 4711;
    set_errno(4711);
    assert_eq!(outcome(unsafe { ipc_broadcast(list, &message(5, payload), except, &mut failed) }), Ok(()));
    assert_eq!(errno(), 4711);
    failed
}

#[test]
fn ipc_send_sends_what_ipc_write_sends() {
    own_process!(30);
    let (ours, mut peer) = patient_pair();
    let fd = ours.as_raw_fd();
    for size in [0, 1, 64, 507, 508, 4096, 100_000, LARGEST] {
        let payload = pattern(size, size);
        let reader = std::thread::spawn(move || (read_frame(&mut peer), peer));
        set_errno(4711);
        send(fd, 0x83, &payload).unwrap();
        assert_eq!(errno(), 4711);
        let got;
        (got, peer) = reader.join().unwrap();
        assert!(got == (0x83, payload), "{size}");
    }
    assert_eq!(outcome(unsafe { ipc_send(&info(fd), 1, none(), 0) }), Ok(()));
    assert_eq!(read_frame(&mut peer), (1, Vec::new()));
}

#[test]
fn pieces_of_any_size_arrive_as_one_message() {
    own_process!(60);
    for is_listed in [false, true] {
        let (listed, mut peer) = listed();
        let (alone, alone_peer) = patient_pair();
        let fd = if is_listed { listed.fd() } else { alone.as_raw_fd() };
        if !is_listed {
            peer = alone_peer;
        }
        let mut expected = Vec::new();
        let reader = read_to_the_end(peer);
        for (count, size) in
            [(0, 0), (1, 0), (1, 5), (2, 300), (3, 100), (64, 1), (64, 9000), (5, 1_500_000), (64, 0)]
        {
            for with_empty_ones in [false, true] {
                let payload = pattern(count * size, count + size);
                let whole = payload.chunks(size.max(1)).collect::<Vec<_>>();
                let mut bytes: Vec<&[u8]> = Vec::new();
                for piece in &whole {
                    if with_empty_ones && whole.len() <= 32 {
                        bytes.push(b"");
                    }
                    bytes.push(piece);
                }
                bytes.resize(bytes.len().max(count), b"");
                // For a connection in a list, bytes that the kernel does not accept are queued, up to 16 MiB.
                sendv(fd, 7, &bytes).unwrap();
                expected.extend(frame(7, &payload));
            }
        }
        flush(fd, -1).unwrap();
        drop((listed, alone));
        assert!(reader.join().unwrap() == expected);
    }
}

#[test]
fn pieces_for_a_slow_peer_are_queued_whole_and_in_order() {
    own_process!(30);
    let (ours, peer) = listed();
    let mut expected = Vec::new();
    for number in 0..40 {
        let payload = pattern(100_000, number);
        let bytes: Vec<&[u8]> = payload.chunks(1 + 3000 * (number + 1)).take(63).collect();
        let rest = &payload[bytes.iter().map(|piece| piece.len()).sum::<usize>()..];
        sendv(ours.fd(), 1, &[&bytes[..], &[rest]].concat()).unwrap();
        expected.extend(frame(1, &payload));
    }
    assert!(pending(ours.fd()) > 0);
    let reader = read_to_the_end(peer);
    flush(ours.fd(), -1).unwrap();
    drop(ours);
    assert!(reader.join().unwrap() == expected);
}

#[test]
fn wrong_arguments_send_nothing() {
    own_process!(30);
    let (ours, mut peer) = patient_pair();
    let (good, closed) = (info(ours.as_raw_fd()), info(900_000));
    let bytes = [1_u8; 8];
    let start = bytes.as_ptr().cast();
    let inconsistent = Err((IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, libc::EINVAL));
    let too_long = Err((IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE));
    let piece = |iov_base: *const u8, iov_len| libc::iovec { iov_base: iov_base.cast_mut().cast(), iov_len };
    unsafe {
        assert_eq!(outcome(ipc_send(none(), 1, start, 8)), Err((IPC_ERROR_USOCK_SEND, libc::EINVAL)));
        assert_eq!(outcome(ipc_send(&closed, 1, start, 8)), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
        assert_eq!(outcome(ipc_send(&good, 1, none(), 8)), inconsistent);
        for length in [LARGEST + 1, u32::MAX as usize, (1 << 32) + 8, usize::MAX] {
            assert_eq!(outcome(ipc_send(&good, 1, start, length)), too_long);
        }
        let fine = [piece(bytes.as_ptr(), 8); 65];
        let sendv = |p, pieces: *const libc::iovec, count| outcome(ipc_sendv(p, 1, pieces, count));
        assert_eq!(sendv(none(), fine.as_ptr(), 1), Err((IPC_ERROR_USOCK_SEND, libc::EINVAL)));
        assert_eq!(sendv(&closed, fine.as_ptr(), 1), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
        for count in [-1, c_int::MIN, IPC_MAX_PIECES + 1, c_int::MAX] {
            assert_eq!(sendv(&good, fine.as_ptr(), count), inconsistent);
        }
        assert_eq!(sendv(&good, none(), 1), inconsistent);
        assert_eq!(sendv(&good, [piece(bytes.as_ptr(), 8), piece(none(), 1)].as_ptr(), 2), inconsistent);
        for lengths in [[usize::MAX, 8], [8, usize::MAX], [LARGEST, 1], [usize::MAX, 1]] {
            let pieces = lengths.map(|length| piece(bytes.as_ptr(), length));
            assert_eq!(sendv(&good, pieces.as_ptr(), 2), too_long, "{lengths:?}");
        }
        assert_eq!(sendv(&good, none(), 0), Ok(()));
    }
    assert_eq!(read_frame(&mut peer), (1, Vec::new()), "and nothing before this message");
    let mut list = EMPTY_LIST;
    let fine = message(1, b"fine");
    let no_payload = ipc_message { length: 4, payload: none(), ..fine };
    let mut failed = 4711;
    unsafe {
        let no_clients = Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL));
        assert_eq!(outcome(ipc_broadcast(none(), &fine, none(), &mut failed)), no_clients);
        let no_message = Err((IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, libc::EINVAL));
        assert_eq!(outcome(ipc_broadcast(&mut list, none(), none(), &mut failed)), no_message);
        assert_eq!(outcome(ipc_broadcast(&mut list, &no_payload, none(), &mut failed)), inconsistent);
        assert_eq!(failed, 4711);
        assert_eq!(outcome(ipc_broadcast(&mut list, &fine, none(), none())), Ok(()));
    }
    assert_eq!(broadcast(&mut list, b"unheard", none()), 0);
}

#[test]
fn broadcast_reaches_each_connection_but_the_excluded_one() {
    own_process!(30);
    let mut server = Program::server();
    let mut peers = [(); 5].map(|()| server.peer());
    let (mut extra, extra_end) = UnixStream::pair().unwrap();
    let (mut watched, watched_end) = UnixStream::pair().unwrap();
    assert_eq!(unsafe { ipc_add_fd(&mut server.list, extra_end.as_raw_fd()) }, IPC_ERROR_NONE);
    server.watch(&watched_end);
    let except: *const _ = server.info(peers[2].1);
    assert_eq!(broadcast(&mut server.list, b"to four", except), 0);
    assert_eq!(broadcast(&mut server.list, b"to all", none()), 0);
    for (number, (peer, _)) in peers.iter_mut().enumerate() {
        if number != 2 {
            assert_eq!(read_frame(peer), (5, b"to four".to_vec()));
        }
        assert_eq!(read_frame(peer), (5, b"to all".to_vec()));
    }
    assert_eq!((readable_now(&mut extra), readable_now(&mut watched)), (Vec::new(), Vec::new()));
    // A copy of the structure names the same connection.
    let copy = unsafe { *server.info(peers[2].1) };
    assert_eq!(broadcast(&mut server.list, b"to four", &copy), 0);
    assert_eq!(broadcast(&mut server.list, b"to all", none()), 0);
    assert_eq!(read_frame(&mut peers[2].0), (5, b"to all".to_vec()));
    server.del_fd(&watched_end).unwrap();
    server.del_fd(&extra_end).unwrap();
}

#[test]
fn broadcast_never_waits_and_counts_failures() {
    own_process!(30);
    const SIZE: usize = 100_000;
    let mut server = Program::server();
    let (sleeper, sleeper_fd) = server.peer();
    let (reader, reader_fd) = server.peer();
    limits(sleeper_fd, 0, 10 * SIZE).unwrap();
    let reader = read_to_the_end(reader);
    let (mut accepted, mut expected) = (Vec::new(), Vec::new());
    for number in 0..50 {
        let payload = pattern(SIZE, number);
        let failed = broadcast(&mut server.list, &payload, none());
        assert!(failed <= 1, "only the client that does not read fails");
        if failed == 0 {
            accepted.extend(frame(5, &payload));
        }
        expected.extend(frame(5, &payload));
        flush(reader_fd, -1).unwrap();
    }
    assert!(accepted.len() < expected.len(), "the queue of the client that does not read was full");
    assert!(pending(sleeper_fd) <= 10 * SIZE);
    // No byte of a failed message arrives; all others arrive whole and in order, also after messages of
    // ipc_queue.
    let sleeper = read_to_the_end(sleeper);
    queue(sleeper_fd, 5, b"queued").unwrap();
    assert_eq!(broadcast(&mut server.list, b"last", none()), 0);
    flush(sleeper_fd, -1).unwrap();
    accepted.extend([frame(5, b"queued"), frame(5, b"last")].concat());
    expected.extend(frame(5, b"last"));
    drop(server);
    assert!(reader.join().unwrap() == expected);
    assert!(sleeper.join().unwrap() == accepted);
}

#[test]
fn broadcast_fails_only_for_the_closed_connection() {
    own_process!(30);
    let mut server = Program::server();
    let (closed_peer, closed_peer_fd) = server.peer();
    let (mut open_peer, _) = server.peer();
    drop(closed_peer);
    assert_eq!(broadcast(&mut server.list, b"news", none()), 1);
    assert_eq!(read_frame(&mut open_peer), (5, b"news".to_vec()));
    assert_eq!(server.poll(10_000), Reported::Disconnection(closed_peer_fd));
    // An entry whose descriptor the program has closed, and a NULL entry.
    let (_closed, closed_fd) = server.peer();
    close(closed_fd);
    assert_eq!(broadcast(&mut server.list, b"news", none()), 1);
    let mut list = EMPTY_LIST;
    replace_array(&mut list, &[none(), server.info(closed_fd)]);
    assert_eq!(broadcast(&mut list, b"news", none()), 1);
    unsafe { ipc_connections_free(&mut list) };
    assert_eq!(read_frame(&mut open_peer), (5, b"news".to_vec()));
}
