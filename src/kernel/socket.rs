//! System calls on sockets: receive, send, accept, listen, options; and the cookie, which identifies a
//! socket.
//!
//! A socket is a plain number here, as in `kernel::fd`. No state. nix is used if it suffices; each call of
//! libc has its reason.
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

/// Receives at most `room`, without waiting; an empty result is the end of the stream. The kernel closes
/// descriptors that arrive with the bytes, which may wait.
#[allow(unsafe_code, reason = "nix receives into initialised bytes only")]
#[inline]
pub fn receive(fd: RawFd, room: &mut [MaybeUninit<u8>]) -> Result<&mut [u8]> {
    // SAFETY: `room` is writable for its whole length, and the kernel has written `count` bytes.
    unsafe {
        let count = direct::recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT);
        written(room, count)
    }
}

/// The peer credentials of the connection (SO_PEERCRED).
pub fn peer_credentials(fd: RawFd) -> Result<socket::UnixCredentials> {
    // ENOTCONN if the socket is not connected: for a listening socket the kernel would report the service
    // itself as the peer.
    socket::getpeername::<socket::UnixAddr>(fd)?;
    socket::getsockopt(&borrow(fd)?, socket::sockopt::PeerCredentials)
}

/// The type of a socket, as far as the library distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A byte stream.
    Stream,
    /// Datagrams or packets: each is received whole or truncated.
    Messages,
}

/// The type of the socket; ENOTSOCK if the descriptor is not a socket.
pub fn kind(fd: RawFd) -> Result<Kind> {
    match socket::getsockopt(&borrow(fd)?, socket::sockopt::SockType) {
        Ok(socket::SockType::Stream) => Ok(Kind::Stream),
        Ok(_) => Ok(Kind::Messages),
        // A type that nix has no name for.
        Err(Errno::EINVAL) => Ok(Kind::Messages),
        Err(errno) => Err(errno),
    }
}

/// The size of the next datagram or packet, which stays in the receive queue.
#[allow(unsafe_code, reason = "nix returns how much was received, not how large the datagram is")]
pub fn next_size(fd: RawFd) -> Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: the buffer has length 0, so nothing is written.
    Errno::result(unsafe { libc::recv(fd, std::ptr::null_mut(), 0, flags) }).map(isize::unsigned_abs)
}

/// The result of a send. ECONNRESET (the peer closed the connection before it read all our bytes) becomes
/// EPIPE, as for any other closed connection.
pub fn send_result(count: isize) -> Result<usize> {
    usize::try_from(count).map_err(|_| match Errno::last() {
        Errno::ECONNRESET => Errno::EPIPE,
        errno => errno,
    })
}

/// A frame of at most this many bytes is sent from one buffer, and received into one: copying it takes less
/// time than sendmsg(2) or recvmsg(2) with two pieces.
pub const SMALL: usize = 512;

/// Sends as much of `pieces`, one after the other, as the kernel accepts at once; EPIPE, without SIGPIPE, if
/// the peer has closed the connection.
#[allow(unsafe_code, reason = "nix sends initialised arrays only, and makes room for control messages")]
pub fn send_pieces(fd: RawFd, pieces: &[IoSlice<'_>]) -> Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let message = direct::message_of(pieces.as_ptr().cast_mut().cast(), pieces.len());
    // SAFETY: the header refers to `pieces`, which have the layout of iovec and are only read.
    send_result(unsafe { direct::sendmsg(fd, &raw const message, flags) })
}

/// Sends as much of a frame (header, payload) as the kernel accepts at once.
#[allow(unsafe_code, reason = "see send_pieces")]
#[inline]
pub fn send_frame(fd: RawFd, [head, payload]: [&[u8]; 2]) -> Result<usize> {
    let size = head.len() + payload.len();
    if size > SMALL {
        return send_pieces(fd, &[IoSlice::new(head), IoSlice::new(payload)]);
    }
    let mut room = [const { MaybeUninit::<u8>::uninit() }; SMALL];
    let place = room.as_mut_ptr().cast::<u8>();
    // SAFETY: `room` has space for both pieces and does not overlap them; the first `size` bytes are
    // initialised then.
    send_result(unsafe {
        std::ptr::copy_nonoverlapping(head.as_ptr(), place, head.len());
        std::ptr::copy_nonoverlapping(payload.as_ptr(), place.add(head.len()), payload.len());
        direct::send(fd, place, size, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    })
}

/// Accepts one client from the listener's backlog; the client's descriptor is close-on-exec. A client that
/// has closed its connection meanwhile (ECONNABORTED) is skipped.
pub fn accept(listener: RawFd) -> Result<RawFd> {
    loop {
        match socket::accept4(listener, SockFlag::SOCK_CLOEXEC) {
            Err(Errno::ECONNABORTED) => {}
            result => return result.map(beyond_standard_raw),
        }
    }
}

/// Moves a descriptor that accept4(2) has just returned above the numbers of the standard streams.
#[allow(unsafe_code, reason = "a number that accept4 has just made")]
pub fn beyond_standard_raw(client: RawFd) -> RawFd {
    if client > libc::STDERR_FILENO {
        return client;
    }
    // SAFETY: no other code knows the descriptor yet.
    beyond_standard(unsafe { OwnedFd::from_raw_fd(client) }).into_raw_fd()
}

/// Makes the socket listen, with a backlog of so many clients; without a number, of as many as the kernel
/// allows (net.core.somaxconn).
pub fn listen(fd: RawFd, backlog: Option<i32>) -> Result<()> {
    let limited = |backlog: i32| Backlog::new(backlog.clamp(0, libc::SOMAXCONN));
    let backlog = backlog.map_or(Ok(Backlog::MAXALLOWABLE), limited)?;
    socket::listen(&borrow(fd)?, backlog)
}

/// EINVAL, EBADF or ENOTSOCK if the descriptor is not a listening socket.
pub fn check_listener(fd: RawFd) -> Result<()> {
    if socket::getsockopt(&borrow(fd)?, socket::sockopt::AcceptConn)? { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Sets O_NONBLOCK of a listening socket, for all processes that share the socket. Returns whether this call
/// has set it: false if it was set before.
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

/// How many sent bytes the peer has not received yet, including the kernel's overhead for them (SIOCOUTQ).
/// The number decreases when the peer has received a whole buffer of the kernel, up to 64 KiB.
#[allow(unsafe_code, reason = "nix has no such call")]
pub fn unsent(fd: RawFd) -> Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one number.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// How many bytes can be received now (SIOCINQ); 0 if the kernel does not report it.
#[allow(unsafe_code, reason = "nix has no such call")]
pub fn available(fd: RawFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one number.
    let result = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) };
    if result == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// Since Linux 6.16. From asm-generic/socket.h; the same on every architecture that libc supports except
/// PA-RISC and SPARC.
const SO_PASSRIGHTS: i32 = 83;

#[allow(unsafe_code, reason = "nix knows neither option")]
fn set_option<T>(fd: RawFd, option: i32, value: T) -> Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads a value of this size.
    Errno::result(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), size) })
        .map(drop)
}

/// Sets whether descriptors may be sent to the socket; clients that a listening socket accepts inherit the
/// setting. ENOPROTOOPT before Linux 6.16.
pub fn set_fd_passing(fd: RawFd, may_pass: bool) -> Result<()> {
    set_option(fd, SO_PASSRIGHTS, i32::from(may_pass))
}

/// Switches SO_LINGER off, so that closing the last descriptor of the socket does not wait.
pub fn switch_linger_off(fd: RawFd) {
    let _ = set_option(fd, libc::SO_LINGER, libc::linger { l_onoff: 0, l_linger: 0 });
}

/// Sets the offset at which the next MSG_PEEK begins (SO_PEEK_OFF); with -1 each MSG_PEEK begins at the first
/// byte.
pub fn set_peek_offset(fd: RawFd, offset: i32) -> Result<()> {
    set_option(fd, libc::SO_PEEK_OFF, offset)
}

/// Shuts the connection down for both sides; the descriptor stays open.
pub fn shut_down(fd: RawFd) {
    let _ = socket::shutdown(fd, socket::Shutdown::Both);
}

/// Identifies a socket, to distinguish a reused number from the socket that had the number before: SO_COOKIE,
/// which the kernel gives to one socket only. If the kernel does not report SO_COOKIE (it is too old, or a
/// security module forbids the call), the socket's inode is used: no two sockets have the same inode at the
/// same time.
///
/// The lowest bit is 0 for SO_COOKIE and 1 for an inode; the other bits are the value. 0 means no socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cookie(u64);

impl Cookie {
    /// No socket.
    pub const NONE: Self = Self(0);

    /// The cookie of the socket that this descriptor refers to; EBADF or ENOTSOCK if it refers to no socket.
    pub fn of(fd: RawFd) -> Result<Self> {
        match Self::reported(fd) {
            Err(errno) if errno != Errno::EBADF && errno != Errno::ENOTSOCK => {
                Ok(Self(File::of(fd)?.id().inode << 1 | 1))
            }
            result => result,
        }
    }

    /// SO_COOKIE of the socket.
    #[allow(unsafe_code, reason = "nix does not know SO_COOKIE")]
    #[inline]
    fn reported(fd: RawFd) -> Result<Self> {
        let mut cookie = 0_u64;
        let mut size = size_of_val(&cookie) as libc::socklen_t;
        // SAFETY: the buffer has `size` bytes.
        let result = unsafe {
            let place = std::ptr::from_mut(&mut cookie).cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_COOKIE, place, &raw mut size)
        };
        Errno::result(result).map(|_| Self(cookie << 1))
    }

    /// Whether this is the cookie of a socket.
    pub fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether this descriptor refers to the socket with this cookie. `None` if SO_COOKIE does not tell: the kernel
    /// does not report it now, or did not when this cookie was asked for.
    #[inline]
    pub fn compare(self, fd: RawFd) -> Option<bool> {
        if self.0 & 1 != 0 || self == Self::NONE {
            return None;
        }
        match Self::reported(fd) {
            Ok(now) => Some(now == self),
            Err(Errno::EBADF | Errno::ENOTSOCK) => Some(false),
            Err(_) => None,
        }
    }

    /// Whether both may identify the same socket: they are equal, or one is SO_COOKIE and the other an inode,
    /// which cannot be compared.
    pub fn may_equal(self, other: Self) -> bool {
        self.0 == other.0 || (self.0 ^ other.0) & 1 != 0
    }

    /// Whether this descriptor may refer to the socket with this cookie; see `may_equal`.
    #[inline]
    pub fn is_of(self, fd: RawFd) -> bool {
        Self::of(fd).is_ok_and(|now| now.may_equal(self))
    }
}

/// The socket's SO_RCVTIMEO in milliseconds; -1 if receives wait without limit.
#[allow(
    unsafe_code,
    reason = "nix panics if the returned size is not that of a timeval, which happens in an emulator"
)]
pub fn receive_timeout(fd: RawFd) -> Result<i32> {
    let mut limit = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut size = size_of_val(&limit) as libc::socklen_t;
    // SAFETY: the structure has `size` bytes, and any bytes are valid numbers.
    Errno::result(unsafe {
        let place = (&raw mut limit).cast();
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, place, &raw mut size)
    })?;
    if limit.tv_sec == 0 && limit.tv_usec == 0 {
        return Ok(-1);
    }
    // Rounded up to whole milliseconds.
    let rest = i32::try_from(limit.tv_usec).unwrap_or(0).saturating_add(999) / 1000;
    let whole = i32::try_from(limit.tv_sec).unwrap_or(i32::MAX).saturating_mul(1000);
    Ok(whole.saturating_add(rest))
}

/// Sets how long a send or connect on this descriptor may wait (SO_SNDTIMEO), in milliseconds; below 0
/// without limit.
pub fn set_send_timeout(fd: RawFd, milliseconds: i32) -> Result<()> {
    let limit = TimeVal::milliseconds(i64::from(milliseconds.max(0)));
    socket::setsockopt(&borrow(fd)?, socket::sockopt::SendTimeout, &limit)
}

/// Whether O_NONBLOCK is set: calls on this descriptor must not wait.
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
            receive_timeout(socket.as_raw_fd())
        };
        assert_eq!(set(0, 0), Ok(-1));
        assert_eq!(set(5, 0), Ok(5000));
        // The kernel keeps ticks of 1 to 10 milliseconds.
        assert!((1..=20).contains(&set(0, 1).unwrap()));
        assert_eq!(set(libc::time_t::from(i32::MAX), 0), Ok(i32::MAX));
        #[cfg(target_pointer_width = "64")]
        // More microseconds than fit into an i64. Kernels with a different tick rate treat the value as no
        // timeout.
        assert!([Ok(i32::MAX), Ok(-1)].contains(&set(10_000_000_000_000, 0)));
        assert_eq!(receive_timeout(-1), Err(Errno::EBADF));
    }
}
