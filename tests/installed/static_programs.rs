//! Static programs: with all of the library, with functions whose names the library uses, too, and with
//! another static library that is made with Rust.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::staging::{answer, c_compiler, foreign_target, has, printed, root, run, runner, skipped, stage};

/// The program that `cc` makes of these arguments, in this directory, with the static library.
fn compile(dir: &Path, arguments: &[&str]) -> Command {
    let binary = dir.join("program");
    let mut cc = c_compiler();
    cc.arg(format!("-I{}", root().join("tests/c").display())).args(stage().cflags());
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&binary).args(arguments);
    cc.arg(stage().lib().join("libipc.a")).arg("-pthread");
    run(&mut cc);
    let mut program = runner(&binary);
    program.env("IPC_RUNDIR", dir);
    program
}

fn source(name: &str) -> String {
    root().join("tests/c").join(name).display().to_string()
}

#[test]
fn static_program_has_functions_of_its_own() {
    for all in [&["-static"][..], &[]] {
        let dir = tempfile::tempdir().unwrap();
        let own = source("own_functions.c");
        let arguments = [all, &[own.as_str()]].concat();
        assert_eq!(printed(&mut compile(dir.path(), &arguments)), "", "{all:?}");
    }
}

#[test]
fn static_library_links_with_another_library_in_rust() {
    if !has("rustc") {
        return skipped("another library made with Rust in one program", "rustc");
    }
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.rs");
    let text = "#[unsafe(no_mangle)]\npub extern \"C\" fn other(n: u32) -> usize {\n\
        \tstd::panic::catch_unwind(|| (0..n).collect::<Vec<_>>().len()).unwrap_or(0)\n}\n";
    fs::write(&other, text).unwrap();
    let library = dir.path().join("libother.a");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "--crate-type", "staticlib", "-o"]).arg(&library).arg(&other);
    if let Some(target) = foreign_target() {
        rustc.args(["--target", &target]);
    }
    run(&mut rustc);
    let main = dir.path().join("main.c");
    let text = "#include <ipc.h>\nsize_t other (uint32_t);\nint main (void)\n{\n\tstruct ipc_message m = { 0, 0, NULL };\n\
        \tif (ipc_message_format_data (&m, \"abc\", 3) != IPC_ERROR_NONE || ipc_message_empty (&m) != IPC_ERROR_NONE)\n\
        \t\treturn 1;\n\treturn other (5) == 5 ? 0 : 2;\n}\n";
    fs::write(&main, text).unwrap();
    let ours = stage().lib().join("libipc.a");
    let [main, library, ours] = [main, library, ours].map(|path| path.display().to_string());
    // In both orders on the command line.
    for order in [[&main, &library, &ours], [&main, &ours, &library]] {
        let arguments = [&order.map(String::as_str)[..], &["-lm", "-ldl"]].concat();
        assert_eq!(printed(&mut compile(dir.path(), &arguments)), "");
    }
}

/// The static library has only those global symbols that the shared library exports.
#[test]
fn static_library_exports_only_the_listed_symbols() {
    let nm = env::var("LIBIPC_TEST_NM").unwrap_or_else(|_| "nm".to_owned());
    if !has(&nm) {
        return skipped("what the static library exports", &nm);
    }
    let archive = stage().lib().join("libipc.a");
    let table = answer(Command::new(nm).args(["-g", "--defined-only", "--format=posix"]).arg(&archive));
    let mut shown: Vec<(&str, bool)> = table
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, rest)| Some((name, matches!(rest.chars().next()?, 'W' | 'V'))))
        .filter(|(name, _)| !name.ends_with(':'))
        .collect();
    shown.sort_unstable();
    let lists = ["src/capi/exports.txt", "src/capi/exports_ext.txt"].map(crate::staging::text_of);
    let mut expected: Vec<&str> = lists.iter().flat_map(|list| list.lines()).collect();
    expected.sort_unstable();
    assert_eq!(shown.iter().map(|(name, _)| *name).collect::<Vec<_>>(), expected);
    // Those that ipc.h declares cannot be the program's.
    let is_weak = |name: &str| shown.contains(&(name, true));
    assert!(is_weak("log_error") && is_weak("print_hexa") && is_weak("ipc_flush"));
    assert!(!is_weak("ipc_read") && !is_weak("usock_send"));
}
