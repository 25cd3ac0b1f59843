//! The examples in C, C++ and Python exchange messages with each other, and print their errors; the
//! structures that Python declares equal those of the header.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use crate::staging::languages::{In, Server};
use crate::staging::{Language, Linkage, Program, has, outcome, printed, root, run, skipped, stage, until};

#[test]
fn examples_of_all_languages_exchange_messages() {
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
        // One client that violates the protocol, and one that is still connected at the end.
        let mut hostile = UnixStream::connect(server.socket()).unwrap();
        hostile.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = hostile.read(&mut [0]);
        until("the line about the violation", || server.output_text().contains("broke the protocol"));
        let mut stays = UnixStream::connect(server.socket()).unwrap();
        stays.write_all(&[2, 1, 0, 0, 0, b'x']).ok();
        stays.read_exact(&mut [0; 6]).unwrap();

        server.signal(libc::SIGTERM);
        let status = server.running.end();
        assert_eq!(status.code(), Some(0), "pongd: {server_in:?}: {}", server.output_text());
        assert!(!server.socket().exists(), "pongd: {server_in:?} has left its socket");
        assert_eq!(server.output_text().lines().last(), Some("ended"));
        assert_eq!(stays.read(&mut [0]).unwrap(), 0, "pongd: {server_in:?} has not closed its clients");
    }
}

#[test]
fn examples_of_all_languages_print_their_errors() {
    for language in In::all() {
        let dir = tempfile::tempdir().unwrap();
        for (name, rundir, reason) in [
            ("pong", dir.path().join(""), "No such file or directory"),
            ("pongd", dir.path().join("one/two"), "No such file or directory"),
            ("pongd", PathBuf::from("/proc/self/status"), "Not a directory"),
        ] {
            let (_, errors, status) = outcome(&mut language.command(name, &rundir));
            assert_eq!(status.code(), Some(1), "{language:?} {name}: {errors}");
            assert!(errors.contains(reason) && errors.starts_with(name), "{language:?}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{language:?}: {errors}");
        }
    }
}

/// Timeouts, types, limits, signals, asyncio, and exceptions of Python.
#[test]
fn python_binding_does_what_it_documents() {
    if !has("python3") {
        return skipped("the binding of examples-python", "python3");
    }
    let rundir = tempfile::tempdir().unwrap();
    let mut python = Command::new("python3");
    python.env("LD_LIBRARY_PATH", stage().lib()).env("PYTHONPATH", root().join("examples-python"));
    python.env("IPC_RUNDIR", rundir.path()).arg("-B").arg(root().join("tests/installed/binding.py"));
    assert_eq!(printed(&mut python), "ok\n");
}

/// Every function can be reached from ipc.hpp, and nothing in it or in the headers is an old cast.
#[test]
fn cpp_classes_reach_every_function_without_old_casts() {
    if !has("g++") {
        return skipped("the classes of examples-cpp", "g++");
    }
    let source = root().join("tests/installed/classes.cpp");
    let mut compiler = Command::new("g++");
    compiler.args([
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Wold-style-cast",
        "-Wuseless-cast",
        "-Werror",
    ]);
    compiler.arg("-I").arg(stage().usr().join("include")).arg("-I").arg(root().join("examples-cpp"));
    let program = stage().room_for("classes").join("classes");
    run(compiler.arg(source).arg("-o").arg(&program).arg("-L").arg(stage().lib()).arg("-lipc"));
    let rundir = tempfile::tempdir().unwrap();
    let mut command = Command::new(&program);
    assert_eq!(
        printed(command.env("LD_LIBRARY_PATH", stage().lib()).env("IPC_RUNDIR", rundir.path())),
        "ok\n"
    );
}

/// The layout of ctypes equals that of the compiler for the header.
#[test]
fn python_structures_equal_those_of_the_header() {
    if !has("python3") {
        return skipped("the structures of examples-python", "python3");
    }
    let structures: [(&str, &str, &[&str]); 5] = [
        ("ConnectionInfo", "ipc_connection_info", &["version", "index", "fd", "type", "spath"]),
        ("ConnectionInfos", "ipc_connection_infos", &["cinfos", "size"]),
        ("Message", "ipc_message", &["type", "length", "payload"]),
        ("EventInfo", "ipc_event", &["type", "origin", "m"]),
        ("PeerInfo", "ipc_peer", &["pid", "uid", "gid"]),
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
    ];
    let mut in_c = "#include <ipc_ext.h>\n#include <stddef.h>\nint main (void)\n{\n".to_owned();
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
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("numbers.c");
    fs::write(&source, in_c).unwrap();
    let c = Program::compile(Language::C, Linkage::Shared, &[&source], &[]);
    let mut python = Command::new("python3");
    python.env("LD_LIBRARY_PATH", stage().lib()).env("PYTHONPATH", root().join("examples-python"));
    assert_eq!(printed(python.args(["-B", "-c", &in_python])), printed(&mut c.command()));
}
