//! What remains after the packages are removed: only directories that are in use.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::staging::run;
use crate::{PACKAGES, Packages, packages};

/// A system that contains only these packages, in a directory.
struct System {
    dir: tempfile::TempDir,
}

impl System {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for below in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "run"] {
            fs::create_dir_all(dir.path().join(below)).unwrap();
        }
        fs::write(dir.path().join("var/lib/dpkg/status"), "").unwrap();
        Self { dir }
    }

    /// The scripts of the packages run outside of the directory, which has no shell, and work below it. The
    /// test need not run as root, nor have the administrator's tools in its PATH, and there is no C library
    /// package to depend on.
    fn dpkg(&self, arguments: impl IntoIterator<Item = PathBuf>) {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.dir.path().display()));
        dpkg.arg(format!("--log={}", self.dir.path().join("var/lib/dpkg/log").display()));
        dpkg.arg("--force-not-root,script-chrootless,depends,bad-path");
        run(dpkg.args(arguments));
    }

    /// All files and directories but those of dpkg.
    fn content(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(next) = dirs.pop() {
            for path in fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()) {
                if path.ends_with("var/lib/dpkg") {
                    continue;
                }
                if path.symlink_metadata().unwrap().is_dir() {
                    dirs.push(path.clone());
                }
                found.insert(path);
            }
        }
        found
    }

    fn install(&self, packages: &Packages) {
        let files = PACKAGES.map(|package| packages.file(package));
        self.dpkg([PathBuf::from("--install")].into_iter().chain(files));
        // systemd creates the directory, if systemd is installed and root asks for it.
        fs::create_dir_all(self.rundir()).unwrap();
    }

    fn remove(&self) {
        self.dpkg(["--remove"].into_iter().chain(PACKAGES).map(PathBuf::from));
    }

    fn rundir(&self) -> PathBuf {
        self.dir.path().join("run/ipc")
    }
}

#[test]
fn removal_leaves_no_file() {
    let Some(packages) = packages() else { return };
    let system = System::new();
    let before = system.content();
    system.install(packages);
    assert!(system.dir.path().join(&packages.lib).join("libipc.so.0").is_file());
    assert!(system.dir.path().join("usr/bin/ipc").is_file());
    system.remove();
    assert_eq!(system.content(), before);
}

/// A program that is linked statically continues to serve.
#[test]
fn removal_keeps_a_run_directory_that_has_sockets() {
    let Some(packages) = packages() else { return };
    let system = System::new();
    system.install(packages);
    let socket = system.rundir().join("pongd-0-0");
    let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    system.remove();
    assert!(socket.symlink_metadata().is_ok());
}
