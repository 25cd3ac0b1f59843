//! The archive of the source, `make dist`, and building it with Debian's own command, without a network. The
//! archive contains a commit: these tests do not see changes that are not committed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::staging::{files_below, has, outcome, root, run, skipped};
use crate::{Surroundings, VERSION, can_build_packages, files_directly_in};

/// Whether an archive can be made here; if not, prints "SKIPPED:".
fn can_make_archives() -> bool {
    let missing: Vec<&str> = ["git", "xz"].into_iter().filter(|tool| !has(tool)).collect();
    if !missing.is_empty() {
        skipped("the archive of the source", &missing.join(" "));
        return false;
    }
    let mut git = Command::new("git");
    let (prefix, _, status) = outcome(git.arg("-C").arg(root()).args(["rev-parse", "--show-prefix"]));
    let is_repository = status.success() && prefix.trim().is_empty();
    if !is_repository {
        skipped("the archive of the source", "repository of git");
    }
    is_repository
}

/// The archive of the commit that is checked out in this directory.
fn archive(source: &Path, target: &Path, vendor: &str, surroundings: &Surroundings) -> PathBuf {
    let mut make = surroundings.make(source);
    run(make.args(["dist", vendor]).env("CARGO_TARGET_DIR", target).env("CARGO_NET_OFFLINE", "true"));
    target.join(format!("dist/libipc-{VERSION}.tar.xz"))
}

/// Unpacks what an archive has, as Debian's tools do: they look for its second name beside the source.
fn unpack(archive: &Path, directory: &Path) -> PathBuf {
    let original = format!("libipc_{VERSION}.orig.tar.xz");
    fs::copy(archive.with_file_name(&original), directory.join(original)).unwrap();
    run(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(directory));
    let source = directory.join(format!("libipc-{VERSION}"));
    assert!(source.is_dir(), "{:?}", files_directly_in(directory));
    source
}

#[test]
fn archive_of_one_commit_has_the_same_bytes_everywhere() {
    if !can_make_archives() {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let clone = room.path().join("a clone in another directory");
    run(Command::new("git").args(["clone", "--quiet"]).arg(root()).arg(&clone));
    for vendor in ["VENDOR=", "VENDOR=1"] {
        let here = archive(root(), &room.path().join("here"), vendor, &Surroundings::PLAIN);
        let there = archive(&clone, &room.path().join("there"), vendor, &Surroundings::FOREIGN);
        assert!(fs::read(here).unwrap() == fs::read(there).unwrap(), "make dist {vendor}");
    }
}

/// Builds as Debian's builders do: dpkg-buildpackage alone, from a source package that it has made of the archive
/// itself, no crates but those in the archive, no home directory. dpkg-buildpackage first removes files that look like left-overs of a build, and cargo fails if
/// one of them belongs to a crate.
#[test]
fn archive_with_crates_builds_packages_without_a_network() {
    if !can_make_archives() || !can_build_packages() {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let made = archive(root(), &room.path().join("target"), "VENDOR=1", &Surroundings::PLAIN);
    let unpacked = unpack(&made, room.path());
    let mut package = Surroundings::PLAIN.command("dpkg-buildpackage", &unpacked);
    run(package.args(["--build=source", "--no-check-builddeps", "--no-sign"]));
    let descriptions = files_directly_in(room.path()).into_iter().filter(|name| name.ends_with(".dsc"));
    let [description] = &descriptions.collect::<Vec<_>>()[..] else { panic!("no source package") };
    let source = room.path().join("source");
    let mut extract = Surroundings::PLAIN.command("dpkg-source", room.path());
    run(extract.arg("--extract").arg(description).arg(&source));
    let crates = source.join("vendor");
    // Later versions of cargo keep such files, and verify them.
    fs::write(crates.join("libc/kept.orig"), "").unwrap();
    let before = files_below(&crates);
    let mut build = Surroundings::PLAIN.command("dpkg-buildpackage", &source);
    build.args(["--build=binary", "--no-check-builddeps", "--no-sign"]);
    let home = room.path().join("home");
    let rustup = env::var("RUSTUP_HOME").or_else(|_| env::var("HOME").map(|home| home + "/.rustup")).unwrap();
    build.env_remove("CARGO_HOME").env("RUSTUP_HOME", rustup).env("HOME", &home);
    run(build.env("CARGO_NET_OFFLINE", "true"));
    assert!(!home.exists(), "{:?}", files_below(&home));
    assert_eq!(files_below(&crates), before);
    let packages = files_directly_in(room.path()).into_iter().filter(|name| name.ends_with(".deb"));
    assert_eq!(packages.count(), crate::PACKAGES.len());
}
