//! ipc_wait_event_timeout: when the call returns, and with which result.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::child::{self, Child};
use crate::support::ext::*;
use crate::support::*;

child::roles! { waits_under_signals, waits_without_timeout_during_signals }

const TIMEOUT: i32 = 50;
const LEAST: Duration = Duration::from_millis(49);
const MOST: Duration = Duration::from_millis(100);

/// Asserts that a call without an event returns at its timeout: no try too early, and at least one of six in
/// time.
fn assert_returns_at_timeout(mut call: impl FnMut() -> Seen) {
    let mut shortest = Duration::MAX;
    for _ in 0..6 {
        let begin = Instant::now();
        assert_eq!(call(), Seen::Nothing);
        let took = begin.elapsed();
        assert!(took >= LEAST, "returned after {took:?}");
        shortest = shortest.min(took);
    }
    assert!(shortest <= MOST, "returned after {shortest:?} or later");
}

#[test]
fn timeout_ends_an_idle_wait_in_time() {
    own_process!(30);
    let (mut ours, _peer) = listed();
    assert_returns_at_timeout(|| ours.program.poll(TIMEOUT));
    let mut server = Program::server();
    assert_returns_at_timeout(|| server.poll(TIMEOUT));
    let mut array = events(3);
    assert_returns_at_timeout(|| server.many(&mut array, TIMEOUT).pop().unwrap_or(Seen::Nothing));
}

#[test]
fn timeout_ends_a_wait_while_a_message_trickles_in() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            peer.write_all(&frame(1, &[0; 1_000_000])[..5]).unwrap();
            while !stop.load(Ordering::Relaxed) {
                peer.write_all(&[1]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_returns_at_timeout(|| ours.program.poll(TIMEOUT));
        stop.store(true, Ordering::Relaxed);
    });
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn handle_alarm(flags: i32) {
    let handler: extern "C" fn(i32) = count;
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGALRM, &action, none()), 0);
    }
}

/// SIGALRM after so many microseconds, and then at this interval.
fn alarm(first: i64, interval: i64) {
    let time = |tv_usec| libc::timeval { tv_sec: 0, tv_usec };
    let timer = libc::itimerval { it_interval: time(interval), it_value: time(first) };
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, none()) }, 0);
}

fn waits_under_signals() {
    for flags in [0, libc::SA_RESTART] {
        handle_alarm(flags);
        alarm(1000, 1000);
        let (mut ours, mut peer) = listed();
        let before = SIGNALS.load(Ordering::Relaxed);
        assert_returns_at_timeout(|| ours.program.poll(TIMEOUT));
        let mut array = events(3);
        assert_returns_at_timeout(|| ours.program.many(&mut array, TIMEOUT).pop().unwrap_or(Seen::Nothing));
        let (stuck, _does_not_read) = pair();
        assert_eq!(fill(stuck.as_raw_fd()), ());
        assert_returns_at_timeout(|| {
            assert_eq!(flush(stuck.as_raw_fd(), TIMEOUT), Err((IPC_ERROR_USOCK_SEND, libc::ETIMEDOUT)));
            Seen::Nothing
        });
        assert!(SIGNALS.load(Ordering::Relaxed) > before + 18 * 20, "too few signals");
        // An event that arrives meanwhile is reported.
        peer.write_all(&frame(1, b"here")).unwrap();
        assert_eq!(ours.program.poll(10_000), Reported::Message(ours.fd(), 1, b"here".to_vec()));
        alarm(0, 0);
    }
    child::send_line("done");
}

/// Queues more bytes than the kernel accepts.
fn fill(fd: i32) {
    queue(fd, 1, &vec![0; 4 << 20]).unwrap();
}

#[test]
fn signals_neither_end_nor_prolong_a_wait_with_timeout() {
    own_process!(60);
    let mut child = Child::start(waits_under_signals);
    assert_eq!(child.read_line(), "done");
    assert!(child.end().success());
}

fn waits_without_timeout_during_signals() {
    let (mut ours, mut peer) = listed();
    for timeout in [-1, i32::MIN] {
        handle_alarm(0);
        // Repeatedly, since the first signal may arrive before the wait begins.
        alarm(20_000, 20_000);
        let reported = ours.program.try_poll(timeout);
        assert_eq!(reported, Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EINTR)));
        let (mut array, mut number) = (events(2), 2);
        let list = &mut ours.program.list;
        let code = unsafe { ipc_wait_events(list, none(), array.as_mut_ptr(), &mut number, timeout) };
        assert_eq!((outcome(code), number), (Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EINTR)), 0));
        // ipc_wait_event, which has no timeout, does the same.
        assert_eq!(ours.program.try_next(), Err(IPC_ERROR_WAIT_EVENT__SELECT));
        assert_eq!(errno(), libc::EINTR);
        alarm(0, 0);
        peer.write_all(&frame(1, b"goes on")).unwrap();
        assert_eq!(ours.program.poll(timeout), Reported::Message(ours.fd(), 1, b"goes on".to_vec()));
    }
    child::send_line("done");
}

#[test]
fn signal_ends_a_wait_without_timeout() {
    own_process!(60);
    let mut child = Child::start(waits_without_timeout_during_signals);
    assert_eq!(child.read_line(), "done");
    assert!(child.end().success());
}

#[test]
fn timeout_zero_does_not_wait() {
    own_process!(30);
    let mut server = Program::server();
    // So many calls that even a short wait in each of them would take very long.
    for _ in 0..20_000 {
        assert_eq!(server.poll(0), Seen::Nothing);
    }
    let (mut peer, fd) = server.peer();
    assert_eq!(server.poll(0), Seen::Nothing);
    peer.write_all(&[frame(1, b"one"), frame(2, b"two"), frame(3, b"half")[..6].to_vec()].concat()).unwrap();
    assert_eq!(server.poll(0), Reported::Message(fd, 1, b"one".to_vec()));
    assert_eq!(server.poll(0), Reported::Message(fd, 2, b"two".to_vec()));
    assert_eq!(server.poll(0), Seen::Nothing);
    peer.write_all(b"alf").unwrap();
    assert_eq!(server.poll(0), Reported::Message(fd, 3, b"half".to_vec()));
    let mut second = std::os::unix::net::UnixStream::connect(&server.path).unwrap();
    let Seen::Reported(Reported::Connection(second_fd)) = server.poll(0) else { panic!("no connection") };
    drop(peer);
    assert_eq!(server.poll(0), Reported::Disconnection(fd));
    second.write_all(&frame(1, b"last")).unwrap();
    drop(second);
    let expected = [Reported::Message(second_fd, 1, b"last".to_vec()), Reported::Disconnection(second_fd)];
    assert_eq!(server.all(), expected.map(Seen::Reported));
}

#[test]
fn timeout_zero_finds_a_message_after_many_partial_ones() {
    own_process!(30);
    const HALVES: usize = 200;
    let mut server = Program::server();
    let mut halves: Vec<_> = (0..HALVES).map(|_| server.peer().0).collect();
    let (mut whole, fd) = server.peer();
    for half in &mut halves {
        half.write_all(&frame(1, b"half")[..6]).unwrap();
    }
    whole.write_all(&frame(1, b"whole")).unwrap();
    assert_eq!(server.poll(0), Reported::Message(fd, 1, b"whole".to_vec()));
}

#[test]
fn timeout_zero_finds_the_end_after_a_partial_message() {
    own_process!(30);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    peer.write_all(&frame(1, b"words")[..7]).unwrap();
    drop(peer);
    assert_eq!(server.poll(0), Reported::Disconnection(fd));
    assert_eq!(server.poll(0), Seen::Nothing);
}

#[test]
fn negative_timeout_waits_for_ever() {
    own_process!(30);
    let (mut ours, peer) = listed();
    for timeout in [-1, -50, i32::MIN] {
        let fd = ours.fd();
        let ((), ()) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(150));
                (&peer).write_all(&frame(1, b"at last")).unwrap();
            });
            assert_eq!(ours.program.poll(timeout), Reported::Message(fd, 1, b"at last".to_vec()));
            ((), writer.join().unwrap())
        });
    }
}

#[test]
fn event_before_the_timeout_ends_the_wait() {
    own_process!(30);
    let (mut ours, peer) = listed();
    for timeout in [60_000, i32::MAX] {
        let writer = write_in_thread(peer.try_clone().unwrap(), frame(1, b"early"));
        let begin = Instant::now();
        assert_eq!(ours.program.poll(timeout), Reported::Message(ours.fd(), 1, b"early".to_vec()));
        assert!(begin.elapsed() < Duration::from_secs(20));
        writer.join().unwrap();
    }
}

#[test]
fn empty_list_is_an_error_for_any_timeout() {
    own_process!(30);
    for timeout in [0, TIMEOUT, -1] {
        let mut program = Program::client();
        let no_clients = Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL));
        assert_eq!(program.try_poll(timeout), no_clients);
        let (mut array, mut number) = (events(2), 2);
        let code =
            unsafe { ipc_wait_events(&mut program.list, none(), array.as_mut_ptr(), &mut number, timeout) };
        assert_eq!((outcome(code), number), (Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)), 0));
        // A descriptor whose end was reported does not count.
        let (reader, writer) = pipe();
        assert_eq!(unsafe { ipc_add_fd(&mut program.list, reader.as_raw_fd()) }, IPC_ERROR_NONE);
        drop(writer);
        assert_eq!(program.poll(timeout), Reported::Extra(reader.as_raw_fd(), vec![]));
        assert_eq!(program.try_poll(timeout), Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)));
        free_extras(&mut program);
    }
}

#[test]
fn errno_is_untouched_on_event_and_on_timeout() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    for timeout in [0, 1, 20] {
        set_errno(4711);
        assert_eq!(ours.program.poll(timeout), Seen::Nothing);
        assert_eq!(errno(), 4711);
        let mut array = events(2);
        assert_eq!(ours.program.many(&mut array, timeout), NOTHING);
        assert_eq!(errno(), 4711);
        peer.write_all(&frame(1, b"here")).unwrap();
        set_errno(4711);
        assert_eq!(ours.program.poll(timeout), Reported::Message(ours.fd(), 1, b"here".to_vec()));
        assert_eq!(errno(), 4711);
    }
}

#[test]
fn previous_message_is_freed_on_timeout() {
    own_process!(30);
    const SIZE: usize = 4 << 20;
    if !heap_can_be_counted() {
        return;
    }
    let (mut ours, peer) = listed();
    let before = heap_in_use();
    for timeout in [0, 1] {
        for _ in 0..5 {
            let writer = write_in_thread(peer.try_clone().unwrap(), frame(1, &vec![1; SIZE]));
            assert!(matches!(ours.program.poll(-1), Seen::Reported(Reported::Message(_, 1, _))));
            writer.join().unwrap();
            assert!(heap_in_use() >= before + SIZE, "the message is there");
            assert_eq!(ours.program.poll(timeout), Seen::Nothing);
            let left = heap_in_use().saturating_sub(before);
            assert!(left < SIZE / 2, "{left} bytes are left of a message of {SIZE}");
        }
    }
    // A failing call frees it, too.
    let writer = write_in_thread(peer.try_clone().unwrap(), frame(1, &vec![1; SIZE]));
    assert!(matches!(ours.program.poll(-1), Seen::Reported(Reported::Message(..))));
    writer.join().unwrap();
    let code = unsafe { ipc_wait_event_timeout(none(), none(), &mut ours.program.event, 0) };
    assert_eq!(outcome(code), Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)));
    assert!(heap_in_use().saturating_sub(before) < SIZE / 2);
}
