//! Names of services that are none, for each command that takes one: an error, and nothing is made or sent.

use crate::support::{Place, Talk};

/// The commands that take a service, with what else they need.
const COMMANDS: [(&str, &[&str]); 7] = [
    ("wait", &["--timeout", "0"]),
    ("send", &["--timeout", "5", "-f", "/dev/null"]),
    ("listen", &[]),
    ("chat", &[]),
    ("monitor", &["--timeout", "5"]),
    ("bench", &[]),
    ("explain", &[]),
];

fn arguments<'a>(command: &'a str, options: &[&'a str], name: &'a str) -> Vec<&'a str> {
    [&[command], options, &[name]].concat()
}

#[test]
fn names_that_are_empty_or_have_slashes_are_refused() {
    let place = Place::new();
    for (command, options) in COMMANDS {
        for name in ["", "/", "a/b", "../a", "/tmp/a", "a/../b-0-0", "-0-0"] {
            let arguments = arguments(command, options, name);
            let mut ipc = place.ipc(&arguments);
            let (printed, errors, status) = crate::staging::outcome(&mut ipc);
            if name == "-0-0" {
                // An option that does not exist, or a service with an empty name.
                assert_ne!(status.code(), Some(0), "{arguments:?}");
            } else {
                assert_eq!(status.code(), Some(2), "{arguments:?}: {errors}");
            }
            assert_eq!(printed, "", "{arguments:?}");
            assert!(!errors.is_empty() && !errors.contains("panicked"), "{arguments:?}: {errors}");
        }
    }
    for route in ["", "=", "=other", "a/b=other"] {
        place.fails(2, &["run", "-r", route, "--", "true"]);
    }
    place.assert_empty();
}

/// A file name has 255 bytes, and a path 4,095.
#[test]
fn names_that_are_too_long_are_reported() {
    let place = Place::new();
    for (length, command) in
        [252, 300, 5000].into_iter().flat_map(|length| COMMANDS.iter().map(move |command| (length, command)))
    {
        let (command, options) = *command;
        let name = "n".repeat(length);
        let arguments = arguments(command, options, &name);
        let mut ipc = place.ipc(&arguments);
        let (printed, errors, status) = crate::staging::outcome(&mut ipc);
        // A monitor without a program is ready for the longest name: its own socket has another one.
        if command == "monitor" {
            assert!(matches!(status.code(), Some(1 | 124)), "{command} {length}: {status}: {errors}");
        } else if command == "explain" {
            assert_eq!(status.code(), Some(1), "{command} {length}: {errors}");
            assert!(printed.contains("ENAMETOOLONG"), "{command} {length}: {printed}{errors}");
        } else {
            assert_eq!(status.code(), Some(1), "{command} {length}: {printed}{errors}");
            assert!(errors.contains("ENAMETOOLONG"), "{command} {length}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{command} {length}");
        }
    }
    place.assert_empty();
}

#[test]
fn longest_name_is_a_service() {
    let place = Place::new();
    let name = "n".repeat(251);
    let listen = Talk::start(&mut place.ipc(&["listen", "--echo", "-n", "1", &name]));
    assert_eq!(place.printed(&["wait", "--timeout", "60", &name]), "");
    assert!(place.printed(&["list"]).contains(&name));
    assert_eq!(place.printed(&["send", "-w", "1", &name, "hello"]), "hello\n");
    listen.ends_well();
    place.assert_empty();
}

#[test]
fn wrong_usage_has_status_2() {
    let place = Place::new();
    for arguments in [
        &[][..],
        &["nothing"],
        &["list", "--nothing"],
        &["list", "a", "b"],
        &["wait"],
        &["send"],
        &["send", "a"],
        &["send", "-t", "256", "a"],
        &["send", "-t", "0x100", "a"],
        &["send", "-t", "-1", "a"],
        &["send", "-t", "", "a"],
        &["send", "-w", "-1", "a"],
        &["send", "-w", "1.5", "a"],
        &["send", "-f", "file", "a", "data"],
        &["send", "--lines", "a", "data"],
        &["listen", "--echo", "--reply", "x", "a"],
        &["listen", "--reply", "x", "--exec", "true", "a"],
        &["listen", "--mode", "999", "a"],
        &["listen", "--mode", "7777", "a"],
        &["listen", "--mode", "rw", "a"],
        &["run"],
        &["run", "--"],
        &["run", "-r", "audio", "--", "true"],
        &["bench", "-c", "0"],
        &["bench", "-n", "0"],
        &["explain"],
        &["explain", "a", "b"],
    ] {
        place.fails(2, arguments);
    }
    place.assert_empty();
}

/// An argument may come from a file name or a script's input: it does nothing to a terminal.
#[test]
fn arguments_with_control_characters_are_shown_escaped() {
    let place = Place::new();
    let odd = "x/\u{1b}]0;title\u{7}\u{9b}31m";
    for arguments in [
        &[odd][..],
        &["explain", odd],
        &["send", "-t", odd, "a", "b"],
        &["send", &format!("--{odd}"), "a", "b"],
        &["run", "-r", odd, "--", "true"],
        &["list", "-a", odd],
        &["explain", "--to", odd, "a"],
        &["send", "--to", odd, "a", "b"],
    ] {
        let (printed, errors, status) = crate::staging::outcome(&mut place.ipc(arguments));
        assert_ne!(status.code(), Some(0), "{arguments:?}");
        for text in [&printed, &errors] {
            assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{text:?}");
        }
        assert!(
            !format!("{printed}{errors}").contains("\\\""),
            "{arguments:?}: quotes are no control characters"
        );
    }
    place.assert_empty();
}
