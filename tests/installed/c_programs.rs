//! C programs with the installed library. Each is compiled once in each way that it is meant for, and each kind of run
//! shows something else:
//!
//! * as C99 and as C++17, with the shared and with the static library: the program compiles without a warning, and its
//!   own checks succeed;
//! * under valgrind: how the library uses memory;
//! * with AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer in the program: how the program uses memory
//!   that it gets from the library, and which blocks are not freed. The library itself is compiled without sanitizers
//!   here; `make asan` compiles it with them, with a nightly compiler.
//!
//! Each program of `tests/c` checks its own promises. The tests here expect that it ends with status 0 and prints only
//! what it is made to print: the library prints nothing by itself.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::staging::Language::{C, Cpp};
use crate::staging::Linkage::{Shared, Static};
use crate::staging::{
    Language, Linkage, Program, WARNINGS, answer, c_compiler, files_below, foreign_target, has, outcome,
    printed, root, run, runner, sanitizers, skipped, stage, text_of,
};

/// Whether there is a compiler for C++ whose programs run on this machine.
fn has_cpp() -> bool {
    has("g++") && foreign_target().is_none()
}

/// A program of `tests/c`.
struct Source {
    files: &'static [&'static str],
    flags: &'static [&'static str],
    /// Compiled as C, with the shared and with the static library.
    in_c: [OnceLock<Program>; 2],
}

impl Source {
    const fn new(files: &'static [&'static str], flags: &'static [&'static str]) -> Self {
        Self { files, flags, in_c: [const { OnceLock::new() }; 2] }
    }

    fn in_c(&self, linkage: Linkage) -> &Program {
        let place = usize::from(linkage == Static);
        self.in_c[place].get_or_init(|| Program::of_tests(C, linkage, self.files, self.flags))
    }

    /// Runs the program in each way that it is meant for; returns the output of each run.
    fn outputs(&self, languages: &[Language]) -> Vec<String> {
        let mut outputs = Vec::new();
        for language in languages {
            if *language == Cpp && !has_cpp() {
                skipped(&format!("{:?} as C++", self.files), "g++ for it");
                continue;
            }
            for linkage in [Shared, Static] {
                outputs.push(match language {
                    C => printed(&mut self.in_c(linkage).command()),
                    Cpp => printed(&mut Program::of_tests(Cpp, linkage, self.files, self.flags).command()),
                });
            }
        }
        outputs
    }

    fn runs_silently(&self) {
        for output in self.outputs(&[C, Cpp]) {
            assert_eq!(output, "", "{:?}: on standard output", self.files);
        }
    }

    fn is_clean_in_valgrind(&self) {
        if !has("valgrind") {
            return skipped(&format!("{:?} under valgrind", self.files), "valgrind");
        }
        printed(&mut self.in_c(Shared).command_in_valgrind());
    }

    /// No report of valgrind, and no leaked block, of the program or of the library.
    fn is_clean_with_sanitizers(&self, linkages: &[Linkage]) {
        if !sanitizers::watch(&format!("{:?}", self.files)) {
            return;
        }
        for linkage in linkages {
            let extra = [&sanitizers::FLAGS[..], &["-pthread"], self.flags].concat();
            let program = Program::of_tests(C, *linkage, self.files, &extra);
            printed(sanitizers::configure(&mut program.command()));
        }
    }
}

static LAYOUT: Source = Source::new(&["layout.c"], &[]);
static MESSAGES: Source = Source::new(&["messages.c"], &[]);
static ERRORS: Source = Source::new(&["errors.c"], &[]);
static CROWD: Source = Source::new(&["crowd.c"], &[]);
static EXCHANGE: Source = Source::new(&["exchange.c"], &[]);
static ALONE: Source = Source::new(&["alone.c"], &["-pthread"]);
static THREADS: Source = Source::new(&["threads.c"], &["-pthread"]);
static TWO_FILES: Source = Source::new(&["two_files_a.c", "two_files_b.c"], &[]);
/// The macros are empty, as they were in 2019.
static OLD_STYLE: Source = Source::new(&["old_style.c"], &["-Wno-empty-body"]);
static OLD_STYLE_WITH_ERRORS: Source = Source::new(&["old_style.c"], &["-DIPC_WITH_ERRORS"]);
static PRINTING: Source = Source::new(&["printing.c"], &[]);
static ENDING_BEGIN: Source = Source::new(&["ending_begin.c"], &["-pthread"]);
static ENDING_RECEIVERS: Source = Source::new(&["ending_receivers.c"], &["-pthread"]);
static ENDING_WRITERS: Source = Source::new(&["ending_writers.c"], &["-pthread"]);
/// The handler of a signal cannot be unwound, as is usual on arm and riscv64.
const WITHOUT_TABLES: &[&str] = &["-pthread", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"];
static ENDING_RECEIVERS_WITHOUT_TABLES: Source = Source::new(&["ending_receivers.c"], WITHOUT_TABLES);
static ENDING_WRITERS_WITHOUT_TABLES: Source = Source::new(&["ending_writers.c"], WITHOUT_TABLES);
static ENDING_ANYTIME: Source = Source::new(&["ending_anytime.c"], &["-pthread"]);
static OWN_HEAP: Source = Source::new(&["own_heap.c"], &["-pthread"]);
static UNDECLARED: Source = Source::new(&["undeclared.c"], &[]);

#[test]
fn layout() {
    LAYOUT.runs_silently();
}

#[test]
fn alone() {
    ALONE.runs_silently();
}

#[test]
fn alone_in_valgrind() {
    ALONE.is_clean_in_valgrind();
}

#[test]
fn messages() {
    MESSAGES.runs_silently();
}

#[test]
fn messages_in_valgrind() {
    MESSAGES.is_clean_in_valgrind();
}

#[test]
fn messages_with_sanitizers() {
    MESSAGES.is_clean_with_sanitizers(&[Shared, Static]);
}

#[test]
fn errors() {
    ERRORS.runs_silently();
}

#[test]
fn errors_in_valgrind() {
    ERRORS.is_clean_in_valgrind();
}

#[test]
fn errors_with_sanitizers() {
    ERRORS.is_clean_with_sanitizers(&[Shared, Static]);
}

#[test]
fn crowd() {
    CROWD.runs_silently();
}

#[test]
fn crowd_in_valgrind() {
    CROWD.is_clean_in_valgrind();
}

#[test]
fn crowd_with_sanitizers() {
    CROWD.is_clean_with_sanitizers(&[Shared, Static]);
}

#[test]
fn exchange() {
    EXCHANGE.runs_silently();
}

#[test]
fn exchange_in_valgrind() {
    EXCHANGE.is_clean_in_valgrind();
}

#[test]
fn exchange_with_sanitizers() {
    EXCHANGE.is_clean_with_sanitizers(&[Shared, Static]);
}

#[test]
fn threads() {
    THREADS.runs_silently();
}

#[test]
fn threads_in_valgrind() {
    THREADS.is_clean_in_valgrind();
}

#[test]
fn threads_with_sanitizers() {
    THREADS.is_clean_with_sanitizers(&[Shared, Static]);
}

/// Runs a program, which prints nothing, with the shared and with the static library.
fn runs_silently_in_c(source: &Source) {
    for output in source.outputs(&[C]) {
        assert_eq!(output, "", "{:?}: on standard output", source.files);
    }
}

#[test]
fn promise_24_pending_cancellation_ends_a_call_at_its_begin() {
    runs_silently_in_c(&ENDING_BEGIN);
}

#[test]
fn promise_24_thread_may_end_while_it_waits_for_input() {
    runs_silently_in_c(&ENDING_RECEIVERS);
}

#[test]
fn promise_24_thread_may_end_while_it_waits_for_a_reader() {
    runs_silently_in_c(&ENDING_WRITERS);
}

#[test]
fn promise_24_thread_may_end_in_a_handler_without_tables() {
    runs_silently_in_c(&ENDING_RECEIVERS_WITHOUT_TABLES);
    runs_silently_in_c(&ENDING_WRITERS_WITHOUT_TABLES);
}

#[test]
fn promise_24_frames_stay_whole_when_a_thread_is_cancelled() {
    runs_silently_in_c(&ENDING_ANYTIME);
}

#[test]
fn promise_33_program_may_define_its_own_heap() {
    runs_silently_in_c(&OWN_HEAP);
}

#[test]
fn two_files() {
    TWO_FILES.runs_silently();
}

#[test]
fn two_files_with_sanitizers() {
    TWO_FILES.is_clean_with_sanitizers(&[Shared]);
}

#[test]
fn old_style() {
    for output in OLD_STYLE.outputs(&[C]) {
        assert_eq!(output, "still here\n");
    }
}

#[test]
fn old_style_with_sanitizers() {
    OLD_STYLE.is_clean_with_sanitizers(&[Shared]);
}

#[test]
fn old_style_with_errors() {
    for output in OLD_STYLE_WITH_ERRORS.outputs(&[C]) {
        let [logged, printed] = lines(&output);
        assert_logged(logged, "ERROR", "try_error_macros: no failure so far: No such file or directory");
        assert_eq!(printed, "still here");
    }
}

/// Every standard that the compilers of this machine support.
const C_STANDARDS: [&str; 9] = ["c89", "gnu89", "c99", "gnu99", "c11", "gnu11", "gnu17", "gnu2x", "gnu23"];
const CPP_STANDARDS: [&str; 7] = ["c++98", "c++11", "c++14", "c++17", "gnu++17", "c++20", "c++23"];

/// Compiles a program of `tests/c` in each standard.
fn compiles_in_all_standards(file: &str, compilers: [&str; 4], flags: &[&str]) {
    let source = root().join("tests/c").join(file);
    for (compiler, language, standards) in [
        (compilers[0], "c", &C_STANDARDS[..]),
        (compilers[1], "c", &C_STANDARDS[..]),
        (compilers[2], "c++", &CPP_STANDARDS[..]),
        (compilers[3], "c++", &CPP_STANDARDS[..]),
    ] {
        if !has(compiler) {
            skipped(&format!("{file}, compiled by another compiler"), compiler);
            continue;
        }
        let begin = |standard: &str| {
            let mut command = Command::new(compiler);
            command.args(["-x", language, &format!("-std={standard}"), "-fsyntax-only"]);
            command
        };
        for standard in standards {
            if !outcome(begin(standard).arg("/dev/null")).2.success() {
                skipped(&format!("{file} as {standard}"), &format!("{compiler} that knows it"));
                continue;
            }
            let header = stage().header();
            run(begin(standard).args(flags).arg("-I").arg(header.parent().unwrap()).arg(&source));
        }
    }
}

const COMPILERS: [&str; 4] = ["gcc", "clang", "g++", "clang++"];

#[test]
fn old_sources_compile_in_all_standards() {
    let strict = ["-Wformat", "-Werror=format-security", "-Wredundant-decls", "-Werror"];
    for more in [None, Some("-DIPC_WITH_ERRORS")] {
        let flags: Vec<_> = strict.into_iter().chain(more).collect();
        compiles_in_all_standards("old_sources.c", COMPILERS, &flags);
    }
}

#[test]
fn old_names_are_hidden_if_the_program_asks_for_it() {
    for more in ["-DNOTHING", "-DIPC_WITH_ERRORS"] {
        compiles_in_all_standards("own_names.c", COMPILERS, &["-Wall", "-Wextra", "-Werror", more]);
    }
}

/// A program that was kept in the source tree of the library, in a tree that has a link in its place.
#[test]
fn old_tree_finds_the_header_through_a_link() {
    let tree = tempfile::tempdir().unwrap();
    for dir in ["src", "programs"] {
        fs::create_dir(tree.path().join(dir)).unwrap();
    }
    std::os::unix::fs::symlink(stage().header(), tree.path().join("src/ipc.h")).unwrap();
    let source = tree.path().join("programs/in_tree.c");
    fs::copy(root().join("tests/c/in_tree.c"), &source).unwrap();
    // Without the flags of pkg-config: the header is found only through the link.
    let program = tree.path().join("program");
    let mut compiler = c_compiler();
    compiler.arg("-std=c99").args(WARNINGS).arg(source).arg("-o").arg(&program);
    run(compiler.args(stage().libs(Shared)));
    printed(runner(&program).env("LD_LIBRARY_PATH", stage().lib()));
}

/// A static program needs no shared library from the loader.
#[test]
fn static_program_does_not_need_the_shared_library() {
    if !has("readelf") {
        return skipped("what a static program needs", "readelf");
    }
    for (linkage, needed) in [(Shared, true), (Static, false)] {
        let table = answer(Command::new("readelf").arg("-d").arg(LAYOUT.in_c(linkage).path()));
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
    for output in PRINTING.outputs(&[C, Cpp]) {
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
fn printing_with_sanitizers() {
    PRINTING.is_clean_with_sanitizers(&[Shared]);
}

#[test]
fn undeclared() {
    let bytes: Vec<String> = (0xa0..0xa0 + 20).map(|byte: u8| format!("{byte:02x}")).collect();
    for output in UNDECLARED.outputs(&[C, Cpp]) {
        let parts = parts(&output);
        let [message, bare, hexa, nothing, mprint, log] = &parts[..] else { panic!("{output}") };
        // It prints nothing, as in 2019.
        assert_eq!((&message.1[..], &bare.1[..]), (&[""; 0][..], &[""; 0][..]));

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

#[test]
fn undeclared_in_valgrind() {
    UNDECLARED.is_clean_in_valgrind();
}

#[test]
fn undeclared_with_sanitizers() {
    UNDECLARED.is_clean_with_sanitizers(&[Shared]);
}

/// Errors of a program with blocks of the library are reported; so errors of the library would be, too.
#[test]
fn sanitizers_report_planted_errors() {
    const WRONG: [(&str, &str); 4] = [
        ("(void) m;", "5 byte(s) leaked"),
        ("free (m.payload); free (m.payload);", "double-free"),
        ("free (m.payload); ipc_message_write (1, &m);", "heap-use-after-free"),
        ("m.length += 3; ipc_message_write (1, &m); free (m.payload);", "heap-buffer-overflow"),
    ];
    if !sanitizers::watch("faults that are planted") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (number, (wrong, report)) in WRONG.iter().enumerate() {
        let source = dir.path().join(format!("wrong{number}.c"));
        fs::write(&source, program_that_does(wrong)).unwrap();
        let program = Program::compile(C, Shared, &[Path::new(&source)], &sanitizers::FLAGS);
        let (_, errors, status) = outcome(sanitizers::configure(&mut program.command()));
        assert!(!status.success() && errors.contains(report), "{wrong}: {status}\n{errors}");
    }
}

/// A program with a message whose payload the library has allocated: four bytes and the NUL.
fn program_that_does(wrong: &str) -> String {
    format!(
        "#include <ipc.h>\n\
         int main (void)\n\
         {{\n\
         \tstruct ipc_message m;\n\
         \tmemset (&m, 0, sizeof m);\n\
         \tipc_message_format_data (&m, \"four\", 4);\n\
         \t{wrong}\n\
         \tmemset (&m, 0, sizeof m);\n\
         \treturn 0;\n\
         }}\n"
    )
}

/// Each program of `tests/c` is compiled by a test above.
#[test]
fn every_c_program_has_a_test() {
    let these = ["c_programs", "static_programs"].map(|name| text_of(format!("tests/installed/{name}.rs")));
    let these = these.concat();
    for file in files_below(&root().join("tests/c")) {
        let compiled = file.ends_with(".h") || these.contains(&format!("{file}\""));
        assert!(compiled, "tests/c/{file} is not compiled by any test");
    }
}
