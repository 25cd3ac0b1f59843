//! The examples for ipc_ext.h do what examples-c/README.md says, and end as they should, also under valgrind
//! and with sanitizers. They are built without warnings, or their tests fail. The examples that transfer much
//! data are in `examples_transfers.rs`.

use std::fmt::Write as _;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::staging::examples::{Raw, Server, Talk, Under, command, frame, stderr_of};
use crate::staging::{Running, has, outcome, printed, sanitizers, skipped, until};

#[test]
fn programs_print_errors_without_a_server_or_arguments() {
    let rundir = tempfile::tempdir().unwrap();
    let complaints_of =
        |name, arguments: &[&str]| stderr_of(command(name, rundir.path(), Under::Nothing).args(arguments));
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
    assert_eq!(text, "openfiled: the directory: No such file or directory\n");
}

// chatd and chat

/// The name that chatd uses for this user.
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
    // The test waits for the lines about clients that have connected and about messages.
    let mut witness = server.connect();
    let mut first = Talk::start(server.client("chat", &[]));
    assert_eq!(witness.receive(), format!("{user} has joined"));
    let mut second = Talk::start(server.client("chat", &[]));
    first.assert_line(&format!("{user} has joined"));
    assert_eq!(witness.receive(), format!("{user} has joined"));

    first.write("half a ");
    first.write("line\nand two\n\nlines");
    for line in ["half a line", "and two"] {
        second.assert_line(&format!("{user}: {line}"));
        assert_eq!(witness.receive(), format!("{user}: {line}"));
    }
    witness.send(b"harmless: \x1b[2J\0\n\x7f \xc3\xa4");
    for talk in [&mut first, &mut second] {
        talk.assert_line(&format!("{user}: harmless: ?[2J??? \u{e4}"));
    }
    // The last line has no newline; no client receives its own lines.
    first.end();
    assert_eq!(witness.receive(), format!("{user}: lines"));
    second.assert_line(&format!("{user}: lines"));
    second.write("bye\n");
    second.end();
    assert_eq!(witness.receive(), format!("{user}: bye"));
    server.stop_content();
    assert_eq!(witness.receive_all(), b"");
}

#[test]
fn chatd_sends_a_line_with_its_user_to_all_others() {
    talk_in_a_room(Under::Nothing);
}

#[test]
fn chat_cuts_lines_over_the_limit_of_the_server() {
    let server = Server::start("chatd", "chatd", &[], Under::Nothing);
    let mut witness = server.connect();
    let mut talk = Talk::start(server.client("chat", &[]));
    talk.write(&format!("{}\n", "a".repeat(4097)));
    talk.end();
    let user = user();
    for expected in [" has joined", &format!(": {}", "a".repeat(4096)), ": a"] {
        assert_eq!(witness.receive(), format!("{user}{expected}"));
    }
    server.stop_content();
}

#[test]
fn chatd_closes_only_the_client_with_too_long_a_line() {
    let server = Server::start("chatd", "chatd", &[], Under::Nothing);
    let (mut good, mut bad) = (server.connect(), server.connect());
    let user = user();
    assert_eq!(good.receive(), format!("{user} has joined"));
    bad.send(&[b'x'; 4096]);
    assert_eq!(good.receive(), format!("{user}: {}", "x".repeat(4096)));
    // The header alone is enough.
    bad.0.write_all(&frame(&[b'x'; 4097])[..5]).unwrap();
    assert_eq!(bad.receive_all(), b"");
    let mut third = server.connect();
    assert_eq!(good.receive(), format!("{user} has joined"));
    good.send(b"still here");
    assert_eq!(third.receive(), format!("{user}: still here"));
    let (_, stderr) = server.stop();
    assert!(stderr.contains(" sent a message that is too long, "), "{stderr}");
}

#[test]
fn chatd_drops_a_client_that_does_not_read_without_delay() {
    let server = Server::start("chatd", "chatd", &[], Under::Nothing);
    let (mut stuck, mut reader, mut speaker) = (server.connect(), server.connect(), server.connect());
    let user = user();
    assert_eq!(reader.receive(), format!("{user} has joined"));
    let line = "l".repeat(4000);
    // More than the kernel and the queue of the stuck client hold.
    for _ in 0..1000 {
        speaker.send(line.as_bytes());
        assert_eq!(reader.receive(), format!("{user}: {line}"));
    }
    let got = stuck.receive_all().len();
    assert!(got < 1000 * line.len(), "{got} bytes: all of it");
    let (_, stderr) = server.stop();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.ends_with(" does not read\n"), "{stderr}");
}

// tickerd and ticker

fn assert_times(text: &str) {
    for line in text.lines() {
        let numbers: Vec<u32> = line.split(['-', ' ', ':']).map(|number| number.parse().unwrap()).collect();
        assert!(matches!(numbers[..], [_, 1..=12, 1..=31, 0..24, 0..60, 0..=60]), "{line}");
    }
}

/// The output of tickerd, without the lines for a client that closes before it has read a time that was just
/// sent, and for a client that is too slow for its times.
fn events(stdout: &str) -> Vec<&str> {
    let words = stdout.lines().skip(1).filter_map(|line| line.split(' ').next());
    words.filter(|word| !["ERROR", "NOT"].contains(word)).collect()
}

const CLOSED: &str = "ticker: the server has closed the connection\n";

/// A client that sends nothing for a tenth of a second is closed; no client has to be fast.
fn tell_the_time(under: Under) {
    let server = Server::start("tickerd", "tickerd", &["10", "1000000"], under);
    let text = printed(&mut server.client("ticker", &["5"]));
    assert_times(&text);
    assert_eq!(text.lines().count(), 5);
    until("the end of the client", || server.stdout().contains("\nDISCONNECTION "));
    let stdout = server.stop_content();
    assert_eq!(events(&stdout), ["CONNECTION", "DISCONNECTION"], "{stdout}");

    let server = Server::start("tickerd", "tickerd", &["10", "10"], under);
    let (text, stderr, status) = outcome(&mut server.client("ticker", &["1000000", "quiet"]));
    assert_eq!((stderr.as_str(), status.code()), (CLOSED, Some(1)));
    assert_times(&text);
    until("the end of the client", || server.stdout().contains("\nDISCONNECTION "));
    let stdout = server.stop_content();
    assert_eq!(events(&stdout), ["CONNECTION", "CLOSING", "DISCONNECTION"], "{stdout}");
}

#[test]
fn tickerd_sends_the_time_and_closes_silent_clients() {
    tell_the_time(Under::Nothing);
}

/// One of two clients that connected at the same time answers and is kept: it has seconds for each answer.
#[test]
fn tickerd_keeps_a_client_that_answers() {
    let server = Server::start("tickerd", "tickerd", &["20", "150"], Under::Nothing);
    let mut lively = server.connect();
    let quiet = Running::start(
        server.client("ticker", &["1000000", "quiet"]).stdout(Stdio::null()).stderr(Stdio::null()),
    );
    while !quiet.has_ended() {
        assert_times(&lively.receive());
        lively.send(b"here");
    }
    assert_eq!(quiet.end().code(), Some(1));
    assert_times(&lively.receive());
    let stdout = server.stop_content();
    assert_eq!(stdout.matches("CLOSING").count(), 1, "{stdout}");
}

/// The queue of a client that does not read has a limit of 4 KiB: then times are skipped, and the client
/// stays connected.
#[test]
fn tickerd_skips_times_for_a_client_that_does_not_read() {
    let server = Server::start("tickerd", "tickerd", &["1", "10000000"], Under::Nothing);
    let mut lazy = server.connect();
    // The kernel accepts some thousand before that, one each millisecond.
    until("a time that is left out", || server.stdout().contains("\nNOT SENT TO "));
    (0..1000).for_each(|_| assert_times(&lazy.receive()));
    assert!(!server.stdout().contains("\nDISCONNECTION "));
    server.stop();
}

// pollpongd

fn serve_in_a_loop_of_its_own(under: Under) {
    let server = Server::start("pollpongd", "pongd", &[], under);
    let mut input = server.input();
    assert_eq!(printed(&mut server.client("pong", &[])), "hello\n");
    let (mut burst, mut half) = (server.connect(), server.connect());
    half.0.write_all(&frame(b"halved")[..7]).unwrap();
    // Many messages in one write: poll does not see the messages that libipc has read ahead.
    let many: Vec<u8> = (0..1000).flat_map(|n| frame(format!("{n}").as_bytes())).collect();
    burst.0.write_all(&many).unwrap();
    for n in 0..1000 {
        assert_eq!(burst.receive(), n.to_string());
    }
    half.0.write_all(&frame(b"halved")[7..]).unwrap();
    assert_eq!(half.receive(), "halved");

    let mut expected = server.stdout();
    let mut ask = |question: &str, answer: &str| {
        writeln!(input, "{question}").unwrap();
        writeln!(expected, "{answer}").unwrap();
        until(answer, || server.stdout() == expected);
    };
    ask("c", "2 clients");
    ask("m", "1002 messages");
    drop(half);
    // The disconnection has no answer of its own; an answer to another client shows that the loop goes on.
    burst.send(b"after it");
    assert_eq!(burst.receive(), "after it");
    ask("m", "1003 messages");
    writeln!(input, "q").unwrap();
    let (stdout, stderr) = server.end();
    assert_eq!((stdout, stderr.as_str()), (expected, ""));
    assert_eq!(burst.receive_all(), b"");
}

#[test]
fn pollpongd_serves_and_takes_commands_in_one_loop() {
    serve_in_a_loop_of_its_own(Under::Nothing);
}

#[test]
fn pollpongd_counts_clients_as_they_connect_and_leave() {
    let server = Server::start("pollpongd", "pongd", &[], Under::Nothing);
    let mut input = server.input();
    let clients: Vec<Raw> = (0..20).map(|_| server.connect()).collect();
    for count in [20, 0] {
        if count == 0 {
            clients.iter().for_each(|client| client.0.shutdown(std::net::Shutdown::Both).unwrap());
        }
        until("the number of clients", || {
            writeln!(input, "c").unwrap();
            server.stdout().ends_with(&format!("\n{count} clients\n"))
        });
    }
    server.stop_content();
}

#[test]
fn pollpongd_continues_when_its_input_ends() {
    let server = Server::start("pollpongd", "pongd", &[], Under::Nothing);
    drop(server.input());
    let mut client = server.connect();
    for n in 0..10 {
        client.send(format!("{n}").as_bytes());
        assert_eq!(client.receive(), n.to_string());
    }
    server.stop_content();
}
fn from_start_to_end(under: Under) {
    talk_in_a_room(under);
    tell_the_time(under);
    serve_in_a_loop_of_its_own(under);
}

#[test]
fn in_valgrind() {
    if !has("valgrind") {
        return skipped("the examples for ipc_ext.h under valgrind", "valgrind");
    }
    from_start_to_end(Under::Valgrind);
}

#[test]
fn with_sanitizers() {
    if sanitizers::watch("the examples for ipc_ext.h") {
        from_start_to_end(Under::Sanitizers);
    }
}
