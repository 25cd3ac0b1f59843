//! `ipc bench`.
//!
//! All clients work at the same time, each in a thread of its own, in three rounds; the next round begins
//! when the last client has ended the one before.
//!
//! | round | what each client does | what is printed of it |
//! |---|---|---|
//! | check | one message, whose answer must be the same | nothing, if all is well |
//! | round trips | sends a message and reads its echo, again and again | median and 99 % of the times |
//! | stream | one thread sends, another one reads the echoes | bytes of payload in one direction in a second |
//!
//! Without a service the messages go to an echo server of this process, over socket pairs: no file is made,
//! so none can be left.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use nix::errno::Errno;

use super::Globals;
use crate::error::Error;
use crate::libipc::{Client, Event, Events, Failure, MAX_PAYLOAD, Message, TYPE_DATA};
use crate::output::{Output, Value, field};
use crate::service::Service;
use crate::threads;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most messages: each time is kept.
const MOST: u64 = 10_000_000;

/// How often the progress bar is drawn, and its length.
const DRAW: Duration = Duration::from_millis(100);
const BAR: u64 = 40;

/// What is measured.
#[derive(Clone)]
struct Plan {
    /// What errors name.
    about: String,
    size: usize,
    /// How many messages each client sends in a round.
    each: u64,
    clients: u64,
}

impl Plan {
    fn new(matches: &ArgMatches) -> Result<Self, Error> {
        let number = |name| matches.get_one::<u64>(name).copied();
        let size = number("size").unwrap_or(64);
        let clients = number("clients").unwrap_or(1);
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_PAYLOAD);
        let Some(size) = size else {
            return Err(Error::usage(format!("--size: at most {MAX_PAYLOAD} bytes")));
        };
        let count = number("count").unwrap_or_else(|| usual_count(size));
        if clients == 0 || count == 0 || count > MOST || clients > MOST {
            return Err(Error::usage(format!("--count and --clients: from 1 to {MOST}")));
        }
        let about = matches.get_one::<Service>("service").map_or("bench".to_owned(), ToString::to_string);
        Ok(Self { about, size, each: count.div_ceil(clients), clients })
    }

    fn total(&self) -> u64 {
        self.each * self.clients
    }

    /// The payload of the message with this number.
    fn payload(&self, number: u64) -> Vec<u8> {
        let mut payload = vec![b'x'; self.size];
        put_number(&mut payload, number);
        payload
    }

    fn failed(&self, message: &str, failure: Failure) -> Error {
        match failure.errno {
            Errno::ETIMEDOUT => Error::plain(
                &self.about,
                format!("no answer in {} s: this is no echo service, or it is stopped", PATIENCE.as_secs()),
            ),
            _ if failure.is_end() => Error::plain(&self.about, "the service has closed the connection"),
            errno => Error::failed(&self.about, message, errno),
        }
    }

    fn send(&self, client: &Client, payload: &[u8]) -> Result<(), Error> {
        client.connection().send(TYPE_DATA, payload).map_err(|failure| self.failed("cannot send", failure))
    }

    fn read(&self, client: &mut Client) -> Result<Message, Error> {
        client.read(Some(PATIENCE)).map_err(|failure| self.failed("cannot read the echo", failure))
    }

    /// Whether this is the echo of the payload: of all its bytes, or of those that a number changes.
    fn check(&self, echo: &Message, payload: &[u8], is_thorough: bool) -> Result<(), Error> {
        let checked = if is_thorough { payload.len() } else { payload.len().min(size_of::<u64>()) };
        let is_echo = echo.kind == TYPE_DATA
            && echo.payload.len() == payload.len()
            && echo.payload.get(..checked) == payload.get(..checked);
        if is_echo {
            return Ok(());
        }
        let (sent, kind, received) = (payload.len(), echo.kind, echo.payload.len());
        let other = if (kind, received) == (TYPE_DATA, sent) { "other " } else { "" };
        let answer =
            format!("it answers {sent} bytes of type {TYPE_DATA} with {other}{received} of type {kind}");
        Err(Error::plain(&self.about, format!("this is no echo service: {answer}")))
    }
}

/// So many messages take a second or two.
fn usual_count(size: usize) -> u64 {
    ((1 << 28) / (size as u64 + 1)).clamp(20, 10_000)
}

fn put_number(payload: &mut [u8], number: u64) {
    payload.iter_mut().zip(number.to_le_bytes()).for_each(|(byte, digit)| *byte = digit);
}

/// An echo server, and as many connections to it.
fn own_server(plan: &Plan) -> Result<Vec<Client>, Error> {
    let (mut clients, mut others) = (Vec::new(), Vec::new());
    for _ in 0..plan.clients {
        let (client, other) = UnixStream::pair()
            .map_err(|error| Error::io(&plan.about, "cannot make a socket pair", &error))?;
        clients.push(Client::of_fd(OwnedFd::from(client)));
        others.push(Client::of_fd(OwnedFd::from(other)));
    }
    let serve = move || {
        let mut events = Events::new();
        if !others.into_iter().all(|other| events.add(other).is_ok()) {
            return;
        }
        // If it fails, so do the clients: their connections are closed with the list.
        while let Ok(event) = events.wait(None) {
            if let Event::Message(client, message) = event {
                let _ = client.send(message.kind, &message.payload);
            }
        }
    };
    threads::start(&plan.about, serve)?;
    Ok(clients)
}

/// How far a round has come: drawn on standard error, if that is a terminal.
struct Progress {
    is_drawn: bool,
    done: Arc<AtomicU64>,
}

impl Progress {
    fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_drawn: !is_dumb && io::stderr().is_terminal(), done: Arc::default() }
    }

    fn draw(&self, name: &str, total: u64) {
        if self.is_drawn {
            let done = self.done.load(Ordering::Relaxed).min(total);
            let bar = usize::try_from(BAR * done / total.max(1)).unwrap_or(0);
            let line = format!("\r{name:<12} [{:<40}] {:>3} %", "#".repeat(bar), 100 * done / total.max(1));
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    fn clear(&self) {
        self.done.store(0, Ordering::Relaxed);
        if self.is_drawn {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// One round: all clients at the same time. What each of them has found, and how long all of them took.
fn round<R: Send + 'static>(
    plan: &Plan,
    name: &str,
    clients: &mut Vec<Client>,
    progress: &Progress,
    work: fn(&Plan, &mut Client, &AtomicU64) -> Result<R, Error>,
) -> Result<(Vec<R>, Duration), Error> {
    let begin = Arc::new(Barrier::new(clients.len() + 1));
    let (sender, results) = mpsc::channel();
    let count = clients.len();
    for mut client in clients.drain(..) {
        let (plan, begin, sender) = (plan.clone(), Arc::clone(&begin), sender.clone());
        let done = Arc::clone(&progress.done);
        let run = {
            let plan = plan.clone();
            move || {
                begin.wait();
                let result = work(&plan, &mut client, &done);
                let _ = sender.send((client, result, Instant::now()));
            }
        };
        threads::start(&plan.about, run)?;
    }
    drop(sender);
    begin.wait();
    let (start, mut end) = (Instant::now(), None);
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        match results.recv_timeout(DRAW) {
            Ok((client, result, moment)) => {
                clients.push(client);
                found.push(result.inspect_err(|_| progress.clear())?);
                end = end.max(Some(moment));
            }
            Err(RecvTimeoutError::Timeout) => progress.draw(name, plan.total()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::plain(&plan.about, "a thread has ended early"));
            }
        }
    }
    progress.clear();
    Ok((found, end.map_or(Duration::ZERO, |end| end.saturating_duration_since(start))))
}

fn check(plan: &Plan, client: &mut Client, _: &AtomicU64) -> Result<(), Error> {
    let payload = plan.payload(u64::MAX);
    plan.send(client, &payload)?;
    plan.check(&plan.read(client)?, &payload, true)
}

/// The time of each.
fn round_trips(plan: &Plan, client: &mut Client, done: &AtomicU64) -> Result<Vec<Duration>, Error> {
    let mut payload = plan.payload(0);
    let mut times = Vec::new();
    for number in 0..plan.each {
        put_number(&mut payload, number);
        let begin = Instant::now();
        plan.send(client, &payload)?;
        let echo = plan.read(client)?;
        times.push(begin.elapsed());
        plan.check(&echo, &payload, true)?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(times)
}

fn stream(plan: &Plan, client: &mut Client, done: &AtomicU64) -> Result<(), Error> {
    let (connection, sender) = (client.connection(), plan.clone());
    threads::start(&plan.about, move || {
        let mut payload = sender.payload(0);
        for number in 0..sender.each {
            put_number(&mut payload, number);
            // The reader has the error, too.
            if connection.send(TYPE_DATA, &payload).is_err() {
                return;
            }
        }
    })?;
    let mut payload = plan.payload(0);
    for number in 0..plan.each {
        put_number(&mut payload, number);
        plan.check(&plan.read(client)?, &payload, false)?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The time that so many percent of them do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

fn print(output: &Output, plan: &Plan, times: &[Duration], streamed: Duration) -> Result<(), Error> {
    let microseconds = |time: Duration| Value::Decimal(time.as_secs_f64() * 1e6, 1);
    let bytes = plan.total() as f64 * plan.size as f64;
    output.heading("   SIZE    COUNT CLIENTS  MEDIAN us    99 % us       MB/s")?;
    output.record(&[
        field("size", plan.size).width(7),
        field("count", plan.total()).width(8),
        field("clients", plan.clients).width(7),
        field("median_us", microseconds(percentile(times, 50))).width(10),
        field("p99_us", microseconds(percentile(times, 99))).width(10),
        field("mb_per_s", Value::Decimal(bytes / 1e6 / streamed.as_secs_f64().max(1e-9), 1)).width(10),
    ])
}

/// Runs the command.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let plan = Plan::new(matches)?;
    let mut clients = match matches.get_one::<Service>("service") {
        None => own_server(&plan)?,
        Some(service) => (0..plan.clients)
            .map(|_| Client::connect(service).map_err(|failure| plan.failed("cannot connect", failure)))
            .collect::<Result<_, _>>()?,
    };
    let progress = Progress::new();
    round(&plan, "check", &mut clients, &progress, check)?;
    let (times, _) = round(&plan, "round trips", &mut clients, &progress, round_trips)?;
    let (_, streamed) = round(&plan, "stream", &mut clients, &progress, stream)?;
    let mut times = times.concat();
    times.sort_unstable();
    print(&globals.output, &plan, &times, streamed).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(size: usize, clients: u64) -> Plan {
        Plan { about: "test".to_owned(), size, each: 3, clients }
    }

    #[test]
    fn percentile_is_exceeded_by_the_rest() {
        let times: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&times, 50), Duration::from_micros(100));
        assert_eq!(percentile(&times, 99), Duration::from_micros(198));
        assert_eq!(percentile(&times[..1], 99), Duration::from_micros(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn rounds_end_for_all_sizes_and_clients() {
        for (size, clients) in [(0, 1), (1, 3), (9, 1), (MAX_PAYLOAD, 2)] {
            let plan = plan(size, clients);
            let progress = Progress { is_drawn: false, done: Arc::default() };
            let mut connections = own_server(&plan).unwrap();
            round(&plan, "", &mut connections, &progress, check).unwrap();
            let (times, _) = round(&plan, "", &mut connections, &progress, round_trips).unwrap();
            assert_eq!(times.concat().len() as u64, plan.total());
            round(&plan, "", &mut connections, &progress, stream).unwrap();
        }
    }

    #[test]
    fn answer_that_is_no_echo_is_an_error() {
        let plan = plan(9, 1);
        let payload = plan.payload(1);
        let echo = |kind, payload: &[u8]| {
            plan.check(&Message { kind, payload: payload.to_vec() }, &plan.payload(1), true)
        };
        assert_eq!(echo(TYPE_DATA, &payload), Ok(()));
        for (kind, answer) in [(TYPE_DATA, &b""[..]), (1, &payload), (TYPE_DATA, b"xxxxxxxxx")] {
            assert!(echo(kind, answer).is_err());
        }
    }

    #[test]
    fn service_that_closes_is_an_error() {
        let plan = plan(9, 1);
        let (client, _) = UnixStream::pair().unwrap();
        let mut client = Client::of_fd(OwnedFd::from(client));
        assert!(check(&plan, &mut client, &AtomicU64::new(0)).is_err());
    }
}
