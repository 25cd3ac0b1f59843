//! The model: the frames that were accepted and that the peer has not received, in order.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::support;
use crate::support::ext::number_of;

/// As many bytes are received at once at most.
const ROOM: usize = 256 << 10;

struct Frame {
    bytes: Vec<u8>,
    /// The number of the file that goes with it.
    file: Option<usize>,
}

/// What is queued for a peer.
#[derive(Default)]
pub struct Owed {
    frames: VecDeque<Frame>,
    /// How much of the first one has been received.
    received: usize,
    /// What of all is yet to come.
    pub bytes: usize,
}

impl Owed {
    pub fn push(&mut self, kind: u8, payload: &[u8], file: Option<usize>) {
        let bytes = support::frame(kind, payload);
        self.bytes += bytes.len();
        self.frames.push_back(Frame { bytes, file });
    }

    /// The last one was refused: not a byte of it may have arrived.
    pub fn take_back(&mut self) -> Result<(), String> {
        let last = self.frames.pop_back().ok_or("of a message that was refused all has arrived")?;
        ensure!(!self.frames.is_empty() || self.received == 0, "a part of a refused message has arrived");
        self.bytes -= last.bytes.len();
        Ok(())
    }

    /// The peer receives what there is, at most so many bytes: how many, and whether it has come to the end.
    ///
    /// Each first byte with which a descriptor has to come is received by itself. So the descriptor comes with this
    /// call, or it was attached to another byte.
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
                "byte {:?} of a frame of {} is another one",
                place.map(|place| self.received + place),
                frame.bytes.len()
            );
            let files: Vec<_> = files.iter().map(number_of).collect();
            ensure!(
                files == file.as_slice(),
                "with bytes from {} on of a frame of {} come files {files:?} instead of {file:?}",
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

/// Bytes that the peer can receive: those that the kernel has.
pub fn at_hand(peer: &UnixStream) -> usize {
    let mut bytes: libc::c_int = -1;
    assert_eq!(unsafe { libc::ioctl(peer.as_raw_fd(), libc::FIONREAD, &mut bytes) }, 0);
    usize::try_from(bytes).unwrap()
}

/// One call that does not wait: nothing there, or how many bytes, 0 at the end, and the descriptors with them.
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
        // Where the other end was closed with bytes unread.
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
