//! Programs fail as docs/troubleshooting.md documents.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::staging::examples::program;
use crate::staging::languages::{In, Server};
use crate::staging::{outcome, skipped, stage, text_of};

/// The rows of the document with the messages of pong and pongd, in C.
struct Rows {
    document: String,
    /// The rows that no program has provoked yet.
    left: Vec<String>,
}

impl Rows {
    fn read() -> Self {
        let document = text_of("docs/troubleshooting.md");
        let is_row = |line: &&str| line.starts_with("| `") && line.contains('(');
        let left = document.lines().filter(is_row).map(str::to_owned).collect();
        Self { document, left }
    }

    /// The program fails, and the document has a row with its message.
    fn check(&mut self, command: &mut Command) {
        let (_, errors, status) = outcome(command);
        assert_eq!(status.code(), Some(1), "{errors}");
        // "pong: connecting to pongd: connect: ...": first the program's text, then the library's.
        let said = errors.trim_end().splitn(3, ": ").nth(2).expect("what the library says");
        let row = format!("| `{said}` |");
        assert!(self.document.contains(&row), "docs/troubleshooting.md does not have: {errors}");
        self.left.retain(|line| !line.starts_with(&row));
    }

    fn check_in(&mut self, rundir: &Path, name: &str) {
        self.check(&mut In::C.command(name, rundir));
    }
}

/// The program with one descriptor in addition to standard input and output, which the loader needs.
fn with_one_descriptor(name: &str, rundir: &Path) -> Command {
    let program = In::C.command(name, rundir);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3>&-; ulimit -n 4; exec \"$0\""]).arg(program.get_program());
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

fn where_nothing_is_right(rows: &mut Rows, dir: &Path) {
    fs::write(dir.join("file"), "").unwrap();
    let too_long = dir.join(format!("{}/", "a".repeat(255)).repeat(16));
    for name in ["pongd", "pong"] {
        rows.check_in(&dir.join("not/there"), name);
        rows.check_in(&dir.join("file"), name);
        rows.check_in(&dir.join("a".repeat(256)), name);
        rows.check_in(&too_long, name);
    }
    // A client needs a second descriptor for a path that is too long for a socket address.
    let long = dir.join("l".repeat(200));
    rows.check(&mut with_one_descriptor("pongd", dir));
    rows.check(&mut with_one_descriptor("pong", &long));
}

fn where_there_is_a_server_already_or_no_more(rows: &mut Rows) {
    let server = Server::start(In::C);
    rows.check_in(server.rundir.path(), "pongd");
    server.signal(libc::SIGKILL);
    assert!(!server.running.end().success());
    rows.check_in(server.rundir.path(), "pong");

    let rundir = tempfile::tempdir().unwrap();
    let _datagrams = UnixDatagram::bind(rundir.path().join("pongd-0-0")).unwrap();
    rows.check_in(rundir.path(), "pong");
}

/// Another program answers the client, with ten bytes that it has received.
fn where_no_message_comes(rows: &mut Rows) {
    type Answer = fn(UnixStream);
    let answers: [Answer; 3] = [
        |mut client| {
            client.read_exact(&mut [0; 10]).unwrap();
            client.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
            let _ = client.read(&mut [0]);
        },
        |mut client| client.read_exact(&mut [0; 10]).unwrap(),
        |mut client| {
            client.read_exact(&mut [0; 10]).unwrap();
            client.write_all(&[2, 5, 0, 0, 0, b'h']).unwrap();
        },
    ];
    for answer in answers {
        let rundir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(rundir.path().join("pongd-0-0")).unwrap();
        let other = thread::spawn(move || answer(listener.accept().unwrap().0));
        rows.check_in(rundir.path(), "pong");
        other.join().unwrap();
    }
}

/// Root has all permissions: then another user runs the programs, and this user must be able to open them.
fn where_there_is_no_right(rows: &mut Rows, dir: &Path) {
    // SAFETY: the call cannot fail.
    let user = (unsafe { libc::geteuid() } == 0).then_some(65534);
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let server = Server::start(In::C);
    mode(server.rundir.path(), 0o755);
    mode(&server.socket(), 0);
    mode(dir, 0o555);
    mode(stage().dir().parent().unwrap(), 0o755);
    let open_to_all = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o1 != 0;
    if user.is_none() || program("pong", false).ancestors().all(open_to_all) {
        for (name, rundir) in [("pong", server.rundir.path()), ("pongd", dir)] {
            let mut command = In::C.command(name, rundir);
            if let Some(user) = user {
                command.uid(user).gid(user);
            }
            rows.check(&mut command);
        }
    } else {
        skipped("what programs say that have no right", "temporary directory that all users can enter");
        rows.left.retain(|row| !row.contains("(Permission denied)"));
    }
    mode(dir, 0o755);
}

#[test]
fn programs_fail_as_documented() {
    let mut rows = Rows::read();
    let dir = tempfile::tempdir().unwrap();
    where_nothing_is_right(&mut rows, dir.path());
    where_there_is_a_server_already_or_no_more(&mut rows);
    where_no_message_comes(&mut rows);
    where_there_is_no_right(&mut rows, dir.path());
    assert!(rows.left.is_empty(), "not provoked: {:#?}", rows.left);
}
