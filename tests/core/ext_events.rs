//! ipc_wait_events: many events in one call, the same events that single calls would report.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use crate::support::ext::*;
use crate::support::*;

/// A server with peers of six kinds, two of each. All have sent everything before the first event is
/// reported.
struct Crowd {
    server: Box<Program>,
    peers: Vec<UnixStream>,
    /// The peer's number in `peers`, by the server's descriptor.
    names: HashMap<i32, usize>,
}

impl Crowd {
    fn new() -> Self {
        let mut server = Program::server();
        let mut peers: Vec<_> = (0..12).map(|_| server.peer()).collect();
        // No event of the connecting is pending.
        assert_eq!(server.poll(0), Seen::Nothing);
        let names = peers.iter().enumerate().map(|(name, (_, fd))| (*fd, name)).collect();
        for (name, (peer, _)) in peers.iter_mut().enumerate() {
            let word = |count: usize| {
                (0..count).flat_map(|n| frame(2, format!("{name}: {n}").as_bytes())).collect::<Vec<_>>()
            };
            match name % 6 {
                0 => {}
                1 => peer.write_all(&word(1)).unwrap(),
                2 => peer.write_all(&word(40)).unwrap(),
                3 => peer.write_all(&[word(3), vec![1, 255, 255, 255, 255]].concat()).unwrap(),
                4 => peer.write_all(&[word(2), word(1)[..7].to_vec()].concat()).unwrap(),
                _ => {
                    peer.write_all(&word(2)).unwrap();
                    peer.shutdown(std::net::Shutdown::Both).unwrap();
                }
            }
        }
        let peers = peers.into_iter().map(|(peer, _)| peer).collect();
        Self { server, peers, names }
    }

    fn name(&self, seen: Seen) -> (usize, &'static str, Vec<u8>) {
        let Seen::Reported(reported) = seen else { panic!("{seen:?}") };
        let (fd, what, payload) = match reported {
            Reported::Message(fd, 2, payload) => (fd, "message", payload),
            Reported::Error(fd) => (fd, "error", vec![]),
            Reported::Disconnection(fd) => (fd, "disconnection", vec![]),
            other => panic!("{other:?}"),
        };
        (self.names[&fd], what, payload)
    }
}

/// The events of each connection, in their order.
fn by_name(all: Vec<(usize, &'static str, Vec<u8>)>) -> BTreeMap<usize, Vec<(&'static str, Vec<u8>)>> {
    let mut reported: BTreeMap<_, Vec<_>> = BTreeMap::new();
    all.into_iter().for_each(|(name, what, payload)| reported.entry(name).or_default().push((what, payload)));
    reported
}

#[test]
fn batch_reports_the_same_events_as_single_calls() {
    own_process!(30);
    let mut crowd = Crowd::new();
    let single: Vec<_> = crowd.server.all().into_iter().map(|seen| crowd.name(seen)).collect();
    assert_eq!(single.len(), 2 * (1 + 40 + 3 + 2 + 2 + 2 + 1));
    assert_eq!(crowd.peers.len(), 12);
    let single = by_name(single);
    for size in [1, 2, 3, 7, 30, 200] {
        let mut crowd = Crowd::new();
        let mut array = events(size);
        let mut many = Vec::new();
        loop {
            let reported = crowd.server.many(&mut array, 0);
            if reported.is_empty() {
                break;
            }
            many.extend(reported.into_iter().map(|seen| crowd.name(seen)));
        }
        assert_eq!(by_name(many), single, "{size} at once");
    }
}

#[test]
fn batch_never_exceeds_the_array() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    peer.write_all(&frame(1, b"many").repeat(100)).unwrap();
    for size in [1, 10, 50] {
        // What follows the array is not touched.
        let mut array = events(size + 1);
        array[size].origin = std::ptr::without_provenance_mut(4711);
        let reported = ours.program.many(&mut array[..size], -1);
        assert_eq!(reported.len(), size, "the array is filled");
        assert_eq!(array[size].origin.addr(), 4711);
    }
    assert_eq!(ours.program.many(&mut events(100), -1).len(), 39);
    assert_eq!(ours.program.many(&mut events(100), 0).len(), 0);
}

#[test]
fn connections_with_messages_take_turns_in_a_batch() {
    own_process!(30);
    const EACH: usize = 100;
    let mut server = Program::server();
    let mut peers: Vec<_> = (0..5).map(|_| server.peer()).collect();
    for (peer, _) in &mut peers {
        peer.write_all(&frame(1, b"my turn").repeat(EACH)).unwrap();
    }
    let mut array = events(EACH * 5);
    let mut reported = vec![0; peers.len()];
    let mut all = 0;
    while all < EACH * 5 {
        for seen in server.many(&mut array, -1) {
            let Seen::Reported(Reported::Message(fd, ..)) = seen else { panic!("{seen:?}") };
            reported[peers.iter().position(|(_, peer)| *peer == fd).unwrap()] += 1;
            let (least, most) = (reported.iter().min().unwrap(), reported.iter().max().unwrap());
            assert!(most - least <= 1, "{reported:?}");
            all += 1;
        }
    }
}

/// Many frames of one connection are read ahead when others send: single calls would report the others soon.
#[test]
fn read_ahead_of_one_connection_does_not_fill_the_batch() {
    own_process!(30);
    const AHEAD: usize = 2000;
    let mut server = Program::server();
    let (mut talker, talker_fd) = server.peer();
    let mut others: Vec<_> = (0..5).map(|_| server.peer()).collect();
    talker.write_all(&frame(1, b"x").repeat(AHEAD)).unwrap();
    assert_eq!(server.poll(-1), Reported::Message(talker_fd, 1, b"x".to_vec()));
    for (other, _) in &mut others {
        other.write_all(&frame(2, b"and me")).unwrap();
    }
    let mut array = events(AHEAD / 2);
    let reported = server.many(&mut array, -1);
    for (_, fd) in &others {
        let place = reported.iter().position(|seen| *seen == Reported::Message(*fd, 2, b"and me".to_vec()));
        assert!(place.is_some_and(|place| place < 20), "reported as number {place:?} of {}", reported.len());
    }
}

#[test]
fn messages_of_a_batch_are_freed_by_the_next_call() {
    own_process!(30);
    const SIZE: usize = 100_000;
    const COUNT: usize = 20;
    if !heap_can_be_counted() {
        return;
    }
    let mut server = Program::server();
    let mut peers: Vec<_> = (0..COUNT).map(|_| server.peer().0).collect();
    let mut array = events(COUNT);
    let mut round = |server: &mut Program, array: &mut [ipc_event]| {
        let payload = pattern(SIZE, 1);
        for peer in &mut peers {
            peer.write_all(&frame(1, &payload)).unwrap();
        }
        let (mut count, srv) = (array.len(), server.srv());
        let mut reported = 0;
        while reported < COUNT {
            let code = unsafe { ipc_wait_events(&mut server.list, srv, array.as_mut_ptr(), &mut count, -1) };
            assert_eq!(code, IPC_ERROR_NONE);
            reported += count;
            count = array.len();
        }
        assert_eq!(reported, COUNT);
    };
    let empty = |server: &mut Program, array: &mut [ipc_event]| {
        let (mut count, srv) = (array.len(), server.srv());
        let code = unsafe { ipc_wait_events(&mut server.list, srv, array.as_mut_ptr(), &mut count, 0) };
        assert_eq!((code, count), (IPC_ERROR_NONE, 0));
        assert!(array.iter().all(|event| event.m.is_null() && event.origin.is_null()));
    };
    round(&mut server, &mut array);
    empty(&mut server, &mut array);
    let before = heap_in_use();
    for _ in 0..5 {
        round(&mut server, &mut array);
    }
    empty(&mut server, &mut array);
    let left = heap_in_use().saturating_sub(before);
    assert!(left < SIZE, "{left} bytes are left");
    // A failing call frees them, too.
    round(&mut server, &mut array);
    let mut count = array.len();
    let code = unsafe { ipc_wait_events(none(), none(), array.as_mut_ptr(), &mut count, 0) };
    assert_eq!((code, count), (IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, 0));
    let left = heap_in_use().saturating_sub(before);
    assert!(left < SIZE, "{left} bytes are left after a call that failed");
}

#[test]
fn wrong_arguments_are_reported_with_count_zero() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    peer.write_all(&frame(1, b"waits")).unwrap();
    let mut array = events(3);
    let list: *mut ipc_connection_infos = &mut ours.program.list;
    let no_event = Err((IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM, libc::EINVAL));
    unsafe {
        let mut count = 3;
        set_errno(0);
        assert_eq!(outcome(ipc_wait_events(list, none(), none(), &mut count, 0)), no_event);
        assert_eq!(outcome(ipc_wait_events(list, none(), array.as_mut_ptr(), none(), 0)), no_event);
        count = 0;
        assert_eq!(outcome(ipc_wait_events(list, none(), array.as_mut_ptr(), &mut count, 0)), no_event);
        assert_eq!(count, 0);
        for fd in [-1, 900_000] {
            let mut count = 3;
            let code = ipc_wait_events(list, &mut info(fd), array.as_mut_ptr(), &mut count, 0);
            assert_eq!((outcome(code), count), (Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EBADF)), 0));
        }
        let (no_service, _other) = pair();
        let mut count = 3;
        let mut srv = info(no_service.as_raw_fd());
        let code = ipc_wait_events(list, &mut srv, array.as_mut_ptr(), &mut count, 0);
        assert_eq!((outcome(code), count), (Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EINVAL)), 0));
    }
    // The failed calls have lost no event.
    assert_eq!(
        ours.program.many(&mut array, 0),
        [Seen::Reported(Reported::Message(ours.fd(), 1, b"waits".into()))]
    );
}

#[test]
fn batch_ends_after_a_message_with_descriptors() {
    own_process!(30);
    let (mut ours, peer) = listed();
    let fd = ours.fd();
    allow(fd);
    let files: Vec<_> = (0..4).map(numbered_file).collect();
    // Two messages without a descriptor, then one with a descriptor, and so on.
    for (number, file) in files.iter().enumerate() {
        send_with(&peer, &frame(1, b"without").repeat(2), &[]);
        send_with(&peer, &frame(2, &[number as u8]), &[file.as_raw_fd()]);
    }
    send_with(&peer, &frame(1, b"without"), &[]);
    let mut array = events(50);
    for number in 0..files.len() {
        let reported = ours.program.many(&mut array, -1);
        let without = || Seen::Reported(Reported::Message(fd, 1, b"without".to_vec()));
        let with = Seen::Reported(Reported::Message(fd, 2, vec![number as u8]));
        assert_eq!(reported, [without(), without(), with]);
        assert_eq!(take_numbers(fd), [number]);
    }
    assert_eq!(ours.program.many(&mut array, -1).len(), 1);
    assert_eq!(take_numbers(fd), []);
}

#[test]
fn message_with_descriptors_is_the_last_of_its_batch() {
    own_process!(30);
    const WORDS: usize = 30;
    let mut server = Program::server();
    allow(server.srv.unwrap().fd);
    let mut others = [(); 3].map(|()| server.peer());
    let (peer, fd) = server.peer();
    let file = numbered_file(9);
    for (other, _) in &mut others {
        other.write_all(&frame(1, b"without").repeat(WORDS)).unwrap();
    }
    for _ in 0..5 {
        send_with(&peer, &frame(2, b"with one"), &[file.as_raw_fd()]);
    }
    let (mut array, mut with, mut without) = (events(50), 0, 0);
    while with < 5 || without < 3 * WORDS {
        let reported = server.many(&mut array, -1);
        let place = reported.iter().position(|seen| *seen == Reported::Message(fd, 2, b"with one".to_vec()));
        if let Some(place) = place {
            assert_eq!(place, reported.len() - 1);
            assert_eq!(take_numbers(fd), [9]);
            with += 1;
        }
        without += reported.len() - usize::from(place.is_some());
    }
    assert_eq!((with, without), (5, 3 * WORDS));
}

#[test]
fn many_clients_connect_send_and_leave_in_batches() {
    own_process!(30);
    const CLIENTS: usize = 300;
    let mut server = Program::server();
    let path = server.path.clone();
    let clients = std::thread::spawn(move || {
        for number in 0..CLIENTS {
            let mut client = UnixStream::connect(&path).unwrap();
            for n in 0..number % 4 {
                client.write_all(&frame(1, format!("{number}: {n}").as_bytes())).unwrap();
            }
        }
    });
    let mut open: HashMap<i32, Vec<String>> = HashMap::new();
    let (mut ended, mut connected) = (Vec::new(), 0);
    let mut array = events(32);
    while ended.len() < CLIENTS {
        for seen in server.many(&mut array, -1) {
            match seen {
                Seen::Reported(Reported::Connection(fd)) => {
                    assert!(open.insert(fd, Vec::new()).is_none(), "connected twice");
                    connected += 1;
                }
                Seen::Reported(Reported::Message(fd, 1, payload)) => {
                    open.get_mut(&fd).unwrap().push(String::from_utf8(payload).unwrap());
                }
                Seen::Reported(Reported::Disconnection(fd)) => ended.push(open.remove(&fd).unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }
    clients.join().unwrap();
    assert_eq!((connected, open.len()), (CLIENTS, 0));
    // The messages of each peer have arrived in order; a peer that has sent nothing has no number.
    let mut senders: Vec<_> = ended.into_iter().filter(|texts| !texts.is_empty()).collect();
    senders.sort_by_key(|texts| texts[0].split(':').next().unwrap().parse::<usize>().unwrap());
    let expected: Vec<Vec<_>> = (0..CLIENTS)
        .map(|number| (0..number % 4).map(|n| format!("{number}: {n}")).collect())
        .filter(|texts: &Vec<_>| !texts.is_empty())
        .collect();
    assert_eq!(senders, expected);
    assert_eq!(server.many(&mut array, 0), NOTHING);
    assert_eq!(server.list.size, 0);
}

#[test]
fn failure_after_the_first_event_is_left_for_the_next_call() {
    own_process!(30);
    // Two events, and then there is nothing to wait for.
    let mut program = Program::client();
    let (ours, mut peer) = pair();
    let mut info = Box::new(info(std::os::fd::IntoRawFd::into_raw_fd(ours)));
    assert_eq!(unsafe { ipc_add(&mut program.list, &mut *info) }, IPC_ERROR_NONE);
    peer.write_all(&frame(1, b"the last")).unwrap();
    drop(peer);
    let mut array = events(10);
    let mut reported = Vec::new();
    while reported.len() < 2 {
        reported.extend(program.many(&mut array, -1));
    }
    let expected = [Reported::Message(info.fd, 1, b"the last".to_vec()), Reported::Disconnection(info.fd)];
    assert_eq!(reported, expected.map(Seen::Reported));
    let mut count = array.len();
    let code = unsafe { ipc_wait_events(&mut program.list, none(), array.as_mut_ptr(), &mut count, -1) };
    assert_eq!((outcome(code), count), (Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)), 0));
}
