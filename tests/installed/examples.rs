//! The examples: pongd sends every message back, whatever its size, and even if other clients are stuck; pong
//! sends one message, or line by line; both end as they should, also under valgrind and with sanitizers.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use crate::staging::examples::{DATA, Under, command, content, frame, on_the_wire};
use crate::staging::{LIMIT, Running, has, outcome, printed, sanitizers, skipped, until};

const MOST: usize = 7_999_995;

/// A pongd with a run directory of its own.
struct Server {
    running: Running,
    rundir: tempfile::TempDir,
    output: File,
}

impl Server {
    fn start(under: Under) -> Self {
        let rundir = tempfile::tempdir().unwrap();
        // A file, since a pipe could become full: its output for large messages is large.
        let output = tempfile::tempfile().unwrap();
        let mut command = command("pongd", rundir.path(), under);
        command.stdout(output.try_clone().unwrap()).stderr(output.try_clone().unwrap());
        let server = Self { running: Running::start(&mut command), rundir, output };
        until("a server that listens", || {
            assert!(!server.running.has_ended(), "pongd has ended: {}", server.output_text());
            server.output_text().contains("listening at ")
        });
        assert!(server.socket().exists());
        server
    }

    fn socket(&self) -> PathBuf {
        self.rundir.path().join("pongd-0-0")
    }

    fn output_text(&self) -> String {
        content(&self.output)
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn pong(&self, arguments: &[&str], under: Under) -> Command {
        let mut command = command("pong", self.rundir.path(), under);
        command.args(arguments);
        command
    }

    /// SIGTERM: status 0, and no socket is left.
    fn stop(self) {
        let process = i32::try_from(self.running.child().id()).unwrap();
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGTERM) }, 0);
        let status = self.running.end();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.output_text());
        assert!(!self.socket().exists(), "the socket is still there");
    }
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect()
}

/// Sends from a thread of its own, so that the sender of a large message does not block the reader of its
/// echo.
fn assert_echo(stream: &mut UnixStream, payload: &[u8]) {
    let sent = frame(payload);
    let mut echo = vec![0; sent.len()];
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&sent).unwrap());
        stream.read_exact(&mut echo).unwrap();
    });
    assert!(echo == sent, "another echo of {} bytes", payload.len());
}

#[test]
fn messages_of_every_size_come_back() {
    let server = Server::start(Under::Nothing);
    let mut client = server.connect();
    for size in [0, 1, 5, 4096, 65_531, 65_536, 212_992, 1_000_000, MOST] {
        assert_echo(&mut client, &pattern(size));
    }
    server.stop();
}

#[test]
fn message_sent_byte_by_byte_comes_back() {
    let server = Server::start(Under::Nothing);
    let mut client = server.connect();
    let sent = frame(b"byte by byte");
    for byte in &sent {
        client.write_all(&[*byte]).unwrap();
    }
    let mut echo = vec![0; sent.len()];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(echo, sent);
    server.stop();
}

#[test]
fn clients_stuck_in_half_a_message_do_not_delay_others() {
    let server = Server::start(Under::Nothing);
    let (mut in_header, mut in_payload, mut third) = (server.connect(), server.connect(), server.connect());
    let sent = frame(b"two halves");
    in_header.write_all(&sent[..3]).unwrap();
    in_payload.write_all(&sent[..8]).unwrap();
    assert_echo(&mut third, b"meanwhile");
    for (client, rest) in [(&mut in_header, &sent[3..]), (&mut in_payload, &sent[8..])] {
        client.write_all(rest).unwrap();
        let mut echo = vec![0; sent.len()];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(echo, sent);
    }
    server.stop();
}

#[test]
fn length_over_the_maximum_ends_only_its_client() {
    let server = Server::start(Under::Nothing);
    let (mut bad, mut good) = (server.connect(), server.connect());
    assert_echo(&mut bad, b"still good");
    let length = u32::try_from(MOST + 1).unwrap();
    bad.write_all(&[&[DATA][..], &on_the_wire(length).to_ne_bytes()].concat()).unwrap();
    assert_eq!(bad.read(&mut [0]).unwrap(), 0, "the connection is still open");
    assert_echo(&mut good, b"nothing noticed");
    assert_echo(&mut server.connect(), b"a new client");
    server.stop();
}

#[test]
fn server_with_clients_ends_on_sigterm() {
    let server = Server::start(Under::Nothing);
    let (mut idle, mut half) = (server.connect(), server.connect());
    assert_echo(&mut idle, b"here");
    half.write_all(&frame(b"half")[..4]).unwrap();
    server.stop();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
}

#[test]
fn pong_sends_one_message_without_arguments() {
    let server = Server::start(Under::Nothing);
    assert_eq!(printed(&mut server.pong(&[], Under::Nothing)), "hello\n");
    server.stop();
}

#[test]
fn pong_prints_an_error_without_a_server() {
    let rundir = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["-i"][..]] {
        let mut pong = command("pong", rundir.path(), Under::Nothing);
        let (_, errors, status) = outcome(pong.args(arguments).stdin(Stdio::null()));
        assert_eq!(status.code(), Some(1), "{errors}");
        assert!(errors.contains("No such file or directory"), "{errors}");
    }
}

/// A pong that runs line by line, and its standard output.
struct Talk {
    running: Running,
    answers: BufReader<std::process::ChildStdout>,
}

impl Talk {
    fn start(server: &Server, under: Under, input: impl Into<Stdio>) -> Self {
        let mut command = server.pong(&["-i"], under);
        let running = Running::start(command.stdin(input).stdout(Stdio::piped()));
        let answers = BufReader::new(running.child().stdout.take().unwrap());
        Self { running, answers }
    }

    fn assert_answer(&mut self, line: &str) {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, format!("{line}\n"));
    }

    /// It must print nothing more and end with status 0.
    fn assert_end(mut self) {
        let mut rest = String::new();
        self.answers.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert_eq!(self.running.end().code(), Some(0));
    }
}

/// One line, its answer, the next line: pong must not wait for more input than one line.
fn ask(talk: &mut Talk, input: &mut impl Write, lines: &[&str]) {
    for line in lines {
        writeln!(input, "{line}").unwrap();
        talk.assert_answer(line);
    }
}

fn pipe_of(talk: &Talk) -> std::process::ChildStdin {
    talk.running.child().stdin.take().unwrap()
}

#[test]
fn pong_exchanges_lines_until_its_pipe_ends() {
    let server = Server::start(Under::Nothing);
    let mut talk = Talk::start(&server, Under::Nothing, Stdio::piped());
    let mut input = pipe_of(&talk);
    ask(&mut talk, &mut input, &["one", "two words", "", "four"]);
    drop(input);
    talk.assert_end();
    server.stop();
}

#[test]
fn pong_exchanges_lines_until_exit() {
    let server = Server::start(Under::Nothing);
    let mut talk = Talk::start(&server, Under::Nothing, Stdio::piped());
    let mut input = pipe_of(&talk);
    ask(&mut talk, &mut input, &["one", "exit not", "two"]);
    // The pipe stays open, and later lines are not sent.
    input.write_all(b"exit\nthree\n").unwrap();
    talk.assert_end();
    server.stop();
}

#[test]
fn pong_sends_the_lines_of_a_file() {
    let server = Server::start(Under::Nothing);
    let mut file = tempfile::tempfile().unwrap();
    // More lines than one read returns, and a last line without its newline.
    let lines: Vec<String> = (0..20_000).map(|n| format!("line {n}")).collect();
    file.write_all(lines.join("\n").as_bytes()).unwrap();
    file.rewind().unwrap();
    let mut talk = Talk::start(&server, Under::Nothing, file);
    for line in lines {
        talk.assert_answer(&line);
    }
    talk.assert_end();
    server.stop();
}

/// Both ends of a terminal: the end of the user, and the end of the program.
fn terminal() -> (File, OwnedFd) {
    let (mut user, mut program) = (-1, -1);
    let (nowhere, default, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: two places for descriptors, which are ours alone afterwards; the other arguments may be NULL.
    unsafe {
        assert_eq!(libc::openpty(&mut user, &mut program, nowhere, default, size), 0);
        for fd in [user, program] {
            assert_ne!(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC), -1);
        }
        (File::from_raw_fd(user), OwnedFd::from_raw_fd(program))
    }
}

#[test]
fn pong_exchanges_lines_at_a_terminal() {
    const END_OF_FILE: &[u8] = b"\x04";
    for end in [END_OF_FILE, b"exit\n"] {
        let server = Server::start(Under::Nothing);
        let (mut user, program) = terminal();
        let mut talk = Talk::start(&server, Under::Nothing, program);
        ask(&mut talk, &mut user, &["typed", "and typed again"]);
        user.write_all(end).unwrap();
        talk.assert_end();
        server.stop();
    }
}

/// Both examples, from their start to their end.
fn talk_and_stop(under: Under) {
    let server = Server::start(under);
    assert_eq!(printed(&mut server.pong(&[], under)), "hello\n");
    let mut talk = Talk::start(&server, under, Stdio::piped());
    let mut input = pipe_of(&talk);
    ask(&mut talk, &mut input, &["one", "", "three"]);
    drop(input);
    talk.assert_end();
    let (mut client, mut half) = (server.connect(), server.connect());
    assert_echo(&mut client, &pattern(1_000_000));
    half.write_all(&frame(b"half")[..7]).unwrap();
    // Both clients are still connected; pongd closes their connections and frees them.
    server.stop();
}

#[test]
fn in_valgrind() {
    if !has("valgrind") {
        return skipped("the examples under valgrind", "valgrind");
    }
    talk_and_stop(Under::Valgrind);
}

#[test]
fn with_sanitizers() {
    if sanitizers::watch("the examples") {
        talk_and_stop(Under::Sanitizers);
    }
}
