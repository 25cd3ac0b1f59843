//! `ipc monitor`: the messages between a program and a service, by a socket that stands in for the service's.
//! The program is led there by the variable of the service.
//!
//! Per client a thread connects to the service, since that may wait; all else is one loop over poll(2).

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::ArgMatches;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::{Globals, run as run_command};
use crate::cli;
use crate::error::{Error, describe, errno_of};
use crate::libipc::Client;
use crate::output::{Colour, Field, Output, Value, field};
use crate::relay::{Link, Note, Side};
use crate::reports::{Reporter, Reports};
use crate::routes::NEVER_REROUTED;
use crate::service::Service;
use crate::signals;
use crate::sockets;
use crate::stand_in::StandIn;
use crate::threads;

/// The pause between two attempts to accept, while no descriptor is free.
const WHILE_FULL: Duration = Duration::from_millis(100);

/// Runs the command.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let service = cli::service_of(matches)?;
    if service.name == NEVER_REROUTED {
        return Err(Error::usage("the service network is never rerouted, so nothing can stand in for it"));
    }
    let (stand_in, _kept) = StandIn::new(service)?;
    let (variable, target) = (service.variable(), stand_in.target());
    let child = if matches.contains_id("command") {
        let mut command = run_command::program(matches)?;
        command.env(&variable, &target);
        Some(signals::spawn(&mut command).map_err(|error| run_command::cannot_run(&command, &error))?)
    } else {
        signals::end_with_output();
        let line = [
            field("event", "ready").json_only(),
            field("variable", Value::name(&variable)).json_only(),
            field("value", Value::name(&target)).json_only(),
        ];
        match globals.output.is_json {
            true => globals.output.record(&line)?,
            false => globals.output.heading(&format!(
                "{}={}",
                variable.to_string_lossy(),
                target.to_string_lossy()
            ))?,
        }
        None
    };
    let deadline = cli::timeout_of(matches).and_then(|time| Instant::now().checked_add(time));
    let limit = matches.get_one::<u64>("count").copied();
    Monitor::new(globals.output, service, stand_in.listener, limit, deadline)?.serve(child)
}

/// What other threads report.
enum Happened {
    /// A connection to the service, for the client with this number.
    Connected(u64, Result<OwnedFd, Errno>),
    /// The program has ended.
    Ended,
}

struct Monitor<'a> {
    output: Output,
    /// Whether what is seen is printed; not after the last one of -n.
    prints: bool,
    service: &'a Service,
    listener: UnixListener,
    limit: Option<u64>,
    deadline: Option<Instant>,
    reporter: Reporter<Happened>,
    happened: Reports<Happened>,
    clients: u64,
    /// Clients whose connection to the service is being made.
    waiting: Vec<(u64, OwnedFd)>,
    links: Vec<(u64, Link)>,
    /// Whether the program has ended.
    has_ended: bool,
    /// Whether there was no descriptor for a client that waits.
    is_full: bool,
}

/// How the loop ends.
enum End {
    /// The number of -n was reached; the program has ended.
    Done,
    /// The time of --timeout is over.
    Timeout,
}

impl<'a> Monitor<'a> {
    fn new(
        output: Output,
        service: &'a Service,
        listener: UnixListener,
        limit: Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Self, Error> {
        let (reporter, happened) =
            Reports::channel().map_err(|errno| Error::failed(service, "cannot wait", errno))?;
        Ok(Self {
            output,
            prints: limit != Some(0),
            service,
            listener,
            limit,
            deadline,
            reporter,
            happened,
            clients: 0,
            waiting: Vec::new(),
            links: Vec::new(),
            has_ended: false,
            is_full: false,
        })
    }

    fn serve(mut self, child: Option<Child>) -> Result<ExitCode, Error> {
        let Some(mut child) = child else {
            return match self.watch(false)? {
                End::Done => Ok(ExitCode::SUCCESS),
                End::Timeout => Err(Error::timeout(self.service, "the time is over")),
            };
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
        let reporter = self.reporter.clone();
        let wait = move || {
            // It is not reaped yet: its number is still its own, for signals that are passed on to it.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
            signals::child_has_ended();
            reporter.report(Happened::Ended);
        };
        threads::start(self.service, wait)?;
        let end = self.watch(true)?;
        if let (End::Timeout, false) = (&end, self.has_ended) {
            let _ = kill(pid, Signal::SIGTERM);
            self.deadline = None;
            self.watch(true)?;
        }
        let status =
            child.wait().map_err(|error| Error::io(self.service, "cannot wait for the program", &error))?;
        match end {
            End::Done => Ok(code_of(status)),
            End::Timeout => Err(Error::timeout(self.service, "the time is over")),
        }
    }

    /// Serves until the end: that of the program, if there is one, and else of -n.
    fn watch(&mut self, has_child: bool) -> Result<End, Error> {
        loop {
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(End::Timeout);
            }
            let is_last = !has_child && self.limit == Some(0);
            if is_last && !self.links.iter().any(|(_, link)| link.has_unsent()) {
                return Ok(End::Done);
            }
            // What the program has sent gets to the service, after its end, too.
            if self.has_ended
                && self.waiting.is_empty()
                && !self.links.iter().any(|(_, link)| link.is_ending())
            {
                return Ok(End::Done);
            }
            match self.turn(left, !is_last) {
                // Nothing but printing fails. The program keeps its connections, and its status.
                Err(error) if has_child => {
                    error.report();
                    self.prints = false;
                }
                result => result?,
            }
        }
    }

    /// Waits for what happens next, and does what is to be done.
    fn turn(&mut self, left: Option<Duration>, may_receive: bool) -> Result<(), Error> {
        let (events, accepts, rings) = self.wait(left, may_receive);
        if accepts || self.is_full {
            self.accept()?;
        }
        if rings {
            self.take_reports()?;
        }
        let mut links = std::mem::take(&mut self.links);
        let mut result = Ok(());
        for (at, (number, link)) in links.iter_mut().enumerate() {
            let happened = events.get(at).copied().unwrap_or([PollFlags::empty(); 2]);
            link.step(happened, may_receive, &mut |side, note| {
                let printed = self.note(*number, side, &note);
                result = std::mem::replace(&mut result, Ok(())).and(printed);
            });
        }
        links.retain(|(_, link)| !link.is_over());
        links.append(&mut self.links);
        self.links = links;
        result
    }

    /// Does what other threads have made possible.
    fn take_reports(&mut self) -> Result<(), Error> {
        while let Some(happened) = self.happened.next_now() {
            match happened {
                Happened::Ended => {
                    self.has_ended = true;
                    // What it has connected until now counts, too.
                    self.accept()?;
                }
                Happened::Connected(number, result) => self.connected(number, result)?,
            }
        }
        Ok(())
    }

    /// Waits. Returns what has happened to each link, whether a client waits, and whether another thread has
    /// reported.
    fn wait(&self, left: Option<Duration>, may_receive: bool) -> (Vec<[PollFlags; 2]>, bool, bool) {
        let interests: Vec<_> = self.links.iter().map(|(_, link)| link.interests(may_receive)).collect();
        // A client for which no descriptor is free would be reported again and again.
        let for_listener = if self.is_full { PollFlags::empty() } else { PollFlags::POLLIN };
        let left =
            if self.is_full { Some(left.map_or(WHILE_FULL, |left| left.min(WHILE_FULL))) } else { left };
        let mut fds = vec![
            PollFd::new(self.listener.as_fd(), for_listener),
            PollFd::new(self.happened.fd(), PollFlags::POLLIN),
        ];
        let watched = |interest: &(BorrowedFd<'_>, Option<PollFlags>)| interest.1.is_some();
        fds.extend(
            interests.iter().flatten().filter_map(|(fd, flags)| flags.map(|flags| PollFd::new(*fd, flags))),
        );
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut fds, timeout);
        let mut events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let [accepts, rings] =
            [events.next(), events.next()].map(|events| events.is_some_and(|events| !events.is_empty()));
        let of_interest = |interest: &(BorrowedFd<'_>, Option<PollFlags>),
                           events: &mut dyn Iterator<Item = PollFlags>| {
            if watched(interest) { events.next().unwrap_or(PollFlags::empty()) } else { PollFlags::empty() }
        };
        let of_links = interests
            .iter()
            .map(|[client, server]| [of_interest(client, &mut events), of_interest(server, &mut events)])
            .collect();
        (of_links, accepts, rings)
    }

    /// Takes the clients that wait, and has each connected to the service.
    fn accept(&mut self) -> Result<(), Error> {
        loop {
            let client = match self.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.is_full = error.kind() != io::ErrorKind::WouldBlock;
                    return Ok(());
                }
            };
            self.clients += 1;
            let number = self.clients;
            let peer = getsockopt(&client, sockopt::PeerCredentials).ok();
            self.waiting.push((number, OwnedFd::from(client)));
            let (reporter, service) = (self.reporter.clone(), self.service.clone());
            let connect = move || reporter.report(Happened::Connected(number, connect(&service)));
            if let Err(error) = thread::Builder::new().spawn(connect) {
                self.waiting.retain(|(other, _)| *other != number);
                self.print(number, "error", &[field("message", format!("cannot start a thread: {error}"))])?;
                continue;
            }
            let pid = peer.map(|peer| peer.pid());
            let program = pid.and_then(sockets::program);
            self.print(
                number,
                "connect",
                &[
                    label("pid"),
                    field("pid", pid),
                    label("uid"),
                    field("uid", peer.map(|peer| peer.uid())),
                    field("program", program),
                ],
            )?;
        }
    }

    fn connected(&mut self, number: u64, result: Result<OwnedFd, Errno>) -> Result<(), Error> {
        let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == number) else { return Ok(()) };
        let (_, client) = self.waiting.swap_remove(at);
        match result {
            Ok(server) => {
                self.links.push((number, Link::new(client, server)));
                Ok(())
            }
            // The client is closed with this.
            Err(errno) => {
                let text = format!("cannot connect to {}: {}", self.service, describe(errno));
                self.print_error(number, text)
            }
        }
    }

    fn note(&mut self, number: u64, side: Side, note: &Note) -> Result<(), Error> {
        let (name, arrow, direction) = match side {
            Side::Client => ("client", "->", "to-server"),
            Side::Server => ("server", "<-", "to-client"),
        };
        match note {
            Note::Message { kind, payload, fds } => {
                let colour = if side == Side::Client { Colour::Cyan } else { Colour::Yellow };
                let mut fields = vec![
                    field("event", "message").json_only(),
                    field("direction", direction).plain(arrow).colour(colour),
                    field("type", *kind).width(3),
                    field("length", payload.len()),
                    field("payload", Value::Payload(payload)),
                ];
                if *fds > 0 {
                    fields.push(field("fds", *fds).json_only());
                }
                let printed = self.line(number, &fields);
                if let Some(limit) = &mut self.limit {
                    *limit = limit.saturating_sub(1);
                    self.prints &= *limit > 0;
                }
                if *fds > 0 && !self.output.is_json {
                    printed.and(self.print(
                        number,
                        "descriptors",
                        &[field("count", *fds), field("", "passed on")],
                    ))
                } else {
                    printed
                }
            }
            Note::Shutdown => self.print(number, "shutdown", &[field("side", name)]),
            Note::Closed => self.print(number, "close", &[field("side", name)]),
            Note::Cut(bytes) => {
                let text = format!("the {name} ended amid a message, after {bytes} bytes of it");
                self.print_error(number, text)
            }
            Note::TooLong(length) => {
                let text = format!("the {name} announced a payload of {length} bytes, over the maximum");
                self.print_error(number, text)
            }
            Note::LostFds(errno) => {
                let text = format!("descriptors of the {name} are lost: {}", describe(*errno));
                self.print_error(number, text)
            }
        }
    }

    /// Prints what is no message.
    fn print(&self, number: u64, event: &str, fields: &[Field<'_>]) -> Result<(), Error> {
        let all: Vec<_> =
            [field("event", event).colour(Colour::Dim)].into_iter().chain(fields.iter().cloned()).collect();
        self.line(number, &all)
    }

    fn print_error(&self, number: u64, text: String) -> Result<(), Error> {
        self.print(number, "error", &[field("message", text).colour(Colour::Red)])
    }

    fn line(&self, number: u64, fields: &[Field<'_>]) -> Result<(), Error> {
        if !self.prints {
            return Ok(());
        }
        let all: Vec<_> = [
            field("time", Value::Time(SystemTime::now())).colour(Colour::Dim),
            field("connection", i64::try_from(number).ok().map(Value::Number)),
        ]
        .into_iter()
        .chain(fields.iter().cloned())
        .collect();
        self.output.record(&all)
    }
}

/// A word of a plain line.
fn label(word: &'static str) -> Field<'static> {
    field("", word).colour(Colour::Dim)
}

fn connect(service: &Service) -> Result<OwnedFd, Errno> {
    let client = Client::connect(service).map_err(|failure| failure.errno)?;
    // So that those that the server sends get here.
    client.connection().allow_fds().map_err(|failure| failure.errno)?;
    client.into_fd().map_err(|error| errno_of(&error))
}

/// The program's status, as shells have it.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_that_of_the_program() {
        assert_eq!(code_of(ExitStatus::from_raw(7 << 8)), ExitCode::from(7));
        assert_eq!(code_of(ExitStatus::from_raw(Signal::SIGTERM as i32)), ExitCode::from(143));
    }
}
