//! Shared by the tests of the installed library: one installation in a directory of its own, made by `make
//! install`, and C programs that are compiled for it as its users compile theirs.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

pub mod examples;
pub mod languages;
pub mod sanitizers;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// With these options every C program must compile without a warning.
pub const WARNINGS: [&str; 6] = ["-O2", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Prints which test was skipped and why, even if the output of tests is captured.
pub fn skipped(what: &str, missing: &str) {
    // The macros that print are captured, a direct write is not.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: there is no {missing} here");
}

/// Whether the tool is installed.
pub fn has(tool: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}

/// The Rust target of the library under test, if `tests/everywhere/run.sh` has set one. The test program
/// itself runs on this machine; C programs are compiled with `LIBIPC_TEST_CC` and run with
/// `LIBIPC_TEST_RUNNER`.
pub fn foreign_target() -> Option<String> {
    env::var("LIBIPC_TEST_TARGET").ok().filter(|target| !target.is_empty())
}

/// The C compiler and its options.
pub fn c_compiler() -> Command {
    command_of(&c_compiler_words())
}

pub fn c_compiler_words() -> String {
    env::var("LIBIPC_TEST_CC").unwrap_or_else(|_| "cc".to_owned())
}

/// The command for a compiled program: the emulator, if one is set, and the program.
pub fn runner(program: &Path) -> Command {
    let mut words = env::var("LIBIPC_TEST_RUNNER").unwrap_or_default();
    words.push(' ');
    words.push_str(program.to_str().unwrap());
    command_of(&words)
}

fn command_of(words: &str) -> Command {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().expect("a command"));
    command.args(words);
    command
}

/// Runs the command, which must succeed; returns its output.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs the command, which must succeed; returns its standard output.
pub fn answer(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

/// The directories of an installation that a user may choose.
pub const DIRECTORIES: [&str; 7] = [
    "LIBDIR",
    "INCLUDEDIR",
    "BINDIR",
    "MANDIR",
    "BASHCOMPLETIONDIR",
    "ZSHCOMPLETIONDIR",
    "FISHCOMPLETIONDIR",
];

/// `make` in this directory, without the variables of a make or shell that has started the tests.
pub fn make_in(dir: &Path) -> Command {
    let mut make = Command::new("make");
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "STRIP", "BUILD"].into_iter().chain(DIRECTORIES) {
        make.env_remove(variable);
    }
    make.arg("-C").arg(dir);
    make
}

/// `make install` or `make uninstall` of this project.
pub fn make(target: &str, destination: &Path) -> Command {
    let mut make = make_in(root());
    make.arg(target).arg("PREFIX=/usr").arg(format!("DESTDIR={}", destination.display()));
    let target = foreign_target();
    // The strip of this machine may not read files for another one.
    if !has("strip") || target.is_some() {
        make.arg("STRIP=");
    }
    make.envs(target.map(|target| ("CARGO_BUILD_TARGET", target)));
    make
}

/// An installation for this test program alone, and directories for what is built from it; removed at exit.
pub struct Stage {
    top: PathBuf,
}

const INSTALLED: &str = "installed";

static STAGE: OnceLock<Stage> = OnceLock::new();

extern "C" fn remove_stage() {
    if let Some(stage) = STAGE.get() {
        let _ = fs::remove_dir_all(&stage.top);
    }
}

pub fn stage() -> &'static Stage {
    STAGE.get_or_init(|| {
        let top = tempfile::tempdir().unwrap();
        run(&mut make("install", &top.path().join(INSTALLED)));
        // SAFETY: a function that lives as long as the program.
        unsafe { libc::atexit(remove_stage) };
        Stage { top: top.keep() }
    })
}

impl Stage {
    /// The value of DESTDIR.
    pub fn dir(&self) -> PathBuf {
        self.top.join(INSTALLED)
    }

    /// A directory for what is built from the installation.
    pub fn room_for(&self, what: &str) -> PathBuf {
        let dir = self.top.join(what);
        fs::create_dir(&dir).unwrap();
        dir
    }

    pub fn usr(&self) -> PathBuf {
        self.dir().join("usr")
    }

    pub fn lib(&self) -> PathBuf {
        self.usr().join("lib")
    }

    pub fn header(&self) -> PathBuf {
        self.usr().join("include/ipc.h")
    }

    /// The shared library, without its links.
    pub fn library(&self) -> PathBuf {
        self.lib().join(concat!("libipc.so.", env!("CARGO_PKG_VERSION")))
    }

    /// Makes pkg-config find this installation, below its directory.
    pub fn point_pkg_config<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("PKG_CONFIG_PATH", self.lib().join("pkgconfig"))
            .env("PKG_CONFIG_SYSROOT_DIR", self.dir())
            // /usr/include below the directory is not the one that every compiler searches.
            .env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1")
            .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1")
    }

    /// Makes the Makefile of the examples find this installation.
    pub fn configure_make<'a>(&self, make: &'a mut Command) -> &'a mut Command {
        if !has("pkg-config") {
            make.arg(format!("LIBIPC_CFLAGS={}", self.cflags().join(" ")));
            make.arg(format!("LIBIPC_LIBS={}", self.libs(Linkage::Shared).join(" ")));
        }
        self.point_pkg_config(make)
    }

    fn pkg_config(&self, arguments: &[&str]) -> Option<Vec<String>> {
        if !has("pkg-config") {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                skipped("the flags that pkg-config gives; the plain ones are used", "pkg-config")
            });
            return None;
        }
        let mut command = Command::new("pkg-config");
        let output = answer(self.point_pkg_config(command.args(arguments).arg("libipc")));
        Some(output.split_whitespace().map(str::to_owned).collect())
    }

    /// The compiler options for a program.
    pub fn cflags(&self) -> Vec<String> {
        let plain = || vec![format!("-I{}", self.usr().join("include").display())];
        self.pkg_config(&["--cflags"]).unwrap_or_else(plain)
    }

    /// The linker options for a program.
    pub fn libs(&self, linkage: Linkage) -> Vec<String> {
        let plain = || vec![format!("-L{}", self.lib().display()), "-lipc".to_owned()];
        match linkage {
            Linkage::Shared => self.pkg_config(&["--libs"]).unwrap_or_else(plain),
            Linkage::Static => {
                let with_private = || [plain(), libs_private()].concat();
                let all = self.pkg_config(&["--static", "--libs"]).unwrap_or_else(with_private);
                let place = all.iter().position(|flag| flag == "-lipc").expect("-lipc");
                let libipc_alone = ["-Wl,-Bstatic", "-lipc", "-Wl,-Bdynamic"].map(str::to_owned);
                [&all[..place], &libipc_alone, &all[place + 1..]].concat()
            }
        }
    }
}

/// `Libs.private` of libipc.pc.
pub fn libs_private() -> Vec<String> {
    let text = fs::read_to_string(root().join("libipc.pc.in")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Libs.private:")).expect("Libs.private");
    line.split_whitespace().map(str::to_owned).collect()
}

/// Which library a program is linked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    Shared,
    Static,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    Cpp,
}

/// A C program, compiled in a directory of its own that also has its run directories. The program may be kept
/// until the end: the directory is within that of the stage.
pub struct Program {
    dir: tempfile::TempDir,
    linkage: Linkage,
}

/// A program may run with and without valgrind at the same time.
const RUNDIR: &str = "run";
const RUNDIR_IN_VALGRIND: &str = "run-in-valgrind";

impl Program {
    pub fn compile(language: Language, linkage: Linkage, sources: &[&Path], extra: &[&str]) -> Self {
        let dir = tempfile::tempdir_in(&stage().top).unwrap();
        let (mut command, standard): (_, &[_]) = match language {
            Language::C => (c_compiler(), &["-std=c99"]),
            Language::Cpp => (Command::new("g++"), &["-std=c++17", "-x", "c++"]),
        };
        command.args(standard).args(WARNINGS).args(extra).args(stage().cflags()).args(sources);
        run(command.arg("-o").arg(dir.path().join("program")).args(stage().libs(linkage)));
        for rundir in [RUNDIR, RUNDIR_IN_VALGRIND] {
            fs::create_dir(dir.path().join(rundir)).unwrap();
        }
        Self { dir, linkage }
    }

    /// The program from `tests/c`, of one or more files there.
    pub fn of_tests(language: Language, linkage: Linkage, files: &[&str], extra: &[&str]) -> Self {
        let paths: Vec<PathBuf> = files.iter().map(|file| root().join("tests/c").join(file)).collect();
        let sources: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        Self::compile(language, linkage, &sources, extra)
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("program")
    }

    fn prepare(&self, mut command: Command, rundir: &str) -> Command {
        command.env("IPC_RUNDIR", self.dir.path().join(rundir)).env_remove("LD_LIBRARY_PATH");
        if self.linkage == Linkage::Shared {
            command.env("LD_LIBRARY_PATH", stage().lib());
        }
        command
    }

    pub fn command(&self) -> Command {
        self.prepare(runner(&self.path()), RUNDIR)
    }

    pub fn command_in_valgrind(&self) -> Command {
        let mut valgrind = valgrind();
        valgrind.arg(self.path());
        self.prepare(valgrind, RUNDIR_IN_VALGRIND)
    }
}

/// valgrind, which fails for every error and for every block that is lost, or to which only a pointer into
/// its middle is left.
pub fn valgrind() -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
    valgrind.arg("--errors-for-leak-kinds=definite,indirect,possible");
    valgrind
}

/// Waits for a condition, for `LIMIT` at most.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "waited without result: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// How long a program may run. The limit is long, since several programs may run under valgrind at a time.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A program that runs at the same time as the test. It is killed at the end of the test, or at the limit;
/// readers of its output then see end of file.
pub struct Running {
    child: Arc<Mutex<Child>>,
    _not_yet: mpsc::Sender<()>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let child = Arc::new(Mutex::new(child));
        let (_not_yet, dropped) = mpsc::channel::<()>();
        let watched = Arc::clone(&child);
        thread::spawn(move || {
            if dropped.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = watched.lock().unwrap().kill();
            }
        });
        Self { child, _not_yet }
    }

    /// The process, to take its pipes from.
    pub fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap()
    }

    pub fn has_ended(&self) -> bool {
        self.child().try_wait().unwrap().is_some()
    }

    pub fn end(&self) -> ExitStatus {
        until("the end of a program", || self.has_ended());
        self.child().wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Runs a program, which has a limit of time, and not a tool; returns its standard output, its standard error
/// and its status.
pub fn outcome(command: &mut Command) -> (String, String, ExitStatus) {
    let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    let [stdout, stderr] = files.each_ref().map(|file| file.try_clone().unwrap());
    let status = Running::start(command.stdout(stdout).stderr(stderr)).end();
    let [printed, errors] = files.each_mut().map(|file| {
        let mut text = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    (printed, errors, status)
}

/// Runs a program that must succeed and print nothing on standard error; returns its standard output.
pub fn printed(command: &mut Command) -> String {
    let (printed, errors, status) = outcome(command);
    assert!(status.success() && errors.is_empty(), "{command:?}: {status}\n{printed}{errors}");
    printed
}

/// All files below the directory, as paths relative to it, in order.
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                let path = entry.path();
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The text of a file of the project.
pub fn text_of(file: impl AsRef<OsStr>) -> String {
    let path = root().join(Path::new(&file));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
