//! `ipc`: what a shell can do with services. ipc(1) is its manual.
//!
//! | file | what it holds |
//! |---|---|
//! | `cli` | the command line: commands and options |
//! | `commands` | one file for each command |
//! | `service`, `output`, `printable`, `error`, `signals` | what commands share: names, lines, exit status, Ctrl-C |
//! | `stand_in`, `relay` | for `monitor`: a socket in a service's place, and what passes through it |
//! | `routes` | where a connection to a service goes, by the environment |
//! | `rundir`, `sockets` | which services there are, and what the kernel says of them |
//! | `payloads` | payloads from files and standard input, for `send` and `chat` |
//! | `shell` | commands of the shell that answer messages, for `listen` |
//! | `threads`, `reports` | threads that nothing waits for; what threads report to one that polls |
//! | `libipc`, `system` | the library, and calls of the system, made safe: the only files with `unsafe` |

mod cli;
mod commands;
mod error;
mod libipc;
mod output;
mod payloads;
mod printable;
mod relay;
mod reports;
mod routes;
mod rundir;
mod service;
mod shell;
mod signals;
mod sockets;
mod stand_in;
mod system;
mod threads;

use std::process::ExitCode;

use crate::commands::Globals;
use crate::error::Error;
use crate::output::Output;

fn main() -> ExitCode {
    let matches = match cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(answer) => return no_command(&answer),
    };
    let globals = Globals { output: Output::new(cli::is_json(&matches)) };
    let start = || {
        // Before there is another thread.
        cli::variables(&matches)?.iter().for_each(|(name, value)| system::set_variable(name, value));
        signals::start().map_err(|errno| Error::failed("signals", "cannot wait for signals", errno))
    };
    start().and_then(|()| commands::run(&globals, &matches)).unwrap_or_else(|error| error.report())
}

/// Prints help, the version, or what is wrong with the arguments. (clap would print control characters of an
/// argument as they are, and not say that help could not be written.)
fn no_command(answer: &clap::Error) -> ExitCode {
    let text = answer.to_string();
    if answer.use_stderr() {
        printable::complain_at_length(&text);
        return ExitCode::from(2);
    }
    match Output::new(false).write(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
