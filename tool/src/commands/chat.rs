//! `ipc chat`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::ArgMatches;

use super::Globals;
use crate::error::Error;

/// Runs the command.
pub fn run(_globals: &Globals, _matches: &ArgMatches) -> Result<ExitCode, Error> {
    Err(Error::plain("chat", "not written yet"))
}
