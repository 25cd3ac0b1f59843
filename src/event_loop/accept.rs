//! When the service's socket is left alone for a while.

#![forbid(unsafe_code)]

use nix::errno::Errno;

use crate::kernel::deadline::Deadline;

/// How long no client is accepted after descriptors or memory ran out, in milliseconds, unless one comes free here.
pub const PAUSE: u32 = 100;

/// Until when no client is accepted.
#[derive(Clone, Copy, Default)]
pub struct Pause(Option<Deadline>);

impl Pause {
    /// Whether no client is accepted for now.
    pub fn is_on(self) -> bool {
        self.0.is_some()
    }

    /// Whether it has lasted long enough: a descriptor may have come free elsewhere.
    pub fn is_over(self) -> bool {
        self.0.is_some_and(|limit| limit.left() == 0)
    }

    /// Begins one, or ends it; whether that changes anything.
    pub fn set(&mut self, on: bool) -> bool {
        let was = self.is_on();
        self.0 = on.then(|| Deadline::of(PAUSE as i32));
        was != on
    }
}

/// What an accept that failed means.
pub enum Refused {
    /// Another process took the client, or it has left.
    NoClient,
    /// It is no service, or a sandbox does not know the call.
    NoService,
    /// Descriptors, watches or memory have run out, or somebody forbids it: the established connections go on, the new
    /// ones wait.
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
