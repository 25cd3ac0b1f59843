//! Files of the program that get numbers which belonged to the library or to a connection before: the library
//! must not close, read or change any of them.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::at_number;

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Pipe,
    /// A whole frame is in its receive buffer.
    Socket,
    Epoll,
    Counter,
}

pub const KINDS: [Kind; 5] = [Kind::File, Kind::Pipe, Kind::Socket, Kind::Epoll, Kind::Counter];

#[cfg(target_endian = "little")]
const CONTENT: &[u8] = b"\x01\x0d\0\0\0the program's";
#[cfg(target_endian = "big")]
const CONTENT: &[u8] = b"\x01\0\0\0\x0dthe program's";

/// A file of the program, and its state when it was made.
pub struct ForeignFile {
    kind: Kind,
    /// The file's own descriptor, above all numbers that tests give it.
    file: OwnedFd,
    /// The other end of a pipe or a socket, or the counter in an epoll set.
    other: Option<OwnedFd>,
    state: String,
}

fn far(fd: impl Into<OwnedFd>) -> OwnedFd {
    let fd = fd.into();
    let high = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 700) };
    assert!(high >= 700, "{}", std::io::Error::last_os_error());
    unsafe { OwnedFd::from_raw_fd(high) }
}

fn made(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    far(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// All that the kernel reports about the open file: position, flags, readable bytes, signal and its receiver.
fn state_of(fd: RawFd) -> String {
    const F_GETSIG: i32 = 11;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let mut bytes = 0;
    unsafe { libc::ioctl(fd, libc::FIONREAD, &mut bytes) };
    let [signal, owner] = [F_GETSIG, libc::F_GETOWN].map(|command| unsafe { libc::fcntl(fd, command) });
    // The close-on-exec flag belongs to the number, not to the open file.
    let of_file = info.lines().map(|line| match line.strip_prefix("flags:\t") {
        Some(flags) => format!("{:o}", i32::from_str_radix(flags, 8).unwrap() & !libc::O_CLOEXEC),
        None => line.to_owned(),
    });
    format!("{} bytes {bytes} signal {signal} owner {owner}", of_file.collect::<Vec<_>>().join(" "))
}

impl ForeignFile {
    pub fn new(kind: Kind) -> Self {
        let (file, other) = match kind {
            Kind::File => {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(CONTENT).unwrap();
                assert_eq!(unsafe { libc::lseek(file.as_raw_fd(), 3, libc::SEEK_SET) }, 3);
                (far(file), None)
            }
            Kind::Pipe => {
                let (reader, mut writer) = super::pipe();
                writer.write_all(CONTENT).unwrap();
                (far(reader), Some(far(writer)))
            }
            Kind::Socket => {
                let (one, mut other) = UnixStream::pair().unwrap();
                other.write_all(CONTENT).unwrap();
                (far(one), Some(far(other)))
            }
            Kind::Epoll => unsafe {
                let set = made(libc::epoll_create1(libc::EPOLL_CLOEXEC));
                let counter = made(libc::eventfd(1, libc::EFD_CLOEXEC));
                let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 42 };
                let added =
                    libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, counter.as_raw_fd(), &mut event);
                assert_eq!(added, 0);
                (set, Some(counter))
            },
            Kind::Counter => (made(unsafe { libc::eventfd(7, libc::EFD_CLOEXEC) }), None),
        };
        let state = state_of(file.as_raw_fd());
        Self { kind, file, other, state }
    }

    /// The file's own descriptor.
    pub fn own_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The file gets this number in addition (dup2).
    pub fn take(&self, number: RawFd) {
        at_number(self.own_fd(), number);
    }

    /// Asserts that the file still has the number, and that its state is unchanged.
    pub fn assert_untouched(&self, number: RawFd) {
        let kind = self.kind;
        assert_eq!(state_of(number), self.state, "{kind:?} at {number}");
        match (kind, &self.other) {
            (Kind::File, _) => {
                let mut bytes = [0; 30];
                let got = unsafe { libc::pread(number, bytes.as_mut_ptr().cast(), 30, 0) };
                assert_eq!(&bytes[..usize::try_from(got).unwrap()], CONTENT, "{number}");
            }
            (Kind::Socket, Some(other)) => {
                let got = unsafe {
                    libc::recv(other.as_raw_fd(), [0; 8].as_mut_ptr().cast(), 8, libc::MSG_DONTWAIT)
                };
                assert_eq!(got, -1, "bytes were written to, or the end was seen of, the socket at {number}");
            }
            _ => {}
        }
    }

    /// Closes the number.
    pub fn release(&self, number: RawFd) {
        super::close(number);
    }
}

/// A copy that keeps an open file alive after the program has closed the file's number.
pub enum Copy {
    Dup { _copy: OwnedFd },
    Process(i32),
    Message { _sender: UnixStream, _receiver: UnixStream },
}

/// The ways to keep an open file alive.
pub const COPIES: [fn(RawFd) -> Copy; 3] = [Copy::dup, Copy::fork, Copy::send];

impl Copy {
    fn dup(fd: RawFd) -> Self {
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 700) };
        assert!(copy >= 700);
        Self::Dup { _copy: unsafe { OwnedFd::from_raw_fd(copy) } }
    }

    /// A child that has inherited the descriptor.
    fn fork(_: RawFd) -> Self {
        let child = unsafe { libc::fork() };
        if child == 0 {
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            }
        }
        assert!(child > 0);
        Self::Process(child)
    }

    /// The descriptor is in a socket's receive buffer, as if it were sent to another process.
    fn send(fd: RawFd) -> Self {
        let (one, other) = UnixStream::pair().unwrap();
        super::ext::send_with(&one, b"x", &[fd]);
        let [sender, receiver] = [one, other].map(super::at_high_number);
        Self::Message { _sender: sender, _receiver: receiver }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Self::Process(id) = *self {
            unsafe {
                libc::kill(id, libc::SIGKILL);
                libc::waitpid(id, std::ptr::null_mut(), 0);
            }
        }
    }
}
