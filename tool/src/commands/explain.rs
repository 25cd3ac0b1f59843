//! `ipc explain`: why a connection to a service succeeds, or does not. Nothing is connected: connect(2) of a
//! datagram socket fails for the same reasons as that of a stream socket, and no server notices it.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

use clap::ArgMatches;
use nix::errno::Errno;
use nix::unistd::geteuid;

use super::Globals;
use crate::cli;
use crate::error::{Error, describe, errno_of};
use crate::output::{Colour, Output, Value, field};
use crate::routes::{FOR_ALL, NEVER_REROUTED, Source, Target, Way};
use crate::rundir;
use crate::service::Service;
use crate::sockets::{self, Bound, Processes};

/// Runs the command.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let service = cli::service_of(matches)?;
    let given = matches.get_one::<OsString>("to").is_some();
    let steps = Steps { output: &globals.output };
    match steps.all(service, given)? {
        Ok(()) => steps.say("result", "a connection succeeds", None).map(|()| ExitCode::SUCCESS),
        Err(errno) => steps.say("result", "a connection fails", Some(errno)).map(|()| ExitCode::FAILURE),
    }
}

/// The outcome of a connection: the errno of its failure.
type Outcome = Result<(), Errno>;

struct Steps<'a> {
    output: &'a Output,
}

impl Steps<'_> {
    /// Prints a step, and the errno with which it fails.
    fn say(&self, step: &str, text: impl Into<String>, errno: Option<Errno>) -> Result<(), Error> {
        let text = text.into();
        if self.output.is_json {
            return self.output.record(&[
                field("step", step),
                field("text", text),
                field("ok", Value::Flag(errno.is_none())),
                field("errno", errno.map(|errno| format!("{errno:?}"))),
            ]);
        }
        let colour = if errno.is_some() { Colour::Red } else { Colour::Green };
        let text = errno.map_or(text.clone(), |errno| format!("{text}: {}", describe(errno)));
        self.output.record(&[field("", step).width(9).colour(colour), field("", text)])
    }

    fn fail(&self, step: &str, text: impl Into<String>, errno: Errno) -> Result<Outcome, Error> {
        self.say(step, text, Some(errno)).map(|()| Err(errno))
    }

    fn all(&self, service: &Service, is_given: bool) -> Result<Outcome, Error> {
        let numbers = format!("index {}, version {}", service.index as i32, service.version as i32);
        self.say("service", format!("{}, {numbers}", service.name.to_string_lossy()), None)?;
        let way = Way::of(service);
        self.variables(service, &way, is_given)?;
        if let Err(errno) = self.target(&way)? {
            return Ok(Err(errno));
        }
        if matches!(way.target, Ok(Target::Direct | Target::Service(_))) {
            let (directory, is_chosen) = rundir::current();
            let source = match env::var_os("IPC_RUNDIR") {
                Some(value) if value.is_empty() => "IPC_RUNDIR is empty",
                _ if is_chosen => "from IPC_RUNDIR, or --rundir",
                _ => "IPC_RUNDIR is not set",
            };
            self.say("rundir", format!("{} ({source})", directory.display()), None)?;
        }
        match &way.path {
            Ok(path) => {
                self.say("path", path.display().to_string(), None)?;
                self.socket(service, path)
            }
            Err(errno) => self.fail("path", "the path of the socket is too long", *errno),
        }
    }

    /// Which variable counts.
    fn variables(&self, service: &Service, way: &Way, is_given: bool) -> Result<(), Error> {
        if service.name == NEVER_REROUTED {
            return self.say("variable", "none: this service is never rerouted", None);
        }
        let describe = |name: &OsStr, value: &Option<OsString>| match value {
            None => format!("{} is not set", name.to_string_lossy()),
            Some(value) if value.is_empty() => format!("{} is empty", name.to_string_lossy()),
            Some(value) => format!("{}={}", name.to_string_lossy(), value.to_string_lossy()),
        };
        if is_given {
            self.say("option", format!("--to {}", way.text.to_string_lossy()), None)?;
        } else {
            self.say("variable", describe(&way.own.0, &way.own.1), None)?;
        }
        if way.source != Source::Own {
            self.say("variable", describe(OsStr::new(FOR_ALL), &way.all), None)?;
        }
        match (&way.source, &way.all) {
            (Source::Entry(name), _) => {
                let (name, text) = (name.to_string_lossy(), way.text.to_string_lossy());
                self.say("entry", format!("{name} {text}"), None)
            }
            (Source::Nothing, Some(all)) if !all.is_empty() => {
                self.say("entry", "none is for this service", None)
            }
            _ => Ok(()),
        }
    }

    /// What the target means.
    fn target(&self, way: &Way) -> Result<Outcome, Error> {
        let text = match &way.target {
            Err(errno) => {
                let text = format!("\"{}\" is no target", way.text.to_string_lossy());
                return self.fail("target", text, *errno);
            }
            Ok(Target::Bridge(target)) => {
                let text =
                    format!("{}: only a bridge reaches it, and none listens", target.to_string_lossy());
                return self.fail("target", text, Errno::ENETUNREACH);
            }
            Ok(Target::Direct) if way.source == Source::Nothing => "the service itself".to_owned(),
            Ok(Target::Direct) => "direct: the service itself".to_owned(),
            Ok(Target::Service(name)) => {
                format!("{}: another service of the run directory", name.to_string_lossy())
            }
            Ok(Target::Path(_)) => "the socket at a path".to_owned(),
        };
        self.say("target", text, None).map(Ok)
    }

    /// The socket at the path, and its server.
    fn socket(&self, service: &Service, path: &Path) -> Result<Outcome, Error> {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Some(Err(error)) = directory.map(fs::metadata) {
            let text = format!("stat(2) of the directory {}", directory.unwrap_or(path).display());
            return self.fail("directory", text, errno_of(&error));
        }
        let file = match fs::metadata(path) {
            Ok(file) => file,
            Err(error) => {
                let text = match error.kind() {
                    std::io::ErrorKind::NotFound => "no server has opened the service, or it has ended",
                    _ => "stat(2) of the socket",
                };
                let outcome = self.fail("file", text, errno_of(&error))?;
                self.others(service, directory)?;
                return Ok(outcome);
            }
        };
        let (is_socket, owner) = (file.file_type().is_socket(), rundir::user_name(file.uid()));
        let kind = if is_socket { "a socket" } else { "no socket" };
        let text = format!("{kind}, mode {:o}, owner {owner}", file.mode() & 0o7777);
        if !is_socket {
            return self.fail("file", text, Errno::ECONNREFUSED);
        }
        self.say("file", text, None)?;
        let bound = sockets::bound_to(path).unwrap_or_default();
        self.connect(path, bound.as_ref())
    }

    fn connect(&self, path: &Path, bound: Option<&Bound>) -> Result<Outcome, Error> {
        match rundir::is_alive(path) {
            Ok(false) => {
                let text = "connect(2): no server listens; one that is dead has left the file";
                return self.fail("connect", text, Errno::ECONNREFUSED);
            }
            Err(errno @ (Errno::EACCES | Errno::EPERM)) => {
                let user = rundir::user_name(geteuid().as_raw());
                let text =
                    format!("connect(2): user {user} may not write to the socket, or not pass its directory");
                let outcome = self.fail("connect", text, errno)?;
                self.server(bound)?;
                return Ok(outcome);
            }
            Err(errno) => return self.fail("connect", "connect(2)", errno),
            Ok(true) => {}
        }
        let outcome = match bound {
            Some(bound) if !bound.is_stream => self.fail(
                "connect",
                "connect(2): a socket of another kind, of no service",
                Errno::EPROTOTYPE,
            )?,
            Some(bound) if !bound.is_listening => {
                self.fail("connect", "connect(2): the server does not listen yet", Errno::ECONNREFUSED)?
            }
            // The kernel lets one more in than listen(2) says.
            Some(bound) if bound.waiting > bound.backlog => {
                let text = "connect(2) waits: the server's queue of new clients is full";
                self.fail("connect", text, Errno::EAGAIN)?
            }
            _ => self.say("connect", "connect(2): ok", None).map(Ok)?,
        };
        self.server(bound)?;
        Ok(outcome)
    }

    /// The server, as far as it can be seen.
    fn server(&self, bound: Option<&Bound>) -> Result<(), Error> {
        let Some(bound) = bound else {
            return self.say("server", "not to be seen: it has another network namespace", None);
        };
        let process = Processes::with([bound].into_iter()).server(bound).map_or_else(
            || "a process that this user may not look at".to_owned(),
            |pid| {
                let stopped = if sockets::is_stopped(pid) { ", stopped: it answers nothing" } else { "" };
                format!("process {pid}, {}{stopped}", sockets::program(pid).unwrap_or_default())
            },
        );
        let (clients, waiting, backlog) = (bound.clients, bound.waiting, bound.backlog);
        self.say("server", format!("{process}; clients {clients}, waiting {waiting} of {backlog}"), None)
    }

    /// The services of the same name that have another index or version.
    fn others(&self, service: &Service, directory: Option<&Path>) -> Result<(), Error> {
        let entries = directory.and_then(|directory| rundir::services(directory).ok()).unwrap_or_default();
        let is_like = |name: &OsStr| name.eq_ignore_ascii_case(&service.name);
        let names: Vec<_> = entries
            .iter()
            .filter(|entry| entry.state != rundir::State::Dead && is_like(&entry.service.name))
            .map(|entry| entry.service.file_name().to_string_lossy().into_owned())
            .collect();
        if names.is_empty() { Ok(()) } else { self.say("others", names.join(", "), None) }
    }
}
