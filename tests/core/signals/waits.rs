//! Promise 30: which signals end a call that waits. Stop and continue do not end it, nor do a debugger that
//! attaches and detaches, or a signal without a handler. A handler ends `ipc_wait_event`; it ends calls that
//! read, accept or connect only if it has no SA_RESTART.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::child::{self, Child};
use crate::support::ext::*;
use crate::support::*;

child::roles! { waits_in_a_call, waits_while_half_frames_arrive }

/// Calls that wait for an event: any handler ends them.
const FOR_EVENTS: [&str; 4] =
    ["ipc_wait_event", "ipc_wait_event, no service", "ipc_wait_event_timeout", "ipc_wait_events"];

/// Calls that a handler ends if it has no SA_RESTART.
const RESTARTED: [&str; 11] = [
    "ipc_read",
    "ipc_read, half a frame",
    "ipc_read, something queued",
    "ipc_read, half a frame and something queued",
    "ipc_message_read",
    "usock_recv",
    "ipc_accept",
    "ipc_accept, after a list",
    "usock_accept",
    "ipc_connection",
    "usock_connect",
];

/// The same with SO_RCVTIMEO: the kernel then ends the calls after any handler, and after a stop.
const TIMED: [&str; 2] = ["ipc_read, 60 s", "ipc_accept, 60 s"];

/// Calls that no handler ends.
const NEVER_ENDED: [&str; 3] = ["ipc_wait_event_timeout, 60 s", "ipc_write", "ipc_flush, 60 s"];

extern "C" fn report_signal(_: i32) {
    let before = errno();
    child::send_line("handled");
    set_errno(before);
}

/// Installs a handler for SIGUSR1, and one without SA_RESTART for crashes, as programs that report crashes
/// do.
fn handle(flags: i32) {
    let handler: extern "C" fn(i32) = report_signal;
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        for crash in [libc::SIGILL, libc::SIGTRAP, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS] {
            assert_eq!(libc::sigaction(crash, &action, none()), 0);
        }
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, none()), 0);
    }
}

fn send_outcome(result: Result<(), Failure>) {
    match result {
        Ok(()) => child::send_line("done"),
        Err((_, libc::EINTR)) => child::send_line("interrupted"),
        Err(failure) => child::send_line(format!("{failure:?}")),
    }
}

/// The test sends the call, and then what happens to SIGUSR1. A second thread, with all signals blocked,
/// waits for the line "wake" and then makes the event that the call waits for.
fn waits_in_a_call() {
    let call = child::read_line();
    match child::read_line().as_str() {
        "restart" => handle(libc::SA_RESTART),
        "no restart" => handle(0),
        "ignored" => drop(unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) }),
        _ => {}
    }
    let mut server = child::server();
    let (ours, peer) = pair();
    let fd = ours.into_raw_fd();
    let own = &mut info(fd);
    let path = PathBuf::from(std::env::var_os("IPC_RUNDIR").unwrap());
    let full = CString::new(format!("full{}", std::process::id())).unwrap();
    let full_path = path.join(format!("{}-0-0", full.to_str().unwrap()));
    let listener = UnixListener::bind(&full_path).unwrap();
    let mut waker = Waker { call: call.clone(), peer, listener, path: server.path.clone(), client: None };
    waker.prepare(&full_path);
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before = all;
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        std::thread::spawn(move || {
            assert_eq!(child::read_line(), "wake");
            waker.wake();
            child::read_line();
        });
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, none());
        let list = &raw mut server.list;
        if call.contains("no service") {
            assert_eq!(ipc_add(list, own), IPC_ERROR_NONE);
        }
        let full_path = CString::new(full_path.to_str().unwrap()).unwrap();
        let name = full.as_ptr();
        let (mut event, mut count) = (EMPTY_EVENT, 1);
        let srv = if call.contains("no service") { none() } else { server.srv() };
        let mut number = -1;
        if call.contains("after a list") {
            // A list sets O_NONBLOCK on the service's socket.
            assert_eq!(server.poll(0), Seen::Nothing);
        }
        if TIMED.contains(&call.as_str()) {
            let time = libc::timeval { tv_sec: 60, tv_usec: 0 };
            for fd in [fd, (*srv).fd] {
                let (option, size) = ((&raw const time).cast(), size_of_val(&time) as u32);
                assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, option, size), 0);
            }
        }
        let (stuck, _does_not_read) = pair();
        if call.contains("something queued") {
            queue(stuck.as_raw_fd(), 1, &vec![0; 1_000_000]).unwrap();
        }
        if call.starts_with("ipc_flush") {
            queue(fd, 1, &vec![0; 3_000_000]).unwrap();
        }
        child::send_line("about to wait");
        let code = match call.split(',').next().unwrap() {
            "ipc_wait_event" => ipc_wait_event(list, srv, &mut event),
            "ipc_wait_event_timeout" if call.contains("60") => {
                ipc_wait_event_timeout(list, srv, &mut event, 60_000)
            }
            "ipc_wait_event_timeout" => ipc_wait_event_timeout(list, srv, &mut event, -1),
            "ipc_wait_events" => ipc_wait_events(list, srv, &mut event, &mut count, -1),
            "ipc_read" => ipc_read(own, &mut { EMPTY_MESSAGE }),
            "ipc_message_read" => ipc_message_read(fd, &mut { EMPTY_MESSAGE }),
            "usock_recv" => usock_recv(fd, &mut none(), &mut 0),
            "ipc_accept" => ipc_accept(srv, &mut { EMPTY_INFO }),
            "usock_accept" => usock_accept((*srv).fd, &mut number),
            "ipc_connection" => ipc_connection(env(), &mut { EMPTY_INFO }, name),
            "usock_connect" => usock_connect(&mut number, full_path.as_ptr()),
            "ipc_write" => write(fd, 1, &vec![0; 3_000_000]),
            "ipc_flush" => ipc_flush(own, 60_000),
            other => panic!("{other}"),
        };
        send_outcome(outcome(code));
        let _ = std::fs::remove_file(full_path.to_str().unwrap());
        libc::_exit(0);
    }
}

/// Makes the event that the call waits for.
struct Waker {
    call: String,
    peer: UnixStream,
    listener: UnixListener,
    path: PathBuf,
    client: Option<UnixStream>,
}

impl Waker {
    fn prepare(&mut self, full: &std::path::Path) {
        if self.call.contains("half") {
            self.peer.write_all(&frame(1, b"hello")[..7]).unwrap();
        }
        if self.call.contains("connect") {
            assert_eq!(unsafe { libc::listen(self.listener.as_raw_fd(), 0) }, 0);
            self.client = Some(UnixStream::connect(full).unwrap());
        }
    }

    fn wake(&mut self) {
        let (call, bytes) = (self.call.as_str(), frame(1, b"hello"));
        if call.contains("half") {
            self.peer.write_all(&bytes[7..]).unwrap();
        } else if call.contains("accept") || call.starts_with("ipc_wait") && !call.contains("no service") {
            self.client = Some(UnixStream::connect(&self.path).unwrap());
        } else if call.contains("connect") {
            drop(self.listener.accept().unwrap());
        } else if call.contains("write") || call.contains("flush") {
            read_frame(&mut self.peer);
        } else {
            self.peer.write_all(&bytes).unwrap();
        }
    }
}

/// A child that waits in the call.
fn waiting(call: &str, action: &str) -> Child {
    let mut child = Child::start(waits_in_a_call);
    child.send_line(call);
    child.send_line(action);
    assert_eq!(child.read_line(), "about to wait");
    until("the child waits", || child.sleeps());
    child
}

/// How often the child's first thread has waited: its voluntary context switches.
fn waits(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

/// Waits until the child has woken up for the library's own work, and waits again.
fn wait_for_wakeup(child: &Child) {
    let before = waits(child);
    until("the child wakes up", || waits(child) > before && child.sleeps());
}

/// Asserts that the call was not ended: the child waits, and its call succeeds when the event happens.
fn assert_continues(mut child: Child, what: &str) {
    until(what, || child.sleeps());
    child.send_line("wake");
    assert_eq!(child.read_line(), "done", "{what}");
    assert_ends(child, what);
}

/// Asserts that the child ends by itself, while its second thread still reads from the test.
fn assert_ends(mut child: Child, what: &str) {
    until(what, || child.has_ended());
    assert!(child.end().success(), "{what}");
}

fn is_stopped(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let state = stat.rsplit_once(") ").unwrap().1.as_bytes()[0];
    state == b'T' || state == b't'
}

fn stop_and_continue(child: &Child) {
    child.signal(libc::SIGSTOP);
    until("the child is stopped", || is_stopped(child));
    child.signal(libc::SIGCONT);
    until("the child waits again", || child.sleeps());
}

fn every_call() -> impl Iterator<Item = &'static str> {
    FOR_EVENTS.into_iter().chain(RESTARTED).chain(TIMED).chain(NEVER_ENDED)
}

#[test]
fn promise_30_stop_and_continue_end_no_call() {
    own_process!(100);
    for call in every_call() {
        // Also with a handler, which does not run. With SO_RCVTIMEO the kernel does not distinguish a stop
        // from a handler: then the handler has SA_RESTART.
        let handled = if TIMED.contains(&call) { "restart" } else { "no restart" };
        for action in ["default", handled] {
            let child = waiting(call, action);
            stop_and_continue(&child);
            stop_and_continue(&child);
            if call.starts_with("ipc_wait") {
                wait_for_wakeup(&child);
                stop_and_continue(&child);
                stop_and_continue(&child);
            }
            assert_continues(child, call);
        }
    }
}

/// Attaches to the process or detaches from it. None if ptrace(2) is forbidden here.
fn ptrace(request: libc::c_uint, child: &Child) -> Option<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    let code = unsafe { libc::ptrace(request, child.id(), nothing, nothing) };
    if code < 0 && errno() == libc::EPERM {
        return None;
    }
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    Some(())
}

#[test]
fn promise_30_debugger_attach_and_detach_end_no_call() {
    own_process!(100);
    for call in every_call() {
        let child = waiting(call, if TIMED.contains(&call) { "restart" } else { "no restart" });
        for attach in [libc::PTRACE_ATTACH, libc::PTRACE_SEIZE, libc::PTRACE_ATTACH] {
            if ptrace(attach, &child).is_none() {
                return say("SKIPPED: a debugger that attaches: ptrace(2) is forbidden here");
            }
            if attach == libc::PTRACE_SEIZE {
                ptrace(libc::PTRACE_INTERRUPT, &child).unwrap();
            }
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(child.id(), &mut status, libc::__WALL) }, child.id());
            assert!(libc::WIFSTOPPED(status));
            ptrace(libc::PTRACE_DETACH, &child).unwrap();
            until("the child waits again", || child.sleeps());
            if call.starts_with("ipc_wait") {
                wait_for_wakeup(&child);
            }
        }
        assert_continues(child, call);
    }
}

#[test]
fn promise_30_signal_without_a_handler_ends_no_call() {
    own_process!(60);
    for call in every_call() {
        let child = waiting(call, "ignored");
        for signal in [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT, libc::SIGUSR1] {
            child.signal(signal);
        }
        if call.starts_with("ipc_wait") {
            wait_for_wakeup(&child);
            child.signal(libc::SIGCHLD);
            child.signal(libc::SIGUSR1);
        }
        assert_continues(child, call);
    }
}

#[test]
fn promise_30_handler_ends_a_wait_for_events() {
    own_process!(60);
    for call in FOR_EVENTS {
        for action in ["restart", "no restart"] {
            let mut child = waiting(call, action);
            wait_for_wakeup(&child);
            // One signal is enough.
            child.signal(libc::SIGUSR1);
            assert_eq!(
                [child.read_line(), child.read_line()],
                ["handled", "interrupted"],
                "{call}, {action}"
            );
            assert_ends(child, call);
        }
    }
}

#[test]
fn promise_30_handler_ends_other_calls_without_sa_restart_only() {
    own_process!(60);
    for call in RESTARTED.into_iter().chain(TIMED).chain(NEVER_ENDED) {
        for action in ["restart", "no restart"] {
            let mut child = waiting(call, action);
            child.signal(libc::SIGUSR1);
            assert_eq!(child.read_line(), "handled", "{call}");
            if action == "no restart" && !NEVER_ENDED.contains(&call) {
                assert_eq!(child.read_line(), "interrupted", "{call}");
                assert_ends(child, call);
            } else {
                until("the child waits again", || child.sleeps());
                child.signal(libc::SIGUSR1);
                assert_eq!(child.read_line(), "handled", "{call}");
                assert_continues(child, call);
            }
        }
    }
}

/// A server whose clients send parts of frames without end, so that it rarely sleeps.
fn waits_while_half_frames_arrive() {
    handle(libc::SA_RESTART);
    let mut server = child::server();
    child::send_line(server.path.to_str().unwrap());
    for _ in 0..20 {
        assert!(matches!(server.next(), Reported::Connection(_)));
    }
    child::send_line("all are connected");
    for _ in 0..child::read_line().parse().unwrap() {
        child::send_line("about to wait");
        let reported = server.try_poll(-1);
        assert_eq!(reported, Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EINTR)));
        child::send_line("interrupted");
    }
}

#[test]
fn promise_30_handler_between_two_waits_ends_the_call() {
    own_process!(60);
    let mut child = Child::start(waits_while_half_frames_arrive);
    let path = child.read_line();
    let mut peers: Vec<_> = (0..20).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(child.read_line(), "all are connected");
    let rounds = 200;
    child.send_line(rounds.to_string());
    // Frames that are never finished, a byte at a time.
    let mut bytes = frame(1, &[0; 1_000_000]).into_iter();
    let mut send = |peers: &mut [UnixStream]| {
        let byte = bytes.next().unwrap();
        peers.iter_mut().for_each(|peer| peer.write_all(&[byte]).unwrap());
    };
    for round in 0..rounds {
        assert_eq!(child.read_line(), "about to wait");
        // The call's first wait is over, since it has received bytes.
        let before = waits(&child);
        until("the call has received bytes", || {
            send(&mut peers);
            waits(&child) > before + 3
        });
        for _ in 0..round % 7 {
            send(&mut peers);
        }
        child.signal(libc::SIGUSR1);
        assert_eq!([child.read_line(), child.read_line()], ["handled", "interrupted"], "round {round}");
    }
    assert!(child.end().success());
}
