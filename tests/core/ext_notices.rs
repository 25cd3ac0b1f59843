//! ipc_add_signal, ipc_add_timer, ipc_del_timer: signals and timers as events of a list.

use std::ffi::c_int;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::*;

child::roles! { takes_signals, forks_with_a_timer, takes_signals_of_many_kinds }

fn add_signal(program: &mut Program, signal: c_int) -> Result<(), Failure> {
    outcome(unsafe { ipc_add_signal(&mut program.list, signal) })
}

fn add_timer(program: &mut Program, first: c_int, every: c_int) -> Result<c_int, Failure> {
    let mut id = -1;
    outcome(unsafe { ipc_add_timer(&mut program.list, first, every, &mut id) }).map(|()| id)
}

fn del_timer(program: &mut Program, id: c_int) -> Result<(), Failure> {
    outcome(unsafe { ipc_del_timer(&mut program.list, id) })
}

/// The next event, which must be a signal or a timer: the descriptor of its entry, and its notice.
fn notice(program: &mut Program, timeout: c_int) -> Option<(c_int, ipc_notice)> {
    let srv = program.srv();
    let code = unsafe { ipc_wait_event_timeout(&mut program.list, srv, &mut program.event, timeout) };
    assert_eq!(outcome(code), Ok(()));
    match unsafe { program.event.r#type.assume_init() } {
        ipc_event_type::IPC_EVENT_TYPE_NOT_SET => None,
        ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET => unsafe {
            let (message, origin) = (&*program.event.m.cast::<ipc_message>(), &*program.event.origin);
            assert_eq!((message.length as usize, origin.r#type), (size_of::<ipc_notice>(), b'a' as _));
            let notice = message.payload.cast::<ipc_notice>().read_unaligned();
            let expected = if notice.signo == 0 { IPC_MSG_TIMER } else { IPC_MSG_SIGNAL };
            assert_eq!(c_int::from(message.r#type), expected);
            Some((origin.fd, notice))
        },
        other => panic!("{other:?}"),
    }
}

fn is_blocked(signal: c_int) -> bool {
    unsafe {
        let mut mask = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, none(), &mut mask);
        libc::sigismember(&mask, signal) == 1
    }
}

fn takes_signals() {
    let mut program = child::server();
    let me = unsafe { libc::getpid() };
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGTERM] {
        set_errno(4711);
        assert_eq!(add_signal(&mut program, signal), Ok(()));
        assert_eq!(errno(), 4711);
        assert!(is_blocked(signal));
    }
    assert_eq!(entries(&program.list).len(), 1, "one entry for all of them");
    assert!(notice(&mut program, 0).is_none());
    // A client in addition to them.
    let (mut peer, fd) = program.peer();
    for round in 0..3 {
        for signal in [libc::SIGHUP, libc::SIGTERM] {
            unsafe { libc::kill(me, signal) };
        }
        peer.write_all(&frame(1, b"hello")).unwrap();
        let (mut signals, mut messages) = (Vec::new(), 0);
        while signals.len() + messages < 3 {
            match program.next() {
                Reported::Extra(_, bytes) => {
                    let notice = unsafe { bytes.as_ptr().cast::<ipc_notice>().read_unaligned() };
                    assert_eq!(
                        (notice.pid, notice.uid, notice.timer, notice.count),
                        (me, unsafe { libc::getuid() }, 0, 1)
                    );
                    signals.push(notice.signo);
                }
                Reported::Message(of, ..) => messages += usize::from(of == fd),
                other => panic!("{other:?}"),
            }
        }
        signals.sort_unstable();
        assert_eq!((signals, messages), (vec![libc::SIGHUP, libc::SIGTERM], 1), "{round}");
    }
    assert_eq!(program.poll(0), Seen::Nothing);
    // The child of a fork receives the signals that are sent to it.
    let worker = fork();
    if worker == 0 {
        let (_, reported) = notice(&mut program, 20_000).unwrap();
        unsafe { libc::_exit(if reported.signo == libc::SIGHUP { 0 } else { 1 }) };
    }
    unsafe { libc::kill(worker, libc::SIGHUP) };
    assert_eq!(wait_for(worker), 0);
    assert_eq!(program.poll(0), Seen::Nothing);
    // The entry is closed like a client.
    let before = open_descriptors();
    let entry = entries(&program.list).into_iter().find(|entry| unsafe { (**entry).r#type } != 0).unwrap();
    assert_eq!(outcome(unsafe { ipc_close(entry) }), Ok(()));
    assert_eq!(outcome(unsafe { ipc_del(&mut program.list, entry) }), Ok(()));
    unsafe { libc::free(entry.cast()) };
    assert!(open_descriptors() < before);
    // A new entry has only the signals that are added now.
    assert_eq!(add_signal(&mut program, libc::SIGUSR1), Ok(()));
    unsafe {
        libc::kill(me, libc::SIGHUP);
        libc::kill(me, libc::SIGUSR1);
    }
    assert_eq!(notice(&mut program, 20_000).map(|(_, notice)| notice.signo), Some(libc::SIGUSR1));
    assert!(notice(&mut program, 0).is_none());
    free_extras(&mut program);
    drop((peer, program));
    unsafe { libc::_exit(0) };
}

#[test]
fn signals_are_reported_as_events() {
    own_process!(60);
    assert!(Child::start(takes_signals).end().success());
}

fn takes_signals_of_many_kinds() {
    let mut program = Program::client();
    let me = unsafe { libc::getpid() };
    for signal in [libc::SIGCHLD, libc::SIGRTMIN(), libc::SIGRTMAX(), libc::SIGWINCH] {
        assert_eq!(add_signal(&mut program, signal), Ok(()));
    }
    for _ in 0..100 {
        unsafe { libc::kill(me, libc::SIGRTMAX()) };
    }
    for _ in 0..100 {
        assert_eq!(notice(&mut program, 20_000).map(|(_, reported)| reported.signo), Some(libc::SIGRTMAX()));
    }
    let ended = fork();
    if ended == 0 {
        unsafe { libc::_exit(3) };
    }
    let (_, reported) = notice(&mut program, 20_000).unwrap();
    assert_eq!((reported.signo, reported.pid), (libc::SIGCHLD, ended));
    let mut array = events(16);
    for _ in 0..10 {
        unsafe { libc::kill(me, libc::SIGRTMIN()) };
    }
    let mut count = 0;
    while count < 10 {
        count += program.many(&mut array, 20_000).len();
    }
    assert_eq!((count, program.many(&mut array, 0)), (10, vec![]));
    free_extras(&mut program);
}

#[test]
fn each_real_time_signal_is_reported_separately() {
    own_process!(60);
    assert!(Child::start(takes_signals_of_many_kinds).end().success());
}

#[test]
fn refused_signals_leave_the_mask_unchanged() {
    own_process!(30);
    let mut program = Program::client();
    let invalid = Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EINVAL));
    for signal in [0, -1, 65, c_int::MAX, libc::SIGKILL, libc::SIGSTOP] {
        assert_eq!(add_signal(&mut program, signal), invalid, "{signal}");
    }
    let code = unsafe { ipc_add_signal(none(), libc::SIGUSR2) };
    assert_eq!(outcome(code), Err((IPC_ERROR_ADD_FD__NO_PARAM_CINFOS, libc::EINVAL)));
    program.list.size = -1;
    let wrong = Err((IPC_ERROR_ADD__EMPTY_LIST, libc::EINVAL));
    let before = open_descriptors();
    assert_eq!(add_signal(&mut program, libc::SIGUSR2), wrong);
    assert!(!is_blocked(libc::SIGUSR2));
    assert_eq!(add_timer(&mut program, 1, 1).map(drop), wrong);
    program.list.size = 0;
    assert_eq!(open_descriptors(), before);
    for (first, every) in [(-1, 0), (0, -1), (c_int::MIN, c_int::MIN)] {
        assert_eq!(add_timer(&mut program, first, every).map(drop), invalid);
    }
    let code = unsafe { ipc_add_timer(none(), 1, 1, none()) };
    assert_eq!(outcome(code), Err((IPC_ERROR_ADD_FD__NO_PARAM_CINFOS, libc::EINVAL)));
    let code = unsafe { ipc_del_timer(none(), 1) };
    assert_eq!(outcome(code), Err((IPC_ERROR_DEL__NO_CLIENTS_PARAM, libc::EINVAL)));
    assert_eq!(del_timer(&mut program, 3), Err((IPC_ERROR_DEL__EMPTY_LIST, libc::ENOENT)));
    let (end, _other) = pipe();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&end);
    assert_eq!(outcome(unsafe { ipc_add_fd(&mut program.list, fd) }), Ok(()));
    let missing = Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT));
    assert_eq!((del_timer(&mut program, fd), del_timer(&mut program, -1)), (missing, missing), "no timer");
    assert!(is_open(fd));
    program.del_fd(&end).unwrap();
}

#[test]
fn timers_expire_once_or_periodically() {
    own_process!(60);
    let mut program = Program::client();
    let begin = Instant::now();
    let (once, often) = (add_timer(&mut program, 30, 0).unwrap(), add_timer(&mut program, 10, 20).unwrap());
    let at_once = add_timer(&mut program, 0, 0).unwrap();
    assert_eq!(entries(&program.list).len(), 3);
    let (mut seen, mut counts) = (Vec::new(), 0);
    while counts < 10 {
        let (fd, reported) = notice(&mut program, 20_000).unwrap();
        assert_eq!((reported.timer, reported.signo, reported.pid, reported.uid), (fd, 0, 0, 0));
        if fd == often {
            counts += reported.count;
        } else {
            assert_eq!(reported.count, 1);
            seen.push(fd);
        }
    }
    assert_eq!(seen, [at_once, once]);
    assert!(begin.elapsed() >= Duration::from_millis(10 + 9 * 20));
    // Several expirations between two calls are one event.
    std::thread::sleep(Duration::from_millis(70));
    let (fd, reported) = notice(&mut program, 20_000).unwrap();
    assert!(fd == often && reported.count >= 3, "{}", reported.count);
    for id in [once, often, at_once] {
        assert_eq!(del_timer(&mut program, id), Ok(()));
        assert!(!is_open(id));
    }
    assert_eq!(entries(&program.list), []);
    let id = add_timer(&mut program, 1_000_000_000, c_int::MAX).unwrap();
    assert!(notice(&mut program, 0).is_none());
    assert_eq!(del_timer(&mut program, id), Ok(()));
    assert_eq!(del_timer(&mut program, id), Err((IPC_ERROR_DEL__EMPTY_LIST, libc::ENOENT)));
}

#[test]
fn ipc_del_fd_leaves_signals_and_timers() {
    own_process!(30);
    let mut program = Program::client();
    let id = add_timer(&mut program, 60_000, 0).unwrap();
    add_signal(&mut program, libc::SIGUSR1).unwrap();
    let before = entries(&program.list);
    for entry in &before {
        let fd = unsafe { (**entry).fd };
        let result = outcome(unsafe { ipc_del_fd(&mut program.list, fd) });
        assert_eq!(result, Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT)));
        assert!(is_open(fd));
    }
    assert_eq!(entries(&program.list), before);
    assert_eq!(del_timer(&mut program, id), Ok(()));
    free_extras(&mut program);
}

#[test]
fn timer_ends_with_its_list_and_by_close() {
    own_process!(30);
    let before = open_descriptors();
    let mut program = Program::client();
    let id = add_timer(&mut program, 5, 5).unwrap();
    assert!(notice(&mut program, 20_000).is_some());
    let entry = entries(&program.list)[0];
    unsafe { ipc_connections_free(&mut program.list) };
    assert!(!is_open(id));
    unsafe { libc::free(entry.cast()) };
    // A program closes all entries of its list.
    add_timer(&mut program, 5, 5).unwrap();
    add_timer(&mut program, 5, 5).unwrap();
    for entry in entries(&program.list) {
        assert_eq!(outcome(unsafe { ipc_close(entry) }), Ok(()));
        unsafe { libc::free(entry.cast()) };
    }
    unsafe { ipc_connections_free(&mut program.list) };
    drop(program);
    assert_eq!(open_descriptors(), before);
    // If the program has closed a timer's number and another file has got it, the library does not touch the
    // file.
    let mut program = Program::client();
    let id = add_timer(&mut program, 60_000, 0).unwrap();
    assert_eq!(unsafe { libc::close(id) }, 0);
    let (other, _end) = pipe();
    assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&other), id);
    let missing = Err((IPC_ERROR_DEL__CANNOT_FIND_CLIENT, libc::ENOENT));
    assert_eq!(del_timer(&mut program, id), missing);
    let entry = entries(&program.list)[0];
    unsafe { ipc_connections_free(&mut program.list) };
    assert!(is_open(id));
    unsafe { libc::free(entry.cast()) };
}

/// A program may close descriptors that it does not know: the library's internal ones, but not those of its
/// list's entries.
#[test]
fn signals_and_timers_work_after_internal_fds_are_lost() {
    own_process!(30);
    let before = open_numbers();
    let mut program = Program::client();
    for round in 0..3 {
        let (often, late) =
            (add_timer(&mut program, 5, 5).unwrap(), add_timer(&mut program, 60_000, 0).unwrap());
        assert_eq!(add_signal(&mut program, libc::SIGWINCH), Ok(()));
        assert!(notice(&mut program, 20_000).is_some());
        let known = entries(&program.list).iter().map(|entry| unsafe { (**entry).fd }).collect::<Vec<_>>();
        close_all_but(&before, &known);
        match round {
            0 => {
                assert_eq!(add_signal(&mut program, libc::SIGURG), Ok(()));
                assert_eq!(entries(&program.list).len(), 3, "one entry for all signals");
                assert_eq!((del_timer(&mut program, often), del_timer(&mut program, late)), (Ok(()), Ok(())));
                unsafe { libc::raise(libc::SIGURG) };
                assert_eq!(
                    notice(&mut program, 20_000).map(|(_, reported)| reported.signo),
                    Some(libc::SIGURG)
                );
            }
            1 => assert_eq!(notice(&mut program, 20_000).map(|(fd, _)| fd), Some(often)),
            _ => {}
        }
        let left = entries(&program.list);
        unsafe { ipc_connections_free(&mut program.list) };
        assert!(known.iter().all(|fd| !is_open(*fd)));
        left.into_iter().for_each(|entry| unsafe { libc::free(entry.cast()) });
    }
}

/// The numbers that are open.
fn open_numbers() -> Vec<c_int> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    all.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Closes all descriptors that are neither in `before` nor in `known`.
fn close_all_but(before: &[c_int], known: &[c_int]) {
    for fd in open_numbers().into_iter().filter(|fd| !before.contains(fd) && !known.contains(fd)) {
        unsafe { libc::close(fd) };
    }
}

#[test]
fn foreign_event_loop_is_woken_by_a_timer() {
    own_process!(30);
    let mut program = Program::client();
    add_timer(&mut program, 20, 0).unwrap();
    let fd = program.event_fd();
    assert!(becomes_readable(fd, 20_000));
    until("the timer is reported", || notice(&mut program, 0).is_some());
    free_extras(&mut program);
}

/// Both processes share one timerfd: each expiration is reported to one of them.
fn forks_with_a_timer() {
    let mut program = Program::client();
    let id = add_timer(&mut program, 10, 10).unwrap();
    let worker = fork();
    if worker == 0 {
        assert_eq!(del_timer(&mut program, id), Ok(()));
        let own = add_timer(&mut program, 1, 1).unwrap();
        let reported = notice(&mut program, 20_000).unwrap();
        unsafe { libc::_exit(if reported.0 == own { 0 } else { 1 }) };
    }
    assert_eq!(wait_for(worker), 0);
    assert_eq!(notice(&mut program, 20_000).map(|(fd, _)| fd), Some(id), "the parent's timer continues");
    free_extras(&mut program);
}

#[test]
fn child_deletes_a_timer_for_itself_only() {
    own_process!(60);
    assert!(Child::start(forks_with_a_timer).end().success());
}
