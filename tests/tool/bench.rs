//! `ipc bench`: figures, of which only the form is tested.

use crate::support::{Place, fails};

#[test]
fn bench_measures_an_echo_of_its_own_or_a_service() {
    let place = Place::new();
    let mut pongd = place.pongd();
    pongd.ignore_output();
    for arguments in [
        &["bench", "-n", "200"][..],
        &["bench", "-n", "200", "pongd"],
        &["bench", "-n", "200", "-s", "0", "-c", "3", "pongd"],
        &["bench", "-n", "20", "-s", "100000"],
        &["bench", "-n", "2", "-s", "7999995"],
    ] {
        let printed = place.printed(arguments);
        for part in ["MEDIAN", "99 %", "MB/s"] {
            assert!(printed.contains(part), "{arguments:?}: {printed}");
        }
        // No progress, and no colour: this is no terminal.
        assert!(!printed.contains(['\r', '\x1b']), "{printed:?}");
    }
    let json = place.printed(&["--json", "bench", "-n", "200"]);
    assert!(json.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{json}");
}

#[test]
fn bench_of_a_service_that_does_not_echo_says_so() {
    let place = Place::new();
    let _other = place.listen("other", &["--reply", "something else"]);
    let line = fails(1, &mut place.ipc(&["bench", "-n", "10", "other"]));
    assert!(line.starts_with("ipc: other: "), "{line}");
    place.fails(1, &["bench", "missing"]);
    place.fails(2, &["bench", "-s", "7999996"]);
}
