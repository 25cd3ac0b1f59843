//! `ipc run`: a program, with other routes to services. The program takes the place of this process: its
//! status and its signals are its own.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::ArgMatches;

use super::Globals;
use crate::error::{Error, describe, errno_of};
use crate::routes::{self, NEVER_REROUTED};
use crate::service::Service;
use crate::signals;

/// Runs the command.
pub fn run(_globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let mut routes = HashMap::<OsString, (OsString, OsString)>::new();
    for route in matches.get_many::<OsString>("route").into_iter().flatten() {
        let (name, variable, target) = parse(route)?;
        let is_other = |(other, _): &(OsString, OsString)| *other != name;
        if let Some((other, _)) = routes.get(&variable).filter(|set| is_other(set)) {
            return Err(Error::usage(format!(
                "the services {} and {} have the same variable, {}",
                other.to_string_lossy(),
                name.to_string_lossy(),
                variable.to_string_lossy()
            )));
        }
        routes.insert(variable, (name, target));
    }
    let mut command = program(matches)?;
    command.envs(routes.into_iter().map(|(variable, (_, target))| (variable, target)));
    let error = command.exec();
    Err(cannot_run(&command, &error))
}

/// The name, the variable and the target of NAME=TARGET.
fn parse(route: &OsStr) -> Result<(OsString, OsString, OsString), Error> {
    let usage = |message: &str| Err(Error::usage(format!("--route {}: {message}", route.to_string_lossy())));
    let bytes = route.as_bytes();
    let mut parts = bytes.splitn(2, |byte| *byte == b'=');
    let (Some(name), Some(target)) = (parts.next(), parts.next()) else {
        return usage("it is not NAME=TARGET");
    };
    let service = Service { name: OsStr::from_bytes(name).to_owned(), index: 0, version: 0 };
    let target = OsStr::from_bytes(target);
    if name.is_empty() || name.contains(&b'/') {
        usage("the name of a service is not empty, and has no '/'")
    } else if service.name == NEVER_REROUTED {
        usage("the service network is never rerouted")
    } else if !routes::is_target(target) {
        usage("this is no target: another service, unix:PATH or direct:")
    } else {
        Ok((service.name.clone(), service.variable(), target.to_owned()))
    }
}

/// The program of the command line, with its arguments.
pub fn program(matches: &ArgMatches) -> Result<Command, Error> {
    let mut words = matches.get_many::<OsString>("command").into_iter().flatten();
    let name = words.next().ok_or_else(|| Error::usage("no program is given"))?;
    let mut command = signals::command(name);
    command.args(words);
    Ok(command)
}

/// The program does not exist (127) or cannot be run (126), as shells say it.
pub fn cannot_run(command: &Command, error: &io::Error) -> Error {
    let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    let name = command.get_program().to_string_lossy();
    Error::with_status(status, format!("{name}: cannot run: {}", describe(errno_of(error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_names_service_and_target() {
        let parsed = parse(OsStr::new("my-svc.1=unix:/a=b")).unwrap();
        assert_eq!(parsed, ("my-svc.1".into(), "IPC_NETWORK_MY_SVC_1".into(), "unix:/a=b".into()));
        for wrong in ["audio", "=pong", "a/b=pong", "audio=", "audio=ssh:", "network=pong"] {
            assert!(parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }
}
