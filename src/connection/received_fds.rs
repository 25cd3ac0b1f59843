//! Descriptors that came with messages and that the program has not taken yet.
//!
//! A peer sends them unasked: they are received only where the program has said so, and those of a message
//! that it has not taken when the next message is told are closed.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use crate::frame::c_heap::OutOfMemory;
use crate::kernel::ancillary::MOST;
use crate::kernel::internal_fds::KeptFd;

/// The descriptors of one connection; none unless they are allowed.
#[derive(Default)]
pub struct Descriptors {
    /// First those of the last message that was told, then those of frames that are not told yet.
    all: VecDeque<KeptFd>,
    told: u8,
    /// How many of the others came before the last receive, and so with the first of these frames.
    older: u8,
}

impl Descriptors {
    /// Before a receive: makes room for as many as it may bring.
    pub fn begin(&mut self) -> Result<(), OutOfMemory> {
        // The program has had its chance to take those of the last message.
        self.all.drain(..usize::from(std::mem::take(&mut self.told)));
        self.older = self.untold();
        self.all.try_reserve(MOST).map_err(|_| OutOfMemory)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn untold(&self) -> u8 {
        u8::try_from(self.all.len()).unwrap_or(u8::MAX) - self.told
    }

    /// A frame is told; whether descriptors came with it. A receive ends with the bytes that descriptors came
    /// with: they are those of the last frame that begins in it.
    pub fn tell(&mut self, is_last: bool) -> bool {
        let with_it = if is_last { self.untold() } else { self.older };
        self.all.drain(..usize::from(self.told));
        (self.told, self.older) = (with_it, 0);
        self.told > 0
    }

    /// The next descriptor of the last message.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.told = self.told.checked_sub(1)?;
        self.all.pop_front()?.give_away().ok()
    }
}

impl Extend<OwnedFd> for Descriptors {
    /// Takes in what a receive has brought, as far as there may be so many.
    fn extend<T: IntoIterator<Item = OwnedFd>>(&mut self, come: T) {
        for one in come {
            // The others are closed as they are dropped.
            if self.all.len() < MOST {
                self.all.push_back(KeptFd::new(one));
            }
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
    fn descriptors_go_with_the_frame_that_they_came_with() {
        let mut descriptors = Descriptors::default();
        let [first, second, third] = open(3).try_into().unwrap();
        let numbers = [&first, &second, &third].map(AsRawFd::as_raw_fd);
        // A byte of the first frame; then the rest of it, and the second frame.
        descriptors.begin().unwrap();
        descriptors.extend([first]);
        descriptors.begin().unwrap();
        descriptors.extend([second, third]);
        assert!(descriptors.tell(false));
        assert_eq!(descriptors.take().map(|one| one.as_raw_fd()), Some(numbers[0]));
        assert!(descriptors.take().is_none());
        assert!(descriptors.tell(true));
        assert_eq!(descriptors.take().map(|one| one.as_raw_fd()), Some(numbers[1]));
        // What is not taken is closed.
        assert!(!descriptors.tell(true) && descriptors.is_empty());
    }

    #[test]
    fn there_are_never_more_than_the_most() {
        let mut descriptors = Descriptors::default();
        for _ in 0..2 {
            descriptors.begin().unwrap();
            descriptors.extend(open(MOST));
        }
        assert!(descriptors.tell(true));
        assert_eq!(std::iter::from_fn(|| descriptors.take()).count(), MOST);
    }
}
