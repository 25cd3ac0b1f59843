//! Promise 24: a signal handler may close everything and exit, during traffic and while the library waits.
//! `interruptions`: handlers that interrupt the library itself; `waits`: which signals end a call (promise
//! 30).

mod interruptions;
mod waits;

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::child::{self, Child};
use crate::support::*;

child::roles! { serves_until_a_signal, blocks_until_a_signal, waits_while_threads_block }

static mut SERVICE: ipc_connection_info = EMPTY_INFO;
static mut LIST: ipc_connection_infos = EMPTY_LIST;

/// A handler as many programs have it.
extern "C" fn clean_up_and_exit(_: i32) {
    unsafe {
        let list = &raw mut LIST;
        for index in 0..(*list).size {
            *(*list).cinfos.add(index as usize) = std::ptr::null_mut();
        }
        ipc_connections_free(list);
        ipc_server_close(&raw mut SERVICE);
        libc::exit(0);
    }
}

/// Opens a service that the handler closes, and sends its path to the test.
fn serve() {
    let mut program = child::server();
    let handler: extern "C" fn(i32) = clean_up_and_exit;
    unsafe {
        SERVICE = program.srv.take().unwrap();
        libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
    }
    child::send_line(program.path.to_str().unwrap());
}

/// Echoes each message. Only the library uses the heap here: a handler that interrupts the program's own
/// malloc(3) must not use the library.
fn serves_until_a_signal() {
    serve();
    let mut event: ipc_event = unsafe { std::mem::zeroed() };
    loop {
        unsafe {
            let code = ipc_wait_event(&raw mut LIST, &raw mut SERVICE, &mut event);
            assert_eq!(code, IPC_ERROR_NONE);
            if event.r#type.assume_init() == ipc_event_type::IPC_EVENT_TYPE_MESSAGE {
                // The write may be refused if the client does not read.
                ipc_write(event.origin, event.m.cast());
            }
        }
    }
}

/// Asserts that the program ends successfully within the limit of `until`, and that its path is removed.
fn assert_cleaned_up(child: &mut Child, path: &str, what: &str) {
    until(what, || child.has_ended());
    let status = child.end();
    assert!(status.success(), "{what}: {status}");
    assert!(!Path::new(path).exists(), "{what}: the path is left");
}

/// A client that sends messages and waits for each answer, until the server has closed.
fn ask_repeatedly(path: &str, answers: &'static AtomicUsize, size: usize) -> JoinHandle<()> {
    let mut stream = UnixStream::connect(path).unwrap();
    let bytes = frame(1, &vec![24; size]);
    std::thread::spawn(move || {
        let mut answer = vec![0; bytes.len()];
        while stream.write_all(&bytes).is_ok() && stream.read_exact(&mut answer).is_ok() {
            assert!(answer == bytes);
            answers.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Clients that connect, send one message, and close, until the server has closed.
fn connect_and_close(path: &str) -> JoinHandle<()> {
    let path = path.to_owned();
    std::thread::spawn(move || {
        while let Ok(mut stream) = UnixStream::connect(&path) {
            let _ = stream.write_all(&frame(1, b"hello")).and_then(|()| stream.read_exact(&mut [0; 10]));
        }
    })
}

/// A client that writes without reading until the server has closed.
fn flood(path: &str) -> JoinHandle<()> {
    let mut stream = UnixStream::connect(path).unwrap();
    std::thread::spawn(move || while stream.write_all(&frame(1, &[24; 5000])).is_ok() {})
}

/// Ends a server by a signal after some number of answers.
fn end_during_traffic(number: usize) {
    let answers: &AtomicUsize = Box::leak(Box::default());
    let mut server = Child::start(serves_until_a_signal);
    let path = server.read_line();
    let mut clients: Vec<_> = [1, 100, 50_000].map(|size| ask_repeatedly(&path, answers, size)).into();
    clients.push(connect_and_close(&path));
    if number % 10 == 5 {
        clients.push(flood(&path));
    }
    let enough = number * 37 % 500;
    until("traffic", || answers.load(Ordering::Relaxed) >= enough);
    server.signal(libc::SIGTERM);
    assert_cleaned_up(&mut server, &path, &format!("program {number} after {enough} answers"));
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn promise_24_programs_ended_during_traffic_clean_up() {
    own_process!(100);
    for number in 0..30 {
        end_during_traffic(number);
    }
}

#[test]
fn promise_24_programs_ended_under_load_clean_up() {
    own_process!(100);
    for first in (30..60).step_by(10) {
        let together: Vec<_> = (first..first + 10)
            .map(|number| std::thread::spawn(move || end_during_traffic(number)))
            .collect();
        together.into_iter().for_each(|one| one.join().unwrap());
    }
}

#[test]
fn promise_24_programs_ended_when_idle_clean_up() {
    own_process!(60);
    for clients in 0..15 {
        let mut server = Child::start(serves_until_a_signal);
        let path = server.read_line();
        let mut clients: Vec<_> = (0..clients).map(|_| UnixStream::connect(&path).unwrap()).collect();
        for client in &mut clients {
            client.write_all(&frame(1, b"here")).unwrap();
            assert_eq!(read_frame(client), (1, b"here".to_vec()));
        }
        until("nothing to do", || server.sleeps());
        server.signal(libc::SIGTERM);
        assert_cleaned_up(&mut server, &path, "idle");
    }
}

/// Calls that wait for ever: their peer does nothing.
const CALLS: [&str; 8] = [
    "ipc_wait_event",
    "ipc_read",
    "ipc_message_read",
    "usock_recv",
    "ipc_accept",
    "ipc_write",
    "usock_send",
    "ipc_connection",
];

/// Waits for ever in this call. Calls that read have received half a frame.
fn block_in(call: &str, list: *mut ipc_connection_infos) -> ! {
    let (ours, mut other) = pair();
    let fd = ours.as_raw_fd();
    let info = ipc_connection_info { fd, ..EMPTY_INFO };
    let mut message = EMPTY_MESSAGE;
    let large = frame(1, &vec![24; 1_000_000]);
    let (mut buffer, mut length) = (std::ptr::null_mut(), 0);
    other.write_all(&frame(1, b"half of it")[..9]).unwrap();
    unsafe {
        match call {
            "ipc_wait_event" => {
                let mut event: ipc_event = std::mem::zeroed();
                ipc_wait_event(list, &raw mut SERVICE, &mut event);
            }
            "ipc_read" => drop(ipc_read(&info, &mut message)),
            "ipc_message_read" => drop(ipc_message_read(fd, &mut message)),
            "usock_recv" => drop(usock_recv(fd, &mut buffer, &mut length)),
            "ipc_accept" => drop(ipc_accept(&raw mut SERVICE, &mut { EMPTY_INFO })),
            "ipc_write" => drop(write(fd, 1, &large)),
            "usock_send" => drop(usock_send(fd, large.as_ptr().cast(), 1_000_005, std::ptr::null_mut())),
            _ => {
                // A server with a full backlog.
                let name = format!("full{}", std::process::id());
                let rundir = std::env::var_os("IPC_RUNDIR").unwrap();
                let full = UnixListener::bind(Path::new(&rundir).join(format!("{name}-0-0"))).unwrap();
                assert_eq!(libc::listen(full.as_raw_fd(), 0), 0);
                let name = CString::new(name).unwrap();
                let mut first = EMPTY_INFO;
                assert_eq!(ipc_connection(env(), &mut first, name.as_ptr()), IPC_ERROR_NONE);
                ipc_connection(env(), &mut { EMPTY_INFO }, name.as_ptr());
            }
        }
    }
    panic!("{call} has returned: {}", std::io::Error::last_os_error());
}

fn blocks_until_a_signal() {
    serve();
    let call = child::read_line();
    child::send_line("about to wait");
    block_in(&call, &raw mut LIST);
}

#[test]
fn promise_24_programs_ended_in_a_wait_clean_up() {
    own_process!(60);
    for call in CALLS {
        let mut child = Child::start(blocks_until_a_signal);
        let path = child.read_line();
        child.send_line(call);
        assert_eq!(child.read_line(), "about to wait");
        until("the call waits", || child.sleeps());
        child.signal(libc::SIGTERM);
        assert_cleaned_up(&mut child, &path, call);
    }
}

/// One thread waits in each call, and two threads write to the same connection, while the first thread gets
/// the signal.
fn waits_while_threads_block() {
    static READY: AtomicI32 = AtomicI32::new(0);
    serve();
    let ready = || READY.fetch_add(1, Ordering::Relaxed);
    let (same, _peer) = pair();
    let same = same.into_raw_fd();
    unsafe {
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut blocked, libc::SIGTERM);
        for call in CALLS {
            std::thread::spawn(move || {
                libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, std::ptr::null_mut());
                ready();
                block_in(call, &mut { EMPTY_LIST });
            });
        }
        for _ in 0..2 {
            std::thread::spawn(move || {
                libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, std::ptr::null_mut());
                ready();
                write(same, 1, &vec![24; 1_000_000]);
            });
        }
    }
    until("the threads", || READY.load(Ordering::Relaxed) == CALLS.len() as i32 + 2);
    child::send_line("ready");
    loop {
        unsafe { libc::pause() };
    }
}

#[test]
fn promise_24_program_with_waiting_threads_cleans_up() {
    own_process!(60);
    for _ in 0..10 {
        let mut child = Child::start(waits_while_threads_block);
        let path = child.read_line();
        assert_eq!(child.read_line(), "ready");
        until("all threads wait", || child.sleeps());
        child.signal(libc::SIGTERM);
        assert_cleaned_up(&mut child, &path, "threads");
    }
}
