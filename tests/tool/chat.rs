//! `ipc chat`: lines both ways.

use crate::staging::until;
use crate::support::{Peer, Place, Talk};

fn chat(place: &Place, arguments: &[&str]) -> Talk {
    Talk::start(&mut place.ipc(&[&["chat"], arguments].concat()))
}

#[test]
fn lines_are_messages_and_messages_are_lines() {
    let place = Place::new();
    let listener = place.service("own");
    let mut chat = chat(&place, &["-t", "7", "own"]);
    let mut peer = Peer::accept(&listener);
    chat.write(b"first\n\nGr\xc3\xbc\xc3\x9fe\n");
    for expected in ["first", "", "Grüße"] {
        assert_eq!(peer.next(), Some((7, expected.as_bytes().to_vec())));
    }
    // Without a question, and while the input is open.
    peer.send(b"unasked");
    assert_eq!(chat.line(), "unasked");
    peer.send(b"\x1b[2J");
    assert_eq!(chat.line(), "1b5b324a");
    chat.write(b"the last, without a newline");
    chat.close_input();
    assert_eq!(peer.next(), Some((7, b"the last, without a newline".to_vec())));
}

#[test]
fn answers_after_the_end_of_the_input_are_printed() {
    let place = Place::new();
    let _pongd = place.pongd();
    let mut chat = chat(&place, &["pongd"]);
    chat.write(b"one\ntwo\nthree\n");
    chat.close_input();
    for expected in ["one", "two", "three"] {
        assert_eq!(chat.line(), expected);
    }
}

#[test]
fn chat_ends_when_the_service_closes() {
    let place = Place::new();
    let listener = place.service("own");
    let mut chat = chat(&place, &["own"]);
    let mut peer = Peer::accept(&listener);
    peer.send(b"good bye");
    drop(peer);
    assert_eq!(chat.line(), "good bye");
    until("chat ends, with its input open", || chat.running.has_ended());
    let (rest, status) = chat.end();
    assert_eq!(rest, "");
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
}

#[test]
fn chat_without_a_service_fails() {
    let place = Place::new();
    let line = place.fails(1, &["chat", "missing"]);
    assert!(line.starts_with("ipc: missing: ") && line.contains("ENOENT"), "{line}");
}

#[test]
fn chat_is_ended_by_signals_and_by_its_reader() {
    let place = Place::new();
    let listener = place.service("own");
    for (number, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let chat = chat(&place, &["own"]);
        let mut peer = Peer::accept(&listener);
        chat.signal(number);
        assert_eq!(chat.end().1.code(), Some(status));
        peer.assert_at_end();
    }
    let mut chat = chat(&place, &["own"]);
    let mut peer = Peer::accept(&listener);
    chat.close_output();
    let input = chat.take_input();
    peer.assert_at_end();
    assert_eq!(chat.end().1.code(), Some(141));
    drop(input);
}
