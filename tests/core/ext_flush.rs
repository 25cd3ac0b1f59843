//! ipc_flush: the call waits up to its timeout until the kernel has accepted the queued bytes.

use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::child::{self, Child};
use crate::support::ext::*;
use crate::support::*;

child::roles! { flushes_during_signals, flushes_to_a_closing_peer }

const TIMED_OUT: Result<(), Failure> = Err((IPC_ERROR_USOCK_SEND, libc::ETIMEDOUT));
const CLOSED: Result<(), Failure> = Err((IPC_ERROR_USOCK_SEND, libc::EPIPE));

/// More bytes than the kernel accepts at once.
const MUCH: usize = 4_000_000;

/// A connection with many bytes queued, and its peer, which has not read yet.
fn full() -> (Queued, UnixStream) {
    let (ours, peer) = patient_pair();
    let ours = Queued::new(ours);
    queue(ours.as_raw_fd(), 1, &pattern(MUCH, 1)).unwrap();
    assert!(pending(ours.as_raw_fd()) > MUCH / 2);
    (ours, peer)
}

#[test]
fn flush_waits_for_a_stalled_peer_until_the_timeout() {
    own_process!(30);
    let (ours, mut peer) = full();
    let fd = ours.as_raw_fd();
    let left = pending(fd);
    for timeout in [0, 1, 50] {
        let begin = Instant::now();
        assert_eq!(flush(fd, timeout), TIMED_OUT);
        let least = Duration::from_millis(timeout.unsigned_abs().into());
        assert!(begin.elapsed() >= least.saturating_sub(Duration::from_millis(1)));
        assert_eq!(pending(fd), left, "the rest stays queued");
    }
    // Timeout 0 does not wait.
    (0..10_000).for_each(|_| assert_eq!(flush(fd, 0), TIMED_OUT));
    // The pending bytes and those that the peer can read are all bytes of the message.
    peer.read_exact(&mut [0; 100_000]).unwrap();
    assert_eq!(flush(fd, 0), TIMED_OUT);
    let now = pending(fd);
    assert!(now < left, "{now} bytes of {left} are left");
    peer.set_nonblocking(true).unwrap();
    let mut in_the_kernel = Vec::new();
    let _would_block = peer.read_to_end(&mut in_the_kernel).unwrap_err();
    assert_eq!(100_000 + in_the_kernel.len() + now, MUCH + 5);
}

#[test]
fn flush_takes_no_longer_than_its_timeout() {
    own_process!(30);
    let (ours, _peer) = full();
    let mut shortest = Duration::MAX;
    for _ in 0..6 {
        let begin = Instant::now();
        assert_eq!(flush(ours.as_raw_fd(), 50), TIMED_OUT);
        assert!(begin.elapsed() >= Duration::from_millis(49));
        shortest = shortest.min(begin.elapsed());
    }
    assert!(shortest <= Duration::from_millis(100), "{shortest:?} or longer");
}

#[test]
fn slow_reader_receives_all_bytes() {
    own_process!(60);
    for timeout in [-1, 30_000] {
        let (ours, mut peer) = full();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            while got.len() < MUCH + 5 {
                let mut part = vec![0; (MUCH + 5 - got.len()).min(100_000)];
                peer.read_exact(&mut part).unwrap();
                got.extend(part);
                std::thread::sleep(Duration::from_millis(2));
            }
            got
        });
        set_errno(4711);
        assert_eq!(flush(ours.as_raw_fd(), timeout), Ok(()));
        assert_eq!((pending(ours.as_raw_fd()), errno()), (0, 4711));
        assert!(reader.join().unwrap() == frame(1, &pattern(MUCH, 1)));
    }
}

#[test]
fn flush_of_an_empty_queue_succeeds_at_once() {
    own_process!(30);
    let (ours, _peer) = pair();
    for timeout in [0, 50, -1] {
        assert_eq!(flush(ours.as_raw_fd(), timeout), Ok(()));
    }
}

fn flushes_to_a_closing_peer() {
    for reads in [0, 1_000_000] {
        for (timeout, listed) in [(-1, false), (20_000, false), (-1, true), (20_000, true)] {
            let (ours, mut peer) = full();
            let listed = listed.then(|| Listed::of(ours.try_clone().unwrap()));
            // The connection in the list has another number, and nothing queued yet.
            let fd = listed.as_ref().map_or(ours.as_raw_fd(), Listed::fd);
            if listed.is_some() {
                queue(fd, 1, &pattern(MUCH, 1)).unwrap();
            }
            let closes = std::thread::spawn(move || {
                peer.read_exact(&mut vec![0; reads]).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            });
            assert_eq!(flush(fd, timeout), CLOSED);
            assert_eq!(pending(fd), 0, "the queued bytes were dropped when the peer closed");
            closes.join().unwrap();
        }
    }
    child::send_line("alive");
}

#[test]
fn peer_that_closes_during_flush_is_an_error_no_signal() {
    own_process!(60);
    let mut program = Child::start(flushes_to_a_closing_peer);
    assert_eq!(program.read_line(), "alive");
    assert!(program.end().success());
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn flushes_during_signals() {
    let handler: extern "C" fn(i32) = count;
    let time = libc::timeval { tv_sec: 0, tv_usec: 2000 };
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGALRM, &action, none());
        let timer = libc::itimerval { it_interval: time, it_value: time };
        libc::setitimer(libc::ITIMER_REAL, &timer, none());
    }
    let (ours, mut peer) = full();
    let fd = ours.as_raw_fd();
    assert_eq!(flush(fd, -1), Err((IPC_ERROR_USOCK_SEND, libc::EINTR)));
    let left = pending(fd);
    assert!(left > MUCH / 2);
    // With a timeout, signals do not end the call.
    let before = SIGNALS.load(Ordering::Relaxed);
    assert_eq!(flush(fd, 100), TIMED_OUT);
    assert!(SIGNALS.load(Ordering::Relaxed) > before + 10);
    let reader = std::thread::spawn(move || read_frame(&mut peer));
    until("all bytes are sent", || match flush(fd, -1) {
        Ok(()) => true,
        reported => {
            assert_eq!(reported, Err((IPC_ERROR_USOCK_SEND, libc::EINTR)));
            false
        }
    });
    assert!(reader.join().unwrap() == (1, pattern(MUCH, 1)));
    child::send_line("done");
}

#[test]
fn signal_ends_a_flush_without_timeout_and_loses_nothing() {
    own_process!(60);
    let mut program = Child::start(flushes_during_signals);
    assert_eq!(program.read_line(), "done");
    assert!(program.end().success());
}

/// One thread writes a message that the peer does not read; another thread flushes the queue.
#[test]
fn flush_waits_for_a_message_of_another_thread() {
    own_process!(60);
    let (ours, mut peer) = patient_pair();
    let fd = ours.as_raw_fd();
    let writer = std::thread::spawn(move || write(fd, 1, &pattern(MUCH, 1)));
    // The other thread has sent a part of its message: messages that are queued now must wait.
    let mut first = [0; 1000];
    peer.read_exact(&mut first).unwrap();
    until("the other thread is writing", || flush(fd, 0) == TIMED_OUT);
    queue(fd, 2, b"a message").unwrap();
    assert_eq!(flush(fd, 0), TIMED_OUT);
    let begin = Instant::now();
    assert_eq!(flush(fd, 50), TIMED_OUT);
    assert!(begin.elapsed() >= Duration::from_millis(49) && begin.elapsed() < Duration::from_secs(10));
    assert_eq!(pending(fd), frame(2, b"a message").len());
    let reader = std::thread::spawn(move || {
        let mut stream = first.as_slice().chain(&mut peer);
        let mut got = vec![0; MUCH + 5 + 5 + 9];
        stream.read_exact(&mut got).unwrap();
        got
    });
    assert_eq!(flush(fd, -1), Ok(()));
    assert_eq!(writer.join().unwrap(), IPC_ERROR_NONE);
    assert_eq!(flush(fd, -1), Ok(()));
    assert!(reader.join().unwrap() == [frame(1, &pattern(MUCH, 1)), frame(2, b"a message")].concat());
}

#[test]
fn several_threads_flush_at_once() {
    own_process!(60);
    let (ours, mut peer) = full();
    let fd = ours.as_raw_fd();
    let threads = [-1, 20_000, -5].map(|timeout| std::thread::spawn(move || flush(fd, timeout)));
    let timed_out: Vec<_> = (0..4).map(|_| flush(fd, 20)).collect();
    assert!(timed_out.iter().all(|reported| *reported == TIMED_OUT));
    assert!(read_frame(&mut peer) == (1, pattern(MUCH, 1)));
    assert_eq!(threads.map(|thread| thread.join().unwrap()), [Ok(()); 3]);
}

#[test]
fn flush_ends_when_the_peer_shuts_down() {
    own_process!(30);
    let (ours, peer) = full();
    let fd = ours.as_raw_fd();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        peer.shutdown(std::net::Shutdown::Both).unwrap();
        peer
    });
    assert_eq!(flush(fd, -1), CLOSED);
    drop(other.join().unwrap());
}

#[test]
fn wrong_arguments_are_reported() {
    own_process!(30);
    for timeout in [0, 50, -1] {
        let reported = outcome(unsafe { ipc_flush(none(), timeout) });
        assert_eq!(reported, Err((IPC_ERROR_USOCK_SEND, libc::EINVAL)));
        for fd in [-1, 900_000] {
            assert_eq!(flush(fd, timeout), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
        }
    }
    let (ours, _peer) = pair();
    let fd = at_high_number(ours).into_raw_fd();
    close(fd);
    assert_eq!(flush(fd, -1), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
}
