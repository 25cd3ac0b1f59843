//! The binary interface against its baseline, `tests/abi/<machine>.abi`: which symbols exist, and with which
//! types, is compared by abidiff of libabigail. `make abi` writes the baseline anew.
//!
//! The types are those that a C program sees. A C file that defines each exported function as the headers
//! declare it is generated from the headers and compiled; so the result does not depend on the types within
//! the library, nor on the compiler that built it. `tests/header.rs` checks that the Rust types are the same.
//! The list of symbols is compared with the library itself.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::staging::{has, root, run, skipped, stage, text_of};

/// The interface as C declares it: the names, and the text of the headers.
#[derive(Clone)]
struct Interface {
    names: Vec<String>,
    headers: Vec<(&'static str, String)>,
}

impl Interface {
    /// The interface of the project.
    fn new() -> Self {
        let lists = ["src/capi/exports.txt", "src/capi/exports_ext.txt"].map(text_of);
        let headers = [
            ("ipc.h", "include/ipc.h"),
            ("ipc_ext.h", "include/ipc_ext.h"),
            ("undeclared.h", "tests/c/undeclared.h"),
        ];
        Self {
            names: lists.iter().flat_map(|list| list.lines()).map(str::to_owned).collect(),
            headers: headers.map(|(name, file)| (name, text_of(file))).to_vec(),
        }
    }

    /// The same interface with another text in one of the headers.
    fn with(&self, from: &str, to: &str) -> Self {
        let mut changed = self.clone();
        let places = changed.headers.iter().filter(|(_, text)| text.contains(from)).count();
        assert_eq!(places, 1, "headers that say {from:?}");
        for (_, text) in &mut changed.headers {
            *text = text.replacen(from, to, 1);
        }
        changed
    }

    /// A shared library with this interface, with the debug information of a compiler, in the directory.
    fn compile(&self, dir: &Path) -> PathBuf {
        for (name, text) in &self.headers {
            fs::write(dir.join(name), text).unwrap();
        }
        let includes: String =
            self.headers.iter().map(|(name, _)| format!("#include \"{name}\"\n")).collect();
        fs::write(dir.join("includes.c"), &includes).unwrap();
        // Without comments and without the parts for C++.
        let plain = run(cc(dir).args(["-E", "-P", "includes.c"])).stdout;
        let plain = String::from_utf8(plain).unwrap();
        let definitions: String = self.names.iter().map(|name| definition(name, &plain)).collect();
        fs::write(dir.join("interface.c"), includes + &definitions).unwrap();
        let flags = ["-g", "-gdwarf-4", "-O0", "-fPIC", "-shared", "-nostdlib", "-Wl,-soname,libipc.so.0"];
        run(cc(dir).args(flags).args(["-o", "libipc.so", "interface.c"]));
        dir.join("libipc.so")
    }
}

/// A compiler that gets no absolute path, so that its output contains none.
fn cc(dir: &Path) -> Command {
    let mut command = Command::new("cc");
    command.current_dir(dir).args(["-std=c99", "-I."]);
    command
}

/// A definition of the function that the text declares by this name.
fn definition(name: &str, text: &str) -> String {
    let begins = |before: &str| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    for declaration in text.split([';', '{', '}']) {
        let Some((before, after)) = declaration.split_once(name) else { continue };
        let parameters = after.trim_start();
        if !begins(before) || before.trim().is_empty() {
            continue;
        }
        let variable = before.trim_start().strip_prefix("extern ").filter(|_| parameters.is_empty());
        if let Some(kind) = variable {
            return format!("{kind}{name};\n");
        }
        // The text after the parameters is for the caller.
        if let Some(parameters) = enclosed(parameters) {
            return format!("{before}{name} {parameters} {{ for (;;); }}\n");
        }
    }
    panic!("no header declares {name}");
}

/// The text from an opening parenthesis at its begin to the matching one.
fn enclosed(text: &str) -> Option<&str> {
    let mut depth = 0;
    let end = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    end.filter(|end| *end > 0).and_then(|end| text.get(..=end))
}

/// The file of the baseline; the names of some types depend on the C library that it was made with.
fn baseline() -> PathBuf {
    let library = if cfg!(target_env = "gnu") { "gnu" } else { "other" };
    root().join("tests/abi").join(format!("{}-linux-{library}.abi", env::consts::ARCH))
}

/// The baseline, if there is one for this machine, and abidiff.
fn baseline_to_compare(what: &str) -> Option<PathBuf> {
    let is_there = baseline().is_file();
    if !is_there {
        skipped(what, &format!("{}, which make abi writes,", baseline().display()));
    } else if !has("abidiff") {
        skipped(what, "abidiff (of libabigail)");
    }
    (is_there && has("abidiff")).then(baseline)
}

/// The report of abidiff, if there is a difference.
fn difference(baseline: &Path, library: &Path) -> Result<(), String> {
    let mut command = Command::new("abidiff");
    // Some changes are harmless for existing programs, such as a further value of an enumeration. They are
    // reported, too.
    command.arg("--harmless").arg(baseline).arg(library);
    let output = command.output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    if output.status.success() { Ok(()) } else { Err(format!("{} of {command:?}\n{said}", output.status)) }
}

fn assert_same(library: &Path, what: &str) {
    let Some(baseline) = baseline_to_compare(what) else { return };
    if let Err(said) = difference(&baseline, library) {
        panic!(
            "The binary interface is another one than that of {}.\n\
             What has been taken away or changed breaks programs. What has been added, and is meant to be, is \
             noted by: make abi\n\n{said}",
            baseline.display()
        );
    }
}

#[test]
fn interface_equals_the_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let library = Interface::new().compile(dir.path());
    if env::var_os("LIBIPC_WRITE_ABI").is_some() {
        let mut abidw = Command::new("abidw");
        abidw.args(["--no-show-locs", "--no-comp-dir-path", "--no-corpus-path", "--type-id-style", "hash"]);
        run(abidw.arg("--out-file").arg(baseline()).arg(library));
        return;
    }
    assert_same(&library, "the types of the binary interface");
}

/// Without debug information: names, kinds and versions of symbols, and the SONAME.
#[test]
fn library_exports_the_symbols_of_the_baseline() {
    if !has("strip") {
        return skipped("the symbols of the library against the baseline", "strip");
    }
    assert_same(&stage().library(), "the symbols of the library against the baseline");
}

/// A change of a declaration: its name, what abidiff must report, the old text and the new text.
const CHANGES: [(&str, &str, &str, &str); 11] = [
    ("a parameter's type", "ipc_pending", "size_t *bytes);", "uint32_t *bytes);"),
    ("a parameter more", "ipc_allow_fds", "ipc_allow_fds(", "ipc_allow_fds(int more, "),
    (
        "what a function returns",
        "ipc_connection_eq",
        "int8_t ipc_connection_eq(",
        "int64_t ipc_connection_eq(",
    ),
    ("a member's type", "ipc_message", "    uint32_t length;", "    uint64_t length;"),
    ("a member's sign", "ipc_connection_infos", "    int32_t size;", "    uint32_t size;"),
    ("a member more", "ipc_peer", "    pid_t pid;", "    pid_t pid; int more;"),
    (
        "members moved",
        "ipc_event",
        "    enum ipc_event_type type;",
        "    void *more; enum ipc_event_type type;",
    ),
    ("a value", "IPC_ERROR_USOCK_SEND", "IPC_ERROR_USOCK_SEND = 29,", "IPC_ERROR_USOCK_SEND = 60,"),
    (
        "the order of values",
        "IPC_EVENT_TYPE_ERROR",
        "    IPC_EVENT_TYPE_NOT_SET,",
        "    MORE, IPC_EVENT_TYPE_NOT_SET,",
    ),
    ("a value more", "MORE", "EMPTY_MESSAGE_LIST = 59", "EMPTY_MESSAGE_LIST = 59, MORE"),
    ("a value removed", "IPC_EVENT_TYPE_MESSAGE", "    IPC_EVENT_TYPE_MESSAGE\n", ""),
];

/// Changes that no binary shows.
const NO_CHANGES: [(&str, &str, &str); 3] = [
    ("a comment", "struct ipc_message {", "/* more */\n\n\nstruct ipc_message {"),
    ("the name of a parameter", "size_t *bytes);", "size_t *count);"),
    ("a macro", "#define IPC_VERSION 1", "#define IPC_VERSION 1\n#define IPC_MORE 1"),
];

/// Tests the comparison itself: changes of each kind are reported, and equal interfaces are not.
#[test]
fn change_of_the_interface_is_reported() {
    let Some(baseline) = baseline_to_compare("what the comparison of binary interfaces sees") else { return };
    let compare = |interface: &Interface| {
        let dir = tempfile::tempdir().unwrap();
        difference(&baseline, &interface.compile(dir.path()))
    };
    let assert_seen = |what: &str, named: &str, changed: &Interface| match compare(changed) {
        Ok(()) => panic!("not seen: {what}"),
        Err(said) => assert!(said.contains(named), "{what}: nothing is said of {named}\n{said}"),
    };
    let interface = Interface::new();
    for name in ["ipc_flush", "message_types"] {
        let mut without = interface.clone();
        without.names.retain(|other| other != name);
        assert_seen("one removed", name, &without);
    }
    let mut added = interface.with("void log_format (", "void log_more (const char *); void log_format (");
    added.names.push("log_more".to_owned());
    assert_seen("a function added", "log_more", &added);
    for (what, named, from, to) in CHANGES {
        assert_seen(what, named, &interface.with(from, to));
    }
    for (what, from, to) in NO_CHANGES {
        let same = interface.with(from, to);
        compare(&same).unwrap_or_else(|said| panic!("a difference between equal interfaces: {what}\n{said}"));
    }
}
