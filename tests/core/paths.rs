//! Promises 20 and 21: paths as long as the system allows; descriptors are close-on-exec.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::child::{self, Child};
use crate::support::*;

child::roles! {
    serves_itself, opens_everything, opens_services_while_programs_start, counts_inherited_descriptors,
}

/// Bytes of the longest path, without its NUL.
const LONGEST: usize = libc::PATH_MAX as usize - 1;

/// The end of a service's path, after its name.
const SUFFIX: &str = "-0-0";

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// A path of `length` bytes below `top`, whose last component has `last` bytes. Its directories are made.
fn path_of(top: &Path, length: usize, last: usize) -> PathBuf {
    let mut path = top.to_owned();
    let rest = |path: &Path| length - path.as_os_str().len() - 1;
    while rest(&path) > last + 1 {
        let missing = rest(&path) - last - 1;
        // No component may have 0 bytes.
        path.push("d".repeat(if missing == 201 { 100 } else { missing.min(200) }));
    }
    std::fs::create_dir_all(&path).unwrap();
    path.push("n".repeat(rest(&path)));
    assert_eq!(path.as_os_str().len(), length);
    path
}

/// Paths in separate directories: short ones, with a long last component, with long directories, with both.
fn awkward_paths() -> (tempfile::TempDir, Vec<PathBuf>) {
    let top = tempfile::tempdir().unwrap();
    let start = top.path().as_os_str().len();
    let lengths = [(0, 20), (0, 255), (107, 20), (108, 20), (109, 20), (1000, 20), (1000, 255)];
    let longest = [(LONGEST, 1), (LONGEST, 20), (LONGEST, 100), (LONGEST, 255)];
    let paths = lengths.into_iter().chain(longest).enumerate().map(|(n, (length, last))| {
        let own = top.path().join(format!("{n}"));
        path_of(&own, length.max(start + 10 + last), last)
    });
    let paths = paths.collect();
    (top, paths)
}

#[test]
fn promise_20_usock_takes_paths_up_to_path_max() {
    own_process!(60);
    let (_top, paths) = awkward_paths();
    for path in paths {
        let (c_path, mut server, mut accepted) = (c_string(&path), -1, -1);
        let code = unsafe { usock_init(&mut server, c_path.as_ptr()) };
        assert_eq!(code, IPC_ERROR_NONE, "{} bytes: {}", path.as_os_str().len(), errno());
        let client = child::connect(&path);
        assert_eq!(unsafe { usock_accept(server, &mut accepted) }, IPC_ERROR_NONE);
        assert_eq!(write(client, 1, b"from afar"), IPC_ERROR_NONE);
        assert_eq!(read(accepted), Ok((1, b"from afar".to_vec())));
        let directory = path.parent().unwrap();
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1, "the socket and nothing else");
        // A running server keeps the path, and a dead server's socket is replaced, as with short paths.
        let mut other = -1;
        assert_eq!(unsafe { usock_init(&mut other, c_path.as_ptr()) }, IPC_ERROR_USOCK_INIT__BIND);
        assert_eq!(errno(), libc::EADDRINUSE);
        assert_eq!(usock_close(server), IPC_ERROR_NONE);
        assert_eq!(unsafe { usock_connect(&mut other, c_path.as_ptr()) }, IPC_ERROR_USOCK_CONNECT__SOCKET);
        assert_eq!(errno(), libc::ECONNREFUSED);
        assert_eq!(unsafe { usock_init(&mut server, c_path.as_ptr()) }, IPC_ERROR_NONE);
        for fd in [client, accepted, server] {
            assert_eq!(usock_close(fd), IPC_ERROR_NONE);
        }
        assert_eq!(unsafe { usock_remove(c_path.as_ptr()) }, IPC_ERROR_NONE);
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);
    }
}

#[test]
fn promise_20_usock_refuses_one_byte_more() {
    own_process!(60);
    let top = tempfile::tempdir().unwrap();
    let longer = c_string(&path_of(top.path(), LONGEST, 20).with_file_name("n".repeat(21)));
    assert_eq!(longer.as_bytes().len(), LONGEST + 1);
    let mut fd = -2;
    assert_eq!(unsafe { usock_init(&mut fd, longer.as_ptr()) }, IPC_ERROR_USOCK_INIT__EMPTY_PATH);
    assert_eq!(errno(), libc::ENAMETOOLONG);
    assert_eq!(unsafe { usock_connect(&mut fd, longer.as_ptr()) }, IPC_ERROR_USOCK_CONNECT__EMPTY_PATH);
    assert_eq!((errno(), fd), (libc::ENAMETOOLONG, -2));
}

/// A program that opens a service, connects to it, and sends the result of each call.
fn serves_itself() {
    let name = CString::new(child::read_line()).unwrap();
    let (mut srv, mut client, mut accepted) = (EMPTY_INFO, EMPTY_INFO, EMPTY_INFO);
    let reported = |code| format!("{} {}", code as i32, if code == IPC_ERROR_NONE { 0 } else { errno() });
    let mut path: [c_char; libc::PATH_MAX as usize] = [1; libc::PATH_MAX as usize];
    unsafe {
        service_path(path.as_mut_ptr(), name.as_ptr(), 0, 0);
        child::send_line(CStr::from_ptr(path.as_ptr()).to_bytes());
        let opened = ipc_server_init(env(), &mut srv, name.as_ptr());
        child::send_line(reported(opened));
        let connected = ipc_connection(env(), &mut client, name.as_ptr());
        child::send_line(reported(connected));
        if opened == IPC_ERROR_NONE && connected == IPC_ERROR_NONE {
            assert_eq!(ipc_accept(&mut srv, &mut accepted), IPC_ERROR_NONE);
            assert_eq!(write(client.fd, 1, b"from afar"), IPC_ERROR_NONE);
            assert_eq!(read(accepted.fd), Ok((1, b"from afar".to_vec())));
            assert_eq!(CStr::from_ptr(srv.spath).to_bytes(), CStr::from_ptr(path.as_ptr()).to_bytes());
            child::send_line(reported(ipc_server_close(&mut srv)));
        } else {
            child::send_line("nothing to close");
        }
    }
}

/// Runs that program with this path. Returns its four lines.
fn served(path: &Path) -> [String; 4] {
    let mut command = child::command(serves_itself);
    let mut child = Child::run(command.env("IPC_RUNDIR", path.parent().unwrap()));
    let name = path.file_name().unwrap().to_str().unwrap();
    child.send_line(name.strip_suffix(SUFFIX).unwrap());
    let lines = [(); 4].map(|()| child.read_line());
    assert!(child.end().success());
    lines
}

/// The same path with an index and a version at its end, as a service has.
fn as_service(path: &Path) -> Option<PathBuf> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let room = name.len().checked_sub(SUFFIX.len())?;
    Some(path.with_file_name(format!("{}{SUFFIX}", &name[..room])))
}

#[test]
fn promise_20_services_take_paths_up_to_path_max() {
    own_process!(60);
    let (_top, paths) = awkward_paths();
    for path in paths.iter().filter_map(|path| as_service(path)) {
        // The library makes the last directory, however long its path is.
        std::fs::remove_dir(path.parent().unwrap()).unwrap();
        assert_eq!(served(&path), [path.to_str().unwrap(), "0 0", "0 0", "0 0"]);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }
}

#[test]
fn promise_20_services_refuse_one_byte_more() {
    own_process!(60);
    let top = tempfile::tempdir().unwrap();
    let longer =
        path_of(top.path(), LONGEST, 20).with_file_name(format!("{}{SUFFIX}", "n".repeat(21 - SUFFIX.len())));
    assert_eq!(longer.as_os_str().len(), LONGEST + 1);
    let too_long = |code| format!("{} {}", code as i32, libc::ENAMETOOLONG);
    let (init, connect) = (IPC_ERROR_USOCK_INIT__EMPTY_PATH, IPC_ERROR_USOCK_CONNECT__EMPTY_PATH);
    let lines = served(&longer);
    assert_eq!(lines, [String::new(), too_long(init), too_long(connect), "nothing to close".to_owned()]);
    assert_eq!(std::fs::read_dir(longer.parent().unwrap()).unwrap().count(), 0);
}

/// The open descriptors: number, file, and whether the descriptor is close-on-exec.
fn descriptors() -> BTreeMap<i32, (String, bool)> {
    let numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let what = |fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
    let of = |fd: i32| {
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        what(fd).map(|what| (fd, (what.to_string_lossy().into_owned(), flags & libc::FD_CLOEXEC != 0)))
    };
    numbers.into_iter().filter_map(of).collect()
}

/// A program that opens descriptors by each function of the library that opens them.
fn opens_everything() {
    let before = descriptors();
    let mut program = child::server();
    let mut made = vec![program.srv.unwrap().fd];
    let name = CString::new(format!("child{}", std::process::id())).unwrap();
    let (mut connected, mut accepted) = (EMPTY_INFO, EMPTY_INFO);
    let mut by_hand = -1;
    let mut new_client = std::ptr::null_mut();
    unsafe {
        assert_eq!(ipc_connection(env(), &mut connected, name.as_ptr()), IPC_ERROR_NONE);
        assert_eq!(ipc_accept(program.srv(), &mut accepted), IPC_ERROR_NONE);
    }
    made.extend([connected.fd, accepted.fd]);
    made.extend((0..3).map(|_| child::connect(&program.path)));
    let srv = program.srv();
    unsafe {
        assert_eq!(usock_accept((*srv).fd, &mut by_hand), IPC_ERROR_NONE);
        assert_eq!(handle_new_connection(srv, &mut program.list, &mut new_client), IPC_ERROR_NONE);
        made.extend([by_hand, (*new_client).fd]);
    }
    made.push(program.next_connection());
    // Long paths are reached through a directory's descriptor.
    let deep = path_of(&program.path.with_file_name("deep"), 500, 250);
    let (c_deep, mut server) = (c_string(&deep), -1);
    assert_eq!(unsafe { usock_init(&mut server, c_deep.as_ptr()) }, IPC_ERROR_NONE);
    made.extend([server, child::connect(&deep)]);
    let after = descriptors();
    let new: BTreeMap<_, _> = after.iter().filter(|(fd, _)| !before.contains_key(fd)).collect();
    for fd in &made {
        assert!(new.contains_key(fd) && new[fd].0.starts_with("socket:"), "{fd} of {new:?}");
    }
    let others: Vec<_> = new.iter().filter(|(fd, _)| !made.contains(fd)).collect();
    let is_loops = |name: &str| name.contains("eventpoll") || name.contains("timerfd");
    assert!(
        others.len() == 2 && others.iter().all(|(_, (name, _))| is_loops(name)),
        "the sockets and {others:?}"
    );
    assert!(new.values().all(|(_, close_on_exec)| *close_on_exec), "{new:?}");
    std::fs::remove_dir_all(program.path.with_file_name("deep")).unwrap();
}

#[test]
fn promise_21_every_descriptor_is_close_on_exec() {
    own_process!(60);
    let rundir = tempfile::tempdir().unwrap();
    let status = Child::run(child::command(opens_everything).env("IPC_RUNDIR", rundir.path())).end();
    assert!(status.success(), "{status}");
}

/// A program with a thread that opens and closes services at long paths while another thread starts programs.
fn opens_services_while_programs_start() {
    let top = PathBuf::from(std::env::var_os("IPC_RUNDIR").unwrap());
    // Descriptors that were inherited from the test's own parent do not count.
    let own = (open_descriptors() - 1).to_string();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = path_of(&top, 500, 250);
            let c_path = c_string(&path);
            while !stop.load(Ordering::Relaxed) {
                let mut server = -1;
                assert_eq!(unsafe { usock_init(&mut server, c_path.as_ptr()) }, IPC_ERROR_NONE);
                let client = child::connect(&path);
                let mut spath = ipc_connection_info { fd: server, ..EMPTY_INFO };
                assert_eq!(usock_close(client), IPC_ERROR_NONE);
                spath.spath = unsafe { libc::strdup(c_path.as_ptr()) };
                assert_eq!(unsafe { ipc_server_close(&mut spath) }, IPC_ERROR_NONE);
            }
        });
        let inherited: Vec<_> =
            (0..150).map(|_| Child::start(counts_inherited_descriptors).read_line()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(inherited.iter().all(|count| *count == own), "{own}: {inherited:?}");
    });
}

/// A program that sends the number of descriptors that it was started with.
fn counts_inherited_descriptors() {
    // The directory that is being read counts as one more.
    child::send_line(format!("{}", open_descriptors() - 1));
}

#[test]
fn promise_21_temporary_descriptors_are_close_on_exec() {
    own_process!(60);
    let top = tempfile::tempdir().unwrap();
    let mut command = child::command(opens_services_while_programs_start);
    let status = Child::run(command.env("IPC_RUNDIR", top.path())).end();
    assert!(status.success(), "{status}");
}
