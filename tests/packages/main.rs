//! The packages for Debian: what they declare about the library, and what `make deb` builds, if Debian's
//! tools are installed. `make check-packages` runs these tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod archive;
mod contents;
mod programs;
mod removal;
mod reproducible;
mod sources;
#[path = "../staging/mod.rs"]
mod staging;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Once, OnceLock};

use staging::{answer, files_below, has, root, run, skipped};

const VERSION: &str = env!("CARGO_PKG_VERSION");

const PACKAGES: [&str; 5] = ["libipc0", "libipc-dev", "libipc0-dbgsym", "ipc-tools", "ipc-tools-dbgsym"];

struct Packages {
    dir: PathBuf,
    architecture: String,
    /// The directory of the libraries, below the directory into which the packages are unpacked.
    lib: String,
}

/// Settings of the user and the machine that could change the built files.
struct Surroundings {
    umask: &'static str,
    zone: &'static str,
    locale: &'static str,
}

impl Surroundings {
    const PLAIN: Self = Self { umask: "022", zone: "UTC0", locale: "C" };
    /// A locale that is not installed acts like C, with warnings.
    const FOREIGN: Self = Self { umask: "077", zone: "Pacific/Kiritimati", locale: "et_EE.UTF-8" };

    /// A command that runs in this directory, without the variables that influence a build.
    fn command(&self, program: &str, directory: &Path) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("umask {} && exec {program} \"$@\"", self.umask)).arg("sh");
        for (variable, _) in env::vars_os() {
            let name = variable.to_str().unwrap_or_default();
            let is_setting =
                ["DEB_", "LC_", "CARGO_BUILD_", "CARGO_TARGET_"].iter().any(|start| name.starts_with(start));
            if is_setting || SETTINGS.contains(&name) {
                command.env_remove(variable);
            }
        }
        command.current_dir(directory).env("CARGO", env!("CARGO"));
        command.env("TZ", self.zone).env("LC_ALL", self.locale);
        command
    }

    fn make(&self, directory: &Path) -> Command {
        self.command("make", directory)
    }

    /// Runs `make deb` in this directory; returns the directory of the packages.
    fn make_packages(&self, source: &Path, target: &Path) -> PathBuf {
        let output = answer(self.make(source).arg("deb").env("CARGO_TARGET_DIR", target));
        let dir = target.join("deb");
        assert!(output.contains(dir.to_str().unwrap()), "it does not say where the packages are: {output}");
        dir
    }
}

const SETTINGS: [&str; 24] = [
    "AR",
    "BASHCOMPLETIONDIR",
    "BINDIR",
    "BUILD",
    "CC",
    "CFLAGS",
    "CXX",
    "DESTDIR",
    "FISHCOMPLETIONDIR",
    "INCLUDEDIR",
    "LANG",
    "LANGUAGE",
    "LDFLAGS",
    "LIBDIR",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MANDIR",
    "MFLAGS",
    "OBJCOPY",
    "PREFIX",
    "RUSTFLAGS",
    "STRIP",
    "V",
    "ZSHCOMPLETIONDIR",
];

/// Whether Debian's tools are installed; if not, prints "SKIPPED:".
fn can_build_packages() -> bool {
    static SAID: Once = Once::new();
    let missing: Vec<&str> = ["dpkg-deb", "dpkg-buildpackage", "dh", "dpkg-architecture"]
        .into_iter()
        .filter(|tool| !has(tool))
        .collect();
    if !missing.is_empty() {
        SAID.call_once(|| skipped("building the packages for Debian, and trying them", &missing.join(" ")));
    }
    missing.is_empty()
}

/// The packages; `None`, with a line "SKIPPED:", if they cannot be built.
fn packages() -> Option<&'static Packages> {
    if !can_build_packages() {
        return None;
    }
    static PACKAGES: OnceLock<Packages> = OnceLock::new();
    Some(PACKAGES.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        let dir = Surroundings::PLAIN.make_packages(root(), &target);
        let of_host =
            |variable| answer(Command::new("dpkg-architecture").args(["-q", variable])).trim().to_owned();
        let lib = format!("usr/lib/{}", of_host("DEB_HOST_MULTIARCH"));
        Packages { dir, architecture: of_host("DEB_HOST_ARCH"), lib }
    }))
}

impl Packages {
    /// The file of a package; there is one of each name.
    fn file(&self, package: &str) -> PathBuf {
        let end = format!("_{}.deb", self.architecture);
        let is_it = |name: &str| name.starts_with(&format!("{package}_{VERSION}-")) && name.ends_with(&end);
        let mut found: Vec<String> =
            files_directly_in(&self.dir).into_iter().filter(|name| is_it(name)).collect();
        assert_eq!(found.len(), 1, "{package}: {found:?}");
        self.dir.join(found.pop().unwrap())
    }

    fn field(&self, package: &str, name: &str) -> String {
        answer(Command::new("dpkg-deb").arg("--field").arg(self.file(package)).arg(name)).trim().to_owned()
    }

    fn unpack(&self, package: &str, dir: &Path) {
        run(Command::new("dpkg-deb").arg("--extract").arg(self.file(package)).arg(dir));
    }

    fn files_of(&self, package: &str) -> BTreeSet<String> {
        let dir = tempfile::tempdir().unwrap();
        self.unpack(package, dir.path());
        files_below(dir.path()).into_iter().collect()
    }

    /// The library, the files that compiling needs, and the tool, in a directory.
    fn unpacked(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for package in ["libipc0", "libipc-dev", "ipc-tools"] {
            self.unpack(package, dir.path());
        }
        dir
    }
}

fn files_directly_in(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
