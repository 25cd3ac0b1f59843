//! `ipc run`: a program whose connections go elsewhere.

use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::staging::outcome;
use crate::support::{Peer, Place, Talk};

/// pong, a program that knows nothing of rerouting, goes where the option says.
#[test]
fn run_reroutes_an_unchanged_program() {
    let place = Place::new();
    let pong = place.example("pong").get_program().to_str().unwrap().to_owned();
    let path = place.path().join("path");
    let at_path = UnixListener::bind(&path).unwrap();
    let (own, other) = (place.service("pongd"), place.service("other"));
    let unix = format!("pongd=unix:{}", path.display());
    for (routes, listener) in [
        (&[][..], &own),
        (&["-r", "pongd=direct:"][..], &own),
        (&["-r", "pong=other"], &own),
        (&["-r", "pongd=other"], &other),
        (&["--route", "pongd=unix://other"], &other),
        (&["-r", "pongd=other", "-r", &unix], &at_path),
        (&["-r", &unix], &at_path),
    ] {
        let mut command = place.ipc(&[&["run"], routes, &["--", &pong]].concat());
        let talk = Talk::start(with_library(&mut command));
        let mut peer = Peer::accept(listener);
        assert_eq!(peer.payload(), b"hello", "{routes:?}");
        peer.send(b"an answer");
        assert_eq!(talk.ends_well(), "an answer\n", "{routes:?}");
    }
}

fn with_library(command: &mut Command) -> &mut Command {
    command.env("LD_LIBRARY_PATH", crate::staging::stage().lib())
}

#[test]
fn run_ends_with_the_status_of_the_program() {
    let place = Place::new();
    for (script, status) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        let (printed, errors, ended) = outcome(&mut place.ipc(&["run", "--", "sh", "-c", script]));
        let code = std::os::unix::process::ExitStatusExt::signal(&ended)
            .map_or(ended.code(), |signal| Some(128 + signal));
        assert_eq!((code, printed.as_str(), errors.as_str()), (Some(status), "", ""), "{script}");
    }
    let line = place.fails(127, &["run", "--", "no-such-program"]);
    assert!(line.contains("no-such-program"), "{line}");
    let line = place.fails(126, &["run", "--", place.path().to_str().unwrap()]);
    assert!(line.contains("EACCES"), "{line}");
}

#[test]
fn run_sets_the_variable_and_passes_arguments() {
    let place = Place::new();
    let script = r#"env | grep ^IPC_NETWORK | sort; printf '<%s>' "$@""#;
    let mut command = place.ipc(&[
        "run",
        "-r",
        "my-svc.1=other",
        "-r",
        "audio=unix:/a=b",
        "--",
        "sh",
        "-c",
        script,
        "sh",
        "-r",
        "",
        "a b",
    ]);
    let printed = crate::support::succeeds(command.env("IPC_NETWORK", "* direct:"));
    assert_eq!(
        printed,
        "IPC_NETWORK=* direct:\nIPC_NETWORK_AUDIO=unix:/a=b\nIPC_NETWORK_MY_SVC_1=other\n<-r><><a b>"
    );
    let rundir = place.printed(&["--rundir", "/elsewhere", "run", "--", "sh", "-c", "echo $IPC_RUNDIR"]);
    assert_eq!(rundir, "/elsewhere\n");
}

/// The program is the one that a signal is for.
#[test]
fn signals_reach_the_program() {
    let place = Place::new();
    for (signal, name, status) in
        [(libc::SIGTERM, "TERM", 5), (libc::SIGINT, "INT", 6), (libc::SIGHUP, "HUP", 7)]
    {
        let script = format!("trap 'exit {status}' {name}; echo ready; while :; do sleep 0.01; done");
        let mut talk = Talk::start(&mut place.ipc(&["run", "--", "sh", "-c", &script]));
        assert_eq!(talk.line(), "ready");
        talk.signal(signal);
        assert_eq!(talk.end().1.code(), Some(status), "{name}");
    }
}

#[test]
fn target_that_is_none_is_refused_before_the_program_runs() {
    let place = Place::new();
    for route in ["a=ssh:", "a=$(id)", "a=a b", "a=", "a=x/y", "a=unix:"] {
        let (printed, errors, status) = outcome(&mut place.ipc(&["run", "-r", route, "--", "echo", "ran"]));
        assert!(matches!(status.code(), Some(1 | 2)), "{route}: {status}: {errors}");
        assert_eq!(printed, "", "{route}");
    }
}
