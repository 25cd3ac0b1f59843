//! The commands, each in a file of its name.

#![forbid(unsafe_code)]

mod bench;
mod chat;
mod explain;
mod list;
mod listen;
mod monitor;
mod run;
mod send;
mod wait;

use std::process::ExitCode;

use clap::ArgMatches;

use crate::error::Error;
use crate::output::Output;

/// What is the same for all commands.
#[derive(Clone, Copy, Debug)]
pub struct Globals {
    /// Where they print.
    pub output: Output,
}

/// Runs the command that the command line names.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    match matches.subcommand() {
        Some(("list", matches)) => list::run(globals, matches),
        Some(("wait", matches)) => wait::run(globals, matches),
        Some(("send", matches)) => send::run(globals, matches),
        Some(("listen", matches)) => listen::run(globals, matches),
        Some(("chat", matches)) => chat::run(globals, matches),
        Some(("monitor", matches)) => monitor::run(globals, matches),
        Some(("bench", matches)) => bench::run(globals, matches),
        Some(("run", matches)) => run::run(globals, matches),
        Some(("explain", matches)) => explain::run(globals, matches),
        _ => Err(Error::usage("no command")),
    }
}
