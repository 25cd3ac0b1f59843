//! `ipc send`.
//!
//! Two threads share the connection: one sends, one reads. A service that answers while it is sent to would
//! else wait for this program, as this program for it. Answers that are not waited for are read, too,
//! and dropped.
//!
//! ```text
//! sender:  message ──► ipc_send, until the kernel has all of it ──► the next; Sent at the end of the input
//! reader:  answer ──► printed, if it is waited for; Answered after the last one, Ended with the connection
//! ```
//!
//! The command ends when all is sent and all awaited answers are printed. A service that closes the
//! connection before it has given them ends it at once; one that closes when no answer is awaited matters if
//! there is more to send: the next message fails then.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::{self, ExitCode};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use clap::ArgMatches;

use super::Globals;
use crate::cli;
use crate::error::Error;
use crate::libipc::{self, Client, Connection, Message};
use crate::payloads::{self, Lines, STANDARD_INPUT};
use crate::service::Service;
use crate::signals;
use crate::threads;

/// Where the messages come from.
enum Source {
    Payloads(std::vec::IntoIter<Vec<u8>>),
    Lines(Lines),
}

impl Source {
    fn new(matches: &ArgMatches) -> Result<Self, Error> {
        let file = matches.get_one::<OsString>("file");
        if matches.get_flag("lines") {
            let file = file.map_or(OsStr::new(STANDARD_INPUT), OsString::as_os_str);
            return Lines::open(file).map(Self::Lines);
        }
        let payloads: Vec<_> = match file {
            Some(file) => vec![payloads::read_file(file)?],
            None => {
                let data = matches.get_many::<OsString>("data").unwrap_or_default();
                data.map(|argument| argument.as_bytes().to_vec()).collect()
            }
        };
        if payloads.is_empty() {
            return Err(Error::usage(
                "there is nothing to send: give DATA ('' is an empty message), --file or --lines",
            ));
        }
        Ok(Self::Payloads(payloads.into_iter()))
    }

    /// Whether there is a further message, without a wait.
    fn has_next(&self) -> bool {
        match self {
            Self::Payloads(payloads) => payloads.len() > 0,
            Self::Lines(lines) => lines.has_next(),
        }
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::Payloads(payloads) => Ok(payloads.next()),
            Self::Lines(lines) => lines.read(),
        }
    }
}

/// What the two threads report.
enum Report {
    /// All was sent, or what failed.
    Sent(Result<(), Error>),
    /// The service has closed the connection before all was sent. What it has sent before is still to be
    /// read.
    Refused(Error),
    /// All awaited answers were printed, or one could not be.
    Answered(Result<(), Error>),
    /// The connection is over, after so many awaited answers. The client is kept until the program ends: its
    /// number must not be another file's while the sender uses it.
    Ended(Client, u64),
}

/// Sends all messages.
fn send(service: &Service, connection: Connection, kind: u8, mut source: Source) -> Report {
    loop {
        match source.next() {
            Ok(Some(payload)) => {
                // Many small messages leave together. The last one that is there takes the others along.
                let is_queued = source.has_next() && connection.queue(kind, &payload).is_ok();
                let sent = if is_queued { Ok(()) } else { connection.send(kind, &payload) };
                if let Err(failure) = sent {
                    let error = failure.ends(service, "cannot send");
                    return if failure.is_end() { Report::Refused(error) } else { Report::Sent(Err(error)) };
                }
            }
            Ok(None) => return Report::Sent(Ok(())),
            Err(error) => return Report::Sent(Err(error)),
        }
    }
}

/// Reads until the connection is over, or an answer cannot be printed.
fn read(
    service: &Service,
    mut client: Client,
    awaited: u64,
    print: impl Fn(&Message) -> Result<(), Error>,
    reports: &Sender<Report>,
) {
    let mut answers = 0;
    let last = loop {
        match client.read(None) {
            Ok(_) if answers == awaited => {}
            Ok(answer) => {
                if let Err(error) = print(&answer) {
                    break Report::Answered(Err(error));
                }
                answers += 1;
                if answers == awaited && reports.send(Report::Answered(Ok(()))).is_err() {
                    return;
                }
            }
            Err(failure) if failure.is_end() => break Report::Ended(client, answers),
            Err(failure) => {
                break Report::Answered(Err(failure.ends(service, "cannot read the answer")));
            }
        }
    };
    let _ = reports.send(last);
}

/// What the reports amount to.
fn wait(service: &Service, awaited: u64, reports: &Receiver<Report>) -> Result<(), Error> {
    let (mut is_sent, mut is_answered) = (false, awaited == 0);
    let (mut refused, mut ended) = (None, None);
    loop {
        match reports.recv() {
            Ok(Report::Sent(result)) => is_sent = result.map(|()| true)?,
            Ok(Report::Answered(result)) => is_answered = result.map(|()| true)?,
            Ok(Report::Refused(error)) => refused = Some(error),
            Ok(Report::Ended(client, answers)) => ended = Some((client, answers)),
            Err(_) => return Err(Error::plain(service, "a thread has ended early")),
        }
        match (&ended, is_answered) {
            (Some((_, answers)), false) => {
                let message = format!("the connection was closed after {answers} of {awaited} answers");
                return Err(refused.unwrap_or_else(|| Error::plain(service, message)));
            }
            (None, false) => {}
            (_, true) => match refused {
                Some(error) => return Err(error),
                None if is_sent => return Ok(()),
                None => {}
            },
        }
    }
}

/// Ends the program when the time is over, whatever it is doing then.
fn limit(service: &Service, time: Duration) -> Result<(), Error> {
    let owned = service.clone();
    threads::start(service, move || {
        thread::sleep(time);
        Error::timeout(owned, format!("not done within {} s", time.as_secs_f64())).report();
        process::exit(124);
    })
}

/// Runs the command.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let service = cli::service_of(matches)?;
    let kind = cli::type_of(matches).unwrap_or(libipc::TYPE_DATA);
    let awaited = matches.get_one("wait").copied().unwrap_or(0);
    let (output, is_raw) = (globals.output, matches.get_flag("raw"));
    if let Some(time) = cli::timeout_of(matches) {
        limit(service, time)?;
    }
    if awaited > 0 {
        signals::end_with_output();
    }
    // Before the connection is made: what cannot be sent as a whole disturbs no server.
    let source = Source::new(matches)?;
    let client = Client::connect(service).map_err(|failure| failure.ends(service, "cannot connect"))?;
    let print = move |answer: &_| payloads::print_answer(&output, answer, is_raw);
    exchange(service, client, kind, source, awaited, print).map(|()| ExitCode::SUCCESS)
}

/// Sends the messages, and prints so many answers.
fn exchange(
    service: &Service,
    client: Client,
    kind: u8,
    source: Source,
    awaited: u64,
    print: impl Fn(&Message) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let connection = client.connection();
    let (reports, received) = mpsc::channel();
    let (of_reader, owned) = (reports.clone(), service.clone());
    threads::start(service, move || read(&owned, client, awaited, print, &of_reader))?;
    let owned = service.clone();
    threads::start(service, move || drop(reports.send(send(&owned, connection, kind, source))))?;
    wait(service, awaited, &received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// Has the messages sent to a service that `serve` plays: the answers that were printed.
    fn exchange_with(
        payloads: &[&[u8]],
        awaited: u64,
        serve: impl FnOnce(Client) + Send + 'static,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let (here, there) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || serve(Client::of_fd(OwnedFd::from(there))));
        let payloads: Vec<_> = payloads.iter().map(|payload| payload.to_vec()).collect();
        let (printed, answers) = mpsc::channel();
        let print = move |answer: &Message| {
            printed.send(answer.payload.clone()).unwrap();
            Ok(())
        };
        let client = Client::of_fd(OwnedFd::from(here));
        let service = Service::parse(OsStr::new("test")).unwrap();
        let result = exchange(&service, client, 2, Source::Payloads(payloads.into_iter()), awaited, print);
        server.join().unwrap();
        result.map(|()| answers.try_iter().collect())
    }

    fn echo(client: &mut Client) {
        let message = client.read(None).unwrap();
        client.connection().send(message.kind, &message.payload).unwrap();
    }

    #[test]
    fn answers_are_printed_in_their_order() {
        let answers =
            exchange_with(&[b"a", b"", b"c"], 3, |mut client| (0..3).for_each(|_| echo(&mut client)));
        assert_eq!(answers.unwrap(), [&b"a"[..], b"", b"c"]);
    }

    #[test]
    fn service_that_writes_before_it_reads_holds_up_nothing() {
        static LARGE: [u8; 1 << 20] = [b'x'; 1 << 20];
        let answers = exchange_with(&[&LARGE[..]; 4], 2, |mut client| {
            (0..4).for_each(|_| client.connection().send(2, &LARGE).unwrap());
            (0..4).for_each(|_| assert!(client.read(None).unwrap().payload == LARGE));
        });
        assert_eq!(answers.unwrap().len(), 2, "the others are read, and not printed");
    }

    #[test]
    fn service_that_closes_fails_only_what_is_awaited() {
        let read_and_close = |mut client: Client| drop(client.read(None).unwrap());
        assert_eq!(exchange_with(&[b"a"], 0, read_and_close), Ok(Vec::new()));
        let expected = Error::plain("test", "the connection was closed after 0 of 1 answers");
        assert_eq!(exchange_with(&[b"a"], 1, read_and_close), Err(expected));
        let expected = Error::plain("test", "the connection was closed after 1 of 2 answers");
        assert_eq!(exchange_with(&[b"a"], 2, |mut client| echo(&mut client)), Err(expected));
    }

    #[test]
    fn service_that_refuses_messages_is_an_error() {
        let result = exchange_with(&[&vec![b'x'; 1 << 22][..]; 4], 0, drop);
        assert!(result.is_err());
    }
}
