//! The identity and the kind of a file: fstat(2), lstat(2). No state.
//!
//! The 64-bit system calls are used: on 32-bit machines the others fail for files with large inode numbers.
#![deny(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::Result;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, major, minor};

/// The identity of a file: its device and its inode. No two files that exist at the same time have the same
/// identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The number of the device that contains the file (`st_dev`).
    pub device: u64,
    /// The number of the file on that device (`st_ino`).
    pub inode: u64,
}

/// The file's metadata, as the kernel has returned it.
pub struct File(libc::stat64);

impl File {
    /// The file that this descriptor refers to.
    #[allow(unsafe_code, reason = "nix has no 64-bit call on 32-bit machines")]
    pub fn of(fd: RawFd) -> Result<Self> {
        // SAFETY: `room` is a whole structure, which the kernel writes.
        Self::filled(|room| unsafe { libc::fstat64(fd, room) })
    }

    /// The file at this path; for a symbolic link, the link itself.
    #[allow(unsafe_code, reason = "see File::of")]
    pub fn at(path: &CStr) -> Result<Self> {
        // SAFETY: the path ends in NUL, and `room` is a whole structure, which the kernel writes.
        Self::filled(|room| unsafe { libc::lstat64(path.as_ptr(), room) })
    }

    #[allow(unsafe_code, reason = "see File::of")]
    fn filled(ask: impl FnOnce(*mut libc::stat64) -> libc::c_int) -> Result<Self> {
        let mut file = MaybeUninit::uninit();
        Errno::result(ask(file.as_mut_ptr()))?;
        // SAFETY: the call has succeeded, so the kernel has written the structure.
        Ok(Self(unsafe { file.assume_init() }))
    }

    /// The file's identity.
    pub fn id(&self) -> FileId {
        FileId { device: self.0.st_dev, inode: self.0.st_ino }
    }

    /// Whether the file is of this kind.
    pub fn is(&self, kind: SFlag) -> bool {
        SFlag::from_bits_truncate(self.0.st_mode) & SFlag::S_IFMT == kind
    }

    /// The major and minor numbers of the device that a device file represents (`st_rdev`).
    pub fn device_of_special_file(&self) -> (u64, u64) {
        numbers(self.0.st_rdev)
    }
}

impl FileId {
    /// The identity of the file that this descriptor refers to.
    pub fn of(fd: RawFd) -> Result<Self> {
        File::of(fd).map(|file| file.id())
    }

    /// The major and minor numbers of the device that contains the file.
    pub fn device_numbers(self) -> (u64, u64) {
        numbers(self.device)
    }
}

fn numbers(device: u64) -> (u64, u64) {
    (major(device), minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn file_is_the_same_by_descriptor_and_by_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
        let (by_fd, by_path) = (File::of(file.as_raw_fd()).unwrap(), File::at(&path).unwrap());
        assert_eq!(by_fd.id(), by_path.id());
        assert!(by_path.is(SFlag::S_IFREG) && !by_path.is(SFlag::S_IFSOCK));
        assert!(!File::at(c"/dev/ptmx").unwrap().is(SFlag::S_IFIFO));
        assert_ne!(File::at(c"/").unwrap().id(), by_path.id());
        assert_eq!(File::of(-1).err(), Some(Errno::EBADF));
        assert_eq!(File::at(c"/nonexistent").err(), Some(Errno::ENOENT));
    }
}
