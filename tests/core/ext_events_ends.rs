//! Promise 42: `ipc_wait_events` reports an end only as the first event of its array. If the call finds an
//! end after the first event, it defers the end: the end is the first event of the next call, however busy
//! other connections are.

use crate::support::ext::*;
use crate::support::*;

/// How many calls it takes until the ends of all these connections are reported. Each call also has events of
/// busy connections, which send without end.
fn calls_until_all_ends_are_reported(busy: usize, ends: usize, room: usize) -> usize {
    let mut program = Program::server();
    let mut peers: Vec<_> = (0..busy + ends).map(|_| program.peer().0).collect();
    let flood = frame(1, b"again").repeat(1000);
    let busy: Vec<_> = peers.drain(..busy).map(|peer| write_until_the_end(peer, flood.clone())).collect();
    let mut array = events(room);
    // All busy connections are in the middle of their messages.
    for _ in 0..10 {
        assert!(!program.many(&mut array, 10_000).is_empty());
    }
    drop(peers);
    let (mut calls, mut reported) = (0, 0);
    while reported < ends {
        let seen = program.many(&mut array, 10_000);
        calls += 1;
        assert!(!seen.is_empty());
        for (place, seen) in seen.iter().enumerate() {
            match seen {
                Seen::Reported(Reported::Disconnection(_)) => {
                    assert_eq!(place, 0, "an end that is not the first of its array");
                    reported += 1;
                }
                Seen::Reported(Reported::Message(..)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(calls < 100_000, "{reported} of {ends} ends in {calls} calls");
    }
    drop(program);
    busy.into_iter().for_each(|busy| busy.join().unwrap());
    calls
}

#[test]
fn promise_42_deferred_end_is_first_event_of_the_next_call() {
    own_process!(60);
    for busy in [1, 4, 20] {
        for ends in [1, 5, 40] {
            for room in [2, 8, 64, 300] {
                let calls = calls_until_all_ends_are_reported(busy, ends, room);
                // Each end takes a call of its own, and a call before it that finds the end, in the
                // connection's turn.
                let turns = (busy + ends).div_ceil(room) + 1;
                assert!(
                    calls <= 2 * ends + 2 * turns,
                    "{busy} busy, {ends} ends, room for {room}: {calls} calls"
                );
            }
        }
    }
}
