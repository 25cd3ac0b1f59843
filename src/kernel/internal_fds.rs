//! The descriptors that the library keeps, and how it knows that they still are its own.
//!
//! A program may close every descriptor that it does not know, and its own files then get the numbers. So the
//! library asks the kernel before each use and before each close:
//!
//! * an open file that the library made (an epoll set, a clock) carries a mark: the signal number that
//!   fcntl(2) F_SETSIG keeps for it, which nothing else uses;
//! * an open file of somebody else that the library has a descriptor of (one that came with a message, a copy) is
//!   known by its device and inode.
//!
//! Both are alike for two descriptors of one kind, of which the second may have the number of the first, which the
//! program has closed. So all numbers are noted with which descriptor had them last; that also keeps the program from
//! closing one by a number that it has closed before.
//!
//! A closed connection whose end was reported to the program keeps its number for a while: a descriptor of the
//! second kind, of a file that can neither be read nor written (O_PATH), takes its place.
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

/// The marks: of what the program knows nothing of, and of what it was given the number of. glibc keeps these signals for
/// itself, so that no program asks for them.
const MARK: libc::c_int = 33;
const SHOWN: libc::c_int = 32;

/// Linux: of asm-generic/fcntl.h, the same on every architecture that libc knows.
const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;

#[allow(unsafe_code, reason = "nix does not know F_SETSIG")]
fn set_mark(fd: RawFd, mark: libc::c_int) -> Result<()> {
    // SAFETY: it changes nothing but a number that belongs to the open file.
    Errno::result(unsafe { libc::fcntl(fd, F_SETSIG, mark) }).map(drop)
}

/// The mark of the open file that this number refers to.
#[allow(unsafe_code, reason = "nix does not know F_GETSIG")]
fn mark_of(fd: RawFd) -> Result<libc::c_int> {
    // SAFETY: it only reads a number of the open file.
    Errno::result(unsafe { libc::fcntl(fd, F_GETSIG) })
}

#[allow(unsafe_code, reason = "a number that was found to be the library's")]
fn close_number(fd: RawFd) {
    // SAFETY: the caller has just seen that it is the library's own.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// The same file at a number that is none of the standard streams': a program that was started without them prints to
/// whatever has their numbers. If there is no other number it stays.
pub fn beyond_standard(file: OwnedFd) -> OwnedFd {
    if file.as_raw_fd() > libc::STDERR_FILENO {
        return file;
    }
    match fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(libc::STDERR_FILENO + 1)) {
        #[allow(unsafe_code, reason = "nix gives the number alone")]
        // SAFETY: a new descriptor, which no other code knows.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
        Err(_) => file,
    }
}

/// A descriptor of an open file that the library made.
pub struct InternalFd {
    fd: RawFd,
    /// None where a sandbox refuses F_SETSIG: then every open file counts as this one.
    mark: Option<libc::c_int>,
    id: Id,
    /// How many descriptors there were when the number was last found noted as this one's: no other has it since, if there
    /// are no more.
    seen: AtomicU32,
}

impl InternalFd {
    /// Marks the file.
    pub fn new(file: OwnedFd) -> Self {
        Self::with_mark(file, MARK)
    }

    /// The same for one whose number the program gets.
    pub fn shown(file: OwnedFd) -> Self {
        Self::with_mark(file, SHOWN)
    }

    fn with_mark(file: OwnedFd, mark: libc::c_int) -> Self {
        let file = beyond_standard(file);
        let mark = set_mark(file.as_raw_fd(), mark).is_ok().then_some(mark);
        let id = note(file.as_raw_fd(), None);
        Self { fd: file.into_raw_fd(), mark, id, seen: AtomicU32::new(id.0) }
    }

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

    /// Whether the number still is that of a file which the library made.
    pub fn is_intact(&self) -> bool {
        match (mark_of(self.fd), self.mark) {
            (Err(Errno::EBADF), _) => false,
            (Ok(now), Some(mark)) => now == mark && self.is_noted(),
            // The kernel did not say.
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
        forget(self.fd, self.id);
        if is_intact {
            close_number(self.fd);
        }
    }
}

/// Which of the library's descriptors it is: they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u32);

/// How many there were.
static MADE: AtomicU32 = AtomicU32::new(0);

/// What had a number last; the file, if it is not the library's own.
struct Noted {
    id: Id,
    file: Option<FileId>,
}

/// The numbers of all descriptors that the library keeps. Locked for moments, and after every other lock of the library.
static NOTED: Mutex<NumberMap<RawFd, Noted>> = Mutex::new(empty_map());

/// Notes a new descriptor. Without memory the program can close it by a number that it has closed before.
fn note(fd: RawFd, file: Option<FileId>) -> Id {
    let id = Id(MADE.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
    let mut noted = lock(&NOTED);
    if noted.contains_key(&fd) || noted.try_reserve(1).is_ok() {
        noted.insert(fd, Noted { id, file });
    }
    id
}

/// Whether no other descriptor of the library has had the number since.
fn is_noted(fd: RawFd, id: Id) -> bool {
    lock(&NOTED).get(&fd).is_none_or(|noted| noted.id == id)
}

fn forget(fd: RawFd, id: Id) {
    let mut noted = lock(&NOTED);
    // The number may be another one's by now.
    if noted.get(&fd).is_some_and(|noted| noted.id == id) {
        noted.remove(&fd);
    }
}

/// What is noted here, locked for a fork.
pub struct Frozen {
    _placeholder: MutexGuard<'static, Option<KeptFd>>,
    _noted: MutexGuard<'static, NumberMap<RawFd, Noted>>,
}

/// Locks what is noted.
pub fn freeze() -> Frozen {
    let placeholder = lock(&PLACEHOLDER);
    Frozen { _placeholder: placeholder, _noted: lock(&NOTED) }
}

/// At the end of the process: gives back what is kept for all of it, and the table's memory if nothing is in it.
pub fn release() {
    drop(lock(&PLACEHOLDER).take());
    release_map(&mut lock(&NOTED));
}

/// A descriptor that the library keeps of a file which is not its own.
pub struct KeptFd {
    fd: RawFd,
    /// None if the kernel did not say: then every open file counts as this one.
    file: Option<FileId>,
    id: Id,
}

impl KeptFd {
    /// Keeps it.
    pub fn new(file: OwnedFd) -> Self {
        let fd = beyond_standard(file).into_raw_fd();
        Self::at(fd, FileId::of(fd).ok())
    }

    fn at(fd: RawFd, file: Option<FileId>) -> Self {
        Self { fd, file, id: note(fd, file) }
    }

    /// Whether the number still is that of the file.
    pub fn is_intact(&self) -> bool {
        let is_it = match (FileId::of(self.fd), self.file) {
            (Err(Errno::EBADF), _) => false,
            (Ok(now), Some(file)) => now == file,
            (Err(_), _) | (_, None) => true,
        };
        is_it && is_noted(self.fd, self.id)
    }

    /// It is the program's from now on: EBADF if the program has closed it before.
    #[allow(unsafe_code, reason = "a number that was found to be the library's")]
    pub fn give_away(self) -> Result<OwnedFd> {
        let is_intact = self.is_intact();
        forget(self.fd, self.id);
        let fd = self.fd;
        std::mem::forget(self);
        // SAFETY: it is the library's own, and no longer noted.
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
        forget(self.fd, self.id);
        if is_intact {
            close_number(self.fd);
        }
    }
}

/// Whether the number is that of an open file which the library made for itself.
pub fn is_marked(fd: RawFd) -> bool {
    mark_of(fd) == Ok(MARK)
}

/// Marks an open file that the library has made and the program has the number of: it is known by that later.
pub fn show(file: &OwnedFd) {
    let _ = set_mark(file.as_raw_fd(), SHOWN);
}

/// Whether the number is that of such a file.
pub fn is_shown(fd: RawFd) -> bool {
    mark_of(fd) == Ok(SHOWN)
}

/// Whether the number is that of a descriptor which the library keeps and the program knows nothing of.
pub fn is_internal(fd: RawFd) -> bool {
    is_marked(fd) || is_kept(fd)
}

/// Whether the number is that of a descriptor which the library keeps of a file that it did not make for itself.
pub fn is_kept(fd: RawFd) -> bool {
    let kept = lock(&NOTED).get(&fd).and_then(|noted| noted.file);
    kept.is_some_and(|file| FileId::of(fd) == Ok(file))
}

/// A descriptor of the program, by its number: EBADF for one that the library keeps, which the number of a
/// connection that the program has closed may have become.
pub fn of_program(fd: RawFd) -> Result<RawFd> {
    if is_internal(fd) { Err(Errno::EBADF) } else { Ok(fd) }
}

/// What takes the place of closed connections: made when first needed, and anew if the program has closed it.
static PLACEHOLDER: Mutex<Option<KeptFd>> = Mutex::new(None);

/// A descriptor that can be closed and nothing else.
fn open_placeholder() -> Result<KeptFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    // A file of its own cannot be mistaken for another one. Without /proc any file will do.
    let own = memfd_create(c"libipc", MFdFlags::MFD_CLOEXEC).and_then(|file| {
        let mut name = [0; 32];
        let mut rest = &mut name[..];
        write!(rest, "/proc/self/fd/{}", file.as_raw_fd()).map_err(|_| Errno::ENAMETOOLONG)?;
        let length = 32 - rest.len();
        open(name.get(..length).unwrap_or_default(), flags, Mode::empty())
    });
    Ok(KeptFd::new(own.or_else(|_| open(c"/", flags, Mode::empty()))?))
}

/// Closes the descriptor, and keeps its number from being given to another file: with the descriptor that is
/// returned here that ends. If none can be had the number is free at once.
#[allow(unsafe_code, reason = "the descriptor is the program's number, which Rust does not own")]
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
            // SAFETY: the number is replaced as the caller wants it; no Rust value owns it. Closing may wait, so no
            // lock is held.
            match Errno::result(unsafe { libc::dup3(from, fd, libc::O_CLOEXEC) }) {
                Ok(_) => {
                    return Some(KeptFd::at(fd, file));
                }
                Err(Errno::EBUSY | Errno::EINTR) => {}
                Err(_) => break,
            }
        }
    }
    // SAFETY: as above.
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

    /// Has another file take the number, as a program does that closes what it does not know.
    #[allow(unsafe_code, reason = "what a program does")]
    fn replace(fd: RawFd, file: &OwnedFd) {
        // SAFETY: the number belongs to this test.
        assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), fd) }, fd);
    }

    #[allow(unsafe_code, reason = "what a program does")]
    fn write(fd: RawFd) -> Result<usize> {
        // SAFETY: one byte, which the kernel only reads.
        Errno::result(unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) }).map(|count| count as usize)
    }

    fn is_open(fd: RawFd) -> bool {
        FileId::of(fd).is_ok()
    }

    #[test]
    fn internal_fd_is_known_until_it_is_closed() {
        let internal = InternalFd::new(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        let number = internal.as_raw_fd();
        assert!(internal.is_intact() && is_internal(number));
        assert_eq!(of_program(number), Err(Errno::EBADF));
        drop(internal);
        assert!(!is_open(number));
        assert!(!is_internal(-1) && !is_internal(RawFd::MAX));
    }

    #[test]
    fn stranger_at_the_number_is_not_closed() {
        let internal = InternalFd::new(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        let kept = KeptFd::new(pipe);
        let (one, other) = (internal.as_raw_fd(), kept.as_raw_fd());
        let stranger = file();
        replace(one, &stranger);
        replace(other, &stranger);
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
        // SAFETY: the number was just made.
        let second = InternalFd::new(unsafe { OwnedFd::from_raw_fd(number) });
        assert!(!first.is_intact() && second.is_intact());
        drop(first);
        assert!(second.is_intact() && is_internal(number));
        // The same of one that is kept.
        let kept = KeptFd::new(other);
        let copy = KeptFd::at(kept.as_raw_fd(), kept.file);
        assert!(!kept.is_intact() && copy.is_intact());
        drop(kept);
        assert!(copy.is_intact() && is_internal(copy.as_raw_fd()));
    }

    #[test]
    fn kept_fd_is_the_programs_when_given_away() {
        let kept = KeptFd::new(file());
        let number = kept.as_raw_fd();
        assert!(is_internal(number));
        let given = kept.give_away().unwrap();
        assert_eq!((given.as_raw_fd(), is_internal(number)), (number, false));
    }

    #[test]
    fn held_number_is_closed_for_everybody_and_given_to_nobody() {
        let (one, mut two) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = one.into_raw_fd();
        let held = close_and_hold(number).unwrap();
        // The peer sees the end at once.
        assert_eq!(std::io::Read::read(&mut two, &mut [0]).unwrap(), 0);
        assert!(is_open(number) && is_internal(number));
        assert_eq!(write(number), Err(Errno::EBADF));
        drop(held);
        assert!(!is_internal(number));
    }
}
