//! Calls of the system that std and nix have no safe function for.

use std::ffi::{CString, OsStr, c_int};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Sets a variable of the environment, for the library and for what this process starts. Called by `main`
/// alone, while there is one thread.
pub fn set_variable(name: &OsStr, value: &OsStr) {
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var(name, value) };
}

/// What one receive brings.
pub struct Received {
    /// How many bytes; none at the end of the stream.
    pub count: usize,
    /// The descriptors that came with them.
    pub fds: Vec<OwnedFd>,
    /// Whether there were more, for which this process had no room.
    pub has_lost: bool,
}

/// Receives bytes and descriptors from a socket that is not the library's, without waiting.
pub fn receive(socket: BorrowedFd<'_>, room: &mut [u8]) -> nix::Result<Received> {
    // As many as the kernel passes with one message (SCM_MAX_FD).
    let mut control = nix::cmsg_space!([RawFd; 253]);
    let mut pieces = [IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags)?;
    let has_lost = message.flags.contains(MsgFlags::MSG_CTRUNC);
    let mut fds = Vec::new();
    for part in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has made these descriptors for this process, and no other code knows them.
            fds.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(Received { count: message.bytes, fds, has_lost })
}

/// Has the program start with this signal mask, in place of the one of this process, which std lets it
/// inherit.
pub fn start_with_mask(command: &mut Command, mask: SigSet) {
    let set = move || mask.thread_set_mask().map_err(io::Error::from);
    // SAFETY: in the child it makes one system call, and uses no memory but its own.
    unsafe { command.pre_exec(set) };
}

/// Whether the signal is ignored: a shell has set that for a program in the background, or nohup(1).
pub fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction writes the action, and changes nothing.
    let result = unsafe { libc::sigaction(signal as c_int, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroes are an action, too.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// A descriptor that becomes readable when the process ends (pidfd_open(2)).
pub fn process(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: two numbers; the kernel makes a descriptor that is close-on-exec, and this process's alone.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Hours, minutes and seconds of a moment, in local time.
pub fn local_time(moment: SystemTime) -> (c_int, c_int, c_int) {
    let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = seconds.try_into().unwrap_or_default();
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: localtime_r reads the number, and writes the parts.
    unsafe { libc::localtime_r(&seconds, parts.as_mut_ptr()) };
    // SAFETY: zeroes are a time, too.
    let parts = unsafe { parts.assume_init() };
    (parts.tm_hour, parts.tm_min, parts.tm_sec)
}

/// A string for system calls. The arguments of a program have no NUL byte.
pub fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).unwrap_or_default()
}
