//! Descriptors that were received with messages (SCM_RIGHTS).
//!
//! A peer may send descriptors without being asked. If the program has allowed them, they are kept with the
//! message that they arrived with until the next message is reported; descriptors that the program has not
//! taken by then are closed. For all other connections the kernel refuses descriptors, or they are closed at
//! once.
//!
//! The peer chooses which files it sends, and close(2) of a socket with SO_LINGER can block: so the option is
//! switched off before, and descriptors are closed only when no lock is held.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::frame::c_heap::OutOfMemory;
use crate::kernel::ancillary::{Arriving, MAX_KEPT};
use crate::kernel::internal_fds::KeptFd;
use crate::kernel::socket;

/// Received descriptors that are to be closed: dropped when no lock is held.
#[derive(Default)]
pub struct Unwanted {
    received: Vec<OwnedFd>,
    kept: Vec<Received>,
}

impl Unwanted {
    /// Receives by `receive`, and keeps the descriptors in `wanted`, or else collects them here.
    pub fn receive<R>(
        &mut self,
        refuses: bool,
        wanted: Option<&mut Descriptors>,
        receive: impl FnOnce(Arriving<'_>) -> R,
    ) -> R {
        match wanted {
            Some(descriptors) => receive(Arriving::To(&mut |one| descriptors.keep(one))),
            None if refuses => receive(Arriving::None),
            None => receive(Arriving::To(&mut |one| {
                socket::switch_linger_off(one.as_raw_fd());
                // Without memory the descriptor is closed at once.
                if self.received.try_reserve(1).is_ok() {
                    self.received.push(one);
                }
            })),
        }
    }

    /// Takes the descriptors that the connection no longer keeps.
    pub fn collect(&mut self, descriptors: &mut Option<Descriptors>) {
        if let Some(Descriptors { dropped, .. }) = descriptors {
            if self.kept.try_reserve(dropped.len()).is_ok() {
                self.kept.append(dropped);
            }
        }
    }
}

/// A descriptor of one connection that the program has not taken yet; `None` inside once it was taken.
struct Received(Option<KeptFd>);

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(kept) = self.0.as_ref().filter(|kept| kept.is_intact()) {
            socket::switch_linger_off(kept.as_raw_fd());
        }
    }
}

/// The descriptors received on one connection.
#[derive(Default)]
pub struct Descriptors {
    /// First the descriptors of the last reported message, then those of frames that are not reported yet.
    all: VecDeque<Received>,
    /// How many descriptors at the front belong to the last reported message.
    reported: u8,
    /// How many of the others arrived before the last receive, and so with the first frame that is not
    /// reported yet.
    older: u8,
    /// Descriptors that the program has not taken in time.
    dropped: Vec<Received>,
}

impl Descriptors {
    /// Before a receive: makes room for as many descriptors as one receive can deliver.
    pub fn begin(&mut self) -> Result<(), OutOfMemory> {
        self.all.try_reserve(MAX_KEPT).map_err(|_| OutOfMemory)?;
        self.dropped.try_reserve(2 * MAX_KEPT).map_err(|_| OutOfMemory)?;
        // The program has had its time to take the descriptors of the last message.
        self.drop_reported();
        self.older = self.unreported();
        Ok(())
    }

    fn drop_reported(&mut self) {
        self.dropped.extend(self.all.drain(..usize::from(std::mem::take(&mut self.reported))));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.dropped.is_empty()
    }

    fn unreported(&self) -> u8 {
        u8::try_from(self.all.len()).unwrap_or(u8::MAX) - self.reported
    }

    /// A frame is reported; `is_last` says that no bytes of a later frame were received. Returns whether the
    /// frame has descriptors. The kernel ends a receive after the bytes that descriptors were sent with, so
    /// new descriptors belong to the last frame that begins in these bytes.
    pub fn report(&mut self, is_last: bool) -> bool {
        let with_it = if is_last { self.unreported() } else { self.older };
        self.drop_reported();
        (self.reported, self.older) = (with_it, 0);
        self.reported > 0
    }

    /// The next descriptor of the last reported message; it is the caller's then.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.reported = self.reported.checked_sub(1)?;
        self.all.pop_front()?.0.take()?.give_away().ok()
    }

    /// Keeps a received descriptor, or drops it if there are as many as allowed.
    fn keep(&mut self, one: OwnedFd) {
        let one = Received(Some(KeptFd::new(one)));
        if self.all.len() < MAX_KEPT {
            self.all.push_back(one);
        } else if self.dropped.try_reserve(1).is_ok() {
            self.dropped.push(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    fn open(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect()
    }

    #[test]
    fn descriptors_stay_with_frame_they_arrived_with() {
        let mut descriptors = Descriptors::default();
        let [first, second, third] = open(3).try_into().unwrap();
        let numbers = [&first, &second, &third].map(AsRawFd::as_raw_fd);
        // A byte of the first frame; then the rest of this frame, and the second frame.
        descriptors.begin().unwrap();
        descriptors.keep(first);
        descriptors.begin().unwrap();
        [second, third].into_iter().for_each(|one| descriptors.keep(one));
        assert!(descriptors.report(false));
        assert_eq!(descriptors.take().map(|one| one.as_raw_fd()), Some(numbers[0]));
        assert!(descriptors.take().is_none());
        assert!(descriptors.report(true));
        assert_eq!(descriptors.take().map(|one| one.as_raw_fd()), Some(numbers[1]));
        // A descriptor that is not taken is closed.
        assert!(!descriptors.report(true) && !descriptors.is_empty());
        let mut descriptors = Some(descriptors);
        Unwanted::default().collect(&mut descriptors);
        assert!(descriptors.is_some_and(|descriptors| descriptors.is_empty()));
    }

    #[test]
    fn received_descriptors_never_exceed_maximum() {
        let mut descriptors = Descriptors::default();
        for _ in 0..2 {
            descriptors.begin().unwrap();
            open(MAX_KEPT).into_iter().for_each(|one| descriptors.keep(one));
        }
        assert!(descriptors.report(true));
        assert_eq!(std::iter::from_fn(|| descriptors.take()).count(), MAX_KEPT);
    }
}
