//! Which file it is, and of what kind. With the 64-bit calls: the others fail on 32-bit machines for files whose inode numbers are
//! larger.
#![deny(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::Result;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, major, minor};

/// Which file it is: its device and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// What the kernel says of a file.
pub struct File(libc::stat64);

impl File {
    /// The file that this descriptor refers to.
    #[allow(unsafe_code, reason = "nix has no 64-bit call on 32-bit machines")]
    pub fn behind(fd: RawFd) -> Result<Self> {
        // SAFETY: there is room for what the kernel writes.
        Self::filled(|room| unsafe { libc::fstat64(fd, room) })
    }

    /// The file at this path, which may be a symbolic link itself.
    #[allow(unsafe_code, reason = "see behind")]
    pub fn at(path: &CStr) -> Result<Self> {
        // SAFETY: a string, and room for what the kernel writes.
        Self::filled(|room| unsafe { libc::lstat64(path.as_ptr(), room) })
    }

    #[allow(unsafe_code, reason = "see behind")]
    fn filled(ask: impl FnOnce(*mut libc::stat64) -> libc::c_int) -> Result<Self> {
        let mut file = MaybeUninit::uninit();
        Errno::result(ask(file.as_mut_ptr()))?;
        // SAFETY: the kernel has written all of it.
        Ok(Self(unsafe { file.assume_init() }))
    }

    /// Which one it is.
    pub fn id(&self) -> FileId {
        FileId { device: self.0.st_dev, inode: self.0.st_ino }
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: SFlag) -> bool {
        SFlag::from_bits_truncate(self.0.st_mode) & SFlag::S_IFMT == kind
    }

    /// The numbers of the device that a device file stands for.
    pub fn stands_for(&self) -> (u64, u64) {
        numbers(self.0.st_rdev)
    }
}

impl FileId {
    /// The identity of the file that this descriptor refers to.
    pub fn of(fd: RawFd) -> Result<Self> {
        File::behind(fd).map(|file| file.id())
    }

    /// The numbers of the device that has the file.
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
        let (by_fd, by_path) = (File::behind(file.as_raw_fd()).unwrap(), File::at(&path).unwrap());
        assert_eq!(by_fd.id(), by_path.id());
        assert!(by_path.is(SFlag::S_IFREG) && !by_path.is(SFlag::S_IFSOCK));
        assert!(!File::at(c"/dev/ptmx").unwrap().is(SFlag::S_IFIFO));
        assert_ne!(File::at(c"/").unwrap().id(), by_path.id());
        assert_eq!(File::behind(-1).err(), Some(Errno::EBADF));
        assert_eq!(File::at(c"/nonexistent").err(), Some(Errno::ENOENT));
    }
}
