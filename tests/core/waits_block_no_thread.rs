//! Promise 46: the library makes no system call that can wait under a lock. While one thread waits in a call,
//! the calls of other threads, fork(2) and exit(3) do not block: each test finishes other work while the
//! first thread still waits.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::child::{self, Child, wait_for};
use crate::support::ext::*;
use crate::support::*;

child::roles! { waits_while_others_work, reads_what_another_reader_takes }

const CALLS: [&str; 7] = [
    "ipc_read",
    "ipc_read, half a frame",
    "ipc_read, something queued",
    "usock_recv",
    "ipc_accept",
    "ipc_connection",
    "ipc_wait_event",
];

/// One thread waits in the call. Meanwhile this thread makes other calls and forks, and then ends the
/// process.
fn waits_while_others_work() {
    let (call, then) = (child::read_line(), child::read_line());
    let name = CString::new(format!("busy{}", std::process::id())).unwrap();
    let rundir = PathBuf::from(std::env::var_os("IPC_RUNDIR").unwrap());
    let waiter = {
        let (call, name, rundir) = (call.clone(), name.clone(), rundir.clone());
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            sender.send(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap();
            wait_in(&call, &name, &rundir);
            panic!("{call} has returned: {}", std::io::Error::last_os_error());
        });
        receiver.recv().unwrap()
    };
    until("the call waits", || thread_sleeps(waiter));
    // The work of other threads, repeated, so that it also meets the waiting thread's own work.
    for _ in 0..20 {
        work();
        let child = child::fork();
        if child == 0 {
            work();
            unsafe { libc::_exit(0) };
        }
        assert_eq!(wait_for(child), 0);
    }
    until("the call still waits", || thread_sleeps(waiter));
    child::send_line("done");
    match then.as_str() {
        "exit" => unsafe { libc::exit(0) },
        "exit in a thread" => drop(std::thread::spawn(|| unsafe { libc::exit(0) }).join()),
        _ => {
            let child = child::fork();
            if child == 0 {
                unsafe { libc::exit(0) };
            }
            assert_eq!(wait_for(child), 0);
        }
    }
}

/// Waits for ever.
fn wait_in(call: &str, name: &CString, rundir: &std::path::Path) {
    let (ours, mut peer) = pair();
    let fd = ours.into_raw_fd();
    match call {
        "ipc_read" => drop(read(fd)),
        "ipc_read, half a frame" => {
            peer.write_all(&frame(1, b"half")[..7]).unwrap();
            drop(read(fd));
        }
        "ipc_read, something queued" => {
            let (stuck, _does_not_read) = pair();
            queue(stuck.as_raw_fd(), 1, &vec![0; 1_000_000]).unwrap();
            drop(read(fd));
        }
        "usock_recv" => drop(outcome(unsafe { usock_recv(fd, &mut none(), &mut 0) })),
        "ipc_accept" => {
            let mut server = child::server();
            unsafe { ipc_accept(server.srv(), &mut { EMPTY_INFO }) };
        }
        "ipc_connection" => {
            let listener =
                UnixListener::bind(rundir.join(format!("{}-0-0", name.to_str().unwrap()))).unwrap();
            assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
            let connect = || unsafe { ipc_connection(env(), &mut { EMPTY_INFO }, name.as_ptr()) };
            assert_eq!(connect(), IPC_ERROR_NONE);
            connect();
        }
        _ => {
            let mut program = Program::client();
            let mut own = info(fd);
            assert_eq!(unsafe { ipc_add(&mut program.list, &mut own) }, IPC_ERROR_NONE);
            let _ = program.try_next();
        }
    }
}

/// A descriptor to watch, a descriptor of the same file for another reader (nonblocking), and the end to
/// write to.
type Shared = (i32, i32, std::fs::File);

fn open(path: &std::path::Path, flags: i32) -> i32 {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NOCTTY) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    fd
}

fn fifo(rundir: &std::path::Path) -> Shared {
    let path = rundir.join(format!("fifo{}", std::process::id()));
    let name = CString::new(path.to_str().unwrap()).unwrap();
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let watched = open(&path, libc::O_RDWR);
    let other_reader = open(&path, libc::O_RDONLY | libc::O_NONBLOCK);
    let writer = std::fs::File::options().write(true).open(&path).unwrap();
    (watched, other_reader, writer)
}

fn terminal() -> Shared {
    use std::os::fd::FromRawFd;
    unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        assert!(master >= 0 && libc::grantpt(master) == 0 && libc::unlockpt(master) == 0);
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0);
        let name = std::ffi::CStr::from_ptr(name.as_ptr()).to_str().unwrap().to_owned();
        let path = PathBuf::from(name);
        let watched = open(&path, libc::O_RDWR);
        let other_reader = open(&path, libc::O_RDWR | libc::O_NONBLOCK);
        (watched, other_reader, std::fs::File::from_raw_fd(master))
    }
}

/// Makes calls of each kind, which do not wait for ever, with connections of its own.
fn work() {
    let mut server = Program::client();
    let (ours, mut peer) = pair();
    let mut own = info(ours.into_raw_fd());
    let (reader, mut writer) = pipe();
    unsafe {
        assert_eq!(ipc_add(&mut server.list, &mut own), IPC_ERROR_NONE);
        assert_eq!(ipc_add_fd(&mut server.list, reader.as_raw_fd()), IPC_ERROR_NONE);
        assert_eq!(write(own.fd, 1, b"to the peer"), IPC_ERROR_NONE);
        assert_eq!(read_frame(&mut peer), (1, b"to the peer".to_vec()));
        peer.write_all(&frame(2, b"from the peer").repeat(2)).unwrap();
        assert_eq!(server.poll(10_000), Reported::Message(own.fd, 2, b"from the peer".to_vec()));
        assert_eq!(read(own.fd), Ok((2, b"from the peer".to_vec())));
        writer.write_all(b"more").unwrap();
        assert_eq!(server.poll(10_000), Reported::Extra(reader.as_raw_fd(), b"more".to_vec()));
        queue(own.fd, 3, b"queued").unwrap();
        flush(own.fd, 10_000).unwrap();
        limits(own.fd, 1000, 1000).unwrap();
        assert_eq!(server.del_fd(&reader), Ok(()));
        assert_eq!(ipc_del(&mut server.list, &mut own), IPC_ERROR_NONE);
        assert_eq!(ipc_close(&mut own), IPC_ERROR_NONE);
        ipc_connections_free(&mut server.list);
    }
}

#[test]
fn promise_46_other_threads_fork_and_exit_do_not_block() {
    own_process!(100);
    for call in CALLS {
        for then in ["exit", "exit in a thread", "fork"] {
            let mut child = Child::start(waits_while_others_work);
            child.send_line(call);
            child.send_line(then);
            assert_eq!(child.read_line(), "done", "{call}, {then}");
            until(&format!("the end: {call}, {then}"), || child.has_ended());
            assert!(child.end().success(), "{call}, {then}");
        }
    }
}

/// Another reader takes the bytes of a FIFO or a terminal at about the time at which the wait reports the
/// file as readable. A blocking read(2) would then wait, and nothing is written until the other calls have
/// finished.
fn reads_what_another_reader_takes() {
    let is_terminal = child::read_line() == "terminal";
    let rundir = PathBuf::from(std::env::var_os("IPC_RUNDIR").unwrap());
    let (watched, other_reader, mut writer) = if is_terminal { terminal() } else { fifo(&rundir) };
    std::thread::spawn(move || {
        let mut program = Program::client();
        assert_eq!(unsafe { ipc_add_fd(&mut program.list, watched) }, IPC_ERROR_NONE);
        loop {
            let Reported::Extra(..) = program.next() else { panic!("no bytes") };
        }
    });
    let mut bytes = [0; 64];
    for round in 0..500 {
        writer.write_all(b"x\n").unwrap();
        for _ in 0..round * 20 {
            std::hint::spin_loop();
        }
        unsafe { libc::read(other_reader, bytes.as_mut_ptr().cast(), bytes.len()) };
        // fork(2) takes every lock of the library.
        let child = child::fork();
        if child == 0 {
            unsafe { libc::_exit(0) };
        }
        assert_eq!(wait_for(child), 0);
        work();
    }
    child::send_line("done");
    unsafe { libc::exit(0) };
}

#[test]
fn promise_46_file_emptied_by_another_reader_does_not_block() {
    own_process!(60);
    for kind in ["FIFO", "terminal"] {
        let mut child = Child::start(reads_what_another_reader_takes);
        child.send_line(kind);
        assert_eq!(child.read_line(), "done");
        until(kind, || child.has_ended());
        assert!(child.end().success(), "{kind}");
    }
}

/// ipc_close of a connection that another thread reads does not wait for that thread.
#[test]
fn promise_46_ipc_close_does_not_wait_for_a_reader() {
    own_process!(30);
    for half in [0, 7] {
        let (ours, mut peer) = pair();
        let fd = ours.into_raw_fd();
        peer.write_all(&frame(1, b"half")[..half]).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            sender.send(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap();
            read(fd)
        });
        let id = receiver.recv().unwrap();
        until("the call waits", || thread_sleeps(id));
        assert_eq!(outcome(unsafe { ipc_close(&mut info(fd)) }), Ok(()));
        // The waiting thread must not read the next connection with the number.
        let (next, mut next_peer) = UnixStream::pair().unwrap();
        assert_eq!(next.as_raw_fd(), fd);
        next_peer.write_all(&frame(2, b"to the next")).unwrap();
        assert_eq!(read(fd), Ok((2, b"to the next".to_vec())));
        next_peer.write_all(&frame(2, b"to the next")).unwrap();
        drop(peer);
        let reported = reader.join().unwrap();
        assert!(reported.is_err(), "{reported:?}");
        assert_eq!(read(fd), Ok((2, b"to the next".to_vec())));
    }
}
