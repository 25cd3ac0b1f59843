//! Promise 26, if a system call or an allocation of the library fails. Each call of libipc.so into libc fails
//! once with each errno that it can report, or transfers too little. Then nothing is lost, doubled, changed
//! or leaked, nothing hangs or aborts, every failure has its code and its errno, and repeated calls succeed.
//!
//! Two C programs know at each moment what must arrive: `faults/scenario.c` uses ipc.h, `faults/extension.c`
//! ipc_ext.h. The shim (`faults/shim.h`) makes the n-th call fail; n goes from 1 until no such call is left.
//!
//! `LIBIPC_FAULTS=all` tests every n, even if there are many. `LIBIPC_FAULTS="scenario recv EINTR 12"` runs
//! one fault; a further number makes as many calls fail in a row: "scenario malloc ENOMEM 5 8".
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rows;
#[path = "../staging/mod.rs"]
mod staging;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rows::{MAY_NEVER_OCCUR, May, NOT_IN_THE_SHIM, ROWS, Row, number};
use staging::{Language, Linkage, Program, WARNINGS, has, root, run, skipped, stage};

/// Prints although the test harness captures the output of tests.
fn say(text: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The C programs, compiled, and the shim.
struct Setup {
    programs: Vec<(&'static str, Program)>,
    shim: PathBuf,
}

impl Setup {
    fn new() -> Self {
        let dir = root().join("tests/faults");
        let at = |name: &str| dir.join(name);
        let shim = stage().room_for("faults").join("shim.so");
        let mut compiler = Command::new("cc");
        // A fortified libc would replace calls by its own checking functions, which the shim does not have.
        compiler.args(["-std=c99", "-fPIC", "-shared", "-U_FORTIFY_SOURCE"]).args(WARNINGS);
        compiler.args(["shim.c", "shim_calls.c", "shim_memory.c"].map(at)).arg("-ldl").arg("-o").arg(&shim);
        run(&mut compiler);
        let programs = ["scenario", "extension"].map(|name| {
            let main = at(&format!("{name}.c"));
            let parts = ["world.c", "files.c", "rules.c", "lanes.c", "peer.c", "daemon.c"].map(at);
            let sources: Vec<&Path> = [&main].into_iter().chain(&parts).map(PathBuf::as_path).collect();
            (name, Program::compile(Language::C, Linkage::Shared, &sources, &[]))
        });
        Self { programs: programs.into(), shim }
    }

    fn command(&self, program: usize) -> Command {
        let mut command = self.programs[program].1.command();
        // Blocks that are freed or not yet written are filled with a pattern that is no valid data.
        command.env("LD_PRELOAD", &self.shim).env("MALLOC_PERTURB_", "165").env_remove("RUST_BACKTRACE");
        for variable in ["FAULTS_CALL", "FAULTS_WITH", "FAULTS_AT", "FAULTS_COUNT", "FAULTS_MAY"] {
            command.env_remove(variable);
        }
        command
    }
}

/// One fault, in one program; which call fails is chosen later.
#[derive(Clone, Copy)]
struct Case {
    program: usize,
    call: &'static str,
    with: &'static str,
    may: May,
    burst: u32,
}

/// How a run has ended.
struct Outcome {
    /// The error, if the run has failed.
    wrong: Option<String>,
    /// How often each function was called.
    calls: BTreeMap<String, u64>,
    injected: u64,
}

/// Exit status: the machine was too busy for the one second that the library has at its end.
const TOO_SLOW: i32 = 75;

fn finish(mut command: Command) -> Outcome {
    let mut output = command.output().unwrap();
    for _ in 0..5 {
        if output.status.code() != Some(TOO_SLOW) {
            break;
        }
        output = command.output().unwrap();
    }
    let (mut calls, mut injected) = (BTreeMap::new(), 0);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["injected", count, ..] => injected = count.parse().unwrap(),
            [call, count] => drop(calls.insert(call.to_owned(), count.parse().unwrap())),
            _ => panic!("unexpected on standard output: {line}"),
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let fine = output.status.success() && errors.is_empty();
    let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or("no report").to_owned();
    let wrong = (!fine).then(|| format!("{errors}({}; {last})", output.status));
    Outcome { wrong, calls, injected }
}

impl Case {
    fn command(&self, setup: &Setup, at: u64) -> Command {
        let mut command = setup.command(self.program);
        let with = if self.with == "short" { self.with.to_owned() } else { number(self.with).to_string() };
        command.env("FAULTS_CALL", self.call).env("FAULTS_WITH", with);
        command.env("FAULTS_AT", at.to_string()).env("FAULTS_COUNT", self.burst.to_string());
        command.env("FAULTS_MAY", format!("{:?}", self.may).to_lowercase());
        command
    }
}

/// The result of a case, or of all cases of a fault.
#[derive(Default)]
struct Tally {
    runs: u64,
    injected: u64,
    /// Calls that were left out.
    left_out: u64,
    wrong: Vec<String>,
}

/// From this call on, only one in `STRIDE` calls is made to fail, unless all are asked for. If several calls
/// fail in a row, the next row begins after the last of them.
const EVERY: u64 = 150;
const STRIDE: u64 = 7;

/// After this many failures a case is not continued.
const ENOUGH: usize = 3;

/// A case ends after this many runs in a row without a fault: functions that wait for another process are not
/// called equally often in each run.
const NONE_LEFT: u32 = 2;

fn try_all(case: Case, setup: &Setup, every: bool) -> Tally {
    let mut tally = Tally::default();
    let (mut at, mut without) = (1, 0);
    while without < NONE_LEFT && tally.wrong.len() < ENOUGH {
        let outcome = finish(case.command(setup, at));
        tally.runs += 1;
        tally.injected += outcome.injected;
        without = if outcome.injected == 0 { without + 1 } else { 0 };
        if let Some(wrong) = outcome.wrong {
            let Case { call, with, burst, .. } = case;
            let name = setup.programs[case.program].0;
            tally.wrong.push(format!("LIBIPC_FAULTS=\"{name} {call} {with} {at} {burst}\": {wrong}"));
        }
        at += match u64::from(case.burst) {
            _ if every => 1,
            1 if at >= EVERY && outcome.injected > 0 => {
                tally.left_out += STRIDE - 1;
                STRIDE
            }
            burst => burst,
        };
    }
    tally
}

fn cases(programs: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for Row { call, with, may, bursts } in ROWS {
        for (with, burst) in with.iter().flat_map(|with| bursts.iter().map(move |burst| (*with, *burst))) {
            cases.extend((0..programs).map(|program| Case { program, call, with, may: *may, burst }));
        }
    }
    cases
}

/// Runs the cases, several at a time, since a run mostly waits.
fn try_each(cases: &[Case], setup: &Setup, every: bool) -> BTreeMap<(&'static str, &'static str), Tally> {
    let next = AtomicUsize::new(0);
    let tallies = Mutex::new(BTreeMap::<_, Tally>::new());
    let workers = 6 * thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tally = try_all(*case, setup, every);
                    let mut tallies = tallies.lock().unwrap();
                    let sum = tallies.entry((case.call, case.with)).or_default();
                    sum.runs += tally.runs;
                    sum.injected += tally.injected;
                    sum.left_out += tally.left_out;
                    sum.wrong.extend(tally.wrong);
                }
            });
        }
    });
    tallies.into_inner().unwrap()
}

fn print_table(tallies: &BTreeMap<(&'static str, &'static str), Tally>, begin: Instant) {
    let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (mut runs, mut injected, mut left_out) = (0, 0, 0);
    for ((call, with), tally) in tallies {
        let mut cell = format!("{with} {}", tally.injected);
        if !tally.wrong.is_empty() {
            cell += " FAILED";
        }
        rows.entry(call).or_default().push(cell);
        runs += tally.runs;
        injected += tally.injected;
        left_out += tally.left_out;
    }
    say("faults injected:");
    for (call, cells) in rows {
        say(format_args!("  {call:<16} {}", cells.join(", ")));
    }
    let time = begin.elapsed().as_secs();
    say(format_args!("  {injected} faults in {runs} runs, {time} s; all survived except those named above"));
    if left_out > 0 {
        say(format_args!(
            "  left out: {left_out} calls; from the {EVERY}th call of a function on one in {STRIDE} is taken. \
             LIBIPC_FAULTS=all takes every one, and every row of calls"
        ));
    }
}

/// Parses "scenario recv EINTR 12", with or without a further number.
fn one(text: &str, setup: &Setup) -> (Case, u64) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [program, call, with, at, ref burst @ ..] = words[..] else { panic!("LIBIPC_FAULTS={text}?") };
    let program = setup.programs.iter().position(|(name, _)| *name == program);
    let program = program.unwrap_or_else(|| panic!("no program: {text}"));
    let row = ROWS.iter().find(|row| row.call == call && row.with.contains(&with));
    let row = row.unwrap_or_else(|| panic!("no fault of the table: {text}"));
    let with = row.with.iter().find(|one| **one == with).unwrap();
    let burst = burst.first().map_or(1, |burst| burst.parse().unwrap());
    (Case { program, call: row.call, with, may: row.may, burst }, at.parse().unwrap())
}

/// The functions that the library imports from libc; `None` if there is no tool that lists them.
fn imports() -> Option<BTreeSet<String>> {
    if !has("nm") {
        skipped("whether the shim knows all functions that the library calls", "nm");
        return None;
    }
    let mut nm = Command::new("nm");
    let table = staging::answer(nm.args(["-D", "--undefined-only", "--format=posix"]).arg(stage().library()));
    let name = |line: &str| line.split(['@', ' ']).next().unwrap_or_default().to_owned();
    Some(table.lines().map(name).collect())
}

/// Without faults the scenarios succeed; every function of the table is called, and every called function is
/// in the table.
fn check_without_faults(setup: &Setup) {
    let imports = imports();
    let unseen = NOT_IN_THE_SHIM
        .split_whitespace()
        .filter(|name| imports.as_ref().is_some_and(|imports| imports.contains(*name)));
    assert_eq!(unseen.collect::<Vec<_>>(), [""; 0], "called by the library, and not in tests/faults/shim*.c");
    let mut called = BTreeSet::new();
    for (program, (name, _)) in setup.programs.iter().enumerate() {
        let outcome = finish(setup.command(program));
        assert!(outcome.wrong.is_none(), "{name} without a fault: {}", outcome.wrong.unwrap());
        called.extend(outcome.calls.into_keys());
    }
    let in_table: BTreeSet<String> = ROWS.iter().map(|row| row.call.to_owned()).collect();
    let forgotten: Vec<_> = called.difference(&in_table).collect();
    assert!(forgotten.is_empty(), "called by the library, and not in ROWS: {forgotten:?}");
    for call in in_table.difference(&called) {
        let is_imported = imports.as_ref().is_none_or(|imports| imports.contains(call));
        assert!(!is_imported, "{call} is in ROWS, and no scenario has the library call it");
    }
}

#[test]
fn faults_are_survived() {
    if !has("cc") {
        return skipped("what happens when system calls and allocations fail", "C compiler");
    }
    let setup = Setup::new();
    let asked = env::var("LIBIPC_FAULTS").unwrap_or_default();
    if !asked.is_empty() && asked != "all" {
        let (case, at) = one(&asked, &setup);
        let outcome = finish(case.command(&setup, at));
        say(format_args!("injected {}", outcome.injected));
        assert!(outcome.wrong.is_none(), "{}", outcome.wrong.unwrap());
        return;
    }
    let begin = Instant::now();
    check_without_faults(&setup);
    let tallies = try_each(&cases(setup.programs.len()), &setup, asked == "all");
    print_table(&tallies, begin);
    let wrong: Vec<&str> = tallies.values().flat_map(|tally| &tally.wrong).map(String::as_str).collect();
    assert!(wrong.is_empty(), "not survived:\n{}", wrong.join("\n"));
    let is_missing = |(fault, tally): &(_, &Tally)| tally.injected == 0 && !MAY_NEVER_OCCUR.contains(*fault);
    let never: Vec<_> = tallies.iter().filter(is_missing).map(|(fault, _)| fault).collect();
    assert!(never.is_empty(), "these faults were never injected: {never:?}");
}
