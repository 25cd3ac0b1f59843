//! `ipc monitor`: what it shows, and that client and server get from each other what they would get without it.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::staging::examples::frame;
use crate::staging::{outcome, until};
use crate::support::{LARGEST, Peer, Place, Talk};

/// The messages in the output, as direction and payload.
fn messages(printed: &str) -> Vec<(String, String)> {
    let words = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let is_message = words.len() > 2 && (words[2] == "->" || words[2] == "<-");
        is_message.then(|| (words[2].clone(), words[5..].join(" ")))
    };
    printed.lines().filter_map(words).collect()
}

fn both(direction: &str, payload: &str) -> (String, String) {
    (direction.to_owned(), payload.to_owned())
}

/// A monitor without a program, and the path of its stand-in socket.
pub fn stand_in(place: &Place, arguments: &[&str]) -> (Talk, PathBuf) {
    let mut monitor = Talk::start(&mut place.ipc(&[&["monitor"], arguments].concat()));
    let line = monitor.line();
    let (variable, path) =
        line.split_once("=unix:").unwrap_or_else(|| panic!("{line}: {}", monitor.complaints()));
    assert!(variable.starts_with("IPC_NETWORK_"), "{line}");
    let path = PathBuf::from(path);
    (monitor, path)
}

pub fn client(path: &std::path::Path) -> Peer {
    Peer::new(UnixStream::connect(path).unwrap())
}

/// Both frames, and the status of the program.
#[test]
fn monitor_shows_both_messages_and_keeps_the_status() {
    let place = Place::new();
    let _pongd = place.pongd();
    let pong = place.example("pong");
    let pong = pong.get_program().to_str().unwrap();
    let mut command = place.ipc(&["monitor", "pongd", "--", pong]);
    let printed = crate::support::succeeds(command.env("LD_LIBRARY_PATH", crate::staging::stage().lib()));
    assert_eq!(messages(&printed), [both("->", "hello"), both("<-", "hello")], "{printed}");
    let line = printed.lines().find(|line| line.contains("->")).unwrap();
    assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>(), ["1", "->", "2", "5", "hello"]);
    assert!(printed.lines().any(|line| line == "hello"), "what pong itself prints: {printed}");

    // Without a server pong fails, and says the same as without the monitor.
    let place = Place::new();
    let mut command = place.ipc(&["monitor", "pongd", "--", pong]);
    let (_, errors, status) = outcome(command.env("LD_LIBRARY_PATH", crate::staging::stage().lib()));
    assert_eq!(status.code(), Some(1), "{errors}");
    for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        let (_, errors, status) = outcome(&mut place.ipc(&["monitor", "pongd", "--", "sh", "-c", script]));
        assert_eq!((status.code(), errors.as_str()), (Some(expected), ""), "{script}");
    }
    place.fails(127, &["monitor", "pongd", "--", "no-such-program"]);
    place.fails(126, &["monitor", "pongd", "--", "/"]);
}

#[test]
fn monitor_in_json_has_an_object_for_each_event() {
    let place = Place::new();
    let _pongd = place.pongd();
    let (mut monitor, path) = {
        let mut monitor = Talk::start(&mut place.ipc(&["--json", "monitor", "pongd"]));
        let line = monitor.line();
        assert!(line.contains(r#""variable":"IPC_NETWORK_PONGD""#), "{line}");
        let (_, rest) = line.split_once("\"unix:").unwrap();
        let path = PathBuf::from(rest.split('"').next().unwrap());
        (monitor, path)
    };
    let mut client = client(&path);
    assert!(monitor.line().contains(r#""event":"connect""#));
    client.send(b"\x00");
    assert_eq!(client.payload(), b"\0");
    for direction in ["to-server", "to-client"] {
        let line = monitor.line();
        assert!(line.contains(r#""event":"message""#) && line.contains(r#""base64":"AA==""#), "{line}");
        assert!(line.contains(&format!(r#""direction":"{direction}""#)), "{line}");
    }
}

/// Thousands of messages of many sizes, in both directions, arrive in order, and are shown in order.
#[test]
fn order_and_sizes_stay_as_they_are() {
    let place = Place::new();
    let listener = place.service("own");
    let (mut monitor, path) = stand_in(&place, &["own"]);
    let client = client(&path);
    let server = Peer::accept(&listener);
    const SIZES: [usize; 12] = [0, 1, 4, 5, 6, 100, 4096, 65_531, 65_536, 70_000, 0, 3];
    const COUNT: usize = 600;
    let payload = |number: usize| vec![b'a' + (number % 26) as u8; SIZES[number % SIZES.len()]];
    let sends = |peer: &Peer| {
        let mut peer = Peer::new(peer.0.try_clone().unwrap());
        std::thread::spawn(move || {
            (0..COUNT).for_each(|number| peer.send_as((number % 256) as u8, &payload(number)))
        })
    };
    let receives = |peer: &Peer| {
        let mut peer = Peer::new(peer.0.try_clone().unwrap());
        std::thread::spawn(move || {
            for number in 0..COUNT {
                let (message_type, received) = peer.next().expect("a message");
                assert_eq!(message_type, (number % 256) as u8);
                assert!(received == payload(number), "message {number}");
            }
        })
    };
    let threads = [sends(&client), sends(&server), receives(&client), receives(&server)];
    let mut seen = [0, 0];
    while seen != [COUNT, COUNT] {
        let words = monitor.words();
        let at = match words[2].as_str() {
            "->" => 0,
            "<-" => 1,
            _ => continue,
        };
        let number = seen[at];
        assert_eq!(words[3..5], [(number % 256).to_string(), payload(number).len().to_string()]);
        seen[at] += 1;
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn largest_message_passes_both_ways() {
    let place = Place::new();
    let mut pongd = place.pongd();
    pongd.ignore_output();
    let (mut monitor, path) = stand_in(&place, &["pongd"]);
    let client = client(&path);
    let largest: Vec<u8> = (0..LARGEST).map(|place| (place % 251) as u8).collect();
    let mut writing = Peer::new(client.0.try_clone().unwrap());
    let sent = largest.clone();
    let writer = std::thread::spawn(move || writing.send(&sent));
    let mut reading = client;
    let reader = std::thread::spawn(move || reading.payload());
    let mut shown = Vec::new();
    while shown.len() < 2 {
        let words = monitor.words();
        if words[2] == "->" || words[2] == "<-" {
            assert_eq!(words[3..5], ["2", &LARGEST.to_string()]);
            assert_eq!(words[5].len(), 2 * LARGEST, "hexadecimal, whole");
            shown.push(words[2].clone());
        }
    }
    assert_eq!(shown, ["->", "<-"]);
    writer.join().unwrap();
    assert!(reader.join().unwrap() == largest);
}

/// Each connection has a number, and its own messages.
#[test]
fn connections_are_told_apart() {
    let place = Place::new();
    let _pongd = place.pongd();
    let (mut monitor, path) = stand_in(&place, &["pongd"]);
    let mut clients: Vec<Peer> = (0..5).map(|_| client(&path)).collect();
    for number in 1..=5 {
        assert_eq!(monitor.words()[1..3], [number.to_string(), "connect".to_owned()]);
    }
    for (number, client) in clients.iter_mut().enumerate().rev() {
        let text = format!("from {number}");
        client.send(text.as_bytes());
        assert_eq!(client.payload(), text.as_bytes());
        for direction in ["->", "<-"] {
            let words = monitor.words();
            assert_eq!(words[1..3], [(number + 1).to_string(), direction.to_owned()]);
            assert_eq!(words[5..], ["from", &number.to_string()]);
        }
    }
}

/// A client and a server that wait for each other's bytes get the first part of a message at once.
#[test]
fn part_of_a_message_is_passed_on_at_once() {
    let place = Place::new();
    let listener = place.service("own");
    let (_monitor, path) = stand_in(&place, &["own"]);
    let mut client = client(&path);
    let mut server = Peer::accept(&listener);
    let bytes = frame(b"a message in pieces");
    for byte in &bytes {
        client.0.write_all(&[*byte]).unwrap();
        let mut received = [0];
        std::io::Read::read_exact(&mut server.0, &mut received).unwrap();
        assert_eq!(received[0], *byte);
    }
}

/// What no side reads is not piled up: the sender is held up as it would be without the monitor.
#[test]
fn side_that_does_not_read_holds_up_the_other() {
    let place = Place::new();
    let listener = place.service("own");
    let (monitor, path) = stand_in(&place, &["own"]);
    let client = client(&path);
    let _server = Peer::accept(&listener);
    client.0.set_nonblocking(true).unwrap();
    let bytes = frame(&vec![b'x'; 1_000_000]);
    let mut sent = 0;
    let is_full = |sent: &mut usize| loop {
        match (&client.0).write(&bytes[*sent % bytes.len()..]) {
            Ok(count) => *sent += count,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                return;
            }
        }
        assert!(*sent < 64 << 20, "the monitor takes what nothing reads");
    };
    // Full and still full when the monitor has had its turn: it waits in poll(2), and its processor time stands.
    let used = || std::fs::read_to_string(format!("/proc/{}/schedstat", monitor.id())).unwrap();
    until("nothing moves any more", || {
        is_full(&mut sent);
        let before = (sent, used());
        std::thread::sleep(std::time::Duration::from_millis(50));
        is_full(&mut sent);
        before == (sent, used())
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", monitor.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(resident < 64 << 10, "{resident} KiB");
}

#[test]
fn monitor_ends_after_the_messages_of_its_option() {
    let place = Place::new();
    let _pongd = place.pongd();
    let (monitor, path) = stand_in(&place, &["-n", "2", "pongd"]);
    let mut client = client(&path);
    client.send(b"hello");
    assert_eq!(client.payload(), b"hello");
    let printed = monitor.ends_well();
    assert_eq!(messages(&printed), [both("->", "hello"), both("<-", "hello")]);
    assert!(!path.exists() && !path.parent().unwrap().exists());
}

/// The monitor connects where the program would have.
#[test]
fn monitor_follows_routes() {
    let place = Place::new();
    let _pongd = place.pongd();
    let (_monitor, path) = stand_in(&place, &["--to", "pongd", "other"]);
    let mut client = client(&path);
    client.send(b"hello");
    assert_eq!(client.payload(), b"hello");
    let script = "ipc send -w 1 my-svc.1 hello";
    let mut command = place.ipc(&["monitor", "my-svc.1", "--", "sh", "-c", script]);
    let tools = crate::staging::stage().usr().join("bin");
    command.env("PATH", format!("{}:{}", tools.display(), std::env::var("PATH").unwrap()));
    let printed = crate::support::succeeds(command.env("IPC_NETWORK_MY_SVC_1", "pongd"));
    assert_eq!(messages(&printed), [both("->", "hello"), both("<-", "hello")], "{printed}");
}
