//! `ipc send`: what arrives at the service, and what is printed of its answers.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::support::{LARGEST, Peer, Place, Talk, fails, succeeds};

/// Sends as the arguments say, with this on standard input; returns what arrived before the end of the connection.
fn arriving(place: &Place, arguments: &[&str], input: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let listener = place.service("own");
    let mut talk = Talk::start(&mut place.ipc(&[&["send"], arguments].concat()));
    let (mut pipe, input) = (talk.take_input(), input.to_vec());
    let writer = std::thread::spawn(move || pipe.write_all(&input).unwrap());
    let mut peer = Peer::accept(&listener);
    let messages = std::iter::from_fn(|| peer.next()).collect();
    writer.join().unwrap();
    assert_eq!(talk.ends_well(), "", "{arguments:?}");
    std::fs::remove_file(place.socket("own")).unwrap();
    messages
}

#[test]
fn each_argument_is_a_message() {
    let place = Place::new();
    let of = |arguments: &[&str]| arriving(&place, arguments, b"");
    let data =
        |payloads: &[&str]| payloads.iter().map(|text| (2, text.as_bytes().to_vec())).collect::<Vec<_>>();
    assert_eq!(of(&["own", "hello"]), data(&["hello"]));
    assert_eq!(of(&["own", "one", "", "two words, ü"]), data(&["one", "", "two words, ü"]));
    assert_eq!(of(&["own-0-0", "x"]), data(&["x"]));
    assert_eq!(of(&["own", "--", "--lines", "-t"]), data(&["--lines", "-t"]));
    for (option, number) in [("0", 0), ("7", 7), ("255", 255), ("0x1f", 31)] {
        assert_eq!(of(&["-t", option, "own", "x"]), [(number, b"x".to_vec())]);
        assert_eq!(of(&["own", "--type", option, "x"]), [(number, b"x".to_vec())]);
    }
    let many: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(of(&[&["own"], &many[..]].concat()), data(&many));
}

#[test]
fn file_is_one_message_or_a_message_a_line() {
    let place = Place::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let content = b"first\n\nthird \xff\0\r\nlast";
    file.as_file().write_all(content).unwrap();
    let name = file.path().to_str().unwrap();
    let lines = [&b"first"[..], b"", b"third \xff\0\r", b"last"].map(|line| (2, line.to_vec()));
    let whole = [(2, content.to_vec())];
    assert_eq!(arriving(&place, &["own", "-f", name], b""), whole);
    assert_eq!(arriving(&place, &["own", "-f", "-"], content), whole);
    assert_eq!(arriving(&place, &["own", "--lines", "-f", name], b""), lines);
    assert_eq!(arriving(&place, &["own", "--lines"], content), lines);
    assert_eq!(
        arriving(&place, &["own", "--lines", "-f", "-"], b"one\ntwo\n"),
        [(2, b"one".to_vec()), (2, b"two".to_vec())]
    );
    assert_eq!(arriving(&place, &["own", "--lines"], b""), []);
}

#[test]
fn missing_file_is_an_error_and_nothing_is_sent() {
    let place = Place::new();
    let listener = place.service("own");
    let line = place.fails(1, &["send", "own", "-f", "/no/such/file"]);
    assert!(line.contains("/no/such/file") && line.contains("ENOENT"), "{line}");
    listener.set_nonblocking(true).unwrap();
    if let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(false).unwrap();
        Peer::new(stream).assert_at_end();
    }
}

/// The largest message, from a pipe that has no size.
#[test]
fn payload_up_to_the_maximum_comes_from_a_pipe() {
    let place = Place::new();
    let largest: Vec<u8> = (0..LARGEST).map(|place| (place % 251) as u8).collect();
    assert!(arriving(&place, &["own", "-f", "-"], &largest) == [(2, largest.clone())]);

    let listener = place.service("own");
    let mut child = place.ipc(&["send", "own", "-f", "-"]);
    let mut child = child.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The tool may have stopped reading: one byte over the maximum is enough to know.
    let _ = child.stdin.take().unwrap().write_all(&vec![b'x'; LARGEST + 1]);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("7999995") || errors.contains("7,999,995"), "{errors}");
    listener.set_nonblocking(true).unwrap();
    if let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(false).unwrap();
        Peer::new(stream).assert_at_end();
    }
}

/// What is queued when the service reads slowly still arrives: nothing is lost when the tool closes.
#[test]
fn messages_for_a_slow_service_all_arrive() {
    let place = Place::new();
    let listener = place.service("own");
    let mut talk = Talk::start(&mut place.ipc(&["send", "--lines", "own"]));
    let line = "x".repeat(99_999) + "\n";
    let mut input = talk.take_input();
    let writer = std::thread::spawn(move || {
        for _ in 0..200 {
            input.write_all(line.as_bytes()).unwrap();
        }
    });
    let mut peer = Peer::accept(&listener);
    let messages: Vec<usize> = std::iter::from_fn(|| peer.next()).map(|(_, payload)| payload.len()).collect();
    writer.join().unwrap();
    assert_eq!(messages, [99_999; 200]);
    assert_eq!(talk.ends_well(), "");
}

#[test]
fn answers_are_text_or_hexadecimal() {
    let place = Place::new();
    let _pongd = place.pongd();
    let answers = |arguments: &[&str]| place.printed(&[&["send", "pongd"], arguments].concat());
    assert_eq!(answers(&["-w", "1", "hello"]), "hello\n");
    assert_eq!(answers(&["-w2", "one", "Grüße"]), "one\nGrüße\n");
    assert_eq!(answers(&["-w", "1", "two\nlines"]), "74776f0a6c696e6573\n");
    assert_eq!(answers(&["-w", "2", "a\x1b[31m", ""]), "611b5b33316d\n\n");
    assert_eq!(answers(&["-w", "0", "hello"]), "");
    assert_eq!(answers(&["--raw", "-w", "2", "one\n", "two\x1b"]), "one\ntwo\x1b");
    let json = answers(&["--json", "-w", "2", "say \"hi\"", "\x01"]);
    let [first, second] = json.lines().collect::<Vec<_>>().try_into().unwrap();
    assert!(first.contains(r#""text":"say \"hi\"""#), "{first}");
    assert!(second.contains(r#""base64":"AQ==""#), "{second}");
}

#[test]
fn answer_of_the_largest_size_is_printed_whole() {
    let place = Place::new();
    let mut pongd = place.pongd();
    pongd.ignore_output();
    let mut talk = Talk::start(&mut place.ipc(&["send", "--raw", "-w", "1", "-f", "-", "pongd"]));
    let largest = "Grüße!".repeat(LARGEST / 8);
    let mut input = talk.take_input();
    let sent = largest.clone();
    let writer = std::thread::spawn(move || input.write_all(sent.as_bytes()).unwrap());
    let received = talk.ends_well();
    writer.join().unwrap();
    assert!(received == largest, "{} bytes of {}", received.len(), largest.len());
}

#[test]
fn service_that_never_answers_ends_with_the_timeout() {
    let place = Place::new();
    let _listener = place.service("own");
    let line = place.fails(124, &["send", "own", "-w", "1", "--timeout", "0.2", "hello"]);
    assert!(line.contains("own"), "{line}");
    // Nor does a service whose queue of clients is full, and one that reads nothing.
    let pongd = place.pongd();
    pongd.signal(libc::SIGSTOP);
    crate::staging::until("the server is stopped", || crate::support::is_stopped(pongd.id()));
    place.fails(124, &["send", "pongd", "-w", "1", "--timeout", "0.2", "hello"]);
    let mut large = Talk::start(&mut place.ipc(&["send", "pongd", "-f", "-", "--timeout", "0.5"]));
    let mut input = large.take_input();
    let writer = std::thread::spawn(move || drop(input.write_all(&vec![0; LARGEST])));
    let (_, status) = large.end();
    writer.join().unwrap();
    assert_eq!(status.code(), Some(124));
}

#[test]
fn standard_input_that_never_ends_ends_with_the_timeout() {
    let place = Place::new();
    let _pongd = place.pongd();
    for arguments in [
        &["send", "pongd", "-f", "-", "--timeout", "0.2"][..],
        &["send", "pongd", "--lines", "--timeout", "0.2"],
    ] {
        let mut command = place.ipc(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        assert_eq!(child.wait().unwrap().code(), Some(124), "{arguments:?}");
        drop(input);
    }
}

#[test]
fn service_that_closes_before_the_answers_is_an_error() {
    let place = Place::new();
    let listener = place.service("own");
    let mut talk = Talk::start(&mut place.ipc(&["send", "own", "-w", "2", "hello"]));
    let mut peer = Peer::accept(&listener);
    assert_eq!(peer.payload(), b"hello");
    peer.send(b"first");
    assert_eq!(talk.line(), "first");
    drop(peer);
    let complaint = {
        crate::staging::until("its end", || talk.running.has_ended());
        talk.complaints()
    };
    assert_eq!(talk.end().1.code(), Some(1));
    assert!(complaint.starts_with("ipc: own: ") && complaint.lines().count() == 1, "{complaint}");
}

#[test]
fn answer_that_is_no_message_is_an_error() {
    let place = Place::new();
    let listener = place.service("own");
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[2, 5, 0, 0, 0, b'h'][..], &[2][..]] {
        let talk = Talk::start(&mut place.ipc(&["send", "own", "-w", "1", "hello"]));
        let mut peer = Peer::accept(&listener);
        assert_eq!(peer.payload(), b"hello");
        peer.0.write_all(bytes).unwrap();
        drop(peer);
        crate::staging::until("its end", || talk.running.has_ended());
        assert!(talk.complaints().starts_with("ipc: own: "), "{}", talk.complaints());
        assert_eq!(talk.end().1.code(), Some(1));
    }
}

#[test]
fn service_that_is_missing_or_dead_is_named_with_errno() {
    let place = Place::new();
    drop(place.service("dead"));
    let line = place.fails(1, &["send", "dead", "hello"]);
    assert!(line.starts_with("ipc: dead: ") && line.contains("ECONNREFUSED"), "{line}");
    let line = place.fails(1, &["send", "missing", "hello"]);
    assert!(line.starts_with("ipc: missing: ") && line.contains("ENOENT"), "{line}");
}

#[test]
fn send_follows_routes() {
    let place = Place::new();
    let _pongd = place.pongd();
    let path = place.path().join("path");
    let listener = UnixListener::bind(&path).unwrap();
    let target = format!("unix:{}", path.display());
    assert_eq!(place.printed(&["send", "--to", "pongd", "-w", "1", "other", "hello"]), "hello\n");
    let routed =
        |name: &str, value: &str| succeeds(place.ipc(&["send", "-w", "1", "other", "hi"]).env(name, value));
    assert_eq!(routed("IPC_NETWORK_OTHER", "pongd"), "hi\n");
    assert_eq!(routed("IPC_NETWORK", "* pongd"), "hi\n");
    // The option goes before the environment.
    let mut command = place.ipc(&["send", "--to", "direct:", "-w", "1", "pongd", "hi"]);
    assert_eq!(succeeds(command.env("IPC_NETWORK_PONGD", "nobody")), "hi\n");
    let talk = Talk::start(&mut place.ipc(&["send", "--to", &target, "other", "hello"]));
    assert_eq!(Peer::accept(&listener).payload(), b"hello");
    talk.ends_well();
    for (target, errno) in [("ssh:", "EINVAL"), ("ssh://host/a", "ENETUNREACH"), ("nobody", "ENOENT")] {
        let line = fails(1, &mut place.ipc(&["send", "--to", target, "pongd", "hello"]));
        assert!(line.contains(errno), "{target}: {line}");
    }
}

#[test]
fn send_is_ended_by_signals() {
    let place = Place::new();
    let listener = place.service("own");
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let talk = Talk::start(&mut place.ipc(&["send", "own", "-w", "1", "hello"]));
        let mut peer = Peer::accept(&listener);
        assert_eq!(peer.payload(), b"hello");
        talk.signal(signal);
        assert_eq!(talk.end().1.code(), Some(status));
        peer.assert_at_end();
    }
}
