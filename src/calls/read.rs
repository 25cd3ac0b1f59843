//! Reading one frame, for the calls that wait for it: `ipc_read`, `ipc_message_read`, `usock_recv`.
//!
//! They take no byte beyond their frame from the kernel, so that a program may poll the descriptor itself.
//! What the event loop has read ahead comes first. A read that is interrupted, or whose time is over, keeps
//! the half-received frame for the next call.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::poll::PollFlags;

use crate::calls::flush;
use crate::connection::frame_decoder::{Came, Cut, Frame, Inbound, Receive};
use crate::connection::send::any_queued;
use crate::connection::table;
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop;
use crate::frame::c_heap::OutOfMemory;
use crate::frame::header::Header;
use crate::kernel::ancillary;
use crate::kernel::fd;
use crate::kernel::fd::Patience;
use crate::kernel::socket;
use crate::kernel::socket::Cookie;
use crate::process::entry_guard::Section;

/// Why no frame came.
enum Failure {
    /// The connection is at its end.
    End(Error),
    /// What has come of a frame stays for another call.
    Passing(Error),
}

/// The next frame of the connection. `admit` sees its header first and can refuse it: it then stays for
/// another call.
pub fn read(
    section: &mut Section,
    fd: RawFd,
    admit: &mut dyn FnMut(Header) -> Result<(), Error>,
) -> Result<Frame, Error> {
    let mut slot = table::lock(section, fd);
    // Before anything is taken from the kernel, so that nothing is lost for want of it.
    slot.reserve().map_err(|_| OutOfMemory)?;
    let (mut inbound, mut cookie) = slot.take_inbound();
    drop(slot);
    loop {
        let result = next(section, fd, &mut inbound, &mut cookie, admit);
        if let Err(Failure::End(_)) = result {
            // What has come of a frame will never be one.
            inbound = Inbound::default();
        }
        let is_kept =
            inbound.is_empty() || table::lock(section, fd).put_inbound(&mut inbound, cookie).is_ok();
        if let Err(Failure::Passing(_)) = result {
            event_loop::has_input(section, fd);
        }
        match result {
            // No memory to keep the half-received frame in: rather than lose it, go on.
            Err(Failure::Passing(Error { errno: Errno::EINTR | Errno::EAGAIN, .. })) if !is_kept => {}
            Err(Failure::Passing(error) | Failure::End(error)) => return Err(error),
            Ok(frame) => return Ok(frame),
        }
    }
}

fn next(
    section: &mut Section,
    fd: RawFd,
    inbound: &mut Inbound,
    cookie: &mut Option<Cookie>,
    admit: &mut dyn FnMut(Header) -> Result<(), Error>,
) -> Result<Frame, Failure> {
    let failed = |errno| Error::new(Code::IPC_ERROR_USOCK_RECV, errno);
    // How long the descriptor's own flags and time-outs let it wait.
    let mut limit = None;
    loop {
        if let Ok(Some(header)) = inbound.announced() {
            admit(header).map_err(Failure::Passing)?;
        }
        match inbound.cut() {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(Cut::OutOfMemory) => return Err(Failure::Passing(OutOfMemory.into())),
            Err(Cut::TooLong) => return Err(Failure::Passing(failed(Errno::EPROTO))),
        }
        let begun = inbound.has_begun();
        let mut came = Err(Receive::System(Errno::EAGAIN));
        if begun || any_queued() {
            came = inbound
                .receive_exact(|room, arriving| ancillary::receive(fd, room, Patience::DontWait, arriving));
        }
        if came == Err(Receive::System(Errno::EAGAIN)) {
            let passing = |errno| {
                Failure::Passing(if errno == Errno::ENOMEM { OutOfMemory.into() } else { failed(errno) })
            };
            flush::flush_while_waiting(section, fd).map_err(passing)?;
            if begun {
                // While this call waits the number may become another socket's, which must not get the half. The
                // kernel begins a receive anew after a signal handler, but not a poll: that ends the call.
                *cookie = cookie.map_or_else(|| Cookie::of(fd), Ok).ok();
                let time = limit.map_or_else(|| socket::receive_limit(fd), Ok).map_err(passing)?;
                limit = Some(time);
                let ready = section.outside(|| fd::wait(fd, PollFlags::POLLIN, time)).map_err(passing)?;
                if ready.is_empty() {
                    return Err(passing(Errno::EAGAIN));
                }
                continue;
            }
            came = inbound.receive_exact(|room, arriving| {
                section.outside(|| ancillary::receive(fd, room, Patience::Wait, arriving))
            });
            if cookie.is_some() {
                // A signal handler may have put another socket there before the frame began.
                *cookie = Cookie::of(fd).ok();
            }
        }
        let ended = |errno| Failure::End(Error::new(Code::IPC_ERROR_CLOSED_RECIPIENT, errno));
        match came {
            Ok(Came::End) => return Err(ended(if begun { Errno::ECONNRESET } else { Errno::EPIPE })),
            Ok(Came::All | Came::Full) => {}
            Err(Receive::System(errno @ Errno::ECONNRESET)) => return Err(ended(errno)),
            Err(Receive::System(errno)) => return Err(Failure::Passing(failed(errno))),
            Err(Receive::OutOfMemory) => return Err(Failure::Passing(OutOfMemory.into())),
        }
    }
}
