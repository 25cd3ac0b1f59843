//! Helpers for the tests of examples-c: the programs are built, run at the same time as the test, and
//! exchange messages with it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use super::{
    LIMIT, Running, c_compiler_words, foreign_target, make_in, outcome, root, run, runner, sanitizers, stage,
    until, valgrind,
};

/// The type of a message, MSG_TYPE_DATA.
pub const DATA: u8 = 2;

/// The examples, built by their own Makefile in a copy of their directory.
pub fn program(name: &str, with_sanitizers: bool) -> PathBuf {
    static BUILT: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
    let dir = BUILT[usize::from(with_sanitizers)].get_or_init(|| {
        let (room, flags) = match with_sanitizers {
            true => ("examples-c-sanitizers", &sanitizers::FLAGS[..]),
            false => ("examples-c", &[][..]),
        };
        let copy = stage().room_for(room);
        for entry in fs::read_dir(root().join("examples-c")).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        let mut make = make_in(&copy);
        // Builds everything again: a copied program may have been compiled against another library.
        make.arg("--always-make").arg(format!("CFLAGS=-O2 -g -Werror {}", flags.join(" ")));
        if foreign_target().is_some() {
            make.arg(format!("CC={}", c_compiler_words()));
        }
        run(stage().configure_make(&mut make));
        copy
    });
    dir.join(name)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Under {
    Nothing,
    Valgrind,
    Sanitizers,
}

pub fn command(name: &str, rundir: &Path, under: Under) -> Command {
    let program = program(name, under == Under::Sanitizers);
    let mut command = match under {
        Under::Nothing => runner(&program),
        Under::Valgrind => {
            let mut valgrind = valgrind();
            valgrind.arg(program);
            valgrind
        }
        Under::Sanitizers => {
            let mut command = Command::new(program);
            sanitizers::configure(&mut command);
            command
        }
    };
    command.env("IPC_RUNDIR", rundir).env("LD_LIBRARY_PATH", stage().lib());
    command
}

pub fn content(file: &File) -> String {
    let mut file = file.try_clone().unwrap();
    let mut text = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

/// A server with a run directory of its own.
pub struct Server {
    pub running: Running,
    pub rundir: tempfile::TempDir,
    pub socket: PathBuf,
    stdout: File,
    stderr: File,
    under: Under,
}

impl Server {
    /// Starts a server that opens `service`. Its standard input stays open until the test takes it.
    pub fn start(name: &str, service: &str, arguments: &[&str], under: Under) -> Self {
        let rundir = tempfile::tempdir().unwrap();
        let [stdout, stderr] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let mut command = command(name, rundir.path(), under);
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let running = Running::start(&mut command);
        let socket = rundir.path().join(format!("{service}-0-0"));
        let server = Self { running, rundir, socket, stdout, stderr, under };
        until("a server that listens", || {
            assert!(!server.running.has_ended(), "{name} has ended: {}", server.stderr());
            server.stdout() == format!("listening at {}\n", server.socket.display())
        });
        server
    }

    pub fn stdout(&self) -> String {
        content(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        content(&self.stderr)
    }

    /// A client of this server; it runs under valgrind if the server does.
    pub fn client(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = command(name, self.rundir.path(), self.under);
        command.args(arguments);
        command
    }

    pub fn connect(&self) -> Raw {
        Raw::connect(&self.socket)
    }

    pub fn input(&self) -> ChildStdin {
        self.running.child().stdin.take().unwrap()
    }

    /// The server ends, by itself or after a signal: its status is 0, and it leaves no socket. Returns its
    /// standard output and standard error.
    pub fn end(self) -> (String, String) {
        let status = self.running.end();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.stderr());
        assert!(!self.socket.exists(), "the socket is still there");
        (self.stdout(), self.stderr())
    }

    pub fn stop(self) -> (String, String) {
        let process = i32::try_from(self.running.child().id()).unwrap();
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGTERM) }, 0);
        self.end()
    }

    /// The server ends on a signal, and has printed nothing on standard error. Returns its standard output.
    pub fn stop_content(self) -> String {
        let (stdout, stderr) = self.stop();
        assert_eq!(stderr, "");
        stdout
    }
}

/// A client that is controlled by the test.
pub struct Raw(pub UnixStream);

impl Raw {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, payload: &[u8]) {
        self.0.write_all(&frame(payload)).unwrap();
    }

    pub fn receive(&mut self) -> String {
        let mut header = [0; 5];
        self.0.read_exact(&mut header).unwrap();
        let length = on_the_wire(u32::from_ne_bytes(header[1..].try_into().unwrap()));
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        String::from_utf8(payload).unwrap()
    }

    /// All bytes until the server closes the connection.
    pub fn receive_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).unwrap();
        all
    }
}

/// A length in the byte order of the machine that the programs run on, which may be emulated.
pub fn on_the_wire(length: u32) -> u32 {
    match foreign_target() {
        Some(target) if target.starts_with("s390x") => length.to_be(),
        Some(_) => length.to_le(),
        None => length,
    }
}

pub fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[DATA][..], &on_the_wire(length).to_ne_bytes(), payload].concat()
}

/// A program that the test controls by standard input and output.
pub struct Talk {
    running: Running,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Talk {
    pub fn start(mut command: Command) -> Self {
        let running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = running.child().stdin.take();
        let output = BufReader::new(running.child().stdout.take().unwrap());
        Self { running, input, output }
    }

    pub fn write(&mut self, text: &str) {
        self.input.as_ref().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub fn assert_line(&mut self, expected: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{expected}\n"));
    }

    /// Closes the program's input; it must print nothing more and end with status 0.
    pub fn end(mut self) {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert_eq!(self.running.end().code(), Some(0));
    }
}

/// The standard error of a client, which must fail and print nothing on standard output.
pub fn stderr_of(command: &mut Command) -> String {
    let (printed, stderr, status) = outcome(command.stdin(Stdio::null()));
    assert_eq!((printed.as_str(), status.code()), ("", Some(1)), "{stderr}");
    stderr
}
