//! The event descriptor (ipc_event_fd) when the library's epoll set is made anew, when the descriptor is in
//! another epoll set, after fork(2), and when the list is freed.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::*;

child::roles! { forks_a_child_with_its_own_event_fd, closes_a_connection_that_a_child_keeps }

/// The program closes a connection with close(2) while a copy of the descriptor is open: the registration in
/// the epoll set cannot be removed by a number, and the library makes a new set.
#[test]
fn event_fd_is_unchanged_when_the_set_is_rebuilt() {
    own_process!(30);
    let mut server = Program::server();
    let fd = server.event_fd();
    for _ in 0..3 {
        let (mut peer, peer_fd) = server.peer();
        let (mut other, other_fd) = server.peer();
        assert_eq!(drain(&mut server, fd), NOTHING);
        let kept = unsafe { OwnedFd::from_raw_fd(libc::fcntl(peer_fd, libc::F_DUPFD_CLOEXEC, 500)) };
        close(peer_fd);
        force_list_scan(&mut server.list);
        peer.write_all(&frame(1, b"unheard")).unwrap();
        assert!(becomes_readable(fd, 10_000));
        assert_eq!(drain(&mut server, fd), [Seen::Reported(Reported::Disconnection(peer_fd))]);
        assert_idle(&mut server, fd);
        assert_eq!(server.event_fd(), fd);
        other.write_all(&frame(1, b"received")).unwrap();
        assert!(becomes_readable(fd, 10_000), "the other connection is still served");
        let reported = [Seen::Reported(Reported::Message(other_fd, 1, b"received".to_vec()))];
        assert_eq!(drain(&mut server, fd), reported);
        drop((kept, peer, other));
        assert!(becomes_readable(fd, 10_000));
        assert_eq!(drain(&mut server, fd), [Seen::Reported(Reported::Disconnection(other_fd))]);
    }
}

#[test]
fn event_fd_works_inside_another_epoll_set() {
    own_process!(30);
    let mut server = Program::server();
    let fd = server.event_fd();
    for flags in [0, libc::EPOLLET] {
        let set = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | flags) as u32, u64: 7 };
        let added = unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
        assert_eq!(added, 0);
        let reported = || {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            unsafe { libc::epoll_wait(set.as_raw_fd(), &mut event, 1, 10_000) == 1 && { event.u64 } == 7 }
        };
        let mut peer = UnixStream::connect(&server.path).unwrap();
        assert!(reported());
        let [Seen::Reported(Reported::Connection(peer_fd))] = drain(&mut server, fd)[..] else {
            panic!("no connection")
        };
        for n in 0..50 {
            peer.write_all(&frame(1, &[n]).repeat(3)).unwrap();
            assert!(reported());
            let word = || Seen::Reported(Reported::Message(peer_fd, 1, vec![n]));
            assert_eq!(drain(&mut server, fd), [word(), word(), word()]);
        }
        drop(peer);
        assert!(reported());
        assert_eq!(drain(&mut server, fd), [Seen::Reported(Reported::Disconnection(peer_fd))]);
    }
}

/// Answers so many messages, each time after the event descriptor became readable.
fn echo_by(program: &mut Program, fd: RawFd, words: usize) {
    let mut reported = 0;
    while reported < words {
        assert!(becomes_readable(fd, 20_000), "{reported} of {words}");
        for seen in program.all() {
            if let Seen::Reported(Reported::Message(from, kind, payload)) = seen {
                assert_eq!(write(from, kind, &payload), IPC_ERROR_NONE);
                reported += 1;
            }
        }
    }
}

fn forks_a_child_with_its_own_event_fd() {
    let mut program = child::server();
    let fd = program.event_fd();
    child::send_line(program.path.to_str().unwrap());
    program.next_connection();
    let worker = fork();
    unsafe { libc::alarm(20) };
    if worker == 0 {
        // Parent and child have separate event descriptors: events of one do not make the other's readable.
        let mut own = Program::client();
        let (ours, mut peer) = pair();
        let mut info = info(ours.as_raw_fd());
        assert_eq!(unsafe { ipc_add(&mut own.list, &mut info) }, IPC_ERROR_NONE);
        let own_fd = own.event_fd();
        peer.write_all(&frame(1, b"mine")).unwrap();
        assert!(becomes_readable(own_fd, 10_000));
        assert_eq!(own.poll(0), Reported::Message(info.fd, 1, b"mine".to_vec()));
        // The list that was inherited from the parent.
        let inherited = program.event_fd();
        program.all();
        assert!(!is_readable(inherited));
        let (mut peer, ours) = pair();
        let mut more = connection(&ours);
        assert_eq!(unsafe { ipc_add(&mut program.list, &mut more) }, IPC_ERROR_NONE);
        peer.write_all(&frame(1, b"in the child's")).unwrap();
        assert!(becomes_readable(inherited, 10_000));
        let reported = drain(&mut program, inherited);
        assert_eq!(reported, [Seen::Reported(Reported::Message(more.fd, 1, b"in the child's".to_vec()))]);
        child::send_line("the child is done");
        unsafe { libc::_exit(0) };
    }
    assert_eq!(wait_for(worker), 0);
    assert_eq!(program.event_fd(), fd);
    for _ in 0..2 {
        echo_by(&mut program, fd, 1);
        assert_idle(&mut program, fd);
        child::send_line("idle");
    }
}

#[test]
fn child_has_its_own_event_fd_after_fork() {
    own_process!(60);
    let mut program = Child::start(forks_a_child_with_its_own_event_fd);
    let mut client = UnixStream::connect(program.read_line()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20) * patience())).unwrap();
    assert_eq!(program.read_line(), "the child is done");
    for word in [&b"one"[..], b"two"] {
        client.write_all(&frame(1, word)).unwrap();
        assert_eq!(read_frame(&mut client).1, word);
        assert_eq!(program.read_line(), "idle");
    }
    assert!(program.end().success());
}

/// The forked child keeps all descriptors of its parent open, epoll sets too, and uses none of them.
fn closes_a_connection_that_a_child_keeps() {
    let mut program = child::server();
    let fd = program.event_fd();
    child::send_line(program.path.to_str().unwrap());
    let first = program.next_connection();
    let second = program.next_connection();
    assert_eq!(drain(&mut program, fd), NOTHING);
    let (wakes, sleeps) = pipe();
    let idle = fork();
    if idle == 0 {
        drop(sleeps);
        let mut byte = 0_u8;
        unsafe { libc::_exit(libc::read(wakes.as_raw_fd(), (&raw mut byte).cast(), 1) as i32) };
    }
    // The child still has the connection open.
    close(first);
    force_list_scan(&mut program.list);
    assert_eq!(drain(&mut program, fd), [Seen::Reported(Reported::Disconnection(first))]);
    child::send_line("closed");
    assert_eq!(child::read_line(), "sent");
    assert_eq!(drain(&mut program, fd), NOTHING);
    assert_idle(&mut program, fd);
    child::send_line("idle");
    assert!(becomes_readable(fd, 20_000));
    assert_eq!(drain(&mut program, fd), [Seen::Reported(Reported::Message(second, 1, b"here".to_vec()))]);
    drop(sleeps);
    assert_eq!(wait_for(idle), 0);
}

#[test]
fn event_fd_does_not_spin_if_child_keeps_a_closed_connection() {
    own_process!(60);
    let mut program = Child::start(closes_a_connection_that_a_child_keeps);
    let path = program.read_line();
    let mut clients = [(); 2].map(|()| UnixStream::connect(&path).unwrap());
    assert_eq!(program.read_line(), "closed");
    clients[0].write_all(&frame(1, b"unheard")).unwrap();
    program.send_line("sent");
    assert_eq!(program.read_line(), "idle");
    clients[1].write_all(&frame(1, b"here")).unwrap();
    assert!(program.end().success());
}

#[test]
fn event_fd_is_closed_with_the_list() {
    own_process!(30);
    let mut server = Program::server();
    drop(server.peer());
    assert!(matches!(server.next(), Reported::Disconnection(_)));
    drop(server);
    let before = open_descriptors();
    for _ in 0..5 {
        let mut server = Program::server();
        let fd = server.event_fd();
        let (_peer, _) = server.peer();
        assert!(is_open(fd));
        unsafe { ipc_connections_free(&mut server.list) };
        assert!(!is_open(fd));
        drop(server);
        assert_eq!(open_descriptors(), before + 1, "what is left is the peer's own end");
    }
    // An empty list without a service can have one, too.
    let mut program = Program::client();
    let fd = program.event_fd();
    assert!(!is_readable(fd));
    drop(program);
    assert!(!is_open(fd));
    assert_eq!(open_descriptors(), before);
}

#[test]
fn event_fd_is_close_on_exec() {
    own_process!(30);
    let mut program = Program::client();
    let fd = program.event_fd();
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, libc::FD_CLOEXEC);
}

#[test]
fn wrong_arguments_are_reported() {
    own_process!(30);
    let mut program = Program::client();
    let mut fd = -7;
    let list: *mut ipc_connection_infos = &mut program.list;
    unsafe {
        assert_eq!(
            outcome(ipc_event_fd(none(), none(), &mut fd)),
            Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL))
        );
        assert_eq!(
            outcome(ipc_event_fd(list, none(), none())),
            Err((IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM, libc::EINVAL))
        );
        let (no_service, _other) = pair();
        let (pipe, _writer) = pipe();
        for (srv, wrong) in
            [(-1, libc::EBADF), (no_service.as_raw_fd(), libc::EINVAL), (pipe.as_raw_fd(), libc::ENOTSOCK)]
        {
            let code = ipc_event_fd(list, &mut info(srv), &mut fd);
            assert_eq!(outcome(code), Err((IPC_ERROR_WAIT_EVENT__SELECT, wrong)));
        }
    }
    assert_eq!(fd, -7);
    set_errno(4711);
    program.event_fd();
    assert_eq!(errno(), 4711);
}

#[test]
fn event_fd_fails_without_descriptors_and_loop_goes_on() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    assert_eq!(ours.program.poll(0), Seen::Nothing);
    let lowest_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    for free in 0..2 {
        // ipc_event_fd needs two descriptors, and fewer are free.
        set_descriptor_limit(lowest_free as u64 + free);
        let mut fd = -7;
        let code = unsafe { ipc_event_fd(&mut ours.program.list, none(), &mut fd) };
        assert_eq!((outcome(code), fd), (Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EMFILE)), -7));
        peer.write_all(&frame(1, b"goes on")).unwrap();
        assert_eq!(ours.program.poll(-1), Reported::Message(ours.fd(), 1, b"goes on".to_vec()));
    }
    raise_descriptor_limit();
    let fd = ours.program.event_fd();
    peer.write_all(&frame(1, b"goes on")).unwrap();
    assert!(becomes_readable(fd, 10_000));
}

/// A client waits until a descriptor is free; the program closes one without the library.
#[test]
fn event_fd_reports_a_client_delayed_by_emfile() {
    own_process!(30);
    raise_descriptor_limit();
    let mut server = Program::server();
    let fd = server.event_fd();
    assert_eq!(drain(&mut server, fd), NOTHING);
    let client = at_high_number(UnixStream::connect(&server.path).unwrap());
    let spare = std::fs::File::open("/dev/null").unwrap();
    set_descriptor_limit(spare.as_raw_fd() as u64 + 1);
    assert!(becomes_readable(fd, 10_000));
    assert_eq!(server.all(), NOTHING, "no descriptor is free for the client");
    let (before, end) = (cpu_time(), Instant::now() + Duration::from_millis(500));
    while Instant::now() < end {
        if becomes_readable(fd, 100) {
            assert_eq!(server.all(), NOTHING);
        }
    }
    let spent = cpu_time() - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} of CPU time while the client waits");
    drop(spare);
    until("the client", || {
        becomes_readable(fd, 1000) && matches!(server.all()[..], [Seen::Reported(Reported::Connection(_))])
    });
    drop(client);
}
