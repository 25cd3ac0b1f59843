//! The packages for Debian: what they say of the library, and, with `LIBIPC_PACKAGES=1`, what `make deb` makes,
//! which takes the better part of a minute.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../staging/mod.rs"]
mod staging;

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Once, OnceLock};

use staging::{answer, files_below, has, make_in, outcome, printed, root, run, skipped, text_of};

const VERSION: &str = env!("CARGO_PKG_VERSION");

// What the files in debian say.

#[test]
fn the_packages_have_the_version_of_the_library() {
    let changelog = text_of("debian/changelog");
    let top = changelog.lines().next().unwrap();
    assert!(top.starts_with(&format!("libipc ({VERSION}-")), "debian/changelog begins with: {top}");
}

#[test]
fn the_symbols_are_those_that_the_library_exports() {
    let text = text_of("debian/libipc0.symbols");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("libipc.so.0 libipc0 #MINVER#"));
    let listed: Vec<&str> =
        lines.filter_map(|line| line.strip_prefix(' ')?.split_once('@')).map(|(name, _)| name).collect();
    assert!(listed.is_sorted(), "debian/libipc0.symbols is not sorted");
    let exports = text_of("tests/exports.txt") + &text_of("tests/exports_ext.txt");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), exports.lines().collect());
}

/// Who may write to the folder of the sockets may pose as any server that does not run at the time.
#[test]
fn root_alone_opens_services_unless_the_administrator_says_otherwise() {
    let text = text_of("debian/libipc0.tmpfiles");
    let said: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(said, ["d /run/ipc 0755 root root -"]);
    assert!(text_of("include/ipc.h").contains("#define RUNDIR \"/run/ipc/\""), "another folder in ipc.h");
}

/// Their licenses ask for that.
#[test]
fn the_copyright_names_the_crates_that_go_into_the_library() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args([
        "tree",
        "--locked",
        "--offline",
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
        if name == "libipc" {
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

// What `make deb` makes.

const PACKAGES: [&str; 3] = ["libipc0", "libipc-dev", "libipc0-dbgsym"];

struct Packages {
    folder: PathBuf,
    architecture: String,
    /// Where the libraries are, below the folder into which the packages are unpacked.
    lib: String,
}

/// `None`, and a line that says so, where they cannot be made or are not asked for.
fn packages() -> Option<&'static Packages> {
    static SAID: Once = Once::new();
    let missing: Vec<&str> = ["dpkg-deb", "dpkg-buildpackage", "dh", "dpkg-architecture"]
        .into_iter()
        .filter(|tool| !has(tool))
        .collect();
    if env::var_os("LIBIPC_PACKAGES").is_none_or(|value| value != "1") {
        SAID.call_once(|| {
            let line =
                "SKIPPED: building the packages for Debian, and trying them: LIBIPC_PACKAGES=1 asks for it";
            // The macros that print are captured, a direct write is not.
            let _ = writeln!(std::io::stderr(), "{line}");
        });
        return None;
    }
    if !missing.is_empty() {
        SAID.call_once(|| skipped("building the packages for Debian, and trying them", &missing.join(" ")));
        return None;
    }
    static PACKAGES: OnceLock<Packages> = OnceLock::new();
    Some(PACKAGES.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        let mut make = make_in(root());
        for variable in ["PREFIX", "DESTDIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "DEB_BUILD_OPTIONS"] {
            make.env_remove(variable);
        }
        let told = answer(make.arg("deb").env("CARGO_TARGET_DIR", &target).env("CARGO", env!("CARGO")));
        let folder = target.join("deb");
        assert!(told.contains(folder.to_str().unwrap()), "it does not say where the packages are: {told}");
        let of_host =
            |variable| answer(Command::new("dpkg-architecture").args(["-q", variable])).trim().to_owned();
        let lib = format!("usr/lib/{}", of_host("DEB_HOST_MULTIARCH"));
        Packages { folder, architecture: of_host("DEB_HOST_ARCH"), lib }
    }))
}

impl Packages {
    /// The file of a package; there is one of each name.
    fn file(&self, package: &str) -> PathBuf {
        let end = format!("_{}.deb", self.architecture);
        let is_it = |name: &str| name.starts_with(&format!("{package}_{VERSION}-")) && name.ends_with(&end);
        let mut found: Vec<String> =
            files_directly_in(&self.folder).into_iter().filter(|name| is_it(name)).collect();
        assert_eq!(found.len(), 1, "{package}: {found:?}");
        self.folder.join(found.pop().unwrap())
    }

    fn field(&self, package: &str, name: &str) -> String {
        answer(Command::new("dpkg-deb").arg("--field").arg(self.file(package)).arg(name)).trim().to_owned()
    }

    fn unpack(&self, package: &str, folder: &Path) {
        run(Command::new("dpkg-deb").arg("--extract").arg(self.file(package)).arg(folder));
    }

    fn files_of(&self, package: &str) -> BTreeSet<String> {
        let folder = tempfile::tempdir().unwrap();
        self.unpack(package, folder.path());
        files_below(folder.path()).into_iter().collect()
    }

    /// The library and what it takes to compile programs, in a folder.
    fn unpacked(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        self.unpack("libipc0", folder.path());
        self.unpack("libipc-dev", folder.path());
        folder
    }
}

fn files_directly_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What is in each `/usr/share/doc/PACKAGE`.
fn documents_of(package: &str) -> impl Iterator<Item = String> {
    ["changelog.Debian.gz", "changelog.gz", "copyright"]
        .into_iter()
        .map(move |file| format!("usr/share/doc/{package}/{file}"))
}

#[test]
fn the_runtime_has_both_names_and_the_folder_of_the_sockets() {
    let Some(packages) = packages() else { return };
    let mut expected: BTreeSet<String> = documents_of("libipc0").collect();
    for name in ["libipc.so", "libipc.so.0", "libipc.so.0.1", &format!("libipc.so.{VERSION}")] {
        expected.insert(format!("{}/{name}", packages.lib));
    }
    expected.insert("usr/lib/tmpfiles.d/libipc0.conf".to_owned());
    expected.insert("usr/share/doc/libipc0/README.Debian".to_owned());
    expected.insert("usr/share/lintian/overrides/libipc0".to_owned());
    assert_eq!(packages.files_of("libipc0"), expected);
}

#[test]
fn the_development_package_has_headers_static_library_manual_and_examples() {
    let Some(packages) = packages() else { return };
    let mut expected: BTreeSet<String> = documents_of("libipc-dev").collect();
    expected.extend(["usr/include/ipc.h", "usr/include/ipc_ext.h"].map(str::to_owned));
    expected.insert(format!("{}/libipc.a", packages.lib));
    expected.insert(format!("{}/pkgconfig/libipc.pc", packages.lib));
    expected.insert("usr/share/lintian/overrides/libipc-dev".to_owned());
    for page in files_directly_in(&root().join("man")) {
        if let Some(section) = page.chars().last().filter(char::is_ascii_digit) {
            expected.insert(format!("usr/share/man/man{section}/{page}.gz"));
        }
    }
    assert!(expected.contains("usr/share/man/man3/ipc_wait_event.3.gz"));
    assert!(expected.contains("usr/share/man/man7/libipc.7.gz"));
    let is_example =
        |name: &String| name == "Makefile" || [".c", ".h", ".md"].iter().any(|end| name.ends_with(end));
    for example in files_directly_in(&root().join("examples-c")).into_iter().filter(is_example) {
        expected.insert(format!("usr/share/doc/libipc-dev/examples/{example}"));
    }
    assert_eq!(packages.files_of("libipc-dev"), expected);
    assert!(packages.files_of("libipc0").is_disjoint(&expected), "both packages have a file of this name");
    // The name that it leaves to the other one is what the linker looks for.
    assert_eq!(
        packages.field("libipc-dev", "Depends"),
        format!("libipc0 (= {})", packages.field("libipc0", "Version"))
    );
}

#[test]
fn the_debug_symbols_are_those_of_the_library() {
    let Some(packages) = packages() else { return };
    if !has("readelf") {
        return skipped("whose debug symbols there are", "readelf");
    }
    let folder = packages.unpacked();
    let library = folder.path().join(&packages.lib).join("libipc.so");
    let notes = answer(Command::new("readelf").arg("-n").arg(library).env("LC_ALL", "C"));
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).expect("a build ID");
    let file = format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
    assert!(packages.files_of("libipc0-dbgsym").contains(&file), "{file}");
}

/// Those of two architectures can be installed at the same time.
#[test]
fn each_package_goes_beside_itself_of_another_architecture() {
    let Some(packages) = packages() else { return };
    for package in PACKAGES {
        assert_eq!(packages.field(package, "Multi-Arch"), "same", "{package}");
    }
}

#[test]
fn no_file_tells_where_it_was_built() {
    let Some(packages) = packages() else { return };
    let folder = packages.unpacked();
    let home = env::var("CARGO_HOME").or_else(|_| env::var("HOME").map(|home| home + "/.cargo")).unwrap();
    for file in files_below(folder.path()) {
        let path = folder.path().join(&file);
        if path.symlink_metadata().unwrap().is_symlink() {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for place in [packages.folder.to_str().unwrap(), root().to_str().unwrap(), &home] {
            let told = bytes.windows(place.len()).any(|window| window == place.as_bytes());
            assert!(!told, "{file} has {place} in it");
        }
    }
}

#[test]
fn lintian_has_nothing_to_say() {
    let Some(packages) = packages() else { return };
    if !has("lintian") {
        return skipped("what lintian says of the packages", "lintian");
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--profile=debian", "--fail-on=error,warning"]);
    run(lintian.args(PACKAGES.map(|package| packages.file(package))));
}

/// The examples that the package brings, compiled with the Makefile that it brings: what autopkgtest runs where the
/// packages are installed.
#[test]
fn the_examples_compile_with_pkg_config_and_run() {
    let Some(packages) = packages() else { return };
    if !has("pkg-config") {
        return skipped("the examples of the package", "pkg-config");
    }
    let folder = packages.unpacked();
    let lib = folder.path().join(&packages.lib);
    let room = tempfile::tempdir().unwrap();
    let mut script = Command::new(root().join("debian/tests/examples"));
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "BUILD", "PKG_CONFIG_PATH"] {
        script.env_remove(variable);
    }
    script
        .env("AUTOPKGTEST_TMP", room.path())
        .env("EXAMPLES", folder.path().join("usr/share/doc/libipc-dev/examples"))
        .env("LD_LIBRARY_PATH", &lib)
        .env("PKG_CONFIG_LIBDIR", lib.join("pkgconfig"))
        .env("PKG_CONFIG_SYSROOT_DIR", folder.path())
        // /usr/include below the folder is not the one that every compiler knows.
        .env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1")
        .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1");
    let (said, errors, status) = outcome(&mut script);
    assert!(status.success(), "{status}\n{said}{errors}");
}

const OLD_PROGRAM: &str = r#"
#include <ipc.h>
int main (void)
{
    puts (ipc_errors_get (IPC_ERROR_NONE));
    return 0;
}
"#;

const BOTH_NAMES: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
int main (void)
{
    void *old_name = dlopen ("libipc.so", RTLD_NOW), *new_name = dlopen ("libipc.so.0", RTLD_NOW);
    if (old_name == NULL || new_name == NULL)
        return 1;
    puts (old_name == new_name ? "one library" : "two libraries");
    return 0;
}
"#;

fn compile(source: &str, program: &Path, arguments: &[String]) {
    let file = program.with_extension("c");
    fs::write(&file, source).unwrap();
    run(Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(program)
        .arg(file)
        .args(arguments));
}

#[test]
fn both_names_load_and_are_one_library() {
    let Some(packages) = packages() else { return };
    let folder = packages.unpacked();
    let lib = folder.path().join(&packages.lib);
    // As the installation of any library has it done. It does not need root for a single folder.
    let ldconfig =
        ["/usr/sbin/ldconfig", "/sbin/ldconfig"].map(Path::new).into_iter().find(|path| path.is_file());
    if let Some(ldconfig) = ldconfig {
        run(Command::new(ldconfig).arg("-n").arg(&lib));
        for name in ["libipc.so", "libipc.so.0"] {
            let target = fs::read_link(lib.join(name)).unwrap();
            assert_eq!(target, Path::new(&format!("libipc.so.{VERSION}")), "{name}");
        }
    } else {
        skipped("what ldconfig makes of the links", "ldconfig");
    }

    // The library of 2019 in short: the function that the program calls, and no SONAME.
    let old = tempfile::tempdir().unwrap();
    let shared = ["-shared", "-fPIC"].map(str::to_owned);
    let function = "const char *ipc_errors_get (int e);\nconst char *ipc_errors_get (int e) { (void) e; return \"of 2019\"; }\n";
    compile(function, &old.path().join("libipc.so"), &shared);
    let include = format!("-I{}", folder.path().join("usr/include").display());
    let program = old.path().join("program");
    compile(OLD_PROGRAM, &program, &[include, format!("-L{}", old.path().display()), "-lipc".to_owned()]);
    let with = |place: &Path, program: &Path| printed(Command::new(program).env("LD_LIBRARY_PATH", place));
    assert_eq!(with(old.path(), &program), "of 2019\n");
    assert_eq!(with(&lib, &program), "no error\n");

    let program = old.path().join("both");
    compile(BOTH_NAMES, &program, &["-ldl".to_owned()]);
    assert_eq!(with(&lib, &program), "one library\n");
}

/// A system of nothing but these packages, in a folder.
struct System {
    folder: tempfile::TempDir,
}

impl System {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for below in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "run"] {
            fs::create_dir_all(folder.path().join(below)).unwrap();
        }
        fs::write(folder.path().join("var/lib/dpkg/status"), "").unwrap();
        Self { folder }
    }

    /// Scripts of the packages run outside of the folder, which has no shell, and work below it. The test need
    /// not be root's, nor have the administrator's tools in its PATH, and there is no C library to depend on.
    fn dpkg(&self, arguments: impl IntoIterator<Item = PathBuf>) {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.folder.path().display()));
        dpkg.arg(format!("--log={}", self.folder.path().join("var/lib/dpkg/log").display()));
        dpkg.arg("--force-not-root,script-chrootless,depends,bad-path");
        run(dpkg.args(arguments));
    }

    /// All files and folders but dpkg's own.
    fn content(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(next) = folders.pop() {
            for path in fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()) {
                if path.ends_with("var/lib/dpkg") {
                    continue;
                }
                if path.symlink_metadata().unwrap().is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path);
            }
        }
        found
    }

    fn install(&self, packages: &Packages) {
        let files = PACKAGES.map(|package| packages.file(package));
        self.dpkg([PathBuf::from("--install")].into_iter().chain(files));
        // systemd makes it, if it is there and root asks.
        fs::create_dir_all(self.rundir()).unwrap();
    }

    fn remove(&self) {
        self.dpkg(["--remove"].into_iter().chain(PACKAGES).map(PathBuf::from));
    }

    fn rundir(&self) -> PathBuf {
        self.folder.path().join("run/ipc")
    }
}

#[test]
fn removal_leaves_nothing() {
    let Some(packages) = packages() else { return };
    let system = System::new();
    let before = system.content();
    system.install(packages);
    assert!(system.folder.path().join(&packages.lib).join("libipc.so.0").is_file());
    system.remove();
    assert_eq!(system.content(), before);
}

/// A program that has the library in itself goes on serving.
#[test]
fn removal_leaves_a_folder_in_which_there_are_sockets() {
    let Some(packages) = packages() else { return };
    let system = System::new();
    system.install(packages);
    let socket = system.rundir().join("pongd-0-0");
    let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    system.remove();
    assert!(socket.symlink_metadata().is_ok());
}

/// Manual pages of several functions are found under the name of each.
#[test]
fn each_manual_page_has_a_text() {
    let Some(packages) = packages() else { return };
    if !has("gzip") {
        return skipped("the manual pages of the package", "gzip");
    }
    let folder = packages.unpacked();
    let pages: Vec<String> = packages
        .files_of("libipc-dev")
        .into_iter()
        .filter(|file| file.starts_with("usr/share/man"))
        .collect();
    for page in &pages {
        // Through links, which must lead somewhere.
        let mut gzip = Command::new("gzip");
        gzip.arg("-dc")
            .stdin(File::open(folder.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}")));
        let text = answer(&mut gzip);
        assert!(text.contains("\n.SH NAME\n"), "{page} is no page of a manual");
    }
    assert!(pages.len() > 1, "{pages:?}");
}
