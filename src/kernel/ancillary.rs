//! File descriptor passing (SCM_RIGHTS of unix(7)): the control messages of sendmsg(2) and recvmsg(2).
//!
//! Each received descriptor is owned exactly once: the caller's function gets it, or it is closed here. No
//! state.
#![deny(unsafe_code)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

use crate::kernel::direct;
use crate::kernel::fd::written;
use crate::kernel::socket::{self, send_result};

/// How many received descriptors a connection keeps until the program takes them; the caller drops the
/// others.
pub const MAX_KEPT: usize = 16;

/// How many descriptors the kernel passes with one message at most. A receive has room for all of them: if
/// the room were too small, the kernel would close the others within recvmsg(2), and closing the last
/// descriptor of a file may wait.
const SCM_MAX_FD: usize = 253;

/// Room for the control messages of one receive, with the alignment of control messages.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; CONTROL]);

#[allow(unsafe_code, reason = "a calculation")]
// SAFETY: CMSG_SPACE only calculates.
const CONTROL: usize = unsafe { libc::CMSG_SPACE((SCM_MAX_FD * size_of::<RawFd>()) as u32) } as usize;

/// Room for one descriptor to be sent.
#[repr(C, align(8))]
struct ControlOfOne([MaybeUninit<u8>; CONTROL_OF_ONE]);

#[allow(unsafe_code, reason = "a calculation")]
// SAFETY: CMSG_SPACE only calculates.
const CONTROL_OF_ONE: usize = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;

/// Since Linux 6.5: a control message with a descriptor of the peer's process, if the program has set
/// SO_PASSPIDFD.
const SCM_PIDFD: i32 = 4;

/// What happens to descriptors that arrive with the received bytes.
pub enum Arriving<'a> {
    /// The receive has no room for descriptors. The socket refuses them; otherwise the kernel closes them,
    /// which may wait.
    None,
    /// This function gets each of them.
    To(&'a mut dyn FnMut(OwnedFd)),
}

/// Receives into `pieces`, one after the other, without waiting. Returns the count of recvmsg(2): 0 at the
/// end of the stream, -1 with errno.
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
    // SAFETY: the header refers to the pieces, which are as promised, and to `control`; all are writable.
    let count =
        unsafe { direct::recvmsg(fd, &raw mut message, flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    if let (true, Arriving::To(take)) = (count >= 0, arriving) {
        // SAFETY: the kernel has written the header and the control messages.
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
    // SAFETY: `room` is writable for its whole length, and the kernel has written `count` bytes.
    unsafe {
        let count = receive_pieces(fd, &mut piece, 0, arriving);
        written(room, count)
    }
}

/// Receives without waiting: first into `head`, then into `room`. Returns how many bytes of `head` are
/// filled, and the filled part of `room`; 0 bytes mean the end of the stream.
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
    // SAFETY: `head` and `room` are writable for their whole lengths.
    let count = Errno::result(unsafe { receive_pieces(fd, &mut pieces, 0, arriving) })?;
    let count = count.unsigned_abs();
    // SAFETY: the kernel has filled `head` first, and then `count` - N bytes of `room`.
    Ok((count.min(N), unsafe { written(room, count.saturating_sub(N) as isize) }?))
}

/// Switches SO_LINGER off for sockets that the peer has sent as descriptors and that were not received yet.
/// Closing the connection closes them, and closing the last descriptor of a socket that lingers waits.
///
/// The descriptors are looked at with MSG_PEEK and SO_PEEK_OFF, and stay in the receive queue. The offset
/// belongs to the socket, so another process that peeks at the same time would see wrong bytes: the caller
/// makes sure that no other process has the connection.
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

/// How many times `disarm_unreceived` peeks at most: the peer may go on sending meanwhile.
const UNRECEIVED: usize = 1024;

/// Gives `take` each descriptor of SCM_RIGHTS in the control messages, and closes that of SCM_PIDFD.
///
/// # Safety
/// The kernel has filled in `message`, and the descriptors in it have not been taken.
#[allow(unsafe_code, reason = "the layout of control messages")]
unsafe fn take_descriptors(message: &libc::msghdr, take: &mut dyn FnMut(OwnedFd)) {
    // SAFETY: as promised by the caller.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return NULL or a whole header within the control messages.
    while let Some(one) = unsafe { header.as_ref() } {
        // The descriptor of SCM_PIDFD is not used, but it is this process's now and must be closed.
        if one.cmsg_level == libc::SOL_SOCKET && matches!(one.cmsg_type, libc::SCM_RIGHTS | SCM_PIDFD) {
            // SAFETY: the data of such a message are descriptors that this process owns now, possibly
            // unaligned.
            let (data, empty) =
                unsafe { (libc::CMSG_DATA(header).cast::<RawFd>(), libc::CMSG_LEN(0) as usize) };
            #[allow(clippy::unnecessary_cast, reason = "not with every C library")]
            let count = (one.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: the index is below the count, and each descriptor is taken once.
                let descriptor = unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) };
                if one.cmsg_type == libc::SCM_RIGHTS {
                    take(descriptor);
                }
            }
        }
        // SAFETY: `message` is as promised by the caller, and `header` is one of its control messages.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

/// Sends as much of `pieces` as the kernel accepts at once; the descriptor goes with the first byte.
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
    // SAFETY: the header refers to `pieces`, which have the layout of iovec and are only read, and to
    // `control`.
    send_result(unsafe { direct::sendmsg(fd, &raw const message, flags) })
}
