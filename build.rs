//! Compiles the two C sources of the library, which cannot be written in Rust: variadic functions (`log.c`),
//! and waiting with cleanup handlers of pthread_cleanup_push(3) (`wait.c`).

fn main() {
    println!("cargo:rerun-if-changed=src/capi/log.c");
    println!("cargo:rerun-if-changed=src/kernel/wait.c");
    cc::Build::new()
        .file("src/capi/log.c")
        .file("src/kernel/wait.c")
        .std("c11")
        // If a thread is cancelled while it waits, the C library unwinds its stack through wait.c. With
        // -fexceptions only the unwinder would find the handlers of pthread_cleanup_push, and the unwinder
        // stops at a signal handler without tables, as C programs have them on arm and riscv64. Without
        // -fexceptions the thread has a list of its handlers.
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
