//! The content of the packages.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::process::Command;

use crate::staging::{answer, files_below, has, root, run, skipped};
use crate::{PACKAGES, VERSION, files_directly_in, packages};

/// The files in each `/usr/share/doc/PACKAGE`.
fn documents_of(package: &str) -> impl Iterator<Item = String> {
    ["changelog.Debian.gz", "changelog.gz", "copyright"]
        .into_iter()
        .map(move |file| format!("usr/share/doc/{package}/{file}"))
}

#[test]
fn runtime_has_both_names_and_the_run_directory() {
    let Some(packages) = packages() else { return };
    let mut expected: BTreeSet<String> = documents_of("libipc0").collect();
    for name in
        ["libipc.so", "libipc.so.0", "libipc.so.0.1", "libipc.so.0.1.0", &format!("libipc.so.{VERSION}")]
    {
        expected.insert(format!("{}/{name}", packages.lib));
    }
    expected.insert("usr/lib/tmpfiles.d/libipc0.conf".to_owned());
    expected.insert("usr/share/doc/libipc0/README.Debian".to_owned());
    expected.insert("usr/share/lintian/overrides/libipc0".to_owned());
    assert_eq!(packages.files_of("libipc0"), expected);
}

#[test]
fn development_package_has_all_that_compiling_needs() {
    let Some(packages) = packages() else { return };
    let mut expected: BTreeSet<String> = documents_of("libipc-dev").collect();
    expected.extend(["usr/include/ipc.h", "usr/include/ipc_ext.h"].map(str::to_owned));
    expected.insert(format!("{}/libipc.a", packages.lib));
    expected.insert(format!("{}/pkgconfig/libipc.pc", packages.lib));
    expected.insert("usr/share/lintian/overrides/libipc-dev".to_owned());
    for page in files_directly_in(&root().join("man")) {
        if let Some(section) = page.chars().last().filter(|section| ['3', '7'].contains(section)) {
            expected.insert(format!("usr/share/man/man{section}/{page}.gz"));
        }
    }
    assert!(expected.contains("usr/share/man/man3/ipc_wait_event.3.gz"));
    assert!(expected.contains("usr/share/man/man7/libipc.7.gz"));
    let is_source = |name: &String| {
        name == "Makefile" || [".c", ".h", ".cpp", ".hpp", ".py", ".md"].iter().any(|end| name.ends_with(end))
    };
    for (directory, place) in [
        ("examples-c", "examples/"),
        ("examples-cpp", "examples/cpp/"),
        ("examples-python", "examples/python/"),
        ("docs", "docs/"),
    ] {
        for file in files_directly_in(&root().join(directory)).into_iter().filter(is_source) {
            expected.insert(format!("usr/share/doc/libipc-dev/{place}{file}"));
        }
    }
    expected.insert("usr/share/doc/libipc-dev/README.md".to_owned());
    assert_eq!(packages.files_of("libipc-dev"), expected);
    for other in ["libipc0", "ipc-tools"] {
        assert!(packages.files_of(other).is_disjoint(&expected), "{other} has a file of this name, too");
    }
    // The package leaves this name to the other package; the linker looks for it.
    assert_eq!(
        packages.field("libipc-dev", "Depends"),
        format!("libipc0 (= {})", packages.field("libipc0", "Version"))
    );
}

/// A shell looks for completions in files of these names; Debian's zsh looks in a directory of its own.
#[test]
fn tool_package_has_the_program_its_page_and_completions() {
    let Some(packages) = packages() else { return };
    let mut expected: BTreeSet<String> = documents_of("ipc-tools").collect();
    for file in [
        "bin/ipc",
        "share/bash-completion/completions/ipc",
        "share/fish/vendor_completions.d/ipc.fish",
        "share/lintian/overrides/ipc-tools",
        "share/man/man1/ipc.1.gz",
        "share/zsh/vendor-completions/_ipc",
    ] {
        expected.insert(format!("usr/{file}"));
    }
    assert_eq!(packages.files_of("ipc-tools"), expected);
    // The library is in the program.
    assert!(!packages.field("ipc-tools", "Depends").contains("libipc"));
}

#[test]
fn debug_symbols_match_the_library_and_the_tool() {
    let Some(packages) = packages() else { return };
    if !has("readelf") {
        return skipped("whose debug symbols there are", "readelf");
    }
    let dir = packages.unpacked();
    let library = dir.path().join(&packages.lib).join("libipc.so");
    for (built, package) in
        [(library, "libipc0-dbgsym"), (dir.path().join("usr/bin/ipc"), "ipc-tools-dbgsym")]
    {
        let notes = answer(Command::new("readelf").arg("-n").arg(built).env("LC_ALL", "C"));
        let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).expect("a build ID");
        let file = format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
        assert!(packages.files_of(package).contains(&file), "{package}: {file}");
    }
}

/// The libraries of two architectures can be installed at the same time. The tool of any architecture talks to the services of
/// all.
#[test]
fn packages_of_two_architectures_install_together() {
    let Some(packages) = packages() else { return };
    for package in PACKAGES.into_iter().filter(|package| package.starts_with("libipc")) {
        assert_eq!(packages.field(package, "Multi-Arch"), "same", "{package}");
    }
    assert_eq!(packages.field("ipc-tools", "Multi-Arch"), "foreign");
}

#[test]
fn no_file_contains_its_build_directory() {
    let Some(packages) = packages() else { return };
    let dir = packages.unpacked();
    let home = env::var("CARGO_HOME").or_else(|_| env::var("HOME").map(|home| home + "/.cargo")).unwrap();
    for file in files_below(dir.path()) {
        let path = dir.path().join(&file);
        if path.symlink_metadata().unwrap().is_symlink() {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for place in [packages.dir.to_str().unwrap(), root().to_str().unwrap(), &home] {
            let is_named = bytes.windows(place.len()).any(|window| window == place.as_bytes());
            assert!(!is_named, "{file} has {place} in it");
        }
    }
}

#[test]
fn lintian_reports_nothing() {
    let Some(packages) = packages() else { return };
    if !has("lintian") {
        return skipped("what lintian says of the packages", "lintian");
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--profile=debian", "--fail-on=error,warning"]);
    run(lintian.args(PACKAGES.map(|package| packages.file(package))));
}

/// Manual pages of several functions are found under the name of each function.
#[test]
fn each_manual_page_has_text() {
    let Some(packages) = packages() else { return };
    if !has("gzip") {
        return skipped("the manual pages of the package", "gzip");
    }
    let dir = packages.unpacked();
    let files = ["libipc-dev", "ipc-tools"].into_iter().flat_map(|package| packages.files_of(package));
    let pages: Vec<String> = files.filter(|file| file.starts_with("usr/share/man")).collect();
    for page in &pages {
        // Through links, which must have targets.
        let mut gzip = Command::new("gzip");
        gzip.arg("-dc")
            .stdin(File::open(dir.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}")));
        let text = answer(&mut gzip);
        assert!(text.contains("\n.SH NAME\n"), "{page} is no page of a manual");
    }
    assert!(pages.len() > 1, "{pages:?}");
}
