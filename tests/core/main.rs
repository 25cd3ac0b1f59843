//! The tests that call the library in their own process: one test program, since each linked program takes
//! seconds to build. Each module is about one group of promises. Each test runs in a process of its own, see
//! `support/own_process.rs`; child processes with one thread and no test harness are in `child`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the functions are called as their header says")]

mod arguments;
mod backlog;
mod child;
mod closed_by_program;
mod closing;
mod closing_rests;
mod descriptors_run_out;
mod errno;
mod event_loop;
mod event_loop_broken_peers;
mod event_loop_cost;
mod event_loop_endings;
mod event_loop_fairness;
mod event_loop_memory;
mod ext_arguments;
mod ext_clients;
mod ext_del_fd;
mod ext_event_fd;
mod ext_event_fd_sets;
mod ext_events;
mod ext_events_ends;
mod ext_flush;
mod ext_fork;
mod ext_limits;
mod ext_notices;
mod ext_passing;
mod ext_passing_ends;
mod ext_peer;
mod ext_queue;
mod ext_queue_ends;
mod ext_read_timeout;
mod ext_send;
mod ext_services;
mod ext_waiting;
mod ext_watching;
mod extra_descriptors;
mod extra_passing;
mod fuzz_corpora;
mod held_back;
mod held_numbers;
mod hostile_peers;
mod list_by_hand;
mod messages;
mod nothing_to_wait_for;
mod number_reuse;
mod odd_places;
mod old_programs;
mod paths;
mod privileges;
mod processes;
mod queue_model;
mod rerouting;
mod scale;
mod services;
mod signals;
mod socket_limits;
mod support;
#[path = "../../fuzz/targets/mod.rs"]
mod targets;
mod threads;
mod threads_share;
mod waits_block_no_thread;
mod writing;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::own_process;

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// A test without a process of its own would be affected by the others; a test in a file that is no module
/// would not run.
#[test]
fn every_test_runs_in_its_own_process() {
    own_process!(30);
    let mut count = 0;
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for test in text.split("\n#[test]\n").skip(1) {
            let (head, first) = test.split_once(" {\n").unwrap();
            assert!(first.trim_start().starts_with("own_process!("), "{}: {head}", file.display());
            count += 1;
        }
    }
    let list = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert_eq!(list.lines().filter(|line| line.ends_with(": test")).count(), count, "tests that run");
}
