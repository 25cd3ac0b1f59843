//! The Unix sockets of this network namespace: a netlink query to the kernel, sock_diag(7).
//!
//! The library uses the query if connect(2) cannot say whether a server is alive: this user may not write to
//! the socket file. The program `ipc` uses it to list services. One request is sent, and the answer arrives
//! in parts ([`Part`]): the parts are read until a socket was found (`Found`) or the list ends (`Done`). No
//! state between calls.
#![deny(unsafe_code)]

use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::Result;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::kernel::file::FileId;

/// Numbers of linux/sock_diag.h and linux/unix_diag.h, which libc does not have.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Has the kernel add the attribute [`UNIX_DIAG_VFS`].
pub const UDIAG_SHOW_VFS: u32 = 2;
/// The attribute with inode and device of the file that the socket was bound to.
pub const UNIX_DIAG_VFS: u16 = 1;

/// The states (bits of `udiag_states`) of sockets that hold their path: listening (10), and bound only (7).
/// An accepted connection has the path, too, but does not hold it.
const HOLDING: u32 = 1 << 10 | 1 << 7;

/// The sizes of struct nlmsghdr, struct unix_diag_msg, and the header of an attribute (struct rtattr).
const HEADER: usize = 16;
const MESSAGE: usize = 16;
const ATTRIBUTE: usize = 4;

/// The request: struct nlmsghdr and struct unix_diag_req.
fn request(states: u32, show: u32) -> [u8; HEADER + 24] {
    let mut bytes = [0; HEADER + 24];
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or(0);
    let family = u8::try_from(libc::AF_UNIX).unwrap_or(0);
    let fields: [(usize, &[u8]); 6] = [
        (0, &((HEADER + 24) as u32).to_ne_bytes()),
        (4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes()),
        (6, &flags.to_ne_bytes()),
        (HEADER, &[family]),
        (HEADER + 4, &states.to_ne_bytes()),
        (HEADER + 12, &show.to_ne_bytes()),
    ];
    for (at, field) in fields {
        bytes.iter_mut().skip(at).zip(field).for_each(|(place, byte)| *place = *byte);
    }
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Splits `bytes`: the front of this length, and the rest from the next multiple of 4 on.
fn split(bytes: &[u8], length: usize) -> (&[u8], &[u8]) {
    let (front, _) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
    (front, bytes.get(length.next_multiple_of(4)..).unwrap_or_default())
}

/// One socket of the answer: struct nlmsghdr, struct unix_diag_msg and attributes. The bytes may be truncated.
#[derive(Clone, Copy, Debug)]
pub struct SocketReport<'a>(pub &'a [u8]);

impl<'a> SocketReport<'a> {
    /// SOCK_STREAM, ...
    pub fn kind(self) -> Option<u8> {
        self.0.get(HEADER + 1).copied()
    }

    /// The state, by the numbers of TCP.
    pub fn state(self) -> Option<u8> {
        self.0.get(HEADER + 2).copied()
    }

    /// The inode of the socket itself, as `/proc` has it.
    pub fn inode(self) -> Option<u32> {
        u32_at(self.0, HEADER + 4)
    }

    /// The attributes: type and content.
    pub fn attributes(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0.get(HEADER + MESSAGE..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (length, kind) = (u16_at(rest, 0)?, u16_at(rest, 2)?);
            let (attribute, others) = split(rest, usize::from(length).max(ATTRIBUTE));
            rest = others;
            Some((kind, attribute.get(ATTRIBUTE..).unwrap_or_default()))
        })
    }
}

/// The two numbers of an attribute.
pub fn two_numbers(content: &[u8]) -> Option<(u32, u32)> {
    u32_at(content, 0).zip(u32_at(content, 4))
}

/// The result of one part of the answer.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// The socket is in this part.
    Found,
    /// The socket is not in this part, and more parts follow.
    More,
    /// The socket is not in this part, which is the last one.
    Done,
}

/// Visits the sockets of one part of the answer, until `visit` breaks.
fn read_part(mut bytes: &[u8], visit: &mut impl FnMut(SocketReport<'_>) -> ControlFlow<()>) -> Result<Part> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = usize::try_from(length).ok().filter(|length| *length >= HEADER).ok_or(Errno::EPROTO)?;
        let (message, rest) = split(bytes, length);
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(Part::Done),
            libc::NLMSG_ERROR => {
                let errno = u32_at(message, HEADER).map_or(0, |errno| (errno as i32).wrapping_neg());
                return Err(Errno::from_raw(errno));
            }
            _ => {}
        }
        if visit(SocketReport(message)).is_break() {
            return Ok(Part::Found);
        }
        bytes = rest;
    }
    Ok(Part::More)
}

/// Visits the sockets in these states (bits), with these attributes, until `visit` breaks. Returns whether it
/// did; an error if the kernel does not answer.
pub fn visit_sockets(
    states: u32,
    show: u32,
    mut visit: impl FnMut(SocketReport<'_>) -> ControlFlow<()>,
) -> Result<bool> {
    let netlink: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    send(netlink.as_raw_fd(), &request(states, show), MsgFlags::empty())?;
    let mut room = [0; 16 << 10];
    loop {
        let count = recv(netlink.as_raw_fd(), &mut room, MsgFlags::empty())?;
        match read_part(room.get(..count).unwrap_or_default(), &mut visit)? {
            Part::Found => return Ok(true),
            Part::Done => return Ok(false),
            Part::More if count == 0 => return Err(Errno::EPROTO),
            Part::More => {}
        }
    }
}

/// Breaks at a socket that was bound to the file, given by inode and device in the kernel's form.
fn look_for(file: (u32, u32)) -> impl FnMut(SocketReport<'_>) -> ControlFlow<()> {
    move |socket| {
        let is_file =
            |(kind, content): (u16, &[u8])| kind == UNIX_DIAG_VFS && two_numbers(content) == Some(file);
        if socket.attributes().any(is_file) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Whether any socket is bound to the file; an error if the kernel does not answer.
pub fn is_bound(file: FileId) -> Result<bool> {
    // The lower half of the inode's number, and the device number in the kernel's own form.
    let (major, minor) = file.device_numbers();
    visit_sockets(HOLDING, UDIAG_SHOW_VFS, look_for((file.inode as u32, (major << 20 | minor) as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::file::File;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;

    fn id(path: &Path) -> FileId {
        File::at(&CString::new(path.as_os_str().as_bytes()).unwrap()).unwrap().id()
    }

    #[test]
    fn file_is_bound_while_its_server_runs() {
        let directory = tempfile::tempdir().unwrap();
        let [living, dead] = ["living", "dead"].map(|name| directory.path().join(name));
        let listener = UnixListener::bind(&living).unwrap();
        drop(UnixListener::bind(&dead).unwrap());
        assert_eq!(is_bound(id(&living)), Ok(true));
        assert_eq!(is_bound(id(&dead)), Ok(false));
        // An accepted connection that is still open does not hold the path.
        let client = UnixStream::connect(&living).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        drop(listener);
        assert_eq!(is_bound(id(&living)), Ok(false));
        drop((client, accepted));
    }

    fn find_file(bytes: &[u8], file: (u32, u32)) -> Result<Part> {
        read_part(bytes, &mut look_for(file))
    }

    #[test]
    fn truncated_answer_is_read_to_its_end_and_no_further() {
        let mut message = vec![0; HEADER + MESSAGE];
        message.extend([12_u16.to_ne_bytes(), UNIX_DIAG_VFS.to_ne_bytes()].concat());
        message.extend([7_u32.to_ne_bytes(), 9_u32.to_ne_bytes()].concat());
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(find_file(&message, (7, 9)), Ok(Part::Found));
        assert_eq!(find_file(&message, (7, 8)), Ok(Part::More));
        for count in 0..message.len() {
            assert!(find_file(&message[..count], (7, 9)) != Ok(Part::Found), "{count} bytes");
        }
        message[..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert_eq!(find_file(&message, (7, 9)), Err(Errno::EPROTO));
    }
}
