//! Reading one frame, for the calls that wait for it: `ipc_read`, `ipc_message_read`, `usock_recv`.
//!
//! They take no byte beyond their frame from the kernel, so that a program may poll the descriptor itself.
//! What the event loop has read ahead comes first. A read that is interrupted, or whose time is over, keeps
//! the half-received frame for the next call.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::connection::{Cut, Frame, Inbound, Receive};
use crate::error::{Error, ipc_errors as Code};
use crate::section::Section;
use crate::socket::{self, Patience};
use crate::wire::Header;
use crate::{connections, output};

/// Why no frame came.
enum Failure {
    /// The connection is at its end, or broken for good.
    Final(Error),
    /// Another call may have more luck.
    Passing(Error),
}

/// The next frame of the connection. `admit` sees its header first and can refuse it: it then stays for
/// another call.
pub fn read(
    section: &mut Section,
    fd: RawFd,
    mut admit: impl FnMut(Header) -> Result<(), Error>,
) -> Result<Frame, Error> {
    let mut inbound = connections::lock(section, fd).take_inbound();
    loop {
        let result = next(section, fd, &mut inbound, &mut admit);
        let kept = connections::lock(section, fd).put_inbound(inbound);
        match (result, kept) {
            // No memory to keep the half-received frame in: rather than lose it, go on.
            (Err(Failure::Passing(_)), Err(back)) => inbound = back,
            (Err(Failure::Passing(error) | Failure::Final(error)), _) => return Err(error),
            (Ok(frame), _) => return Ok(frame),
        }
    }
}

fn next(
    section: &mut Section,
    fd: RawFd,
    inbound: &mut Inbound,
    admit: &mut impl FnMut(Header) -> Result<(), Error>,
) -> Result<Frame, Failure> {
    let failed = |errno| Error::new(Code::IPC_ERROR_USOCK_RECV, errno);
    loop {
        if let Ok(Some(header)) = inbound.announced() {
            admit(header).map_err(Failure::Passing)?;
        }
        match inbound.cut() {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(Cut::OutOfMemory) => return Err(Failure::Passing(crate::memory::OutOfMemory.into())),
            Err(Cut::TooLong) => return Err(Failure::Final(failed(Errno::EPROTO))),
        }
        let begun = !inbound.is_empty();
        output::flush_while_waiting(section, fd).map_err(|errno| Failure::Passing(failed(errno)))?;
        let came =
            inbound.receive_exact(|room| section.outside(|| socket::receive(fd, room, Patience::Wait)));
        match came {
            Ok(0) => {
                let errno = if begun { Errno::ECONNRESET } else { Errno::EPIPE };
                return Err(Failure::Final(Error::new(Code::IPC_ERROR_CLOSED_RECIPIENT, errno)));
            }
            Ok(_) => {}
            Err(Receive::System(errno @ Errno::ECONNRESET)) => {
                return Err(Failure::Final(Error::new(Code::IPC_ERROR_CLOSED_RECIPIENT, errno)));
            }
            Err(Receive::System(errno)) => return Err(Failure::Passing(failed(errno))),
            Err(Receive::OutOfMemory) => return Err(Failure::Passing(crate::memory::OutOfMemory.into())),
        }
    }
}
