//! The model: the frames that were accepted and that the peer has not received yet, in order.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::support;
use crate::support::ext::number_of;

/// How many bytes are received at once at most.
const ROOM: usize = 256 << 10;

struct Frame {
    bytes: Vec<u8>,
    /// The number of the file that is sent with the frame, if any.
    file: Option<usize>,
}

/// The frames that a peer has still to receive.
#[derive(Default)]
pub struct Expected {
    frames: VecDeque<Frame>,
    /// How many bytes of the first frame were received.
    received: usize,
    /// How many bytes of all frames are still to be received.
    pub bytes: usize,
}

impl Expected {
    pub fn push(&mut self, kind: u8, payload: &[u8], file: Option<usize>) {
        let bytes = support::frame(kind, payload);
        self.bytes += bytes.len();
        self.frames.push_back(Frame { bytes, file });
    }

    /// Removes the last frame, which was refused: no byte of it may have arrived.
    pub fn take_back(&mut self) -> Result<(), String> {
        let last = self.frames.pop_back().ok_or("a refused message has arrived whole")?;
        ensure!(!self.frames.is_empty() || self.received == 0, "a part of a refused message has arrived");
        self.bytes -= last.bytes.len();
        Ok(())
    }

    /// The peer receives what has arrived, at most so many bytes. Returns the number of bytes, and whether
    /// the peer has seen end of file.
    ///
    /// If a descriptor must arrive with a byte, that byte is received alone: if its descriptor is missing
    /// then, it was attached to another byte.
    pub fn receive(&mut self, peer: &UnixStream, most: usize) -> Result<(usize, bool), String> {
        let mut room = vec![0; most.min(ROOM)];
        let mut count = 0;
        while count < most {
            let Some(frame) = self.frames.front() else {
                let next = receive(peer, &mut [0], MsgFlags::MSG_PEEK)?.map(|(count, _)| count);
                ensure!(next != Some(1), "a byte arrives that was never accepted");
                return Ok((count, next == Some(0)));
            };
            let file = frame.file.filter(|_| self.received == 0);
            let rest = &frame.bytes[self.received..];
            let want = if file.is_some() { 1 } else { rest.len().min(most - count).min(room.len()) };
            let Some((got, files)) = receive(peer, &mut room[..want], MsgFlags::empty())? else { break };
            if got == 0 {
                return Ok((count, true));
            }
            let place = (0..got).find(|place| room[*place] != rest[*place]);
            ensure!(
                place.is_none(),
                "byte {:?} of a frame of {} bytes is wrong",
                place.map(|place| self.received + place),
                frame.bytes.len()
            );
            let files: Vec<_> = files.iter().map(number_of).collect();
            ensure!(
                files == file.as_slice(),
                "from byte {} of a frame of {} bytes: files {files:?} instead of {file:?}",
                self.received,
                frame.bytes.len()
            );
            count += got;
            self.bytes -= got;
            self.received += got;
            if self.received == frame.bytes.len() {
                self.frames.pop_front();
                self.received = 0;
            }
        }
        Ok((count, false))
    }
}

/// How many bytes the peer can receive without waiting.
pub fn bytes_in_kernel(peer: &UnixStream) -> usize {
    let mut bytes: libc::c_int = -1;
    assert_eq!(unsafe { libc::ioctl(peer.as_raw_fd(), libc::FIONREAD, &mut bytes) }, 0);
    usize::try_from(bytes).unwrap()
}

/// One recvmsg(2) that does not wait. Returns None if nothing has arrived, otherwise the number of bytes (0
/// at end of file) and the descriptors.
fn receive(
    peer: &UnixStream,
    room: &mut [u8],
    flags: MsgFlags,
) -> Result<Option<(usize, Vec<OwnedFd>)>, String> {
    let mut control = nix::cmsg_space!([RawFd; 8]);
    let mut pieces = [IoSliceMut::new(room)];
    let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = match recvmsg::<()>(peer.as_raw_fd(), &mut pieces, Some(&mut control), flags) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        // The other end was closed with bytes unread.
        Err(Errno::ECONNRESET) => return Ok(Some((0, Vec::new()))),
        Err(errno) => return Err(format!("the peer's recvmsg: {errno}")),
    };
    let mut files = Vec::new();
    for part in message.cmsgs().map_err(|errno| errno.to_string())? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            files.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(Some((message.bytes, files)))
}
