//! The pause in accepting clients after descriptors or memory ran out, and the meaning of a failed
//! accept4(2).

#![forbid(unsafe_code)]

use nix::errno::Errno;

use crate::kernel::deadline::Deadline;

/// The length of the pause, in milliseconds; it ends earlier when this library closes a descriptor.
pub const PAUSE: u32 = 100;

/// The pause, if there is one: until when no client is accepted.
#[derive(Clone, Copy, Default)]
pub struct Pause(Option<Deadline>);

impl Pause {
    /// Whether there is a pause.
    pub fn is_on(self) -> bool {
        self.0.is_some()
    }

    /// Whether the pause has lasted long enough: another part of the program may have closed a descriptor.
    pub fn is_over(self) -> bool {
        self.0.is_some_and(|deadline| deadline.left() == 0)
    }

    /// Begins or ends a pause; returns whether that is a change.
    pub fn set(&mut self, on: bool) -> bool {
        let was = self.is_on();
        self.0 = on.then(|| Deadline::of(PAUSE as i32));
        was != on
    }
}

/// The meaning of an accept that failed.
pub enum Refused {
    /// No client is waiting: another process accepted the client, or the client has left.
    NoClient,
    /// The descriptor is no listening socket, or a sandbox does not allow the call.
    NoService,
    /// Descriptors, watches or memory ran out, or a security policy refused the client: the existing
    /// connections go on, new clients wait.
    Later,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EAGAIN | Errno::EINTR | Errno::EPROTO => Self::NoClient,
            Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::ENOSYS => Self::NoService,
            _ => Self::Later,
        }
    }
}
