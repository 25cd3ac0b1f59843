//! Which descriptors are the library's own.
//!
//! A program closes the descriptor of a connection and leaves the entry in its list. Should the library open one then,
//! it may get that number, and the entry would look alive: what the loop reads and closes must not be its own. A
//! program that closes a connection twice closes nothing of the library's, either.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

/// As many as a process may have, unless the system's administrator allows more (fs.nr_open): those beyond are not
/// noted.
const MOST: usize = 1 << 20;

/// A bit for each descriptor: to be asked before each change of an epoll set, and to be changed without a lock.
static OWN: [AtomicU64; MOST / 64] = [const { AtomicU64::new(0) }; MOST / 64];

fn bit(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(fd).ok()?;
    Some((OWN.get(number / 64)?, 1 << (number % 64)))
}

/// Whether the descriptor is the library's own.
pub fn is_own(fd: RawFd) -> bool {
    bit(fd).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

/// A descriptor of the program, by its number: EBADF for one of the library's own, which the number of a connection
/// that the program has closed may have become.
pub fn of_program(fd: RawFd) -> nix::Result<RawFd> {
    if is_own(fd) { Err(Errno::EBADF) } else { Ok(fd) }
}

/// Takes the marks off numbers that are not open. In a forked child there may be some: the kernel copies the descriptors
/// before the memory, and another thread of the parent may have opened and marked one between the two.
pub fn retain_open(is_open: impl Fn(RawFd) -> bool) {
    for (word, first) in OWN.iter().zip((0..).step_by(64)) {
        let mut marks = word.load(Ordering::Acquire);
        while marks != 0 {
            let number = marks.trailing_zeros();
            marks &= marks - 1;
            if !is_open(first + number.cast_signed()) {
                word.fetch_and(!(1 << number), Ordering::AcqRel);
            }
        }
    }
}

/// The library's own for as long as it lives. It is to be dropped before the descriptor is closed.
pub struct Mark(RawFd);

impl Mark {
    /// Marks this descriptor.
    pub fn new(fd: BorrowedFd<'_>) -> Self {
        let fd = fd.as_raw_fd();
        if let Some((word, bit)) = bit(fd) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
        Self(fd)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some((word, bit)) = bit(self.0) {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }
}

/// A descriptor that the library keeps.
pub struct Kept {
    _mark: Mark,
    file: OwnedFd,
}

impl Kept {
    /// It is the program's from now on.
    pub fn give_away(self) -> OwnedFd {
        self.file
    }
}

impl From<OwnedFd> for Kept {
    fn from(file: OwnedFd) -> Self {
        Self { _mark: Mark::new(file.as_fd()), file }
    }
}

impl AsRawFd for Kept {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_own_until_it_is_closed_or_given_away() {
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let kept = Kept::from(open());
        let number = kept.as_raw_fd();
        assert!(is_own(number));
        assert_eq!(of_program(number), Err(Errno::EBADF));
        let given = kept.give_away();
        assert!(!is_own(number) && given.as_raw_fd() == number);
        assert_eq!(of_program(number), Ok(number));
        let kept = Kept::from(given);
        assert!(is_own(number));
        drop(kept);
        assert!(!is_own(number));
        assert!(!is_own(-1) && !is_own(RawFd::MAX));
        let kept = Kept::from(open());
        retain_open(|fd| fd != kept.as_raw_fd());
        assert!(!is_own(kept.as_raw_fd()));
    }
}
