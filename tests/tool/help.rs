//! `ipc --help`, the page ipc(1) and the completions have the same commands and options.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::staging::{has, run, skipped, text_of};
use crate::support::Place;

const PAGE: &str = "man/ipc.1.md";

/// The options of each command; those of the program itself are under the empty name.
type Options = BTreeMap<String, BTreeSet<String>>;

/// Those of every command: the page describes them once.
const COMMON: [&str; 4] = ["--rundir", "--json", "-h", "--help"];

/// `-t` and `--type` of "-t, --type <TYPE>".
fn options_in(words: &str) -> impl Iterator<Item = String> {
    let words =
        words.split([' ', ',', '`', '=', '[', '<']).filter(|word| word.starts_with('-') && *word != "--");
    words.map(str::to_owned)
}

fn help(arguments: &[&str]) -> String {
    Place::new().printed(arguments)
}

/// The names in the list of commands of `ipc --help`.
fn commands() -> Vec<String> {
    let help = help(&["--help"]);
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let lines = list.lines().take_while(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// The lines of the help that begin with an option.
fn options_of(help: &str) -> BTreeSet<String> {
    let is_entry = |line: &&str| line.starts_with("  ") && line.trim_start().starts_with('-');
    let entries = help.lines().filter(is_entry).map(|line| {
        let line = line.trim_start();
        // Two spaces separate the option from its description.
        line.split_once("  ").map_or(line, |(option, _)| option)
    });
    entries.flat_map(options_in).collect()
}

fn options_of_help() -> Options {
    let commands = commands();
    let of = |command: &String| (command.clone(), options_of(&help(&[command, "--help"])));
    commands.iter().map(of).chain([(String::new(), options_of(&help(&["--help"])))]).collect()
}

/// The terms of the page: those in OPTIONS are of the program itself, unless a command refers to them.
fn options_of_page() -> Options {
    let (mut found, mut section, mut command) = (Options::new(), String::new(), None);
    let text = text_of(PAGE);
    let lines: Vec<&str> = text.lines().collect();
    for (line, next) in lines.iter().zip(lines.iter().skip(1)) {
        if let Some(heading) = line.strip_prefix("# ") {
            section = heading.to_owned();
            command = (section == "OPTIONS").then(String::new);
        } else if let Some(heading) = line.strip_prefix("## ").filter(|_| section == "COMMANDS") {
            command = Some(heading.to_owned());
        }
        let Some(command) = &command else { continue };
        let options = found.entry(command.clone()).or_default();
        if next.starts_with(":   ") {
            options.extend(options_in(line));
        }
    }
    found
}

#[test]
fn page_has_the_commands_and_options_of_the_help() {
    let (help, mut page) = (options_of_help(), options_of_page());
    let of_program = page.get_mut("").expect("OPTIONS");
    for shared in ["-t", "--type", "--timeout", "--to"] {
        assert!(of_program.remove(shared), "{PAGE}: OPTIONS has no {shared}");
    }
    assert_eq!(page.keys().collect::<Vec<_>>(), help.keys().collect::<Vec<_>>());
    for (command, options) in &help {
        let mut described = page[command].clone();
        described.extend(COMMON.map(str::to_owned));
        // A short option that is in the terms "As above" with the long one alone.
        if described.contains("--type") {
            described.insert("-t".to_owned());
        }
        assert_eq!(&described, options, "{PAGE}: {command:?}, and ipc {command} --help");
    }
}

/// Every option of the synopsis exists, and each is there once.
#[test]
fn synopsis_of_the_page_has_every_option() {
    let text = text_of(PAGE);
    let (_, synopsis) = text.split_once("# SYNOPSIS\n").unwrap();
    let (synopsis, _) = synopsis.split_once("\n# ").unwrap();
    let mut found = Options::new();
    let mut command = String::new();
    for line in synopsis.lines() {
        let rest = match line.strip_prefix("ipc ") {
            Some(rest) => {
                let name = rest.split(' ').next().unwrap();
                command = if name.starts_with('[') { String::new() } else { name.to_owned() };
                rest
            }
            None => line,
        };
        // What follows "-- CMD" is not an option of the tool.
        let words = rest.split([' ', '[', ']', '|']).filter(|word| word.starts_with('-') && *word != "--");
        found
            .entry(command.clone())
            .or_default()
            .extend(words.map(|word| word.trim_end_matches("...").to_owned()));
    }
    for (command, options) in options_of_help() {
        let is_in_synopsis = |option: &&String| found[&command].contains(*option);
        for option in found[&command].iter() {
            assert!(options.contains(option), "{PAGE}: SYNOPSIS: {command}: {option}");
        }
        // The short name where there is one, else the long one.
        let expected = options.iter().filter(|option| !COMMON.contains(&option.as_str())).count();
        let pairs = expected
            - options.iter().filter(is_in_synopsis).filter(|o| !COMMON.contains(&o.as_str())).count();
        assert!(
            pairs * 2 <= expected + pairs,
            "{PAGE}: SYNOPSIS: {command}: {options:?}: {:?}",
            found[&command]
        );
    }
}

/// What bash offers after `ipc COMMAND -`.
fn offered_by_bash(command: &str) -> BTreeSet<String> {
    let script = format!(
        "source tool/completions/ipc.bash\n\
         COMP_WORDS=(ipc {command} -) COMP_CWORD={}\n\
         _ipc ipc - {}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        if command.is_empty() { 1 } else { 2 },
        if command.is_empty() { "ipc" } else { command },
    );
    let mut bash = Command::new("bash");
    bash.current_dir(crate::staging::root()).args(["--norc", "-c", &script]);
    let output = String::from_utf8(run(&mut bash).stdout).unwrap();
    output.lines().filter(|word| word.starts_with('-')).map(str::to_owned).collect()
}

#[test]
fn bash_completes_the_commands_and_options_of_the_help() {
    if !has("bash") {
        return skipped("what bash completes", "bash");
    }
    for (command, options) in options_of_help() {
        assert_eq!(offered_by_bash(&command), options, "tool/completions/ipc.bash: {command:?}");
    }
    let completions = text_of("tool/completions/ipc.bash");
    for command in commands() {
        assert!(
            completions.contains(&format!("ipc,{command})")),
            "tool/completions/ipc.bash has no {command}"
        );
    }
}

/// Each option of the help with the command in fish's words: `complete -c ipc -n "...subcommand list" -s a -l all`.
#[test]
fn fish_and_zsh_complete_the_commands_and_options() {
    let fish = text_of("tool/completions/ipc.fish");
    let zsh = text_of("tool/completions/_ipc");
    for (command, options) in options_of_help().into_iter().filter(|(command, _)| !command.is_empty()) {
        let of_command = format!("subcommand {command}\"");
        let lines: Vec<&str> = fish.lines().filter(|line| line.contains(&of_command)).collect();
        let mut offered = BTreeSet::new();
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            for pair in words.windows(2) {
                match pair {
                    ["-s", short] => offered.insert(format!("-{short}")),
                    ["-l", long] => offered.insert(format!("--{long}")),
                    _ => false,
                };
            }
        }
        assert_eq!(offered, options, "tool/completions/ipc.fish: {command}");

        let (_, section) =
            zsh.split_once(&format!("({command})\n_arguments")).expect("a section of the command");
        let (section, _) = section.split_once("\n;;").unwrap();
        for option in &options {
            let is_there = ["+[", "=[", "["].iter().any(|end| section.contains(&format!("{option}{end}")));
            assert!(is_there, "tool/completions/_ipc: {command} has no {option}");
        }
    }
}

#[test]
fn every_command_has_help_and_the_program_a_version() {
    for command in commands() {
        let (short, long) = (help(&[&command, "-h"]), help(&[&command, "--help"]));
        assert!(short.contains(&format!("Usage: ipc {command}")), "{short}");
        assert!(long.lines().all(|line| line.chars().count() <= 100), "{long}");
    }
    assert_eq!(help(&["--version"]), concat!("ipc ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn help_that_cannot_be_written_is_reported() {
    for arguments in [&["--help"][..], &["--version"], &["list", "--help"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut ipc = Place::new().ipc(arguments);
        let ended = ipc
            .stdout(full)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let errors = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains("ENOSPC"), "{arguments:?}: {errors}");
    }
}
