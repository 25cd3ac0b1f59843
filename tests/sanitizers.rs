//! The C programs of `tests/c` with AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer, against the
//! installed library: no report, and no block that is left behind, be it the program's or the library's. The
//! examples are run so in `tests/examples.rs` and `tests/examples_ext.rs`.
//!
//! The library itself is compiled without them here; `make asan` does that, with a nightly compiler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod staging;

use std::fs;
use std::path::Path;

use staging::Language::C;
use staging::Linkage::{Shared, Static};
use staging::{Linkage, Program, outcome, printed, sanitizers};

fn compile(linkage: Linkage, sources: &[&str]) -> Program {
    let extra = [&sanitizers::FLAGS[..], &["-pthread"]].concat();
    Program::of_tests(C, linkage, sources, &extra)
}

fn is_clean(linkages: &[Linkage], sources: &[&str]) {
    if !sanitizers::watch(&format!("{sources:?}")) {
        return;
    }
    for linkage in linkages {
        printed(sanitizers::configure(&mut compile(*linkage, sources).command()));
    }
}

#[test]
fn messages() {
    is_clean(&[Shared, Static], &["messages.c"]);
}

#[test]
fn errors() {
    is_clean(&[Shared, Static], &["errors.c"]);
}

#[test]
fn crowd() {
    is_clean(&[Shared, Static], &["crowd.c"]);
}

#[test]
fn exchange() {
    is_clean(&[Shared, Static], &["exchange.c"]);
}

#[test]
fn threads() {
    is_clean(&[Shared, Static], &["threads.c"]);
}

#[test]
fn old_style() {
    is_clean(&[Shared], &["old_style.c"]);
}

#[test]
fn printing() {
    is_clean(&[Shared], &["printing.c"]);
}

#[test]
fn undeclared() {
    is_clean(&[Shared], &["undeclared.c"]);
}

#[test]
fn two_files() {
    is_clean(&[Shared], &["two_files_a.c", "two_files_b.c"]);
}

/// What a program does wrong with blocks of the library is seen, so what the library did wrong would be, too.
#[test]
fn what_is_wrong_is_seen() {
    const WRONG: [(&str, &str); 4] = [
        ("(void) m;", "5 byte(s) leaked"),
        ("free (m.payload); free (m.payload);", "double-free"),
        ("free (m.payload); ipc_message_write (1, &m);", "heap-use-after-free"),
        ("m.length += 3; ipc_message_write (1, &m); free (m.payload);", "heap-buffer-overflow"),
    ];
    if !sanitizers::watch("faults that are planted") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (number, (wrong, report)) in WRONG.iter().enumerate() {
        let source = folder.path().join(format!("wrong{number}.c"));
        fs::write(&source, program_that_does(wrong)).unwrap();
        let program = Program::compile(C, Shared, &[Path::new(&source)], &sanitizers::FLAGS);
        let (_, errors, status) = outcome(sanitizers::configure(&mut program.command()));
        assert!(!status.success() && errors.contains(report), "{wrong}: {status}\n{errors}");
    }
}

/// It has a message whose payload the library has allocated: four bytes and the NUL.
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
