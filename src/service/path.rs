//! The path of a service: `<rundir>/<name>-<index>-<version>`, and making the run directory. No state.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// The run directory if the environment does not name one.
pub const DEFAULT_RUNDIR: &CStr = c"/run/ipc/";

/// The size of the longest path in bytes, including its NUL (PATH_MAX of Linux).
pub const PATH_MAX: usize = 4096;

/// The path of the service's socket file; ENAMETOOLONG if it does not fit into [`PATH_MAX`].
pub fn path(rundir: &CStr, name: &CStr, index: u32, version: u32) -> Result<CString, Errno> {
    // Twice a hyphen, a sign and ten digits; one slash and the NUL.
    const SUFFIX_SIZE: usize = 26;
    let mut path = Vec::new();
    path.try_reserve_exact(rundir.count_bytes() + name.count_bytes() + SUFFIX_SIZE)
        .map_err(|_| Errno::ENOMEM)?;
    path.extend_from_slice(rundir.to_bytes());
    path.push(b'/');
    path.extend_from_slice(name.to_bytes());
    // The original library prints both numbers with "%d".
    write!(path, "-{}-{}", index as i32, version as i32).map_err(|_| Errno::EINVAL)?;
    if path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    c_string(&path)
}

/// A string for system calls; ENOMEM if there is no memory. `CString::new` would abort in this case: it
/// shrinks its buffer, which can fail. This buffer has the exact size from the start.
pub fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    let mut exact = Vec::new();
    exact.try_reserve_exact(bytes.len() + 1).map_err(|_| Errno::ENOMEM)?;
    exact.extend_from_slice(bytes);
    exact.push(0);
    CString::from_vec_with_nul(exact).map_err(|_| Errno::EINVAL)
}

/// Makes the directory of a service's path, if only its last component is missing.
pub fn make_rundir(service: &CStr) -> Result<(), Errno> {
    let path = Path::new(OsStr::from_bytes(service.to_bytes()));
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    let directory = c_string(directory.as_os_str().as_bytes())?;
    let made = nix::unistd::mkdir(directory.as_c_str(), Mode::from_bits_truncate(0o755));
    // mkdir(2) may fail although the directory exists: in a sandbox, or in a read-only file system.
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
    fn default_path_has_two_slashes() {
        let path = path(DEFAULT_RUNDIR, c"pongd", 0, 0).unwrap();
        assert_eq!(path.as_c_str(), c"/run/ipc//pongd-0-0");
    }

    #[test]
    fn index_and_version_are_printed_signed() {
        let path = path(c"/r", c"s", u32::MAX, 1 << 31).unwrap();
        assert_eq!(path.as_c_str(), c"/r/s--1--2147483648");
    }

    #[test]
    fn path_is_refused_when_it_exceeds_path_max() {
        let name = "n".repeat(PATH_MAX - 1 - "/r/-0-0".len());
        let longest = path(c"/r", &CString::new(name.clone()).unwrap(), 0, 0).unwrap();
        assert_eq!(longest.count_bytes(), PATH_MAX - 1);
        let longer = CString::new(name + "n").unwrap();
        assert_eq!(path(c"/r", &longer, 0, 0), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn rundir_is_made_when_only_its_last_part_is_missing() {
        let top = tempfile::tempdir().unwrap();
        let below = |path| CString::new(top.path().join(path).into_os_string().into_vec()).unwrap();
        make_rundir(&below("run/s-0-0")).unwrap();
        make_rundir(&below("run/s-0-0")).unwrap();
        assert!(top.path().join("run").is_dir());
        assert_eq!(make_rundir(&below("a/b/c")), Err(Errno::ENOENT));
    }
}
