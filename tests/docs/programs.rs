//! The programs in README.md and in the manual are complete: each compiles without a warning. So does each
//! example of the pages of section 3.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::staging::{
    Language, Linkage, Program, Running, WARNINGS, has, printed, root, run, skipped, stage, text_of, until,
};

/// The blocks of C in a text, each with the number of its first line.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line.trim_end() == "```c" => open = Some((number + 2, String::new())),
            None => {}
            Some(_) if line.trim_end() == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block without an end");
    blocks
}

/// Writes the text into a file, named after its origin, in a directory of its own.
fn with_source<R>(document: &str, (line, text): &(usize, String), act: impl FnOnce(&Path) -> R) -> R {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join(format!("{}-line-{line}.c", document.replace('/', "-")));
    fs::write(&source, text).unwrap();
    act(&source)
}

fn compile(document: &str, block: &(usize, String)) -> Program {
    with_source(document, block, |source| Program::compile(Language::C, Linkage::Shared, &[source], &[]))
}

fn is_program(text: &str) -> bool {
    text.contains("int main")
}

fn programs(document: &str) -> Vec<(usize, String)> {
    blocks(&text_of(document)).into_iter().filter(|(_, text)| is_program(text)).collect()
}

/// The program in the document that contains this text.
fn program_with(document: &str, call: &str) -> Program {
    let programs = programs(document);
    let program = programs.iter().find(|(_, text)| text.contains(call));
    compile(document, program.unwrap_or_else(|| panic!("{document} has no program with {call}")))
}

/// The sources of the pages of section 3.
fn pages() -> Vec<String> {
    let dir = fs::read_dir(root().join("man")).unwrap();
    let names = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".3.md")).map(|name| format!("man/{name}")).collect()
}

/// Runs both in the run directory, the client when the server has its socket. Returns the output of the
/// client.
fn talk(rundir: &Path, server: &Program, client: &Program) -> (Running, String) {
    let in_rundir = |program: &Program| {
        let mut command: Command = program.command();
        command.env("IPC_RUNDIR", rundir);
        command
    };
    let server = Running::start(in_rundir(server).stdin(Stdio::piped()).stdout(Stdio::null()));
    until("the server listens", || {
        assert!(!server.has_ended(), "the server has ended");
        // The file exists a moment before the socket listens: proc(5) shows the flag of a listening socket.
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        sockets.lines().any(|line| line.contains(" 00010000 ") && line.contains(rundir.to_str().unwrap()))
    });
    let answer = printed(&mut in_rundir(client));
    (server, answer)
}

#[test]
fn programs_of_the_manual_compile() {
    let programs = programs("libipc.7.md");
    assert!(!programs.is_empty(), "libipc.7.md shows no program");
    for program in programs {
        compile("libipc.7.md", &program);
    }
}

/// libipc(7) shows a server and a client, and how to run both; the server ends on the signal with status 0.
#[test]
fn server_and_client_of_the_manual_work_as_described() {
    if !has("pkg-config") {
        return skipped("how to try both programs of libipc(7)", "pkg-config");
    }
    let text = text_of("libipc.7.md");
    let dir = tempfile::tempdir().unwrap();
    for (name, (_, program)) in ["server.c", "client.c"].iter().zip(programs("libipc.7.md")) {
        assert!(text.contains(name), "libipc.7.md does not say what {name} is");
        fs::write(dir.path().join(name), program).unwrap();
    }
    let (_, section) = text.split_once("## To try both\n").expect("how to try both");
    let (_, commands) = section.split_once("```sh\n").unwrap();
    let (commands, _) = commands.split_once("```").unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("set -e\n{commands}wait $!")).current_dir(dir.path());
    stage().point_pkg_config(&mut shell).env("LD_LIBRARY_PATH", stage().lib()).env("TMPDIR", dir.path());
    assert_eq!(printed(&mut shell), "a message\n");
}

#[test]
fn every_c_program_of_the_readme_compiles() {
    let programs = programs("README.md");
    assert_eq!(programs, blocks(&text_of("README.md")), "a block that is no program");
    assert!(!programs.is_empty(), "README.md shows no program");
    for program in programs {
        compile("README.md", &program);
    }
}

/// README.md shows a server and a client, and how to run them.
#[test]
fn server_and_client_of_the_readme_exchange_messages() {
    let server = program_with("README.md", "ipc_server_init");
    let client = program_with("README.md", "ipc_read");
    let rundir = tempfile::tempdir().unwrap();
    let (_server, answer) = talk(rundir.path(), &server, &client);
    assert_eq!(answer, "hello\n");
}

#[test]
fn examples_of_the_pages_compile() {
    for page in pages() {
        let text = text_of(&page);
        let Some(examples) = text.lines().position(|line| line == "# EXAMPLES") else { continue };
        for example in blocks(&text).into_iter().filter(|(line, _)| *line > examples) {
            if is_program(&example.1) {
                compile(&page, &example);
                continue;
            }
            with_source(&page, &example, |source| {
                let mut compiler = Command::new("cc");
                compiler.args(["-std=c99", "-c", "-o", "/dev/null"]).args(WARNINGS).args(stage().cflags());
                run(compiler.arg(source));
            });
        }
    }
}

/// ipc_server_init(3) shows a server, and ipc_connection(3) a client for it.
#[test]
fn server_and_client_of_the_pages_exchange_messages() {
    let server = program_with("man/ipc_server_init.3.md", "ipc_accept");
    let client = program_with("man/ipc_connection.3.md", "ipc_connection");
    let rundir = tempfile::tempdir().unwrap();
    let (server, answer) = talk(rundir.path(), &server, &client);
    assert_eq!(answer, "hello\n");
    assert!(server.end().success());
    assert_eq!(fs::read_dir(rundir.path()).unwrap().count(), 0, "the server has left its socket");
}

/// ipc_event_fd(3) shows a server that ends with its standard input.
#[test]
fn server_with_standard_input_answers_and_ends() {
    let server = program_with("man/ipc_event_fd.3.md", "ipc_event_fd");
    let client = program_with("README.md", "ipc_read");
    let rundir = tempfile::tempdir().unwrap();
    let (server, answer) = talk(rundir.path(), &server, &client);
    assert_eq!(answer, "hello\n");
    drop(server.child().stdin.take());
    assert!(server.end().success());
    assert_eq!(fs::read_dir(rundir.path()).unwrap().count(), 0, "the server has left its socket");
}

/// The examples that need no other process print what they are made to print.
#[test]
fn examples_of_the_pages_print_what_they_should() {
    for (page, call, expected) in [
        ("ipc_connection_gen", "fork", "hello\n"),
        ("ipc_message_format_write", "ipc_message_format_read", "a frame of 10 bytes: hello\n"),
        ("ipc_message_new", "ipc_message_new", "9 bytes: 12 apples\n"),
        ("ipc_watch_fd", "ipc_watch_fd", "5 bytes\n"),
        ("ipc_write_fd", "ipc_take_fd", "a pipe: hello\n"),
        ("usock_init", "usock_accept", "hello\n"),
    ] {
        let program = program_with(&format!("man/{page}.3.md"), call);
        let dir = tempfile::tempdir().unwrap();
        let (input, writer) = nix::unistd::pipe().unwrap();
        let mut writer = fs::File::from(writer);
        writer.write_all(b"input").unwrap();
        drop(writer);
        assert_eq!(printed(program.command().stdin(input).current_dir(dir.path())), expected, "{page}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{page} has left a file");
    }
    let codes = printed(&mut program_with("man/ipc_errors_get.3.md", "const char *message").command());
    assert_eq!(codes.lines().count(), 60, "{codes}");
    assert_eq!(codes.lines().next(), Some(" 0  no error"));
    // The date differs each time.
    let shape = |line: &str| line.replace(|c: char| c.is_ascii_digit(), "0");
    let log = printed(program_with("man/log_error.3.md", "log_info").command().env("TZ", "UTC"));
    let shown = text_of("man/log_error.3.md");
    let shown = shown.lines().find(|line| line.ends_with(":INFO: 3 clients")).expect("what it prints");
    assert_eq!(shape(&log), shape(shown) + "\n");
}
