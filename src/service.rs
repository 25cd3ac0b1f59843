//! Where a service lives: `<rundir>/<name>-<index>-<version>`, and the run directory itself.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::Mode;

/// The run directory where the environment names none.
pub const DEFAULT_RUNDIR: &str = "/run/ipc/";

/// Bytes of the longest path, its NUL included (PATH_MAX of Linux).
pub const PATH_MAX: usize = 4096;

/// The socket's path: ENAMETOOLONG where it does not fit into [`PATH_MAX`].
pub fn path(rundir: &OsStr, name: &OsStr, index: u32, version: u32) -> Result<PathBuf, Errno> {
    // Original programs see these two printed with "%d".
    let suffix = format!("-{}-{}", index.cast_signed(), version.cast_signed());
    let parts = [rundir.as_bytes(), b"/", name.as_bytes(), suffix.as_bytes()];
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut path = Vec::new();
    path.try_reserve_exact(length).map_err(|_| Errno::ENOMEM)?;
    parts.iter().for_each(|part| path.extend_from_slice(part));
    Ok(PathBuf::from(OsString::from_vec(path)))
}

/// Makes the directory of a service's path where its last component is missing.
pub fn make_rundir(service: &Path) -> Result<(), Errno> {
    let Some(directory) = service.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    match nix::unistd::mkdir(directory, Mode::from_bits_truncate(0o755)) {
        Err(errno) if errno != Errno::EEXIST => Err(errno),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_two_slashes() {
        let path = path(DEFAULT_RUNDIR.as_ref(), "pongd".as_ref(), 0, 0).unwrap();
        assert_eq!(path.to_str(), Some("/run/ipc//pongd-0-0"));
    }

    #[test]
    fn numbers_are_printed_signed() {
        let path = path("/r".as_ref(), "s".as_ref(), u32::MAX, 7).unwrap();
        assert_eq!(path.to_str(), Some("/r/s--1-7"));
    }

    #[test]
    fn the_longest_path_and_one_byte_more() {
        let name = "n".repeat(PATH_MAX - 1 - "/r/-0-0".len());
        assert_eq!(path("/r".as_ref(), name.as_ref(), 0, 0).unwrap().as_os_str().len(), PATH_MAX - 1);
        let longer = name + "n";
        assert_eq!(path("/r".as_ref(), longer.as_ref(), 0, 0), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn the_last_directory_is_made_and_one_that_is_there_is_kept() {
        let top = tempfile::tempdir().unwrap();
        let service = top.path().join("run").join("s-0-0");
        make_rundir(&service).unwrap();
        make_rundir(&service).unwrap();
        assert!(top.path().join("run").is_dir());
        assert_eq!(make_rundir(&top.path().join("a/b/c")), Err(Errno::ENOENT));
    }
}
