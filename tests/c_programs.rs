//! C programs against the installed library: compiled as C99 and as C++17 without a warning, linked with the
//! shared and with the static library, run, and run again under valgrind.
//!
//! Each program of `tests/c` checks its own promises. Here it is expected to end with status 0 and to print
//! nothing but what it was made to print: the library prints nothing by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod staging;

use std::process::Command;

use staging::Language::{C, Cpp};
use staging::Linkage::{Shared, Static};
use staging::{Language, Program, has, printed, root, run, skipped, stage, text_of};

/// Compiles and runs the program in each way that it is meant for; what it has printed each time.
fn outputs(languages: &[Language], files: &[&str], extra: &[&str]) -> Vec<String> {
    let mut outputs = Vec::new();
    for language in languages {
        if *language == Cpp && !has("g++") {
            skipped(&format!("{files:?} as C++"), "g++");
            continue;
        }
        for linkage in [Shared, Static] {
            let program = Program::of_tests(*language, linkage, files, extra);
            outputs.push(printed(&mut program.command()));
        }
    }
    outputs
}

fn runs_silently(languages: &[Language], files: &[&str]) {
    for output in outputs(languages, files, &[]) {
        assert_eq!(output, "", "{files:?}: on standard output");
    }
}

fn is_clean_in_valgrind(file: &str) {
    if !has("valgrind") {
        return skipped(&format!("{file} under valgrind"), "valgrind");
    }
    printed(&mut Program::of_tests(C, Shared, &[file], &["-pthread"]).command_in_valgrind());
}

#[test]
fn layout() {
    runs_silently(&[C, Cpp], &["layout.c"]);
}

#[test]
fn messages() {
    runs_silently(&[C, Cpp], &["messages.c"]);
}

#[test]
fn messages_in_valgrind() {
    is_clean_in_valgrind("messages.c");
}

#[test]
fn errors() {
    runs_silently(&[C, Cpp], &["errors.c"]);
}

#[test]
fn errors_in_valgrind() {
    is_clean_in_valgrind("errors.c");
}

#[test]
fn crowd() {
    runs_silently(&[C, Cpp], &["crowd.c"]);
}

#[test]
fn crowd_in_valgrind() {
    is_clean_in_valgrind("crowd.c");
}

#[test]
fn exchange() {
    runs_silently(&[C, Cpp], &["exchange.c"]);
}

#[test]
fn exchange_in_valgrind() {
    is_clean_in_valgrind("exchange.c");
}

#[test]
fn threads() {
    for output in outputs(&[C, Cpp], &["threads.c"], &["-pthread"]) {
        assert_eq!(output, "");
    }
}

#[test]
fn threads_in_valgrind() {
    is_clean_in_valgrind("threads.c");
}

#[test]
fn two_files() {
    runs_silently(&[C, Cpp], &["two_files_a.c", "two_files_b.c"]);
}

#[test]
fn undeclared_in_valgrind() {
    is_clean_in_valgrind("undeclared.c");
}

#[test]
fn old_style() {
    for output in outputs(&[C], &["old_style.c"], &[]) {
        assert_eq!(output, "still here\n");
    }
}

#[test]
fn old_style_with_errors() {
    for output in outputs(&[C], &["old_style.c"], &["-DIPC_WITH_ERRORS"]) {
        let [logged, printed] = lines(&output);
        assert_logged(logged, "ERROR", "try_error_macros: no failure so far: No such file or directory");
        assert_eq!(printed, "still here");
    }
}

/// A program that stood beside the library's source, in a tree where there is a link in that place.
#[test]
fn in_the_tree_of_the_library() {
    let tree = tempfile::tempdir().unwrap();
    for folder in ["src", "programs"] {
        std::fs::create_dir(tree.path().join(folder)).unwrap();
    }
    std::os::unix::fs::symlink(stage().header(), tree.path().join("src/ipc.h")).unwrap();
    let source = tree.path().join("programs/in_tree.c");
    std::fs::copy(root().join("tests/c/in_tree.c"), &source).unwrap();
    // Without the flags of pkg-config: the header is found by the link alone.
    let program = tree.path().join("program");
    let mut compiler = Command::new("cc");
    compiler.arg("-std=c99").args(staging::WARNINGS).arg(source).arg("-o").arg(&program);
    run(compiler.args(stage().libs(Shared)));
    printed(Command::new(program).env("LD_LIBRARY_PATH", stage().lib()));
}

/// The static library leaves the program nothing to ask the loader for.
#[test]
fn a_static_program_does_not_need_the_shared_library() {
    if !has("readelf") {
        return skipped("what a static program needs", "readelf");
    }
    for (linkage, needed) in [(Shared, true), (Static, false)] {
        let program = Program::of_tests(C, linkage, &["layout.c"], &[]);
        let table = staging::answer(Command::new("readelf").arg("-d").arg(program.path()));
        assert_eq!(table.contains("[libipc.so.0]"), needed, "{linkage:?}: {table}");
    }
}

/// The lines of a program's output under each heading "# ...".
fn parts(output: &str) -> Vec<(&str, Vec<&str>)> {
    let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in output.lines() {
        match line.strip_prefix("# ") {
            Some(heading) => parts.push((heading, Vec::new())),
            None => parts.last_mut().expect("a heading first").1.push(line),
        }
    }
    assert_eq!(parts.pop(), Some(("end", Vec::new())), "{output}");
    parts
}

fn lines<const N: usize>(output: &str) -> [&str; N] {
    let lines: Vec<&str> = output.lines().collect();
    lines.try_into().unwrap_or_else(|lines| panic!("not {N} lines: {lines:?}"))
}

fn assert_has(line: &str, wanted: &[&str]) {
    let words: Vec<&str> = line.split(|c: char| c == ',' || c.is_whitespace()).collect();
    for word in wanted {
        assert!(words.contains(word), "no {word} in: {line}");
    }
}

/// "date:tag: message"
fn assert_logged(line: &str, tag: &str, message: &str) {
    let date = line.strip_suffix(&format!(":{tag}: {message}")).unwrap_or_else(|| panic!("{line}"));
    let year = date.split('-').next().and_then(|year| year.parse::<u32>().ok());
    assert!(year.is_some_and(|year| year >= 2024), "not a date: {date}");
}

#[test]
fn printing() {
    for output in outputs(&[C, Cpp], &["printing.c"], &[]) {
        let parts = parts(&output);
        let [connection, bare, connections, none, log, sentences] = &parts[..] else { panic!("{output}") };
        let first = ["1001", "u", "3", "22", "/run/ipc//service-3-22"];
        assert_eq!((connection.0, connection.1.len()), ("connection", 1));
        assert_has(connection.1[0], &first);
        assert_eq!(bare.1.len(), 1, "{bare:?}");
        assert_has(bare.1[0], &["1002", "3", "22"]);

        // The entry that is NULL has a number and no line.
        let [zero, two, three] = connections.1[..] else { panic!("{connections:?}") };
        assert_eq!(zero, format!("0: {}", connection.1[0]));
        assert_eq!(two, format!("2: {}", bare.1[0]));
        assert!(three.starts_with("3: "), "{three}");
        assert_has(three, &["1003", "a"]);
        assert_eq!((none.1.len(), sentences.1.len()), (0, 0), "{output}");

        let [error, info, debug] = log.1[..] else { panic!("{log:?}") };
        assert_logged(error, "ERROR", "nothing to fill in");
        assert_logged(info, "INFO", "text: -42%");
        let many = "1 2 3 4 5 6 7 eight 1.5 2.5 3.5 4.5 5.5 6.5 7.5 8.5 9.5 123456789012";
        assert_logged(debug, "DEBUG", many);
    }
}

#[test]
fn undeclared() {
    let bytes: Vec<String> = (0xa0..0xa0 + 20).map(|byte: u8| format!("{byte:02x}")).collect();
    for output in outputs(&[C, Cpp], &["undeclared.c"], &[]) {
        let parts = parts(&output);
        let [message, bare, hexa, nothing, mprint, log] = &parts[..] else { panic!("{output}") };
        assert_eq!(message.1.len(), 1, "{message:?}");
        assert_has(message.1[0], &["77", "4", "text"]);
        assert_eq!(bare.1.len(), 1, "{bare:?}");
        assert_has(bare.1[0], &["77", "0"]);

        let mut dump = Vec::new();
        for line in &hexa.1 {
            dump.extend(line.strip_prefix("prefix").expect("the prefix").split_whitespace());
        }
        assert_eq!(dump, bytes);
        assert_eq!(nothing.1, [""; 0]);
        let (heading, dump) = mprint.1.split_first().expect("a heading");
        assert!(heading.starts_with("prefix") && heading.contains("20"), "{heading}");
        assert_eq!(dump.iter().flat_map(|line| line.split_whitespace()).collect::<Vec<_>>(), bytes);

        assert_eq!(log.1.len(), 1, "{log:?}");
        assert_logged(log.1[0], "TAG", "text 42");
    }
}

/// Each program here is one that a test above compiles.
#[test]
fn no_program_is_forgotten() {
    let this_file = text_of("tests/c_programs.rs");
    for file in staging::files_below(&root().join("tests/c")) {
        let compiled = file.ends_with(".h") || this_file.contains(&format!("{file}\""));
        assert!(compiled, "tests/c/{file} is not compiled by any test");
    }
}
