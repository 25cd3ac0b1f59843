//! The documents are true: the quick start of README.md works as it is written, the snippets for build
//! systems build, and links and named tests exist. `troubleshooting.rs` tests the documented failures.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::staging::{DIRECTORIES, Running, has, outcome, root, run, skipped, stage, text_of, until};

/// A block of code: its language, the text between the previous block and this one, and the code.
struct Block {
    language: String,
    before: String,
    code: String,
}

/// The blocks below the heading, up to the next heading of the same level.
fn blocks_below(heading: &str, text: &str) -> Vec<Block> {
    let level = heading.split(' ').next().unwrap();
    let start = text.lines().position(|line| line == heading).unwrap_or_else(|| panic!("no {heading}"));
    let mut blocks = Vec::new();
    let mut before = String::new();
    let mut open: Option<Block> = None;
    for line in text.lines().skip(start + 1) {
        match (&mut open, line.strip_prefix("```")) {
            (None, None) if line.split(' ').next() == Some(level) => break,
            (None, None) => before += &format!("{line}\n"),
            (None, Some(language)) => {
                let (language, before) = (language.to_owned(), std::mem::take(&mut before));
                open = Some(Block { language, before, code: String::new() });
            }
            (Some(block), None) => block.code += &format!("{line}\n"),
            (Some(_), Some(_)) => blocks.extend(open.take()),
        }
    }
    assert!(!blocks.is_empty() && open.is_none(), "{heading}: no block, or one without an end");
    blocks
}

/// The last file name in backticks in the text before a block.
fn file_named_before(block: &Block) -> &str {
    let names = block.before.split('`').skip(1).step_by(2);
    names.filter(|name| name.contains('.') && !name.contains('/')).last().expect("the name of a file")
}

/// A script that does what the reader does: it runs the commands and saves the files.
fn script(blocks: &[Block]) -> String {
    let step = |block: &Block| match block.language.as_str() {
        "sh" => block.code.clone(),
        _ => {
            format!("cat > {} <<'END OF THE FILE'\n{}END OF THE FILE\n", file_named_before(block), block.code)
        }
    };
    // The shell prints each command, so that a failure shows which command has failed.
    "set -ex\n".to_owned() + &blocks.iter().map(step).collect::<String>()
}

/// Runs the script in this directory; it must succeed. Returns its output. No process of it remains.
fn follow(script: &str, dir: &Path, home: &Path) -> String {
    let mut shell = Command::new("sh");
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "PREFIX"].into_iter().chain(DIRECTORIES) {
        shell.env_remove(variable);
    }
    if !has("strip") {
        shell.env("STRIP", "");
    }
    // As root, the installation would otherwise change the loader's cache of this machine.
    shell.env("LDCONFIG", "").env("HOME", home).env("TMPDIR", home);
    let (mut said, mut errors) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    shell.stdout(said.try_clone().unwrap()).stderr(errors.try_clone().unwrap());
    let shell = Running::start(shell.arg("-c").arg(script).current_dir(dir).process_group(0));
    let group = i32::try_from(shell.child().id()).unwrap();
    until("the end of the script", || shell.has_ended());
    let status = shell.end();
    // SAFETY: a signal to processes that the script may have left: its process group had no other member.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    let text = |file: &mut File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    assert!(status.success(), "{status}\n{}{}", text(&mut said), text(&mut errors));
    text(&mut said)
}

#[test]
fn quick_start_works_as_written() {
    if !has("pkg-config") {
        return skipped("the quick start of README.md", "pkg-config");
    }
    // The library is built now, and no other test installs it while the script does.
    stage();
    let home = tempfile::tempdir().unwrap();
    let blocks = blocks_below("## Quick start", &text_of("README.md"));
    // cargo and rustup look for their files in the home directory of the user who runs the tests.
    let mut preamble = String::new();
    if let Some(own) = std::env::home_dir() {
        for (variable, dir) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            preamble += &format!(": ${{{variable}:={}}}; export {variable}\n", own.join(dir).display());
        }
    }
    let said = follow(&(preamble + &script(&blocks)), root(), home.path());
    assert_eq!(said.lines().last(), Some("hello"), "{said}");
    // The library is installed in the directory that the text names, and the programs are compiled in the
    // other one.
    assert!(home.path().join("libipc/lib/libipc.so").exists());
    assert!(home.path().join("echo/client").exists());
}

/// docs/build-systems.md has a project for each build system, for a file program.c.
#[test]
fn snippets_for_build_systems_build() {
    let text = text_of("docs/build-systems.md");
    for (heading, tools) in [("## CMake", ["cmake", "pkg-config"]), ("## Meson", ["meson", "pkg-config"])] {
        if let Some(tool) = tools.into_iter().find(|tool| !has(tool)) {
            skipped(&format!("the snippet below \"{heading}\""), tool);
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::copy(root().join("examples-c/pong.c"), dir.path().join("program.c")).unwrap();
        let mut shell = Command::new("sh");
        stage().point_pkg_config(&mut shell).current_dir(dir.path());
        run(shell.arg("-c").arg(script(&blocks_below(heading, &text))));
        let mut program = Command::new(dir.path().join("build/program"));
        program.env("IPC_RUNDIR", dir.path()).env("LD_LIBRARY_PATH", stage().lib());
        let (_, errors, status) = outcome(&mut program);
        assert_eq!(status.code(), Some(1));
        assert!(errors.contains("No such file or directory"), "{heading}: {errors}");
    }
}

fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).into();
    for dir in ["docs", "examples-c", "examples-cpp", "examples-python", "benches", "fuzz", "soak"] {
        let entries = fs::read_dir(root().join(dir)).unwrap();
        let names = entries.map(|entry| Path::new(dir).join(entry.unwrap().file_name()));
        found.extend(names.filter(|name| name.extension().is_some_and(|extension| extension == "md")));
    }
    found
}

/// The anchor of a heading, as the usual renderers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.flat_map(char::to_lowercase).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_has_a_target() {
    for document in documents() {
        let text = text_of(&document);
        for link in text.split("](").skip(1).map(|rest| rest.split_once(')').expect("the end of a link").0) {
            if link.starts_with("https://") {
                continue;
            }
            let (target, section) = link.split_once('#').unwrap_or((link, ""));
            let path = match target {
                "" => document.clone(),
                _ => document.parent().unwrap().join(target),
            };
            assert!(root().join(&path).exists(), "{}: {link} leads nowhere", document.display());
            if !section.is_empty() {
                let text = text_of(&path);
                let headings = text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
                let found = headings.map(anchor).any(|heading| heading == section);
                assert!(found, "{}: {link}: there is no such section", document.display());
            }
        }
    }
}

/// docs/migrating.md names the test for each of its lines.
#[test]
fn every_named_test_exists() {
    let text = text_of("docs/migrating.md");
    let rows: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| ") && line.contains("` in [`")).collect();
    assert!(rows.len() >= 20, "{} lines name a test", rows.len());
    let in_tables = text.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |")).count();
    assert_eq!(rows.len(), in_tables, "a line without a test");
    for row in rows {
        let (before, after) = row.split_once("` in [`").unwrap();
        let (name, file) = (before.rsplit('`').next().unwrap(), after.split('`').next().unwrap());
        let source = text_of(file);
        // A function, or a line of a macro that makes one.
        let found = source.contains(&format!("fn {name}(")) || source.contains(&format!("{name}:"));
        assert!(found, "{file} has no test {name}");
    }
}

/// The table in src/lib.rs has each module.
#[test]
fn map_of_the_source_is_complete() {
    let map = text_of("src/lib.rs");
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = file.strip_suffix(".rs").filter(|module| *module != "lib") {
            let in_table = |line: &str| line.starts_with("//! | ") && line.contains(&format!("`{module}`"));
            assert!(map.lines().any(in_table), "src/lib.rs does not say what {module} holds");
        }
    }
}

/// examples-c/README.md names each program.
#[test]
fn index_of_examples_is_complete() {
    let readme = text_of("examples-c/README.md");
    for entry in fs::read_dir(root().join("examples-c")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let source = [".c", ".h"].iter().any(|ending| name.ends_with(ending));
        assert!(!source || readme.contains(&format!("({name})")), "{name} is not there");
    }
}
