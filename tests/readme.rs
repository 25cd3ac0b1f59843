//! The documents say what is true: the quick start of README.md works as it is written, the examples in C++ and
//! Python talk to each other and to those in C, the snippets for build systems build, programs fail as it is told
//! that they do, and links and tests that are named exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod staging;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use staging::{
    Language, Linkage, Program, Running, has, outcome, printed, root, run, skipped, stage, text_of, until,
    valgrind,
};

/// A block of code: its language, the text before it back to the block before, the code.
struct Block {
    language: String,
    before: String,
    code: String,
}

/// The blocks below the heading, up to the next one of its level.
fn blocks_below(heading: &str, text: &str) -> Vec<Block> {
    let level = heading.split(' ').next().unwrap();
    let start = text.lines().position(|line| line == heading).unwrap_or_else(|| panic!("no {heading}"));
    let mut blocks = Vec::new();
    let mut before = String::new();
    let mut open: Option<Block> = None;
    for line in text.lines().skip(start + 1) {
        match (&mut open, line.strip_prefix("```")) {
            (None, None) if line.split(' ').next() == Some(level) => break,
            (None, None) => before += &format!("{line}\n"),
            (None, Some(language)) => {
                let (language, before) = (language.to_owned(), std::mem::take(&mut before));
                open = Some(Block { language, before, code: String::new() });
            }
            (Some(block), None) => block.code += &format!("{line}\n"),
            (Some(_), Some(_)) => blocks.extend(open.take()),
        }
    }
    assert!(!blocks.is_empty() && open.is_none(), "{heading}: no block, or one without an end");
    blocks
}

/// The last file name in backticks in the text before a block.
fn file_named_before(block: &Block) -> &str {
    let names = block.before.split('`').skip(1).step_by(2);
    names.filter(|name| name.contains('.') && !name.contains('/')).last().expect("the name of a file")
}

/// A script that does what a reader does: commands are run, files are saved.
fn script(blocks: &[Block]) -> String {
    let step = |block: &Block| match block.language.as_str() {
        "sh" => block.code.clone(),
        _ => {
            format!("cat > {} <<'END OF THE FILE'\n{}END OF THE FILE\n", file_named_before(block), block.code)
        }
    };
    // The command that is run, for whoever looks for the one that has failed.
    "set -ex\n".to_owned() + &blocks.iter().map(step).collect::<String>()
}

/// Runs the script in that folder, which must succeed; what it printed. Nothing of it goes on afterwards.
fn follow(script: &str, folder: &Path, home: &Path) -> String {
    let mut shell = Command::new("sh");
    for variable in
        ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "LIBDIR", "INCLUDEDIR", "MANDIR", "DESTDIR", "PREFIX"]
    {
        shell.env_remove(variable);
    }
    if !has("strip") {
        shell.env("STRIP", "");
    }
    // As root, the installation would otherwise change the loader's cache of this machine.
    shell.env("LDCONFIG", "").env("HOME", home).env("TMPDIR", home);
    let (mut said, mut errors) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    shell.stdout(said.try_clone().unwrap()).stderr(errors.try_clone().unwrap());
    let shell = Running::start(shell.arg("-c").arg(script).current_dir(folder).process_group(0));
    let group = i32::try_from(shell.child().id()).unwrap();
    until("the end of the script", || shell.has_ended());
    let status = shell.end();
    // SAFETY: a signal to what the script may have left, if anything: its group had no other member.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    let text = |file: &mut File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    assert!(status.success(), "{status}\n{}{}", text(&mut said), text(&mut errors));
    text(&mut said)
}

#[test]
fn the_quick_start_works_as_it_is_written() {
    if !has("pkg-config") {
        return skipped("the quick start of README.md", "pkg-config");
    }
    // The library is built then, and nobody else installs it while the script does.
    stage();
    let home = tempfile::tempdir().unwrap();
    let blocks = blocks_below("## Quick start", &text_of("README.md"));
    // cargo and rustup look for their files in the home of the one who runs the tests.
    let mut preamble = String::new();
    if let Some(own) = std::env::home_dir() {
        for (variable, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            preamble += &format!(": ${{{variable}:={}}}; export {variable}\n", own.join(folder).display());
        }
    }
    let said = follow(&(preamble + &script(&blocks)), root(), home.path());
    assert_eq!(said.lines().last(), Some("hello"), "{said}");
    // What is to be installed is in the folder that it names, and what is to be compiled beside it.
    assert!(home.path().join("libipc/lib/libipc.so").exists());
    assert!(home.path().join("echo/client").exists());
}

/// docs/build-systems.md has a project for each, for a file program.c.
#[test]
fn the_snippets_for_build_systems_build() {
    let text = text_of("docs/build-systems.md");
    for (heading, tools) in [("## CMake", ["cmake", "pkg-config"]), ("## Meson", ["meson", "pkg-config"])] {
        if let Some(tool) = tools.into_iter().find(|tool| !has(tool)) {
            skipped(&format!("the snippet below \"{heading}\""), tool);
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::copy(root().join("examples-c/pong.c"), folder.path().join("program.c")).unwrap();
        let mut shell = Command::new("sh");
        stage().point_pkg_config(&mut shell).current_dir(folder.path());
        run(shell.arg("-c").arg(script(&blocks_below(heading, &text))));
        let mut program = Command::new(folder.path().join("build/program"));
        program.env("IPC_RUNDIR", folder.path()).env("LD_LIBRARY_PATH", stage().lib());
        let (_, errors, status) = outcome(&mut program);
        assert_eq!(status.code(), Some(1));
        assert!(errors.contains("No such file or directory"), "{heading}: {errors}");
    }
}

/// Where pong and pongd of that folder are, built by its own Makefile.
fn built(folder: &'static str, flags: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let build = || {
        let room = stage().room_for(folder);
        let mut make = staging::make_in(&root().join(folder));
        make.arg(format!("BUILD={}", room.display())).arg(format!("{flags}=-O2 -g -Werror"));
        if !has("pkg-config") {
            make.arg(format!("LIBIPC_CFLAGS={}", stage().cflags().join(" ")));
            make.arg(format!("LIBIPC_LIBS={}", stage().libs(Linkage::Shared).join(" ")));
        }
        run(stage().point_pkg_config(make.args([room.join("pong"), room.join("pongd")])));
        room
    };
    BUILT.lock().unwrap().entry(folder).or_insert_with(build).clone()
}

/// One of the languages in which there are a pong and a pongd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum In {
    C,
    Cpp,
    CppUnderValgrind,
    Python,
}

impl In {
    fn all() -> Vec<Self> {
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
    fn command(self, name: &str, rundir: &Path) -> Command {
        let in_c = || built("examples-c", "CFLAGS").join(name);
        let in_cpp = || built("examples-cpp", "CXXFLAGS").join(name);
        let mut command = match self {
            Self::C => Command::new(in_c()),
            Self::Cpp => Command::new(in_cpp()),
            Self::CppUnderValgrind => {
                let mut valgrind = valgrind();
                valgrind.arg(in_cpp());
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
struct Server {
    running: Running,
    rundir: tempfile::TempDir,
    said: File,
}

impl Server {
    fn start(language: In) -> Self {
        let rundir = tempfile::tempdir().unwrap();
        let said = tempfile::tempfile().unwrap();
        let mut command = language.command("pongd", rundir.path());
        command.stdout(said.try_clone().unwrap()).stderr(said.try_clone().unwrap());
        let server = Self { running: Running::start(&mut command), rundir, said };
        until("a server that listens", || {
            assert!(!server.running.has_ended(), "pongd has ended: {}", server.said());
            server.said().contains("listening at ")
        });
        server
    }

    fn socket(&self) -> PathBuf {
        self.rundir.path().join("pongd-0-0")
    }

    fn said(&self) -> String {
        let mut text = String::new();
        let mut file = self.said.try_clone().unwrap();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    fn signal(&self, signal: libc::c_int) {
        let process = i32::try_from(self.running.child().id()).unwrap();
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    }
}

#[test]
fn the_examples_of_all_languages_understand_each_other() {
    for server_in in In::all() {
        let server = Server::start(server_in);
        for client_in in In::all() {
            let mut client = client_in.command("pong", server.rundir.path());
            let expected = if client_in == In::C {
                "hello\n"
            } else {
                client.args(["one", "", "two words, ü"]);
                "one\n\ntwo words, ü\n"
            };
            assert_eq!(printed(&mut client), expected, "pongd: {server_in:?}, pong: {client_in:?}");
        }
        // One that breaks the protocol, and one that is still there at the end.
        let mut hostile = UnixStream::connect(server.socket()).unwrap();
        hostile.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = hostile.read(&mut [0]);
        until("the server to tell of it", || server.said().contains("broke the protocol"));
        let mut stays = UnixStream::connect(server.socket()).unwrap();
        stays.write_all(&[2, 1, 0, 0, 0, b'x']).ok();
        stays.read_exact(&mut [0; 6]).unwrap();

        server.signal(libc::SIGTERM);
        let status = server.running.end();
        assert_eq!(status.code(), Some(0), "pongd: {server_in:?}: {}", server.said());
        assert!(!server.socket().exists(), "pongd: {server_in:?} has left its socket");
        assert_eq!(server.said().lines().last(), Some("ended"));
        assert_eq!(stays.read(&mut [0]).unwrap(), 0, "pongd: {server_in:?} has not closed its clients");
    }
}

#[test]
fn the_examples_of_all_languages_say_why_they_fail() {
    for language in In::all() {
        let folder = tempfile::tempdir().unwrap();
        for (name, rundir, reason) in [
            ("pong", folder.path().join(""), "No such file or directory"),
            ("pongd", folder.path().join("one/two"), "No such file or directory"),
            ("pongd", PathBuf::from("/proc/self/status"), "Not a directory"),
        ] {
            let (_, errors, status) = outcome(&mut language.command(name, &rundir));
            assert_eq!(status.code(), Some(1), "{language:?} {name}: {errors}");
            assert!(errors.contains(reason) && errors.starts_with(name), "{language:?}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{language:?}: {errors}");
        }
    }
}

/// What ctypes makes of the structures is what the compiler makes of the header.
#[test]
fn the_structures_of_python_are_those_of_the_header() {
    if !has("python3") {
        return skipped("the structures of examples-python", "python3");
    }
    let structures: [(&str, &str, &[&str]); 4] = [
        ("ConnectionInfo", "ipc_connection_info", &["version", "index", "fd", "type", "spath"]),
        ("ConnectionInfos", "ipc_connection_infos", &["cinfos", "size"]),
        ("Message", "ipc_message", &["type", "length", "payload"]),
        ("Event", "ipc_event", &["type", "origin", "m"]),
    ];
    let values = [
        ("NOT_SET", "IPC_EVENT_TYPE_NOT_SET"),
        ("ERROR", "IPC_EVENT_TYPE_ERROR"),
        ("EXTRA_SOCKET", "IPC_EVENT_TYPE_EXTRA_SOCKET"),
        ("CONNECTION", "IPC_EVENT_TYPE_CONNECTION"),
        ("DISCONNECTION", "IPC_EVENT_TYPE_DISCONNECTION"),
        ("MESSAGE", "IPC_EVENT_TYPE_MESSAGE"),
        ("MSG_TYPE_DATA[0]", "MSG_TYPE_DATA"),
        ("IPC_ERROR_NONE", "IPC_ERROR_NONE"),
        ("IPC_ERROR_WAIT_EVENT__SELECT", "IPC_ERROR_WAIT_EVENT__SELECT"),
    ];
    let mut in_c = "#include <ipc.h>\n#include <stddef.h>\nint main (void)\n{\n".to_owned();
    let mut in_python = "import ctypes, ipc\n".to_owned();
    let mut number = |c: String, python: String| {
        in_c += &format!("printf (\"%d\\n\", (int) {c});\n");
        in_python += &format!("print({python})\n");
    };
    for (python, c, members) in structures {
        number(format!("sizeof (struct {c})"), format!("ctypes.sizeof(ipc.{python})"));
        for member in members {
            let sized = |what| format!("ipc.{python}.{member}.{what}");
            number(format!("offsetof (struct {c}, {member})"), sized("offset"));
            number(format!("sizeof ((struct {c} *) 0)->{member}"), sized("size"));
        }
    }
    for (python, c) in values {
        number(c.to_owned(), format!("ipc.{python}"));
    }
    in_c += "return 0;\n}\n";
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("numbers.c");
    fs::write(&source, in_c).unwrap();
    let c = Program::compile(Language::C, Linkage::Shared, &[&source], &[]);
    let mut python = Command::new("python3");
    python.env("LD_LIBRARY_PATH", stage().lib()).env("PYTHONPATH", root().join("examples-python"));
    assert_eq!(printed(python.args(["-B", "-c", &in_python])), printed(&mut c.command()));
}

/// The rows of docs/troubleshooting.md are what pong and pongd say, in those circumstances.
#[test]
fn programs_fail_as_it_is_told_that_they_do() {
    let document = text_of("docs/troubleshooting.md");
    let mut rows: Vec<&str> =
        document.lines().filter(|line| line.contains("(") && line.starts_with("| `")).collect();
    let mut check_as = |user: Option<u32>, name: &str, rundir: &Path| {
        let mut command = In::C.command(name, rundir);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let (_, errors, status) = outcome(&mut command);
        assert_eq!(status.code(), Some(1), "{errors}");
        // "pong: connecting to pongd: connect: ...": the program's own words, then the library's.
        let said = errors.trim_end().splitn(3, ": ").nth(2).expect("what the library says").to_owned();
        let row = format!("| `{said}` |");
        assert!(document.contains(&row), "docs/troubleshooting.md does not tell of: {errors}");
        rows.retain(|line| !line.starts_with(&row));
    };
    let mut check = |name: &str, rundir: &Path| check_as(None, name, rundir);
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |path: &str| folder.path().join(path);
    let longest = "a".repeat(255);
    let too_long = in_folder(&format!("{longest}/").repeat(16));

    // A server that does not start.
    check("pongd", &in_folder("not/there"));
    fs::write(in_folder("file"), "").unwrap();
    check("pongd", &in_folder("file"));
    check("pongd", &in_folder(&"a".repeat(256)));
    check("pongd", &too_long);
    let server = Server::start(In::C);
    check("pongd", server.rundir.path());

    // A client that does not connect.
    check("pong", folder.path());
    check("pong", &too_long);
    server.signal(libc::SIGKILL);
    assert!(!server.running.end().success());
    check("pong", server.rundir.path());

    // A connection that brings no message.
    type Answer = fn(UnixStream);
    let answers: [Answer; 3] = [
        |mut client| {
            client.read_exact(&mut [0; 10]).unwrap();
            client.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
            let _ = client.read(&mut [0]);
        },
        |mut client| {
            client.read_exact(&mut [0; 10]).unwrap();
        },
        |mut client| {
            client.read_exact(&mut [0; 10]).unwrap();
            client.write_all(&[2, 5, 0, 0, 0, b'h']).unwrap();
        },
    ];
    for answer in answers {
        let rundir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(rundir.path().join("pongd-0-0")).unwrap();
        let other = thread::spawn(move || answer(listener.accept().unwrap().0));
        check("pong", rundir.path());
        other.join().unwrap();
    }

    // What is not ours to use. To root all is: another user asks then, who must get at the programs.
    // SAFETY: it cannot fail.
    let user = (unsafe { libc::geteuid() } == 0).then_some(65534);
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let server = Server::start(In::C);
    mode(server.rundir.path(), 0o755);
    mode(&server.socket(), 0);
    mode(folder.path(), 0o555);
    mode(stage().folder().parent().unwrap(), 0o755);
    let open_to_all = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o1 != 0;
    if user.is_none() || built("examples-c", "CFLAGS").ancestors().all(open_to_all) {
        check_as(user, "pong", server.rundir.path());
        check_as(user, "pongd", folder.path());
    } else {
        skipped("what programs say that have no right", "temporary folder that all users can enter");
        rows.retain(|row| !row.contains("(Permission denied)"));
    }
    mode(folder.path(), 0o755);
    assert!(rows.is_empty(), "nobody has provoked: {rows:#?}");
}

fn documents() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("README.md"), PathBuf::from("CONTRIBUTING.md")];
    for folder in ["docs", "examples-c", "examples-cpp", "examples-python", "benches"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let names = entries.map(|entry| Path::new(folder).join(entry.unwrap().file_name()));
        found.extend(names.filter(|name| name.extension().is_some_and(|extension| extension == "md")));
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    for document in documents() {
        let text = text_of(&document);
        for link in text.split("](").skip(1).map(|rest| rest.split_once(')').expect("the end of a link").0) {
            let target = link.split('#').next().unwrap();
            let local = !link.starts_with("https://") && !target.is_empty();
            let path = root().join(document.parent().unwrap()).join(target);
            assert!(!local || path.exists(), "{}: {link} leads nowhere", document.display());
        }
    }
}

/// docs/migrating.md names the test that proves each of its lines.
#[test]
fn every_test_that_is_named_exists() {
    let text = text_of("docs/migrating.md");
    let rows: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| ") && line.contains("` in [`")).collect();
    assert!(rows.len() >= 20, "{} lines name a test", rows.len());
    let in_tables = text.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |")).count();
    assert_eq!(rows.len(), in_tables, "a line without a test");
    for row in rows {
        let (before, after) = row.split_once("` in [`").unwrap();
        let (name, file) = (before.rsplit('`').next().unwrap(), after.split('`').next().unwrap());
        let source = text_of(file);
        // A test of its own, or a line of a macro that makes one.
        let found = source.contains(&format!("fn {name}(")) || source.contains(&format!("{name}:"));
        assert!(found, "{file} has no test {name}");
    }
}
