//! Promise 38: extra descriptors with errors and hang-ups that are temporary, and datagrams of any size.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use crate::support::ext::*;
use crate::support::*;

/// A program that frees the structures of its extra descriptors at its end.
struct WithExtras(Box<Program>);

impl std::ops::Deref for WithExtras {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

impl std::ops::DerefMut for WithExtras {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.0
    }
}

impl Drop for WithExtras {
    fn drop(&mut self) {
        free_extras(&mut self.0);
    }
}

fn add(program: &mut Program, fd: &impl AsRawFd) -> RawFd {
    assert_eq!(unsafe { ipc_add_fd(&mut program.list, fd.as_raw_fd()) }, IPC_ERROR_NONE);
    fd.as_raw_fd()
}

fn owned(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The bytes of the next event of this descriptor.
fn next(program: &mut Program, fd: RawFd) -> Vec<u8> {
    match program.next() {
        Reported::Extra(extra, bytes) if extra == fd => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn udp_error_is_reported_once_and_datagrams_still_arrive() {
    own_process!(30);
    let hosts = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
    for any in hosts {
        let Ok(socket) = UdpSocket::bind(any) else {
            say(&format!("SKIPPED: {any}: the address is not available here"));
            continue;
        };
        let free = UdpSocket::bind(any).unwrap().local_addr().unwrap();
        socket.connect(free).unwrap();
        let mut program = WithExtras(Program::client());
        let fd = add(&mut program, &socket);
        for round in 0..3_u8 {
            // No socket has the address: the kernel reports ECONNREFUSED at the next receive.
            socket.send(b"lost").unwrap();
            assert_eq!(next(&mut program, fd), b"", "round {round}");
            assert_eq!(program.poll(0), Seen::Nothing);
            let other = UdpSocket::bind(free).unwrap();
            other.send_to(&[round], socket.local_addr().unwrap()).unwrap();
            assert_eq!(next(&mut program, fd), [round]);
        }
    }
}

/// A pair of sockets of this kind.
fn pair_of(kind: libc::c_int) -> (OwnedFd, OwnedFd) {
    let mut fds = [-1; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }, 0);
    (owned(fds[0]), owned(fds[1]))
}

fn send(fd: &OwnedFd, bytes: &[u8]) {
    let sent = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    assert_eq!(sent, bytes.len() as isize, "{}", std::io::Error::last_os_error());
}

#[test]
fn datagrams_and_packets_of_any_size_are_whole() {
    own_process!(30);
    for kind in [libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let (ours, peer) = pair_of(kind);
        let mut program = WithExtras(Program::client());
        let fd = add(&mut program, &ours);
        for size in [1, 0, 65_535, 65_536, 65_537, 100_000, 150_000, 3] {
            let bytes = pattern(size, size + 1);
            send(&peer, &bytes);
            assert!(next(&mut program, fd) == bytes, "{kind}: {size} bytes");
        }
        // Several datagrams at once keep their boundaries.
        for size in [5, 70_000, 0, 7] {
            send(&peer, &pattern(size, 1));
        }
        for size in [5, 70_000, 0, 7] {
            assert!(next(&mut program, fd) == pattern(size, 1), "{kind}: {size} bytes of several");
        }
        assert_eq!(program.poll(0), Seen::Nothing);
    }
}

#[test]
fn packets_end_when_their_peer_closes() {
    own_process!(30);
    let (ours, peer) = pair_of(libc::SOCK_SEQPACKET);
    let mut program = WithExtras(Program::client());
    let fd = add(&mut program, &ours);
    send(&peer, b"last");
    drop(peer);
    assert_eq!(next(&mut program, fd), b"last");
    assert_eq!(next(&mut program, fd), b"");
    let nothing_left = (IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL);
    assert_eq!(program.try_poll(0), Err(nothing_left));
}

#[test]
fn stream_that_is_connected_later_is_read() {
    own_process!(30);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(to) = listener.local_addr().unwrap() else { unreachable!() };
    let socket = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) });
    let mut program = WithExtras(Program::client());
    let fd = add(&mut program, &socket);
    for _ in 0..3 {
        assert_eq!(program.poll(0), Seen::Nothing, "an unconnected socket is not at its end");
    }
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let size = size_of_val(&address) as libc::socklen_t;
    assert_eq!(unsafe { libc::connect(fd, (&raw const address).cast(), size) }, 0);
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"later").unwrap();
    assert_eq!(next(&mut program, fd), b"later");
    drop(peer);
    assert_eq!(next(&mut program, fd), b"", "its end");
}

#[test]
fn terminal_is_read_after_its_user_has_changed() {
    own_process!(30);
    let master = owned(unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) });
    let mut name = [0; 128];
    unsafe {
        assert_eq!(libc::grantpt(master.as_raw_fd()), 0);
        assert_eq!(libc::unlockpt(master.as_raw_fd()), 0);
        assert_eq!(libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()), 0);
    }
    let user =
        || owned(unsafe { libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) });
    drop(user());
    let mut program = WithExtras(Program::client());
    let fd = add(&mut program, &master);
    for round in 0..3 {
        let mut user = std::fs::File::from(user());
        writeln!(user, "round {round}").unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"\n") {
            // The hang-up of the previous user may be reported first, without bytes.
            got.extend(next(&mut program, fd));
        }
        assert_eq!(got, format!("round {round}\r\n").into_bytes());
    }
}

#[test]
fn datagram_socket_without_a_peer_reports_what_arrives() {
    own_process!(30);
    let path = rundir().join("datagrams");
    let ours = UnixDatagram::bind(&path).unwrap();
    let mut program = WithExtras(Program::client());
    let fd = add(&mut program, &ours);
    for round in 0..3_u8 {
        // A new sender for each datagram, which then closes.
        UnixDatagram::unbound().unwrap().send_to(&[round], &path).unwrap();
        assert_eq!(next(&mut program, fd), [round]);
    }
    assert_eq!(program.poll(0), Seen::Nothing);
    std::fs::remove_file(path).unwrap();
}
