//! Promise 22: daemons fork after ipc_server_init, servers fork workers, and each process continues with the
//! descriptors that it uses.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::child::{self, Child, fork, wait_for};
use crate::support::*;

child::roles! {
    becomes_a_daemon, forks_a_worker_that_closes_all, forks_with_queued_and_read_ahead_bytes, hands_a_connection_over,
    forks_a_worker_that_also_serves, forks_with_busy_threads,
}

/// Ends a forked child that hangs, with SIGALRM.
fn end_after(seconds: u32) {
    unsafe { libc::alarm(seconds) };
}

/// Connects; reading fails after 20 seconds.
fn patient(path: &str) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20) * patience())).unwrap();
    stream
}

fn ask(stream: &mut UnixStream, question: &[u8]) -> Vec<u8> {
    stream.write_all(&frame(1, question)).unwrap();
    read_frame(stream).1
}

/// Echoes each message until the message "end". Returns the number of events.
fn echo_until_the_end(program: &mut Program) -> usize {
    for events in 1.. {
        if let Reported::Message(fd, kind, payload) = program.next() {
            assert_eq!(write(fd, kind, &payload), IPC_ERROR_NONE);
            if payload == b"end" {
                return events;
            }
        }
    }
    unreachable!()
}

fn becomes_a_daemon() {
    let how = child::read_line();
    let mut program = child::server();
    child::send_line(program.path.to_str().unwrap());
    if fork() != 0 {
        match how.as_str() {
            "exit" => unsafe { libc::exit(0) },
            _ => unsafe { libc::_exit(0) },
        }
    }
    assert!(unsafe { libc::setsid() } > 0);
    end_after(30);
    assert_eq!(child::read_line(), "the parent has ended");
    echo_until_the_end(&mut program);
    assert_eq!(unsafe { ipc_server_close(program.srv()) }, IPC_ERROR_NONE);
    program.srv = None;
    child::send_line("served");
}

#[test]
fn promise_22_daemon_serves_after_parent_exit_and_removes_path() {
    own_process!(60);
    for how in ["_exit", "exit"] {
        let mut daemon = Child::start(becomes_a_daemon);
        daemon.send_line(how);
        let path = daemon.read_line();
        until("the end of the parent", || daemon.has_ended());
        assert!(PathBuf::from(&path).exists(), "the parent's end by {how} has removed the path");
        daemon.send_line("the parent has ended");
        let mut client = patient(&path);
        assert_eq!(ask(&mut client, b"one"), b"one");
        assert_eq!(ask(&mut patient(&path), b"two"), b"two");
        assert_eq!(ask(&mut client, b"end"), b"end");
        assert_eq!(daemon.read_line(), "served");
        assert!(!PathBuf::from(&path).exists());
    }
}

/// Closes with the library's functions everything that a worker has inherited.
fn close_all(program: &mut Program) {
    unsafe {
        assert_eq!(ipc_server_close(program.srv()), IPC_ERROR_NONE);
        for client in program.clients.drain(..) {
            assert_eq!(ipc_close(client), IPC_ERROR_NONE);
            libc::free(client.cast());
        }
        ipc_connections_free(&mut program.list);
    }
    program.srv = None;
}

fn forks_a_worker_that_closes_all() {
    let mut program = child::server();
    child::send_line(program.path.to_str().unwrap());
    for _ in 0..3 {
        program.next_connection();
    }
    for number in 0..3 {
        let worker = fork();
        if worker == 0 {
            end_after(20);
            if number == 1 {
                // This worker waits for a connection of its own first.
                let (mut one, two) = pair();
                one.write_all(&frame(1, b"mine")).unwrap();
                let mut own = Program::client();
                let mut info = ipc_connection_info { fd: two.into_raw_fd(), ..EMPTY_INFO };
                assert_eq!(unsafe { ipc_add(&mut own.list, &mut info) }, IPC_ERROR_NONE);
                assert_eq!(own.next(), Reported::Message(info.fd, 1, b"mine".to_vec()));
                assert_eq!(unsafe { ipc_close(&mut info) }, IPC_ERROR_NONE);
            }
            close_all(&mut program);
            unsafe { libc::exit(0) };
        }
        assert_eq!(wait_for(worker), 0);
    }
    child::send_line("forked");
    let events = echo_until_the_end(&mut program);
    child::send_line(events.to_string());
}

#[test]
fn promise_22_worker_that_closes_all_does_not_affect_parent() {
    own_process!(60);
    let mut child = Child::start(forks_a_worker_that_closes_all);
    let path = child.read_line();
    let mut clients = [(); 3].map(|()| patient(&path));
    assert_eq!(child.read_line(), "forked");
    for client in &mut clients {
        assert_eq!(ask(client, b"still there?"), b"still there?");
    }
    assert_eq!(ask(&mut patient(&path), b"end"), b"end");
    // Three messages, one connection, one message: nothing else was reported.
    assert_eq!(child.read_line(), "5");
    assert!(child.end().success());
}

const LARGE: usize = 4_000_000;

/// A server forks while a message is queued for a client that does not read, and while frames of this client
/// are read ahead.
fn forks_with_queued_and_read_ahead_bytes() {
    let mut program = child::server();
    child::send_line(program.path.to_str().unwrap());
    let fd = program.next_connection();
    assert_eq!(program.next(), Reported::Message(fd, 1, b"first".to_vec()));
    assert_eq!(write(fd, 1, &pattern(LARGE, 22)), IPC_ERROR_NONE);
    let worker = fork();
    if worker == 0 {
        end_after(20);
        // The child cannot know how much of the message its parent has sent.
        assert_eq!(write(fd, 9, b"out of turn"), IPC_ERROR_USOCK_SEND);
        assert_eq!(errno(), libc::EBUSY);
        assert_eq!(read(fd), Ok((2, b"ahead".to_vec())));
        close_all(&mut program);
        unsafe { libc::exit(0) };
    }
    assert_eq!(wait_for(worker), 0);
    child::send_line("forked");
    assert_eq!(program.next(), Reported::Message(fd, 2, b"ahead".to_vec()));
    assert_eq!(read(fd), Ok((3, b"ahead too".to_vec())));
    assert_eq!(program.next(), Reported::Message(fd, 4, b"got it".to_vec()));
    assert_eq!(write(fd, 5, b"last"), IPC_ERROR_NONE);
}

#[test]
fn promise_22_queue_is_sent_once_by_the_parent_after_fork() {
    own_process!(60);
    let mut child = Child::start(forks_with_queued_and_read_ahead_bytes);
    let mut peer = patient(&child.read_line());
    peer.write_all(&[frame(1, b"first"), frame(2, b"ahead"), frame(3, b"ahead too")].concat()).unwrap();
    assert_eq!(child.read_line(), "forked");
    assert!(read_frame(&mut peer) == (1, pattern(LARGE, 22)));
    peer.write_all(&frame(4, b"got it")).unwrap();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, frame(5, b"last"));
    assert!(child.end().success());
}

/// A server hands a connection over to a worker, with the frames that were read ahead.
fn hands_a_connection_over() {
    let mut program = child::server();
    child::send_line(program.path.to_str().unwrap());
    let fd = program.next_connection();
    assert_eq!(program.next(), Reported::Message(fd, 1, b"first".to_vec()));
    let worker = fork();
    if worker == 0 {
        end_after(20);
        let client = program.clients.pop().unwrap();
        let mut own = Program::client();
        close_all(&mut program);
        assert_eq!(unsafe { ipc_add(&mut own.list, client) }, IPC_ERROR_NONE);
        own.clients.push(client);
        for (kind, payload) in [(2, "ahead"), (3, "ahead too"), (4, "later")] {
            assert_eq!(own.next(), Reported::Message(fd, kind, payload.as_bytes().to_vec()));
            assert_eq!(write(fd, kind, payload.as_bytes()), IPC_ERROR_NONE);
        }
        assert_eq!(own.next(), Reported::Disconnection(fd));
        unsafe { libc::exit(0) };
    }
    let client = program.clients.pop().unwrap();
    unsafe {
        assert_eq!(ipc_del(&mut program.list, client), IPC_ERROR_NONE);
        assert_eq!(ipc_close(client), IPC_ERROR_NONE);
        libc::free(client.cast());
    }
    child::send_line("handed over");
    // The next client may get the number that is free in this process.
    echo_until_the_end(&mut program);
    assert_eq!(wait_for(worker), 0);
}

#[test]
fn promise_22_worker_continues_the_connection_of_its_parent() {
    own_process!(60);
    let mut child = Child::start(hands_a_connection_over);
    let path = child.read_line();
    let mut peer = patient(&path);
    peer.write_all(&[frame(1, b"first"), frame(2, b"ahead"), frame(3, b"ahead too")].concat()).unwrap();
    assert_eq!(child.read_line(), "handed over");
    assert_eq!(read_frame(&mut peer), (2, b"ahead".to_vec()));
    assert_eq!(read_frame(&mut peer), (3, b"ahead too".to_vec()));
    peer.write_all(&frame(4, b"later")).unwrap();
    assert_eq!(read_frame(&mut peer), (4, b"later".to_vec()));
    let mut other = patient(&path);
    assert_eq!(ask(&mut other, b"and me?"), b"and me?");
    drop(peer);
    assert_eq!(ask(&mut other, b"end"), b"end");
    assert!(child.end().success());
}

/// How many clients each of the two processes serves.
const CLIENTS: usize = 200;

/// A server and its worker wait for clients of the same service; each serves half of them. The first client,
/// which connected before the fork, belongs to the parent.
fn forks_a_worker_that_also_serves() {
    let mut program = child::server();
    child::send_line(program.path.to_str().unwrap());
    assert_eq!(child::read_line(), "connected");
    let first = program.next_connection();
    let worker = fork();
    end_after(30);
    if worker == 0 {
        let client = program.clients.pop().unwrap();
        unsafe {
            assert_eq!(ipc_del(&mut program.list, client), IPC_ERROR_NONE);
            assert_eq!(ipc_close(client), IPC_ERROR_NONE);
            libc::free(client.cast());
        }
    } else {
        child::send_line(worker.to_string());
    }
    let (mut served, mut service) = (0, None);
    loop {
        match program.next() {
            Reported::Message(fd, 1, question) if question == b"pid?" => {
                assert_eq!(write(fd, 1, &std::process::id().to_ne_bytes()), IPC_ERROR_NONE);
                served += 1;
            }
            Reported::Message(fd, 1, question) => {
                assert_eq!(fd, first, "the parent's client");
                assert_eq!(write(fd, 1, &question), IPC_ERROR_NONE);
                if question == b"end" {
                    break;
                }
            }
            Reported::Connection(_) | Reported::Disconnection(_) => {}
            other => panic!("{other:?}"),
        }
        if served == CLIENTS && worker == 0 {
            unsafe { libc::exit(0) };
        } else if served == CLIENTS {
            // From now on the parent waits only for its connected clients.
            service = service.or(program.srv.take());
        }
    }
    program.srv = service;
    assert_eq!(wait_for(worker), 0);
}

#[test]
fn promise_22_parent_and_worker_serve_side_by_side() {
    own_process!(60);
    let mut child = Child::start(forks_a_worker_that_also_serves);
    let path = child.read_line();
    let mut first = patient(&path);
    child.send_line("connected");
    let worker: u32 = child.read_line().parse().unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 * CLIENTS {
        let answer = ask(&mut patient(&path), b"pid?");
        answers.push(u32::from_ne_bytes(answer.try_into().unwrap()));
        // Whichever process has accepted the client, the parent does not block in accept.
        assert_eq!(ask(&mut first, b"mine"), b"mine");
    }
    assert_eq!(answers.iter().filter(|answer| **answer == worker).count(), CLIENTS, "{answers:?}");
    assert_eq!(ask(&mut first, b"end"), b"end");
    assert!(child.end().success());
}

/// Keeps the library busy in a thread: small messages, a full queue, events, and services that are opened and
/// closed.
fn call_repeatedly(number: usize, stop: &AtomicBool) {
    let (one, two) = pair();
    let (stuck, _peer) = pair();
    let (mut served, mut unserved) = (Program::client(), Program::client());
    let [mut ours, mut unread] = [&two, &stuck].map(connection);
    assert_eq!(unsafe { ipc_add(&mut served.list, &mut ours) }, IPC_ERROR_NONE);
    assert_eq!(unsafe { ipc_add(&mut unserved.list, &mut unread) }, IPC_ERROR_NONE);
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(write(one.as_raw_fd(), 1, b"busy"), IPC_ERROR_NONE);
        assert_eq!(served.next(), Reported::Message(ours.fd, 1, b"busy".to_vec()));
        assert_eq!(write(ours.fd, 1, b"busy"), IPC_ERROR_NONE);
        assert_eq!(read(one.as_raw_fd()), Ok((1, b"busy".to_vec())));
        // The write is refused when the queue is full.
        let _ = write(unread.fd, 1, &[0; 3000]);
        if number == 0 {
            drop(child::server());
        }
    }
    unsafe {
        ipc_del(&mut served.list, &mut ours);
        ipc_del(&mut unserved.list, &mut unread);
    }
}

/// Uses every table of the library in a child.
fn use_the_library() {
    let mut server = child::server();
    let client = child::connect(&server.path);
    let fd = server.next_connection();
    assert_eq!(write(client, 1, b"question"), IPC_ERROR_NONE);
    assert_eq!(server.next(), Reported::Message(fd, 1, b"question".to_vec()));
    assert_eq!(write(fd, 1, &[22; 400_000]), IPC_ERROR_NONE);
    assert!(read(client) == Ok((1, vec![22; 400_000])));
    assert_eq!(usock_close(client), IPC_ERROR_NONE);
    assert_eq!(server.next(), Reported::Disconnection(fd));
}

fn forks_with_busy_threads() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let stop = &stop;
            scope.spawn(move || call_repeatedly(number, stop));
        }
        let bad = (0..FORKS).find_map(|number| {
            let id = fork();
            if id == 0 {
                end_after(20);
                use_the_library();
                unsafe { libc::exit(0) };
            }
            Some((number, wait_for(id))).filter(|(_, status)| *status != 0)
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(bad, None, "the number of the fork, and the status of its child");
    });
    child::send_line("no child has hung");
}

const FORKS: usize = 200;

#[test]
fn promise_22_child_of_a_threaded_process_can_use_the_library() {
    own_process!(300);
    let rundir = tempfile::tempdir().unwrap();
    let mut command = child::command(forks_with_busy_threads);
    let mut child = Child::run(command.env("IPC_RUNDIR", rundir.path()));
    assert_eq!(child.read_line(), "no child has hung");
    assert!(child.end().success());
    assert_eq!(std::fs::read_dir(rundir.path()).unwrap().count(), 0);
}
