//! Promises 7 and 10 with many: ten thousand clients of one server, all connected at once.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::child::{self, Child};
use crate::support::*;

child::roles! { connects_many }

const CLIENTS: usize = 10_000;
/// One in so many speaks.
const SPEAKS: usize = 7;

/// The clients, in a process of their own: all connect, some speak and are answered, and when the server says
/// so all are gone at once.
fn connects_many() {
    raise_descriptor_limit();
    let (path, count) = (child::hear(), child::hear().parse().unwrap());
    let mut streams: Vec<_> = (0..count).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for (n, stream) in streams.iter_mut().enumerate().step_by(SPEAKS) {
        stream.write_all(&frame(1, &n.to_ne_bytes())).unwrap();
    }
    for (n, stream) in streams.iter_mut().enumerate().step_by(SPEAKS) {
        assert_eq!(read_frame(stream), (2, n.to_ne_bytes().to_vec()));
    }
    assert_eq!(child::hear(), "go");
}

#[test]
fn promise_10_ten_thousand_clients_of_one_server() {
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
    clients.say(server.path.to_str().unwrap());
    clients.say(count.to_string());
    let begin = Instant::now();
    let (mut come, mut spoken, mut most) = (0, 0, 0);
    let speak = count.div_ceil(SPEAKS);
    while come < count || spoken < speak {
        match server.next() {
            Reported::Connection(_) => come += 1,
            Reported::Message(fd, 1, payload) => {
                assert_eq!(server.write(fd, 2, &payload), IPC_ERROR_NONE);
                spoken += 1;
            }
            reported => panic!("{reported:?}"),
        }
        most = most.max(server.list.size);
    }
    assert_eq!((come, spoken, usize::try_from(most).unwrap()), (count, speak, count));
    let connected = begin.elapsed();
    clients.say("go");
    let begin = Instant::now();
    for _ in 0..count {
        let reported = server.next();
        assert!(matches!(reported, Reported::Disconnection(_)), "{reported:?}");
    }
    let gone = begin.elapsed();
    assert!(clients.end().success());
    drop(clients);
    assert_eq!((server.list.size, server.clients.len()), (0, 0));
    assert_eq!(open_descriptors(), before);
    say(&format!("{count} clients: came and spoke in {connected:.1?}, went in {gone:.1?}"));
    // No event is pending.
    let (mut last, fd) = server.peer();
    last.write_all(&frame(1, b"the last")).unwrap();
    assert_eq!(server.next(), Reported::Message(fd, 1, b"the last".to_vec()));
}
