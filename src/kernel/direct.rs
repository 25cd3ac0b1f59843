//! send(2), sendmsg(2), recv(2), recvmsg(2), poll(2) and epoll_wait(2) by syscall(2).
//!
//! The functions of the C library are cancellation points. The same calls by number are not, so a step of the
//! library that does not wait need not postpone cancellation. Callers pass `MSG_DONTWAIT`. No state.
#![deny(unsafe_code)]
#![allow(unsafe_code, reason = "each function is the system call of that name, with the same conditions")]

use std::ffi::c_int;
use std::os::fd::RawFd;

/// # Safety
/// As for send(2).
pub unsafe fn send(fd: RawFd, bytes: *const u8, size: usize, flags: c_int) -> isize {
    let (none, no_size) = (std::ptr::null::<u8>(), 0_usize);
    // SAFETY: as promised by the caller.
    (unsafe { libc::syscall(libc::SYS_sendto, fd, bytes, size, flags, none, no_size) }) as isize
}

/// A message header for these pieces, without address and control messages. The count is cast, since its type
/// differs between C libraries.
pub fn message_of(pieces: *mut libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: a structure of zeros is valid: an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces;
    message.msg_iovlen = count as _;
    message
}

/// # Safety
/// As for sendmsg(2).
pub unsafe fn sendmsg(fd: RawFd, message: *const libc::msghdr, flags: c_int) -> isize {
    // SAFETY: as promised by the caller.
    (unsafe { libc::syscall(libc::SYS_sendmsg, fd, message, flags) }) as isize
}

/// # Safety
/// As for recv(2).
pub unsafe fn recv(fd: RawFd, room: *mut u8, size: usize, flags: c_int) -> isize {
    let none = std::ptr::null::<u8>();
    // SAFETY: as promised by the caller.
    (unsafe { libc::syscall(libc::SYS_recvfrom, fd, room, size, flags, none, none) }) as isize
}

/// poll(2) with a timeout of 0.
///
/// # Safety
/// As for poll(2).
pub unsafe fn poll_ready(fds: *mut libc::pollfd, count: usize) -> isize {
    // Zeros are a timeout of 0, also if the kernel's structure is smaller than that of the C library.
    let mut now = [0_u64; 2];
    let mask = std::ptr::null::<u8>();
    // SAFETY: as promised by the caller; the kernel may write what is left of the timeout.
    (unsafe { libc::syscall(libc::SYS_ppoll, fds, count, now.as_mut_ptr(), mask, 0_usize) }) as isize
}

/// epoll_wait(2) with a timeout of 0.
///
/// # Safety
/// As for epoll_wait(2).
pub unsafe fn epoll_ready(set: RawFd, room: *mut libc::epoll_event, most: c_int) -> isize {
    let (now, mask, size) = (0, std::ptr::null::<u8>(), 0_usize);
    // SAFETY: as promised by the caller.
    (unsafe { libc::syscall(libc::SYS_epoll_pwait, set, room, most, now, mask, size) }) as isize
}

/// # Safety
/// As for recvmsg(2).
pub unsafe fn recvmsg(fd: RawFd, message: *mut libc::msghdr, flags: c_int) -> isize {
    // SAFETY: as promised by the caller.
    (unsafe { libc::syscall(libc::SYS_recvmsg, fd, message, flags) }) as isize
}
