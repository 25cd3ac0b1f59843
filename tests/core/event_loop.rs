//! Promise 5: ipc_wait_event never blocks on one peer; all other peers are served meanwhile.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;

#[test]
fn promise_5_two_partial_frames_do_not_delay_a_third_client() {
    own_process!(30);
    let mut server = Program::server();
    let (mut in_header, _) = server.peer();
    let (mut in_payload, in_payload_fd) = server.peer();
    let (mut third, third_fd) = server.peer();
    let whole = frame(1, b"never all of it");
    in_header.write_all(&whole[..3]).unwrap();
    in_payload.write_all(&whole[..9]).unwrap();
    for n in 0..100 {
        third.write_all(&frame(2, &[n])).unwrap();
        assert_eq!(server.next(), Reported::Message(third_fd, 2, vec![n]));
        assert_eq!(server.write(third_fd, 3, &[n]), IPC_ERROR_NONE);
        assert_eq!(read_frame(&mut third), (3, vec![n]));
    }
    in_payload.write_all(&whole[9..]).unwrap();
    assert_eq!(server.next(), Reported::Message(in_payload_fd, 1, b"never all of it".to_vec()));
}

#[test]
fn promise_5_byte_by_byte_sender_delays_no_client() {
    own_process!(30);
    let mut server = Program::server();
    let (mut slow, slow_fd) = server.peer();
    let (mut other, other_fd) = server.peer();
    let payload = pattern(300, 1);
    let bytes = frame(1, &payload);
    let (last, first) = bytes.split_last().unwrap();
    for byte in first {
        slow.write_all(&[*byte]).unwrap();
        // A loop that waited for the rest of the slow client's frame would wait for ever.
        other.write_all(&frame(2, &[*byte])).unwrap();
        assert_eq!(server.next(), Reported::Message(other_fd, 2, vec![*byte]));
    }
    slow.write_all(&[*last]).unwrap();
    assert_eq!(server.next(), Reported::Message(slow_fd, 1, payload));
}

#[test]
fn promise_5_stuck_servers_do_not_block_their_client() {
    own_process!(30);
    let (mut stuck, stuck_end) = pair();
    let (mut lively, lively_end) = pair();
    let mut program = Program::client();
    let mut infos = [&stuck_end, &lively_end].map(connection);
    for info in &mut infos {
        assert_eq!(unsafe { ipc_add(&mut program.list, info) }, IPC_ERROR_NONE);
    }
    stuck.write_all(&frame(1, b"half a frame")[..8]).unwrap();
    for n in 0..100 {
        lively.write_all(&frame(2, &[n])).unwrap();
        assert_eq!(program.next(), Reported::Message(infos[1].fd, 2, vec![n]));
    }
}

/// The kernel has reported a connection as ready, but the program reads its bytes itself before the
/// connection's turn.
#[test]
fn promise_5_message_read_directly_delays_no_client() {
    own_process!(30);
    let mut server = Program::server();
    let mut peers = [server.peer(), server.peer()];
    let (mut third, third_fd) = server.peer();
    for n in 0..20 {
        for (peer, _) in &mut peers {
            peer.write_all(&frame(1, &[n])).unwrap();
        }
        let reported = server.next();
        let Reported::Message(fd, 1, _) = reported else { panic!("{reported:?}") };
        let (_, other) = peers.iter().find(|(_, peer)| *peer != fd).unwrap();
        assert_eq!(read(*other), Ok((1, vec![n])));
        third.write_all(&frame(2, &[n])).unwrap();
        assert_eq!(server.next(), Reported::Message(third_fd, 2, vec![n]));
    }
}

/// One client floods the server and never reads; a second client asks and waits for each answer. The server
/// answers both until a hundred writes to the first were refused and the second has got a hundred more
/// answers.
#[test]
fn promise_5_flooding_peer_costs_bounded_memory() {
    own_process!(60);
    const ENOUGH: usize = 100;
    /// The limit of all queues of the process together (it applies since another client always waits), and
    /// some messages in transit.
    const MEMORY: usize = (256 << 20) + (4 << 20);
    let mut server = Program::server();
    let (flooder, flooder_fd) = server.peer();
    let (asker, asker_fd) = server.peer();
    let flood = write_until_the_end(flooder.try_clone().unwrap(), frame(1, &vec![b'f'; 100_000]));
    let over = Arc::new(AtomicBool::new(false));
    let asking = std::thread::spawn({
        let (mut asker, over) = (asker, Arc::clone(&over));
        move || {
            for n in 0_u64.. {
                asker.write_all(&frame(2, &n.to_ne_bytes())).unwrap();
                assert_eq!(read_frame(&mut asker), (3, n.to_ne_bytes().to_vec()));
                if over.load(Ordering::Relaxed) {
                    return n + 1;
                }
            }
            0
        }
    });
    let (mut refused, mut answered, mut answered_since) = (0, 0, 0);
    let (before, mut most) = (heap_in_use(), 0);
    loop {
        match server.next() {
            Reported::Message(fd, 1, payload) if fd == flooder_fd => {
                assert!(payload.iter().all(|byte| *byte == b'f'));
                match server.write(fd, 3, &payload) {
                    IPC_ERROR_NONE => {}
                    IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA => {
                        assert_eq!(errno(), libc::EAGAIN);
                        refused += 1;
                    }
                    code => panic!("{code:?}"),
                }
            }
            Reported::Message(fd, 2, payload) if fd == asker_fd => {
                assert_eq!(server.write(fd, 3, &payload), IPC_ERROR_NONE);
                answered += 1;
                answered_since += u64::from(refused > 0);
            }
            Reported::Disconnection(fd) if fd == asker_fd => break,
            other => panic!("{other:?}"),
        }
        over.store(refused >= ENOUGH && answered_since >= ENOUGH as u64, Ordering::Relaxed);
        most = most.max(heap_in_use().saturating_sub(before));
        assert!(most < MEMORY, "{most} bytes for a client that does not read");
    }
    assert_eq!(asking.join().unwrap(), answered);
    // The server then need not wait, when it ends, until the queued bytes are sent.
    flooder.shutdown(std::net::Shutdown::Both).unwrap();
    flood.join().unwrap();
    say(&format!("a client that never reads: {most} bytes of memory at most, {refused} answers refused"));
}

/// The library scans the list each 10 ms, sometimes between the receive that brings both messages and their
/// report.
#[test]
fn simultaneous_messages_are_all_reported() {
    own_process!(60);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    let both = [frame(1, b"one"), frame(2, b"another")].concat();
    for round in 0..60_000 {
        peer.write_all(&both).unwrap();
        assert_eq!(server.poll(10_000), Reported::Message(fd, 1, b"one".to_vec()), "{round}");
        assert_eq!(server.poll(10_000), Reported::Message(fd, 2, b"another".to_vec()), "{round}");
    }
}
