//! The system calls of the harness. Descriptors of the program get the lowest numbers, as the library's own
//! descriptors do; descriptors of its peers get high numbers.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = 83;

/// The lowest number of the peers' descriptors.
pub const HIGH: RawFd = 300;

/// No descriptor has a higher number.
const END: RawFd = 420;

fn check(result: i32) -> i32 {
    Errno::result(result).expect("a system call of the harness")
}

/// Duplicates the descriptor to a high number.
pub fn high_copy(fd: RawFd) -> OwnedFd {
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, HIGH) });
    assert!(copy < END, "too many descriptors");
    unsafe { OwnedFd::from_raw_fd(copy) }
}

fn raise(fd: RawFd) -> OwnedFd {
    let high = high_copy(fd);
    close(fd);
    high
}

/// A connected socket for the program, and its peer's end, which is non-blocking.
pub fn pair() -> (RawFd, OwnedFd) {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) });
    (ends[0], peer(ends[1]))
}

/// An epoll set of the program.
pub fn epoll_set() -> RawFd {
    check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

/// Has the set report once that the descriptor is readable.
pub fn watch(set: RawFd, fd: RawFd) {
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
    check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &mut event) });
}

/// How many descriptors the set reports.
pub fn reports(set: RawFd) -> usize {
    let mut events: [libc::epoll_event; 64] = unsafe { std::mem::zeroed() };
    check(unsafe { libc::epoll_wait(set, events.as_mut_ptr(), 64, 0) }).unsigned_abs() as usize
}

/// A pipe: the end that the program reads, and the end to write to.
pub fn pipe() -> (RawFd, OwnedFd) {
    let mut ends = [0; 2];
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) });
    (ends[0], peer(ends[1]))
}

fn unblock(fd: OwnedFd) -> OwnedFd {
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) });
    fd
}

/// The peer's end of a socket that has connected, which is non-blocking.
pub fn peer(fd: RawFd) -> OwnedFd {
    let peer = unblock(raise(fd));
    // The library refuses descriptors for its end; here the peer accepts them. Before Linux 6.16 it accepts
    // them in any case.
    let on: libc::c_int = 1;
    unsafe {
        libc::setsockopt(peer.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const on).cast(), 4);
    }
    peer
}

/// Sends what the kernel takes.
pub fn send(fd: &OwnedFd, bytes: &[u8]) -> usize {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let count = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).unwrap_or(0)
}

/// Writes as many bytes as the kernel accepts; like [`send`], for descriptors that may be no socket. Writes
/// nothing if the reader has closed: that would cause SIGPIPE.
pub fn write(fd: &OwnedFd, bytes: &[u8]) -> usize {
    let mut asked = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    check(unsafe { libc::poll(&mut asked, 1, 0) });
    if asked.revents != libc::POLLOUT {
        return 0;
    }
    usize::try_from(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) }).unwrap_or(0)
}

/// Sends as many bytes as the kernel accepts, with descriptors.
pub fn send_with(fd: &OwnedFd, bytes: &[u8], descriptors: &[RawFd]) -> usize {
    let control = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &control[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None);
    // From Linux 6.16 on the kernel refuses descriptors that the receiver does not accept.
    if sent == Err(Errno::EPERM) { send(fd, bytes) } else { sent.unwrap_or(0) }
}

/// A file to be passed.
pub fn null() -> OwnedFd {
    raise(check(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }))
}

/// Checks that the descriptor is the file that was sent, and close-on-exec.
pub fn assert_is_null(fd: RawFd) {
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    check(unsafe { libc::fstat(fd, &mut status) });
    assert_eq!(status.st_rdev, libc::makedev(1, 3), "another file than was sent");
    assert_eq!(check(unsafe { libc::fcntl(fd, libc::F_GETFD) }), libc::FD_CLOEXEC);
}

pub fn is_readable(fd: RawFd) -> bool {
    let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    check(unsafe { libc::poll(&mut asked, 1, 0) });
    asked.revents == libc::POLLIN
}

/// A buffer for the bytes that can be read, at most `count`; for one byte if there are none, to detect end of
/// file.
fn room(fd: RawFd, count: usize) -> Vec<u8> {
    vec![0; unread(fd).max(1).min(count)]
}

/// Reads at most `count` bytes.
pub fn read(fd: RawFd, count: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = room(fd, count);
    let count = Errno::result(unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) })?;
    bytes.truncate(count.unsigned_abs());
    Ok(bytes)
}

/// Receives at most `count` bytes of a socket, and the number of descriptors that arrived with them, which
/// are files that were passed.
pub fn receive(fd: RawFd, count: usize) -> Result<(Vec<u8>, usize), Errno> {
    let (mut bytes, mut control) = (room(fd, count), nix::cmsg_space!([RawFd; 8]));
    let mut room = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(fd, &mut room, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = 0;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = message {
            descriptors += received.len();
            received.into_iter().for_each(|fd| {
                assert_is_null(fd);
                close(fd);
            });
        }
    }
    let count = received.bytes;
    bytes.truncate(count);
    Ok((bytes, descriptors))
}

/// How many bytes can be read.
pub fn unread(fd: RawFd) -> usize {
    let mut count = 0;
    check(unsafe { libc::ioctl(fd, libc::FIONREAD, &mut count) });
    usize::try_from(count).unwrap()
}

pub fn shutdown(fd: &OwnedFd, how: i32) {
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) });
}

/// Makes the kernel accept only few bytes for this socket before its peer reads.
pub fn make_narrow(fd: RawFd) {
    let size = 1;
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const size).cast(), 4) });
}

/// Duplicates the descriptor to `number`.
pub fn duplicate_to(fd: RawFd, number: RawFd) {
    if fd != number {
        check(unsafe { libc::dup2(fd, number) });
        close(fd);
    }
}

pub fn close(fd: RawFd) {
    check(unsafe { libc::close(fd) });
}

/// Whether the number is an open descriptor that can be used: the number of a connection whose end was
/// reported is held for a while by a descriptor that can only be closed.
pub fn is_open(fd: RawFd) -> bool {
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_PATH == 0
}

/// From now on SIGPIPE, which the library must not cause, ends the process with a trace.
pub fn have_no_sigpipe() {
    extern "C" fn abort(_: i32) {
        eprintln!("a SIGPIPE");
        std::process::abort();
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| unsafe {
        libc::signal(libc::SIGPIPE, abort as extern "C" fn(i32) as libc::sighandler_t);
    });
}

/// The numbers that are open, of all possible ones.
pub fn open_numbers() -> Vec<RawFd> {
    let mut asked: Vec<_> = (0..END).map(|fd| libc::pollfd { fd, events: 0, revents: 0 }).collect();
    check(unsafe { libc::poll(asked.as_mut_ptr(), asked.len() as libc::nfds_t, 0) });
    asked.iter().filter(|asked| asked.revents & libc::POLLNVAL == 0).map(|asked| asked.fd).collect()
}
