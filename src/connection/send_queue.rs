//! What is yet to be sent on one connection.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;

use crate::kernel::internal_fds::KeptFd;

/// Bytes that may wait in memory to be sent, beside what the kernel holds, unless the program sets another limit.
pub const QUEUE_LIMIT: usize = 16 << 20;

/// What is yet to be sent.
#[derive(Default)]
pub struct Outbound {
    bytes: VecDeque<u8>,
    /// Descriptors to be sent, in the order of their frames.
    descriptors: VecDeque<Attached>,
}

/// A descriptor that goes with a frame.
struct Attached {
    /// How many bytes are before the frame, and where it ends.
    start: usize,
    end: usize,
    descriptor: KeptFd,
}

impl Outbound {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Makes room for `more` bytes and a descriptor: EAGAIN over the limit, ENOMEM without memory.
    pub fn reserve(&mut self, more: usize, limit: usize) -> Result<(), Errno> {
        if more > limit.saturating_sub(self.bytes.len()) {
            return Err(Errno::EAGAIN);
        }
        self.descriptors.try_reserve(1).and_then(|()| self.bytes.try_reserve(more)).map_err(|_| Errno::ENOMEM)
    }

    /// Appends what [`Outbound::reserve`] has made room for. A descriptor goes with the first byte.
    pub fn append(&mut self, pieces: &[IoSlice<'_>], descriptor: Option<KeptFd>) {
        let start = self.bytes.len();
        for piece in pieces {
            self.bytes.extend(piece.iter());
        }
        if let Some(descriptor) = descriptor {
            self.descriptors.push_back(Attached { start, end: self.bytes.len(), descriptor });
        }
    }

    /// Puts the rest of a frame that is half sent before all that waits: ENOMEM without memory.
    pub fn prepend(&mut self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        let size: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut bytes = VecDeque::new();
        bytes.try_reserve(size + self.bytes.len()).map_err(|_| Errno::ENOMEM)?;
        let behind = std::mem::replace(&mut self.bytes, bytes);
        self.append(pieces, None);
        self.bytes.extend(behind);
        for attached in &mut self.descriptors {
            attached.start += size;
            attached.end += size;
        }
        Ok(())
    }

    /// Gives `sink` what waits until it takes no more; `sink` tells how much it took. A descriptor goes with the
    /// first of the bytes that it is given with, and these are of its frame alone: who receives takes it for one
    /// of the last frame that has come.
    pub fn flush(
        &mut self,
        mut sink: impl FnMut(&[IoSlice<'_>], Option<RawFd>) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        while !self.bytes.is_empty() {
            let first = self.descriptors.front();
            let now = first.filter(|attached| attached.start == 0);
            let end = now.map(|attached| attached.end).or(first.map(|attached| attached.start));
            let end = end.unwrap_or(self.bytes.len());
            let has_descriptor = now.is_some();
            // The program may have closed it, and its number be another file's: the bytes go without it.
            let now = now.map(|attached| &attached.descriptor).filter(|descriptor| descriptor.is_intact());
            let now = now.map(AsRawFd::as_raw_fd);
            let (front, back) = self.bytes.as_slices();
            let front = front.get(..end).unwrap_or(front);
            let back = back.get(..end - front.len()).unwrap_or(back);
            let taken = sink(&[IoSlice::new(front), IoSlice::new(back)], now)?.min(end);
            self.bytes.drain(..taken);
            if has_descriptor && taken > 0 {
                self.descriptors.pop_front();
            }
            for attached in &mut self.descriptors {
                attached.start -= taken;
                attached.end -= taken;
            }
        }
        self.clear();
        Ok(())
    }

    /// Forgets what waits: the peer is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn the_queue_sends_in_order_and_refuses_whole() {
        let mut queue = Outbound::default();
        queue.reserve(QUEUE_LIMIT, QUEUE_LIMIT).unwrap();
        assert_eq!(queue.reserve(QUEUE_LIMIT + 1, QUEUE_LIMIT), Err(Errno::EAGAIN));
        queue.append(&[IoSlice::new(b"abc"), IoSlice::new(b"def")], None);
        assert_eq!(queue.reserve(QUEUE_LIMIT - 5, QUEUE_LIMIT), Err(Errno::EAGAIN));
        let (mut sent, mut calls) = (Vec::new(), 0);
        let stopped = queue.flush(|pieces, _| {
            calls += 1;
            if calls == 3 {
                return Err(Errno::EAGAIN);
            }
            let byte = pieces.iter().find_map(|piece| piece.first().copied()).unwrap();
            sent.push(byte);
            Ok(1)
        });
        assert_eq!((stopped, &sent[..], queue.len()), (Err(Errno::EAGAIN), &b"ab"[..], 4));
        queue.append(&[IoSlice::new(b"g")], None);
        queue
            .flush(|pieces, _| {
                sent.extend(pieces.iter().flat_map(|piece| piece.iter()));
                Ok(pieces.iter().map(|piece| piece.len()).sum())
            })
            .unwrap();
        assert_eq!((sent, queue.is_empty()), (b"abcdefg".to_vec(), true));
    }

    #[test]
    fn a_descriptor_goes_with_the_first_byte_of_its_frame_and_with_no_other() {
        let open = || Some(KeptFd::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap())));
        for step in (1..9).chain([100]) {
            let mut queue = Outbound::default();
            for (bytes, descriptor) in [("one", None), ("two", open()), ("three", open()), ("four", None)] {
                queue.reserve(bytes.len(), QUEUE_LIMIT).unwrap();
                queue.append(&[IoSlice::new(bytes.as_bytes())], descriptor);
            }
            queue.prepend(&[IoSlice::new(b"half")]).unwrap();
            let mut sent = String::new();
            queue
                .flush(|pieces, descriptor| {
                    let bytes: Vec<u8> =
                        pieces.iter().flat_map(|piece| piece.iter().copied()).take(step).collect();
                    sent.push_str(if descriptor.is_some() { "+" } else { "" });
                    sent.push_str(std::str::from_utf8(&bytes).unwrap());
                    sent.push('|');
                    Ok(bytes.len())
                })
                .unwrap();
            assert_eq!(sent.replace('|', ""), "halfone+two+threefour", "{step}");
            // Behind a frame with a descriptor nothing else leaves in the same call.
            assert!(step < 100 || sent == "halfone|+two|+three|four|", "{sent}");
        }
    }

    /// A byte that waits: its value, the descriptor that has to go with it, and the number of its frame.
    type Waiting = (u8, Option<RawFd>, usize);

    /// Sends what a sink takes that stops after so many calls, each of which takes at most `most` bytes.
    fn flush_some(queue: &mut Outbound, expected: &mut VecDeque<Waiting>, calls: usize, most: usize) {
        let mut left = calls;
        let flushed = queue.flush(|pieces, descriptor| {
            left = left.checked_sub(1).ok_or(Errno::EAGAIN)?;
            let offered: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let behind = expected.range(..offered.len());
            assert!(behind.clone().map(|(byte, ..)| *byte).eq(offered.iter().copied()), "in order");
            let (_, first, frame) = *expected.front().unwrap();
            assert_eq!(descriptor, first, "with the first byte");
            let is_apart = |(_, other, number): &Waiting| match descriptor {
                Some(_) => *number == frame,
                None => other.is_none(),
            };
            assert!(behind.clone().all(is_apart), "with no other frame");
            let taken = offered.len().min(most);
            expected.drain(..taken);
            Ok(taken)
        });
        assert_eq!(flushed.is_ok(), expected.is_empty());
        assert_eq!(queue.len(), expected.len());
    }

    #[test]
    fn whatever_is_put_in_and_however_it_is_taken_all_leaves_in_order_and_once() {
        const LIMIT: usize = 150;
        let mut state = 1_u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((state >> 33) % limit).unwrap()
        };
        for _ in 0..300 {
            let (mut queue, mut expected) = (Outbound::default(), VecDeque::new());
            for number in 0..40 {
                let bytes: Vec<u8> = (0..1 + below(30)).map(|place| (number * 31 + place) as u8).collect();
                let halves = bytes.split_at(below(bytes.len() as u64 + 1));
                let pieces = [IoSlice::new(halves.0), IoSlice::new(halves.1)];
                match below(8) {
                    0..4 => {
                        let room = queue.reserve(bytes.len(), LIMIT);
                        assert_eq!(room.is_ok(), expected.len() + bytes.len() <= LIMIT, "the bound");
                        if room.is_err() {
                            continue;
                        }
                        let file = (below(3) == 0).then(|| std::fs::File::open("/dev/null").unwrap());
                        let raw = file.as_ref().map(AsRawFd::as_raw_fd);
                        queue.append(&pieces, file.map(|file| KeptFd::new(OwnedFd::from(file))));
                        let with = |place: usize| raw.filter(|_| place == 0);
                        expected.extend(
                            bytes.iter().enumerate().map(|(place, byte)| (*byte, with(place), number)),
                        );
                    }
                    4 => {
                        queue.prepend(&pieces).unwrap();
                        bytes.iter().rev().for_each(|byte| expected.push_front((*byte, None, number)));
                    }
                    _ => flush_some(&mut queue, &mut expected, below(6), 1 + below(40)),
                }
                assert_eq!(queue.len(), expected.len());
            }
            flush_some(&mut queue, &mut expected, usize::MAX, usize::MAX);
            assert!(queue.is_empty() && queue.descriptors.is_empty());
        }
    }

    #[test]
    fn descriptor_closed_by_the_program_is_not_sent() {
        let mut queue = Outbound::default();
        let descriptor = KeptFd::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let number = descriptor.as_raw_fd();
        queue.append(&[IoSlice::new(b"with")], Some(descriptor));
        queue.append(&[IoSlice::new(b"without")], None);
        crate::kernel::fd::close(number).unwrap();
        let mut sent = Vec::new();
        let result = queue.flush(|pieces, descriptor| {
            sent.push((pieces.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<_>>(), descriptor));
            Ok(usize::MAX)
        });
        assert_eq!(result, Ok(()));
        assert_eq!(sent, [(b"with".to_vec(), None), (b"without".to_vec(), None)]);
    }
}
