//! Runs the fuzz targets with the stored inputs: `fuzz/corpus`, and `fuzz/regressions`, the inputs of faults
//! that the fuzzer has found.

use std::path::{Path, PathBuf};
use std::thread;

use crate::support::*;
use crate::targets;

/// The limits of time for a whole corpus, and for one input.
const CORPUS_SECONDS: u64 = 100;
const INPUT_SECONDS: u64 = 20;

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let directories = ["corpus", "regressions"].map(|name| fuzz.join(name).join(target));
    let existing = directories.iter().filter(|directory| directory.exists());
    let files = existing.flat_map(|directory| std::fs::read_dir(directory).unwrap());
    let mut inputs: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.strip_prefix(&fuzz).unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    assert!(inputs.len() > 20, "{} inputs for {target}: where is the corpus?", inputs.len());
    inputs
}

/// Runs each input in a thread that is named after the input: the messages of a panic and of the limit
/// contain the name.
fn replay(inputs: Vec<(PathBuf, Vec<u8>)>, run: fn(&[u8])) {
    for (path, input) in inputs {
        let result = thread::Builder::new().name(path.display().to_string()).spawn(move || {
            let _limit = limit(INPUT_SECONDS);
            run(&input);
        });
        let result = result.unwrap().join();
        assert!(result.is_ok(), "{}: FUZZ_TRACE=1 in the environment shows its steps", path.display());
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

/// Checks the heap as well: the second run must not leave more memory in use than the first.
#[test]
fn peers() {
    own_process!(CORPUS_SECONDS);
    let inputs = inputs("peers");
    replay(inputs.clone(), targets::peers::run);
    let heap = heap_in_use();
    replay(inputs, targets::peers::run);
    assert!(heap_in_use() < heap + 16_000, "{heap} bytes of heap, now {}", heap_in_use());
}
