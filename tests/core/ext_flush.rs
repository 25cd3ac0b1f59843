//! ipc_flush: it waits up to its timeout until the kernel has taken what is queued.

use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::child::{self, Child};
use crate::support::ext::*;
use crate::support::*;

child::roles! { flushes_for_ever_under_a_signal, flushes_to_a_dying_peer }

const LATE: Result<(), Failure> = Err((IPC_ERROR_USOCK_SEND, libc::ETIMEDOUT));
const GONE: Result<(), Failure> = Err((IPC_ERROR_USOCK_SEND, libc::EPIPE));

/// More than the kernel takes.
const MUCH: usize = 4_000_000;

/// A connection with much queued, and its peer that has not read yet.
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
        assert_eq!(flush(fd, timeout), LATE);
        let least = Duration::from_millis(timeout.unsigned_abs().into());
        assert!(begin.elapsed() >= least.saturating_sub(Duration::from_millis(1)));
        assert_eq!(pending(fd), left, "the rest stays queued");
    }
    // 0 does not wait, however often.
    (0..10_000).for_each(|_| assert_eq!(flush(fd, 0), LATE));
    // What is pending and what the peer can read is all that there is.
    peer.read_exact(&mut [0; 100_000]).unwrap();
    assert_eq!(flush(fd, 0), LATE);
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
        assert_eq!(flush(ours.as_raw_fd(), 50), LATE);
        assert!(begin.elapsed() >= Duration::from_millis(49));
        shortest = shortest.min(begin.elapsed());
    }
    assert!(shortest <= Duration::from_millis(100), "{shortest:?} and later");
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

fn flushes_to_a_dying_peer() {
    for reads in [0, 1_000_000] {
        for (timeout, listed) in [(-1, false), (20_000, false), (-1, true), (20_000, true)] {
            let (ours, mut peer) = full();
            let listed = listed.then(|| Listed::of(ours.try_clone().unwrap()));
            // In a list it has another number, and nothing queued yet.
            let fd = listed.as_ref().map_or(ours.as_raw_fd(), Listed::fd);
            if listed.is_some() {
                queue(fd, 1, &pattern(MUCH, 1)).unwrap();
            }
            let dies = std::thread::spawn(move || {
                peer.read_exact(&mut vec![0; reads]).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            });
            assert_eq!(flush(fd, timeout), GONE);
            assert_eq!(pending(fd), 0, "with the peer went what was queued");
            dies.join().unwrap();
        }
    }
    child::say("alive");
}

#[test]
fn peer_that_dies_during_flush_is_an_error_and_no_signal() {
    own_process!(60);
    let mut program = Child::start(flushes_to_a_dying_peer);
    assert_eq!(program.hear(), "alive");
    assert!(program.end().success());
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn flushes_for_ever_under_a_signal() {
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
    // With a time-out the signals are none of its business.
    let before = SIGNALS.load(Ordering::Relaxed);
    assert_eq!(flush(fd, 100), LATE);
    assert!(SIGNALS.load(Ordering::Relaxed) > before + 10);
    let reader = std::thread::spawn(move || read_frame(&mut peer));
    until("all of it", || match flush(fd, -1) {
        Ok(()) => true,
        reported => {
            assert_eq!(reported, Err((IPC_ERROR_USOCK_SEND, libc::EINTR)));
            false
        }
    });
    assert!(reader.join().unwrap() == (1, pattern(MUCH, 1)));
    child::say("done");
}

#[test]
fn signal_ends_a_flush_without_timeout_and_loses_nothing() {
    own_process!(60);
    let mut program = Child::start(flushes_for_ever_under_a_signal);
    assert_eq!(program.hear(), "done");
    assert!(program.end().success());
}

/// One thread writes a message that the peer does not read, and another wants what is queued gone.
#[test]
fn flush_waits_for_a_message_of_another_thread() {
    own_process!(60);
    let (ours, mut peer) = patient_pair();
    let fd = ours.as_raw_fd();
    let writer = std::thread::spawn(move || write(fd, 1, &pattern(MUCH, 1)));
    // Until it is in the middle: what is queued then has to wait.
    let mut first = [0; 1000];
    peer.read_exact(&mut first).unwrap();
    until("the other thread is writing", || flush(fd, 0) == LATE);
    queue(fd, 2, b"behind it").unwrap();
    assert_eq!(flush(fd, 0), LATE);
    let begin = Instant::now();
    assert_eq!(flush(fd, 50), LATE);
    assert!(begin.elapsed() >= Duration::from_millis(49) && begin.elapsed() < Duration::from_secs(10));
    assert_eq!(pending(fd), frame(2, b"behind it").len());
    let reader = std::thread::spawn(move || {
        let mut stream = first.as_slice().chain(&mut peer);
        let mut got = vec![0; MUCH + 5 + 5 + 9];
        stream.read_exact(&mut got).unwrap();
        got
    });
    assert_eq!(flush(fd, -1), Ok(()));
    assert_eq!(writer.join().unwrap(), IPC_ERROR_NONE);
    assert_eq!(flush(fd, -1), Ok(()));
    assert!(reader.join().unwrap() == [frame(1, &pattern(MUCH, 1)), frame(2, b"behind it")].concat());
}

#[test]
fn several_threads_flush_at_once() {
    own_process!(60);
    let (ours, mut peer) = full();
    let fd = ours.as_raw_fd();
    let threads = [-1, 20_000, -5].map(|timeout| std::thread::spawn(move || flush(fd, timeout)));
    let late: Vec<_> = (0..4).map(|_| flush(fd, 20)).collect();
    assert!(late.iter().all(|reported| *reported == LATE));
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
    assert_eq!(flush(fd, -1), GONE);
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
    let fd = out_of_the_way(ours).into_raw_fd();
    close(fd);
    assert_eq!(flush(fd, -1), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
}
