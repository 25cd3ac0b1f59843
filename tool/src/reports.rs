//! What other threads report to one that waits with poll(2): values, and a descriptor that is readable when
//! there are some.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// The end of a thread that reports.
pub struct Reporter<T> {
    sender: Sender<T>,
    bell: Arc<EventFd>,
}

impl<T> Clone for Reporter<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Reporter<T> {
    /// Reports a value.
    pub fn report(&self, value: T) {
        if self.sender.send(value).is_ok() {
            let _ = self.bell.write(1);
        }
    }
}

/// The end of the thread that waits.
pub struct Reports<T> {
    receiver: Receiver<T>,
    bell: Arc<EventFd>,
}

impl<T> Reports<T> {
    /// Two ends, of which the first may be copied.
    pub fn channel() -> nix::Result<(Reporter<T>, Self)> {
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (sender, receiver) = mpsc::channel();
        Ok((Reporter { sender, bell: Arc::clone(&bell) }, Self { receiver, bell }))
    }

    /// Readable when there is a value.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// A value that is there.
    pub fn next_now(&self) -> Option<T> {
        // Before the look at the channel: a value that comes after it makes the descriptor readable again.
        let _ = self.bell.read();
        self.receiver.try_recv().ok()
    }

    /// Waits for a value.
    pub fn wait(&self) -> Option<T> {
        self.receiver.recv().ok()
    }
}
