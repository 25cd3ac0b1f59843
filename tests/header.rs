//! `include/ipc.h` is what cbindgen makes of the source. `make header` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test")]
use std::path::Path;

#[test]
fn header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/capi/types.rs"))
        .with_src(root.join("src/error.rs"))
        .with_src(root.join("src/capi/server_and_client.rs"))
        .with_src(root.join("src/capi/events.rs"))
        .with_src(root.join("src/capi/messages.rs"))
        .with_src(root.join("src/capi/usock.rs"))
        .with_src(root.join("src/capi/printing.rs"))
        .with_src(root.join("src/capi/log.rs"))
        .generate()
        .unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);
    let header = root.join("include/ipc.h");
    if std::env::var_os("LIBIPC_WRITE_HEADER").is_some() {
        std::fs::write(&header, &made).unwrap();
    }
    let kept = std::fs::read(&header).unwrap_or_default();
    assert!(made == kept, "include/ipc.h is not what the source says; mend it with: make header");
}
