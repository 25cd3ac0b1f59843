//! `ipc listen`.
//!
//! A client is in one of these states:
//!
//! | state | what is read of it | until |
//! |---|---|---|
//! | Open | all it sends | it closes |
//! | Busy | nothing: a command of --exec makes its answer | the command has ended |
//! | Full | nothing: it does not read its answers | it has read most of them |
//!
//! So the answers of a client keep the order of its messages, at most one message and some answers of each
//! client are in memory, and no client keeps another one waiting.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::ArgMatches;

use super::Globals;
use crate::cli;
use crate::error::{Error, describe};
use crate::libipc::{self, Connection, Event, Events, Failure, Message, Peer};
use crate::output::{Colour, Field, Output, Value, field};
use crate::printable::complain;
use crate::service::Service;
use crate::shell::{Answer, Job, Shell};
use crate::signals;

/// How many bytes of answers wait for a client before nothing is read of it any more, and when that is over.
const FULL: usize = 1 << 20;
const RELIEVED: usize = 1 << 18;

/// How often clients that are full are looked at: nothing reports that a queue has become shorter.
const LOOK: Duration = Duration::from_millis(20);

/// How long clients may take to read their last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// What a message is answered with.
enum Manner {
    Silence,
    Echo,
    Reply(Vec<u8>),
    Exec(Shell<Connection>),
}

impl Manner {
    fn new(service: &Service, matches: &ArgMatches) -> Result<Self, Error> {
        if let Some(command) = matches.get_one::<OsString>("exec") {
            let failed = |errno| Error::failed(service, "cannot run commands", errno);
            return Shell::new(command).map(Self::Exec).map_err(failed);
        }
        Ok(match matches.get_one::<OsString>("reply") {
            Some(data) => Self::Reply(data.as_bytes().to_vec()),
            None if matches.get_flag("echo") => Self::Echo,
            None => Self::Silence,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// With the type that its answer will have.
    Busy(u8),
    Full,
}

struct Client {
    /// Counted from 1. Numbers of descriptors are used again.
    number: u64,
    peer: Option<Peer>,
    state: State,
}

struct Listener<'a> {
    service: &'a Service,
    output: Output,
    events: Events,
    clients: HashMap<Connection, Client>,
    connected: u64,
    /// How many clients are full.
    full: usize,
    manner: Manner,
    kind: Option<u8>,
}

impl Listener<'_> {
    /// Prints what the client has done.
    fn print(&self, client: &Client, rest: &[Field<'_>]) -> Result<(), Error> {
        let mut fields = vec![
            field("time", Value::Time(SystemTime::now())).colour(Colour::Dim),
            field("client", client.number).width(4).colour(Colour::Cyan),
            field("pid", client.peer.map(|peer| peer.pid)).width(7),
            field("uid", client.peer.map(|peer| peer.uid)).width(5),
        ];
        fields.extend_from_slice(rest);
        self.output.record(&fields)
    }

    fn on_connection(&mut self, connection: Connection) -> Result<(), Error> {
        self.connected += 1;
        let client = Client { number: self.connected, peer: connection.peer().ok(), state: State::Open };
        self.print(&client, &[field("event", "connect").colour(Colour::Green)])?;
        self.clients.insert(connection, client);
        Ok(())
    }

    fn on_disconnection(&mut self, connection: Connection, reason: &'static str) -> Result<(), Error> {
        let Some(client) = self.clients.remove(&connection) else { return Ok(()) };
        self.full -= usize::from(client.state == State::Full);
        let event = field("event", "close").width(7).colour(Colour::Red);
        self.print(&client, &[event, field("reason", reason)])
    }

    fn on_message(&mut self, connection: Connection, message: Message) -> Result<(), Error> {
        let Some(client) = self.clients.get(&connection) else { return Ok(()) };
        let fields = [
            field("event", "message").json_only(),
            field("type", message.kind).width(7),
            field("length", message.payload.len()).width(7),
            field("payload", Value::Payload(&message.payload)),
        ];
        self.print(client, &fields)?;
        let kind = self.kind.unwrap_or(message.kind);
        match &self.manner {
            Manner::Silence => Ok(()),
            Manner::Echo => self.answer(connection, kind, &message.payload),
            Manner::Reply(reply) => {
                let reply = reply.clone();
                self.answer(connection, kind, &reply)
            }
            Manner::Exec(_) => self.start_command(connection, kind, message),
        }
    }

    /// Has a command make the answer.
    fn start_command(&mut self, connection: Connection, kind: u8, message: Message) -> Result<(), Error> {
        let (Manner::Exec(shell), Some(client)) = (&mut self.manner, self.clients.get_mut(&connection))
        else {
            return Ok(());
        };
        let failed = |failure: Failure| failure.ends(self.service, "cannot hold a client back");
        self.events.pause(connection).map_err(failed)?;
        client.state = State::Busy(kind);
        let mut variables =
            vec![("IPC_CLIENT", client.number.to_string()), ("IPC_MESSAGE_TYPE", message.kind.to_string())];
        if let Some(peer) = client.peer {
            variables
                .extend([("IPC_CLIENT_PID", peer.pid.to_string()), ("IPC_CLIENT_UID", peer.uid.to_string())]);
        }
        shell.start(Job { token: connection, input: message.payload, variables });
        Ok(())
    }

    fn on_command_end(&mut self, answer: Answer<Connection>) -> Result<(), Error> {
        let connection = answer.token;
        let Some(Client { number, state: State::Busy(kind), .. }) = self.clients.get(&connection) else {
            return Ok(());
        };
        let mut kind = *kind;
        let mut output = answer.output;
        if let Some(reason) = answer.failure {
            complain(&format!("{}: client {number}: {reason}", self.service));
            kind = libipc::TYPE_ERROR;
            if output.is_empty() {
                output = reason.into_bytes();
            }
        }
        if self.resume(connection)? { self.answer(connection, kind, &output) } else { Ok(()) }
    }

    /// Reads of the client again. Whether it is still there.
    fn resume(&mut self, connection: Connection) -> Result<bool, Error> {
        let Err(failure) = self.events.resume(connection) else {
            if let Some(client) = self.clients.get_mut(&connection) {
                self.full -= usize::from(client.state == State::Full);
                client.state = State::Open;
            }
            return Ok(true);
        };
        complain(&format!("{}: a client is lost: {}", self.service, describe(failure.errno)));
        self.on_disconnection(connection, "closed here").map(|()| false)
    }

    /// Sends an answer. A client that does not read enough of them is full from then on.
    fn answer(&mut self, connection: Connection, kind: u8, payload: &[u8]) -> Result<(), Error> {
        let Some(client) = self.clients.get_mut(&connection) else { return Ok(()) };
        match connection.send(kind, payload) {
            Ok(()) => {}
            // Its disconnection follows.
            Err(failure) if failure.is_end() => return Ok(()),
            Err(failure) => {
                let (number, reason) = (client.number, describe(failure.errno));
                complain(&format!("{}: client {number}: cannot answer: {reason}", self.service));
            }
        }
        if connection.pending().is_ok_and(|bytes| bytes > FULL) && self.events.pause(connection).is_ok() {
            client.state = State::Full;
            self.full += 1;
        }
        Ok(())
    }

    /// Reads again of full clients that have read most of their answers.
    fn relieve(&mut self) -> Result<(), Error> {
        let is_over = |(connection, client): (&Connection, &Client)| {
            let is_over =
                client.state == State::Full && connection.pending().map_or(true, |bytes| bytes <= RELIEVED);
            is_over.then_some(*connection)
        };
        let over: Vec<_> = self.clients.iter().filter_map(is_over).collect();
        over.into_iter().try_for_each(|connection| self.resume(connection).map(drop))
    }

    /// Takes one event. Whether it was a message.
    fn step(&mut self) -> Result<bool, Error> {
        let look = (self.full > 0).then_some(LOOK);
        let failed = |failure: Failure| failure.ends(self.service, "cannot wait");
        match self.events.wait(look).map_err(failed)? {
            Event::Nothing => {}
            // Its disconnection has the reason, too.
            Event::Error => {}
            Event::Connection(connection) => self.on_connection(connection)?,
            Event::Disconnection(connection, reason) => self.on_disconnection(connection, reason)?,
            Event::Message(connection, message) => {
                self.on_message(connection, message)?;
                return Ok(true);
            }
            Event::Readable => {
                while let Manner::Exec(shell) = &mut self.manner {
                    let Some(answer) = shell.finished() else { break };
                    self.on_command_end(answer)?;
                }
            }
        }
        if self.full > 0 {
            self.relieve()?;
        }
        Ok(false)
    }

    /// Waits for the commands that still run, and for the clients to read their answers.
    fn finish(mut self) -> Result<(), Error> {
        while let Manner::Exec(shell) = &mut self.manner {
            let Some(answer) = shell.wait() else { break };
            self.on_command_end(answer)?;
        }
        let begin = Instant::now();
        for connection in self.clients.keys() {
            // One that has closed the connection, or does not read, is not waited for.
            let _ = connection.flush(Some(LAST_ANSWERS.saturating_sub(begin.elapsed())));
        }
        Ok(())
    }
}

/// Runs the command.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let service = cli::service_of(matches)?;
    let count = matches.get_one::<u64>("count").copied();
    let manner = Manner::new(service, matches)?;
    signals::end_with_output();
    let mut events = Events::serve(service, matches.get_one("mode").copied())?;
    if let Manner::Exec(shell) = &manner {
        let failed = |failure: Failure| failure.ends(service, "cannot wait for commands");
        events.watch(shell.ready_fd()).map_err(failed)?;
    }
    let mut listener = Listener {
        service,
        output: globals.output,
        events,
        clients: HashMap::new(),
        connected: 0,
        full: 0,
        manner,
        kind: cli::type_of(matches),
    };
    let mut received = 0;
    while count.is_none_or(|count| received < count) {
        received += u64::from(listener.step()?);
    }
    listener.finish().map(|()| ExitCode::SUCCESS)
}
