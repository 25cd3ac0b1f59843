//! System calls on sockets: receive, send, accept, listen, options.
//!
//! Where nix is enough it is used; the few calls for which only libc will do carry their reason.
#![deny(unsafe_code)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{self, Backlog, SockFlag};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::kernel::direct;
use crate::kernel::fd::{borrow, written};
use crate::kernel::file::File;
use crate::kernel::internal_fds::beyond_standard;

/// Receives at most `room`, without waiting; an empty answer is the end of the stream. Descriptors that come along are closed by
/// the kernel, which may wait.
#[allow(unsafe_code, reason = "nix receives into initialised bytes only")]
pub fn receive(fd: RawFd, room: &mut [MaybeUninit<u8>]) -> Result<&mut [u8]> {
    // SAFETY: `room` is writable for its whole length, and the kernel has written as much as it tells.
    unsafe {
        let count = direct::recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT);
        written(room, count)
    }
}

/// Who is at the other end of the connection, by the kernel's word.
pub fn peer(fd: RawFd) -> Result<socket::UnixCredentials> {
    // ENOTCONN for what is not connected: a service would be told to be its own peer.
    socket::getpeername::<socket::UnixAddr>(fd)?;
    socket::getsockopt(&borrow(fd)?, socket::sockopt::PeerCredentials)
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    Stream,
    /// Datagrams or packets: each is received whole or cut off.
    Messages,
}

/// What the socket carries; ENOTSOCK for what is none.
pub fn kind(fd: RawFd) -> Result<Kind> {
    match socket::getsockopt(&borrow(fd)?, socket::sockopt::SockType) {
        Ok(socket::SockType::Stream) => Ok(Kind::Stream),
        Ok(_) => Ok(Kind::Messages),
        // A type that nix has no name for.
        Err(Errno::EINVAL) => Ok(Kind::Messages),
        Err(errno) => Err(errno),
    }
}

/// The size of the next datagram or packet, which stays where it is.
#[allow(unsafe_code, reason = "nix says how much it has received, not how much there is")]
pub fn next_size(fd: RawFd) -> Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: no room.
    Errno::result(unsafe { libc::recv(fd, std::ptr::null_mut(), 0, flags) }).map(isize::unsigned_abs)
}

/// What a send has come to: a peer that closed with bytes of ours unread is gone, like any other.
pub fn sent(count: isize) -> Result<usize> {
    match Errno::result(count) {
        Err(Errno::ECONNRESET) => Err(Errno::EPIPE),
        result => result.map(isize::unsigned_abs),
    }
}

/// Bytes up to which one more copy costs less than to send in pieces.
const SMALL: usize = 512;

/// Sends what the kernel takes at once of `pieces`, one after the other: a peer that is gone is EPIPE and no signal.
#[allow(unsafe_code, reason = "nix sends initialised arrays only, and makes room for control messages")]
pub fn send_pieces(fd: RawFd, pieces: &[IoSlice<'_>]) -> Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let message = direct::message_of(pieces.as_ptr().cast_mut().cast(), pieces.len());
    // SAFETY: the header names `pieces`, which have the layout of iovec and are only read.
    sent(unsafe { direct::sendmsg(fd, &raw const message, flags) })
}

/// Sends what the kernel takes at once of a frame's two pieces.
#[allow(unsafe_code, reason = "see send_pieces")]
pub fn send_frame(fd: RawFd, [head, payload]: [&[u8]; 2]) -> Result<usize> {
    let size = head.len() + payload.len();
    if size > SMALL {
        return send_pieces(fd, &[IoSlice::new(head), IoSlice::new(payload)]);
    }
    let mut room = [const { MaybeUninit::<u8>::uninit() }; SMALL];
    let place = room.as_mut_ptr().cast::<u8>();
    // SAFETY: both pieces together have room, and neither lies in it; then as many bytes are initialised.
    sent(unsafe {
        std::ptr::copy_nonoverlapping(head.as_ptr(), place, head.len());
        std::ptr::copy_nonoverlapping(payload.as_ptr(), place.add(head.len()), payload.len());
        direct::send(fd, place, size, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    })
}

/// Takes one client from the listener's queue; its descriptor is close-on-exec.
pub fn accept(listener: RawFd) -> Result<RawFd> {
    loop {
        match socket::accept4(listener, SockFlag::SOCK_CLOEXEC) {
            Err(Errno::ECONNABORTED) => {}
            result => return result.map(accepted),
        }
    }
}

/// The client's number, or another one if that is a standard stream's.
#[allow(unsafe_code, reason = "a number that accept4 has just made")]
pub fn accepted(client: RawFd) -> RawFd {
    if client > libc::STDERR_FILENO {
        return client;
    }
    // SAFETY: nobody else knows it yet.
    beyond_standard(unsafe { OwnedFd::from_raw_fd(client) }).into_raw_fd()
}

/// Asks the kernel for a queue of so many waiting clients, or for the longest that it grants (net.core.somaxconn).
pub fn listen(fd: RawFd, backlog: Option<i32>) -> Result<()> {
    let limited = |backlog: i32| Backlog::new(backlog.clamp(0, libc::SOMAXCONN));
    let backlog = backlog.map_or(Ok(Backlog::MAXALLOWABLE), limited)?;
    socket::listen(&borrow(fd)?, backlog)
}

/// What is no listening socket is an error.
pub fn check_listener(fd: RawFd) -> Result<()> {
    if socket::getsockopt(&borrow(fd)?, socket::sockopt::AcceptConn)? { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Sets O_NONBLOCK of a listening socket, for all processes that share it; whether it was not set before.
pub fn prepare_listener(fd: RawFd) -> Result<bool> {
    check_listener(fd)?;
    let fd = borrow(fd)?;
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        return Ok(false);
    }
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(true)
}

/// How much of what was sent the peer has not received yet, with what the kernel needs to keep it (SIOCOUTQ): it shrinks as
/// the peer receives whole pieces, of up to 64 KiB.
#[allow(unsafe_code, reason = "nix has no such call")]
pub fn unsent(fd: RawFd) -> Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one number.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// How many bytes wait to be received (SIOCINQ); nothing if the kernel does not say.
#[allow(unsafe_code, reason = "nix has no such call")]
pub fn available(fd: RawFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one number.
    let result = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) };
    if result == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// Linux 6.16: of asm-generic/socket.h, the same on every architecture that libc knows but PA-RISC and SPARC.
const SO_PASSRIGHTS: i32 = 83;

#[allow(unsafe_code, reason = "nix knows neither option")]
fn set_option<T>(fd: RawFd, option: i32, value: T) -> Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads a value of this size.
    Errno::result(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), size) })
        .map(drop)
}

/// Whether descriptors may be sent to the socket, and to those of the clients of a service. ENOPROTOOPT before Linux 6.16.
pub fn pass_descriptors(fd: RawFd, may_pass: bool) -> Result<()> {
    set_option(fd, SO_PASSRIGHTS, i32::from(may_pass))
}

/// Has the close of the last descriptor of a socket not wait (SO_LINGER).
pub fn switch_linger_off(fd: RawFd) {
    let _ = set_option(fd, libc::SO_LINGER, libc::linger { l_onoff: 0, l_linger: 0 });
}

/// Where MSG_PEEK looks next; -1 is at the first byte, always.
pub fn set_peek_offset(fd: RawFd, offset: i32) -> Result<()> {
    set_option(fd, libc::SO_PEEK_OFF, offset)
}

/// Ends the connection for both sides, and leaves the descriptor open.
pub fn shut_down(fd: RawFd) {
    let _ = socket::shutdown(fd, socket::Shutdown::Both);
}

/// What tells a reused descriptor from the one before: a number that the kernel gives to one socket only (SO_COOKIE).
/// Where the kernel does not say it (it is too old, or a security module forbids to ask) it is the socket's inode: no two
/// sockets have the same at a time. The lowest bit says which of the two it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cookie(u64);

impl Cookie {
    /// That of no socket.
    pub const NONE: Self = Self(0);

    /// That of the socket behind this descriptor: EBADF or ENOTSOCK where there is none.
    #[allow(unsafe_code, reason = "nix does not know SO_COOKIE")]
    pub fn of(fd: RawFd) -> Result<Self> {
        let mut cookie = 0_u64;
        let mut size = size_of_val(&cookie) as libc::socklen_t;
        // SAFETY: the number has as many bytes as `size` announces.
        let result = unsafe {
            let place = std::ptr::from_mut(&mut cookie).cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_COOKIE, place, &raw mut size)
        };
        match Errno::result(result) {
            Ok(_) => Ok(Self(cookie << 1)),
            Err(errno @ (Errno::EBADF | Errno::ENOTSOCK)) => Err(errno),
            Err(_) => Ok(Self(File::behind(fd)?.id().inode << 1 | 1)),
        }
    }

    /// Whether it is that of a socket.
    pub fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether both may be of one socket, as far as the kernel said.
    pub fn may_be(self, other: Self) -> bool {
        self.0 == other.0 || (self.0 ^ other.0) & 1 != 0
    }

    /// Whether the number is that of this socket.
    pub fn is_behind(self, fd: RawFd) -> bool {
        Self::of(fd).is_ok_and(|now| now.may_be(self))
    }
}

/// How long a receive on this descriptor may wait, by its SO_RCVTIMEO, in milliseconds: -1 for ever.
#[allow(
    unsafe_code,
    reason = "nix panics if the size that is returned is not that of a timeval, as in an emulator"
)]
pub fn receive_time(fd: RawFd) -> Result<i32> {
    let mut limit = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut size = size_of_val(&limit) as libc::socklen_t;
    // SAFETY: the structure has as many bytes as `size` announces, and any bytes are numbers.
    Errno::result(unsafe {
        let place = (&raw mut limit).cast();
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, place, &raw mut size)
    })?;
    if limit.tv_sec == 0 && limit.tv_usec == 0 {
        return Ok(-1);
    }
    // Part of a millisecond is a whole one.
    let rest = i32::try_from(limit.tv_usec).unwrap_or(0).saturating_add(999) / 1000;
    let whole = i32::try_from(limit.tv_sec).unwrap_or(i32::MAX).saturating_mul(1000);
    Ok(whole.saturating_add(rest))
}

/// How long a send or connect on this descriptor may wait (SO_SNDTIMEO), in milliseconds: below 0 for ever.
pub fn set_send_time(fd: RawFd, milliseconds: i32) -> Result<()> {
    let limit = TimeVal::milliseconds(i64::from(milliseconds.max(0)));
    socket::setsockopt(&borrow(fd)?, socket::sockopt::SendTimeout, &limit)
}

/// Whether the program wants no wait at all on this descriptor.
pub fn is_nonblocking(fd: RawFd) -> Result<bool> {
    Ok(OFlag::from_bits_retain(fcntl(borrow(fd)?, FcntlArg::F_GETFL)?).contains(OFlag::O_NONBLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn receive_timeout_is_in_milliseconds_rounded_up() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let set = |tv_sec, tv_usec| {
            set_option(socket.as_raw_fd(), libc::SO_RCVTIMEO, libc::timeval { tv_sec, tv_usec }).unwrap();
            receive_time(socket.as_raw_fd())
        };
        assert_eq!(set(0, 0), Ok(-1));
        assert_eq!(set(5, 0), Ok(5000));
        // The kernel keeps ticks of 1 to 10 milliseconds.
        assert!((1..=20).contains(&set(0, 1).unwrap()));
        assert_eq!(set(libc::time_t::from(i32::MAX), 0), Ok(i32::MAX));
        #[cfg(target_pointer_width = "64")]
        // More microseconds than an i64 has room for; a kernel of other ticks takes it for none.
        assert!([Ok(i32::MAX), Ok(-1)].contains(&set(10_000_000_000_000, 0)));
        assert_eq!(receive_time(-1), Err(Errno::EBADF));
    }
}
