//! Compiles what cannot be written in Rust: variadic functions, and waiting with cleanup handlers.

fn main() {
    println!("cargo:rerun-if-changed=src/capi/log.c");
    println!("cargo:rerun-if-changed=src/kernel/wait.c");
    cc::Build::new()
        .file("src/capi/log.c")
        .file("src/kernel/wait.c")
        .std("c11")
        // A thread that ends while it waits is unwound from there. glibc's handlers of pthread_cleanup_push are
        // found by the unwinder alone with -fexceptions, and it does not get past a signal handler without tables,
        // as C programs have them on arm and riscv64. Without -fexceptions the thread itself knows its handlers.
        .flag("-fno-exceptions")
        .flag("-funwind-tables")
        .flag("-fasynchronous-unwind-tables")
        .flag("-fvisibility=hidden")
        // Dates after 2038 on 32-bit machines.
        .define("_FILE_OFFSET_BITS", "64")
        .define("_TIME_BITS", "64")
        .warnings(true)
        .extra_warnings(true)
        .compile("ipc_c");
}
