//! The examples of ipc(1), of "Finding out what goes wrong" and of README.md print what the text shows.
//!
//! A block of an example has commands after "$ ", each with what it prints, on both of its outputs. Times, processes, users and
//! measured figures differ each time: of these only the form counts.

use std::process::Command;

use crate::staging::{stage, text_of};
use crate::support::{Place, clean};

/// The blocks that have commands, each with the number of its first line.
fn examples(document: &str) -> Vec<(usize, Vec<String>)> {
    let (mut found, mut open) = (Vec::new(), None::<(usize, Vec<String>)>);
    for (number, line) in text_of(document).lines().enumerate() {
        match (&mut open, line.trim_start().starts_with("```")) {
            (None, true) => open = Some((number + 2, Vec::new())),
            (None, false) => {}
            (Some(_), true) => found.extend(open.take()),
            // A line that is too long for the page continues in the next one, which is indented.
            (Some((_, lines)), false) => match (line.strip_prefix("          "), lines.last_mut()) {
                (Some(rest), Some(last)) => *last += &format!(" {rest}"),
                _ => lines.push(line.to_owned()),
            },
        }
    }
    found.retain(|(_, lines)| lines.first().is_some_and(|line| line.starts_with("$ ")));
    found
}

/// The form of each line. What a program and its monitor print at the same time may be in any order.
fn forms(lines: &[String]) -> Vec<String> {
    let mut forms: Vec<String> = lines.iter().map(|line| form(line)).collect();
    if lines.iter().any(|line| line.contains("ipc monitor")) {
        forms.sort();
    }
    forms
}

/// Every number as one digit, and a run of blanks as one: the width of a column depends on what is in it. The user is root.
fn form(text: &str) -> String {
    let mut form = String::new();
    for character in text.trim_end().chars() {
        let character = if character.is_ascii_digit() { '0' } else { character };
        if !(matches!(character, '0' | ' ') && form.ends_with(character)) {
            form.push(character);
        }
    }
    form
}

/// Runs the commands in a run directory with the service "pongd"; prints each command before what it prints.
fn session(lines: &[String]) -> Vec<String> {
    let place = Place::new();
    let _pongd = place.pongd();
    let mut script = String::new();
    for line in lines {
        if let Some(command) = line.strip_prefix("$ ") {
            script.push_str(&format!("cat <<'END OF COMMAND'\n{line}\nEND OF COMMAND\n{command}\n"));
        }
    }
    let mut shell = Command::new("sh");
    clean(&mut shell);
    let examples = place.example("pong");
    let examples = std::path::Path::new(examples.get_program()).parent().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{}:{path}", stage().usr().join("bin").display(), examples.display());
    shell.env("IPC_RUNDIR", place.path()).env("LD_LIBRARY_PATH", stage().lib()).env("PATH", path);
    let room = tempfile::tempdir().unwrap();
    shell.current_dir(room.path()).env("TMPDIR", room.path());
    shell.args(["-c", &format!("exec 2>&1 </dev/null\n{script}")]);
    let (printed, errors, _) = crate::staging::outcome(&mut shell);
    assert_eq!(errors, "");
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().map(|user| user.name);
    let printed = printed.replace(place.path().to_str().unwrap(), "/run/ipc");
    let printed = printed.replace(&format!(" {} ", user.unwrap_or_default()), " root ");
    printed.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_examples(document: &str, least: usize) {
    let examples = examples(document);
    assert!(examples.len() >= least, "{document}: {} examples", examples.len());
    for (line, shown) in examples {
        let printed = session(&shown);
        assert_eq!(
            forms(&printed),
            forms(&shown),
            "{document}:{line}, which prints:\n{}",
            printed.join("\n")
        );
    }
}

#[test]
fn examples_of_the_page_print_what_it_shows() {
    assert_examples("man/ipc.1.md", 9);
}

#[test]
fn examples_of_the_documents_print_what_they_show() {
    assert_examples("docs/troubleshooting.md", 3);
    assert_examples("README.md", 1);
}
