//! File descriptor passing (SCM_RIGHTS): when descriptors are closed, and what happens if no descriptor is
//! free.

use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use crate::support::ext::*;
use crate::support::*;

#[test]
fn uninvited_descriptors_are_not_received() {
    own_process!(30);
    for way in WAYS {
        for size in [0, 5, 100_000] {
            let (mut receiver, peer) = Receiver::new(way, false);
            let file = numbered_file(1);
            let before = open_descriptors();
            for _ in 0..3 {
                let bytes = frame(1, &vec![7; size]);
                send_with(&peer, &bytes[..3], &[file.as_raw_fd(); MOST]);
                send_with(&peer, &bytes[3..], &[file.as_raw_fd(); 253]);
                assert!(receiver.next() == (1, vec![7; size]));
                assert_eq!(open_descriptors(), before, "{way:?}, {size}");
                assert!(take(receiver.fd).is_none());
            }
            // With a part of a message, and with messages that are read ahead.
            send_with(&peer, &frame(1, b"x").repeat(10), &[file.as_raw_fd(); MOST]);
            send_with(&peer, &frame(1, b"half")[..6], &[file.as_raw_fd(); MOST]);
            (0..10).for_each(|_| assert_eq!(receiver.next(), (1, b"x".to_vec())));
            if let Some(listed) = &mut receiver.listed {
                assert_eq!(listed.program.poll(0), Seen::Nothing);
            }
            assert_eq!(open_descriptors(), before);
            // Descriptors are allowed, and received, from now on.
            allow(receiver.fd);
            send_with(&peer, &frame(1, b"half")[6..], &[file.as_raw_fd()]);
            assert_eq!(receiver.next(), (1, b"half".to_vec()));
            let expected = if receiver.listed.is_some() { 1 } else { MOST };
            // ipc_read has left the half message and its descriptors in the kernel: they are received now.
            assert_eq!(take_numbers(receiver.fd).len(), expected);
        }
    }
}

#[test]
fn service_allows_descriptors_for_clients_accepted_later() {
    own_process!(30);
    let mut server = Program::server();
    let service = server.srv.unwrap().fd;
    let (before, before_fd) = server.peer();
    allow(service);
    let (after, after_fd) = server.peer();
    let file = numbered_file(3);
    for (peer, fd, expected) in [(&before, before_fd, &[][..]), (&after, after_fd, &[3])] {
        write_fd(peer.as_raw_fd(), 1, b"here", &file).unwrap();
        assert_eq!(server.poll(20_000), Reported::Message(fd, 1, b"here".to_vec()));
        assert_eq!(take_numbers(fd), expected);
    }
}

#[test]
fn untaken_descriptors_are_closed_with_the_next_message() {
    own_process!(30);
    for way in WAYS {
        let (mut receiver, peer) = Receiver::new(way, true);
        let files: Vec<_> = (0..6).map(numbered_file).collect();
        let fds: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let before = open_descriptors();
        for taken in 0..3 {
            send_with(&peer, &frame(1, b"three"), &fds[..3]);
            assert_eq!(receiver.next().1, b"three");
            assert_eq!(open_descriptors(), before + 3);
            let kept: Vec<_> = (0..taken).map(|_| take(receiver.fd).unwrap()).collect();
            send_with(&peer, &frame(1, b"none"), &[]);
            assert_eq!(receiver.next().1, b"none");
            assert_eq!(open_descriptors(), before + taken, "{way:?}");
            assert!(take(receiver.fd).is_none());
            assert_eq!(kept.iter().map(number_of).collect::<Vec<_>>(), (0..taken).collect::<Vec<_>>());
        }
        // The descriptors of the next message replace them.
        for round in 0..4 {
            send_with(&peer, &frame(1, b"three"), &fds[round % 2 * 3..][..3]);
            assert_eq!(receiver.next().1, b"three");
            assert_eq!(open_descriptors(), before + 3);
        }
        assert_eq!(take_numbers(receiver.fd), [3, 4, 5]);
        // A message of another connection closes no descriptors of this connection.
        send_with(&peer, &frame(1, b"one"), &fds[..1]);
        assert_eq!(receiver.next().1, b"one");
        let (mut other, other_peer) = Receiver::new(way, true);
        assert_eq!(write(other_peer.as_raw_fd(), 1, b"of another"), IPC_ERROR_NONE);
        assert_eq!(other.next().1, b"of another");
        assert!(take(other.fd).is_none());
        assert_eq!(take_numbers(receiver.fd), [0]);
    }
}

/// The peer closes after each number of bytes of two messages, with descriptors attached to the first byte of
/// each.
#[test]
fn untaken_descriptors_are_closed_with_the_connection() {
    own_process!(60);
    let file = numbered_file(1);
    let fds = [file.as_raw_fd(); 3];
    let one = frame(1, b"words");
    for way in WAYS {
        let warm = Receiver::new(way, true);
        drop(warm);
        let before = open_descriptors();
        for step in 0..=2 * one.len() {
            for reported in 0..=step / one.len() {
                for is_closed in [true, false] {
                    let (mut receiver, peer) = Receiver::new(way, true);
                    for (number, byte) in one.repeat(2).iter().enumerate().take(step) {
                        let fds = if number % one.len() == 0 { &fds[..] } else { &[] };
                        send_with(&peer, &[*byte], fds);
                    }
                    (0..reported).for_each(|_| assert_eq!(receiver.next().1, b"words"));
                    let is_all = reported == step / one.len();
                    if let Some(listed) = receiver.listed.as_mut().filter(|_| is_all) {
                        assert_eq!(listed.program.poll(0), Seen::Nothing);
                    }
                    if is_closed {
                        assert_eq!(unsafe { ipc_close(&mut info(receiver.fd)) }, IPC_ERROR_NONE);
                        receiver.fd = -1;
                        drop((receiver, peer));
                    } else {
                        drop(peer);
                        (reported..step / one.len()).for_each(|_| assert_eq!(receiver.next().1, b"words"));
                        receiver.end();
                        drop(receiver);
                    }
                    assert_eq!(
                        open_descriptors(),
                        before,
                        "{way:?}, {step} bytes, {reported} reported, {is_closed}"
                    );
                }
            }
        }
    }
}

#[test]
fn descriptors_closed_on_a_protocol_error() {
    own_process!(30);
    let mut server = Program::server();
    allow(server.srv.unwrap().fd);
    assert_eq!(server.poll(0), Seen::Nothing);
    let file = numbered_file(1);
    let before = open_descriptors();
    for _ in 0..3 {
        let (peer, fd) = server.peer();
        send_with(&peer, &frame(1, b"fine"), &[file.as_raw_fd(); 2]);
        assert_eq!(server.poll(20_000), Reported::Message(fd, 1, b"fine".to_vec()));
        send_with(&peer, &[1, 255, 255, 255, 255], &[file.as_raw_fd(); MOST]);
        assert_eq!(server.poll(20_000), Reported::Error(fd));
        assert_eq!(server.poll(20_000), Reported::Disconnection(fd));
        drop(peer);
        assert_eq!(open_descriptors(), before);
    }
}

#[test]
fn received_descriptors_are_close_on_exec() {
    own_process!(30);
    for way in WAYS {
        let (mut receiver, peer) = Receiver::new(way, true);
        let file = numbered_file(1);
        send_with(&peer, &frame(1, b"some"), &[file.as_raw_fd(); 3]);
        assert_eq!(receiver.next().1, b"some");
        for _ in 0..3 {
            let taken = take(receiver.fd).unwrap();
            assert_eq!(unsafe { libc::fcntl(taken.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
        }
    }
}

/// A connection in a list whose peer does not read: messages to it are queued.
fn stuck() -> (Listed, UnixStream) {
    let (sender, peer) = listed();
    while pending(sender.fd()) == 0 {
        assert_eq!(write(sender.fd(), 9, &[9; 50_000]), IPC_ERROR_NONE);
    }
    (sender, peer)
}

#[test]
fn closed_descriptor_is_refused_with_its_message() {
    own_process!(30);
    let bad = Err((IPC_ERROR_USOCK_SEND, libc::EBADF));
    let (sender, mut peer) = listed();
    for fd in [-1, 900_000] {
        assert_eq!(write_fd(sender.fd(), 1, b"never", &fd), bad);
        assert_eq!(write_fd(fd, 1, b"never", &peer), bad, "the connection is closed");
    }
    let (unlisted, mut other) = patient_pair();
    assert_eq!(write_fd(unlisted.as_raw_fd(), 1, b"never", &-1), bad);
    for (fd, peer) in [(sender.fd(), &mut peer), (unlisted.as_raw_fd(), &mut other)] {
        assert_eq!(write(fd, 2, b"goes on"), IPC_ERROR_NONE);
        assert_eq!(read_frame(peer), (2, b"goes on".to_vec()));
    }
    let (stuck, mut peer) = stuck();
    let before = pending(stuck.fd());
    assert_eq!(write_fd(stuck.fd(), 1, b"never", &-1), bad);
    assert_eq!(pending(stuck.fd()), before);
    peer.read_exact(&mut [0; 1000]).unwrap();
}

#[test]
fn message_refused_whole_if_descriptor_cannot_be_duplicated() {
    own_process!(30);
    let (sender, mut peer) = stuck();
    let file = numbered_file(1);
    allow(peer.as_raw_fd());
    let before = pending(sender.fd());
    let lowest_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    set_descriptor_limit(lowest_free as u64);
    for _ in 0..3 {
        assert_eq!(write_fd(sender.fd(), 1, b"refused", &file), Err((IPC_ERROR_USOCK_SEND, libc::EMFILE)));
        assert_eq!(pending(sender.fd()), before);
    }
    raise_descriptor_limit();
    write_fd(sender.fd(), 2, b"accepted", &file).unwrap();
    drop(file);
    let fd = sender.fd();
    let flushed = std::thread::spawn(move || flush(fd, 20_000));
    let fd = peer.as_raw_fd();
    let (kind, payload) = loop {
        let (kind, payload) = read(fd).unwrap();
        if kind != 9 {
            break (kind, payload);
        }
    };
    assert_eq!((kind, payload), (2, b"accepted".to_vec()));
    assert_eq!(take_numbers(fd), [1]);
    assert_eq!(flushed.join().unwrap(), Ok(()));
    peer.set_nonblocking(true).unwrap();
    assert!(peer.read(&mut [0]).is_err());
}

#[test]
fn message_is_received_without_room_for_its_descriptor() {
    own_process!(30);
    for way in WAYS {
        let (mut receiver, peer) = Receiver::new(way, true);
        let file = numbered_file(8);
        let lowest_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        for room in 0..3 {
            write_fd(peer.as_raw_fd(), 1, b"one", &file).unwrap();
            send_with(&peer, &frame(2, b"two"), &[file.as_raw_fd(); 2]);
            assert_eq!(write(peer.as_raw_fd(), 3, b"none"), IPC_ERROR_NONE);
            set_descriptor_limit(lowest_free as u64 + room as u64);
            let mut got = Vec::new();
            for expected in [(1, b"one".to_vec()), (2, b"two".to_vec()), (3, b"none".to_vec())] {
                assert_eq!(receiver.next(), expected, "{way:?}");
                let taken: Vec<_> = std::iter::from_fn(|| take(receiver.fd)).collect();
                assert!(taken.iter().all(|taken| number_of(taken) == 8));
                got.push(taken.len());
            }
            raise_descriptor_limit();
            assert_eq!(got, [1.min(room), 2.min(room), 0], "as many as descriptors were free");
        }
        write_fd(peer.as_raw_fd(), 1, b"goes on", &file).unwrap();
        assert_eq!(receiver.next(), (1, b"goes on".to_vec()));
        assert_eq!(take_numbers(receiver.fd), [8]);
    }
}

#[test]
fn unsent_queue_leaves_no_descriptor_open() {
    own_process!(30);
    let before = open_descriptors();
    for peer_closes in [true, false] {
        let (mut sender, peer) = stuck();
        let file = numbered_file(1);
        (0..20).for_each(|_| write_fd(sender.fd(), 1, b"queued", &file).unwrap());
        drop(file);
        assert!(open_descriptors() >= before + 20);
        if peer_closes {
            drop(peer);
            let reported = flush(sender.fd(), -1);
            assert_eq!(reported, Err((IPC_ERROR_USOCK_SEND, libc::EPIPE)));
            assert_eq!(unsafe { ipc_close(&mut *sender.info) }, IPC_ERROR_NONE);
        } else {
            assert_eq!(unsafe { ipc_close(&mut *sender.info) }, IPC_ERROR_NONE);
            drop(peer);
        }
        drop(sender);
        // The next calls find that the peer has closed the connection.
        let (other, _peer) = pair();
        until("its descriptors are closed", || {
            pending(other.as_raw_fd());
            open_descriptors() == before + 2
        });
    }
}

#[test]
fn message_over_queue_limit_refused_with_its_descriptor() {
    own_process!(30);
    let (sender, _peer) = stuck();
    limits(sender.fd(), 0, 1).unwrap();
    let file = numbered_file(1);
    let before = (open_descriptors(), pending(sender.fd()));
    let reported = write_fd(sender.fd(), 1, b"refused", &file);
    assert_eq!(reported, Err((IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, libc::EAGAIN)));
    assert_eq!((open_descriptors(), pending(sender.fd())), before);
}

/// For a connection in no list the call waits for the peer.
#[test]
fn descriptor_write_outside_lists_waits_for_the_peer() {
    own_process!(30);
    let (ours, peer) = patient_pair();
    let fd = peer.as_raw_fd();
    allow(fd);
    ours.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &ours, &frame(9, &[9; 995])).is_ok_and(|count| count == 1000) {}
    ours.set_nonblocking(false).unwrap();
    let sender = std::thread::spawn(move || {
        let file = numbered_file(2);
        let reported = write_fd(ours.as_raw_fd(), 1, &pattern(500_000, 1), &file);
        (reported, ours)
    });
    let mut last = read(fd).unwrap();
    while last.0 == 9 {
        assert!(take(fd).is_none());
        last = read(fd).unwrap();
    }
    assert!(last == (1, pattern(500_000, 1)));
    assert_eq!(take_numbers(fd), [2]);
    assert_eq!(sender.join().unwrap().0, Ok(()));
}

#[test]
fn closed_peer_is_epipe() {
    own_process!(30);
    let (ours, peer) = pair();
    drop(peer);
    let file = numbered_file(1);
    assert_eq!(write_fd(ours.as_raw_fd(), 1, b"late", &file), Err((IPC_ERROR_USOCK_SEND, libc::EPIPE)));
    let _kept_open = ours.into_raw_fd();
}
