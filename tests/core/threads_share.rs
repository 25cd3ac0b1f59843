//! Promise 49: a connection is in one list; a service and the program's own descriptors may be in several
//! lists, in different threads.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::*;

child::roles! { serves_in_two_threads }

#[test]
fn promise_49_service_in_two_lists_is_served_by_both() {
    own_process!(30);
    let mut first = Program::server();
    let mut second = Program::client();
    second.srv = first.srv;
    // When one list has accepted a client, the other list does not block in accept and reports no error.
    for round in 0..200 {
        let [one, other] = if round % 2 == 0 { [&mut first, &mut second] } else { [&mut second, &mut first] };
        let mut peer = UnixStream::connect(if round % 2 == 0 { &one.path } else { &other.path }).unwrap();
        let Seen::Reported(Reported::Connection(fd)) = one.poll(10_000) else { panic!("{round}") };
        assert_eq!(other.poll(0), Seen::Nothing, "{round}");
        peer.write_all(&frame(1, b"hello")).unwrap();
        assert_eq!(one.poll(10_000), Reported::Message(fd, 1, b"hello".to_vec()));
        drop(peer);
        assert_eq!(one.poll(10_000), Reported::Disconnection(fd));
    }
    // The first program closes the service.
    second.srv = None;
}

#[test]
fn promise_49_freeing_one_list_leaves_service_to_the_other() {
    own_process!(30);
    let mut first = Program::server();
    let mut second = Program::client();
    second.srv = first.srv;
    for program in [&mut first, &mut second] {
        assert_eq!(program.poll(0), Seen::Nothing);
    }
    unsafe { ipc_connections_free(&mut second.list) };
    second.srv = None;
    drop(second);
    let (mut peer, fd) = first.peer();
    peer.write_all(&frame(1, b"hello")).unwrap();
    assert_eq!(first.poll(10_000), Reported::Message(fd, 1, b"hello".to_vec()));
}

/// Each byte is received by one of the two lists, and both lists receive some.
#[test]
fn promise_49_descriptor_in_two_lists_is_read_by_both() {
    own_process!(30);
    let (reader, mut writer) = pipe();
    let (is_over, total) = (AtomicBool::new(false), AtomicUsize::new(0));
    let got = [AtomicUsize::new(0), AtomicUsize::new(0)];
    std::thread::scope(|scope| {
        for count in &got {
            let (reader, is_over, total) = (&reader, &is_over, &total);
            scope.spawn(move || {
                let mut program = Program::client();
                let fd = reader.as_raw_fd();
                assert_eq!(unsafe { ipc_add_fd(&mut program.list, fd) }, IPC_ERROR_NONE);
                while !is_over.load(SeqCst) {
                    match program.poll(10) {
                        Seen::Nothing => {}
                        Seen::Reported(Reported::Extra(reported, bytes)) if reported == fd => {
                            count.fetch_add(1, SeqCst);
                            total.fetch_add(bytes.len(), SeqCst);
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(program.del_fd(reader), Ok(()));
            });
        }
        let mut written = 0;
        until("both lists have received bytes", || {
            writer.write_all(b"x").unwrap();
            written += 1;
            got.iter().all(|count| count.load(SeqCst) > 20)
        });
        until("all bytes", || total.load(SeqCst) == written);
        is_over.store(true, SeqCst);
    });
}

#[test]
fn promise_49_watched_descriptor_in_two_lists_reported_to_both() {
    own_process!(30);
    let (mut reader, mut writer) = pipe();
    let [mut one, mut other] = [Program::client(), Program::client()];
    let fd = one.watch(&reader);
    other.watch(&reader);
    for _ in 0..3 {
        writer.write_all(b"x").unwrap();
        assert_eq!(one.poll(10_000), Seen::Ready(fd));
        assert_eq!(other.poll(10_000), Seen::Ready(fd));
        reader.read_exact(&mut [0]).unwrap();
        assert_eq!([one.poll(0), other.poll(0)], [Seen::Nothing, Seen::Nothing]);
    }
    // After its removal from one list, the descriptor stays in the other.
    assert_eq!(one.del_fd(&reader), Ok(()));
    writer.write_all(b"x").unwrap();
    assert_eq!(other.poll(10_000), Seen::Ready(fd));
    assert_eq!(other.del_fd(&reader), Ok(()));
}

const CLIENTS: usize = 6;
const ROUNDS: usize = 200;
const QUESTIONS: usize = 20;

/// A client's descriptor, None after its end was reported or after `answer` has closed it. A thread that
/// writes to the client holds the lock.
struct Client {
    fd: Mutex<Option<RawFd>>,
}

struct Shared {
    clients: Mutex<HashMap<usize, Arc<Client>>>,
    /// Messages that the third thread has to answer.
    questions: Mutex<Vec<(Arc<Client>, Vec<u8>)>>,
    is_over: AtomicBool,
    connected: AtomicUsize,
    disconnected: AtomicUsize,
}

fn serve(shared: &Shared, service: RawFd) {
    let mut program = Program::client();
    program.srv = Some(info(service));
    while !shared.is_over.load(SeqCst) || !program.clients.is_empty() {
        // Program frees the structure of a client that has ended.
        let seen = program.poll(20);
        let key = program.event.origin as usize;
        match seen {
            // A client that closes with unread answers is an error; its end follows.
            Seen::Nothing | Seen::Reported(Reported::Error(_)) => {}
            Seen::Reported(Reported::Connection(fd)) => {
                let client = Client { fd: Mutex::new(Some(fd)) };
                shared.clients.lock().unwrap().insert(key, client.into());
                shared.connected.fetch_add(1, SeqCst);
            }
            Seen::Reported(Reported::Message(_, 1, question)) => {
                let client = shared.clients.lock().unwrap()[&key].clone();
                shared.questions.lock().unwrap().push((client, question));
            }
            Seen::Reported(Reported::Disconnection(_)) => {
                let client = shared.clients.lock().unwrap().remove(&key).unwrap();
                *client.fd.lock().unwrap() = None;
                shared.disconnected.fetch_add(1, SeqCst);
            }
            other => panic!("{other:?}"),
        }
    }
    program.srv = None;
}

/// Answers, and closes the client at its last question.
fn answer(shared: &Shared) {
    while !shared.is_over.load(SeqCst) {
        let questions = std::mem::take(&mut *shared.questions.lock().unwrap());
        if questions.is_empty() {
            std::thread::yield_now();
        }
        for (client, question) in questions {
            let mut place = client.fd.lock().unwrap();
            if let Some(fd) = *place {
                // The write may fail if the client has closed.
                let _ = write(fd, 2, &question);
                if question.ends_with(b"close me") {
                    assert_eq!(outcome(unsafe { ipc_close(&mut info(fd)) }), Ok(()));
                    *place = None;
                }
            }
        }
    }
}

/// Forks children that use and free a list of their own while the other threads work.
fn fork_children(shared: &Shared) {
    while !shared.is_over.load(SeqCst) {
        let child = fork();
        if child == 0 {
            let mut own = Program::client();
            let (ours, mut peer) = pair();
            let mut added = connection(&ours);
            assert_eq!(unsafe { ipc_add(&mut own.list, &mut added) }, IPC_ERROR_NONE);
            peer.write_all(&frame(1, b"in the child")).unwrap();
            assert_eq!(own.poll(10_000), Reported::Message(added.fd, 1, b"in the child".to_vec()));
            assert_eq!(unsafe { ipc_del(&mut own.list, &mut added) }, IPC_ERROR_NONE);
            unsafe {
                ipc_connections_free(&mut own.list);
                libc::_exit(0);
            }
        }
        assert_eq!(wait_for(child), 0);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn serves_in_two_threads() {
    let mut server = child::server();
    let service = server.srv.as_ref().unwrap().fd;
    child::send_line(server.path.to_str().unwrap());
    let shared = Shared {
        clients: Mutex::default(),
        questions: Mutex::default(),
        is_over: AtomicBool::new(false),
        connected: AtomicUsize::new(0),
        disconnected: AtomicUsize::new(0),
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| serve(&shared, service));
        }
        scope.spawn(|| answer(&shared));
        scope.spawn(|| fork_children(&shared));
        let all: usize = child::read_line().parse().unwrap();
        until("each client has connected and disconnected", || {
            [&shared.connected, &shared.disconnected].map(|count| count.load(SeqCst)) == [all, all]
        });
        shared.is_over.store(true, SeqCst);
    });
    assert!(shared.clients.lock().unwrap().is_empty());
    let _still_open = server.srv();
}

/// Sends all questions at once. Depending on client and round, the client closes before the answers, or after
/// them, or is closed by the server. Each answer must be the one to its own question, and none may be
/// missing.
fn ask(path: &Path, client: usize, round: usize) {
    let mut stream = UnixStream::connect(path).unwrap();
    let question = |n: usize, end: &str| format!("{client} {round} {n} {end}").into_bytes();
    for n in 0..QUESTIONS {
        stream.write_all(&frame(1, &question(n, "please"))).unwrap();
    }
    let way = (client + round) % 3;
    if way == 0 {
        // The client closes without reading its answers.
        return;
    }
    for n in 0..QUESTIONS {
        assert_eq!(read_frame(&mut stream), (2, question(n, "please")));
    }
    if way == 1 {
        stream.write_all(&frame(1, &question(QUESTIONS, "close me"))).unwrap();
        assert_eq!(read_frame(&mut stream), (2, question(QUESTIONS, "close me")));
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn promise_49_two_lists_a_writer_and_forks_lose_nothing() {
    own_process!(100);
    let mut child = Child::start(serves_in_two_threads);
    let path = child.read_line();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let path = Path::new(&path);
            scope.spawn(move || (0..ROUNDS).for_each(|round| ask(path, client, round)));
        }
    });
    child.send_line((CLIENTS * ROUNDS).to_string());
    assert!(child.end().success());
}
