//! Wrong arguments of the functions that send, and calls from a signal handler that has interrupted the
//! library.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::Relaxed};

use crate::child::{self, Child};
use crate::support::ext::*;
use crate::support::*;

child::roles! { is_interrupted_in_the_library, is_interrupted_while_it_waits }

/// The three functions that take a message.
fn send(way: usize, p: *const ipc_connection_info, m: *const ipc_message, with: i32) -> Result<(), Failure> {
    outcome(unsafe {
        match way {
            0 => ipc_queue(p, m),
            1 => ipc_write_fd(p, m, with),
            _ => ipc_write(p, m),
        }
    })
}

#[test]
fn wrong_arguments_are_reported_as_by_ipc_write() {
    own_process!(30);
    let (ours, mut peer) = patient_pair();
    let (good, closed, pipe) = (info(ours.as_raw_fd()), info(900_000), pipe());
    let no_socket = info(pipe.0.as_raw_fd());
    let fine = message(1, b"fine");
    let too_long = ipc_message { length: 7_999_996, ..fine };
    let much_too_long = ipc_message { length: u32::MAX, ..fine };
    let no_payload = ipc_message { length: 4, payload: none(), ..fine };
    for way in 0..3 {
        let with = peer.as_raw_fd();
        let reported = |p, m| {
            set_errno(0);
            send(way, p, m, with)
        };
        assert_eq!(reported(&good, none()), Err((IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, libc::EINVAL)));
        assert_eq!(reported(none(), none()), Err((IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, libc::EINVAL)));
        assert_eq!(reported(none(), &fine), Err((IPC_ERROR_USOCK_SEND, libc::EINVAL)));
        for message in [&too_long, &much_too_long] {
            assert_eq!(reported(&good, message), Err((IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE)));
        }
        let inconsistent = Err((IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, libc::EINVAL));
        assert_eq!(reported(&good, &no_payload), inconsistent);
        assert_eq!(reported(&closed, &fine), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
        assert_eq!(reported(&EMPTY_INFO, &fine), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
        assert_eq!(reported(&no_socket, &fine), Err((IPC_ERROR_USOCK_SEND, libc::ENOTSOCK)), "{way}");
        assert_eq!(pending(good.fd), 0, "no byte of a refused message is queued");
        assert_eq!(reported(&good, &fine), Ok(()));
        flush(good.fd, -1).unwrap();
        assert_eq!(read_frame(&mut peer), (1, b"fine".to_vec()), "and nothing else is sent");
    }
}

#[test]
fn missing_result_pointer_is_reported() {
    own_process!(30);
    let (ours, _peer) = pair();
    let good = info(ours.as_raw_fd());
    let closed = [info(-1), info(900_000)];
    let (mut bytes, mut fd) = (4711, 4711);
    let no_send = Err((IPC_ERROR_USOCK_SEND, libc::EINVAL));
    let no_info = Err((IPC_ERROR_CONNECTION_GEN__NO_CINFO, libc::EINVAL));
    unsafe {
        assert_eq!(outcome(ipc_pending(none(), &mut bytes)), no_send);
        assert_eq!(outcome(ipc_pending(&good, none())), no_send);
        assert_eq!(outcome(ipc_take_fd(none(), &mut fd)), no_info);
        assert_eq!(outcome(ipc_take_fd(&good, none())), no_info);
        assert_eq!(outcome(ipc_allow_fds(none())), no_info);
        for closed in &closed {
            assert_eq!(outcome(ipc_pending(closed, &mut bytes)), Err((IPC_ERROR_USOCK_SEND, libc::EBADF)));
            assert_eq!(outcome(ipc_take_fd(closed, &mut fd)), Err((IPC_ERROR_USOCK_RECV, libc::EBADF)));
            assert_eq!(outcome(ipc_allow_fds(closed)), Err((IPC_ERROR_USOCK_RECV, libc::EBADF)));
        }
        assert_eq!(bytes, 4711);
        // Descriptors are not allowed, and no message was received.
        assert_eq!(outcome(ipc_take_fd(&good, &mut fd)), Err((IPC_ERROR_USOCK_RECV, libc::ENOENT)));
        assert_eq!(fd, -1);
        let (pipe, _writer) = pipe();
        let reported = outcome(ipc_allow_fds(&info(pipe.as_raw_fd())));
        assert_eq!(reported, Err((IPC_ERROR_USOCK_RECV, libc::ENOTSOCK)));
        set_errno(4711);
        assert_eq!(outcome(ipc_pending(&good, &mut bytes)), Ok(()));
        assert_eq!(outcome(ipc_allow_fds(&good)), Ok(()));
        assert_eq!((bytes, errno()), (0, 4711));
    }
}

static mut LIST: ipc_connection_infos = EMPTY_LIST;
static FD: AtomicI32 = AtomicI32::new(-1);
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static OUTSIDE: AtomicUsize = AtomicUsize::new(0);
/// The number, from 1 on, of a call in the handler that returned a wrong result; 0 if there was none.
static WRONG: AtomicUsize = AtomicUsize::new(0);

fn code_and_errno(code: ipc_errors) -> Failure {
    (code, unsafe { *libc::__errno_location() })
}

/// Calls all functions of the header, with valid arguments, without use of the heap.
fn call_all() -> [Failure; 26] {
    let p = ipc_connection_info { fd: FD.load(Relaxed), ..EMPTY_INFO };
    let m = ipc_message { r#type: 1, ..EMPTY_MESSAGE };
    let (mut event, mut received) = (EMPTY_EVENT, EMPTY_MESSAGE);
    let (mut count, mut bytes, mut fd) = (1_usize, 0_usize, -1);
    let mut peer = ipc_peer { pid: 0, uid: 0, gid: 0 };
    let (mut other, mut reason) = (p, ipc_reason::IPC_REASON_NONE);
    let mut status = ipc_status { clients: 0, queued: 0, received: 0, sent: 0, accept_paused: 0 };
    let list = &raw mut LIST;
    unsafe {
        [
            code_and_errno(ipc_wait_event_timeout(list, none(), &mut event, 0)),
            code_and_errno(ipc_wait_events(list, none(), &mut event, &mut count, 0)),
            code_and_errno(ipc_event_fd(list, none(), &mut fd)),
            code_and_errno(ipc_watch_fd(list, 0)),
            code_and_errno(ipc_del_fd(list, 0)),
            code_and_errno(ipc_queue(&p, &m)),
            code_and_errno(ipc_flush(&p, 0)),
            code_and_errno(ipc_pending(&p, &mut bytes)),
            code_and_errno(ipc_limits(&p, 0, 0)),
            code_and_errno(ipc_peer(&p, &mut peer)),
            code_and_errno(ipc_write_fd(&p, &m, p.fd)),
            code_and_errno(ipc_allow_fds(&p)),
            code_and_errno(ipc_take_fd(&p, &mut fd)),
            code_and_errno(ipc_send(&p, 1, none(), 0)),
            code_and_errno(ipc_sendv(&p, 1, none(), 0)),
            code_and_errno(ipc_broadcast(list, &m, none(), &mut count)),
            code_and_errno(ipc_read_timeout(&p, &mut received, 0)),
            code_and_errno(ipc_server_open(&mut other, c"inside".as_ptr(), none())),
            code_and_errno(ipc_connection_timeout(&mut other, c"inside".as_ptr(), 0)),
            code_and_errno(ipc_set_data(&p, list.cast(), None)),
            code_and_errno(ipc_why(&p, &mut reason)),
            code_and_errno(ipc_end(list, &mut other, 0)),
            code_and_errno(ipc_status(list, &mut status)),
            code_and_errno(ipc_add_signal(list, libc::SIGUSR2)),
            code_and_errno(ipc_add_timer(list, 1, 1, none())),
            code_and_errno(ipc_del_timer(list, 3)),
        ]
    }
}

/// The code of each function inside the library, in the same order.
const INSIDE_CODES: [ipc_errors; 26] = [
    IPC_ERROR_WAIT_EVENT__SELECT,
    IPC_ERROR_WAIT_EVENT__SELECT,
    IPC_ERROR_WAIT_EVENT__SELECT,
    IPC_ERROR_ADD__EMPTY_LIST,
    IPC_ERROR_DEL__CANNOT_FIND_CLIENT,
    IPC_ERROR_USOCK_SEND,
    IPC_ERROR_USOCK_SEND,
    IPC_ERROR_USOCK_SEND,
    IPC_ERROR_USOCK_RECV,
    IPC_ERROR_USOCK_RECV,
    IPC_ERROR_USOCK_SEND,
    IPC_ERROR_USOCK_RECV,
    IPC_ERROR_USOCK_RECV,
    IPC_ERROR_USOCK_SEND,
    IPC_ERROR_USOCK_SEND,
    IPC_ERROR_USOCK_SEND,
    IPC_ERROR_USOCK_RECV,
    IPC_ERROR_USOCK_INIT__BIND,
    IPC_ERROR_USOCK_CONNECT__SOCKET,
    IPC_ERROR_USOCK_RECV,
    IPC_ERROR_USOCK_RECV,
    IPC_ERROR_DEL__CANNOT_FIND_CLIENT,
    IPC_ERROR_WAIT_EVENT__SELECT,
    IPC_ERROR_ADD__EMPTY_LIST,
    IPC_ERROR_ADD__EMPTY_LIST,
    IPC_ERROR_DEL__CANNOT_FIND_CLIENT,
];

static DESTROYED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_destroyed(_: *mut std::ffi::c_void) {
    DESTROYED.fetch_add(1, Relaxed);
}

extern "C" fn call_library_in_handler(_: i32) {
    let before = unsafe { *libc::__errno_location() };
    unsafe { ipc_message_empty(none()) };
    // A call returns EDEADLK if it has interrupted the library.
    if unsafe { *libc::__errno_location() } == libc::EDEADLK {
        INSIDE.fetch_add(1, Relaxed);
        if !unsafe { ipc_data(&ipc_connection_info { fd: FD.load(Relaxed), ..EMPTY_INFO }) }.is_null() {
            WRONG.store(100, Relaxed);
        }
        for (number, (reported, code)) in call_all().iter().zip(INSIDE_CODES).enumerate() {
            if *reported != (code, libc::EDEADLK) {
                WRONG.store(number + 1, Relaxed);
            }
        }
    } else {
        OUTSIDE.fetch_add(1, Relaxed);
    }
    set_errno(before);
}

fn handle(signal: i32, handler: extern "C" fn(i32)) {
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, none()), 0);
    }
}

/// Sends itself signals at varying times while it calls many functions, until enough signals have interrupted
/// the library.
fn is_interrupted_in_the_library() {
    let (ours, peer) = pair();
    let (mut program, file) = (Program::client(), numbered_file(1));
    let mut info = connection(&ours);
    FD.store(ours.as_raw_fd(), Relaxed);
    assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
    allow(info.fd);
    handle(libc::SIGALRM, call_library_in_handler);
    let (mut rounds, m) = (0_u64, message(1, b"words"));
    let theirs = connection(&peer);
    let mut array = events(8);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while INSIDE.load(Relaxed) < 300 && std::time::Instant::now() < end {
        rounds += 1;
        let time = libc::timeval { tv_sec: 0, tv_usec: 1 + (rounds * 37 % 60) as i64 };
        let once = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let timer = libc::itimerval { it_interval: once, it_value: time };
        unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, none()) };
        for _ in 0..3 {
            let (mut count, mut fd) = (array.len(), -1);
            unsafe {
                ipc_queue(&info, &m);
                ipc_flush(&info, 0);
                ipc_write_fd(&theirs, &m, file.as_raw_fd());
                ipc_wait_events(&mut program.list, none(), array.as_mut_ptr(), &mut count, 0);
                ipc_limits(&info, 1000, 1000);
                if ipc_take_fd(&info, &mut fd) == IPC_ERROR_NONE {
                    libc::close(fd);
                }
                ipc_limits(&info, 0, 0);
                ipc_set_data(&info, DESTROYED.as_ptr().cast(), Some(count_destroyed));
                ipc_set_data(&info, none(), None);
                let mut id = 0;
                if ipc_add_timer(&mut program.list, 60_000, 0, &mut id) == IPC_ERROR_NONE {
                    ipc_del_timer(&mut program.list, id);
                }
                let mut answer = EMPTY_MESSAGE;
                ipc_read(&theirs, &mut answer);
                ipc_message_empty(&mut answer);
            }
        }
    }
    unsafe { libc::setitimer(libc::ITIMER_REAL, &std::mem::zeroed(), none()) };
    assert_eq!(WRONG.load(Relaxed), 0, "the number of the call with a wrong result");
    child::send_line(format!("{} {}", INSIDE.load(Relaxed), OUTSIDE.load(Relaxed)));
    // The library works as before.
    assert_eq!(queue(info.fd, 2, b"as before"), Ok(()));
    assert_eq!(flush(info.fd, -1), Ok(()));
    assert_eq!(read(theirs.fd), Ok((2, b"as before".to_vec())));
    assert_eq!(unsafe { ipc_del(&mut program.list, &mut info) }, IPC_ERROR_NONE);
}

#[test]
fn each_function_returns_edeadlk_in_a_nested_handler() {
    own_process!(60);
    let mut program = Child::start(is_interrupted_in_the_library);
    let reported = program.read_line();
    let (inside, outside) = reported.split_once(' ').unwrap();
    say(&format!("{inside} signals inside the library, {outside} outside"));
    let inside: usize = inside.parse().unwrap();
    assert!(inside >= 50, "only {inside} signals have interrupted the library: too few for a result");
    assert!(program.end().success());
}

static QUEUED: AtomicBool = AtomicBool::new(false);

/// While the library waits, a handler may call any function.
extern "C" fn queue_in_handler(_: i32) {
    let p = ipc_connection_info { fd: FD.load(Relaxed), ..EMPTY_INFO };
    let m = ipc_message { r#type: 7, ..EMPTY_MESSAGE };
    let before = unsafe { *libc::__errno_location() };
    if !QUEUED.load(Relaxed) && unsafe { ipc_queue(&p, &m) } == IPC_ERROR_NONE {
        QUEUED.store(unsafe { ipc_flush(&p, 0) } == IPC_ERROR_NONE, Relaxed);
    }
    set_errno(before);
}

fn is_interrupted_while_it_waits() {
    handle(libc::SIGUSR1, queue_in_handler);
    for call in 0..3 {
        let (ours, peer) = patient_pair();
        let (stuck, _never_reads) = pair();
        let mut waiting = Listed::of(ours);
        FD.store(waiting.fd(), Relaxed);
        QUEUED.store(false, Relaxed);
        let main = unsafe { libc::pthread_self() };
        // This thread sends signals until the peer has received the handler's frame, and then answers.
        let other = std::thread::spawn(move || {
            let mut peer = peer;
            peer.set_nonblocking(true).unwrap();
            let mut got = [0; 5];
            until("a frame of the handler", || {
                unsafe { libc::pthread_kill(main, libc::SIGUSR1) };
                std::io::Read::read_exact(&mut peer, &mut got).is_ok()
            });
            assert_eq!(got.to_vec(), frame(7, b""));
            std::io::Write::write_all(&mut peer, &frame(8, b"answer")).unwrap();
            peer
        });
        match call {
            0 => assert!(matches!(waiting.program.poll(20_000), Seen::Reported(Reported::Message(_, 8, _)))),
            1 => {
                let reported = waiting.program.many(&mut events(2), 20_000);
                assert!(matches!(reported[..], [Seen::Reported(Reported::Message(_, 8, _))]));
            }
            _ => {
                queue(stuck.as_raw_fd(), 1, &vec![0; 1 << 20]).unwrap();
                until("the handler", || {
                    let reported = flush(stuck.as_raw_fd(), 500);
                    assert_eq!(reported, Err((IPC_ERROR_USOCK_SEND, libc::ETIMEDOUT)));
                    QUEUED.load(Relaxed)
                });
            }
        }
        let _peer = other.join().unwrap();
    }
    child::send_line("done");
}

#[test]
fn handler_may_queue_and_flush_while_the_library_waits() {
    own_process!(90);
    let mut program = Child::start(is_interrupted_while_it_waits);
    assert_eq!(program.read_line(), "done");
    assert!(program.end().success());
}
