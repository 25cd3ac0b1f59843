//! The same source gives the same packages.

use std::fs;
use std::process::{Command, Stdio};

use crate::staging::{root, run};
use crate::{PACKAGES, Surroundings, files_directly_in, packages};

/// In another directory, for a user with another umask, time zone and language, and after a build for another
/// architecture, whose files Debian's tools take for the first half of this build.
#[test]
fn packages_have_the_same_bytes_wherever_they_are_built() {
    let Some(packages) = packages() else { return };
    let room = tempfile::tempdir().unwrap();
    let source = room.path().join("the source, elsewhere");
    fs::create_dir(&source).unwrap();
    let mut packed = Command::new("tar")
        .args(["--create", "--exclude-vcs", "--exclude-caches-all", "--exclude=./target", "."])
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stream = packed.stdout.take().unwrap();
    run(Command::new("tar").args(["--extract", "--touch"]).current_dir(&source).stdin(stream));
    assert!(packed.wait().unwrap().success());
    let debian = source.join("debian");
    fs::write(debian.join("debhelper-build-stamp"), "libipc0\nlibipc-dev\n").unwrap();
    fs::write(debian.join("files"), "libipc0_0.1.1-1_other.deb libs optional\n").unwrap();
    fs::create_dir_all(debian.join("libipc0/usr/lib")).unwrap();
    fs::write(debian.join("libipc0/usr/lib/left"), "").unwrap();

    let elsewhere = Surroundings::FOREIGN.make_packages(&source, &room.path().join("target"));
    for package in PACKAGES {
        let file = packages.file(package);
        let other = elsewhere.join(file.file_name().unwrap());
        assert!(
            fs::read(file).unwrap() == fs::read(other).unwrap(),
            "{package}: {:?}",
            files_directly_in(&elsewhere)
        );
    }
}
