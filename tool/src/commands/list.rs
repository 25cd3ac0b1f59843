//! `ipc list`: the services of a directory. No server notices it.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgMatches;

use super::Globals;
use crate::error::Error;
use crate::output::{Colour, Field, Value, field};
use crate::rundir::{self, Entry, State};

/// Runs the command.
pub fn run(globals: &Globals, matches: &ArgMatches) -> Result<ExitCode, Error> {
    let (directory, is_chosen) =
        matches.get_one::<OsString>("dir").map_or_else(rundir::current, |dir| (PathBuf::from(dir), true));
    let entries = match rundir::services(&directory) {
        // No service has been opened yet.
        Err(error) if error.kind() == ErrorKind::NotFound && !is_chosen => Vec::new(),
        result => {
            result.map_err(|error| Error::io(directory.display(), "cannot read the directory", &error))?
        }
    };
    let shows_dead = matches.get_flag("all");
    let mut owners = Owners::default();
    let rows: Vec<_> = entries
        .iter()
        .filter(|entry| shows_dead || entry.state != State::Dead)
        .map(|entry| row(entry, owners.name(entry.file.uid())))
        .collect();
    print(globals, rows)
}

/// The names of users, each looked up once.
#[derive(Default)]
struct Owners {
    names: HashMap<u32, String>,
}

impl Owners {
    fn name(&mut self, uid: u32) -> String {
        self.names.entry(uid).or_insert_with(|| rundir::user_name(uid)).clone()
    }
}

/// The heads of the columns: those of [`row`].
const HEADS: [&str; 8] = ["NAME", "INDEX", "VERSION", "STATE", "OWNER", "CLIENTS", "WAITING", "PID"];

fn row(entry: &Entry, owner: String) -> Vec<Field<'_>> {
    let service = &entry.service;
    let bound = entry.bound.as_ref().filter(|_| entry.state != State::Dead);
    let colour = match entry.state {
        State::Alive => Colour::Green,
        State::Starting | State::Stopped | State::Foreign => Colour::Yellow,
        State::Dead => Colour::Red,
    };
    // As the file has them: signed.
    vec![
        field("name", Value::name(&service.name)),
        field("index", service.index as i32),
        field("version", service.version as i32),
        field("state", entry.state.word()).colour(colour),
        field("owner", owner),
        field("clients", bound.map(|bound| bound.clients)),
        field("waiting", bound.map(|bound| bound.waiting)),
        field("pid", entry.pid),
        field("uid", entry.file.uid()).json_only(),
        field("path", Value::name(entry.path.as_os_str())).json_only(),
    ]
}

fn print(globals: &Globals, rows: Vec<Vec<Field<'_>>>) -> Result<ExitCode, Error> {
    let output = &globals.output;
    let widths: Vec<_> = HEADS
        .iter()
        .enumerate()
        .map(|(at, head)| {
            rows.iter().filter_map(|row| row.get(at)).map(Field::length).fold(head.len(), usize::max)
        })
        .collect();
    let mut records = Vec::new();
    if !output.is_json {
        let is_number = |at: usize| matches!(at, 1 | 2 | 5..);
        let head = |(at, (head, width)): (usize, (&&str, &usize))| {
            let head = if is_number(at) { format!("{head:>width$}") } else { (*head).to_owned() };
            field("", head).width(*width).colour(Colour::Dim)
        };
        records.push(HEADS.iter().zip(&widths).enumerate().map(head).collect());
    }
    for row in rows {
        let widths = widths.iter().copied().chain(std::iter::repeat(0));
        records.push(row.into_iter().zip(widths).map(|(field, width)| field.width(width)).collect());
    }
    output.records(&records)?;
    Ok(ExitCode::SUCCESS)
}
