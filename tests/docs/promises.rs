//! docs/promises.md has every promise, with tests that exist, and names every test whose name has the number
//! of a promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::staging::{files_below, root, text_of};

const PAGE: &str = "docs/promises.md";

/// The number of promises.
const COUNT: u32 = 50;

/// The tests that the page names under each number, as "file: function".
fn tests_on_the_page() -> BTreeMap<u32, BTreeSet<String>> {
    let (mut promises, mut number, mut file) = (BTreeMap::new(), 0, String::new());
    for line in text_of(PAGE).lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            number = heading.parse().unwrap_or_else(|_| panic!("{PAGE}: {line}"));
            assert!(promises.insert(number, BTreeSet::new()).is_none(), "{PAGE}: {number} twice");
            file.clear();
        }
        let mut names = line;
        if let Some(entry) = line.strip_prefix("- [`") {
            let (path, rest) = entry.split_once('`').unwrap();
            path.clone_into(&mut file);
            names = rest;
        }
        // A list of functions continues in indented lines, until another paragraph begins.
        if line.is_empty() {
            file.clear();
        }
        if file.is_empty() {
            continue;
        }
        for name in names.split('`').skip(1).step_by(2) {
            promises.get_mut(&number).unwrap().insert(format!("{file}: {name}"));
        }
    }
    promises
}

/// The functions of a test file that have no parameters.
fn functions(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    let names = text.lines().filter_map(|line| line.trim_start().strip_prefix("fn ")?.split_once("()"));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// The numbers in a test's name.
fn numbers(name: &str) -> impl Iterator<Item = u32> {
    name.split("promise_").skip(1).filter_map(|rest| rest.split('_').next()?.parse().ok())
}

#[test]
fn promises_are_numbered_and_have_tests_that_exist() {
    let promises = tests_on_the_page();
    assert_eq!(promises.keys().copied().collect::<Vec<_>>(), (1..=COUNT).collect::<Vec<_>>());
    let page = text_of(PAGE);
    for (number, tests) in promises {
        let is_untested = page
            .split(&format!("### {number}\n"))
            .nth(1)
            .is_some_and(|rest| rest.split("\n#").next().unwrap().contains("\nNo test: "));
        assert_eq!(is_untested, tests.is_empty(), "{PAGE}: {number}: either tests, or a reason for none");
        for test in tests {
            let (file, name) = test.split_once(": ").unwrap();
            let path = root().join(file);
            assert!(path.is_file(), "{PAGE}: {number}: there is no {file}");
            assert!(functions(&path).contains(name), "{PAGE}: {number}: {file} has no {name}");
        }
    }
}

#[test]
fn tests_of_a_promise_are_on_the_page() {
    let promises = tests_on_the_page();
    let mut missing = Vec::new();
    for path in files_below(&root().join("tests")).into_iter().filter(|path| path.ends_with(".rs")) {
        let file = format!("tests/{path}");
        for name in functions(&root().join(&file)) {
            let is_missing = |number: &u32| {
                !promises.get(number).is_some_and(|tests| tests.contains(&format!("{file}: {name}")))
            };
            missing
                .extend(numbers(&name).filter(is_missing).map(|number| format!("{number}: {file}: {name}")));
        }
    }
    assert!(missing.is_empty(), "{PAGE} has not: {missing:#?}");
}
