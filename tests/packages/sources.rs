//! The files in `debian` agree with the library.

use std::collections::BTreeSet;
use std::process::Command;

use crate::staging::{answer, has, root, skipped, text_of};
use crate::{Surroundings, VERSION};

#[test]
fn packages_have_the_version_of_the_library() {
    let changelog = text_of("debian/changelog");
    let top = changelog.lines().next().unwrap();
    assert!(top.starts_with(&format!("libipc ({VERSION}-")), "debian/changelog begins with: {top}");
}

#[test]
fn symbols_file_lists_the_exported_symbols() {
    let text = text_of("debian/libipc0.symbols");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("libipc.so.0 libipc0 #MINVER#"));
    let listed: Vec<&str> =
        lines.filter_map(|line| line.strip_prefix(' ')?.split_once('@')).map(|(name, _)| name).collect();
    assert!(listed.is_sorted(), "debian/libipc0.symbols is not sorted");
    let exports = text_of("src/capi/exports.txt") + &text_of("src/capi/exports_ext.txt");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), exports.lines().collect());
}

/// A user who may write to the directory of the sockets can impersonate any server that is not running.
#[test]
fn only_root_opens_services_by_default() {
    let text = text_of("debian/libipc0.tmpfiles");
    let said: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(said, ["d /run/ipc 0755 root root -"]);
    assert!(text_of("include/ipc.h").contains("#define RUNDIR \"/run/ipc/\""), "another directory in ipc.h");
}

/// The licenses of the crates require it.
#[test]
fn copyright_names_the_crates_in_library_and_tool() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args([
        "tree",
        "--locked",
        "--offline",
        "--workspace",
        "--edges",
        "normal",
        "--prefix",
        "none",
    ]);
    let tree = answer(cargo.args(["--no-dedupe", "--format", "{p}|{l}"]));
    let copyright = text_of("debian/copyright");
    let said_of = |name: &str| copyright.lines().find_map(|line| line.strip_prefix(&format!(" {name}: ")));
    let mut crates = 0;
    for (package, license) in tree.lines().filter_map(|line| line.split_once('|')) {
        let name = package.split_once(' ').unwrap().0;
        if ["libipc", "libipc-tool"].contains(&name) {
            continue;
        }
        crates += 1;
        let said =
            said_of(name).unwrap_or_else(|| panic!("debian/copyright does not name {name}, {license}"));
        assert!(said.starts_with("Copyright (c) "), "{name}: {said}");
        assert!(
            said.ends_with(&format!("; {}", license.replace(" OR ", " or "))),
            "{name}: {said}: {license}"
        );
    }
    assert!(crates > 0, "{tree}");
}

/// Debian's name of each architecture, the target of Rust, and the linker.
const RELEASED: [[&str; 3]; 7] = [
    ["amd64", "x86_64-unknown-linux-gnu", "x86_64-linux-gnu-gcc"],
    ["arm64", "aarch64-unknown-linux-gnu", "aarch64-linux-gnu-gcc"],
    ["armhf", "armv7-unknown-linux-gnueabihf", "arm-linux-gnueabihf-gcc"],
    ["i386", "i686-unknown-linux-gnu", "i686-linux-gnu-gcc"],
    ["ppc64el", "powerpc64le-unknown-linux-gnu", "powerpc64le-linux-gnu-gcc"],
    ["riscv64", "riscv64gc-unknown-linux-gnu", "riscv64-linux-gnu-gcc"],
    ["s390x", "s390x-unknown-linux-gnu", "s390x-linux-gnu-gcc"],
];

/// The settings that `dpkg-buildpackage --host-arch` passes to cargo. For the machine's own architecture
/// there is none.
#[test]
fn cargo_builds_for_the_architecture_of_the_packages() {
    if !has("dpkg-architecture") {
        return skipped("what cargo builds for", "dpkg-architecture");
    }
    let own = answer(Command::new("dpkg-architecture").args(["-q", "DEB_BUILD_ARCH"]));
    for [architecture, target, linker] in RELEASED {
        let mut rules = Surroundings::PLAIN.command("dpkg-architecture", root());
        rules.arg(format!("--host-arch={architecture}")).args(["--force", "--command"]);
        let said = answer(rules.arg("make --file=debian/rules --eval='shown: ; @env' shown"));
        let variables: BTreeSet<String> = said
            .lines()
            .filter(|line| line.starts_with("CARGO_BUILD_TARGET=") || line.starts_with("CARGO_TARGET_"))
            .map(str::to_owned)
            .collect();
        let name = target.to_uppercase().replace('-', "_");
        let expected =
            [format!("CARGO_BUILD_TARGET={target}"), format!("CARGO_TARGET_{name}_LINKER={linker}")];
        match architecture == own.trim() {
            true => assert!(variables.is_empty(), "{architecture}: {variables:?}"),
            false => assert_eq!(variables, BTreeSet::from(expected), "{architecture}"),
        }
    }
}
