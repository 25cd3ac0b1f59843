//! Where a service lives: `<rundir>/<name>-<index>-<version>`, and the run directory itself.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// The run directory where the environment names none.
pub const DEFAULT_RUNDIR: &CStr = c"/run/ipc/";

/// Bytes of the longest path, its NUL included (PATH_MAX of Linux).
pub const PATH_MAX: usize = 4096;

/// The socket's path: ENAMETOOLONG if the path does not fit into [`PATH_MAX`].
pub fn path(rundir: &CStr, name: &CStr, index: u32, version: u32) -> Result<CString, Errno> {
    // "-", ten digits and a sign, twice; a slash and the NUL.
    const SUFFIX_SIZE: usize = 26;
    let mut path = Vec::new();
    path.try_reserve_exact(rundir.count_bytes() + name.count_bytes() + SUFFIX_SIZE)
        .map_err(|_| Errno::ENOMEM)?;
    path.extend_from_slice(rundir.to_bytes());
    path.push(b'/');
    path.extend_from_slice(name.to_bytes());
    // Original programs see these two printed with "%d".
    write!(path, "-{}-{}", index as i32, version as i32).map_err(|_| Errno::EINVAL)?;
    if path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    c_string(&path)
}

/// A string for system calls. One that is made without care gives back the room that it does not need, and
/// ends the program if that fails: this one has none.
pub fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    let mut exact = Vec::new();
    exact.try_reserve_exact(bytes.len() + 1).map_err(|_| Errno::ENOMEM)?;
    exact.extend_from_slice(bytes);
    exact.push(0);
    CString::from_vec_with_nul(exact).map_err(|_| Errno::EINVAL)
}

/// Makes the directory of a service's path where its last component is missing.
pub fn make_rundir(service: &CStr) -> Result<(), Errno> {
    let path = Path::new(OsStr::from_bytes(service.to_bytes()));
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    let directory = c_string(directory.as_os_str().as_bytes())?;
    let made = nix::unistd::mkdir(directory.as_c_str(), Mode::from_bits_truncate(0o755));
    // It may be there though it cannot be made: a sandbox refuses mkdir(2), or the file system is read-only.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match made {
        Err(Errno::EEXIST) => Ok(()),
        result => {
            result.or_else(|errno| open(directory.as_c_str(), flags, Mode::empty()).map(drop).or(Err(errno)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn the_default_has_two_slashes() {
        let path = path(DEFAULT_RUNDIR, c"pongd", 0, 0).unwrap();
        assert_eq!(path.as_c_str(), c"/run/ipc//pongd-0-0");
    }

    #[test]
    fn numbers_are_printed_signed() {
        let path = path(c"/r", c"s", u32::MAX, 1 << 31).unwrap();
        assert_eq!(path.as_c_str(), c"/r/s--1--2147483648");
    }

    #[test]
    fn the_longest_path_and_one_byte_more() {
        let name = "n".repeat(PATH_MAX - 1 - "/r/-0-0".len());
        let longest = path(c"/r", &CString::new(name.clone()).unwrap(), 0, 0).unwrap();
        assert_eq!(longest.count_bytes(), PATH_MAX - 1);
        let longer = CString::new(name + "n").unwrap();
        assert_eq!(path(c"/r", &longer, 0, 0), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn the_last_directory_is_made_and_one_that_is_there_is_kept() {
        let top = tempfile::tempdir().unwrap();
        let below = |path| CString::new(top.path().join(path).into_os_string().into_vec()).unwrap();
        make_rundir(&below("run/s-0-0")).unwrap();
        make_rundir(&below("run/s-0-0")).unwrap();
        assert!(top.path().join("run").is_dir());
        assert_eq!(make_rundir(&below("a/b/c")), Err(Errno::ENOENT));
    }
}
