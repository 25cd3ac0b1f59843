//! Listening sockets that a service manager hands over to the process: the variables LISTEN_PID and
//! LISTEN_FDS, as sd_listen_fds(3) describes them.
//!
//! A handed-over socket is recognised by its file: its path and the service's path must lead to the same
//! socket file. No state: the variables are read and the sockets are checked at each call.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::ops::Range;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, getsockname};
use nix::sys::stat::SFlag;
use nix::unistd::getpid;

use crate::kernel::fd;
use crate::kernel::file::File;
use crate::kernel::socket::{self, Kind};

/// The first descriptor that is handed over (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// The range of handed-over descriptors, from the values of LISTEN_PID and LISTEN_FDS. Empty if LISTEN_PID
/// names another process, or a value is invalid.
pub fn handed_over(pid: &CStr, count: &CStr) -> Range<RawFd> {
    let number = |text: &CStr| text.to_str().ok().and_then(|text| text.parse::<i32>().ok());
    let count = number(count).filter(|count| *count > 0 && number(pid) == Some(getpid().as_raw()));
    FIRST..FIRST.saturating_add(count.unwrap_or(0))
}

/// The first of these descriptors that listens at this path. The search ends at the first closed descriptor.
pub fn find(mut fds: Range<RawFd>, path: &CStr) -> Option<RawFd> {
    let file = File::at(path).ok().filter(|file| file.is(SFlag::S_IFSOCK))?;
    let is_open = |fd: &RawFd| fd::check_usable(*fd) != Err(Errno::EBADF);
    fds.by_ref().take_while(is_open).find(|fd| {
        let bound = check(*fd).ok().and_then(|()| bound_to(*fd)).and_then(|path| File::at(&path).ok());
        bound.is_some_and(|bound| bound.id() == file.id())
    })
}

/// EBADF, ENOTSOCK or EINVAL if the descriptor is not a listening Unix stream socket.
pub fn check(fd: RawFd) -> nix::Result<()> {
    socket::check_listener(fd)?;
    // EINVAL if the socket has another address family.
    getsockname::<UnixAddr>(fd)?;
    if socket::kind(fd)? == Kind::Stream { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The path that the socket is bound to; None if it has none.
fn bound_to(fd: RawFd) -> Option<CString> {
    let address = getsockname::<UnixAddr>(fd).ok()?;
    super::path::c_string(address.path().map(Path::as_os_str).map(OsStr::as_bytes)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    #[test]
    fn descriptors_are_ignored_when_pid_or_count_is_invalid() {
        let (me, other) = (getpid().as_raw(), getpid().as_raw() + 1);
        assert_eq!(handed_over(&c(&me.to_string()), c"2"), 3..5);
        assert_eq!(handed_over(&c(&me.to_string()), c"2147483647"), 3..i32::MAX);
        for (pid, count) in [
            (other.to_string(), "2"),
            (me.to_string(), "0"),
            (me.to_string(), "-1"),
            (me.to_string(), "2x"),
            (me.to_string(), "99999999999"),
            (String::new(), "2"),
            (format!(" {me}"), "2"),
        ] {
            assert!(handed_over(&c(&pid), &c(count)).is_empty(), "{pid} {count}");
        }
    }

    #[test]
    fn listener_is_found_by_its_file_when_paths_differ() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("{}/{name}", directory.path().display());
        let (here, there) = (UnixListener::bind(path("s")).unwrap(), UnixListener::bind(path("t")).unwrap());
        let datagrams = UnixDatagram::bind(path("d")).unwrap();
        let all = [here.as_raw_fd(), there.as_raw_fd(), datagrams.as_raw_fd()];
        let range = || all.iter().min().copied().unwrap()..i32::MAX;
        assert_eq!(find(range(), &c(&path("s"))), Some(here.as_raw_fd()));
        assert_eq!(find(range(), &c(&path("/./t"))), Some(there.as_raw_fd()));
        for none in ["d", "x", ""] {
            assert_eq!(find(range(), &c(&path(none))), None, "{none}");
        }
        assert_eq!(find(there.as_raw_fd()..there.as_raw_fd(), &c(&path("t"))), None);
        assert_eq!(check(datagrams.as_raw_fd()), Err(Errno::EINVAL));
        assert_eq!(check(900_000), Err(Errno::EBADF));
    }
}
