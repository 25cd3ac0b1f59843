//! The examples that transfer many messages and open files do what examples-c/README.md says, and end as they
//! should, also under valgrind and with sanitizers.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::staging::examples::{Server, Under, program, stderr_of};
use crate::staging::{Running, has, printed, run, sanitizers, skipped, stage};

// batchd and batch

fn send_many(under: Under, count: u64, size: u64) {
    let server = Server::start("batchd", "batchd", &[], under);
    let text = printed(&mut server.client("batch", &[&count.to_string(), &size.to_string()]));
    let (sent, speed) = text.trim_end().split_once(" in ").unwrap();
    assert_eq!(sent, format!("{count} messages of {size} bytes"));
    let (seconds, rate) = speed.split_once(" s: ").unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 0.0, "{text}");
    assert!(rate.strip_suffix(" per second").unwrap().parse::<f64>().unwrap() > 0.0, "{text}");

    let stdout = server.stop_content();
    let taken = stdout.lines().last().unwrap();
    let at_once = taken.strip_prefix(&format!("{count} messages, {} bytes, ", count * size));
    let at_once = at_once.and_then(|rest| rest.strip_suffix(" events at once"));
    let at_once: u64 = at_once.unwrap_or_else(|| panic!("{taken}")).parse().unwrap();
    assert!((1..=256).contains(&at_once), "{taken}");
    // Messages that arrive together are reported together.
    assert!(size > 1000 || at_once > 10, "{taken}");
}

#[test]
fn batchd_receives_each_of_many_messages() {
    send_many(Under::Nothing, 300_000, 100);
}

/// More than the queue holds, in messages that are larger than those that are sent at once.
#[test]
fn batch_waits_until_the_queue_has_room() {
    send_many(Under::Nothing, 300, 1_000_000);
}

#[test]
fn batchd_receives_messages_of_several_clients() {
    let server = Server::start("batchd", "batchd", &[], Under::Nothing);
    let mut commands: Vec<_> = (0..3).map(|_| server.client("batch", &["20000", "10"])).collect();
    let running: Vec<_> = commands.iter_mut().map(|one| Running::start(one.stdout(Stdio::null()))).collect();
    assert!(running.iter().all(|client| client.end().success()));
    let stdout = server.stop_content();
    assert!(stdout.lines().last().unwrap().starts_with("60000 messages, 600000 bytes, "), "{stdout}");
}

// openfiled and openfile

/// A directory with files of several kinds, within a directory that openfiled must not leave.
fn dir() -> (tempfile::TempDir, PathBuf) {
    let outside = tempfile::tempdir().unwrap();
    let dir = outside.path().join("served");
    fs::create_dir_all(dir.join("below")).unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::write(dir.join("below/file"), "too deep").unwrap();
    fs::write(dir.join("file"), "a file\nof two lines").unwrap();
    fs::write(dir.join("..dots"), "a name like another").unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("n".repeat(255)), "the longest name").unwrap();
    symlink("file", dir.join("link")).unwrap();
    run(Command::new("mkfifo").arg(dir.join("fifo")));
    (outside, dir)
}

fn open_files(under: Under) {
    let (_outside, dir) = dir();
    let server = Server::start("openfiled", "openfiled", &[dir.to_str().unwrap()], under);
    let longest = "n".repeat(255);
    for name in ["file", "..dots", "empty", &longest] {
        let expected = fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(printed(&mut server.client("openfile", &[name])), expected, "{name}");
    }
    let below = format!("{}/file", dir.display());
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
        ("link", GLIBC_ELOOP),
    ] {
        let text = stderr_of(&mut server.client("openfile", &[name]));
        let text = text.replace(MUSL_ELOOP, GLIBC_ELOOP);
        assert_eq!(text, format!("openfile: the server refuses: {reason}\n"), "{name}");
    }
    let mut raw = server.connect();
    raw.send(b"file\0");
    assert_eq!(raw.receive(), "Invalid argument");
    // A client that requests an invalid name does not disturb the others.
    let text = stderr_of(&mut server.client("openfile", &[&"n".repeat(256)]));
    assert!(text.starts_with("openfile: "), "{text}");
    raw.send(b"file");
    assert_eq!(raw.receive(), "", "the open file, which a client that has not asked for it does not get");
    let (_, stderr) = server.stop();
    assert!(stderr.contains(" sent a message that is too long, "), "{stderr}");
}

/// The message for ELOOP in each C library.
const GLIBC_ELOOP: &str = "Too many levels of symbolic links";
const MUSL_ELOOP: &str = "Symbolic link loop";

#[test]
fn openfile_reads_only_files_of_the_directory() {
    open_files(Under::Nothing);
}

#[test]
fn openfile_prints_a_large_file_unchanged() {
    let (_outside, dir) = dir();
    let large: String = (0..1_000_000).fold(String::new(), |mut text, n| {
        writeln!(text, "line {n}").unwrap();
        text
    });
    fs::write(dir.join("large"), &large).unwrap();
    let server = Server::start("openfiled", "openfiled", &[dir.to_str().unwrap()], Under::Nothing);
    assert!(printed(&mut server.client("openfile", &["large"])) == large, "another file");
    server.stop_content();
}

#[test]
fn openfiled_closes_its_descriptor_of_a_passed_file() {
    let (_outside, dir) = dir();
    let server = Server::start("openfiled", "openfiled", &[dir.to_str().unwrap()], Under::Nothing);
    let descriptors = format!("/proc/{}/fd", server.running.child().id());
    let open = || fs::read_dir(&descriptors).unwrap().count();
    let mut raw = server.connect();
    raw.send(b"missing");
    raw.receive();
    let before = open();
    for name in ["file", "fifo", "below", "link", "empty"].iter().cycle().take(100) {
        raw.send(name.as_bytes());
        raw.receive();
    }
    // When the last answer arrives, the one before it is completed.
    raw.send(b"missing");
    raw.receive();
    assert_eq!(open(), before);
    server.stop_content();
}

const NOBODY: u32 = 65_534;

#[test]
fn openfiled_serves_only_its_own_user() {
    // SAFETY: it only returns a number.
    if unsafe { libc::geteuid() } != 0 {
        return skipped("a client of another user", "right to become one");
    }
    let (_outside, dir) = dir();
    let server = Server::start("openfiled", "openfiled", &[dir.to_str().unwrap()], Under::Nothing);
    // In a directory in which all users find the socket and the program.
    let open_to_all = tempfile::tempdir().unwrap();
    fs::set_permissions(open_to_all.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(server.rundir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&server.socket, Permissions::from_mode(0o777)).unwrap();
    let copy = open_to_all.path().join("openfile");
    // Copied by a separate process: a process that another test starts would inherit the file that is open
    // for writing here, and a file that is open for writing cannot be executed.
    run(Command::new("cp").arg(program("openfile", false)).arg(&copy));
    fs::copy(stage().library(), open_to_all.path().join("libipc.so.0")).unwrap();
    let mut client = Command::new(&copy);
    client.arg("file").env("IPC_RUNDIR", server.rundir.path()).env("LD_LIBRARY_PATH", open_to_all.path());
    assert_eq!(printed(&mut client), "a file\nof two lines");
    client.uid(NOBODY).gid(NOBODY);
    assert_eq!(stderr_of(&mut client), "openfile: the server refuses: Permission denied\n");
    server.stop_content();
}
fn from_start_to_end(under: Under) {
    send_many(under, 20_000, 100);
    open_files(under);
}

#[test]
fn in_valgrind() {
    if !has("valgrind") {
        return skipped("batchd and openfiled under valgrind", "valgrind");
    }
    from_start_to_end(Under::Valgrind);
}

#[test]
fn with_sanitizers() {
    if sanitizers::watch("batchd and openfiled") {
        from_start_to_end(Under::Sanitizers);
    }
}
