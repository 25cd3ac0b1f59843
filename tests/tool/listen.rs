//! `ipc listen`: what it prints of its clients, how it answers them, and how it ends.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use crate::staging::until;
use crate::support::{LARGEST, Peer, Place, Talk, is_listening};

/// The words of a line after the time, which has the form 12:34:56.123456.
fn event(line: &str) -> Vec<String> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let time = words.next().unwrap_or_default();
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "00:00:00.000000", "{line}");
    words.collect()
}

fn next(talk: &mut Talk) -> Vec<String> {
    let line = talk.line();
    assert!(!line.is_empty(), "no more output; {}", talk.complaints());
    event(&line)
}

#[test]
fn listen_prints_each_event() {
    let place = Place::new();
    let mut listen = place.listen("own", &[]);
    let (pid, uid) = (std::process::id().to_string(), nix::unistd::getuid().to_string());
    let mut first = place.client("own");
    assert_eq!(next(&mut listen), ["1", &pid, &uid, "connect"]);
    let mut second = place.client("own");
    assert_eq!(next(&mut listen), ["2", &pid, &uid, "connect"]);
    second.send(b"hello");
    assert_eq!(next(&mut listen), ["2", &pid, &uid, "2", "5", "hello"]);
    first.send_as(200, "Grüße, Welt".as_bytes());
    assert_eq!(next(&mut listen), ["1", &pid, &uid, "200", "13", "Grüße,", "Welt"]);
    first.send(b"");
    assert_eq!(next(&mut listen), ["1", &pid, &uid, "2", "0"]);
    first.send(b"\x1b[2J");
    assert_eq!(next(&mut listen), ["1", &pid, &uid, "2", "4", "1b5b324a"]);
    drop(first);
    assert_eq!(next(&mut listen)[..4], ["1", &pid, &uid, "close"]);
    second.send(b"still here");
    assert_eq!(next(&mut listen)[3..], ["2", "10", "still", "here"]);
}

#[test]
fn listen_in_json_has_an_object_for_each_event() {
    let place = Place::new();
    let mut listen = place.listen("own", &["--json"]);
    let mut client = place.client("own");
    assert!(listen.line().contains(r#""event":"connect""#));
    client.send(b"say \"hi\"");
    let line = listen.line();
    assert!(line.contains(r#""event":"message""#) && line.contains(r#""text":"say \"hi\"""#), "{line}");
    assert!(line.starts_with(r#"{"time":"#) && line.ends_with('}'), "{line}");
    client.send(&[0, 255]);
    assert!(listen.line().contains(r#""base64":"AP8=""#));
    drop(client);
    assert!(listen.line().contains(r#""event":"close""#));
}

#[test]
fn listen_answers_with_echo_reply_or_nothing() {
    let place = Place::new();
    let _echo = place.listen("echo", &["--echo"]);
    let _typed = place.listen("typed", &["--echo", "-t", "9"]);
    let _reply = place.listen("reply", &["--reply", "well received"]);
    let _silent = place.listen("silent", &[]);
    let mut echo = place.client("echo");
    echo.send_as(77, b"a\0b");
    assert_eq!(echo.next(), Some((77, b"a\0b".to_vec())));
    echo.send(b"");
    assert_eq!(echo.next(), Some((2, Vec::new())));
    let mut typed = place.client("typed");
    typed.send_as(77, b"x");
    assert_eq!(typed.next(), Some((9, b"x".to_vec())));
    let mut reply = place.client("reply");
    reply.send(b"x");
    assert_eq!(reply.payload(), b"well received");
    let line = place.fails(124, &["send", "-w", "1", "--timeout", "0.1", "silent", "x"]);
    assert!(line.contains("silent"), "{line}");
}

#[test]
fn echo_of_the_largest_size_comes_back_whole() {
    let place = Place::new();
    let mut listen = place.listen("echo", &["--echo", "-n", "1"]);
    let client = place.client("echo");
    let largest: Vec<u8> = (0..LARGEST).map(|place| (place % 253) as u8).collect();
    let mut writing = Peer::new(client.0.try_clone().unwrap());
    let sent = largest.clone();
    let writer = std::thread::spawn(move || writing.send(&sent));
    let mut reading = client;
    let reader = std::thread::spawn(move || reading.payload());
    next(&mut listen);
    assert_eq!(next(&mut listen)[3..5], ["2", &LARGEST.to_string()]);
    writer.join().unwrap();
    assert!(reader.join().unwrap() == largest);
    listen.ends_well();
}

/// A process for each message: its input is the payload, its output the answer.
#[test]
fn listen_answers_with_the_output_of_a_command() {
    let place = Place::new();
    let _upper = place.listen("upper", &["--exec", "tr a-z A-Z"]);
    assert_eq!(place.printed(&["send", "-w", "2", "upper", "one", "two"]), "ONE\nTWO\n");
    let mut binary = place.client("upper");
    binary.send(b"a\0\xff\nb");
    assert_eq!(binary.payload(), b"A\0\xff\nB");
    let _empty = place.listen("empty", &["--exec", "cat > /dev/null"]);
    let mut empty = place.client("empty");
    empty.send(b"x");
    assert_eq!(empty.payload(), b"");
    let mut listen = place.listen("ignores", &["--exec", "echo done"]);
    listen.ignore_output();
    let mut ignores = place.client("ignores");
    ignores.send(&vec![b'x'; 1 << 20]);
    assert_eq!(ignores.payload(), b"done\n");
}

/// The command of one client waits for a file that the answer to the other one makes.
#[test]
fn command_for_one_client_holds_up_no_other() {
    let place = Place::new();
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("file");
    let script = format!(
        "read word; if [ $word = wait ]; then until [ -e {0} ]; do sleep 0.01; done; else : > {0}; fi; echo $word",
        file.display()
    );
    let _listen = place.listen("own", &["--exec", &script]);
    let (mut first, mut second) = (place.client("own"), place.client("own"));
    first.send(b"wait\n");
    second.send(b"go\n");
    assert_eq!(second.payload(), b"go\n");
    assert_eq!(first.payload(), b"wait\n");
}

#[test]
fn command_that_fails_is_reported_and_listen_goes_on() {
    let place = Place::new();
    let mut listen = place.listen("own", &["--exec", "read word; exit $word"]);
    let mut client = place.client("own");
    client.send(b"3\n");
    client.next().expect("an answer that says so");
    client.send(b"0\n");
    assert_eq!(client.payload(), b"");
    listen.signal(libc::SIGTERM);
    until("its end", || listen.running.has_ended());
    let complaint = listen.complaints();
    assert!(complaint.starts_with("ipc: own: ") && complaint.lines().count() == 1, "{complaint}");
    listen.close_output();
}

/// A reader that ends after the messages it wants has got all answers.
#[test]
fn listen_ends_after_the_messages_with_their_answers_delivered() {
    let place = Place::new();
    let listen = place.listen("own", &["--exec", "sleep 0.1; cat", "-n", "3"]);
    assert_eq!(place.printed(&["send", "-w", "3", "own", "one", "two", "three"]), "one\ntwo\nthree\n");
    let printed = listen.ends_well();
    assert_eq!(
        printed.lines().filter(|line| event(line).get(3).is_some_and(|word| word == "2")).count(),
        3,
        "{printed}"
    );
    place.assert_empty();
}

#[test]
fn mode_of_the_socket_is_as_given() {
    let place = Place::new();
    for mode in ["600", "0660", "777", "0"] {
        let listen = place.listen("own", &["--mode", mode]);
        let found = std::fs::symlink_metadata(place.socket("own")).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, u32::from_str_radix(mode, 8).unwrap(), "{mode}");
        listen.signal(libc::SIGTERM);
        listen.end();
    }
}

/// The second one fails and does the first one no harm.
#[test]
fn second_listen_of_a_name_fails() {
    let place = Place::new();
    let first = place.listen("own", &["--echo"]);
    for _ in 0..2 {
        let line = place.fails(1, &["listen", "own"]);
        assert!(line.starts_with("ipc: own: ") && line.contains("EADDRINUSE"), "{line}");
        assert_eq!(place.printed(&["send", "-w", "1", "own", "hello"]), "hello\n");
    }
    // A dead server's socket is replaced, and another version is another service.
    let _version = Talk::start(&mut place.ipc(&["listen", "own-0-1"]));
    assert_eq!(place.printed(&["wait", "--timeout", "60", "own-0-1"]), "");
    first.signal(libc::SIGKILL);
    first.end();
    assert!(place.socket("own").exists());
    let again = place.listen("own", &["--echo"]);
    assert_eq!(place.printed(&["send", "-w", "1", "own", "hello"]), "hello\n");
    again.signal(libc::SIGTERM);
    again.end();
}

/// A signal at any moment of its beginning: the socket is closed and removed, and the status is that of the signal.
#[test]
fn signal_at_each_moment_leaves_no_socket() {
    let place = Place::new();
    for (number, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let listen = place.listen("own", &["--echo"]);
        let _client = place.client("own");
        listen.signal(number);
        assert_eq!(listen.end().1.code(), Some(status));
        place.assert_empty();
    }
    // Before it has said what shall happen, the signal does what it does to every program.
    for delay in 0..60 {
        let listen = Talk::start(&mut place.ipc(&["listen", "own"]));
        std::thread::sleep(std::time::Duration::from_micros(delay * 100));
        listen.signal(libc::SIGINT);
        let (_, status) = listen.end();
        let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGINT);
        assert!(status.code() == Some(130) || killed, "{status}");
        place.assert_empty();
    }
}

/// `ipc listen own | head -n 1`.
#[test]
fn listen_ends_when_its_reader_ends() {
    let place = Place::new();
    let mut listen = place.listen("own", &["--echo"]);
    let _client = place.client("own");
    next(&mut listen);
    listen.close_output();
    let (_, status) = listen.end();
    assert_eq!(status.code(), Some(141));
    place.assert_empty();
}

/// A peer that breaks the protocol, and one that ends in the middle of a message, are their own problem.
#[test]
fn broken_clients_end_alone() {
    let place = Place::new();
    let mut listen = place.listen("own", &["--echo"]);
    let mut good = place.client("own");
    next(&mut listen);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[2, 5, 0, 0, 0, b'h'], &[2, 255, 255, 255, 255], &[2]] {
        let mut bad = place.client("own");
        let number = next(&mut listen)[0].clone();
        bad.0.write_all(bytes).unwrap();
        drop(bad);
        let closed = next(&mut listen);
        assert_eq!([&closed[0], &closed[3]], [&number, "close"], "{bytes:?}");
        good.send(b"hello");
        assert_eq!(good.payload(), b"hello");
        next(&mut listen);
    }
}

#[test]
fn client_that_reads_nothing_holds_up_no_other() {
    let place = Place::new();
    let mut listen = place.listen("own", &["--echo"]);
    let stuck = place.client("own");
    let mut writing = stuck.0.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let mut bytes = vec![2];
        bytes.extend_from_slice(&100_000_u32.to_ne_bytes());
        bytes.extend_from_slice(&[b'x'; 100_000]);
        // Until the tool reads no more, since its answers are not read.
        while writing.write_all(&bytes).is_ok() {}
    });
    // Its output is read: it is not what holds the tool up.
    listen.ignore_output();
    let mut other = place.client("own");
    for _ in 0..20 {
        other.send(b"hello");
        assert_eq!(other.payload(), b"hello");
    }
    stuck.0.shutdown(std::net::Shutdown::Both).unwrap();
    writer.join().unwrap();
    assert!(!listen.running.has_ended());
}

#[test]
fn missing_run_directory_is_made_or_named() {
    let place = Place::new();
    let rundir = place.path().join("made");
    let mut command = place.ipc(&["listen", "own"]);
    let listen = Talk::start(command.env("IPC_RUNDIR", &rundir));
    until("it listens", || is_listening(&rundir.join("own-0-0")));
    listen.signal(libc::SIGTERM);
    listen.end();
    let deeper = place.path().join("not/there");
    let line = place.fails(1, &["--rundir", deeper.to_str().unwrap(), "listen", "own"]);
    assert!(line.contains("ENOENT"), "{line}");
}
