//! The files that `make install` installs, their places, and the properties of the installed library.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::staging::{answer, files_below, has, make, root, run, skipped, stage, text_of};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Exported, and declared by no header: old programs declare these functions themselves.
const UNDECLARED: [&str; 5] =
    ["handle_new_connection", "ipc_message_print", "log_format", "mprint_hexa", "print_hexa"];

/// The interface of 2019, which is frozen, and the added one.
const LISTS: [(&str, &str, usize); 2] =
    [("src/capi/exports.txt", "ipc.h", 44), ("src/capi/exports_ext.txt", "ipc_ext.h", 27)];

fn exports(list: &str) -> BTreeSet<String> {
    text_of(list).lines().map(str::to_owned).collect()
}

#[test]
fn installed_files_are_where_programs_expect_them() {
    let (major, _) = VERSION.split_once('.').unwrap();
    let (minor, _) = VERSION.rsplit_once('.').unwrap();
    let real = format!("libipc.so.{VERSION}");
    // The last link has the name of the library of 2019.
    let links = [
        "libipc.so".to_owned(),
        format!("libipc.so.{major}"),
        format!("libipc.so.{minor}"),
        "libipc.so.0.1.0".to_owned(),
    ];
    let mut expected: Vec<String> = links.iter().map(|link| format!("usr/lib/{link}")).collect();
    expected.push(format!("usr/lib/{real}"));
    expected.extend(
        [
            "bin/ipc",
            "share/man/man1/ipc.1",
            "share/bash-completion/completions/ipc",
            "share/zsh/site-functions/_ipc",
            "share/fish/vendor_completions.d/ipc.fish",
            "include/ipc.h",
            "include/ipc_ext.h",
            "lib/libipc.a",
            "lib/pkgconfig/libipc.pc",
            "share/man/man7/libipc.7",
        ]
        .map(|file| format!("usr/{file}")),
    );
    let pages: Vec<String> =
        files_below(&root().join("man")).into_iter().filter(|file| file.ends_with(".3")).collect();
    expected.extend(pages.iter().map(|page| format!("usr/share/man/man3/{page}")));
    expected.sort();
    assert_eq!(files_below(&stage().dir()), expected);

    // Relative, so that the links also lead to the library if the directory is moved.
    for link in links {
        let target = fs::read_link(stage().lib().join(&link)).unwrap();
        assert_eq!(target, Path::new(&real), "{link}");
    }
    assert!(stage().library().symlink_metadata().unwrap().is_file());
    for (_, header, _) in LISTS {
        let installed = stage().header().with_file_name(header);
        assert_eq!(fs::read(installed).unwrap(), fs::read(root().join("include").join(header)).unwrap());
    }
    let manual = stage().usr().join("share/man");
    let pages = pages.iter().map(|page| ("man3", page.as_str()));
    let pages = pages.chain([("man1", "ipc.1"), ("man7", "libipc.7")]);
    for (section, page) in pages {
        let installed = fs::read(manual.join(section).join(page)).unwrap();
        assert_eq!(installed, fs::read(root().join("man").join(page)).unwrap(), "{page}");
    }
}

#[test]
fn libipc_pc_has_the_version_and_no_staging_directory() {
    let text = fs::read_to_string(stage().lib().join("pkgconfig/libipc.pc")).unwrap();
    assert!(text.lines().any(|line| line == format!("Version: {VERSION}")), "{text}");
    assert!(text.lines().any(|line| line == "prefix=/usr"), "{text}");
    assert!(!text.contains(stage().dir().to_str().unwrap()), "{text}");
    assert!(!text.contains('@'), "something was not filled in: {text}");
}

#[test]
fn uninstall_removes_all_installed_files() {
    let dir = tempfile::tempdir().unwrap();
    run(&mut make("install", dir.path()));
    assert_eq!(files_below(dir.path()), files_below(&stage().dir()));
    // Files that other packages have installed there stay.
    let other = dir.path().join("usr/lib/libother.so");
    fs::write(&other, "").unwrap();
    run(&mut make("uninstall", dir.path()));
    assert_eq!(files_below(dir.path()), ["usr/lib/libother.so"]);
}

#[test]
fn exported_symbols_equal_the_list() {
    let mut expected = BTreeSet::new();
    for (list, _, size) in LISTS {
        assert_eq!(exports(list).len(), size);
        assert!(text_of(list).lines().is_sorted(), "{list} is not sorted");
        expected.extend(exports(list));
    }
    if !has("nm") {
        return skipped("the exported symbols", "nm");
    }
    let table = answer(Command::new("nm").args(["-D", "--defined-only"]).arg(stage().library()));
    let symbols: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let found: BTreeSet<String> = symbols.iter().map(|fields| (*fields.last().unwrap()).to_owned()).collect();
    assert_eq!(found, expected);
    for fields in symbols {
        let (kind, name) = (fields[1], fields[2]);
        let is_data = matches!(kind, "B" | "D");
        assert!(is_data || kind == "T", "{name} is of kind {kind}");
        assert_eq!(is_data, name == "message_types", "{name} is of kind {kind}");
    }
}

#[test]
fn headers_declare_the_exported_functions() {
    for (list, header, _) in LISTS {
        let text = fs::read_to_string(stage().header().with_file_name(header)).unwrap();
        let mut declared = declared_functions(&text);
        if header == "ipc.h" {
            declared.insert("message_types".to_owned());
            declared.extend(UNDECLARED.map(str::to_owned));
        }
        assert_eq!(declared, exports(list), "{header}");
    }
}

/// The names before the first parenthesis of each declaration.
fn declared_functions(header: &str) -> BTreeSet<String> {
    let mut code = String::new();
    for (place, part) in header.split("/*").enumerate() {
        code.push_str(if place == 0 { part } else { part.split_once("*/").unwrap().1 });
    }
    let mut continued = false;
    let mut declarations = String::new();
    for line in code.lines() {
        let of_preprocessor = continued || line.starts_with('#');
        continued = of_preprocessor && line.ends_with('\\');
        if !of_preprocessor {
            declarations.push_str(line);
            declarations.push('\n');
        }
    }
    let name = |declaration: &str| {
        let (before, _) = declaration.split_once('(')?;
        before.trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)
    };
    declarations.split(';').filter_map(name).collect()
}

#[test]
fn soname_has_the_first_number_of_the_version() {
    if !has("readelf") {
        return skipped("the SONAME", "readelf");
    }
    let (major, _) = VERSION.split_once('.').unwrap();
    let table = answer(Command::new("readelf").arg("-d").arg(stage().library()).env("LC_ALL", "C"));
    let sonames: Vec<&str> = table.lines().filter(|line| line.contains("(SONAME)")).collect();
    assert_eq!(sonames.len(), 1, "{table}");
    assert!(sonames[0].ends_with(&format!("[libipc.so.{major}]")), "{}", sonames[0]);
    assert_eq!(major, "0", "another SONAME than libipc.so.0 needs another package, and build.rs");
}

#[test]
fn installed_library_is_stripped() {
    if !has("strip") {
        return skipped("whether the library is stripped", "strip");
    }
    let dir = tempfile::tempdir().unwrap();
    let stripped = dir.path().join("libipc.so");
    run(Command::new("strip").arg("--strip-unneeded").arg("-o").arg(&stripped).arg(stage().library()));
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert_eq!(size(&stage().library()), size(&stripped));
}
