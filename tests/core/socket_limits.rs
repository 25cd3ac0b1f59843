//! Promise 45: O_NONBLOCK and SO_RCVTIMEO that a program sets on its sockets apply to the whole call, counted
//! from its begin, however the bytes arrive. The result of a call shows whether they have ended the call;
//! measured times have wide limits.

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::ext::*;
use crate::support::*;

/// SO_RCVTIMEO of the sockets that have one.
const LIMIT: Duration = Duration::from_millis(300);
/// A call that takes longer has ignored SO_RCVTIMEO.
const FAR_OVER: Duration = Duration::from_secs(15);

fn set_limit(fd: RawFd, limit: Duration) {
    let time =
        libc::timeval { tv_sec: limit.as_secs() as i64, tv_usec: i64::from(limit.subsec_micros()) as _ };
    let size = size_of_val(&time) as u32;
    let set =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const time).cast(), size) };
    assert_eq!(set, 0);
}

fn set_nonblocking(fd: RawFd, is_nonblocking: bool) {
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        let wanted = if is_nonblocking { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        assert_eq!(libc::fcntl(fd, libc::F_SETFL, wanted), 0);
    }
}

/// The calls that read.
#[derive(Clone, Copy, Debug)]
enum Call {
    Read,
    MessageRead,
    Recv,
}

const CALLS: [Call; 3] = [Call::Read, Call::MessageRead, Call::Recv];

impl Call {
    fn make(self, fd: RawFd) -> Result<(), Failure> {
        let mut message = EMPTY_MESSAGE;
        let (mut bytes, mut size) = (none(), 0);
        unsafe {
            let result = outcome(match self {
                Self::Read => ipc_read(&info(fd), &mut message),
                Self::MessageRead => ipc_message_read(fd, &mut message),
                Self::Recv => usock_recv(fd, &mut bytes, &mut size),
            });
            libc::free(message.payload.cast());
            libc::free(bytes.cast());
            result
        }
    }
}

const AGAIN: Result<(), Failure> = Err((IPC_ERROR_USOCK_RECV, libc::EAGAIN));

/// Asserts that the call ends by its limit, neither at once nor far later.
fn assert_ends_in_time(what: &str, call: impl FnOnce()) {
    let begin = Instant::now();
    call();
    let took = begin.elapsed();
    assert!(took >= LIMIT / 2 && took < FAR_OVER, "{what}: {took:?}");
}

/// Sends a byte every 5 ms, until all are sent or `is_over` is set.
fn drip(mut peer: &UnixStream, bytes: &[u8], is_over: &AtomicBool) {
    for byte in bytes {
        if is_over.load(SeqCst) {
            return;
        }
        peer.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes the call while a frame arrives byte by byte; the whole frame would take far longer than the limit.
fn while_bytes_drip<R: Send>(peer: &UnixStream, call: impl FnOnce() -> R + Send) -> R {
    let is_over = AtomicBool::new(false);
    let bytes = frame(1, &[0; 20_000]);
    std::thread::scope(|scope| {
        let drops = scope.spawn(|| drip(peer, &bytes[7..], &is_over));
        let result = call();
        is_over.store(true, SeqCst);
        drops.join().unwrap();
        result
    })
}

#[test]
fn promise_45_read_of_a_nonblocking_socket_returns_at_once() {
    own_process!(30);
    for call in CALLS {
        let (ours, mut peer) = pair();
        let fd = ours.as_raw_fd();
        set_nonblocking(fd, true);
        // A call that waited would block the test for ever.
        let bytes = frame(1, b"a frame that comes in three parts");
        assert_eq!(call.make(fd), AGAIN, "{call:?}, nothing");
        for part in [0..3, 3..20] {
            peer.write_all(&bytes[part]).unwrap();
            assert_eq!(call.make(fd), AGAIN, "{call:?}, a part");
            assert_eq!(call.make(fd), AGAIN, "{call:?}, no more");
        }
        peer.write_all(&bytes[20..]).unwrap();
        assert_eq!(call.make(fd), Ok(()), "{call:?}");
        // Bytes are queued for another connection meanwhile.
        let (stuck, _does_not_read) = pair();
        let stuck = Queued::new(stuck);
        queue(stuck.as_raw_fd(), 1, &vec![0; 1_000_000]).unwrap();
        assert_eq!(call.make(fd), AGAIN, "{call:?}, with a queue");
        peer.write_all(&frame(1, b"whole")).unwrap();
        assert_eq!(call.make(fd), Ok(()), "{call:?}, with a queue, and a whole frame to be read");
        drop(stuck);
        // The program may clear the flag.
        set_nonblocking(fd, false);
        let bytes = bytes.clone();
        let writer = std::thread::spawn(move || {
            peer.write_all(&bytes).unwrap();
            peer
        });
        assert_eq!(call.make(fd), Ok(()), "{call:?}, waiting");
        writer.join().unwrap();
    }
}

#[test]
fn promise_45_read_ends_in_time_however_bytes_arrive() {
    own_process!(100);
    for call in CALLS {
        let (ours, mut peer) = pair();
        let fd = ours.as_raw_fd();
        set_limit(fd, LIMIT);
        assert_ends_in_time("nothing arrives", || assert_eq!(call.make(fd), AGAIN));
        // The header and two bytes; the rest arrives byte by byte.
        peer.write_all(&frame(1, &[0; 20_000])[..7]).unwrap();
        assert_ends_in_time("bytes drip in", || assert_eq!(while_bytes_drip(&peer, || call.make(fd)), AGAIN));
        // The received bytes are kept; each further call has the same limit.
        assert_ends_in_time("after it", || assert_eq!(call.make(fd), AGAIN));
    }
}

#[test]
fn promise_45_slow_header_does_not_extend_the_timeout() {
    own_process!(60);
    for call in CALLS {
        let (ours, mut peer) = pair();
        let fd = ours.as_raw_fd();
        set_limit(fd, LIMIT);
        // Each call ends by its limit, until the frame is complete.
        let bytes = frame(1, b"x");
        for byte in &bytes[..5] {
            peer.write_all(&[*byte]).unwrap();
            assert_ends_in_time("a byte of a header", || assert_eq!(call.make(fd), AGAIN));
        }
        peer.write_all(&bytes[5..]).unwrap();
        assert_eq!(call.make(fd), Ok(()));
    }
}

/// The peer of another connection, which has bytes queued, reads a little now and then.
#[test]
fn promise_45_read_ends_in_time_while_a_queue_is_sent() {
    own_process!(60);
    let (other, reader) = listed();
    for _ in 0..2 {
        queue(other.fd(), 1, &vec![0; 7_000_000]).unwrap();
    }
    for call in CALLS {
        let (ours, _peer) = pair();
        set_limit(ours.as_raw_fd(), LIMIT);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = vec![0; 100_000];
                while !is_over.load(SeqCst) {
                    let size = bytes.len();
                    let place = bytes.as_mut_ptr().cast();
                    unsafe { libc::recv(reader.as_raw_fd(), place, size, libc::MSG_DONTWAIT) };
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            assert_ends_in_time("a queue is sent", || assert_eq!(call.make(ours.as_raw_fd()), AGAIN));
            is_over.store(true, SeqCst);
        });
        assert!(pending(other.fd()) > 0, "the queue was sent too early for the test");
    }
    // Closing then does not wait for the rest of the queue.
    reader.shutdown(std::net::Shutdown::Both).unwrap();
}

/// Without a limit, a read continues however long the bytes take.
#[test]
fn promise_45_read_without_a_limit_waits_for_all_bytes() {
    own_process!(30);
    for call in CALLS {
        let (ours, mut peer) = pair();
        let bytes = frame(1, &[0; 100]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for byte in &bytes {
                    std::thread::sleep(Duration::from_millis(2));
                    peer.write_all(&[*byte]).unwrap();
                }
            });
            assert_eq!(call.make(ours.as_raw_fd()), Ok(()));
        });
    }
}

type Accept = fn(&mut ipc_connection_info) -> Result<RawFd, Failure>;

fn accept(srv: &mut ipc_connection_info) -> Result<RawFd, Failure> {
    let mut client = EMPTY_INFO;
    outcome(unsafe { ipc_accept(srv, &mut client) }).map(|()| client.fd)
}

fn usock(srv: &mut ipc_connection_info) -> Result<RawFd, Failure> {
    let mut fd = -1;
    outcome(unsafe { usock_accept(srv.fd, &mut fd) }).map(|()| fd)
}

const NO_CLIENT: Result<RawFd, i32> = Err(libc::EAGAIN);

/// Runs the test with each function that accepts, for a service that a list has waited for, and for one that
/// no list has.
fn with_each_accept(mut test: impl FnMut(&str, Accept, &mut Program)) {
    for is_listed in [false, true] {
        for (name, accept) in [("ipc_accept", accept as Accept), ("usock_accept", usock)] {
            let mut program = Program::server();
            if is_listed {
                let (peer, fd) = program.peer();
                drop(peer);
                assert_eq!(program.next(), Reported::Disconnection(fd));
                assert_eq!(program.poll(0), Seen::Nothing);
            }
            test(&format!("{name}, listed {is_listed}"), accept, &mut program);
        }
    }
}

/// Accepts a client that has connected.
fn accept_one(accept: Accept, program: &mut Program) {
    let _client = UnixStream::connect(&program.path).unwrap();
    let fd = accept(program.srv.as_mut().unwrap()).unwrap();
    close(fd);
}

#[test]
fn promise_45_accept_ends_in_time() {
    own_process!(60);
    with_each_accept(|what, accept, program| {
        set_limit(program.srv.as_ref().unwrap().fd, LIMIT);
        accept_one(accept, program);
        let srv = program.srv.as_mut().unwrap();
        assert_ends_in_time(what, || {
            assert_eq!(accept(srv).map_err(|failure| failure.1), NO_CLIENT, "{what}")
        });
        accept_one(accept, program);
    });
}

/// The program has set O_NONBLOCK itself; a list has waited for the service, or not.
#[test]
fn promise_45_accept_of_a_nonblocking_service_returns_at_once() {
    own_process!(60);
    for (name, accept) in [("ipc_accept", accept as Accept), ("usock_accept", usock)] {
        let mut program = Program::server();
        set_nonblocking(program.srv.as_ref().unwrap().fd, true);
        for is_listed in [false, true] {
            if is_listed {
                let (_peer, _) = program.peer();
                while program.poll(0) != Seen::Nothing {}
            }
            accept_one(accept, &mut program);
            let srv = program.srv.as_mut().unwrap();
            // A call that waited would block the test for ever.
            assert_eq!(accept(srv).map_err(|failure| failure.1), NO_CLIENT, "{name}, listed {is_listed}");
        }
    }
}

/// If the program has not set O_NONBLOCK, accept waits, although a list sets the flag for itself.
#[test]
fn promise_45_accept_without_a_limit_waits() {
    own_process!(60);
    with_each_accept(|what, accept, program| {
        let path = program.path.clone();
        let srv = program.srv.as_mut().unwrap();
        let this = unsafe { libc::syscall(libc::SYS_gettid) };
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                until("the call waits", || thread_sleeps(this));
                UnixStream::connect(path).unwrap()
            });
            let fd = accept(srv).unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
            close(fd);
            drop(client.join().unwrap());
        });
    });
}
