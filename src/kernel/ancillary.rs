//! Descriptors that go with bytes: the control messages of sendmsg(2) and recvmsg(2), as unix(7) has them.
#![deny(unsafe_code)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::Result;

use crate::kernel::fd::{Patience, written};
use crate::kernel::socket::{self, sent};

/// How many descriptors may come at once. The kernel closes what is beyond.
pub const MOST: usize = 16;

/// Room for the descriptors of one receive, aligned as control messages are.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; CONTROL]);

#[allow(unsafe_code, reason = "a calculation")]
// SAFETY: it only calculates.
const CONTROL: usize = unsafe { libc::CMSG_SPACE((MOST * size_of::<RawFd>()) as u32) } as usize;

/// Receives at most `room`, and the descriptors that come along if they are to arrive somewhere.
pub fn receive<'a>(
    fd: RawFd,
    room: &'a mut [MaybeUninit<u8>],
    patience: Patience,
    arriving: Option<&mut impl Extend<OwnedFd>>,
) -> Result<&'a mut [u8]> {
    match arriving {
        Some(descriptors) => receive_with(fd, room, patience, descriptors),
        None => socket::receive(fd, room, patience),
    }
}

/// Receives at most `room`, and the descriptors that come along.
#[allow(
    unsafe_code,
    reason = "nix receives into initialised bytes only, and copies control messages to the heap"
)]
fn receive_with<'a>(
    fd: RawFd,
    room: &'a mut [MaybeUninit<u8>],
    patience: Patience,
    descriptors: &mut impl Extend<OwnedFd>,
) -> Result<&'a mut [u8]> {
    let mut piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    let mut control = Control([MaybeUninit::uninit(); CONTROL]);
    // SAFETY: all zeros is a message header without address, pieces and control messages.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    let flags = patience.flags() | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header names `room` and `control`, writable for their whole lengths.
    let count = unsafe { libc::recvmsg(fd, &raw mut message, flags) };
    if count >= 0 {
        // SAFETY: the kernel has written the header and the control messages that it names.
        unsafe { take_descriptors(&message, descriptors) };
    }
    // SAFETY: the kernel has written as much as it tells.
    unsafe { written(room, count) }
}

/// Takes the descriptors out of what recvmsg has filled in.
///
/// # Safety
/// The kernel has filled in `message`, and nobody has taken the descriptors in it.
#[allow(unsafe_code, reason = "the layout of control messages")]
unsafe fn take_descriptors(message: &libc::msghdr, descriptors: &mut impl Extend<OwnedFd>) {
    // SAFETY: as promised by the caller.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give NULL or a whole header within the control messages.
    while let Some(one) = unsafe { header.as_ref() } {
        if (one.cmsg_level, one.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the data of such a message are descriptors that are this process's now, perhaps unaligned.
            let (data, empty) =
                unsafe { (libc::CMSG_DATA(header).cast::<RawFd>(), libc::CMSG_LEN(0) as usize) };
            let count = one.cmsg_len.saturating_sub(empty) / size_of::<RawFd>();
            // SAFETY: each index is below the count, and each descriptor is owned once.
            descriptors.extend(
                (0..count).map(|index| unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) }),
            );
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

/// Sends what the kernel takes of `pieces`, and with its first byte a descriptor.
#[allow(unsafe_code, reason = "the layout of control messages")]
pub fn send_with(fd: RawFd, pieces: &[IoSlice<'_>], descriptor: RawFd) -> Result<usize> {
    let mut control = Control([MaybeUninit::zeroed(); CONTROL]);
    // SAFETY: all zeros is a message header without address, pieces and control messages.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len();
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: `control` has room for the header of a control message and for one descriptor, and more.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor);
    }
    let flags = Patience::DontWait.flags() | libc::MSG_NOSIGNAL;
    // SAFETY: the header names `pieces`, which have the layout of iovec and are only read, and `control`.
    sent(unsafe { libc::sendmsg(fd, &raw const message, flags) })
}
