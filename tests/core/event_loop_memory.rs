//! Promises 8 and 28, in bytes of the heap: announced bytes take no memory before they arrive, and an idle
//! connection takes little.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use crate::support::ext::{allow, heap_can_be_counted, limits};
use crate::support::*;

/// How many connections, at most `wanted`, the limit of descriptors allows with both ends in this process.
fn room_for(wanted: usize) -> usize {
    let room = (raise_descriptor_limit() - open_descriptors()).saturating_sub(50) / 2;
    if room < wanted {
        say(&format!(
            "ONLY {room} CONNECTIONS INSTEAD OF {wanted}: the hard limit of descriptors is too low"
        ));
    }
    room.min(wanted)
}

/// Waits until the server has received all bytes that its peers have sent.
fn let_the_server_read(server: &mut Program, peers: &[UnixStream], marker: &mut (UnixStream, i32)) {
    let is_read = |peer: &UnixStream| {
        let mut unread = -1;
        assert_eq!(unsafe { libc::ioctl(peer.as_raw_fd(), libc::TIOCOUTQ, &mut unread) }, 0);
        unread == 0
    };
    until("the server reads", || {
        marker.0.write_all(&frame(1, b"marker")).unwrap();
        assert_eq!(server.next(), Reported::Message(marker.1, 1, b"marker".to_vec()));
        peers.iter().all(is_read)
    });
}

#[test]
fn promise_8_announced_bytes_cost_nothing_before_arrival() {
    own_process!(60);
    const CLIENTS: usize = 500;
    let mut server = Program::server();
    let clients = room_for(CLIENTS);
    let mut marker = server.peer();
    let mut peers: Vec<_> = (0..clients).map(|_| server.peer().0).collect();
    let before = heap_in_use();
    for peer in &mut peers {
        peer.write_all(&[&[2][..], &7_999_995_u32.to_ne_bytes()].concat()).unwrap();
    }
    let_the_server_read(&mut server, &peers, &mut marker);
    let announced = heap_in_use().saturating_sub(before) / clients;
    assert!(announced < 1024, "{announced} bytes for each client that has announced a message");
    for peer in &mut peers {
        peer.write_all(b"x").unwrap();
    }
    let_the_server_read(&mut server, &peers, &mut marker);
    let begun = heap_in_use().saturating_sub(before) / clients;
    assert!(begun < 128 << 10, "{begun} bytes for each client that has sent one byte of its message");
    say(&format!(
        "{clients} clients announce 7,999,995 bytes: {announced} bytes each, with the first byte {begun}"
    ));
    drop(peers);
    for _ in 0..clients {
        assert!(matches!(server.next(), Reported::Disconnection(_)));
    }
    let left = heap_in_use().saturating_sub(before);
    assert!(left < 1024 * clients, "{left} bytes are left of closed clients");
}

#[test]
fn promise_28_idle_connection_takes_less_than_256_bytes() {
    own_process!(60);
    cost_of_idle_connections(Program::server());
}

#[test]
fn promise_28_holds_if_service_has_limits_and_descriptors() {
    own_process!(60);
    let server = Program::server();
    let service = server.srv.as_ref().unwrap().fd;
    limits(service, 10_000, 100_000).unwrap();
    allow(service);
    cost_of_idle_connections(server);
}

fn cost_of_idle_connections(mut server: Box<Program>) {
    /// Bytes of malloc(3) that belong to the program: the structure, and its place in the array.
    const OF_THE_PROGRAM: usize = 32 + 8;
    let clients = room_for(4000);
    let mut marker = server.peer();
    let (mut peers, mut fds) = (Vec::with_capacity(clients), Vec::with_capacity(clients));
    server.clients.reserve(clients + 1);
    let before = heap_in_use();
    for _ in 0..clients {
        let (peer, fd) = server.peer();
        peers.push(peer);
        fds.push(fd);
    }
    let silent = (heap_in_use() - before) / clients;
    // Each client has sent a message, got an answer, and is idle again.
    for (peer, fd) in peers.iter_mut().zip(&fds) {
        peer.write_all(&frame(1, b"a few words").repeat(2)).unwrap();
        for _ in 0..2 {
            assert_eq!(server.next(), Reported::Message(*fd, 1, b"a few words".to_vec()));
        }
        assert_eq!(server.write(*fd, 1, b"an answer"), IPC_ERROR_NONE);
        assert_eq!(read_frame(peer), (1, b"an answer".to_vec()));
    }
    force_list_scan(&mut server.list);
    let_the_server_read(&mut server, &peers, &mut marker);
    let after_messages = (heap_in_use() - before) / clients;
    say(&format!(
        "{clients} idle connections: {silent} bytes each, {after_messages} after some messages; {OF_THE_PROGRAM} of them are the program's"
    ));
    assert!(silent < 256 + OF_THE_PROGRAM && after_messages < 256 + OF_THE_PROGRAM);
}

#[test]
fn promise_28_small_payload_after_large_one_has_a_small_block() {
    own_process!(30);
    if !heap_can_be_counted() {
        return;
    }
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    let mut exchange = |server: &mut Program, size: usize| {
        let payload = pattern(size, size);
        peer.write_all(&frame(1, &payload)).unwrap();
        assert_eq!(server.next(), Reported::Message(fd, 1, payload));
        // Includes the message, which the next call frees.
        heap_in_use()
    };
    let before = exchange(&mut server, 10);
    for _ in 0..3 {
        assert!(exchange(&mut server, 60_000) > before + 50_000);
        let now = exchange(&mut server, 10);
        assert!(now < before + 10_000, "{before} bytes of heap, and {now} after a large message");
    }
}
