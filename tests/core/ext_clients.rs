//! ipc_set_data and ipc_data: a pointer of the program for each client; ipc_end: closing a client's
//! connection; ipc_why: the reason of a connection's end; ipc_status.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::*;

child::roles! { forks_with_data, ends_in_a_handler }

thread_local! {
    /// The pointers that `destroy` was called with, in this thread. `destroyed` takes them.
    static DESTROYED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

extern "C" fn destroy(data: *mut c_void) {
    DESTROYED.with_borrow_mut(|all| all.push(data.addr()));
}

/// The pointers that were destroyed since the last call of this function.
fn destroyed() -> Vec<usize> {
    DESTROYED.take()
}

fn pointer(number: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(number)
}

fn set(p: *const ipc_connection_info, number: usize) -> Result<(), Failure> {
    set_errno(4711);
    let result = outcome(unsafe { ipc_set_data(p, pointer(number), Some(destroy)) });
    assert!(result.is_err() || errno() == 4711);
    result
}

fn data(p: *const ipc_connection_info) -> usize {
    set_errno(4711);
    let data = unsafe { ipc_data(p) }.addr();
    assert_eq!(errno(), 4711);
    data
}

fn end(program: &mut Program, fd: i32, linger: c_int) -> Result<(), Failure> {
    let client = program.info(fd);
    outcome(unsafe { ipc_end(&mut program.list, client, linger) })
}

fn why(p: *const ipc_connection_info) -> Result<ipc_reason, Failure> {
    let mut reason = ipc_reason::IPC_REASON_NONE;
    outcome(unsafe { ipc_why(p, &mut reason) }).map(|()| reason)
}

fn status(program: &Program) -> ipc_status {
    let mut status = unsafe { std::mem::zeroed() };
    assert_eq!(outcome(unsafe { ipc_status(&program.list, &mut status) }), Ok(()));
    status
}

/// Whether any file has the number, the library's placeholder included.
fn is_taken(fd: i32) -> bool {
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Waits for the next event, and leaves its origin to the test.
fn next_origin(program: &mut Program) -> (ipc_event_type, *mut ipc_connection_info) {
    let srv = program.srv();
    assert_eq!(outcome(unsafe { ipc_wait_event(&mut program.list, srv, &mut program.event) }), Ok(()));
    (unsafe { program.event.r#type.assume_init() }, program.event.origin)
}

/// Frees the structure of a client that has ended.
fn free_client(program: &mut Program, origin: *mut ipc_connection_info) {
    program.clients.retain(|client| *client != origin);
    unsafe { libc::free(origin.cast()) };
}

#[test]
fn data_is_kept_until_the_call_after_disconnection() {
    own_process!(30);
    let mut program = Program::server();
    let (mut peer, fd) = program.peer();
    let client = program.info(fd);
    assert_eq!(data(client), 0);
    set(client, 7).unwrap();
    assert_eq!((data(client), data(&info(fd))), (7, 7), "a copy of the structure is the same connection");
    for text in [b"one", b"two"] {
        peer.write_all(&frame(1, text)).unwrap();
        assert_eq!(program.next(), Reported::Message(fd, 1, text.to_vec()));
        assert_eq!(data(client), 7);
    }
    drop(peer);
    let (kind, origin) = next_origin(&mut program);
    assert_eq!((kind, origin), (ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION, client));
    assert_eq!((data(origin), data(&info(fd)), destroyed()), (7, 7, vec![]), "the end is being reported");
    free_client(&mut program, origin);
    assert_eq!(program.poll(0), Seen::Nothing);
    assert_eq!(destroyed(), [7]);
    assert_eq!(data(&info(fd)), 0);
    drop(program);
    assert_eq!(destroyed(), []);
}

#[test]
fn data_of_a_freed_list_and_of_closed_connections_is_destroyed() {
    own_process!(30);
    let mut program = Program::server();
    let (_peer, fd) = program.peer();
    set(program.info(fd), 1).unwrap();
    let (peer, ended) = program.peer();
    set(program.info(ended), 2).unwrap();
    drop(peer);
    let (_, origin) = next_origin(&mut program);
    free_client(&mut program, origin);
    unsafe { ipc_connections_free(&mut program.list) };
    assert_eq!(destroyed(), [2], "the other client is connected, and in no list now");
    assert_eq!(data(program.info(fd)), 1);
    unsafe { ipc_close(program.info(fd)) };
    assert_eq!(destroyed(), [1]);
    // A client, and a service.
    let (ours, _theirs) = patient_pair();
    let mut mine = info(ours.into_raw_fd());
    set(&mine, 3).unwrap();
    set(program.srv(), 4).unwrap();
    assert_eq!((data(&mine), data(program.srv())), (3, 4));
    assert_eq!(unsafe { ipc_close(&mut mine) }, IPC_ERROR_NONE);
    assert_eq!(destroyed(), [3]);
    drop(program);
    assert_eq!(destroyed(), [4]);
}

#[test]
fn data_that_is_replaced_is_destroyed_unless_it_is_the_same() {
    own_process!(30);
    let (ours, _peer) = pair();
    let mine = info(ours.as_raw_fd());
    set(&mine, 1).unwrap();
    set(&mine, 2).unwrap();
    assert_eq!(destroyed(), [1]);
    set(&mine, 2).unwrap();
    assert_eq!((destroyed(), data(&mine)), (vec![], 2));
    limits(mine.fd, 100, 0).unwrap();
    assert_eq!(data(&mine), 2, "limits do not change the pointer");
    assert_eq!(outcome(unsafe { ipc_set_data(&mine, none(), None) }), Ok(()));
    assert_eq!((destroyed(), data(&mine)), (vec![2], 0));
    assert_eq!(outcome(unsafe { ipc_set_data(&mine, pointer(9), None) }), Ok(()));
    set(&mine, 5).unwrap();
    assert_eq!(destroyed(), [], "the previous pointer had no function to call");
    assert_eq!(outcome(unsafe { ipc_set_data(&mine, none(), Some(destroy)) }), Ok(()));
    assert_eq!(destroyed(), [5]);
}

#[test]
fn wrong_arguments_destroy_nothing() {
    own_process!(30);
    let (file, _other) = pipe();
    let closed = info(900_000);
    assert_eq!(set(none(), 1), Err((IPC_ERROR_CONNECTION_GEN__NO_CINFO, libc::EINVAL)));
    assert_eq!(set(&closed, 1), Err((IPC_ERROR_USOCK_RECV, libc::EBADF)));
    assert_eq!(set(&info(-1), 1), Err((IPC_ERROR_USOCK_RECV, libc::EBADF)));
    assert_eq!(set(&info(file.as_raw_fd()), 1), Err((IPC_ERROR_USOCK_RECV, libc::ENOTSOCK)));
    assert_eq!(destroyed(), []);
    assert_eq!((data(none()), data(&closed), data(&info(-1))), (0, 0, 0));
    let mut program = Program::server();
    let (_peer, fd) = program.peer();
    let client = program.info(fd);
    let missing = Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT));
    let mut other = EMPTY_LIST;
    let (list, nothing) = (&raw mut program.list, &raw mut other);
    let ended = |list, client| outcome(unsafe { ipc_end(list, client, 0) });
    assert_eq!(ended(none(), client), Err((IPC_ERROR_DEL__NO_CLIENTS_PARAM, libc::EINVAL)));
    assert_eq!(ended(list, none()), Err((IPC_ERROR_DEL__NO_CLIENT_PARAM, libc::EINVAL)));
    assert_eq!(ended(nothing, client), missing);
    assert_eq!(ended(list, &mut info(900_000)), missing);
    assert_eq!(ended(list, program.srv()), missing);
    let code = unsafe { ipc_add_fd(&mut program.list, file.as_raw_fd()) };
    assert_eq!(outcome(code), Ok(()));
    assert_eq!(ended(list, &mut info(file.as_raw_fd())), missing);
    program.del_fd(&file).unwrap();
    assert_eq!(why(none()), Err((IPC_ERROR_CONNECTION_GEN__NO_CINFO, libc::EINVAL)));
    let nowhere = outcome(unsafe { ipc_why(client, none()) });
    assert_eq!(nowhere, Err((IPC_ERROR_CONNECTION_GEN__NO_CINFO, libc::EINVAL)));
    assert_eq!(why(&closed), Err((IPC_ERROR_USOCK_RECV, libc::ENOENT)));
    assert_eq!(why(client), Ok(ipc_reason::IPC_REASON_NONE));
    let code = outcome(unsafe { ipc_status(none(), &mut std::mem::zeroed()) });
    assert_eq!(code, Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)));
    let code = outcome(unsafe { ipc_status(&program.list, none()) });
    assert_eq!(code, Err((IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM, libc::EINVAL)));
}

/// The program closes a number itself, and another connection gets the number at once: the pointer of the
/// first connection is not the second one's.
#[test]
fn data_of_a_closed_connection_is_not_inherited() {
    own_process!(30);
    let mut program = Program::server();
    for close_it in [|fd| _ = usock_close(fd), |fd| _ = unsafe { libc::close(fd) }] {
        let (_peer, fd) = program.peer();
        let client = program.info(fd);
        set(client, 6).unwrap();
        close_it(fd);
        let (other, _peer) = pair();
        assert_eq!(other.as_raw_fd(), fd, "the lowest number that is free");
        assert_eq!(data(&info(fd)), 0);
        let (kind, origin) = next_origin(&mut program);
        assert_eq!((kind, origin), (ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION, client));
        set(&info(fd), 8).unwrap();
        assert!(matches!(data(origin), 0 | 6), "not the other connection's pointer");
        assert_eq!(why(origin), Ok(ipc_reason::IPC_REASON_CLOSED));
        free_client(&mut program, origin);
        assert_eq!(program.poll(0), Seen::Nothing);
        assert_eq!(destroyed(), [6]);
        drop(other);
        assert_eq!(data(&info(fd)), 0);
        assert_eq!(destroyed(), [8], "noticed");
    }
}

thread_local! {
    static PROGRAM: RefCell<*mut Program> = const { RefCell::new(std::ptr::null_mut()) };
}

/// A `destroy` function that calls the library: it ends the next client.
extern "C" fn end_the_next(data: *mut c_void) {
    destroy(data);
    let program = unsafe { &mut *PROGRAM.with_borrow(|program| *program) };
    assert_eq!(self::data(program.srv()), 0);
    if let Some(client) = program.clients.first().copied() {
        assert_eq!(outcome(unsafe { ipc_end(&mut program.list, client, 0) }), Ok(()));
    }
}

extern "C" fn note_cancel_state(data: *mut c_void) {
    unsafe extern "C" {
        fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
    }
    unsafe {
        let state = data.cast::<c_int>();
        pthread_setcancelstate(0, state);
        pthread_setcancelstate(*state, none());
    }
}

/// Otherwise a destroy function that is a cancellation point ends a call that holds a turn to write.
#[test]
fn destroy_runs_with_cancellation_disabled() {
    own_process!(30);
    const DISABLED: c_int = 1;
    let mut program = Program::server();
    let (_peer, fd) = program.peer();
    for waits in [false, true] {
        let mut state: c_int = -1;
        let data = (&raw mut state).cast();
        assert_eq!(outcome(unsafe { ipc_set_data(program.info(fd), data, Some(note_cancel_state)) }), Ok(()));
        if waits {
            let (peer, other) = program.peer();
            let data = (&raw mut state).cast();
            let code = unsafe { ipc_set_data(program.info(other), data, Some(note_cancel_state)) };
            assert_eq!(outcome(code), Ok(()));
            drop(peer);
            assert!(matches!(program.next(), Reported::Disconnection(_)));
            assert_eq!(program.poll(0), Seen::Nothing);
        }
        set(program.info(fd), 1).unwrap();
        assert_eq!(state, DISABLED);
    }
}

#[test]
fn destroy_may_use_the_library_and_does_not_nest() {
    own_process!(60);
    let mut program = Program::server();
    PROGRAM.set(&raw mut *program);
    let peers: Vec<_> = (0..500).map(|_| program.peer()).collect();
    for (_, fd) in &peers {
        let client = program.info(*fd);
        let code = unsafe { ipc_set_data(client, pointer(*fd as usize), Some(end_the_next)) };
        assert_eq!(outcome(code), Ok(()));
    }
    end(&mut program, peers[0].1, 0).unwrap();
    for _ in 0..500 {
        assert!(matches!(program.next(), Reported::Disconnection(_)));
    }
    assert_eq!(program.poll(0), Seen::Nothing);
    assert_eq!(destroyed().len(), 500);
    // The program closes all descriptors itself: each pointer is destroyed when a call notices it.
    let peers: Vec<_> = (0..500).map(|_| program.peer()).collect();
    for (_, fd) in &peers {
        set(program.info(*fd), 1).unwrap();
        unsafe { libc::close(*fd) };
    }
    force_list_scan(&mut program.list);
    for _ in 0..500 {
        assert!(matches!(program.next(), Reported::Disconnection(_)));
    }
    assert_eq!(program.poll(0), Seen::Nothing);
    assert_eq!(destroyed().len(), 500);
}

#[test]
fn ended_client_reports_only_its_disconnection() {
    own_process!(60);
    let mut program = Program::server();
    for linger in [0, -1, 50] {
        let (mut peer, fd) = program.peer();
        let (mut other, of_other) = program.peer();
        let client = program.info(fd);
        set(client, 5).unwrap();
        peer.write_all(&frame(1, b"first").repeat(5)).unwrap();
        assert_eq!(program.next(), Reported::Message(fd, 1, b"first".to_vec()));
        other.write_all(&frame(1, b"other")).unwrap();
        end(&mut program, fd, linger).unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0, "the peer sees the end at once");
        assert_eq!(end(&mut program, fd, linger), Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT)));
        assert_eq!(write(fd, 1, b"late"), IPC_ERROR_USOCK_SEND);
        assert_eq!(errno(), libc::EBADF, "no other file has the number");
        assert!(is_taken(fd));
        assert_eq!(entries(&program.list).len(), 2, "the structure stays in the list");
        let (kind, origin) = next_origin(&mut program);
        assert_eq!((kind, origin), (ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION, client));
        assert_eq!((data(origin), why(origin)), (5, Ok(ipc_reason::IPC_REASON_CLOSED)));
        free_client(&mut program, origin);
        assert_eq!(program.next(), Reported::Message(of_other, 1, b"other".to_vec()));
        assert_eq!(destroyed(), [5]);
        assert_eq!(program.poll(0), Seen::Nothing);
        assert!(!is_taken(fd));
        end(&mut program, of_other, linger).unwrap();
        assert_eq!(program.next(), Reported::Disconnection(of_other));
    }
}

#[test]
fn client_is_ended_after_internal_fds_are_lost() {
    own_process!(30);
    let mut program = Program::server();
    let srv = program.srv.unwrap().fd;
    for linger in [0, -1] {
        let (mut peer, fd) = program.peer();
        let (_other, of_other) = program.peer();
        assert_eq!(program.poll(0), Seen::Nothing);
        set(program.info(fd), 7).unwrap();
        let known = [0, 1, 2, srv, fd, of_other, peer.as_raw_fd(), _other.as_raw_fd()];
        (3..200).filter(|fd| !known.contains(fd)).for_each(|fd| _ = unsafe { libc::close(fd) });
        end(&mut program, fd, linger).unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        let (kind, origin) = next_origin(&mut program);
        assert_eq!((kind, data(origin)), (ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION, 7));
        free_client(&mut program, origin);
        end(&mut program, of_other, linger).unwrap();
        assert_eq!(program.next(), Reported::Disconnection(of_other));
        assert_eq!(destroyed(), [7]);
    }
}

#[test]
fn event_array_stays_valid_when_its_client_is_ended() {
    own_process!(30);
    let mut program = Program::server();
    let peers: Vec<_> = (0..8).map(|_| program.peer()).collect();
    for (peer, _) in &peers {
        (&mut &*peer).write_all(&frame(1, b"again").repeat(8)).unwrap();
    }
    let mut array = events(64);
    let seen = program.many(&mut array, 10_000);
    assert!(seen.len() > 8, "several events of a client");
    for event in array.iter().take(seen.len()) {
        // Each client is ended at the first of its events; the structures of the others are still there.
        unsafe { ipc_end(&mut program.list, event.origin, 0) };
        assert!(peers.iter().any(|(_, fd)| *fd == unsafe { (*event.origin).fd }));
    }
    let mut ends = 0;
    while ends < 8 {
        for seen in program.many(&mut array, 10_000) {
            assert!(matches!(seen, Seen::Reported(Reported::Disconnection(_))), "{seen:?}");
            ends += 1;
        }
    }
    assert_eq!(program.many(&mut array, 0), NOTHING);
}

#[test]
fn client_is_ended_by_a_thread_while_the_list_waits() {
    own_process!(60);
    let mut program = Program::server();
    for round in 0..50 {
        let (_peer, fd) = program.peer();
        // With up to seven other members: for more than five entries the library waits in another way.
        let others: Vec<_> = (0..round % 8).map(|_| program.peer()).collect();
        let list = (&raw mut program.list).expose_provenance();
        let ender = std::thread::spawn(move || {
            let list = std::ptr::with_exposed_provenance_mut(list);
            outcome(unsafe { ipc_end(list, &mut info(fd), 0) })
        });
        assert_eq!(program.next(), Reported::Disconnection(fd));
        assert_eq!(ender.join().unwrap(), Ok(()));
        for (_, fd) in &others {
            end(&mut program, *fd, 0).unwrap();
            assert_eq!(program.next(), Reported::Disconnection(*fd));
        }
        assert_eq!(program.poll(0), Seen::Nothing);
    }
}

/// Ends a client with bytes queued. Returns how many bytes its peer receives, and how many were accepted.
fn queued_then_ended(linger: c_int) -> (usize, usize) {
    let mut program = Program::server();
    let (peer, fd) = program.peer();
    let all: Vec<u8> = (0..40).flat_map(|number| frame(1, &pattern(100_000, number))).collect();
    for number in 0..40 {
        assert_eq!(write(fd, 1, &pattern(100_000, number)), IPC_ERROR_NONE);
    }
    assert!(pending(fd) > 0);
    end(&mut program, fd, linger).unwrap();
    assert_eq!(program.next(), Reported::Disconnection(fd));
    let reader = read_to_the_end(peer);
    // Bytes in the background are sent during calls.
    until("the peer sees the end", || {
        let _ = program.try_poll(10);
        reader.is_finished()
    });
    let got = reader.join().unwrap();
    assert!(all.starts_with(&got));
    (got.len(), all.len())
}

#[test]
fn queued_bytes_of_an_ended_client_are_sent() {
    own_process!(60);
    let (got, all) = queued_then_ended(-1);
    assert_eq!(got, all);
    let (got, all) = queued_then_ended(60_000);
    assert_eq!(got, all);
    let (got, all) = queued_then_ended(0);
    assert!(0 < got && got < all, "only what the kernel had: {got}");
}

#[test]
fn queued_bytes_of_ended_client_dropped_at_timeout() {
    own_process!(60);
    let mut program = Program::server();
    let (mut peer, fd) = program.peer();
    for number in 0..40 {
        assert_eq!(write(fd, 1, &pattern(100_000, number)), IPC_ERROR_NONE);
    }
    end(&mut program, fd, 200).unwrap();
    assert_eq!(program.next(), Reported::Disconnection(fd));
    let before = open_descriptors();
    // The peer reads slowly: without the timeout it would receive everything.
    let mut got = 0;
    until("its descriptor is closed", || {
        got += peer.read(&mut [0; 20_000]).unwrap();
        let _ = program.try_poll(5);
        open_descriptors() < before
    });
    assert!(got < 40 * 100_005, "{got}");
}

#[test]
fn client_is_not_ended_without_memory_for_its_queued_bytes() {
    own_process!(60);
    let mut program = Program::server();
    // The list keeps the memory for an ended client.
    let (_peer, former) = program.peer();
    end(&mut program, former, 0).unwrap();
    assert_eq!(program.next(), Reported::Disconnection(former));
    let (mut peer, fd) = program.peer();
    let payload = pattern(3_000_000, 5);
    assert_eq!(write(fd, 1, &payload), IPC_ERROR_NONE);
    let client = program.info(fd);
    let list = &raw mut program.list;
    let result = without_memory(8, || (unsafe { ipc_end(list, client, -1) }, errno()));
    assert_eq!(result, (IPC_ERROR_NOT_ENOUGH_MEMORY, libc::ENOMEM));
    end(&mut program, fd, -1).unwrap();
    assert_eq!(program.next(), Reported::Disconnection(fd));
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    until("all bytes are sent", || {
        let _ = program.try_poll(5);
        reader.is_finished()
    });
    assert!(reader.join().unwrap() == frame(1, &payload));
}

#[test]
fn added_connection_is_ended_like_a_client() {
    own_process!(30);
    let (mut listed, mut peer) = listed();
    let fd = listed.fd();
    let (list, entry) = (&raw mut listed.program.list, &raw mut *listed.info);
    assert_eq!(outcome(unsafe { ipc_end(list, entry, -1) }), Ok(()));
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    assert_eq!(listed.program.poll(10_000), Reported::Disconnection(fd));
    assert!(entries(&listed.program.list).is_empty());
}

#[test]
fn unreported_client_is_not_lost() {
    own_process!(30);
    let mut program = Program::server();
    let peers: Vec<_> = (0..3).map(|_| UnixStream::connect(&program.path).unwrap()).collect();
    let fds: Vec<_> = peers.iter().map(|_| program.next_connection()).collect();
    // Each client is ended right after its CONNECTION.
    for fd in &fds {
        end(&mut program, *fd, 0).unwrap();
    }
    for _ in &fds {
        assert!(matches!(program.next(), Reported::Disconnection(_)));
    }
}

#[test]
fn reason_of_each_end_is_kept_until_the_next_call() {
    own_process!(30);
    let mut program = Program::server();
    let mut ends = |act: &dyn Fn(&mut Program, i32, UnixStream),
                    expected: &[(ipc_event_type, ipc_reason)]| {
        let (peer, fd) = program.peer();
        act(&mut program, fd, peer);
        for (kind, reason) in expected {
            let (seen, origin) = next_origin(&mut program);
            assert_eq!((seen, why(origin)), (*kind, Ok(*reason)));
            if seen == ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION {
                let copy = unsafe { *origin };
                free_client(&mut program, origin);
                assert_eq!(program.poll(0), Seen::Nothing);
                assert_eq!(why(&copy), Err((IPC_ERROR_USOCK_RECV, libc::ENOENT)));
            }
        }
    };
    use ipc_event_type::{IPC_EVENT_TYPE_DISCONNECTION as CLOSED, IPC_EVENT_TYPE_ERROR as ERROR};
    use ipc_reason::*;
    ends(&|_, _, peer| drop(peer), &[(CLOSED, IPC_REASON_ENDED)]);
    ends(
        &|program, fd, mut peer| {
            peer.write_all(&frame(1, b"whole")).unwrap();
            drop(peer);
            assert_eq!(program.next(), Reported::Message(fd, 1, b"whole".to_vec()));
        },
        &[(CLOSED, IPC_REASON_ENDED)],
    );
    for cut in [1, 4, 5, 9] {
        ends(
            &|_, _, mut peer| peer.write_all(&frame(1, b"hello")[..cut]).unwrap(),
            &[(CLOSED, IPC_REASON_CUT)],
        );
    }
    ends(
        &|program, fd, peer| {
            assert_eq!(write(fd, 1, b"unread"), IPC_ERROR_NONE);
            assert_eq!(program.poll(0), Seen::Nothing);
            drop(peer);
        },
        &[(ERROR, IPC_REASON_RESET), (CLOSED, IPC_REASON_RESET)],
    );
    ends(
        &|_, _, mut peer| {
            peer.write_all(&[&[1][..], &8_000_000_u32.to_ne_bytes()].concat()).unwrap();
        },
        &[(ERROR, IPC_REASON_TOO_LONG), (CLOSED, IPC_REASON_TOO_LONG)],
    );
    ends(&|_, fd, _| _ = usock_close(fd), &[(CLOSED, IPC_REASON_CLOSED)]);
    ends(&|program, fd, _| end(program, fd, 0).unwrap(), &[(CLOSED, IPC_REASON_CLOSED)]);
}

#[test]
fn status_counts_clients_bytes_and_messages() {
    own_process!(30);
    let mut program = Program::server();
    let before = status(&program);
    let (peer, fd) = program.peer();
    let (mut other, of_other) = program.peer();
    other.write_all(&frame(1, b"a").repeat(3)).unwrap();
    for _ in 0..3 {
        assert_eq!(program.next(), Reported::Message(of_other, 1, b"a".to_vec()));
    }
    let now = status(&program);
    assert_eq!((before.clients, now.clients, now.received, now.queued, now.accept_paused), (0, 2, 3, 0, 0));
    queue(fd, 1, b"12345").unwrap();
    queue(of_other, 1, b"12345").unwrap();
    assert_eq!(write(of_other, 1, b"6"), IPC_ERROR_NONE);
    let list = &raw mut program.list;
    let failed = &mut 0;
    assert_eq!(outcome(unsafe { ipc_broadcast(list, &message(1, b"all"), none(), failed) }), Ok(()));
    let now = status(&program);
    assert_eq!(now.sent - before.sent, 5);
    assert_eq!(now.queued, pending(fd) + pending(of_other));
    // Connections outside the list do not count for its status.
    let (mine, _theirs) = pair();
    queue(mine.as_raw_fd(), 1, b"elsewhere").unwrap();
    assert_eq!((status(&program).queued, status(&program).sent), (now.queued, now.sent + 1));
    flush(mine.as_raw_fd(), -1).unwrap();
    drop((peer, other));
    while program.list.size > 0 {
        program.next();
    }
    assert_eq!(status(&program).clients, 0);
}

/// A structure of the program that begins with an ipc_connection_info.
#[repr(C)]
struct Client {
    info: ipc_connection_info,
    name: [u8; 32],
}

#[test]
fn pointer_and_reason_are_there_until_the_end_is_reported() {
    own_process!(30);
    for linger in [0, -1] {
        let mut program = Program::server();
        let (_peer, fd) = program.peer();
        let client = program.info(fd);
        set(client, 7).unwrap();
        assert_eq!(end(&mut program, fd, linger), Ok(()));
        assert_eq!((data(client), why(client)), (7, Ok(ipc_reason::IPC_REASON_CLOSED)));
        assert_eq!(next_origin(&mut program), (ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION, client));
        assert_eq!((data(client), why(client)), (7, Ok(ipc_reason::IPC_REASON_CLOSED)));
        free_client(&mut program, client);
        drop(program);
        assert_eq!(destroyed(), [7]);
    }
}

/// Replaces a client's structure by a larger one, as a program may do at the CONNECTION.
fn replace_structure(program: &mut Program, origin: *mut ipc_connection_info) -> *mut ipc_connection_info {
    let index = entries(&program.list).iter().position(|entry| *entry == origin).unwrap();
    unsafe {
        let larger = libc::calloc(1, size_of::<Client>()).cast::<ipc_connection_info>();
        *larger = *origin;
        libc::free(origin.cast());
        *program.list.cinfos.add(index) = larger;
        larger
    }
}

#[test]
fn replaced_structure_gets_its_disconnection_however_it_ends() {
    own_process!(30);
    type End = fn(&mut Program, *mut ipc_connection_info);
    let ends: [End; 4] = [
        |program, client| assert_eq!(outcome(unsafe { ipc_end(&mut program.list, client, 0) }), Ok(())),
        |program, client| assert_eq!(outcome(unsafe { ipc_end(&mut program.list, client, -1) }), Ok(())),
        |_, client| assert_eq!(outcome(unsafe { ipc_close(client) }), Ok(())),
        |_, client| assert_eq!(unsafe { libc::close((*client).fd) }, 0),
    ];
    for end in ends {
        let mut program = Program::server();
        for _ in 0..3 {
            let _peer = UnixStream::connect(&program.path).unwrap();
            let (kind, origin) = next_origin(&mut program);
            assert_eq!(kind, ipc_event_type::IPC_EVENT_TYPE_CONNECTION);
            let client = replace_structure(&mut program, origin);
            end(&mut program, client);
            assert_eq!(next_origin(&mut program), (ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION, client));
            unsafe { libc::free(client.cast()) };
        }
        assert_eq!(program.poll(0), Seen::Nothing);
        assert!(entries(&program.list).is_empty());
    }
}

#[test]
fn program_structure_replaces_the_clients_at_connection() {
    own_process!(30);
    let mut program = Program::server();
    for count in [1, 2, 7, 40] {
        let mut peers = Vec::new();
        for number in 0..count {
            let peer = UnixStream::connect(&program.path).unwrap();
            let (kind, origin) = next_origin(&mut program);
            assert_eq!(kind, ipc_event_type::IPC_EVENT_TYPE_CONNECTION);
            set(origin, 100 + number).unwrap();
            let index = entries(&program.list).iter().position(|entry| *entry == origin).unwrap();
            // Half of the structures are new blocks; the others are made by realloc, which may not move the
            // block.
            let larger: *mut Client = unsafe {
                if number % 2 == 0 {
                    let larger = libc::calloc(1, size_of::<Client>()).cast::<Client>();
                    (*larger).info = *origin;
                    libc::free(origin.cast());
                    larger
                } else {
                    libc::realloc(origin.cast(), size_of::<Client>()).cast()
                }
            };
            unsafe {
                (*larger).name = [number as u8; 32];
                *program.list.cinfos.add(index) = &raw mut (*larger).info;
            }
            peers.push(peer);
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.write_all(&frame(1, b"hello")).unwrap();
            let (kind, origin) = next_origin(&mut program);
            let client = unsafe { &*origin.cast::<Client>() };
            assert_eq!((kind, client.name[31]), (ipc_event_type::IPC_EVENT_TYPE_MESSAGE, number as u8));
            assert_eq!(data(origin), 100 + number);
        }
        if count == 7 {
            let client = entries(&program.list)[3];
            assert_eq!(outcome(unsafe { ipc_end(&mut program.list, client, 0) }), Ok(()));
        }
        drop(peers);
        for _ in 0..count {
            let (kind, origin) = next_origin(&mut program);
            assert_eq!(kind, ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION);
            let client = unsafe { &*origin.cast::<Client>() };
            assert_eq!(data(origin), 100 + usize::from(client.name[31]));
            unsafe { libc::free(origin.cast()) };
        }
        assert_eq!(program.poll(0), Seen::Nothing);
        assert_eq!(destroyed().len(), count);
    }
}

fn forks_with_data() {
    let (ours, _peer) = pair();
    let mut mine = info(ours.as_raw_fd());
    set(&mine, 7).unwrap();
    let worker = fork();
    assert_eq!(data(&mine), 7);
    assert_eq!(unsafe { ipc_close(&mut mine) }, IPC_ERROR_NONE);
    std::mem::forget(ours);
    assert_eq!(destroyed(), [7], "in both processes");
    if worker == 0 {
        unsafe { libc::_exit(0) };
    }
    assert_eq!(wait_for(worker), 0);
}

#[test]
fn each_process_destroys_its_own_data_after_fork() {
    own_process!(60);
    assert!(Child::start(forks_with_data).end().success());
}

static mut LIST: ipc_connection_infos = EMPTY_LIST;

extern "C" fn end_all(_: c_int) {
    let list = &raw mut LIST;
    for index in 0..unsafe { (*list).size } {
        unsafe { ipc_end(list, *(*list).cinfos.add(index as usize), 0) };
    }
}

fn ends_in_a_handler() {
    let mut program = Program::server();
    let (_peer, fd) = program.peer();
    let (list, srv) = (&raw mut LIST, program.srv());
    unsafe {
        LIST = program.list;
        // The library knows a list by its address: a copy is another list, which takes over the connection.
        let mut event = EMPTY_EVENT;
        assert_eq!(ipc_wait_event_timeout(list, srv, &mut event, 0), IPC_ERROR_NONE);
        libc::signal(libc::SIGALRM, end_all as *const () as libc::sighandler_t);
        libc::alarm(1);
        assert_eq!(
            outcome(ipc_wait_event(list, srv, &mut event)),
            Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EINTR))
        );
        assert_eq!(outcome(ipc_wait_event(list, srv, &mut event)), Ok(()));
        assert_eq!(event.r#type.assume_init(), ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION);
        assert_eq!((*event.origin).fd, fd);
        program.list = LIST;
        free_client(&mut program, event.origin);
    }
}

#[test]
fn signal_handler_ends_clients_while_the_program_waits() {
    own_process!(60);
    assert!(Child::start(ends_in_a_handler).end().success());
}
