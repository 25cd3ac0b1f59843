//! Promises 15, 16 and 18: when ipc_write returns, what is queued, and writes to a closed peer.

use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::child::{self, Child};
use crate::support::*;

child::roles! { writes_and_is_killed, writes_before_it_reads, writes_to_closed_peers }

const LARGEST: usize = 7_999_995;

/// The limit of one connection's queue.
const QUEUE: usize = 16 << 20;

/// A program with one connection, which is in its list.
struct Listed {
    program: Box<Program>,
    info: Box<ipc_connection_info>,
}

fn listed() -> (Listed, UnixStream) {
    let (ours, peer) = pair();
    // A read of the peer fails instead of waiting for ever.
    peer.set_read_timeout(Some(Duration::from_secs(20) * patience())).unwrap();
    let mut program = Program::client();
    let mut info = Box::new(ipc_connection_info { fd: ours.into_raw_fd(), ..EMPTY_INFO });
    assert_eq!(unsafe { ipc_add(&mut program.list, &mut *info) }, IPC_ERROR_NONE);
    (Listed { program, info }, peer)
}

impl Drop for Listed {
    fn drop(&mut self) {
        unsafe { ipc_del(&mut self.program.list, &mut *self.info) };
        unsafe { ipc_close(&mut *self.info) };
    }
}

/// A payload that begins with its number.
fn numbered(size: usize, number: usize) -> Vec<u8> {
    let mut payload = vec![number as u8; size];
    payload[..8].copy_from_slice(&number.to_ne_bytes());
    payload
}

/// Writes numbered messages until one is refused. Returns how many were accepted.
fn fill(fd: i32, size: usize, first: usize) -> usize {
    for number in first.. {
        match write(fd, 1, &numbered(size, number)) {
            IPC_ERROR_NONE => {}
            code => {
                let reported = (code, errno());
                assert_eq!(reported, (IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, libc::EAGAIN));
                return number - first;
            }
        }
    }
    unreachable!()
}

fn writes_and_is_killed() {
    let fd = child::connect(Path::new(&child::read_line()));
    let payload = pattern(LARGEST, 15);
    let message =
        ipc_message { r#type: 4, length: LARGEST as u32, payload: payload.as_ptr().cast_mut().cast() };
    let bytes = frame(4, &payload);
    let code = match child::read_line().as_str() {
        "ipc_write" => write(fd, 4, &payload),
        "ipc_message_write" => unsafe { ipc_message_write(fd, &message) },
        _ => unsafe { usock_send(fd, bytes.as_ptr().cast(), bytes.len() as isize, std::ptr::null_mut()) },
    };
    assert_eq!(code, IPC_ERROR_NONE);
    child::send_line("written");
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

#[test]
fn promise_15_written_message_arrives_after_writer_is_killed() {
    own_process!(60);
    let directory = tempfile::tempdir().unwrap();
    for function in ["ipc_write", "ipc_message_write", "usock_send"] {
        let path = directory.path().join(function);
        let listener = UnixListener::bind(&path).unwrap();
        let mut writer = Child::start(writes_and_is_killed);
        writer.send_line(path.to_str().unwrap());
        writer.send_line(function);
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = vec![0; LARGEST - 50_000];
        for part in got.chunks_mut(LARGEST / 4) {
            // A slow peer: a write for a connection in a list would wait only a few milliseconds.
            std::thread::sleep(Duration::from_millis(50));
            stream.read_exact(part).unwrap();
        }
        // The rest fits into the kernel's buffer.
        assert_eq!(writer.read_line(), "written");
        assert_eq!(writer.end().signal(), Some(libc::SIGKILL));
        stream.read_to_end(&mut got).unwrap();
        assert!(got == frame(4, &pattern(LARGEST, 15)), "{function}: {} bytes", got.len());
    }
}

#[test]
fn promise_16_full_queue_refuses_a_message_whole() {
    own_process!(60);
    const SIZE: usize = 1_000_000;
    let (mut ours, mut peer) = listed();
    let accepted = fill(ours.info.fd, SIZE, 0);
    // The peer receives what the kernel holds; the other bytes are in the queue.
    peer.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    let _would_block = peer.read_to_end(&mut got).unwrap_err();
    peer.set_nonblocking(false).unwrap();
    let queued = accepted * (SIZE + 5) - got.len();
    assert!(queued <= QUEUE && queued + SIZE + 5 > QUEUE, "{queued} bytes queued");
    // The queue has room again for some messages.
    let more = fill(ours.info.fd, SIZE, accepted);
    let reader = std::thread::spawn(move || {
        let mut stream = got.as_slice().chain(&mut peer);
        for number in 0..accepted + more {
            let mut bytes = vec![0; SIZE + 5];
            stream.read_exact(&mut bytes).unwrap();
            assert!(bytes == frame(1, &numbered(SIZE, number)), "message {number} of {accepted}+{more}");
        }
        peer
    });
    until("room for one more message", || write(ours.info.fd, 2, b"after") == IPC_ERROR_NONE);
    until("all queued bytes", || write(ours.info.fd, 3, b"") == IPC_ERROR_NONE && reader.is_finished());
    let mut peer = reader.join().unwrap();
    assert_eq!(read_frame(&mut peer), (2, b"after".to_vec()), "no refused message");
    std::io::Write::write_all(&mut peer, &frame(4, b"answer")).unwrap();
    assert_eq!(ours.program.next(), Reported::Message(ours.info.fd, 4, b"answer".to_vec()));
    assert_eq!(write(ours.info.fd, 5, b"as before"), IPC_ERROR_NONE);
    while let (3, empty) = read_frame(&mut peer) {
        assert_eq!(empty, b"");
    }
}

#[test]
fn promise_16_stalled_peer_costs_its_wait_once() {
    own_process!(60);
    let (ours, _peer) = listed();
    assert_eq!(write(ours.info.fd, 1, &vec![0; 1_000_000]), IPC_ERROR_NONE);
    let start = Instant::now();
    for number in 0..2000 {
        assert_eq!(write(ours.info.fd, 1, &numbered(100, number)), IPC_ERROR_NONE);
    }
    // A wait of two milliseconds in each call would take four seconds.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// Asserts that the calls of `next` send 4 MB that are queued; the peer then answers.
fn assert_queue_is_sent_by(mut next: impl FnMut(&mut Listed)) {
    const SIZE: usize = 4_000_000;
    let (mut ours, mut peer) = listed();
    assert_eq!(write(ours.info.fd, 1, &numbered(SIZE, 16)), IPC_ERROR_NONE);
    let reader = std::thread::spawn(move || {
        assert!(read_frame(&mut peer) == (1, numbered(SIZE, 16)));
        std::io::Write::write_all(&mut peer, &frame(2, b"all of it")).unwrap();
        peer
    });
    next(&mut ours);
    reader.join().unwrap();
}

#[test]
fn promise_16_queued_bytes_are_sent_by_ipc_wait_event() {
    own_process!(60);
    assert_queue_is_sent_by(|ours| {
        assert_eq!(ours.program.next(), Reported::Message(ours.info.fd, 2, b"all of it".to_vec()));
    });
}

#[test]
fn promise_16_queued_bytes_are_sent_by_ipc_read() {
    own_process!(60);
    assert_queue_is_sent_by(|ours| {
        assert_eq!(read(ours.info.fd), Ok((2, b"all of it".to_vec())));
    });
    // Also while ipc_read waits for another connection, whose peer sends when the first peer has answered.
    assert_queue_is_sent_by(|ours| {
        let (mut one, two) = pair();
        let first = ours.info.fd;
        let other = std::thread::spawn(move || {
            let mut byte = 0_u8;
            let got = unsafe { libc::recv(first, (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
            std::io::Write::write_all(&mut one, &frame(3, b"served")).unwrap();
            got
        });
        assert_eq!(read(two.as_raw_fd()), Ok((3, b"served".to_vec())));
        assert_eq!(other.join().unwrap(), 1);
    });
}

#[test]
fn promise_16_queued_bytes_are_sent_by_ipc_write() {
    own_process!(60);
    assert_queue_is_sent_by(|ours| {
        let fd = ours.info.fd;
        let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        until("the answer", || {
            assert_eq!(write(fd, 9, b"more"), IPC_ERROR_NONE);
            unsafe { libc::poll(&mut asked, 1, 0) == 1 }
        });
    });
}

/// A program that writes a large message before it reads one, and then ends.
fn writes_before_it_reads() {
    let mut program = Program::client();
    let mut info = ipc_connection_info { fd: child::connect(Path::new(&child::read_line())), ..EMPTY_INFO };
    assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
    assert_eq!(write(info.fd, 1, &numbered(LARGEST, 1)), IPC_ERROR_NONE);
    child::send_line("written");
    assert!(program.next() == Reported::Message(info.fd, 1, numbered(LARGEST, 2)));
}

#[test]
fn promise_16_two_programs_that_write_before_reading_finish() {
    own_process!(60);
    let mut server = Program::server();
    let mut other = Child::start(writes_before_it_reads);
    other.send_line(server.path.to_str().unwrap());
    let fd = server.next_connection();
    assert_eq!(server.write(fd, 1, &numbered(LARGEST, 2)), IPC_ERROR_NONE);
    assert_eq!(other.read_line(), "written");
    assert!(server.next() == Reported::Message(fd, 1, numbered(LARGEST, 1)));
    assert_eq!(server.next(), Reported::Disconnection(fd));
    assert!(other.end().success());
}

#[test]
fn promise_16_half_closed_peer_gets_its_queue_first() {
    own_process!(60);
    let mut server = Program::server();
    let (mut other, other_fd) = server.peer();
    let (peer, fd) = server.peer();
    assert_eq!(server.write(fd, 1, &numbered(LARGEST, 1)), IPC_ERROR_NONE);
    assert_eq!(server.write(fd, 2, &numbered(LARGEST, 2)), IPC_ERROR_NONE);
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    // The peer does not read yet: other clients are served meanwhile, and its DISCONNECTION is not reported.
    for number in 0..10 {
        std::io::Write::write_all(&mut other, &frame(3, &[number])).unwrap();
        assert_eq!(server.next(), Reported::Message(other_fd, 3, vec![number]));
    }
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        (&peer).read_to_end(&mut got).unwrap();
        got
    });
    assert_eq!(server.next(), Reported::Disconnection(fd));
    let expected = [frame(1, &numbered(LARGEST, 1)), frame(2, &numbered(LARGEST, 2))].concat();
    assert!(reader.join().unwrap() == expected);
}

/// Writes to closed peers, with the default action for SIGPIPE, which would end the process.
fn writes_to_closed_peers() {
    assert_eq!(unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) }, libc::SIG_DFL);
    let assert_closed = |code| assert_eq!((code, errno()), (IPC_ERROR_USOCK_SEND, libc::EPIPE));
    let bytes = frame(1, b"unheard");
    let message = EMPTY_MESSAGE;
    for unread in [false, true] {
        let (one, two) = pair();
        let fd = one.as_raw_fd();
        if unread {
            // The kernel then returns ECONNRESET once.
            assert_eq!(write(fd, 1, b"never read"), IPC_ERROR_NONE);
        }
        drop(two);
        assert_closed(write(fd, 1, b"unheard"));
        assert_closed(unsafe { ipc_message_write(fd, &message) });
        assert_closed(unsafe {
            usock_send(fd, bytes.as_ptr().cast(), bytes.len() as isize, std::ptr::null_mut())
        });
    }
    // While the writer waits in the middle of a message.
    let (one, mut two) = pair();
    let reader = std::thread::spawn(move || two.read_exact(&mut [0; 1_000_000]).unwrap());
    assert_closed(write(one.as_raw_fd(), 1, &vec![1; 4_000_000]));
    reader.join().unwrap();
    // With bytes in the queue, which each of these calls tries to send.
    type Way = fn(&mut Listed);
    let ways: [Way; 4] = [
        |ours| assert_eq!((write(ours.info.fd, 1, b"x"), errno()), (IPC_ERROR_USOCK_SEND, libc::EPIPE)),
        |ours| drop(ours.program.next()),
        |ours| drop(read(ours.info.fd)),
        |ours| assert_eq!(unsafe { ipc_close(&mut *ours.info) }, IPC_ERROR_NONE),
    ];
    for way in ways {
        let (mut ours, peer) = listed();
        assert_eq!(write(ours.info.fd, 1, &vec![1; 1_000_000]), IPC_ERROR_NONE);
        drop(peer);
        way(&mut ours);
    }
    // With bytes in the queue at exit.
    let (ours, peer) = listed();
    assert_eq!(write(ours.info.fd, 1, &vec![1; 1_000_000]), IPC_ERROR_NONE);
    drop(peer);
    std::mem::forget(ours);
    child::send_line("no signal");
}

#[test]
fn promise_18_closed_peer_is_an_error_and_no_signal() {
    own_process!(60);
    let mut child = Child::start(writes_to_closed_peers);
    let status = child.end();
    assert!(status.success(), "{status}");
    assert_eq!(child.read_line(), "no signal");
}
