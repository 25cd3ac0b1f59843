//! `ipc chat`.
//!
//! ```text
//! input:   line ──► ipc_send ──► the next; Done at the end of standard input
//! reader:  message ──► printed; Ended at the end of the connection
//! ```
//!
//! At the end of the input everything has been sent. Then the connection is closed in this direction, as `nc
//! -N` and ncat do: a service that uses the library answers what it has received, and closes the connection,
//! which ends the command. With --wait the connection stays whole, for services whose messages take their
//! time, and the command ends after that time.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Globals;
use crate::cli;
use crate::error::Error;
use crate::libipc::{self, Client, Connection, Message};
use crate::payloads::{self, Lines, STANDARD_INPUT};
use crate::service::Service;
use crate::signals;
use crate::threads;

/// What the threads report.
enum Report {
    /// All lines were sent, or one could not be read.
    Done(Result<(), Error>),
    /// The service has closed the connection before the line was sent. What it has sent before is still to be
    /// read.
    Refused(Error),
    /// A message cannot be sent, received or printed.
    Failed(Error),
    /// The connection is over. The client is kept until the program ends: its number must not be another
    /// file's while the other thread uses it.
    Ended(Client),
}

/// Sends the lines.
fn send(service: &Service, connection: Connection, kind: u8, mut lines: Lines) -> Report {
    loop {
        match lines.read() {
            Ok(Some(line)) => {
                if let Err(failure) = connection.send(kind, &line) {
                    let error = failure.ends(service, "cannot send");
                    return if failure.is_end() { Report::Refused(error) } else { Report::Failed(error) };
                }
            }
            Ok(None) => return Report::Done(Ok(())),
            Err(error) => return Report::Done(Err(error)),
        }
    }
}

/// Prints the messages.
fn read(service: &Service, mut client: Client, print: impl Fn(&Message) -> Result<(), Error>) -> Report {
    loop {
        match client.read(None) {
            Ok(message) => {
                if let Err(error) = print(&message) {
                    return Report::Failed(error);
                }
            }
            Err(failure) if failure.is_end() => return Report::Ended(client),
            Err(failure) => return Report::Failed(failure.ends(service, "cannot read")),
        }
    }
}

/// Whether the input has ended, too, when the connection has: all that was read of it was sent then.
fn has_ended(service: &Service, reports: &Receiver<Report>) -> Result<(), Error> {
    let input = io::stdin();
    // Readable at its end. Its writer may take a moment to close it: `echo a | ipc chat SERVICE`.
    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let is_readable = poll(&mut fds, PollTimeout::from(100_u8)) != Ok(0);
    let limit = if is_readable { Duration::from_secs(1) } else { Duration::ZERO };
    match reports.recv_timeout(limit) {
        Ok(Report::Done(result)) => result,
        Ok(Report::Refused(error) | Report::Failed(error)) => Err(error),
        Ok(Report::Ended(_)) | Err(_) => Err(Error::plain(service, "the service has closed the connection")),
    }
}

/// What the reports amount to.
fn wait(
    service: &Service,
    connection: Connection,
    time: Option<Duration>,
    reports: &Receiver<Report>,
) -> Result<(), Error> {
    let (mut is_done, mut refused, mut end) = (false, None, None);
    loop {
        let left = end.map(|end: Instant| end.saturating_duration_since(Instant::now()));
        let report = match left {
            Some(left) => reports.recv_timeout(left),
            None => reports.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match report {
            Ok(Report::Done(result)) => {
                result?;
                is_done = true;
                match time {
                    Some(time) => end = Instant::now().checked_add(time),
                    // A connection that is over is reported by the reader.
                    None => drop(connection.end_sending()),
                }
            }
            // The reader prints what was received before the end of the connection.
            Ok(Report::Refused(error)) => refused = Some(error),
            Ok(Report::Failed(error)) => return Err(error),
            Ok(Report::Ended(_client)) => {
                return match refused {
                    Some(error) => Err(error),
                    None if is_done => Ok(()),
                    None => has_ended(service, reports),
                };
            }
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::plain(service, "a thread has ended early"));
            }
        }
    }
}

/// Runs the command.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let service = cli::service_of(matches)?;
    let kind = cli::type_of(matches).unwrap_or(libipc::TYPE_DATA);
    let output = globals.output;
    signals::end_with_output();
    let lines = Lines::open(OsStr::new(STANDARD_INPUT))?;
    let client = Client::connect(service).map_err(|failure| failure.ends(service, "cannot connect"))?;
    let print = move |message: &_| payloads::print_answer(&output, message, false);
    let time = matches.get_one("wait").copied();
    talk(service, client, kind, lines, time, print).map(|()| ExitCode::SUCCESS)
}

/// Sends the lines, and prints the messages.
fn talk(
    service: &Service,
    client: Client,
    kind: u8,
    lines: Lines,
    time: Option<Duration>,
    print: impl Fn(&Message) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let connection = client.connection();
    let (reports, received) = mpsc::channel();
    let (of_reader, owned) = (reports.clone(), service.clone());
    threads::start(service, move || drop(of_reader.send(read(&owned, client, print))))?;
    let owned = service.clone();
    threads::start(service, move || drop(reports.send(send(&owned, connection, kind, lines))))?;
    wait(service, connection, time, &received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// What is printed of a chat with a service that `serve` plays.
    fn chat_with(
        input: &[u8],
        time: Option<Duration>,
        serve: impl FnOnce(Client) + Send + 'static,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(input).unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || serve(Client::of_fd(OwnedFd::from(there))));
        let (printed, messages) = mpsc::channel();
        let print = move |message: &Message| {
            printed.send(message.payload.clone()).unwrap();
            Ok(())
        };
        let service = Service::parse(OsStr::new("test")).unwrap();
        let lines = Lines::open(file.path().as_os_str()).unwrap();
        let result = talk(&service, Client::of_fd(OwnedFd::from(here)), 2, lines, time, print);
        server.join().unwrap();
        result.map(|()| messages.try_iter().collect())
    }

    /// All messages, up to the end of what the client sends.
    fn read_all(client: &mut Client) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| client.read(None).ok()).map(|message| message.payload).collect()
    }

    #[test]
    fn messages_after_the_end_of_the_input_are_printed() {
        let printed = chat_with(b"a\nb", None, |mut client| {
            for line in read_all(&mut client) {
                client.connection().send(2, &line).unwrap();
            }
        });
        assert_eq!(printed.unwrap(), [b"a", b"b"]);
    }

    #[test]
    fn chat_ends_after_its_time_if_the_service_does_not_close() {
        let (end, ended) = mpsc::channel::<()>();
        let printed = chat_with(b"a\n", Some(Duration::ZERO), move |mut client| {
            assert_eq!(client.read(None).unwrap().payload, b"a");
            thread::spawn(move || drop((client, ended.recv())));
        });
        assert_eq!(printed, Ok(Vec::new()));
        drop(end);
    }

    #[test]
    fn line_that_is_too_long_ends_the_chat() {
        let input = [b"a\n", &vec![b'x'; libipc::MAX_PAYLOAD + 1][..]].concat();
        let result = chat_with(&input, None, |mut client| {
            assert_eq!(client.read(None).unwrap().payload, b"a");
        });
        assert!(result.is_err());
    }
}
