//! The packages as programs use them: the examples, and the library under both of its names.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::staging::{has, outcome, printed, root, run, skipped};
use crate::{VERSION, packages};

/// The examples of the package, compiled with its Makefile, as autopkgtest does on a system that has the
/// packages.
#[test]
fn examples_compile_with_pkg_config_and_run() {
    let Some(packages) = packages() else { return };
    if !has("pkg-config") {
        return skipped("the examples of the package", "pkg-config");
    }
    let dir = packages.unpacked();
    let lib = dir.path().join(&packages.lib);
    let room = tempfile::tempdir().unwrap();
    let mut script = Command::new(root().join("debian/tests/examples"));
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "BUILD", "PKG_CONFIG_PATH"] {
        script.env_remove(variable);
    }
    script
        .env("AUTOPKGTEST_TMP", room.path())
        .env("EXAMPLES", dir.path().join("usr/share/doc/libipc-dev/examples"))
        .env("LD_LIBRARY_PATH", &lib)
        .env("PKG_CONFIG_LIBDIR", lib.join("pkgconfig"))
        .env("PKG_CONFIG_SYSROOT_DIR", dir.path())
        // /usr/include below the directory is not the one that every compiler searches.
        .env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1")
        .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1");
    let (said, errors, status) = outcome(&mut script);
    assert!(status.success(), "{status}\n{said}{errors}");
}

const OLD_PROGRAM: &str = r#"
#include <ipc.h>
int main (void)
{
    puts (ipc_errors_get (IPC_ERROR_NONE));
    return 0;
}
"#;

const BOTH_NAMES: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
int main (void)
{
    void *old_name = dlopen ("libipc.so", RTLD_NOW), *new_name = dlopen ("libipc.so.0", RTLD_NOW);
    if (old_name == NULL || new_name == NULL)
        return 1;
    puts (old_name == new_name ? "one library" : "two libraries");
    return 0;
}
"#;

fn compile(source: &str, program: &Path, arguments: &[String]) {
    let file = program.with_extension("c");
    fs::write(&file, source).unwrap();
    run(Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(program)
        .arg(file)
        .args(arguments));
}

#[test]
fn both_names_load_the_same_library() {
    let Some(packages) = packages() else { return };
    let dir = packages.unpacked();
    let lib = dir.path().join(&packages.lib);
    // As the installation of any library does. A single directory does not need root.
    let ldconfig =
        ["/usr/sbin/ldconfig", "/sbin/ldconfig"].map(Path::new).into_iter().find(|path| path.is_file());
    if let Some(ldconfig) = ldconfig {
        run(Command::new(ldconfig).arg("-n").arg(&lib));
        for name in ["libipc.so", "libipc.so.0"] {
            let target = fs::read_link(lib.join(name)).unwrap();
            assert_eq!(target, Path::new(&format!("libipc.so.{VERSION}")), "{name}");
        }
    } else {
        skipped("what ldconfig makes of the links", "ldconfig");
    }

    // A substitute for the library of 2019: the function that the program calls, and no SONAME.
    let old = tempfile::tempdir().unwrap();
    let shared = ["-shared", "-fPIC"].map(str::to_owned);
    let function = "const char *ipc_errors_get (int e);\nconst char *ipc_errors_get (int e) { (void) e; return \"of 2019\"; }\n";
    compile(function, &old.path().join("libipc.so"), &shared);
    let include = format!("-I{}", dir.path().join("usr/include").display());
    let program = old.path().join("program");
    compile(OLD_PROGRAM, &program, &[include, format!("-L{}", old.path().display()), "-lipc".to_owned()]);
    let with = |place: &Path, program: &Path| printed(Command::new(program).env("LD_LIBRARY_PATH", place));
    assert_eq!(with(old.path(), &program), "of 2019\n");
    assert_eq!(with(&lib, &program), "no error\n");

    let program = old.path().join("both");
    compile(BOTH_NAMES, &program, &["-ldl".to_owned()]);
    assert_eq!(with(&lib, &program), "one library\n");
}
