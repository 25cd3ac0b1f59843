//! The examples for ipc_ext.h do what examples-c/README.md says of them, and end as they should, also under
//! valgrind. That they compile without a warning is part of each test: it is how they are built.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod staging;

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use staging::{LIMIT, Linkage, Running, has, outcome, printed, root, run, skipped, stage, until, valgrind};

const DATA: u8 = 2;

/// The examples, built by their own Makefile in a copy of their folder.
fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let copy = stage().room_for("examples-c");
        for entry in fs::read_dir(root().join("examples-c")).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        let mut make = staging::make_in(&copy);
        // All anew: a copied program may have been compiled against another library.
        make.arg("--always-make").arg("CFLAGS=-O2 -g -Werror");
        if !has("pkg-config") {
            make.arg(format!("LIBIPC_CFLAGS={}", stage().cflags().join(" ")));
            make.arg(format!("LIBIPC_LIBS={}", stage().libs(Linkage::Shared).join(" ")));
        }
        run(stage().point_pkg_config(&mut make));
        copy
    });
    folder.join(name)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Under {
    Nothing,
    Valgrind,
}

fn command(name: &str, rundir: &Path, under: Under) -> Command {
    let program = program(name);
    let mut command = match under {
        Under::Nothing => Command::new(program),
        Under::Valgrind => {
            let mut valgrind = valgrind();
            valgrind.arg(program);
            valgrind
        }
    };
    command.env("IPC_RUNDIR", rundir).env("LD_LIBRARY_PATH", stage().lib());
    command
}

fn content(file: &File) -> String {
    let mut file = file.try_clone().unwrap();
    let mut text = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

/// A server with a run directory of its own.
struct Server {
    running: Running,
    rundir: tempfile::TempDir,
    socket: PathBuf,
    said: File,
    complained: File,
    under: Under,
}

impl Server {
    /// `service` is what it opens; its input stays open until somebody takes it.
    fn start(name: &str, service: &str, arguments: &[&str], under: Under) -> Self {
        let rundir = tempfile::tempdir().unwrap();
        let [said, complained] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let mut command = command(name, rundir.path(), under);
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(said.try_clone().unwrap()).stderr(complained.try_clone().unwrap());
        let running = Running::start(&mut command);
        let socket = rundir.path().join(format!("{service}-0-0"));
        let server = Self { running, rundir, socket, said, complained, under };
        until("a server that listens", || {
            assert!(!server.running.has_ended(), "{name} has ended: {}", server.complaints());
            server.said() == format!("listening at {}\n", server.socket.display())
        });
        server
    }

    fn said(&self) -> String {
        content(&self.said)
    }

    fn complaints(&self) -> String {
        content(&self.complained)
    }

    /// One of its clients; under valgrind where the server is.
    fn client(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = command(name, self.rundir.path(), self.under);
        command.args(arguments);
        command
    }

    fn connect(&self) -> Raw {
        Raw::connect(&self.socket)
    }

    fn input(&self) -> ChildStdin {
        self.running.child().stdin.take().unwrap()
    }

    /// It ends by itself, or has been told to: status 0, and no socket is left. What it has said on both.
    fn end(self) -> (String, String) {
        let status = self.running.end();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.complaints());
        assert!(!self.socket.exists(), "the socket is still there");
        (self.said(), self.complaints())
    }

    fn stop(self) -> (String, String) {
        let process = i32::try_from(self.running.child().id()).unwrap();
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGTERM) }, 0);
        self.end()
    }

    /// It ends on a signal, and has had nothing to complain of.
    fn stop_content(self) -> String {
        let (said, complaints) = self.stop();
        assert_eq!(complaints, "");
        said
    }
}

/// A client that is in the hands of the test.
struct Raw(UnixStream);

impl Raw {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    fn send(&mut self, payload: &[u8]) {
        self.0.write_all(&frame(payload)).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut header = [0; 5];
        self.0.read_exact(&mut header).unwrap();
        let length = u32::from_ne_bytes(header[1..].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        String::from_utf8(payload).unwrap()
    }

    /// What comes until the server closes the connection.
    fn hear_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).unwrap();
        all
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[DATA][..], &length.to_ne_bytes(), payload].concat()
}

/// A program that is talked with by its standard input and output.
struct Talk {
    running: Running,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Talk {
    fn start(mut command: Command) -> Self {
        let running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = running.child().stdin.take();
        let output = BufReader::new(running.child().stdout.take().unwrap());
        Self { running, input, output }
    }

    fn write(&mut self, text: &str) {
        self.input.as_ref().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn assert_line(&mut self, expected: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{expected}\n"));
    }

    /// Its input is over, it has nothing more to say and ends well.
    fn end(mut self) {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert_eq!(self.running.end().code(), Some(0));
    }
}

/// What a client has complained of that has printed nothing and failed.
fn complaints(command: &mut Command) -> String {
    let (printed, complaints, status) = outcome(command.stdin(Stdio::null()));
    assert_eq!((printed.as_str(), status.code()), ("", Some(1)), "{complaints}");
    complaints
}

#[test]
fn clients_without_a_server_and_servers_without_arguments_say_so() {
    let rundir = tempfile::tempdir().unwrap();
    let complaints_of =
        |name, arguments: &[&str]| complaints(command(name, rundir.path(), Under::Nothing).args(arguments));
    for (name, arguments) in
        [("chat", &[][..]), ("ticker", &["1"]), ("batch", &["1", "1"]), ("openfile", &["name"])]
    {
        let text = complaints_of(name, arguments);
        assert!(text.starts_with(&format!("{name}: connecting to {name}d: ")), "{text}");
        assert!(text.ends_with("(No such file or directory)\n"), "{text}");
    }
    for name in ["ticker", "tickerd", "batch", "openfile", "openfiled"] {
        let text = complaints_of(name, &[]);
        assert!(text.starts_with(&format!("usage: {name} ")), "{text}");
    }
    let too_long = [["2147483647", "2"], ["9999999999", "1"]];
    for wrong in [["0", "1"], ["1", "0"], ["-1", "-1"], ["x", "1"]].iter().chain(&too_long) {
        assert_eq!(complaints_of("tickerd", wrong), "usage: tickerd INTERVAL N\n", "{wrong:?}");
    }
    let text = complaints_of("openfiled", &["/nowhere"]);
    assert_eq!(text, "openfiled: the folder: No such file or directory\n");
}

// chatd and chat

/// What chatd calls us.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    match output.status.success() {
        true => String::from_utf8(output.stdout).unwrap().trim_end().to_owned(),
        false => "somebody".to_owned(),
    }
}

fn talk_in_a_room(under: Under) {
    let server = Server::start("chatd", "chatd", &[], under);
    let user = user();
    // Who has come and who has spoken is what the test waits for.
    let mut witness = server.connect();
    let mut first = Talk::start(server.client("chat", &[]));
    assert_eq!(witness.hear(), format!("{user} has come"));
    let mut second = Talk::start(server.client("chat", &[]));
    first.assert_line(&format!("{user} has come"));
    assert_eq!(witness.hear(), format!("{user} has come"));

    first.write("half a ");
    first.write("line\nand two\n\nlines");
    for line in ["half a line", "and two"] {
        second.assert_line(&format!("{user}: {line}"));
        assert_eq!(witness.hear(), format!("{user}: {line}"));
    }
    witness.send(b"harmless: \x1b[2J\0\n\x7f \xc3\xa4");
    for talk in [&mut first, &mut second] {
        talk.assert_line(&format!("{user}: harmless: ?[2J??? \u{e4}"));
    }
    // Its last line comes without an end; nobody hears his own words.
    first.end();
    assert_eq!(witness.hear(), format!("{user}: lines"));
    second.assert_line(&format!("{user}: lines"));
    second.write("bye\n");
    second.end();
    assert_eq!(witness.hear(), format!("{user}: bye"));
    server.stop_content();
    assert_eq!(witness.hear_all(), b"");
}

#[test]
fn all_others_hear_what_one_says_and_who_it_is() {
    talk_in_a_room(Under::Nothing);
}

#[test]
fn chat_cuts_lines_that_are_longer_than_the_server_takes() {
    let server = Server::start("chatd", "chatd", &[], Under::Nothing);
    let mut witness = server.connect();
    let mut talk = Talk::start(server.client("chat", &[]));
    talk.write(&format!("{}\n", "a".repeat(4097)));
    talk.end();
    let user = user();
    for expected in [" has come", &format!(": {}", "a".repeat(4096)), ": a"] {
        assert_eq!(witness.hear(), format!("{user}{expected}"));
    }
    server.stop_content();
}

#[test]
fn chatd_closes_who_sends_too_long_a_line_and_nobody_else() {
    let server = Server::start("chatd", "chatd", &[], Under::Nothing);
    let (mut good, mut bad) = (server.connect(), server.connect());
    let user = user();
    assert_eq!(good.hear(), format!("{user} has come"));
    bad.send(&[b'x'; 4096]);
    assert_eq!(good.hear(), format!("{user}: {}", "x".repeat(4096)));
    // The header alone is enough.
    bad.0.write_all(&frame(&[b'x'; 4097])[..5]).unwrap();
    assert_eq!(bad.hear_all(), b"");
    let mut third = server.connect();
    assert_eq!(good.hear(), format!("{user} has come"));
    good.send(b"still here");
    assert_eq!(third.hear(), format!("{user}: still here"));
    let (_, complaints) = server.stop();
    assert!(complaints.contains(" said too much, "), "{complaints}");
}

#[test]
fn chatd_gives_up_who_does_not_read_and_keeps_nobody_waiting_for_it() {
    let server = Server::start("chatd", "chatd", &[], Under::Nothing);
    let (mut stuck, mut reader, mut speaker) = (server.connect(), server.connect(), server.connect());
    let user = user();
    assert_eq!(reader.hear(), format!("{user} has come"));
    let line = "l".repeat(4000);
    // More than the kernel and the queue of the one that is stuck hold.
    for _ in 0..1000 {
        speaker.send(line.as_bytes());
        assert_eq!(reader.hear(), format!("{user}: {line}"));
    }
    let got = stuck.hear_all().len();
    assert!(got < 1000 * line.len(), "{got} bytes: all of it");
    let (_, complaints) = server.stop();
    let queue_is_full = |line: &str| line.starts_with("chatd: queueing: ");
    assert!(complaints.lines().count() > 0 && complaints.lines().all(queue_is_full), "{complaints}");
}

// tickerd and ticker

fn assert_times(text: &str) {
    for line in text.lines() {
        let numbers: Vec<u32> = line.split(['-', ' ', ':']).map(|number| number.parse().unwrap()).collect();
        assert!(matches!(numbers[..], [_, 1..=12, 1..=31, 0..24, 0..60, 0..=60]), "{line}");
    }
}

/// What tickerd tells, but for who leaves when a time has just come that it has not read.
fn events(said: &str) -> Vec<&str> {
    let words = said.lines().skip(1).filter_map(|line| line.split(' ').next());
    words.filter(|word| *word != "ERROR").collect()
}

const CLOSED: &str = "ticker: the server has closed the connection\n";

/// Who says nothing for a tenth of a second is closed; nobody has to be quick.
fn tell_the_time(under: Under) {
    let server = Server::start("tickerd", "tickerd", &["10", "1000000"], under);
    let text = printed(&mut server.client("ticker", &["5"]));
    assert_times(&text);
    assert_eq!(text.lines().count(), 5);
    until("the end of the client", || server.said().contains("\nDISCONNECTION "));
    let said = server.stop_content();
    assert_eq!(events(&said), ["CONNECTION", "DISCONNECTION"], "{said}");

    let server = Server::start("tickerd", "tickerd", &["10", "10"], under);
    let (text, complaints, status) = outcome(&mut server.client("ticker", &["1000000", "quiet"]));
    assert_eq!((complaints.as_str(), status.code()), (CLOSED, Some(1)));
    assert_times(&text);
    until("the end of the client", || server.said().contains("\nDISCONNECTION "));
    let said = server.stop_content();
    assert_eq!(events(&said), ["CONNECTION", "CLOSING", "DISCONNECTION"], "{said}");
}

#[test]
fn tickerd_tells_the_time_and_closes_who_is_quiet() {
    tell_the_time(Under::Nothing);
}

/// Its answers keep one client, of two that came at the same time: it has seconds for each.
#[test]
fn tickerd_keeps_who_answers() {
    let server = Server::start("tickerd", "tickerd", &["20", "150"], Under::Nothing);
    let mut lively = server.connect();
    let quiet = Running::start(
        server.client("ticker", &["1000000", "quiet"]).stdout(Stdio::null()).stderr(Stdio::null()),
    );
    while !quiet.has_ended() {
        assert_times(&lively.hear());
        lively.send(b"here");
    }
    assert_eq!(quiet.end().code(), Some(1));
    assert_times(&lively.hear());
    let said = server.stop_content();
    assert_eq!(said.matches("CLOSING").count(), 1, "{said}");
}

/// The queue of a client that does not read holds 4 KiB: then times are left out, and the client stays.
#[test]
fn tickerd_leaves_out_times_for_who_does_not_read() {
    let server = Server::start("tickerd", "tickerd", &["1", "10000000"], Under::Nothing);
    let mut lazy = server.connect();
    // The kernel takes some thousand before, one in a millisecond.
    until("a time that is left out", || server.said().contains("\nNOT TOLD "));
    (0..1000).for_each(|_| assert_times(&lazy.hear()));
    assert!(!server.said().contains("\nDISCONNECTION "));
    server.stop();
}

// pollpongd

fn serve_in_a_loop_of_its_own(under: Under) {
    let server = Server::start("pollpongd", "pongd", &[], under);
    let mut input = server.input();
    assert_eq!(printed(&mut server.client("pong", &[])), "hello\n");
    let (mut burst, mut half) = (server.connect(), server.connect());
    half.0.write_all(&frame(b"halved")[..7]).unwrap();
    // Many in one write: what libipc has read ahead the loop's poll does not see by itself.
    let many: Vec<u8> = (0..1000).flat_map(|n| frame(format!("{n}").as_bytes())).collect();
    burst.0.write_all(&many).unwrap();
    for n in 0..1000 {
        assert_eq!(burst.hear(), n.to_string());
    }
    half.0.write_all(&frame(b"halved")[7..]).unwrap();
    assert_eq!(half.hear(), "halved");

    let mut expected = server.said();
    let mut ask = |question: &str, answer: &str| {
        writeln!(input, "{question}").unwrap();
        writeln!(expected, "{answer}").unwrap();
        until(answer, || server.said() == expected);
    };
    ask("c", "2 clients");
    ask("m", "1002 messages");
    drop(half);
    // Its end has no answer of its own; an answer to another one shows that the loop goes on meanwhile.
    burst.send(b"after it");
    assert_eq!(burst.hear(), "after it");
    ask("m", "1003 messages");
    writeln!(input, "q").unwrap();
    let (said, complaints) = server.end();
    assert_eq!((said, complaints.as_str()), (expected, ""));
    assert_eq!(burst.hear_all(), b"");
}

#[test]
fn pollpongd_serves_and_takes_commands_in_one_loop() {
    serve_in_a_loop_of_its_own(Under::Nothing);
}

#[test]
fn pollpongd_counts_clients_that_come_and_go() {
    let server = Server::start("pollpongd", "pongd", &[], Under::Nothing);
    let mut input = server.input();
    let clients: Vec<Raw> = (0..20).map(|_| server.connect()).collect();
    for count in [20, 0] {
        if count == 0 {
            clients.iter().for_each(|client| client.0.shutdown(std::net::Shutdown::Both).unwrap());
        }
        until("the number of clients", || {
            writeln!(input, "c").unwrap();
            server.said().ends_with(&format!("\n{count} clients\n"))
        });
    }
    server.stop_content();
}

#[test]
fn pollpongd_serves_on_when_its_input_ends() {
    let server = Server::start("pollpongd", "pongd", &[], Under::Nothing);
    drop(server.input());
    let mut client = server.connect();
    for n in 0..10 {
        client.send(format!("{n}").as_bytes());
        assert_eq!(client.hear(), n.to_string());
    }
    server.stop_content();
}

// batchd and batch

fn send_many(under: Under, count: u64, size: u64) {
    let server = Server::start("batchd", "batchd", &[], under);
    let text = printed(&mut server.client("batch", &[&count.to_string(), &size.to_string()]));
    let (sent, speed) = text.trim_end().split_once(" in ").unwrap();
    assert_eq!(sent, format!("{count} messages of {size} bytes"));
    let (seconds, rate) = speed.split_once(" s: ").unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 0.0, "{text}");
    assert!(rate.strip_suffix(" per second").unwrap().parse::<f64>().unwrap() > 0.0, "{text}");

    let said = server.stop_content();
    let taken = said.lines().last().unwrap();
    let at_once = taken.strip_prefix(&format!("{count} messages, {} bytes, ", count * size));
    let at_once = at_once.and_then(|rest| rest.strip_suffix(" events at once"));
    let at_once: u64 = at_once.unwrap_or_else(|| panic!("{taken}")).parse().unwrap();
    assert!((1..=256).contains(&at_once), "{taken}");
    // What comes together is told together.
    assert!(size > 1000 || at_once > 10, "{taken}");
}

#[test]
fn batch_sends_and_batchd_takes_each_of_many_messages() {
    send_many(Under::Nothing, 300_000, 100);
}

/// More than the queue holds, in messages that are larger than what leaves by itself.
#[test]
fn batch_waits_for_room() {
    send_many(Under::Nothing, 300, 1_000_000);
}

#[test]
fn batchd_takes_messages_of_several_clients() {
    let server = Server::start("batchd", "batchd", &[], Under::Nothing);
    let mut commands: Vec<_> = (0..3).map(|_| server.client("batch", &["20000", "10"])).collect();
    let running: Vec<_> = commands.iter_mut().map(|one| Running::start(one.stdout(Stdio::null()))).collect();
    assert!(running.iter().all(|client| client.end().success()));
    let said = server.stop_content();
    assert!(said.lines().last().unwrap().starts_with("60000 messages, 600000 bytes, "), "{said}");
}

// openfiled and openfile

/// A folder with some of everything, in one that openfiled is not to leave.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("served");
    fs::create_dir_all(folder.join("below")).unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::write(folder.join("below/file"), "too deep").unwrap();
    fs::write(folder.join("file"), "a file\nof two lines").unwrap();
    fs::write(folder.join("..dots"), "a name like another").unwrap();
    fs::write(folder.join("empty"), "").unwrap();
    fs::write(folder.join("n".repeat(255)), "the longest name").unwrap();
    symlink("file", folder.join("link")).unwrap();
    run(Command::new("mkfifo").arg(folder.join("fifo")));
    (outside, folder)
}

fn open_files(under: Under) {
    let (_outside, folder) = folder();
    let server = Server::start("openfiled", "openfiled", &[folder.to_str().unwrap()], under);
    let longest = "n".repeat(255);
    for name in ["file", "..dots", "empty", &longest] {
        let expected = fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(printed(&mut server.client("openfile", &[name])), expected, "{name}");
    }
    let below = format!("{}/file", folder.display());
    for (name, reason) in [
        ("missing", "No such file or directory"),
        ("", "Invalid argument"),
        (".", "Invalid argument"),
        ("..", "Invalid argument"),
        ("../secret", "Invalid argument"),
        ("below", "Invalid argument"),
        ("below/file", "Invalid argument"),
        (&below, "Invalid argument"),
        ("fifo", "Invalid argument"),
        ("link", "Too many levels of symbolic links"),
    ] {
        let text = complaints(&mut server.client("openfile", &[name]));
        assert_eq!(text, format!("openfile: the server refuses: {reason}\n"), "{name}");
    }
    let mut raw = server.connect();
    raw.send(b"file\0");
    assert_eq!(raw.hear(), "Invalid argument");
    // One that asks for what is no name any more does not disturb the others.
    let text = complaints(&mut server.client("openfile", &[&"n".repeat(256)]));
    assert!(text.starts_with("openfile: "), "{text}");
    raw.send(b"file");
    assert_eq!(raw.hear(), "", "the open file, which a client that has not asked for it does not get");
    let (_, complaints) = server.stop();
    assert!(complaints.contains(" asked for more than a name, "), "{complaints}");
}

#[test]
fn openfile_reads_files_of_the_folder_and_nothing_else() {
    open_files(Under::Nothing);
}

#[test]
fn openfile_prints_a_large_file_as_it_is() {
    let (_outside, folder) = folder();
    let large: String = (0..1_000_000).fold(String::new(), |mut text, n| {
        writeln!(text, "line {n}").unwrap();
        text
    });
    fs::write(folder.join("large"), &large).unwrap();
    let server = Server::start("openfiled", "openfiled", &[folder.to_str().unwrap()], Under::Nothing);
    assert!(printed(&mut server.client("openfile", &["large"])) == large, "another file");
    server.stop_content();
}

#[test]
fn openfiled_keeps_no_descriptor_of_what_it_hands_over() {
    let (_outside, folder) = folder();
    let server = Server::start("openfiled", "openfiled", &[folder.to_str().unwrap()], Under::Nothing);
    let descriptors = format!("/proc/{}/fd", server.running.child().id());
    let open = || fs::read_dir(&descriptors).unwrap().count();
    let mut raw = server.connect();
    raw.send(b"missing");
    raw.hear();
    let before = open();
    for name in ["file", "fifo", "below", "link", "empty"].iter().cycle().take(100) {
        raw.send(name.as_bytes());
        raw.hear();
    }
    // The last answer says that the one before it is done with.
    raw.send(b"missing");
    raw.hear();
    assert_eq!(open(), before);
    server.stop_content();
}

const NOBODY: u32 = 65_534;

#[test]
fn openfiled_serves_its_own_user_alone() {
    // SAFETY: it only tells a number.
    if unsafe { libc::geteuid() } != 0 {
        return skipped("a client of another user", "right to become one");
    }
    let (_outside, folder) = folder();
    let server = Server::start("openfiled", "openfiled", &[folder.to_str().unwrap()], Under::Nothing);
    // Where everybody finds the socket and the program.
    let open_to_all = tempfile::tempdir().unwrap();
    fs::set_permissions(open_to_all.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(server.rundir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&server.socket, Permissions::from_mode(0o777)).unwrap();
    let copy = open_to_all.path().join("openfile");
    fs::copy(program("openfile"), &copy).unwrap();
    fs::copy(stage().library(), open_to_all.path().join("libipc.so.0")).unwrap();
    let mut client = Command::new(&copy);
    client.arg("file").env("IPC_RUNDIR", server.rundir.path()).env("LD_LIBRARY_PATH", open_to_all.path());
    assert_eq!(printed(&mut client), "a file\nof two lines");
    client.uid(NOBODY).gid(NOBODY);
    assert_eq!(complaints(&mut client), "openfile: the server refuses: Permission denied\n");
    server.stop_content();
}

#[test]
fn in_valgrind() {
    if !has("valgrind") {
        return skipped("the examples for ipc_ext.h under valgrind", "valgrind");
    }
    talk_in_a_room(Under::Valgrind);
    tell_the_time(Under::Valgrind);
    serve_in_a_loop_of_its_own(Under::Valgrind);
    send_many(Under::Valgrind, 20_000, 100);
    open_files(Under::Valgrind);
}

/// The folder's README.md names each program.
#[test]
fn the_index_is_complete() {
    let readme = staging::text_of("examples-c/README.md");
    for entry in fs::read_dir(root().join("examples-c")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let source = [".c", ".h"].iter().any(|ending| name.ends_with(ending));
        assert!(!source || readme.contains(&format!("({name})")), "{name} is not there");
    }
}
