//! Those modules of `tests/core` under valgrind that take only seconds there. `make memcheck` runs all
//! modules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod staging;

use std::fs;
use std::process::Command;

use staging::{answer, has, root, skipped};

/// Modules of `tests/core`.
const TESTS: [&str; 9] = [
    "arguments",
    "errno",
    "event_loop_broken_peers",
    "ext_arguments",
    "ext_del_fd",
    "ext_limits",
    "list_by_hand",
    "number_reuse",
    "services",
];

#[test]
fn promise_tests_pass_under_valgrind() {
    if !has("valgrind") {
        return skipped("the tests of the promises under valgrind", "valgrind");
    }
    let output = tempfile::tempdir().unwrap();
    let mut run = Command::new(root().join("tests/checked/run.sh"));
    let output = answer(run.arg("memcheck").args(TESTS).env("CHECKED_OUTPUT", output.path()));
    for test in TESTS {
        let passed =
            output.lines().any(|line| line.starts_with(&format!("{test} ")) && line.contains("  ok. "));
        assert!(passed, "{test} has not run: {output}");
    }
}

/// Each line of the list names an existing test: after a rename, the tool would run the test although it
/// cannot.
#[test]
fn every_test_left_out_exists() {
    let list = fs::read_to_string(root().join("tests/checked/left_out.tsv")).unwrap();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let [tool, file, test, reason] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(["memcheck", "asan", "tsan"].contains(&tool) && !reason.is_empty(), "{line}");
        let module = root().join("tests/core").join(file);
        // A module is a file, or a directory of files.
        let files = fs::read_dir(&module).map_or(vec![module.with_extension("rs")], |entries| {
            entries.map(|entry| entry.unwrap().path()).collect()
        });
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        assert!(text.contains(&format!("fn {test}()")), "{line}");
    }
}
