//! `make soak` runs for minutes or hours when it is started by hand; this test runs the same clients for some
//! rounds, so that the tool works when it is needed. `soak/README.md` says what it checks.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::staging::Language::C;
use crate::staging::Linkage::Shared;
use crate::staging::{Program, make_in, outcome, printed, root, run, stage};

const BEHAVIOURS: [&str; 9] =
    ["polite", "flooding", "threads", "descriptors", "slow", "stuck", "hostile", "killed", "dismissed"];

/// The program that `make soak` compiles.
fn soak() -> &'static Program {
    static SOAK: OnceLock<Program> = OnceLock::new();
    SOAK.get_or_init(compile)
}

fn compile() -> Program {
    let dir = std::fs::read_dir(root().join("soak")).unwrap();
    let is_c = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "c");
    let sources: Vec<PathBuf> = dir.map(|file| file.unwrap().path()).filter(is_c).collect();
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    Program::compile(C, Shared, &sources, &["-pthread"])
}

/// The cells of the line that begins with this text.
fn cells<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let begin = format!("| {first} |");
    let line =
        table.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no {begin}\n{table}"));
    line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).skip(1).collect()
}

fn number(cell: &str) -> u64 {
    cell.parse().unwrap_or_else(|_| panic!("{cell} is no number"))
}

/// 40 clients at a time, each seat taken three times; their behaviour follows from the seed.
#[test]
fn soak_of_all_clients_breaks_no_promise() {
    let program = soak();
    let table = printed(program.command().args(["-c", "40", "-r", "3", "-s", "1"]));
    assert!(table.ends_with("\nEvery promise was kept.\n"), "{table}");
    for behaviour in BEHAVIOURS {
        let cells = cells(&table, behaviour);
        assert!(number(cells[0]) > 0, "no {behaviour} client\n{table}");
        assert!(number(cells[1]) > 0, "no message of a {behaviour} client\n{table}");
    }
    // Each kind of client has done its work.
    assert!(number(cells(&table, "refused, since the queue was full (EAGAIN)")[0]) > 0, "{table}");
    assert!(
        cells(&table, "ERROR; breaches of the protocol")[0].split("; ").all(|part| number(part) > 0),
        "{table}"
    );
}

/// Each behaviour needs a seat, and the run needs a time.
#[test]
fn wrong_options_are_refused() {
    let program = soak();
    for arguments in [&["-c", "19"][..], &["-m", "0"], &["-x"], &["more"]] {
        let (table, errors, status) = outcome(program.command().args(arguments));
        assert_eq!((table.as_str(), status.code()), ("", Some(2)), "{arguments:?}");
        assert!(errors.contains("usage: soak"), "{arguments:?}: {errors}");
    }
}

/// The target of the Makefile, for a short time.
#[test]
fn make_soak_runs_the_soak_test() {
    // Two runs of make must not build at the same time.
    let _ = stage();
    run(make_in(root()).arg("all"));
    let mut make = make_in(root());
    let table = printed(make.args(["--silent", "soak", "MINUTES=0.02", "CLIENTS=20", "SEED=7"]));
    assert!(table.ends_with("\nEvery promise was kept.\n"), "{table}");
}
