//! Promise 6: connections that are ready take turns, message by message.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use crate::support::*;

/// How many events of other connections may be reported before a message that has arrived: one of each ready
/// connection, and one more that was already in progress.
fn turns(others: usize) -> usize {
    2 * others + 1
}

/// Takes events until the expected one; the number of other events before it.
fn others_before(server: &mut Program, expected: impl Fn(&Reported) -> bool, most: usize) -> usize {
    for count in 0..=most {
        if expected(&server.next()) {
            return count;
        }
    }
    panic!("more than {most} other events came first");
}

#[test]
fn promise_6_connections_with_messages_take_turns() {
    own_process!(30);
    const EACH: usize = 300;
    let mut server = Program::server();
    let mut peers: Vec<_> = (0..5).map(|_| server.peer()).collect();
    for (peer, _) in &mut peers {
        peer.write_all(&frame(1, b"my turn").repeat(EACH)).unwrap();
    }
    let mut reported = vec![0; peers.len()];
    for _ in 0..EACH * peers.len() {
        let event = server.next();
        let Reported::Message(fd, ..) = event else { panic!("{event:?}") };
        reported[peers.iter().position(|(_, peer)| *peer == fd).unwrap()] += 1;
        let (least, most) = (reported.iter().min().unwrap(), reported.iter().max().unwrap());
        assert!(most - least <= 1, "{reported:?}");
    }
}

#[test]
fn promise_6_large_messages_take_turns_with_small_ones() {
    own_process!(30);
    let mut server = Program::server();
    let (mut small, _) = server.peer();
    let (mut large, large_fd) = server.peer();
    small.write_all(&frame(1, b"").repeat(10_000)).unwrap();
    let payload = pattern(20_000, 3);
    large.write_all(&frame(2, &payload).repeat(5)).unwrap();
    for _ in 0..5 {
        let expected = Reported::Message(large_fd, 2, payload.clone());
        // Each message takes two or three receives, and each receive is a turn.
        others_before(&mut server, |reported| *reported == expected, turns(1) + 4);
    }
}

#[test]
fn promise_6_client_that_connects_after_a_flood_is_served() {
    own_process!(30);
    let mut server = Program::server();
    let (mut asker, asker_fd) = server.peer();
    let (mut flooder, flooder_fd) = server.peer();
    flooder.write_all(&frame(1, b"").repeat(20_000)).unwrap();
    for _ in 0..10 {
        assert_eq!(server.next(), Reported::Message(flooder_fd, 1, vec![]));
    }
    for n in 0..100 {
        asker.write_all(&frame(2, &[n])).unwrap();
        others_before(&mut server, |reported| *reported == Reported::Message(asker_fd, 2, vec![n]), turns(1));
    }
}

#[test]
fn promise_6_endless_flood_starves_no_client() {
    own_process!(60);
    let mut server = Program::server();
    let (mut asker, asker_fd) = server.peer();
    // Sizes that share no divisor with the size of any buffer: a buffer always ends with a part of a frame.
    let flooders = [7, 101, 1009].map(|size| (size, server.peer().0));
    let floods = flooders.map(|(size, flooder)| {
        let bytes = frame(1, &vec![b'f'; size]).repeat(999);
        (write_until_the_end(flooder.try_clone().unwrap(), bytes), flooder)
    });
    for n in 0..1000_u32 {
        asker.write_all(&frame(2, &n.to_ne_bytes())).unwrap();
        let expected = Reported::Message(asker_fd, 2, n.to_ne_bytes().to_vec());
        others_before(&mut server, |reported| *reported == expected, turns(3));
        assert_eq!(server.write(asker_fd, 3, b"answer"), IPC_ERROR_NONE);
        assert_eq!(read_frame(&mut asker), (3, b"answer".to_vec()));
    }
    for (writer, flooder) in floods {
        flooder.shutdown(std::net::Shutdown::Both).unwrap();
        writer.join().unwrap();
    }
}

#[test]
fn promise_6_new_client_is_accepted_during_a_flood() {
    own_process!(30);
    let mut server = Program::server();
    let (mut flooder, _) = server.peer();
    flooder.write_all(&frame(1, b"").repeat(20_000)).unwrap();
    server.next();
    for _ in 0..20 {
        let _new = UnixStream::connect(&server.path).unwrap();
        others_before(&mut server, |reported| matches!(reported, Reported::Connection(_)), turns(1) + 1);
    }
}

#[test]
fn promise_6_always_ready_descriptor_starves_no_client() {
    own_process!(30);
    let mut server = Program::server();
    let (mut asker, asker_fd) = server.peer();
    let endless = std::fs::File::open("/dev/zero").unwrap();
    assert_eq!(unsafe { ipc_add_fd(&mut server.list, endless.as_raw_fd()) }, IPC_ERROR_NONE);
    assert!(matches!(server.next(), Reported::Extra(fd, _) if fd == endless.as_raw_fd()));
    for n in 0..100 {
        asker.write_all(&frame(2, &[n])).unwrap();
        others_before(&mut server, |reported| *reported == Reported::Message(asker_fd, 2, vec![n]), turns(1));
    }
    free_extras(&mut server);
}

#[test]
fn promise_6_many_new_clients_starve_no_connected_one() {
    own_process!(30);
    raise_descriptor_limit();
    let mut server = Program::server();
    let (mut asker, asker_fd) = server.peer();
    let _crowd: Vec<_> = (0..200).map(|_| UnixStream::connect(&server.path).unwrap()).collect();
    for n in 0..50 {
        asker.write_all(&frame(2, &[n])).unwrap();
        others_before(&mut server, |reported| *reported == Reported::Message(asker_fd, 2, vec![n]), turns(1));
    }
}

#[test]
fn promise_6_more_peers_than_one_epoll_wait_returns_take_turns() {
    own_process!(30);
    const PEERS: usize = 200;
    const EACH: usize = 20;
    raise_descriptor_limit();
    let mut server = Program::server();
    let mut peers: Vec<_> = (0..PEERS).map(|_| server.peer()).collect();
    for (peer, _) in &mut peers {
        peer.write_all(&frame(1, b"my turn").repeat(EACH)).unwrap();
    }
    let mut reported = std::collections::HashMap::new();
    for _ in 0..EACH * PEERS {
        let event = server.next();
        let Reported::Message(fd, ..) = event else { panic!("{event:?}") };
        let count = reported.entry(fd).or_insert(0);
        *count += 1;
        // It takes some rounds until all connections are known to be ready.
        assert!(
            *count < EACH / 2 || reported.len() == PEERS,
            "{} have not had a turn",
            PEERS - reported.len()
        );
    }
    assert!(reported.values().all(|count| *count == EACH));
}
