//! ipc_event_fd: a descriptor that another event loop can wait for instead of ipc_wait_event.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::ext::*;
use crate::support::*;

#[test]
fn event_fd_is_readable_while_an_event_is_pending() {
    own_process!(30);
    let mut server = Program::server();
    let fd = server.event_fd();
    assert!(!is_readable(fd), "nothing has happened");
    let mut peer = UnixStream::connect(&server.path).unwrap();
    assert!(becomes_readable(fd, 10_000), "a client has connected");
    let peer_fd = server.next_connection();
    assert_eq!(drain(&mut server, fd), NOTHING);
    // Half a message makes it readable, and no event is reported.
    peer.write_all(&frame(1, b"words")[..7]).unwrap();
    assert!(becomes_readable(fd, 10_000));
    assert_eq!(drain(&mut server, fd), NOTHING);
    peer.write_all(&frame(1, b"words")[7..]).unwrap();
    assert!(becomes_readable(fd, 10_000));
    assert_eq!(drain(&mut server, fd), [Seen::Reported(Reported::Message(peer_fd, 1, b"words".to_vec()))]);
    drop(peer);
    assert!(becomes_readable(fd, 10_000), "the client has closed");
    assert_eq!(drain(&mut server, fd), [Seen::Reported(Reported::Disconnection(peer_fd))]);
    assert_idle(&mut server, fd);
    assert_eq!(server.event_fd(), fd, "each call returns the same descriptor");
}

#[test]
fn event_fd_is_readable_while_frames_are_read_ahead() {
    own_process!(30);
    const COUNT: usize = 300;
    let (mut ours, mut peer) = listed();
    let fd = ours.program.event_fd();
    peer.write_all(&frame(1, b"burst").repeat(COUNT)).unwrap();
    for number in 0..COUNT {
        assert!(is_readable(fd), "{number} of {COUNT} are reported");
        assert_eq!(ours.program.poll(0), Reported::Message(ours.fd(), 1, b"burst".to_vec()));
    }
    assert_eq!(drain(&mut ours.program, fd), NOTHING);
    // An event descriptor that is made while frames are read ahead is readable at once.
    peer.write_all(&frame(1, b"burst").repeat(3)).unwrap();
    let (mut other, mut second) = listed();
    second.write_all(&frame(1, b"burst").repeat(3)).unwrap();
    assert_eq!(other.program.poll(0), Reported::Message(other.fd(), 1, b"burst".to_vec()));
    let fd = other.program.event_fd();
    assert!(is_readable(fd));
    assert_eq!(drain(&mut other.program, fd).len(), 2);
    // If ipc_read takes the frames, the descriptor may stay readable, until a call finds that no event is
    // pending.
    second.write_all(&frame(1, b"burst").repeat(2)).unwrap();
    assert_eq!(other.program.poll(0), Reported::Message(other.fd(), 1, b"burst".to_vec()));
    assert_eq!(read(other.fd()), Ok((1, b"burst".to_vec())));
    assert_eq!(drain(&mut other.program, fd), NOTHING);
    assert_idle(&mut other.program, fd);
}

#[test]
fn event_fd_is_readable_while_a_disconnection_is_pending() {
    own_process!(30);
    let mut server = Program::server();
    let fd = server.event_fd();
    let (_peer, peer_fd) = server.peer();
    let (mut breaks, breaks_fd) = server.peer();
    assert_eq!(drain(&mut server, fd), NOTHING);
    assert_eq!(unsafe { ipc_close(server.info(peer_fd)) }, IPC_ERROR_NONE);
    assert!(is_readable(fd), "the program has closed a client");
    assert_eq!(drain(&mut server, fd), [Seen::Reported(Reported::Disconnection(peer_fd))]);
    breaks.write_all(&[1, 255, 255, 255, 255]).unwrap();
    assert_eq!(server.poll(0), Reported::Error(breaks_fd));
    assert!(is_readable(fd), "its disconnection follows");
    assert_eq!(drain(&mut server, fd), [Seen::Reported(Reported::Disconnection(breaks_fd))]);
    assert_idle(&mut server, fd);
}

#[test]
fn queued_bytes_are_sent_through_the_event_fd() {
    own_process!(30);
    const SIZE: usize = 6_000_000;
    let (mut ours, peer) = listed();
    let (ours_fd, fd) = (ours.fd(), ours.program.event_fd());
    queue(ours_fd, 1, &pattern(SIZE, 4)).unwrap();
    assert!(pending(ours_fd) > 0);
    assert_idle(&mut ours.program, fd);
    let mut peer = peer;
    let reader = std::thread::spawn(move || (read_frame(&mut peer), peer));
    let mut wakeups = 0;
    while pending(ours_fd) > 0 {
        assert!(becomes_readable(fd, 20_000), "{} bytes are left", pending(ours_fd));
        assert_eq!(ours.program.poll(0), Seen::Nothing);
        wakeups += 1;
    }
    assert!(reader.join().unwrap().0 == (1, pattern(SIZE, 4)));
    assert!(wakeups < 5000, "{wakeups} wake-ups for {SIZE} bytes");
}

/// What a client of the poll loop does, by its number. Returns how many of its messages the server must have
/// received.
fn behave(number: usize, path: &std::path::Path) -> usize {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20) * patience())).unwrap();
    let word = |n: usize| frame(1, format!("{number}: {n}").as_bytes());
    let words = |count| (0..count).flat_map(word).collect::<Vec<u8>>();
    match number % 6 {
        // Sends one message after the other, and waits for each answer.
        0 => {
            for n in 0..20 {
                stream.write_all(&word(n)).unwrap();
                assert_eq!(read_frame(&mut stream).1, format!("{number}: {n}").as_bytes());
            }
            20
        }
        // Sends all messages in one write.
        1 => {
            stream.write_all(&words(500)).unwrap();
            (0..500).for_each(|_| drop(read_frame(&mut stream)));
            500
        }
        // Sends byte by byte.
        2 => {
            for byte in words(5) {
                stream.write_all(&[byte]).unwrap();
            }
            (0..5).for_each(|_| drop(read_frame(&mut stream)));
            5
        }
        // Closes in the middle of a message.
        3 => {
            stream.write_all(&words(3)).unwrap();
            (0..3).for_each(|_| drop(read_frame(&mut stream)));
            stream.write_all(&word(4)[..6]).unwrap();
            3
        }
        // Is closed by the server.
        4 => {
            stream.write_all(&[words(2), frame(9, b"close me now")].concat()).unwrap();
            (0..2).for_each(|_| drop(read_frame(&mut stream)));
            assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap_or(0), 0);
            2
        }
        // Asks for a large answer, and reads it late.
        _ => {
            stream.write_all(&frame(8, b"much")).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            assert!(read_frame(&mut stream) == (8, pattern(3_000_000, 8)));
            0
        }
    }
}

#[test]
fn poll_loop_misses_no_event_and_does_not_spin() {
    own_process!(60);
    const CLIENTS: usize = 54;
    let mut server = Program::server();
    let (reader, writer) = pipe();
    assert_eq!(unsafe { ipc_add_fd(&mut server.list, reader.as_raw_fd()) }, IPC_ERROR_NONE);
    let fd = server.event_fd();
    let path = server.path.clone();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let path = path.clone();
            std::thread::spawn(move || behave(number, &path))
        })
        .collect();
    let pipe = std::thread::spawn(move || {
        for n in 0..100 {
            (&writer).write_all(&[n]).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let (mut counts, mut connected, mut closed, mut bytes, mut ended) =
        (HashMap::new(), 0, 0, Vec::new(), false);
    let (mut events, mut empty) = (0, 0);
    while closed < CLIENTS || !ended {
        assert!(becomes_readable(fd, 20_000), "{connected} connected, {closed} closed, {events} events");
        let reported = server.all();
        empty += usize::from(reported.is_empty());
        events += reported.len();
        for seen in reported {
            match seen {
                Seen::Reported(Reported::Connection(_)) => connected += 1,
                Seen::Reported(Reported::Disconnection(_)) => closed += 1,
                Seen::Reported(Reported::Extra(_, more)) => {
                    ended = more.is_empty();
                    bytes.extend(more);
                }
                Seen::Reported(Reported::Message(from, 9, _)) => {
                    assert_eq!(unsafe { ipc_close(server.info(from)) }, IPC_ERROR_NONE);
                }
                Seen::Reported(Reported::Message(from, 8, _)) => {
                    queue(from, 8, &pattern(3_000_000, 8)).unwrap()
                }
                Seen::Reported(Reported::Message(from, kind, payload)) => {
                    let text = String::from_utf8(payload.clone()).unwrap();
                    let (number, n) = text.split_once(": ").unwrap();
                    let before = counts.entry(number.to_owned()).or_insert(0);
                    assert_eq!(n, before.to_string(), "in order");
                    *before += 1;
                    queue(from, kind, &payload).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    pipe.join().unwrap();
    let expected: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!((connected, counts.values().sum::<usize>()), (CLIENTS, expected));
    assert_eq!(bytes, (0..100).collect::<Vec<u8>>());
    // Half messages, and queues that are sent in parts: a few hundred wake-ups. A loop that spins has many
    // more.
    assert!(empty < 5000, "{empty} wake-ups without an event, and {events} events");
    assert_idle(&mut server, fd);
    free_extras(&mut server);
}
