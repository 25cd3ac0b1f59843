//! `ipc send`.
//!
//! Two threads share the connection: one sends, one reads. A service that answers while it is sent to would else wait for this
//! program, as this program for it. Answers that nobody has asked for are read, too, and dropped.
//!
//! ```text
//! sender:  message ──► ipc_send, until the kernel has all of it ──► the next; Sent at the end of the input
//! reader:  answer ──► printed, as long as answers are waited for; Answered when the last one is, Ended at the connection's end
//! ```
//!
//! The command ends when all is sent and all awaited answers are printed. A service that closes the connection before it has
//! given them ends it at once; one that closes when no answer is awaited matters if there is more to send: the next
//! message fails then.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::process::{self, ExitCode};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use clap::ArgMatches;

use super::Globals;
use crate::cli;
use crate::error::Error;
use crate::libipc::{self, Client, Connection, Message};
use crate::output::bytes_of;
use crate::payloads::{self, Lines, STANDARD_INPUT};
use crate::service::Service;
use crate::signals;

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
                data.map(|argument| bytes_of(argument).to_vec()).collect()
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
    /// All was sent, or the input failed.
    Sent(Result<(), Error>),
    /// The connection does not take the next message. What the service has sent before is still to be read.
    Refused(Error),
    /// All awaited answers were printed, or one could not be.
    Answered(Result<(), Error>),
    /// The connection is over, after so many awaited answers. The client is kept until the program ends: its number must not be
    /// another file's while the sender uses it.
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
                    return Report::Refused(Error::call(service, "cannot send", failure));
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
                break Report::Answered(Err(Error::call(service, "cannot read the answer", failure)));
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
fn limit(service: &Service, time: Duration) {
    let service = service.clone();
    thread::spawn(move || {
        thread::sleep(time);
        Error::timeout(service, format!("not done within {} s", time.as_secs_f64())).report();
        process::exit(124);
    });
}

/// Runs the command.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let service = cli::service_of(matches)?;
    let kind = cli::type_of(matches).unwrap_or(libipc::TYPE_DATA);
    let awaited = matches.get_one("wait").copied().unwrap_or(0);
    let (output, is_raw) = (globals.output, matches.get_flag("raw"));
    if let Some(time) = cli::timeout_of(matches) {
        limit(service, time);
    }
    if awaited > 0 {
        signals::end_with_output();
    }
    // Before the connection is made: what cannot be sent as a whole disturbs no server.
    let source = Source::new(matches)?;
    let client =
        Client::connect(service, None).map_err(|failure| Error::call(service, "cannot connect", failure))?;
    let connection = client.connection();
    let (reports, received) = mpsc::channel();

    let (to, reader_reports) = (service.clone(), reports.clone());
    thread::spawn(move || {
        let print = |answer: &_| payloads::print_answer(&output, answer, is_raw);
        read(&to, client, awaited, print, &reader_reports);
    });
    let to = service.clone();
    thread::spawn(move || reports.send(send(&to, connection, kind, source)));
    wait(service, awaited, &received).map(|()| ExitCode::SUCCESS)
}
