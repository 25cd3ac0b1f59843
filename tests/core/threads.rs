//! Promise 23: different threads may use different lists, and any connection may be written from any thread.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::*;

/// Moves a Program to another thread: one thread at a time uses it.
struct Moved<T>(T);

unsafe impl<T> Send for Moved<T> {}

impl<T> Moved<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

#[test]
fn promise_23_servers_and_clients_in_one_thread_each() {
    own_process!(60);
    const SERVERS: usize = 4;
    const CLIENTS: usize = 3;
    const QUESTIONS: usize = 300;
    let servers: Vec<_> = (0..SERVERS).map(|_| Program::server()).collect();
    let paths: Vec<_> = servers.iter().map(|server| server.path.clone()).collect();
    let mut threads = Vec::new();
    for (number, server) in servers.into_iter().enumerate() {
        let server = Moved(server);
        threads.push(std::thread::spawn(move || {
            let mut server = server.into_inner();
            let (mut reported, mut clients) = ([0; 3], 0);
            while reported[2] < CLIENTS {
                match server.next() {
                    Reported::Connection(_) => {
                        reported[0] += 1;
                        clients += 1;
                    }
                    Reported::Message(fd, kind, payload) => {
                        reported[1] += 1;
                        assert_eq!(usize::from(kind), number, "a message for another server");
                        assert_eq!(server.write(fd, kind, &payload), IPC_ERROR_NONE);
                    }
                    Reported::Disconnection(_) => {
                        reported[2] += 1;
                        clients -= 1;
                    }
                    other => panic!("{other:?}"),
                }
                assert_eq!(server.list.size, clients);
            }
            assert_eq!(reported, [CLIENTS, CLIENTS * QUESTIONS, CLIENTS]);
        }));
        for client in 0..CLIENTS {
            let stream = UnixStream::connect(&paths[number]).unwrap();
            threads.push(std::thread::spawn(move || {
                let mut program = Program::client();
                let mut info = ipc_connection_info { fd: stream.into_raw_fd(), ..EMPTY_INFO };
                assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
                for question in 0..QUESTIONS {
                    let payload = pattern(1 + question * 7, client);
                    assert_eq!(write(info.fd, number as u8, &payload), IPC_ERROR_NONE);
                    // Both ways to wait for the answer.
                    if question % 2 == 0 {
                        assert_eq!(program.next(), Reported::Message(info.fd, number as u8, payload));
                    } else {
                        assert_eq!(read(info.fd), Ok((number as u8, payload)));
                    }
                }
                assert_eq!(unsafe { ipc_del(&mut program.list, &mut info) }, IPC_ERROR_NONE);
                assert_eq!(unsafe { ipc_close(&mut info) }, IPC_ERROR_NONE);
            }));
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn promise_23_threads_make_and_free_lists_concurrently() {
    own_process!(60);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                for n in 0..100 {
                    let mut server = Program::server();
                    let (mut peer, fd) = server.peer();
                    // The unreported frames must not be reported in another thread.
                    peer.write_all(&frame(thread, &[n]).repeat(3)).unwrap();
                    assert_eq!(server.next(), Reported::Message(fd, thread, vec![n]));
                    if n % 2 == 0 {
                        drop(peer);
                        assert_eq!(server.next(), Reported::Message(fd, thread, vec![n]));
                        assert_eq!(server.next(), Reported::Message(fd, thread, vec![n]));
                        assert_eq!(server.next(), Reported::Disconnection(fd));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn promise_23_waiting_thread_sends_the_queue_of_another_thread() {
    own_process!(60);
    const SIZE: usize = 4_000_000;
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    peer.set_read_timeout(Some(Duration::from_secs(20) * patience())).unwrap();
    let server = Moved(server);
    let waiting = std::thread::spawn(move || {
        let mut server = server.into_inner();
        assert_eq!(server.next(), Reported::Message(fd, 2, b"all of it".to_vec()));
    });
    // From here on only the waiting thread and the writer call the library, and the writer ends.
    let writer = std::thread::spawn(move || write(fd, 1, &pattern(SIZE, 23)));
    assert_eq!(writer.join().unwrap(), IPC_ERROR_NONE);
    assert!(read_frame(&mut peer) == (1, pattern(SIZE, 23)));
    peer.write_all(&frame(2, b"all of it")).unwrap();
    waiting.join().unwrap();
}

#[test]
fn promise_23_any_connection_may_be_written_from_any_thread() {
    own_process!(60);
    const THREADS: usize = 4;
    const EACH: usize = 200;
    let mut server = Program::server();
    let peers: Vec<_> = (0..3).map(|_| server.peer()).collect();
    let fds: Vec<_> = peers.iter().map(|(_, fd)| *fd).collect();
    let readers: Vec<_> = peers
        .into_iter()
        .map(|(mut peer, _)| {
            std::thread::spawn(move || {
                let mut next = [0_u32; THREADS];
                for _ in 0..THREADS * EACH {
                    let (thread, payload) = read_frame(&mut peer);
                    let number = u32::from_ne_bytes(payload[..4].try_into().unwrap());
                    assert_eq!(number, next[usize::from(thread)], "each thread's messages are in order");
                    assert!(payload[4..].iter().all(|byte| *byte == thread));
                    next[usize::from(thread)] += 1;
                }
                peer.write_all(&frame(0, b"all")).unwrap();
                let mut rest = Vec::new();
                assert_eq!(peer.read_to_end(&mut rest).unwrap(), 0);
            })
        })
        .collect();
    let writers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let fds = fds.clone();
            std::thread::spawn(move || {
                for number in 0..EACH {
                    let mut payload = vec![thread as u8; 4 + [10, 3000, 40_000][number % 3]];
                    payload[..4].copy_from_slice(&(number as u32).to_ne_bytes());
                    for fd in &fds {
                        assert_eq!(write(*fd, thread as u8, &payload), IPC_ERROR_NONE);
                    }
                }
            })
        })
        .collect();
    // Meanwhile this thread waits for events of the same connections.
    let mut answered: Vec<_> = (0..fds.len())
        .map(|_| match server.next() {
            Reported::Message(fd, 0, all) if all == b"all" => fd,
            other => panic!("{other:?}"),
        })
        .collect();
    answered.sort_unstable();
    assert!(answered.windows(2).all(|two| two[0] != two[1]) && answered.iter().all(|fd| fds.contains(fd)));
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    drop(server);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

#[test]
fn promise_23_one_thread_reads_while_others_write() {
    own_process!(60);
    let (one, two) = pair();
    let echo = std::thread::spawn(move || {
        for _ in 0..600 {
            let (kind, payload) = read(two.as_raw_fd()).unwrap();
            assert_eq!(write(two.as_raw_fd(), kind, &payload), IPC_ERROR_NONE);
        }
    });
    let fd = one.as_raw_fd();
    let writers: Vec<_> = (0..3)
        .map(|thread| {
            std::thread::spawn(move || {
                for number in 0..200 {
                    assert_eq!(write(fd, thread, &pattern(1 + number * 100, 23)), IPC_ERROR_NONE);
                }
            })
        })
        .collect();
    let mut next = [0; 3];
    for _ in 0..600 {
        let (thread, payload) = read(fd).unwrap();
        let number = &mut next[usize::from(thread)];
        assert!(payload == pattern(1 + *number * 100, 23));
        *number += 1;
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    echo.join().unwrap();
}
