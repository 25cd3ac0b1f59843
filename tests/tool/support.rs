//! A run directory with the tool, servers and clients in it.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use crate::staging::examples::{self, DATA, Under, frame};
use crate::staging::{LIMIT, Running, outcome, stage, until};

/// The largest payload of a message.
pub const LARGEST: usize = 7_999_995;

/// A run directory of its own.
pub struct Place {
    dir: tempfile::TempDir,
    /// Where `ipc monitor` makes its directory, which stays if a test kills it.
    temporary: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), temporary: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self, service: &str) -> PathBuf {
        self.path().join(format!("{service}-0-0"))
    }

    /// The tool, with nothing on its standard input.
    pub fn ipc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(stage().usr().join("bin/ipc"));
        clean(&mut command);
        command.args(arguments).env("IPC_RUNDIR", self.path()).stdin(Stdio::null());
        command.env("TMPDIR", self.temporary.path()).env_remove("XDG_RUNTIME_DIR");
        with_usual_signals(&mut command);
        command
    }

    /// The tool succeeds and prints nothing on standard error; returns its standard output.
    pub fn printed(&self, arguments: &[&str]) -> String {
        succeeds(&mut self.ipc(arguments))
    }

    /// The tool fails with this status, and prints one line on standard error, which is returned, and nothing else.
    pub fn fails(&self, status: i32, arguments: &[&str]) -> String {
        fails(status, &mut self.ipc(arguments))
    }

    /// A program of examples-c.
    pub fn example(&self, name: &str) -> Command {
        let mut command = examples::command(name, self.path(), Under::Nothing);
        clean(&mut command);
        command.stdin(Stdio::null());
        command
    }

    /// The service "pongd", which answers each message with itself.
    pub fn pongd(&self) -> Talk {
        let mut pongd = Talk::start(&mut self.example("pongd"));
        assert_eq!(pongd.line(), format!("listening at {}", self.socket("pongd").display()));
        pongd
    }

    /// A service that the test itself answers.
    pub fn service(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.socket(name)).unwrap()
    }

    /// `ipc listen`, when it listens.
    pub fn listen(&self, name: &str, arguments: &[&str]) -> Talk {
        let mut command = self.ipc(&["listen", name]);
        let talk = Talk::start(command.args(arguments));
        until("ipc listens", || {
            assert!(!talk.running.has_ended(), "ipc listen has ended: {}", talk.complaints());
            is_listening(&self.socket(name))
        });
        talk
    }

    /// A client that the test itself controls.
    pub fn client(&self, service: &str) -> Peer {
        Peer::new(UnixStream::connect(self.socket(service)).unwrap())
    }

    /// Nothing is left in the run directory.
    pub fn assert_empty(&self) {
        let left: Vec<_> =
            std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Without the variables that the tool and the library read.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("IPC_") || name == "NO_COLOR") {
            command.env_remove(name);
        }
    }
    command.env("TZ", "UTC0").env("LC_ALL", "C.UTF-8");
}

pub fn succeeds(command: &mut Command) -> String {
    let (printed, errors, status) = outcome(command);
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""), "{command:?} printed: {printed}");
    printed
}

pub fn fails(status: i32, command: &mut Command) -> String {
    let (printed, errors, ended) = outcome(command);
    assert_eq!(ended.code(), Some(status), "{command:?}: {ended}\n{printed}{errors}");
    assert_eq!(printed, "", "{command:?}");
    // What clap says of wrong usage takes several lines.
    assert!(status == 2 || errors.lines().count() == 1, "{command:?}: {errors}");
    assert!(status == 2 || errors.starts_with("ipc: "), "{command:?}: {errors}");
    errors
}

/// Whether a socket of this path listens. The file exists a moment earlier.
pub fn is_listening(path: &Path) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = path.to_str().unwrap();
    sockets.lines().any(|line| line.contains(" 00010000 ") && line.ends_with(path))
}

/// Sends a signal to a child that has not been waited for.
pub fn signal(running: &Running, signal: libc::c_int) {
    let process = i32::try_from(running.child().id()).unwrap();
    // SAFETY: a signal to a child of this process, which Running has not yet waited for.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}

/// Whether the process is stopped by a signal: `T` in proc(5).
pub fn is_stopped(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

/// A program whose input and output the test controls.
pub struct Talk {
    pub running: Running,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    errors: File,
}

impl Talk {
    pub fn start(command: &mut Command) -> Self {
        let errors = tempfile::tempfile().unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.try_clone().unwrap());
        let running = Running::start(command);
        let input = running.child().stdin.take();
        let output = running.child().stdout.take().map(BufReader::new);
        Self { running, input, output, errors }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.input.as_ref().unwrap().write_all(bytes).unwrap();
    }

    pub fn take_input(&mut self) -> ChildStdin {
        self.input.take().unwrap()
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    pub fn take_output(&mut self) -> BufReader<ChildStdout> {
        self.output.take().unwrap()
    }

    /// Its output is read, so that it is never held up by it.
    pub fn ignore_output(&mut self) {
        let mut output = self.take_output();
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    }

    pub fn close_output(&mut self) {
        self.output = None;
    }

    /// The next line; empty at the end of the output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.as_mut().unwrap().read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// The next line, in words.
    pub fn words(&mut self) -> Vec<String> {
        let line = self.line();
        assert!(!line.is_empty(), "no more output; {}", self.complaints());
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// What it has printed on standard error.
    pub fn complaints(&self) -> String {
        let (mut text, mut errors) = (String::new(), self.errors.try_clone().unwrap());
        errors.rewind().unwrap();
        errors.read_to_string(&mut text).unwrap();
        text
    }

    pub fn id(&self) -> u32 {
        self.running.child().id()
    }

    pub fn signal(&self, number: libc::c_int) {
        signal(&self.running, number);
    }

    /// All output to its end, and the status.
    pub fn end(mut self) -> (String, ExitStatus) {
        self.input = None;
        let mut rest = String::new();
        if let Some(mut output) = self.output.take() {
            output.read_to_string(&mut rest).unwrap();
        }
        (rest, self.running.end())
    }

    /// It ends with status 0; returns the rest of its output.
    pub fn ends_well(self) -> String {
        let errors = self.errors.try_clone().unwrap();
        let (rest, status) = self.end();
        let mut text = String::new();
        let mut errors = errors;
        errors.rewind().unwrap();
        errors.read_to_string(&mut text).unwrap();
        assert_eq!((status.code(), text.as_str()), (Some(0), ""), "{rest}");
        rest
    }
}

/// The other end of a connection of the tool, or of a program.
pub struct Peer(pub UnixStream);

impl Peer {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    /// The next client of a service of the test.
    pub fn accept(listener: &UnixListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let mut stream = None;
        until("a client", || {
            stream = listener.accept().ok();
            stream.is_some()
        });
        let stream = stream.unwrap().0;
        stream.set_nonblocking(false).unwrap();
        Self::new(stream)
    }

    pub fn send(&mut self, payload: &[u8]) {
        self.0.write_all(&frame(payload)).unwrap();
    }

    pub fn send_as(&mut self, message_type: u8, payload: &[u8]) {
        let mut bytes = frame(payload);
        bytes[0] = message_type;
        self.0.write_all(&bytes).unwrap();
    }

    /// The type and the payload of the next message; None if the connection is at its end.
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        match self.0.read_exact(&mut header[..1]) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            result => result.unwrap(),
        }
        self.0.read_exact(&mut header[1..]).unwrap();
        let mut payload = vec![0; u32::from_ne_bytes(header[1..].try_into().unwrap()) as usize];
        self.0.read_exact(&mut payload).unwrap();
        Some((header[0], payload))
    }

    /// The payload of the next message, which has the usual type.
    pub fn payload(&mut self) -> Vec<u8> {
        let (message_type, payload) = self.next().expect("a message");
        assert_eq!(message_type, DATA);
        payload
    }

    /// No message comes before the end of the connection.
    pub fn assert_at_end(&mut self) {
        assert_eq!(self.next(), None);
    }
}

/// The program starts as from a terminal, even if the tests are run in the background or by nohup(1), where signals are
/// ignored.
fn with_usual_signals(command: &mut Command) {
    let reset = || {
        for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            // SAFETY: the default is a disposition for each of them.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: in the child it makes system calls, and uses no memory but its own.
    unsafe { command.pre_exec(reset) };
}
