//! Promises 7 and 10 for ten thousand clients of one server, all connected at the same time.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::child::{self, Child};
use crate::support::*;

child::roles! { connects_many }

const CLIENTS: usize = 10_000;
/// One client in so many sends a message.
const SENDS: usize = 7;

/// The clients, in a process of their own: all connect, some send a message and get an answer, and all close
/// at once when the test sends a line.
fn connects_many() {
    raise_descriptor_limit();
    let (path, count) = (child::read_line(), child::read_line().parse().unwrap());
    let mut streams: Vec<_> = (0..count).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for (n, stream) in streams.iter_mut().enumerate().step_by(SENDS) {
        stream.write_all(&frame(1, &n.to_ne_bytes())).unwrap();
    }
    for (n, stream) in streams.iter_mut().enumerate().step_by(SENDS) {
        assert_eq!(read_frame(stream), (2, n.to_ne_bytes().to_vec()));
    }
    assert_eq!(child::read_line(), "go");
}

#[test]
fn promise_10_server_serves_ten_thousand_clients() {
    own_process!(60);
    let room = raise_descriptor_limit().saturating_sub(open_descriptors() + 50);
    let count = CLIENTS.min(room);
    if count < CLIENTS {
        say(&format!("ONLY {count} CLIENTS INSTEAD OF {CLIENTS}: the hard limit of descriptors is too low"));
    }
    let mut server = Program::server();
    drop(server.peer());
    assert!(matches!(server.next(), Reported::Disconnection(_)));
    let before = open_descriptors();
    let mut clients = Child::start(connects_many);
    clients.send_line(server.path.to_str().unwrap());
    clients.send_line(count.to_string());
    let begin = Instant::now();
    let (mut connected, mut messages, mut most) = (0, 0, 0);
    let senders = count.div_ceil(SENDS);
    while connected < count || messages < senders {
        match server.next() {
            Reported::Connection(_) => connected += 1,
            Reported::Message(fd, 1, payload) => {
                assert_eq!(server.write(fd, 2, &payload), IPC_ERROR_NONE);
                messages += 1;
            }
            reported => panic!("{reported:?}"),
        }
        most = most.max(server.list.size);
    }
    assert_eq!((connected, messages, usize::try_from(most).unwrap()), (count, senders, count));
    let time_to_connect = begin.elapsed();
    clients.send_line("go");
    let begin = Instant::now();
    for _ in 0..count {
        let reported = server.next();
        assert!(matches!(reported, Reported::Disconnection(_)), "{reported:?}");
    }
    let time_to_close = begin.elapsed();
    assert!(clients.end().success());
    drop(clients);
    assert_eq!((server.list.size, server.clients.len()), (0, 0));
    assert_eq!(open_descriptors(), before);
    say(&format!(
        "{count} clients: connected and served in {time_to_connect:.1?}, closed in {time_to_close:.1?}"
    ));
    // No event is pending.
    let (mut last, fd) = server.peer();
    last.write_all(&frame(1, b"the last")).unwrap();
    assert_eq!(server.next(), Reported::Message(fd, 1, b"the last".to_vec()));
}
