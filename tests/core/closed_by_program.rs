//! Promise 31: a program closes every descriptor that it did not open itself, as daemons and workers do, and
//! so also the library's: between two calls, in a signal handler, in another thread while a call waits, in a
//! child. The program's own files may then get the numbers. The library continues to work, and touches none
//! of these files.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::foreign_files::*;
use crate::support::*;

child::roles! { closes_unknown_descriptors, closes_its_clients, closes_and_frees }

/// Which numbers the program knows. It never closes a number beyond the array: those are the program's own.
static KNOWN: [AtomicBool; 700] = [const { AtomicBool::new(false) }; 700];

/// Descriptors of the program's files, which get the numbers that were closed; -1 for an unused place.
static FILES: [AtomicI32; 20] = [const { AtomicI32::new(-1) }; 20];

/// The numbers that were closed, in order; the files of `FILES` have got the first of them, in the same
/// order.
static CLOSED: [AtomicI32; 600] = [const { AtomicI32::new(-1) }; 600];
static CLOSED_COUNT: AtomicUsize = AtomicUsize::new(0);

fn know(fd: RawFd) {
    if let Some(known) = KNOWN.get(usize::try_from(fd).unwrap()) {
        known.store(true, SeqCst);
    }
}

/// Closes every descriptor that the program does not know, or replaces it by one of the program's files, as
/// long as there are files. Safe in a signal handler.
fn close_unknown() {
    let mut count = 0;
    for (fd, known) in (0..).zip(&KNOWN).skip(3) {
        unsafe {
            if known.load(SeqCst) || libc::fcntl(fd, libc::F_GETFD) < 0 {
                continue;
            }
            match FILES.get(count).map(|file| file.load(SeqCst)) {
                Some(file) if file >= 0 => libc::dup2(file, fd),
                _ => libc::syscall(libc::SYS_close_range, fd, fd, 0) as i32,
            };
        }
        CLOSED[count].store(fd, SeqCst);
        count += 1;
    }
    CLOSED_COUNT.store(count, SeqCst);
}

fn closed() -> Vec<RawFd> {
    CLOSED[..CLOSED_COUNT.load(SeqCst)].iter().map(|fd| fd.load(SeqCst)).collect()
}

/// The test sends the signal again and again until the call has returned; only the first one closes.
extern "C" fn close_in_handler(_: i32) {
    let errno = nix::errno::Errno::last_raw();
    if CLOSED_COUNT.load(SeqCst) == 0 {
        close_unknown();
    }
    nix::errno::Errno::set_raw(errno);
}

/// A server with clients, each of which has sent a message, and a connection that has ended: so the library
/// has opened descriptors of each kind.
struct World {
    program: Box<Program>,
    peers: Vec<(UnixStream, i32)>,
    has_event_fd: bool,
    foreign_files: Vec<ForeignFile>,
}

impl World {
    fn new(clients: usize, has_event_fd: bool, has_files: bool) -> Self {
        let mut program = child::server();
        let mut peers = Vec::new();
        for _ in 0..clients {
            let (peer, fd) = program.peer();
            let mut peer = at_high_number(peer);
            peer.write_all(&frame(1, b"hello")).unwrap();
            assert_eq!(program.next(), Reported::Message(fd, 1, b"hello".to_vec()));
            know(fd);
            peers.push((peer, fd));
        }
        assert_eq!(program.poll(0), Seen::Nothing);
        if has_event_fd {
            program.event_fd();
        }
        let foreign_files: Vec<_> =
            if has_files { KINDS.repeat(4).into_iter().map(ForeignFile::new).collect() } else { Vec::new() };
        for (place, foreign_file) in FILES.iter().zip(&foreign_files) {
            place.store(foreign_file.own_fd(), SeqCst);
        }
        know(program.srv.as_ref().unwrap().fd);
        // The number of the ended connection is held until the next call for the list.
        let (peer, _) = program.peer();
        drop(peer);
        assert!(matches!(program.next(), Reported::Disconnection(_)));
        Self { program, peers, has_event_fd, foreign_files }
    }

    /// Each client gets an answer, and a new client connects and closes.
    fn assert_works(&mut self) {
        for (peer, _) in &mut self.peers {
            peer.write_all(&frame(2, b"question")).unwrap();
        }
        let mut left: Vec<_> = self.peers.iter().map(|(_, fd)| *fd).collect();
        while !left.is_empty() {
            match self.program.next() {
                Reported::Message(fd, 2, question) if question == b"question" && left.contains(&fd) => {
                    left.retain(|other| *other != fd);
                    assert_eq!(write(fd, 3, b"answer"), IPC_ERROR_NONE);
                }
                other => panic!("{other:?}"),
            }
        }
        for (peer, _) in &mut self.peers {
            assert_eq!(read_frame(peer), (3, b"answer".to_vec()));
        }
        let (mut peer, fd) = self.program.peer();
        if self.has_event_fd {
            // The program asks for a new event descriptor, since it has closed the old one.
            let event_fd = self.program.event_fd();
            assert!(!is_readable(event_fd) || self.program.all() == NOTHING);
            peer.write_all(&frame(1, b"hello")).unwrap();
            assert!(becomes_readable(event_fd, 10_000));
        } else {
            peer.write_all(&frame(1, b"hello")).unwrap();
        }
        assert_eq!(self.program.next(), Reported::Message(fd, 1, b"hello".to_vec()));
        drop(peer);
        assert_eq!(self.program.next(), Reported::Disconnection(fd));
    }

    fn assert_files_are_untouched(&self) {
        let closed = closed();
        assert!(!closed.is_empty(), "the library has no descriptor of its own");
        for (foreign_file, number) in self.foreign_files.iter().zip(closed) {
            foreign_file.assert_untouched(number);
        }
    }

    /// Frees everything of the library; the files must still be untouched.
    fn end(self) {
        let Self { program, peers, foreign_files, .. } = self;
        drop((program, peers));
        for (foreign_file, number) in foreign_files.iter().zip(closed()) {
            foreign_file.assert_untouched(number);
        }
    }
}

/// A socket with a number above those that are closed.
fn unconnected() -> OwnedFd {
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        let low = OwnedFd::from_raw_fd(fd);
        OwnedFd::from_raw_fd(libc::fcntl(low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 700))
    }
}

/// A file that is not readable, at the lowest free number.
fn unconnected_low() -> OwnedFd {
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) }
}

fn connect(socket: &OwnedFd, path: &Path) {
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    let bytes = path.as_os_str().as_bytes();
    address.sun_path.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte as _);
    let size = size_of_val(&address) as u32;
    let connected = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
    assert_eq!(connected, 0, "{}", std::io::Error::last_os_error());
}

/// Calls `act` in another thread as soon as this thread waits for the next event.
fn while_it_waits(world: &mut World, act: impl FnOnce(&AtomicBool) + Send) -> Result<Seen, Failure> {
    let this = unsafe { libc::syscall(libc::SYS_gettid) };
    let has_returned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("the call waits", || thread_sleeps(this));
            act(&has_returned);
        });
        let reported = world.program.try_poll(-1);
        has_returned.store(true, SeqCst);
        reported
    })
}

/// The test sends one line: when to close, how many clients, whether the program has asked for ipc_event_fd's
/// descriptor, and whether files get the closed numbers.
fn closes_unknown_descriptors() {
    let words = child::read_line();
    let mut words = words.split(' ');
    let mut word = || words.next().unwrap();
    let (when, clients) = (word(), word().parse().unwrap());
    let mut world = World::new(clients, word() == "true", word() == "true");
    match when {
        "between" => close_unknown(),
        "handler" => unsafe {
            let handler: extern "C" fn(i32) = close_in_handler;
            libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
            let this = libc::pthread_self();
            let reported = while_it_waits(&mut world, |has_returned| {
                until("the call returns", || {
                    libc::pthread_kill(this, libc::SIGUSR1);
                    has_returned.load(SeqCst)
                });
            });
            assert_eq!(reported, Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EINTR)));
        },
        "thread" => {
            let path = world.program.path.clone();
            // Made before the close, so that the socket does not get the number of the set in use.
            let client = unconnected();
            let reported = while_it_waits(&mut world, |_| {
                close_unknown();
                // This file gets the number of the set in use.
                let taken = std::fs::File::from(unconnected_low());
                connect(&client, &path);
                drop(taken);
            });
            drop(client);
            let Ok(Seen::Reported(Reported::Connection(fd))) = reported else { panic!("{reported:?}") };
            assert_eq!(world.program.next(), Reported::Disconnection(fd));
        }
        _ => {
            let child = fork();
            if child == 0 {
                close_unknown();
                for _ in 0..3 {
                    world.assert_works();
                }
                world.assert_files_are_untouched();
                world.program.srv = None;
                world.end();
                unsafe { libc::_exit(0) };
            }
            assert_eq!(wait_for(child), 0);
            // The parent has closed nothing, and still has the same event descriptor.
            for _ in 0..3 {
                world.assert_works();
            }
            return;
        }
    }
    for _ in 0..3 {
        world.assert_works();
    }
    world.assert_files_are_untouched();
    world.end();
}

fn run_all(when: &str) {
    for clients in [0, 1, 100] {
        for has_event_fd in [false, true] {
            for has_files in [false, true] {
                let case = format!("{when} {clients} {has_event_fd} {has_files}");
                let mut child = Child::start(closes_unknown_descriptors);
                child.send_line(&case);
                assert!(child.end().success(), "{case}");
            }
        }
    }
}

#[test]
fn promise_31_fds_closed_between_two_calls() {
    own_process!(90);
    run_all("between");
}

#[test]
fn promise_31_fds_closed_in_a_handler_while_a_call_waits() {
    own_process!(90);
    run_all("handler");
}

#[test]
fn promise_31_fds_closed_in_a_thread_while_a_call_waits() {
    own_process!(90);
    run_all("thread");
}

#[test]
fn promise_31_fds_closed_in_a_child_do_not_affect_the_parent() {
    own_process!(90);
    run_all("child");
}

/// The program also closes some clients: the library reports one DISCONNECTION for each.
fn closes_its_clients() {
    let mut world = World::new(20, child::read_line() == "true", true);
    for (_, fd) in world.peers.iter().skip(1).step_by(2) {
        KNOWN[usize::try_from(*fd).unwrap()].store(false, SeqCst);
    }
    let closed_clients: Vec<_> = world.peers.iter().skip(1).step_by(2).map(|(_, fd)| *fd).collect();
    close_unknown();
    world.peers.retain(|(_, fd)| !closed_clients.contains(fd));
    let mut reported: Vec<_> = closed_clients.iter().map(|_| world.program.next()).collect();
    reported.sort_by_key(|reported| match reported {
        Reported::Disconnection(fd) => *fd,
        other => panic!("{other:?}"),
    });
    assert_eq!(reported, closed_clients.into_iter().map(Reported::Disconnection).collect::<Vec<_>>());
    for _ in 0..3 {
        world.assert_works();
    }
    world.assert_files_are_untouched();
    world.end();
}

#[test]
fn promise_31_closed_clients_are_reported_once() {
    own_process!(60);
    for has_event_fd in ["false", "true"] {
        let mut child = Child::start(closes_its_clients);
        child.send_line(has_event_fd);
        assert!(child.end().success(), "{has_event_fd}");
    }
}

/// Each call that may use or close a descriptor of the library is tried as the first call after all of them
/// were closed.
fn closes_and_frees() {
    let call = child::read_line();
    let mut world = World::new(3, true, true);
    let (mut own, other) = pair();
    let other = at_high_number(other);
    know(own.as_raw_fd());
    let mut added = info(own.as_raw_fd());
    let (_, first) = world.peers[0];
    let list = &raw mut world.program.list;
    close_unknown();
    unsafe {
        match call.as_str() {
            "ipc_connections_free" => ipc_connections_free(list),
            "ipc_server_close" => {
                let mut srv = world.program.srv.take().unwrap();
                assert_eq!(ipc_server_close(&mut srv), IPC_ERROR_NONE);
            }
            "ipc_close" => {
                let info = world.program.info(first);
                assert_eq!(ipc_close(info), IPC_ERROR_NONE);
                assert_eq!(world.program.next(), Reported::Disconnection(first));
            }
            "ipc_add" => {
                assert_eq!(ipc_add(list, &mut added), IPC_ERROR_NONE);
                (&other).write_all(&frame(1, b"hello")).unwrap();
                assert_eq!(world.program.next(), Reported::Message(added.fd, 1, b"hello".to_vec()));
                assert_eq!(ipc_del(list, &mut added), IPC_ERROR_NONE);
            }
            "ipc_del" => {
                let info = world.program.info(first);
                assert_eq!(ipc_del(list, info), IPC_ERROR_NONE);
            }
            "ipc_add_fd" => {
                assert_eq!(ipc_add_fd(list, added.fd), IPC_ERROR_NONE);
                (&other).write_all(b"hello").unwrap();
                assert_eq!(world.program.next(), Reported::Extra(added.fd, b"hello".to_vec()));
                assert_eq!(ipc_del_fd(list, added.fd), IPC_ERROR_NONE);
            }
            "ipc_read" => {
                (&world.peers[0].0).write_all(&frame(1, b"read")).unwrap();
                assert_eq!(read(first), Ok((1, b"read".to_vec())));
            }
            "exit" => {
                world.assert_files_are_untouched();
                libc::exit(0);
            }
            other => panic!("{other}"),
        }
    }
    own.write_all(b"x").unwrap();
    world.assert_files_are_untouched();
    world.end();
}

#[test]
fn promise_31_any_call_may_be_the_first_after_the_close() {
    own_process!(60);
    let calls = [
        "ipc_connections_free",
        "ipc_server_close",
        "ipc_close",
        "ipc_add",
        "ipc_del",
        "ipc_add_fd",
        "ipc_read",
        "exit",
    ];
    for call in calls {
        let mut child = Child::start(closes_and_frees);
        child.send_line(call);
        assert!(child.end().success(), "{call}");
    }
}
