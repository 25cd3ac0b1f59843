//! What the fuzzer has found worth keeping, played once more: `fuzz/corpus`, and the inputs of faults that it
//! has found, `fuzz/regressions`.

use std::path::{Path, PathBuf};
use std::thread;

use crate::support::*;
use crate::targets;

/// A whole corpus, and one input, take no longer.
const CORPUS_SECONDS: u64 = 100;
const INPUT_SECONDS: u64 = 20;

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let folders = ["corpus", "regressions"].map(|folder| fuzz.join(folder).join(target));
    let there = folders.iter().filter(|folder| folder.exists());
    let files = there.flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut inputs: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.strip_prefix(&fuzz).unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    assert!(inputs.len() > 20, "{} inputs for {target}: where is the corpus?", inputs.len());
    inputs
}

/// Each in a thread that has its name: a failure names the input, and so does the limit.
fn replay(inputs: Vec<(PathBuf, Vec<u8>)>, run: fn(&[u8])) {
    for (path, input) in inputs {
        let played = thread::Builder::new().name(path.display().to_string()).spawn(move || {
            let _limit = limit(INPUT_SECONDS);
            run(&input);
        });
        let played = played.unwrap().join();
        assert!(played.is_ok(), "{}: FUZZ_TRACE=1 in the environment shows its steps", path.display());
    }
}

#[test]
fn frames() {
    own_process!(CORPUS_SECONDS);
    replay(inputs("frames"), targets::frames::run);
}

#[test]
fn formats() {
    own_process!(CORPUS_SECONDS);
    replay(inputs("formats"), targets::formats::run);
}

#[test]
fn routes() {
    own_process!(CORPUS_SECONDS);
    replay(inputs("routes"), targets::routes::run);
}

/// Nothing is left on the heap, either: the second time takes no more than the first.
#[test]
fn peers() {
    own_process!(CORPUS_SECONDS);
    let inputs = inputs("peers");
    replay(inputs.clone(), targets::peers::run);
    let heap = heap_in_use();
    replay(inputs, targets::peers::run);
    assert!(heap_in_use() < heap + 16_000, "{heap} bytes of heap, now {}", heap_in_use());
}
