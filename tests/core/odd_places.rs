//! Promises 35, 39 and 40: unusual run directories, other users' files there, and closed standard streams.

use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::ext::*;
use crate::support::*;

const ZEROS: ipc_connection_info = ipc_connection_info { fd: 0, ..EMPTY_INFO };

fn server_init(srv: &mut ipc_connection_info, name: &CStr) -> Result<(), Failure> {
    outcome(unsafe { ipc_server_init(env(), srv, name.as_ptr()) })
}

fn server_close(srv: &mut ipc_connection_info) -> Result<(), Failure> {
    outcome(unsafe { ipc_server_close(srv) })
}

fn set_rundir(path: &str) {
    unsafe { std::env::set_var("IPC_RUNDIR", path) };
}

#[test]
fn service_of_a_relative_directory_is_removed_from_anywhere() {
    own_process!(30);
    let top = tempfile::tempdir().unwrap();
    std::env::set_current_dir(top.path()).unwrap();
    for rundir in ["run", "./run", ".", "run/../run"] {
        set_rundir(rundir);
        std::env::set_current_dir(top.path()).unwrap();
        let mut srv = ZEROS;
        assert_eq!(server_init(&mut srv, c"relative"), Ok(()), "{rundir}");
        let there = top.path().join(rundir).join("relative-0-0");
        assert!(there.exists(), "{rundir}");
        // Another service has the same relative path elsewhere.
        let elsewhere = tempfile::tempdir().unwrap();
        std::env::set_current_dir(elsewhere.path()).unwrap();
        let mut other = ZEROS;
        std::fs::create_dir_all("run").unwrap();
        assert_eq!(server_init(&mut other, c"relative"), Ok(()));
        let not_ours = elsewhere.path().join(rundir).join("relative-0-0");
        assert_eq!(server_close(&mut srv), Ok(()), "{rundir}");
        assert!(!there.exists() && not_ours.exists(), "{rundir}");
        assert_eq!(server_close(&mut other), Ok(()));
        assert!(!not_ours.exists());
    }
    std::env::set_current_dir("/").unwrap();
}

#[test]
fn link_at_the_path_is_neither_followed_nor_removed() {
    own_process!(30);
    let (target, link) = (rundir().join("target"), rundir().join("linked-0-0"));
    drop(std::os::unix::net::UnixListener::bind(&target).unwrap());
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let taken = Err((IPC_ERROR_USOCK_INIT__BIND, libc::EADDRINUSE));
    let mut srv = ZEROS;
    assert_eq!(server_init(&mut srv, c"linked"), taken);
    assert!(target.exists() && std::fs::symlink_metadata(&link).unwrap().is_symlink());
    std::fs::remove_file(&target).unwrap();
    // A link without a target counts as a file, too.
    assert_eq!(server_init(&mut srv, c"linked"), taken);
    assert!(!target.exists());
    unsafe { libc::free(srv.spath.cast()) };
    std::fs::remove_file(link).unwrap();
}

#[test]
fn flock_of_another_process_does_not_block_the_service() {
    own_process!(30);
    let directory = std::fs::File::open(rundir()).unwrap();
    assert_eq!(unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX) }, 0);
    let mut srv = ZEROS;
    assert_eq!(server_init(&mut srv, c"locked"), Ok(()));
    assert_eq!(server_close(&mut srv), Ok(()));
}

/// Makes a socket at the service's path that the user of the test may remove but not connect to. If `lives`,
/// returns the open listener; otherwise the socket is dead.
fn foreign_socket(path: &Path, lives: bool) -> Option<std::os::unix::net::UnixListener> {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    lives.then_some(listener)
}

#[test]
fn only_a_dead_socket_of_another_user_is_replaced() {
    own_process!(30);
    if unsafe { libc::geteuid() } != 0 {
        say("SKIPPED: sockets of another user: only root can make them");
        return;
    }
    const USER: libc::uid_t = 54_321;
    let directory = tempfile::tempdir().unwrap();
    let owner = std::ffi::CString::new(directory.path().to_str().unwrap()).unwrap();
    assert_eq!(unsafe { libc::chown(owner.as_ptr(), USER, USER) }, 0);
    set_rundir(directory.path().to_str().unwrap());
    let _living = foreign_socket(&directory.path().join("living-0-0"), true);
    let _dead = foreign_socket(&directory.path().join("dead-0-0"), false);
    assert_eq!(unsafe { libc::setresgid(USER, USER, USER) }, 0);
    assert_eq!(unsafe { libc::setresuid(USER, USER, 0) }, 0);
    let mut srv = ZEROS;
    let taken = Err((IPC_ERROR_USOCK_INIT__BIND, libc::EADDRINUSE));
    assert_eq!(server_init(&mut srv, c"living"), taken);
    assert!(directory.path().join("living-0-0").exists());
    assert_eq!(server_init(&mut srv, c"dead"), Ok(()));
    assert_eq!(server_close(&mut srv), Ok(()));
    assert_eq!(unsafe { libc::setresuid(0, 0, 0) }, 0);
}

#[test]
fn library_fds_do_not_replace_closed_standard_streams() {
    own_process!(30);
    let path = rundir().to_path_buf();
    let standard = [0, 1, 2].map(|fd| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) });
    (0..3).for_each(|fd| assert_eq!(unsafe { libc::close(fd) }, 0));
    let (mut srv, mut client, mut list, mut event) = (ZEROS, ZEROS, EMPTY_LIST, EMPTY_EVENT);
    let results = [
        server_init(&mut srv, c"streams"),
        outcome(unsafe { ipc_connection(env(), &mut client, c"streams".as_ptr()) }),
        outcome(unsafe { ipc_wait_event_timeout(&mut list, &mut srv, &mut event, 10_000) }),
    ];
    let accepted = unsafe { event.origin.as_ref() }.map_or(-1, |origin| origin.fd);
    let mut event_fd = -1;
    let last = outcome(unsafe { ipc_event_fd(&mut list, &mut srv, &mut event_fd) });
    let open = [0, 1, 2].map(is_open);
    for (fd, copy) in (0..).zip(standard) {
        assert_eq!(unsafe { libc::dup2(copy, fd) }, fd);
    }
    assert_eq!((results, last), ([Ok(()); 3], Ok(())));
    assert_eq!(open, [false; 3], "the numbers are free");
    assert!([srv.fd, client.fd, accepted, event_fd].iter().all(|fd| *fd > 2));
    assert_eq!(server_close(&mut srv), Ok(()));
    assert!(!path.join("streams-0-0").exists());
}
