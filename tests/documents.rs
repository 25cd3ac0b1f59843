//! The programs in README.md and in the manual are complete: each compiles without a warning.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod staging;

use std::fs;
use std::process::{Command, Stdio};

use staging::{Language, Linkage, Program, Running, printed, text_of, until};

/// The blocks of C in a text, and the number of the first line of each.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line.trim_end() == "```c" => open = Some((number + 2, String::new())),
            None => {}
            Some(_) if line.trim_end() == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block without an end");
    blocks
}

fn compile(document: &str, (line, text): &(usize, String)) -> Program {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join(format!("{document}-line-{line}.c"));
    fs::write(&source, text).unwrap();
    Program::compile(Language::C, Linkage::Shared, &[&source], &[])
}

fn programs(document: &str) -> Vec<(usize, String)> {
    let blocks = blocks(&text_of(document));
    blocks.into_iter().filter(|(_, text)| text.contains("int main")).collect()
}

#[test]
fn the_programs_of_the_manual_compile() {
    let programs = programs("libipc.7.md");
    assert!(!programs.is_empty(), "libipc.7.md shows no program");
    for program in programs {
        compile("libipc.7.md", &program);
    }
}

#[test]
fn every_block_of_c_in_the_readme_is_a_program_that_compiles() {
    let programs = programs("README.md");
    assert_eq!(programs, blocks(&text_of("README.md")), "a block that is no program");
    assert!(!programs.is_empty(), "README.md shows no program");
    for program in programs {
        compile("README.md", &program);
    }
}

/// README.md shows a server and a client, and how to run them.
#[test]
fn the_server_and_the_client_of_the_readme_understand_each_other() {
    let programs = programs("README.md");
    let with =
        |call: &str| compile("README.md", programs.iter().find(|(_, text)| text.contains(call)).unwrap());
    let (server, client) = (with("ipc_server_init"), with("ipc_read"));
    let rundir = tempfile::tempdir().unwrap();
    let in_rundir = |program: &Program| {
        let mut command: Command = program.command();
        command.env("IPC_RUNDIR", rundir.path());
        command
    };
    let running = Running::start(in_rundir(&server).stdout(Stdio::null()));
    until("the server's socket", || {
        assert!(!running.has_ended(), "the server has ended");
        fs::read_dir(rundir.path()).unwrap().next().is_some()
    });
    assert_eq!(printed(&mut in_rundir(&client)), "hello\n");
}
