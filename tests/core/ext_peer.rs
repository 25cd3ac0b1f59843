//! ipc_peer: peer credentials (SO_PEERCRED).

use std::os::fd::AsRawFd;
use std::path::Path;

use crate::child::{self, Child, fork, wait_for};
use crate::support::ext::*;
use crate::support::*;

child::roles! { connects_as_user, opens_a_service, is_asked_from_another_pid_namespace }

fn peer(fd: i32) -> Result<(i32, u32, u32), Failure> {
    let mut peer = ipc_peer { pid: -7, uid: 7, gid: 7 };
    outcome(unsafe { ipc_peer(&info(fd), &mut peer) }).map(|()| (peer.pid, peer.uid, peer.gid))
}

/// The credentials of this process.
fn own() -> (i32, u32, u32) {
    unsafe { (libc::getpid(), libc::geteuid(), libc::getegid()) }
}

/// Connects, as another user if the test asks for it, and sends its credentials to the test.
fn connects_as_user() {
    let path = child::read_line();
    if child::read_line() == "nobody" {
        unsafe {
            assert_eq!(libc::setegid(65_533), 0);
            assert_eq!(libc::seteuid(65_534), 0);
        }
    }
    let fd = child::connect(Path::new(&path));
    child::send_line(format!("{:?}", own()));
    let mut message = EMPTY_MESSAGE;
    assert_eq!(unsafe { ipc_message_read(fd, &mut message) }, IPC_ERROR_CLOSED_RECIPIENT);
}

#[test]
fn server_gets_the_peer_credentials_of_a_client() {
    own_process!(30);
    let mut server = Program::server();
    let for_all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&server.path, Clone::clone(&for_all)).unwrap();
    std::fs::set_permissions(rundir(), for_all).unwrap();
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        say("SKIPPED: a client of another user, only root can be one");
    }
    for user in if is_root { &["root", "nobody"][..] } else { &["same"] } {
        let mut client = Child::start(connects_as_user);
        client.send_line(server.path.to_str().unwrap());
        client.send_line(user);
        let fd = server.next_connection();
        let reported = client.read_line();
        set_errno(4711);
        assert_eq!(format!("{:?}", peer(fd).unwrap()), reported);
        assert_eq!(errno(), 4711);
        let (pid, uid, gid) = peer(fd).unwrap();
        assert_eq!(pid, client.id());
        if *user == "nobody" {
            assert_eq!((uid, gid), (65_534, 65_533));
        }
        assert_eq!(unsafe { ipc_close(server.info(fd)) }, IPC_ERROR_NONE);
        assert_eq!(server.next(), Reported::Disconnection(fd));
        assert!(client.end().success());
    }
}

fn opens_a_service() {
    let mut server = child::server();
    child::send_line(server.path.to_str().unwrap());
    let fd = server.next_connection();
    // The credentials of this server, and those of its client.
    child::send_line(format!("{:?} {:?}", own(), peer(fd).unwrap()));
    assert_eq!(server.next(), Reported::Disconnection(fd));
}

#[test]
fn client_gets_the_peer_credentials_of_the_server() {
    own_process!(30);
    let mut server = Child::start(opens_a_service);
    let path = server.read_line();
    let fd = child::connect(Path::new(&path));
    let reported = format!("{:?} {:?}", peer(fd).unwrap(), own());
    assert_eq!(server.read_line(), reported);
    assert_eq!(usock_close(fd), IPC_ERROR_NONE);
    assert!(server.end().success());
}

/// The kernel notes the credentials at connect(2): they are known after the peer has closed.
#[test]
fn credentials_of_a_closed_peer_are_still_reported() {
    own_process!(30);
    let mut server = Program::server();
    let id = fork();
    if id == 0 {
        let connected = std::os::unix::net::UnixStream::connect(&server.path).is_ok();
        unsafe { libc::_exit(i32::from(!connected)) };
    }
    let fd = server.next_connection();
    assert_eq!(wait_for(id), 0);
    assert_eq!(peer(fd).unwrap().0, id);
}

/// In another pid namespace, such as a container's, a peer outside the namespace has no process id; the
/// connection works.
fn is_asked_from_another_pid_namespace() {
    let fd = child::connect(Path::new(&child::read_line()));
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        child::send_line(format!("no namespace: {}", std::io::Error::last_os_error()));
        return;
    }
    let id = fork();
    if id == 0 {
        child::send_line(format!("{:?}", peer(fd)));
        unsafe { libc::_exit(0) };
    }
    assert_eq!(wait_for(id), 0);
}

#[test]
fn peer_outside_the_pid_namespace_has_pid_zero() {
    own_process!(30);
    let server = Program::server();
    let mut program = Child::start(is_asked_from_another_pid_namespace);
    program.send_line(server.path.to_str().unwrap());
    let reported = program.read_line();
    if let Some(why) = reported.strip_prefix("no namespace: ") {
        say(&format!("SKIPPED: a peer in another pid namespace, which cannot be made here: {why}"));
        return;
    }
    let (_, uid, gid) = own();
    let expected: Result<_, Failure> = Ok((0, uid, gid));
    assert_eq!(reported, format!("{expected:?}"));
}

#[test]
fn wrong_arguments_are_reported() {
    own_process!(30);
    let mut place = ipc_peer { pid: -7, uid: 7, gid: 7 };
    let (one, _two) = pair();
    let null = Err((IPC_ERROR_CONNECTION_GEN__NO_CINFO, libc::EINVAL));
    assert_eq!(outcome(unsafe { ipc_peer(none(), &mut place) }), null);
    assert_eq!(outcome(unsafe { ipc_peer(&info(one.as_raw_fd()), none()) }), null);
    assert_eq!(outcome(unsafe { ipc_peer(none(), none()) }), null);
    for fd in [-1, 900_000] {
        assert_eq!(peer(fd), Err((IPC_ERROR_USOCK_RECV, libc::EBADF)));
    }
    let (reader, _writer) = pipe();
    assert_eq!(peer(reader.as_raw_fd()), Err((IPC_ERROR_USOCK_RECV, libc::ENOTSOCK)));
    let fresh = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert_eq!(peer(fresh), Err((IPC_ERROR_USOCK_RECV, libc::ENOTCONN)));
    close(fresh);
    // A service has no peer.
    let server = Program::server();
    assert_eq!(peer(server.srv.unwrap().fd), Err((IPC_ERROR_USOCK_RECV, libc::ENOTCONN)));
    let internet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(peer(internet.as_raw_fd()), Err((IPC_ERROR_USOCK_RECV, libc::ENOTCONN)));
    // The peer of the program's own socket pair is the program.
    assert_eq!(peer(one.as_raw_fd()), Ok(own()));
}
