//! `ipc explain`: why a connection fails, or where it goes.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};

use crate::staging::{outcome, until};
use crate::support::{Place, is_stopped};

/// What it prints, and its status, with these variables.
fn explained(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> (String, i32) {
    let mut command = place.ipc(&[&["explain"], arguments].concat());
    let (printed, errors, status) = outcome(command.envs(variables.iter().copied()));
    assert_eq!(errors, "", "{printed}");
    (printed, status.code().expect("an exit"))
}

#[track_caller]
fn assert_says(place: &Place, arguments: &[&str], variables: &[(&str, &str)], status: i32, parts: &[&str]) {
    let (printed, code) = explained(place, arguments, variables);
    assert_eq!(code, status, "{printed}");
    for part in parts {
        assert!(printed.contains(part), "no {part:?}: {printed}");
    }
}

#[test]
fn explain_of_a_living_service_has_status_0() {
    let place = Place::new();
    let mut pongd = place.pongd();
    let path = place.socket("pongd");
    let process = pongd.id().to_string();
    assert_says(
        &place,
        &["pongd"],
        &[],
        0,
        &["IPC_NETWORK_PONGD", "IPC_RUNDIR", path.to_str().unwrap(), &process],
    );
    // It is not a client: the server has seen none.
    let _client = place.client("pongd");
    assert!(pongd.line().starts_with("CONNECTION"));
    let (json, code) = explained(&place, &["--json", "pongd"], &[]);
    assert_eq!(code, 0);
    assert!(json.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{json}");
}

#[test]
fn explain_names_what_is_wrong_with_the_socket() {
    let place = Place::new();
    assert_says(&place, &["pongd"], &[], 1, &["ENOENT"]);
    drop(place.service("dead"));
    assert_says(&place, &["dead"], &[], 1, &["ECONNREFUSED"]);
    std::fs::write(place.socket("file"), "").unwrap();
    assert_says(&place, &["file"], &[], 1, &["ECONNREFUSED"]);
    let _datagrams = UnixDatagram::bind(place.socket("datagrams")).unwrap();
    assert_says(&place, &["datagrams"], &[], 1, &["EPROTOTYPE"]);
    let _other = UnixListener::bind(place.path().join("pongd-0-7")).unwrap();
    assert_says(&place, &["pongd"], &[], 1, &["ENOENT", "pongd-0-7"]);
    assert_says(&place, &["--rundir", "/no/such/place", "pongd"], &[], 1, &["/no/such/place", "ENOENT"]);
}

#[test]
fn explain_names_the_variable_and_the_target() {
    let place = Place::new();
    let _pongd = place.pongd();
    let ok = |arguments: &[&str], variables: &[(&str, &str)], parts: &[&str]| {
        assert_says(&place, arguments, variables, 0, parts);
    };
    ok(&["audio"], &[("IPC_NETWORK_AUDIO", "pongd")], &["IPC_NETWORK_AUDIO=pongd", "pongd-0-0"]);
    ok(&["audio"], &[("IPC_NETWORK", "* nobody; audio pongd")], &["audio pongd", "pongd-0-0"]);
    ok(&["my-svc.1"], &[("IPC_NETWORK", "* pongd")], &["IPC_NETWORK_MY_SVC_1", "* pongd"]);
    ok(&["--to", "pongd", "audio"], &[("IPC_NETWORK_AUDIO", "nobody")], &["--to pongd"]);
    ok(&["pongd"], &[("IPC_NETWORK", "audio nobody"), ("IPC_NETWORK_AUDIO", "ssh:")], &["pongd-0-0"]);
    let unix = format!("unix:{}", place.socket("pongd").display());
    ok(&["audio"], &[("IPC_NETWORK_AUDIO", &unix)], &[&unix]);
    for (target, errno) in
        [("ssh:", "EINVAL"), ("$(id)", "EINVAL"), ("ssh://host/a", "ENETUNREACH"), ("nobody", "ENOENT")]
    {
        assert_says(
            &place,
            &["audio"],
            &[("IPC_NETWORK_AUDIO", target)],
            1,
            &["IPC_NETWORK_AUDIO", target, errno],
        );
    }
}

/// A stopped server has a queue: a connection succeeds until it is full. Explaining waits for neither.
#[test]
fn explain_waits_for_no_server() {
    let place = Place::new();
    let pongd = place.pongd();
    pongd.signal(libc::SIGSTOP);
    until("the server is stopped", || is_stopped(pongd.id()));
    assert_says(&place, &["pongd"], &[], 0, &["stopped", &pongd.id().to_string()]);

    let full = std::os::fd::OwnedFd::from(place.service("full"));
    // SAFETY: a call for a descriptor that is open.
    assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&full), 0) }, 0);
    let _waiting = place.client("full");
    assert_says(&place, &["full"], &[], 1, &["EAGAIN"]);
}

/// Root may connect to every socket.
#[test]
fn explain_names_missing_rights() {
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let _pongd = place.pongd();
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(place.path(), 0o755);
    mode(&place.socket("pongd"), 0o600);
    let program = place.ipc(&[]).get_program().to_owned();
    mode(crate::staging::stage().dir().parent().unwrap(), 0o755);
    let open_to_all =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o1 != 0;
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new(&program).ancestors().all(open_to_all) {
        return crate::staging::skipped("what ipc explain says without rights", "second user");
    }
    let mut command = place.ipc(&["explain", "pongd"]);
    let (printed, _, status) = outcome(command.uid(65534).gid(65534));
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.contains("EACCES"), "{printed}");
}
