//! The programs pongd and pong in each language (examples-c, examples-cpp, examples-python), also for the
//! tests of the documents.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{Running, examples, has, make_in, root, run, skipped, stage, until, valgrind};

/// pong or pongd of examples-cpp, built by its own Makefile.
fn program_in_cpp(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let room = stage().room_for("examples-cpp");
        let mut make = make_in(&root().join("examples-cpp"));
        make.arg(format!("BUILD={}", room.display())).arg("CXXFLAGS=-O2 -g -Werror");
        make.args([room.join("pong"), room.join("pongd")]);
        run(stage().configure_make(&mut make));
        room
    });
    dir.join(name)
}

/// One of the languages in which there are a pong and a pongd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum In {
    C,
    Cpp,
    CppUnderValgrind,
    Python,
}

impl In {
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::C];
        let cpp = [("g++", Self::Cpp), ("valgrind", Self::CppUnderValgrind)];
        for (tool, of) in cpp.into_iter().chain([("python3", Self::Python)]) {
            let needed: &[&str] = if of == Self::CppUnderValgrind { &["g++", tool] } else { &[tool] };
            match needed.iter().find(|tool| !has(tool)) {
                Some(tool) => skipped(&format!("the examples, {of:?}"), tool),
                None => all.push(of),
            }
        }
        all
    }

    /// pong or pongd, in that language.
    pub fn command(self, name: &str, rundir: &Path) -> Command {
        let mut command = match self {
            Self::C => Command::new(examples::program(name, false)),
            Self::Cpp => Command::new(program_in_cpp(name)),
            Self::CppUnderValgrind => {
                let mut valgrind = valgrind();
                valgrind.arg(program_in_cpp(name));
                valgrind
            }
            Self::Python => {
                let mut python = Command::new("python3");
                python.arg("-B").arg(root().join("examples-python").join(format!("{name}.py")));
                python
            }
        };
        command.env("IPC_RUNDIR", rundir).env("LD_LIBRARY_PATH", stage().lib());
        command
    }
}

/// A pongd, in a run directory of its own.
pub struct Server {
    pub running: Running,
    pub rundir: tempfile::TempDir,
    output: File,
}

impl Server {
    pub fn start(language: In) -> Self {
        let rundir = tempfile::tempdir().unwrap();
        let output = tempfile::tempfile().unwrap();
        let mut command = language.command("pongd", rundir.path());
        command.stdout(output.try_clone().unwrap()).stderr(output.try_clone().unwrap());
        let server = Self { running: Running::start(&mut command), rundir, output };
        until("a server that listens", || {
            assert!(!server.running.has_ended(), "pongd has ended: {}", server.output_text());
            server.output_text().contains("listening at ")
        });
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.rundir.path().join("pongd-0-0")
    }

    pub fn output_text(&self) -> String {
        let mut text = String::new();
        let mut file = self.output.try_clone().unwrap();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    pub fn signal(&self, signal: libc::c_int) {
        let process = i32::try_from(self.running.child().id()).unwrap();
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    }
}
