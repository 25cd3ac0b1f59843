//! Promise 12: descriptors of any kind in ipc_add_fd.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::support::*;

/// The most bytes of one event.
const MOST: usize = 64 << 10;

fn add(program: &mut Program, fd: &impl AsRawFd) -> RawFd {
    assert_eq!(unsafe { ipc_add_fd(&mut program.list, fd.as_raw_fd()) }, IPC_ERROR_NONE);
    fd.as_raw_fd()
}

fn owned(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A server that waits for an extra descriptor, and a client.
struct Waiting {
    server: Box<Program>,
    peer: UnixStream,
    peer_fd: RawFd,
}

impl Waiting {
    fn new() -> Self {
        let mut server = Program::server();
        let (peer, peer_fd) = server.peer();
        Self { server, peer, peer_fd }
    }

    /// Asserts that only the peer's messages are reported, that the library uses little CPU time meanwhile,
    /// and that the library has not closed the program's descriptor.
    fn assert_silence(&mut self, open: RawFd) {
        for n in 0..5 {
            self.peer.write_all(&frame(1, &[n])).unwrap();
            assert_eq!(self.server.next(), Reported::Message(self.peer_fd, 1, vec![n]));
        }
        let (reported, share) = share_computed(&self.peer, &frame(1, b"later"), || self.server.next());
        assert_eq!(reported, Reported::Message(self.peer_fd, 1, b"later".to_vec()));
        assert!(share < 0.2, "{share} of the time was CPU time");
        assert!(is_open(open), "the descriptor stays the program's");
    }

    /// All bytes of the descriptor that are reported before its end.
    fn until_the_end_of(&mut self, fd: RawFd) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.server.next() {
                Reported::Extra(reported, bytes) if reported == fd && bytes.is_empty() => return all,
                Reported::Extra(reported, bytes) if reported == fd => {
                    assert!(bytes.len() <= MOST, "{} bytes in one event", bytes.len());
                    all.extend(bytes);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        free_extras(&mut self.server);
    }
}

#[test]
fn promise_12_pipe_is_read_until_its_end() {
    own_process!(30);
    let mut waiting = Waiting::new();
    let (reader, mut writer) = pipe();
    let fd = add(&mut waiting.server, &reader);
    for text in [b"a line\n", b"a\0 byte", b"\xff\xff\xff\xff\xff\xff\xff"] {
        writer.write_all(text).unwrap();
        assert_eq!(waiting.server.next(), Reported::Extra(fd, text.to_vec()));
    }
    writer.write_all(b"the last").unwrap();
    drop(writer);
    assert_eq!(waiting.until_the_end_of(fd), b"the last");
    waiting.assert_silence(fd);
}

#[test]
fn promise_12_descriptor_without_bytes_blocks_no_member() {
    own_process!(30);
    let mut waiting = Waiting::new();
    let (reader, writer) = pipe();
    let fd = add(&mut waiting.server, &reader);
    waiting.assert_silence(fd);
    drop(writer);
    assert_eq!(waiting.server.next(), Reported::Extra(fd, vec![]));
}

/// Both sides of a terminal, if there are terminals here.
fn terminal() -> Option<(OwnedFd, OwnedFd)> {
    let (mut master, mut slave, none) = (-1, -1, std::ptr::null_mut());
    if unsafe { libc::openpty(&mut master, &mut slave, none, none.cast(), none.cast()) } != 0 {
        say(&format!("SKIPPED: a terminal; there is none: {}", std::io::Error::last_os_error()));
        return None;
    }
    Some((owned(master), owned(slave)))
}

#[test]
fn promise_12_terminal_is_read_until_its_end() {
    own_process!(30);
    let Some((master, slave)) = terminal() else { return };
    let mut keyboard = std::fs::File::from(master);
    let mut waiting = Waiting::new();
    let fd = add(&mut waiting.server, &slave);
    for line in ["first\n", "second\n"] {
        keyboard.write_all(line.as_bytes()).unwrap();
        assert_eq!(waiting.server.next(), Reported::Extra(fd, line.as_bytes().to_vec()));
    }
    // Ctrl-D at the beginning of a line, and then a hang-up: each is an end, and only one end is reported.
    keyboard.write_all(&[4]).unwrap();
    assert_eq!(waiting.server.next(), Reported::Extra(fd, vec![]));
    waiting.assert_silence(fd);
    drop(keyboard);
    waiting.assert_silence(fd);
}

/// On one side of a terminal a hang-up is an end of file, on the other side an error.
#[test]
fn promise_12_hang_up_of_a_terminal_is_its_end() {
    own_process!(30);
    let (Some((one, two)), Some((three, four))) = (terminal(), terminal()) else { return };
    for (added, closed) in [(two, one), (three, four)] {
        let mut waiting = Waiting::new();
        let fd = add(&mut waiting.server, &added);
        waiting.assert_silence(fd);
        drop(closed);
        assert_eq!(waiting.server.next(), Reported::Extra(fd, vec![]));
        waiting.assert_silence(fd);
    }
}

#[test]
fn promise_12_socket_is_read_as_plain_bytes() {
    own_process!(30);
    let mut waiting = Waiting::new();
    let (mut other, end) = pair();
    let fd = add(&mut waiting.server, &end);
    other.write_all(&frame(1, b"not taken for a frame")).unwrap();
    assert_eq!(waiting.server.next(), Reported::Extra(fd, frame(1, b"not taken for a frame")));
    let bytes = pattern(150_000, 5);
    other.write_all(&bytes).unwrap();
    drop(other);
    assert!(waiting.until_the_end_of(fd) == bytes);
    waiting.assert_silence(fd);
}

#[test]
fn promise_12_timer_counter_and_signal_fds_are_read() {
    own_process!(30);
    let mut waiting = Waiting::new();
    let timer = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) });
    let counter = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) });
    let signals = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR2);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
        owned(libc::signalfd(-1, &set, libc::SFD_CLOEXEC))
    };
    let [timer_fd, counter_fd, signals_fd] =
        [&timer, &counter, &signals].map(|fd| add(&mut waiting.server, fd));
    for n in 1..4_u64 {
        let soon = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: soon };
        assert_eq!(unsafe { libc::timerfd_settime(timer_fd, 0, &once, std::ptr::null_mut()) }, 0);
        assert_eq!(waiting.server.next(), Reported::Extra(timer_fd, 1_u64.to_ne_bytes().to_vec()));
        assert_eq!(unsafe { libc::write(counter_fd, (&raw const n).cast(), 8) }, 8);
        assert_eq!(waiting.server.next(), Reported::Extra(counter_fd, n.to_ne_bytes().to_vec()));
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) }, 0);
        let Reported::Extra(fd, signal) = waiting.server.next() else { panic!("no signal") };
        assert_eq!((fd, signal.len()), (signals_fd, size_of::<libc::signalfd_siginfo>()));
        assert_eq!(signal[..4], libc::SIGUSR2.to_ne_bytes());
    }
    waiting.assert_silence(timer_fd);
}

#[test]
fn promise_12_regular_file_is_read_until_its_end() {
    own_process!(30);
    let mut waiting = Waiting::new();
    let mut file = tempfile::tempfile().unwrap();
    let bytes = pattern(200_000, 6);
    file.write_all(&bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let fd = add(&mut waiting.server, &file);
    // The file is always ready, but other members have their turns.
    let Reported::Extra(_, first) = waiting.server.next() else { panic!("no bytes of the file") };
    waiting.peer.write_all(&frame(1, b"between")).unwrap();
    let mut all = first;
    let mut reported = waiting.server.next();
    while let Reported::Extra(_, bytes) = reported {
        assert!(!bytes.is_empty() && bytes.len() <= MOST);
        all.extend(bytes);
        reported = waiting.server.next();
    }
    assert_eq!(reported, Reported::Message(waiting.peer_fd, 1, b"between".to_vec()));
    all.extend(waiting.until_the_end_of(fd));
    assert!(all == bytes);
    waiting.assert_silence(fd);
}

#[test]
fn promise_12_descriptors_without_bytes_report_their_end() {
    own_process!(30);
    let mut waiting = Waiting::new();
    for path in ["/dev/null", "/"] {
        let file = std::fs::File::open(path).unwrap();
        let fd = add(&mut waiting.server, &file);
        assert_eq!(waiting.server.next(), Reported::Extra(fd, vec![]), "{path}");
        waiting.assert_silence(fd);
        free_extras(&mut waiting.server);
    }
}

#[test]
fn promise_12_listening_socket_reported_for_each_new_client() {
    own_process!(30);
    let mut waiting = Waiting::new();
    let path = rundir().join("listening");
    let listener = UnixListener::bind(&path).unwrap();
    let fd = add(&mut waiting.server, &listener);
    waiting.assert_silence(fd);
    let mut clients = Vec::new();
    for taken in [true, false, true, false] {
        clients.push(UnixStream::connect(&path).unwrap());
        assert_eq!(waiting.server.next(), Reported::Extra(fd, vec![]));
        // A client that the program does not accept is not reported again.
        if taken {
            listener.accept().unwrap();
        }
        waiting.assert_silence(fd);
    }
}

/// Another program may read from the same file: bytes that the kernel has reported may be missing in the
/// descriptor's turn.
#[test]
fn promise_12_bytes_read_by_another_reader_block_no_member() {
    own_process!(30);
    let mut waiting = Waiting::new();
    let pipes: Vec<_> = (0..2).map(|_| pipe()).collect();
    for (reader, _) in &pipes {
        add(&mut waiting.server, reader);
    }
    for n in 0..20 {
        for (_, writer) in &pipes {
            (&*writer).write_all(&[n]).unwrap();
        }
        let Reported::Extra(reported, bytes) = waiting.server.next() else { panic!("no bytes") };
        assert_eq!(bytes, [n]);
        let (other, _) = pipes.iter().find(|(reader, _)| reader.as_raw_fd() != reported).unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(&mut &*other, &mut byte).unwrap();
        assert_eq!(byte, [n]);
        waiting.peer.write_all(&frame(1, &[n])).unwrap();
        assert_eq!(waiting.server.next(), Reported::Message(waiting.peer_fd, 1, vec![n]));
    }
}

#[test]
fn promise_12_empty_datagram_is_not_end_of_file() {
    own_process!(30);
    let mut program = Program::client();
    let (one, two) = std::os::unix::net::UnixDatagram::pair().unwrap();
    one.send(b"").unwrap();
    one.send(b"second").unwrap();
    assert_eq!(unsafe { ipc_add_fd(&mut program.list, two.as_raw_fd()) }, IPC_ERROR_NONE);
    assert_eq!(program.next(), Reported::Extra(two.as_raw_fd(), vec![]));
    assert_eq!(program.next(), Reported::Extra(two.as_raw_fd(), b"second".to_vec()));
    one.send(b"later").unwrap();
    assert_eq!(program.next(), Reported::Extra(two.as_raw_fd(), b"later".to_vec()));
    free_extras(&mut program);
}
