//! Descriptors that go with bytes: the control messages of sendmsg(2) and recvmsg(2), as unix(7) has them.
#![deny(unsafe_code)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

use crate::kernel::direct;
use crate::kernel::fd::written;
use crate::kernel::socket::{self, sent};

/// How many descriptors of one receive are kept; the others are closed.
pub const MOST: usize = 16;

/// How many descriptors the kernel passes with one message at most (SCM_MAX_FD). With room for all of them none is closed by the
/// kernel within the receive: to close the last descriptor of a file may wait.
const ALL: usize = 253;

/// Room for the descriptors of one receive, aligned as control messages are.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; CONTROL]);

#[allow(unsafe_code, reason = "a calculation")]
// SAFETY: it only calculates.
const CONTROL: usize = unsafe { libc::CMSG_SPACE((ALL * size_of::<RawFd>()) as u32) } as usize;

/// Room for one descriptor to be sent.
#[repr(C, align(8))]
struct ControlOfOne([MaybeUninit<u8>; CONTROL_OF_ONE]);

#[allow(unsafe_code, reason = "a calculation")]
// SAFETY: it only calculates.
const CONTROL_OF_ONE: usize = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;

/// Linux 6.5: a descriptor of the peer's process, if the program has set SO_PASSPIDFD.
const SCM_PIDFD: i32 = 4;

/// What becomes of descriptors that a receive brings.
pub enum Arriving<'a> {
    /// The kernel lets none through.
    None,
    /// They are given to this.
    To(&'a mut dyn FnMut(OwnedFd)),
}

/// Receives into `pieces`, one after the other, without waiting; 0 is the end of the stream.
///
/// # Safety
/// The pieces are writable for their whole lengths.
#[allow(
    unsafe_code,
    reason = "nix receives into initialised bytes only, and copies control messages to the heap"
)]
unsafe fn receive_pieces(fd: RawFd, pieces: &mut [libc::iovec], flags: i32, arriving: Arriving<'_>) -> isize {
    let mut message = direct::message_of(pieces.as_mut_ptr(), pieces.len());
    let mut control = Control([MaybeUninit::uninit(); CONTROL]);
    if let Arriving::To(_) = arriving {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL as _;
    }
    // SAFETY: the header names the pieces, as promised, and `control`, writable for its whole length.
    let count =
        unsafe { direct::recvmsg(fd, &raw mut message, flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    if let (true, Arriving::To(take)) = (count >= 0, arriving) {
        // SAFETY: the kernel has written the header and the control messages that it names.
        unsafe { take_descriptors(&message, take) };
    }
    count
}

/// Receives at most `room`, without waiting.
#[allow(unsafe_code, reason = "see receive_pieces")]
pub fn receive<'a>(
    fd: RawFd,
    room: &'a mut [MaybeUninit<u8>],
    arriving: Arriving<'_>,
) -> Result<&'a mut [u8]> {
    if let Arriving::None = arriving {
        return socket::receive(fd, room);
    }
    let mut piece = [libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }];
    // SAFETY: `room` is writable for its whole length, and the kernel has written as much as it says.
    unsafe {
        let count = receive_pieces(fd, &mut piece, 0, arriving);
        written(room, count)
    }
}

/// Receives at most `head` and, behind it, `room`, without waiting: how much of `head`, and the rest. Nothing
/// is the end of the stream.
#[allow(unsafe_code, reason = "see receive_pieces")]
pub fn receive_apart<'a, const N: usize>(
    fd: RawFd,
    head: &mut [u8; N],
    room: &'a mut [MaybeUninit<u8>],
    arriving: Arriving<'_>,
) -> Result<(usize, &'a mut [u8])> {
    let mut pieces = [
        libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: N },
        libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() },
    ];
    // SAFETY: both are writable for their whole lengths.
    let count = Errno::result(unsafe { receive_pieces(fd, &mut pieces, 0, arriving) })?;
    let count = count.unsigned_abs();
    // SAFETY: the kernel has filled `head` first, and then as much of `room`.
    Ok((count.min(N), unsafe { written(room, count.saturating_sub(N) as isize) }?))
}

/// Switches SO_LINGER off for the sockets among the descriptors that were sent to this one and not received: it is about to be
/// closed, and to close the last descriptor of a socket that lingers waits.
///
/// They are looked at and stay where they are (SO_PEEK_OFF). Another process that has the connection, too, and looks at the
/// same time, would look at the wrong place: the caller knows of none.
pub fn disarm_unreceived(fd: RawFd) {
    if socket::set_peek_offset(fd, 0).is_err() {
        return;
    }
    let mut room = [MaybeUninit::<u8>::uninit(); 4096];
    for _ in 0..UNRECEIVED {
        let mut disarm = |one: OwnedFd| socket::switch_linger_off(one.as_raw_fd());
        let mut piece = [libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }];
        #[allow(unsafe_code, reason = "see receive_pieces")]
        // SAFETY: `room` is writable for its whole length.
        let count = unsafe { receive_pieces(fd, &mut piece, libc::MSG_PEEK, Arriving::To(&mut disarm)) };
        if count <= 0 {
            break;
        }
    }
    let _ = socket::set_peek_offset(fd, -1);
}

/// How often to look, at most: a peer may go on sending meanwhile.
const UNRECEIVED: usize = 1024;

/// Takes the descriptors out of what recvmsg has filled in.
///
/// # Safety
/// The kernel has filled in `message`, and the descriptors in it have not been taken.
#[allow(unsafe_code, reason = "the layout of control messages")]
unsafe fn take_descriptors(message: &libc::msghdr, take: &mut dyn FnMut(OwnedFd)) {
    // SAFETY: as promised by the caller.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give NULL or a whole header within the control messages.
    while let Some(one) = unsafe { header.as_ref() } {
        // The control message of SO_PASSPIDFD holds a descriptor, too, which nothing here uses.
        if one.cmsg_level == libc::SOL_SOCKET && matches!(one.cmsg_type, libc::SCM_RIGHTS | SCM_PIDFD) {
            // SAFETY: the data of such a message are descriptors that are this process's now, perhaps unaligned.
            let (data, empty) =
                unsafe { (libc::CMSG_DATA(header).cast::<RawFd>(), libc::CMSG_LEN(0) as usize) };
            #[allow(clippy::unnecessary_cast, reason = "not with every C library")]
            let count = (one.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: the index is below the count, and each descriptor is owned once.
                let descriptor = unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) };
                if one.cmsg_type == libc::SCM_RIGHTS {
                    take(descriptor);
                }
            }
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

/// Sends what the kernel takes of `pieces`, and with its first byte a descriptor.
#[allow(unsafe_code, reason = "the layout of control messages")]
pub fn send_with(fd: RawFd, pieces: &[IoSlice<'_>], descriptor: RawFd) -> Result<usize> {
    let mut control = ControlOfOne([MaybeUninit::zeroed(); CONTROL_OF_ONE]);
    let mut message = direct::message_of(pieces.as_ptr().cast_mut().cast(), pieces.len());
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: `control` has room for the header of a control message and for one descriptor.
    unsafe {
        message.msg_controllen = CONTROL_OF_ONE as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header names `pieces`, which have the layout of iovec and are only read, and `control`.
    sent(unsafe { direct::sendmsg(fd, &raw const message, flags) })
}
