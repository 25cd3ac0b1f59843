//! Promises 7 and 9: each CONNECTION is followed by exactly one DISCONNECTION of the same origin, whatever
//! happens between, and all messages that were sent before the end are reported first.

use std::io::Write;
use std::net::Shutdown;

use crate::support::*;

#[test]
fn promise_7_each_kind_of_end_is_reported_once() {
    own_process!(30);
    for end in ENDS {
        let mut checker = EventChecker::new();
        let (peer, fd, origin) = checker.peer();
        let _kept = end.apply(&mut checker, peer, fd, origin);
        if end.is_an_error() {
            assert_eq!(checker.next(), (Reported::Error(fd), origin), "{end:?}");
        }
        assert_eq!(checker.next(), (Reported::Disconnection(fd), origin), "{end:?}");
        assert_eq!(checker.list.size, 0, "{end:?}");
        checker.assert_nothing_more();
    }
}

#[test]
fn promise_7_removed_connections_report_no_disconnection() {
    own_process!(30);
    for end in ENDS {
        let mut checker = EventChecker::new();
        let (peer, fd, origin) = checker.peer();
        let info = checker.info(fd);
        let kept = end.apply(&mut checker, peer, fd, origin);
        assert_eq!(unsafe { ipc_del(&mut checker.list, info) }, IPC_ERROR_NONE);
        checker.connected.remove(&origin);
        checker.assert_nothing_more();
        drop(kept);
        checker.assert_nothing_more();
    }
}

/// Clients connect, send and end in every way, in a pseudorandom order that is the same in each run.
#[test]
fn promise_7_each_end_is_reported_once_in_any_order() {
    own_process!(60);
    let mut checker = EventChecker::new();
    let mut random = 1_u64;
    let mut below = |most: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % most
    };
    let (mut peers, mut kept, mut connected) = (Vec::new(), Vec::new(), 0);
    for _ in 0..5000 {
        match below(5) {
            0 | 1 if peers.len() < 30 => {
                let peer = checker.connect();
                connected += 1;
                let (fd, origin) = loop {
                    if let (Reported::Connection(fd), origin) = checker.next() {
                        break (fd, origin);
                    }
                };
                peers.push((peer, fd, origin));
            }
            2 | 3 if !peers.is_empty() => {
                let place = below(peers.len());
                peers[place].0.write_all(&frame(1, b"hello")).unwrap();
            }
            _ if !peers.is_empty() => {
                let (peer, fd, origin) = peers.swap_remove(below(peers.len()));
                // The last two ends take an event, which may be another connection's here.
                kept.extend(ENDS[below(ENDS.len() - 2)].apply(&mut checker, peer, fd, origin));
                kept.drain(..kept.len().saturating_sub(20));
            }
            _ => {}
        }
    }
    assert!(connected > 1000, "{connected}");
    drop(peers);
    while !checker.connected.is_empty() {
        checker.next();
    }
    assert_eq!(checker.list.size, 0);
    checker.assert_nothing_more();
}

/// A peer that sends no more may still read: its DISCONNECTION is reported after all accepted bytes were sent
/// to it.
#[test]
fn promise_7_half_closed_peer_ends_after_its_queue_is_sent() {
    own_process!(30);
    let mut checker = EventChecker::new();
    let mut marker = checker.peer();
    let (mut peer, fd, origin) = checker.peer();
    let payload = pattern(2_000_000, 7);
    assert_eq!(checker.write(fd, 3, &payload), IPC_ERROR_NONE);
    peer.write_all(&frame(2, b"the last word")).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let reported = checker.all_events(1, &mut marker);
    assert_eq!(reported, [(Reported::Message(fd, 2, b"the last word".to_vec()), origin)]);
    let reader = std::thread::spawn(move || {
        let queued = read_frame(&mut peer);
        assert_eq!(std::io::Read::read(&mut peer, &mut [0]).unwrap(), 0);
        queued
    });
    assert_eq!(checker.next(), (Reported::Disconnection(fd), origin));
    assert!(reader.join().unwrap() == (3, payload));
    checker.assert_nothing_more();
}

#[test]
fn promise_9_bytes_sent_before_close_are_delivered_first() {
    own_process!(30);
    let mut checker = EventChecker::new();
    let sizes = [0, 1, 5, 16_379, 16_380, 40_000, 3, 60_000];
    for (half, shut_down) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut peer, fd, origin) = checker.peer();
        for size in sizes {
            peer.write_all(&frame(2, &pattern(size, size))).unwrap();
        }
        if half {
            peer.write_all(&frame(2, b"not all of it")[..9]).unwrap();
        }
        let _open = shut_down.then(|| {
            peer.shutdown(Shutdown::Write).unwrap();
            peer.try_clone().unwrap()
        });
        drop(peer);
        for size in sizes {
            assert!(checker.next() == (Reported::Message(fd, 2, pattern(size, size)), origin), "{size}");
        }
        assert_eq!(checker.next(), (Reported::Disconnection(fd), origin));
    }
    checker.assert_nothing_more();
}

#[test]
fn promise_9_delivered_even_if_peer_left_bytes_unread() {
    own_process!(30);
    let mut checker = EventChecker::new();
    let (mut peer, fd, origin) = checker.peer();
    peer.write_all(&frame(2, b"before").repeat(5000)).unwrap();
    assert_eq!(checker.write(fd, 1, b"never read"), IPC_ERROR_NONE);
    drop(peer);
    // The server's writes fail as well, since the peer has closed.
    for n in 0..5000 {
        assert_eq!(checker.next(), (Reported::Message(fd, 2, b"before".to_vec()), origin), "message {n}");
        if n % 100 == 99 {
            assert_eq!(checker.write(fd, 1, b"an answer"), IPC_ERROR_USOCK_SEND);
        }
    }
    let mut last = checker.next();
    if last == (Reported::Error(fd), origin) {
        last = checker.next();
    }
    assert_eq!(last, (Reported::Disconnection(fd), origin));
    checker.assert_nothing_more();
}
