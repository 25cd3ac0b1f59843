//! `include/ipc.h` and `include/ipc_ext.h` equal cbindgen's output for the source. `make header` writes both
//! files.

#![allow(clippy::unwrap_used, reason = "a test")]
use std::path::Path;

use cbindgen::{Builder, Config};

const TYPES: [&str; 2] = ["src/capi/types.rs", "src/error.rs"];

fn compare(header: &str, config: Config, sources: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let builder = Builder::new().with_config(config);
    let builder =
        TYPES.iter().chain(sources).fold(builder, |builder, source| builder.with_src(root.join(source)));
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let made = in_c89(&String::from_utf8(made).unwrap());
    let header = root.join(header);
    if std::env::var_os("LIBIPC_WRITE_HEADER").is_some() {
        std::fs::write(&header, &made).unwrap();
    }
    let kept = std::fs::read(&header).unwrap_or_default();
    assert!(
        made.as_bytes() == kept,
        "{} differs from the source; update it with: make header",
        header.display()
    );
}

/// C89 has no comments that begin with two slashes, and no comma after the last enumerator.
fn in_c89(header: &str) -> String {
    let line = |line: &str| match line.split_once("// ") {
        Some((code, comment)) => format!("{code}/* {comment} */\n"),
        None => format!("{line}\n"),
    };
    header.lines().map(line).collect::<String>().replace(",\n};", "\n};")
}

fn config(name: &str) -> Config {
    Config::from_file(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn ipc_h_is_up_to_date() {
    let sources = [
        "src/capi/server_and_client.rs",
        "src/capi/events.rs",
        "src/capi/entries.rs",
        "src/capi/messages.rs",
        "src/capi/usock.rs",
        "src/capi/printing.rs",
        "src/capi/log.rs",
    ];
    compare("include/ipc.h", config("cbindgen.toml"), &sources);
}

#[test]
fn ipc_ext_h_is_up_to_date() {
    let sources = [
        "src/capi/waiting.rs",
        "src/capi/clients.rs",
        "src/capi/services.rs",
        "src/capi/notices.rs",
        "src/capi/sending.rs",
        "src/capi/queueing.rs",
        "src/capi/passing.rs",
    ];
    compare("include/ipc_ext.h", config("cbindgen_ext.toml"), &sources);
}
