//! The descriptors that the library keeps for itself, and how the library checks that a number still is its
//! own.
//!
//! A program may close descriptors that it does not know, and the kernel then gives the numbers to files of
//! the program. So the library checks each of its descriptors before it closes it, and where it must notice a
//! loss; a wait uses the number unchecked. There are two types:
//!
//! * [`InternalFd`]: an open file that the library made (an epoll set, a clock). It carries a mark: the
//!   signal number that fcntl(2) F_SETSIG stores in the open file, and that nothing else uses.
//! * [`KeptFd`]: a descriptor of a file that the library did not make (a descriptor that arrived with a
//!   message, a copy of a connection). It is recognised by device and inode.
//!
//! Neither check distinguishes two descriptors of the same kind, if the program has closed the first and the
//! second got its number. So each descriptor has an [`Id`], and a table notes for each number the Id of the
//! descriptor that had the number last. With the same table the library refuses to close one of its kept
//! descriptors if the program asks for it by a number that was the program's before.
//!
//! ```text
//! made and noted ──the program closes the number──► not intact: never used or closed again
//!                ──drop──────► closed, if intact; removed from the table
//!                ──give_away─► the program's; removed from the table (KeptFd only)
//! ```
//!
//! When the end of a connection has been reported, the connection is closed but its number is held for a
//! while ([`close_and_hold`]): a KeptFd of the placeholder, a file that can neither be read nor written
//! (O_PATH), has the number.
//!
//! The owner of an InternalFd or KeptFd holds the value; the table ([`NOTED`]) and the placeholder
//! ([`PLACEHOLDER`]) have locks of their own.
#![deny(unsafe_code)]

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use crate::kernel::file::FileId;
use crate::process::sharded::{NumberMap, empty_map, release_map};
use crate::process::sync::{AtomicU32, Mutex, MutexGuard, Ordering, lock};

/// The mark of descriptors whose numbers the program does not have. glibc reserves signals 32 and 33 for
/// itself, so no program sets them with F_SETSIG.
const PRIVATE_MARK: libc::c_int = 33;

/// The mark of descriptors whose numbers the program has been given.
const PUBLIC_MARK: libc::c_int = 32;

/// Commands of fcntl(2) from asm-generic/fcntl.h; the same on every architecture that libc supports.
const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;

#[allow(unsafe_code, reason = "nix does not know F_SETSIG")]
fn set_mark(fd: RawFd, mark: libc::c_int) -> Result<()> {
    // SAFETY: the call changes only a number that is stored in the open file.
    Errno::result(unsafe { libc::fcntl(fd, F_SETSIG, mark) }).map(drop)
}

/// The mark of the open file that this number refers to.
#[allow(unsafe_code, reason = "nix does not know F_GETSIG")]
fn mark_of(fd: RawFd) -> Result<libc::c_int> {
    // SAFETY: the call only reads a number that is stored in the open file.
    Errno::result(unsafe { libc::fcntl(fd, F_GETSIG) })
}

/// Closes a number that the caller has just verified to be the library's own.
#[allow(unsafe_code, reason = "a number that was found to be the library's")]
fn close_number(fd: RawFd) {
    // SAFETY: the caller has verified that the number is the library's own.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// Moves the file to a number above those of the standard streams: a program that was started without
/// standard streams prints to whatever file has these numbers. If no other number is free, the file keeps its
/// number.
pub fn beyond_standard(file: OwnedFd) -> OwnedFd {
    if file.as_raw_fd() > libc::STDERR_FILENO {
        return file;
    }
    match fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(libc::STDERR_FILENO + 1)) {
        #[allow(unsafe_code, reason = "nix returns a plain number")]
        // SAFETY: the descriptor is new, and no other code knows it yet.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
        Err(_) => file,
    }
}

/// A descriptor of an open file that the library made.
pub struct InternalFd {
    /// The number; above the standard streams' if possible.
    fd: RawFd,
    /// The file's mark, private or public. None if a sandbox refuses F_SETSIG: the mark is then not checked.
    mark: Option<libc::c_int>,
    /// Which of the library's descriptors this is.
    id: Id,
    /// The value of [`MADE`] when the table was last found to note this Id for the number. As long as MADE
    /// has this value, no other descriptor of the library can have got the number, and the table need not be
    /// read. Written by `is_noted`.
    seen: AtomicU32,
}

impl InternalFd {
    /// Takes over a file whose number the program does not get.
    pub fn new(file: OwnedFd) -> Self {
        Self::with_mark(file, PRIVATE_MARK)
    }

    /// Takes over a file whose number the program gets.
    pub fn public(file: OwnedFd) -> Self {
        Self::with_mark(file, PUBLIC_MARK)
    }

    fn with_mark(file: OwnedFd, mark: libc::c_int) -> Self {
        let file = beyond_standard(file);
        let mark = set_mark(file.as_raw_fd(), mark).is_ok().then_some(mark);
        let id = note(file.as_raw_fd(), None);
        Self { fd: file.into_raw_fd(), mark, id, seen: AtomicU32::new(id.0) }
    }

    /// As the function [`is_noted`], with the table's answer cached in `seen`.
    fn is_noted(&self) -> bool {
        let made = MADE.load(Ordering::Relaxed);
        if self.seen.load(Ordering::Relaxed) == made {
            return true;
        }
        let is_noted = is_noted(self.fd, self.id);
        if is_noted {
            self.seen.store(made, Ordering::Relaxed);
        }
        is_noted
    }

    /// Whether the number still is this descriptor's.
    pub fn is_intact(&self) -> bool {
        match (mark_of(self.fd), self.mark) {
            (Err(Errno::EBADF), _) => false,
            (Ok(now), Some(mark)) => now == mark && self.is_noted(),
            // The mark cannot be read, or was not set.
            (Err(_), _) | (Ok(_), None) => self.is_noted(),
        }
    }
}

impl AsRawFd for InternalFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for InternalFd {
    fn drop(&mut self) {
        let is_intact = self.is_intact();
        remove_note(self.fd, self.id);
        if is_intact {
            close_number(self.fd);
        }
    }
}

/// Identifies a descriptor of the library: its serial number, counted by [`MADE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u32);

/// How many descriptors the library has made or kept so far; written by `note`.
static MADE: AtomicU32 = AtomicU32::new(0);

/// The descriptor of the library that had a number last.
struct Noted {
    /// The Id of that descriptor.
    id: Id,
    /// The identity of its file for a KeptFd; None for an InternalFd, or if the identity could not be read.
    file: Option<FileId>,
}

/// A note for the number of each descriptor that the library keeps. Locked for short times only, and after
/// every other lock of the library, also after that of [`PLACEHOLDER`].
static NOTED: Mutex<NumberMap<RawFd, Noted>> = Mutex::new(empty_map());

/// Notes a new descriptor. If there is no memory for the note, the descriptor works, but the program may
/// close it by a number that it has closed before.
fn note(fd: RawFd, file: Option<FileId>) -> Id {
    let id = Id(MADE.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
    let mut noted = lock(&NOTED);
    if noted.contains_key(&fd) || noted.try_reserve(1).is_ok() {
        noted.insert(fd, Noted { id, file });
    }
    id
}

/// Whether the note for the number is this descriptor's, or there is none.
fn is_noted(fd: RawFd, id: Id) -> bool {
    lock(&NOTED).get(&fd).is_none_or(|noted| noted.id == id)
}

/// Removes the note of this descriptor.
fn remove_note(fd: RawFd, id: Id) {
    let mut noted = lock(&NOTED);
    // The number may belong to a later descriptor by now, whose note stays.
    if noted.get(&fd).is_some_and(|noted| noted.id == id) {
        noted.remove(&fd);
    }
}

/// The placeholder and the table, locked for a fork; dropping the value unlocks them.
pub struct Frozen {
    _placeholder: MutexGuard<'static, Option<KeptFd>>,
    _noted: MutexGuard<'static, NumberMap<RawFd, Noted>>,
}

/// Locks the placeholder and the table.
pub fn freeze() -> Frozen {
    let placeholder = lock(&PLACEHOLDER);
    Frozen { _placeholder: placeholder, _noted: lock(&NOTED) }
}

/// At the end of the process: closes the placeholder, and frees the table's memory if the table is empty.
pub fn release() {
    drop(lock(&PLACEHOLDER).take());
    release_map(&mut lock(&NOTED));
}

/// A descriptor that the library keeps of a file which the library did not make.
pub struct KeptFd {
    /// The number; above the standard streams' if possible.
    fd: RawFd,
    /// The identity of the file. None if fstat(2) failed: the identity is then not checked.
    file: Option<FileId>,
    /// Which of the library's descriptors this is.
    id: Id,
}

impl KeptFd {
    /// Takes over the descriptor.
    pub fn new(file: OwnedFd) -> Self {
        let fd = beyond_standard(file).into_raw_fd();
        Self::at(fd, FileId::of(fd).ok())
    }

    fn at(fd: RawFd, file: Option<FileId>) -> Self {
        Self { fd, file, id: note(fd, file) }
    }

    /// Whether the number still is this descriptor's.
    pub fn is_intact(&self) -> bool {
        let is_same_file = match (FileId::of(self.fd), self.file) {
            (Err(Errno::EBADF), _) => false,
            (Ok(now), Some(file)) => now == file,
            (Err(_), _) | (_, None) => true,
        };
        is_same_file && is_noted(self.fd, self.id)
    }

    /// Gives the descriptor to the program; EBADF if the program has closed the number before.
    #[allow(unsafe_code, reason = "a number that was found to be the library's")]
    pub fn give_away(self) -> Result<OwnedFd> {
        let is_intact = self.is_intact();
        remove_note(self.fd, self.id);
        let fd = self.fd;
        std::mem::forget(self);
        // SAFETY: the number is the library's own, and no other value owns it any more.
        if is_intact { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) } else { Err(Errno::EBADF) }
    }
}

impl AsRawFd for KeptFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for KeptFd {
    fn drop(&mut self) {
        let is_intact = self.is_intact();
        remove_note(self.fd, self.id);
        if is_intact {
            close_number(self.fd);
        }
    }
}

/// Whether the number refers to an open file with the private mark. Takes no lock.
pub fn is_marked(fd: RawFd) -> bool {
    mark_of(fd) == Ok(PRIVATE_MARK)
}

/// Sets the public mark of a file that the library has made for the program; `is_public` recognises it later.
pub fn mark_public(file: &OwnedFd) {
    let _ = set_mark(file.as_raw_fd(), PUBLIC_MARK);
}

/// Whether the number refers to an open file with the public mark.
pub fn is_public(fd: RawFd) -> bool {
    mark_of(fd) == Ok(PUBLIC_MARK)
}

/// Whether the number is a descriptor of the library whose number the program does not have. If a sandbox
/// refuses F_SETSIG, an [`InternalFd`] is not recognised.
pub fn is_internal(fd: RawFd) -> bool {
    is_marked(fd) || is_kept(fd)
}

/// Whether the number is that of a [`KeptFd`].
pub fn is_kept(fd: RawFd) -> bool {
    let kept = lock(&NOTED).get(&fd).and_then(|noted| noted.file);
    kept.is_some_and(|file| FileId::of(fd) == Ok(file))
}

/// Checks that a number that the program has passed is not a descriptor of the library, else EBADF: after the
/// program has closed a connection, a descriptor of the library may get the connection's number.
pub fn of_program(fd: RawFd) -> Result<RawFd> {
    if is_internal(fd) { Err(Errno::EBADF) } else { Ok(fd) }
}

/// The file whose copies hold the numbers of closed connections. None until it is needed; made anew if the
/// program has closed it. Written by `close_and_hold` and `release`.
static PLACEHOLDER: Mutex<Option<KeptFd>> = Mutex::new(None);

/// Opens a file with O_PATH: its descriptor can neither be read nor written.
fn open_placeholder() -> Result<KeptFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    // No file of the program has the identity of a new memory file. Without /proc any other file will do.
    let own = memfd_create(c"libipc", MFdFlags::MFD_CLOEXEC).and_then(|file| {
        let mut name = [0; 32];
        let mut rest = &mut name[..];
        write!(rest, "/proc/self/fd/{}", file.as_raw_fd()).map_err(|_| Errno::ENAMETOOLONG)?;
        let length = 32 - rest.len();
        open(name.get(..length).unwrap_or_default(), flags, Mode::empty())
    });
    Ok(KeptFd::new(own.or_else(|_| open(c"/", flags, Mode::empty()))?))
}

/// Closes the descriptor and holds its number: the kernel gives the number to no other file until the
/// returned descriptor is dropped. If the placeholder cannot be opened or copied, the descriptor is closed
/// and the number is free at once.
#[allow(unsafe_code, reason = "the number is the program's, and no Rust value owns it")]
pub fn close_and_hold(fd: RawFd) -> Option<KeptFd> {
    let placeholder = {
        let mut placeholder = lock(&PLACEHOLDER);
        if placeholder.as_ref().is_none_or(|placeholder| !placeholder.is_intact()) {
            *placeholder = open_placeholder().ok();
        }
        placeholder.as_ref().map(|placeholder| (placeholder.fd, placeholder.file))
    };
    if let Some((from, file)) = placeholder {
        loop {
            // SAFETY: the caller wants the number to be replaced, and no Rust value owns it. dup3 closes the
            // old file, which may wait, so no lock is held here.
            match Errno::result(unsafe { libc::dup3(from, fd, libc::O_CLOEXEC) }) {
                Ok(_) => {
                    return Some(KeptFd::at(fd, file));
                }
                Err(Errno::EBUSY | Errno::EINTR) => {}
                Err(_) => break,
            }
        }
    }
    // SAFETY: the caller wants the number to be closed, and no Rust value owns it.
    let _ = unsafe { libc::close(fd) };
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn file() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    /// Gives the number to another file, as a program does that closes descriptors it does not know.
    #[allow(unsafe_code, reason = "what a program does")]
    fn replace(fd: RawFd, file: &OwnedFd) {
        // SAFETY: the number belongs to this test.
        assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), fd) }, fd);
    }

    #[allow(unsafe_code, reason = "what a program does")]
    fn write(fd: RawFd) -> Result<usize> {
        // SAFETY: the kernel only reads one byte.
        Errno::result(unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) }).map(|count| count as usize)
    }

    fn is_open(fd: RawFd) -> bool {
        FileId::of(fd).is_ok()
    }

    #[test]
    fn internal_fd_is_recognised_until_it_is_closed() {
        let internal = InternalFd::new(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        let number = internal.as_raw_fd();
        assert!(internal.is_intact() && is_internal(number));
        assert_eq!(of_program(number), Err(Errno::EBADF));
        drop(internal);
        assert!(!is_open(number));
        assert!(!is_internal(-1) && !is_internal(RawFd::MAX));
    }

    #[test]
    fn other_file_at_the_number_is_not_closed() {
        let internal = InternalFd::new(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        let kept = KeptFd::new(pipe);
        let (one, other) = (internal.as_raw_fd(), kept.as_raw_fd());
        let file = file();
        replace(one, &file);
        replace(other, &file);
        assert!(!internal.is_intact() && !kept.is_intact());
        assert!(!is_internal(one) && !is_internal(other));
        drop((internal, kept));
        assert!(is_open(one) && is_open(other));
        close_number(one);
        close_number(other);
    }

    #[test]
    fn second_descriptor_at_the_number_is_not_the_first() {
        let first = InternalFd::new(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        let number = first.as_raw_fd();
        let other = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap();
        replace(number, &other);
        #[allow(unsafe_code, reason = "what the kernel may do")]
        // SAFETY: dup2 has just made the number.
        let second = InternalFd::new(unsafe { OwnedFd::from_raw_fd(number) });
        assert!(!first.is_intact() && second.is_intact());
        drop(first);
        assert!(second.is_intact() && is_internal(number));
        // The same for a KeptFd.
        let kept = KeptFd::new(other);
        let copy = KeptFd::at(kept.as_raw_fd(), kept.file);
        assert!(!kept.is_intact() && copy.is_intact());
        drop(kept);
        assert!(copy.is_intact() && is_internal(copy.as_raw_fd()));
    }

    #[test]
    fn kept_fd_belongs_to_the_program_when_given_away() {
        let kept = KeptFd::new(file());
        let number = kept.as_raw_fd();
        assert!(is_internal(number));
        let given = kept.give_away().unwrap();
        assert_eq!((given.as_raw_fd(), is_internal(number)), (number, false));
    }

    #[test]
    fn held_number_is_closed_and_not_given_to_another_file() {
        let (one, mut two) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = one.into_raw_fd();
        let held = close_and_hold(number).unwrap();
        // The peer reads end of file at once.
        assert_eq!(std::io::Read::read(&mut two, &mut [0]).unwrap(), 0);
        assert!(is_open(number) && is_internal(number));
        assert_eq!(write(number), Err(Errno::EBADF));
        drop(held);
        assert!(!is_internal(number));
    }
}
