//! C programs with AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer. They check the program's
//! own code, and the library when it calls the C library: blocks of the heap, and the memory that it passes
//! to the kernel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::{outcome, skipped};

/// The first report ends the program.
pub const FLAGS: [&str; 3] =
    ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/// Which sanitizers work on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// LeakSanitizer stops the other threads as a debugger does, which not every container allows.
    AllButLeaks,
    All,
}

/// Compiles a program of two lines with the sanitizers and runs it. Returns `None` if it does not compile,
/// else whether it succeeded, and its standard error.
fn tried(dir: &Path, body: &str) -> Option<(bool, String)> {
    let (source, program) = (dir.join("probe.c"), dir.join("probe"));
    fs::write(
        &source,
        format!("#include <stdlib.h>\nstatic void *volatile kept;\nint main (void) {{ {body} }}\n"),
    )
    .unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(FLAGS).arg("-w").arg(source).arg("-o").arg(&program);
    if !compiler.output().unwrap().status.success() {
        return None;
    }
    let (_, errors, status) = outcome(in_environment(&mut Command::new(program)));
    Some((status.success(), errors))
}

fn found() -> Found {
    static FOUND: OnceLock<Found> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        match tried(dir.path(), "return 0;") {
            None => return Found::Nothing,
            Some((true, _)) => {}
            Some((false, errors)) => {
                assert!(errors.contains("LeakSanitizer has encountered a fatal error"), "{errors}");
                return Found::AllButLeaks;
            }
        }
        // Sanitizers that miss these errors would also miss errors of the programs.
        let (clean, errors) = tried(dir.path(), "kept = malloc (7); kept = NULL; return 0;").unwrap();
        assert!(!clean && errors.contains("7 byte(s) leaked"), "a leak is not seen: {errors}");
        let (clean, errors) =
            tried(dir.path(), "kept = malloc (7); free (kept); free (kept); return 0;").unwrap();
        assert!(!clean && errors.contains("double-free"), "a block freed twice is not seen: {errors}");
        let (clean, errors) =
            tried(dir.path(), "volatile int most = 2147483647; most = most + 1; return 0;").unwrap();
        assert!(!clean && errors.contains("signed integer overflow"), "an overflow is not seen: {errors}");
        Found::All
    })
}

/// Whether programs can be run with the sanitizers. A check that is not possible is reported as skipped.
pub fn watch(what: &str) -> bool {
    match found() {
        Found::All => return true,
        Found::AllButLeaks => skipped(&format!("leaks of {what}"), "right to use LeakSanitizer, ptrace(2),"),
        Found::Nothing => skipped(&format!("{what} with sanitizers"), "compiler with AddressSanitizer"),
    }
    found() == Found::AllButLeaks
}

fn in_environment(command: &mut Command) -> &mut Command {
    command
        .env("ASAN_OPTIONS", "detect_stack_use_after_return=1:strict_string_checks=1:detect_leaks=1")
        .env("UBSAN_OPTIONS", "print_stacktrace=1")
}

/// Makes the command, a program compiled with [`FLAGS`], fail at the first error that a sanitizer finds.
pub fn configure(command: &mut Command) -> &mut Command {
    in_environment(command);
    if found() == Found::AllButLeaks {
        command.env("ASAN_OPTIONS", "detect_stack_use_after_return=1:strict_string_checks=1:detect_leaks=0");
    }
    command
}
