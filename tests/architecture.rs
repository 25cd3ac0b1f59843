//! The parts of the library import in one direction only: a file imports from its own part and from earlier
//! parts of the table at the head of `src/lib.rs`, and no two files import each other, directly or
//! indirectly. So each file can be read, changed and tested with the parts before it. The files of the program
//! `ipc` form no cycle, either.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The parts; each may import from those before it.
const PARTS: [&str; 9] =
    ["error", "frame", "process", "kernel", "connection", "service", "event_loop", "calls", "capi"];

/// The modules that C calls, and that the fuzz targets and the benchmarks use.
const PUBLIC: [&str; 2] = ["capi", "internals"];

/// A file of `src`, by the path of its module: `event_loop::list` for `src/event_loop/list.rs`. The text is
/// without tests.
type Files = BTreeMap<String, String>;

/// The text that an ordinary build compiles: unit tests are at the end of a file, in a module of their own.
fn without_tests(text: &str) -> &str {
    let end =
        ["#[cfg(test)]\nmod tests", "#[cfg(all(test, not(miri)))]\nmod tests"].map(|mark| text.find(mark));
    &text[..end.into_iter().flatten().min().unwrap_or(text.len())]
}

fn files_of(directory: &Path, module: &str, files: &mut Files) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let module = if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
        if path.is_dir() {
            files_of(&path, &module, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
            let text = std::fs::read_to_string(&path).unwrap();
            files.insert(module, without_tests(&text).to_owned());
        }
    }
}

/// The text without comments: a path in a comment is not an import.
fn code_of(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Splits a `use` tree at commas outside of braces.
fn branches(tree: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut all) = (0, 0, Vec::new());
    for (at, character) in tree.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(&tree[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    all.push(&tree[begin..]);
    all.into_iter().map(str::trim).filter(|branch| !branch.is_empty()).collect()
}

/// The paths of a `use` tree: `a::{b, c::d as e}` is `a::b` and `a::c::d`.
fn flatten(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    match tree.split_once('{') {
        Some((head, rest)) => {
            let inner = rest.rsplit_once('}').unwrap().0;
            for branch in branches(inner) {
                flatten(&format!("{prefix}{}", head.trim()), branch, paths);
            }
        }
        None => {
            let path = format!("{prefix}{}", tree.split(" as ").next().unwrap().trim());
            paths.push(path.strip_suffix("::self").map_or(path.clone(), str::to_owned));
        }
    }
}

/// All paths in the crate that a file names, from `crate` on.
fn paths_of(module: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let mut paths = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find("use ") {
        let is_word =
            rest[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_');
        let (statement, after) = rest[at + 4..].split_once(';').unwrap_or((&rest[at + 4..], ""));
        if is_word && ["crate::", "super::", "self::"].iter().any(|begin| statement.starts_with(begin)) {
            flatten("", statement, &mut paths);
            rest = after;
        } else {
            rest = &rest[at + 4..];
        }
    }
    for (at, _) in code.match_indices("crate::") {
        let path: String =
            code[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
        paths.push(path.trim_end_matches(':').to_owned());
    }
    let parent =
        module.rsplit_once("::").map_or("crate".to_owned(), |(parent, _)| format!("crate::{parent}"));
    let absolute = |path: String| match (path.strip_prefix("super"), path.strip_prefix("self")) {
        (Some(rest), _) => format!("{parent}{rest}"),
        (_, Some(rest)) => format!("crate::{module}{rest}"),
        _ => path,
    };
    paths.into_iter().map(absolute).collect()
}

/// The file that a path refers to: the longest module in it, and from there the file that a re-exported name
/// belongs to.
fn target(files: &Files, path: &str) -> Option<String> {
    let path = path.strip_prefix("crate::")?;
    let mut module = path;
    while !files.contains_key(module) {
        module = module.rsplit_once("::")?.0;
    }
    let name = path[module.len()..].trim_start_matches("::").split("::").next().unwrap();
    let exported = reexports(module, &files[module]).remove(name);
    match exported.filter(|_| !name.is_empty()) {
        Some(path) => target(files, &path),
        None => Some(module.to_owned()),
    }
}

/// The names that a file re-exports, each with its path.
fn reexports(module: &str, text: &str) -> BTreeMap<String, String> {
    let code = code_of(text);
    let mut paths = Vec::new();
    for statement in code.split(';') {
        if let Some((_, tree)) = statement.split_once("pub use self::") {
            flatten(&format!("crate::{module}::"), tree, &mut paths);
        }
    }
    paths.into_iter().map(|path| (path.rsplit_once("::").unwrap().1.to_owned(), path)).collect()
}

/// The files that each file imports. `lib.rs` names all files, and belongs to no part.
fn imports(files: &Files) -> BTreeMap<&str, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for (module, text) in files.iter().filter(|(module, _)| *module != "lib") {
        let reexported: BTreeSet<_> = reexports(module, text).into_values().collect();
        let paths = paths_of(module, text).into_iter().filter(|path| !reexported.contains(path));
        let targets = paths.filter_map(|path| target(files, &path)).filter(|to| to != module && to != "lib");
        all.insert(module.as_str(), targets.collect());
    }
    all
}

fn part(module: &str) -> usize {
    let name = module.split("::").next().unwrap();
    PARTS.iter().position(|part| *part == name).unwrap_or_else(|| panic!("{module} is in none of the parts"))
}

/// The violations of the rules.
fn wrong(files: &Files) -> Vec<String> {
    let imports = imports(files);
    let mut wrong = Vec::new();
    for (module, targets) in &imports {
        for target in targets.iter().filter(|target| part(target) > part(module)) {
            wrong.push(format!("{module} imports from {target}, a later part"));
        }
    }
    wrong.extend(cycles(&imports));
    let lib = &files["lib"];
    for line in code_of(lib).lines().map(str::trim) {
        let name = line.strip_prefix("pub mod ").map(|rest| rest.trim_end_matches([' ', '{', ';']));
        if let Some(name) = name.filter(|name| !PUBLIC.contains(name)) {
            wrong.push(format!("lib.rs: {name} is public"));
        }
    }
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | ")?.split('|').next());
    let named: Vec<_> = rows.map(|row| row.trim().trim_matches(['`', '[', ']'])).collect();
    if named[1..] != PARTS {
        wrong.push(format!("lib.rs: the table names {:?}", &named[1..]));
    }
    wrong
}

/// The cycles of imports, each once.
fn cycles(imports: &BTreeMap<&str, BTreeSet<String>>) -> Vec<String> {
    let cycles = imports.keys().filter_map(|module| cycle_through(imports, module));
    cycles.map(|cycle| format!("a cycle: {}", cycle.join(" -> "))).collect()
}

/// The shortest cycle of imports through a file, if there is one, and if no other file of the cycle is
/// earlier in the alphabet: each cycle is reported once.
fn cycle_through<'a>(imports: &'a BTreeMap<&str, BTreeSet<String>>, begin: &'a str) -> Option<Vec<&'a str>> {
    let mut paths = vec![vec![begin]];
    let mut seen = BTreeSet::new();
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in paths {
            for next in imports.get(path[path.len() - 1]).into_iter().flatten() {
                if next == begin {
                    let is_first = path.iter().all(|module| *module >= begin);
                    return is_first.then(|| [path.as_slice(), &[begin]].concat());
                }
                if seen.insert(next) {
                    longer.push([path.as_slice(), &[next.as_str()]].concat());
                }
            }
        }
        paths = longer;
    }
    None
}

/// The files below a directory of the project.
fn files_in(directory: &str) -> Files {
    let mut files = Files::new();
    files_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), "", &mut files);
    files
}

fn source() -> Files {
    files_in("src")
}

#[test]
fn files_import_earlier_parts_only_and_form_no_cycle() {
    let files = source();
    assert!(imports(&files).values().map(BTreeSet::len).sum::<usize>() > 150, "imports are not found");
    assert_eq!(wrong(&files), [""; 0]);
}

#[test]
fn files_of_the_program_ipc_form_no_cycle() {
    let mut files = files_in("tool/src");
    // `main` names all files.
    files.remove("main");
    let number = |files: &Files| imports(files).values().map(BTreeSet::len).sum::<usize>();
    assert!(number(&files) > 50, "imports are not found: {}", number(&files));
    assert_eq!(cycles(&imports(&files)), [""; 0]);
    files.get_mut("error").unwrap().push_str("\nuse crate::libipc::Failure;\n");
    assert_eq!(cycles(&imports(&files)), ["a cycle: error -> libipc -> error"]);
}

/// The real files with these lines added to one of them.
fn violations_with(lines: &[(&str, &str)]) -> Vec<String> {
    let mut files = source();
    for (module, line) in lines {
        files.get_mut(*module).expect("a file of src").push_str(line);
    }
    wrong(&files)
}

#[test]
fn import_from_a_later_part_is_reported() {
    let violations = |module, line| {
        let wrong = violations_with(&[(module, line)]).into_iter();
        wrong.filter(|line| line.ends_with("a later part")).collect::<Vec<_>>()
    };
    let table = "kernel::fd imports from connection::table, a later part";
    assert_eq!(violations("kernel::fd", "\nuse crate::connection::table;\n"), [table]);
    assert_eq!(violations("kernel::fd", "\nfn f() { crate::connection::table::freeze(); }\n"), [table]);
    let nested = "\nuse crate::{connection::{state::Settings as S, table::{self, Slot}}, error};\n";
    let state = "kernel::fd imports from connection::state, a later part";
    assert_eq!(violations("kernel::fd", nested), [state, table]);
    // The file that defines a name which another file re-exports.
    let list = "connection::send imports from event_loop::list, a later part";
    assert_eq!(violations("connection::send", "\nuse crate::event_loop::Event;\n"), [list]);
    assert_eq!(violations_with(&[("kernel::fd", "\n// use crate::connection::table;\n")]), [""; 0]);
}

#[test]
fn cycle_of_two_or_three_files_is_reported() {
    let two = violations_with(&[
        ("process::growth", "\nuse super::sharded::Part;\n"),
        ("process::sharded", "\nuse crate::process::growth::boxed;\n"),
    ]);
    assert!(
        two.iter().any(|line| line == "a cycle: process::growth -> process::sharded -> process::growth"),
        "{two:?}"
    );
    let three = violations_with(&[
        ("frame::header", "\nuse crate::frame::a::A;\n"),
        ("frame::c_heap", "\nuse crate::frame::header::Header;\n"),
        ("frame", "\nuse crate::frame::c_heap::Block;\n"),
    ]);
    assert!(
        three.iter().any(|line| line.starts_with("a cycle: frame -> frame::c_heap -> frame::header")),
        "{three:?}"
    );
}

#[test]
fn public_module_and_wrong_table_are_reported() {
    assert_eq!(violations_with(&[("lib", "\npub mod kernel;\n")]), ["lib.rs: kernel is public"]);
    let mut files = source();
    let lib = files.get_mut("lib").unwrap();
    *lib = lib.replace("//! | `frame` |", "//! | `frames` |");
    assert_eq!(wrong(&files).len(), 1);
}
