//! `ipc wait`: for scripts that start servers and clients.

use std::os::unix::net::UnixListener;

use crate::staging::until;
use crate::support::{Place, Talk};

/// The tool sleeps, with nothing to read: its wait has begun.
fn is_waiting(talk: &Talk) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", talk.id())).unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", talk.id())).unwrap();
    let watches = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains("inotify"))
        })
    };
    stat.rsplit_once(") ").unwrap().1.starts_with('S') && descriptors.into_iter().any(watches)
}

fn waiting(place: &Place, arguments: &[&str]) -> Talk {
    let talk = Talk::start(&mut place.ipc(arguments));
    until("ipc waits", || is_waiting(&talk));
    talk
}

#[test]
fn wait_ends_when_the_service_opens() {
    let place = Place::new();
    let wait = waiting(&place, &["wait", "pongd"]);
    let _other = place.service("other");
    assert!(!wait.running.has_ended());
    let _pongd = place.pongd();
    assert_eq!(wait.ends_well(), "");
    assert_eq!(place.printed(&["wait", "pongd"]), "");
}

/// The directory need not be there yet: the server makes it.
#[test]
fn wait_ends_when_directory_and_service_appear() {
    let place = Place::new();
    let rundir = place.path().join("later");
    let wait = waiting(&place, &["--rundir", rundir.to_str().unwrap(), "wait", "pongd"]);
    let _pongd = Talk::start(place.example("pongd").env("IPC_RUNDIR", &rundir));
    assert_eq!(wait.ends_well(), "");
}

/// The socket of a dead server is not a service; the next server replaces it.
#[test]
fn wait_goes_on_for_a_dead_service() {
    let place = Place::new();
    drop(place.service("pongd"));
    place.fails(124, &["wait", "--timeout", "0.1", "pongd"]);
    let wait = waiting(&place, &["wait", "pongd"]);
    let _pongd = place.pongd();
    assert_eq!(wait.ends_well(), "");
}

#[test]
fn wait_for_the_end_ends_with_the_service() {
    let place = Place::new();
    assert_eq!(place.printed(&["wait", "--gone", "pongd"]), "");
    for ending in [libc::SIGTERM, libc::SIGKILL] {
        let pongd = place.pongd();
        place.fails(124, &["wait", "--gone", "--timeout", "0.1", "pongd"]);
        let wait = waiting(&place, &["wait", "--gone", "pongd"]);
        pongd.signal(ending);
        pongd.end();
        assert_eq!(wait.ends_well(), "", "signal {ending}");
    }
}

#[test]
fn wait_ends_with_124_after_its_timeout() {
    let place = Place::new();
    for seconds in ["0", "0.05"] {
        let line = place.fails(124, &["wait", "--timeout", seconds, "pongd"]);
        assert!(line.contains("pongd"), "{line}");
    }
    for wrong in ["-1", "soon", "inf", "nan", ""] {
        place.fails(2, &["wait", &format!("--timeout={wrong}"), "pongd"]);
    }
}

/// It waits for the place where a client would connect.
#[test]
fn wait_follows_routes() {
    let place = Place::new();
    let elsewhere = place.path().join("elsewhere");
    let _elsewhere = UnixListener::bind(&elsewhere).unwrap();
    let target = format!("unix:{}", elsewhere.display());
    place.printed(&["wait", "--timeout", "60", "--to", &target, "pongd"]);
    for (name, value) in [("IPC_NETWORK_PONGD", target.clone()), ("IPC_NETWORK", format!("pongd {target}"))] {
        crate::support::succeeds(place.ipc(&["wait", "--timeout", "60", "pongd"]).env(name, value));
    }
    let _other = place.service("other");
    place.printed(&["wait", "--timeout", "60", "--to", "other", "pongd"]);
    let line = place.fails(1, &["wait", "--timeout", "60", "--to", "$(id)", "pongd"]);
    assert!(line.contains("EINVAL"), "{line}");
}

#[test]
fn wait_is_ended_by_signals() {
    let place = Place::new();
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let wait = waiting(&place, &["wait", "pongd"]);
        wait.signal(signal);
        assert_eq!(wait.end().1.code(), Some(status));
    }
}
