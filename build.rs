//! Gives the shared library its SONAME and compiles the variadic functions.

fn main() {
    println!("cargo:rerun-if-changed=src/capi/log.c");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libipc.so.0");
    cc::Build::new()
        .file("src/capi/log.c")
        .std("c99")
        .flag("-fvisibility=hidden")
        .warnings(true)
        .extra_warnings(true)
        .compile("ipc_log");
}
