//! Promise 25: a program that runs with privileges that its user does not have (set-user-ID) ignores the
//! user's environment variables.

use std::ffi::{CStr, CString, c_char};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::child::{self, Child};
use crate::support::*;

child::roles! { reports_service_paths }

/// The owner of the program, and its user.
const OWNER: u32 = 65_534;
const USER: u32 = 65_533;

/// Sends its effective user and group, the path of a service, the result of connecting, and the path of its
/// own service.
fn reports_service_paths() {
    let name = CString::new(child::read_line()).unwrap();
    let mut path: [c_char; libc::PATH_MAX as usize] = [0; libc::PATH_MAX as usize];
    let (mut srv, mut client) = (EMPTY_INFO, EMPTY_INFO);
    unsafe {
        child::send_line(format!("{} {}", libc::geteuid(), libc::getegid()));
        service_path(path.as_mut_ptr(), name.as_ptr(), 0, 0);
        child::send_line(CStr::from_ptr(path.as_ptr()).to_bytes());
        child::send_line(format!("{:?}", ipc_connection(env(), &mut client, name.as_ptr())));
        if ipc_server_init(env(), &mut srv, name.as_ptr()) == IPC_ERROR_NONE {
            child::send_line(CStr::from_ptr(srv.spath).to_bytes());
            ipc_server_close(&mut srv);
        } else {
            child::send_line("no service");
        }
    }
}

/// A copy of this test program with this mode, in a directory that all users can enter.
fn copy_with_mode(directory: &Path, mode: u32) -> PathBuf {
    let copy = directory.join(format!("program{mode:o}"));
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::os::unix::fs::chown(&copy, Some(OWNER), Some(OWNER)).unwrap();
    std::fs::set_permissions(&copy, Permissions::from_mode(mode)).unwrap();
    copy
}

/// Runs the program as this user, with this run directory. Returns its four lines about the service.
fn run(program: &Path, user: u32, rundir: &Path, service: &str) -> [String; 4] {
    let of_this_one = child::command(reports_service_paths);
    let mut command = Command::new(program);
    command.args(of_this_one.get_args());
    command.envs(of_this_one.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let route = format!("unix:{}/{service}-0-0", rundir.display());
    command
        .env("IPC_NETWORK", format!("* {route}"))
        .env(format!("IPC_NETWORK_{}", service.to_uppercase()), route);
    command.env("IPC_RUNDIR", rundir).uid(user).gid(user);
    let mut child = Child::run(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    child.send_line(service);
    let lines = [(); 4].map(|()| child.read_line());
    assert!(child.end().success());
    lines
}

#[test]
fn promise_25_set_user_id_program_ignores_its_environment() {
    own_process!(60);
    if unsafe { libc::geteuid() } != 0 {
        say("SKIPPED: promise 25 needs root, to make a set-user-ID program of another user");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let everybody = Permissions::from_mode(0o777);
    std::fs::set_permissions(directory.path(), everybody.clone()).unwrap();
    let rundir = directory.path().join("run");
    std::fs::create_dir(&rundir).unwrap();
    std::fs::set_permissions(&rundir, everybody.clone()).unwrap();
    // A service that the user has made there.
    let service = format!("bait{}", std::process::id());
    let bait = rundir.join(format!("{service}-0-0"));
    let _bait = UnixListener::bind(&bait).unwrap();
    std::fs::set_permissions(&bait, everybody).unwrap();
    let listens = ["IPC_ERROR_NONE", "no service"];
    let by_default = format!("/run/ipc//{service}-0-0");
    for (mode, user, rights) in [
        (0o755, USER, [USER, USER]),
        (0o4755, OWNER, [OWNER, OWNER]),
        (0o4755, USER, [OWNER, USER]),
        (0o2755, USER, [USER, OWNER]),
    ] {
        let lines = run(&copy_with_mode(directory.path(), mode), user, &rundir, &service);
        if lines[0] != format!("{} {}", rights[0], rights[1]) {
            say(&format!("SKIPPED: promise 25: {} is mounted nosuid", directory.path().display()));
            return;
        }
        if rights == [user, user] {
            assert_eq!(
                (lines[1].as_str(), &lines[2..]),
                (bait.to_str().unwrap(), &listens.map(String::from)[..])
            );
        } else {
            assert_eq!((&lines[1], lines[2].as_str()), (&by_default, "IPC_ERROR_USOCK_CONNECT__SOCKET"));
            assert!(lines[3] == by_default || lines[3] == "no service", "{}", lines[3]);
        }
    }
}
