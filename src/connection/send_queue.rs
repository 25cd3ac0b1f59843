//! The bytes that wait to be sent on one connection.
//!
//! The bytes lie in chunks: a sent chunk is freed at once, and no chunk grows, so that the queue needs little
//! more memory than it has bytes. The bytes of all queues of the process are counted together. Frames enter
//! whole ([`SendQueue::reserve`], then [`SendQueue::append`]); the rest of a frame that was sent in part
//! enters at the front ([`SendQueue::prepend`]); bytes leave in order by [`SendQueue::flush`]. The queue is
//! accessed under the lock of its owner: the part of the table of descriptors, or the background.

#![forbid(unsafe_code)]

use std::array;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;

use crate::kernel::internal_fds::KeptFd;
use crate::process::sync::{AtomicUsize, Ordering};

/// Bytes that may wait in memory, in addition to what the kernel holds, unless the program sets another
/// limit.
pub const QUEUE_LIMIT: usize = 16 << 20;

/// Bytes that all queues of the process may hold together, if one of them grows beyond its limit.
const ALL_QUEUES_LIMIT: usize = 256 << 20;

/// How many descriptors may wait to be sent with their messages.
pub const DESCRIPTORS_LIMIT: usize = 64;

/// The size of a chunk: the least, for a short queue, and the most.
const CHUNK: std::ops::RangeInclusive<usize> = 512..=64 << 10;

/// How many chunks are passed to one system call.
const PIECES: usize = 16;

/// The bytes in all queues of the process.
static ALL_QUEUES: AtomicUsize = AtomicUsize::new(0);

/// The limit that a reservation has to respect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// This queue may have so many bytes.
    Own(usize),
    /// All queues of the process together must be below their common limit.
    Shared,
    /// No limit but memory: for the rest of a message whose first bytes are sent.
    Rest,
}

/// The bytes that wait to be sent on one connection.
#[derive(Default)]
pub struct SendQueue {
    /// Bytes are added to the last chunk that has any, then to the empty chunks after it.
    chunks: VecDeque<Vec<u8>>,
    /// How many bytes of the first chunk are sent already.
    start: usize,
    len: usize,
    /// The position of the first waiting byte in the stream, counted from the first byte ever sent.
    position: u64,
    /// The descriptors to be sent, in the order of their frames.
    descriptors: VecDeque<Attached>,
    /// How much the peer had not received when a message was last refused; `None` once the kernel has taken
    /// bytes since.
    pub refused_at: Option<usize>,
}

/// A descriptor that is sent with a frame.
struct Attached {
    /// The positions in the stream at which the frame begins and ends.
    start: u64,
    end: u64,
    descriptor: KeptFd,
}

impl SendQueue {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes the kernel has taken so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Makes room for `more` bytes and, if asked, a descriptor. EAGAIN beyond the limit, ENOMEM without
    /// memory; no byte is added then.
    pub fn reserve(&mut self, more: usize, limit: Room, has_descriptor: bool) -> Result<(), Errno> {
        let is_full = match limit {
            Room::Own(most) => more > most.saturating_sub(self.len),
            Room::Shared => more > ALL_QUEUES_LIMIT.saturating_sub(ALL_QUEUES.load(Ordering::Relaxed)),
            Room::Rest => false,
        };
        if is_full || has_descriptor && !self.takes_descriptor() {
            return Err(Errno::EAGAIN);
        }
        let unused = self.chunks.iter().rev().map(|chunk| (chunk.is_empty(), chunk.capacity() - chunk.len()));
        let mut missing = more;
        for (is_empty, room) in unused {
            missing = missing.saturating_sub(room);
            if !is_empty {
                break;
            }
        }
        while missing > 0 {
            let size = self.len.max(missing).clamp(*CHUNK.start(), *CHUNK.end());
            self.chunks.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.chunks.push_back(chunk(size)?);
            missing = missing.saturating_sub(size);
        }
        self.descriptors.try_reserve(usize::from(has_descriptor)).map_err(|_| Errno::ENOMEM)
    }

    /// Whether one more descriptor may wait.
    pub fn takes_descriptor(&self) -> bool {
        self.descriptors.len() < DESCRIPTORS_LIMIT
    }

    /// Appends bytes for which [`SendQueue::reserve`] has made room. The descriptor is sent with the first of
    /// these bytes.
    pub fn append<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>, descriptor: Option<KeptFd>) {
        let start = self.end();
        // The last chunk with bytes; the chunks after it are empty.
        let mut index = self.chunks.iter().rposition(|chunk| !chunk.is_empty()).unwrap_or(0);
        for mut rest in pieces {
            while let (false, Some(chunk)) = (rest.is_empty(), self.chunks.get_mut(index)) {
                let count = rest.len().min(chunk.capacity() - chunk.len());
                let (now, later) = rest.split_at(count);
                chunk.extend_from_slice(now);
                self.len += count;
                rest = later;
                index += usize::from(!later.is_empty());
            }
        }
        let end = self.end();
        ALL_QUEUES.fetch_add((end - start) as usize, Ordering::Relaxed);
        if let Some(descriptor) = descriptor {
            self.descriptors.push_back(Attached { start, end, descriptor });
        }
    }

    /// Appends both pieces if they fit into the last chunk and within the limit; returns whether they did.
    /// Never allocates.
    pub fn try_append(&mut self, [first, second]: [&[u8]; 2], limit: Room) -> bool {
        let size = first.len() + second.len();
        let is_within = matches!(limit, Room::Own(most) if size <= most.saturating_sub(self.len));
        // Empty chunks may follow the last one with bytes.
        let Some(chunk) = self.chunks.back_mut().filter(|chunk| is_within && !chunk.is_empty()) else {
            return false;
        };
        if chunk.capacity() - chunk.len() < size {
            return false;
        }
        chunk.extend_from_slice(first);
        chunk.extend_from_slice(second);
        self.len += size;
        ALL_QUEUES.fetch_add(size, Ordering::Relaxed);
        true
    }

    /// The position in the stream after the last byte.
    fn end(&self) -> u64 {
        self.position + self.len as u64
    }

    /// Puts the rest of a frame that was sent in part before all waiting bytes. ENOMEM without memory.
    pub fn prepend<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]> + Clone) -> Result<(), Errno> {
        let mut rest = Self::default();
        rest.reserve(pieces.clone().map(<[u8]>::len).sum(), Room::Rest, false)?;
        rest.append(pieces, None);
        rest.chunks.try_reserve(self.chunks.len()).map_err(|_| Errno::ENOMEM)?;
        // The first bytes of the first chunk are sent already: they must not be sent again.
        if let Some(first) = self.chunks.front_mut() {
            first.drain(..self.start);
        }
        rest.chunks.retain(|chunk| !chunk.is_empty());
        rest.chunks.append(&mut self.chunks);
        std::mem::swap(&mut self.chunks, &mut rest.chunks);
        let more = std::mem::take(&mut rest.len);
        self.start = 0;
        self.len += more;
        for attached in &mut self.descriptors {
            attached.start += more as u64;
            attached.end += more as u64;
        }
        Ok(())
    }

    /// Passes waiting bytes to `sink` until the queue is empty or `sink` fails; `sink` returns how many bytes
    /// were taken. A descriptor is passed with the first byte of its frame, and only with bytes of this
    /// frame: the receiver assigns a descriptor to the last frame in the bytes that it received together with
    /// the descriptor.
    pub fn flush(
        &mut self,
        mut sink: impl FnMut(&[IoSlice<'_>], Option<RawFd>) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        while !self.is_empty() {
            let first = self.descriptors.front();
            let now = first.filter(|attached| attached.start == self.position);
            let end = now.map(|attached| attached.end).or(first.map(|attached| attached.start));
            let mut room = end.map_or(self.len, |end| (end - self.position) as usize);
            let has_descriptor = now.is_some();
            // The program may have closed the descriptor, and its number may be another file's: then the
            // bytes are sent alone.
            let now = now.map(|attached| &attached.descriptor).filter(|descriptor| descriptor.is_intact());
            let now = now.map(AsRawFd::as_raw_fd);
            let mut chunks = self.chunks.iter();
            let mut skip = self.start;
            let pieces: [IoSlice<'_>; PIECES] = array::from_fn(|_| {
                let bytes = chunks.next().and_then(|chunk| chunk.get(skip..)).unwrap_or_default();
                skip = 0;
                let bytes = bytes.get(..room).unwrap_or(bytes);
                room -= bytes.len();
                IoSlice::new(bytes)
            });
            let count = pieces.iter().take_while(|piece| !piece.is_empty()).count();
            let pieces = pieces.get(..count).unwrap_or_default();
            let most = pieces.iter().map(|piece| piece.len()).sum();
            let taken = sink(pieces, now)?.min(most);
            if has_descriptor && taken > 0 {
                self.descriptors.pop_front();
            }
            self.note_sent(taken);
        }
        self.clear();
        Ok(())
    }

    /// Removes bytes that were sent, and frees their chunks.
    fn note_sent(&mut self, count: usize) {
        self.refused_at = None;
        self.position += count as u64;
        self.len -= count;
        self.start += count;
        ALL_QUEUES.fetch_sub(count, Ordering::Relaxed);
        while let Some(chunk) =
            self.chunks.front().filter(|chunk| self.start >= chunk.len() && self.start > 0)
        {
            self.start -= chunk.len();
            self.chunks.pop_front();
        }
    }

    /// Drops all waiting bytes and descriptors: the peer has closed the connection.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        ALL_QUEUES.fetch_sub(self.len, Ordering::Relaxed);
    }
}

/// An empty chunk with room for so many bytes.
fn chunk(size: usize) -> Result<Vec<u8>, Errno> {
    let mut chunk = Vec::new();
    chunk.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn queue_sends_in_order_and_refuses_whole_frames() {
        let mut queue = SendQueue::default();
        queue.reserve(QUEUE_LIMIT, Room::Own(QUEUE_LIMIT), false).unwrap();
        assert_eq!(queue.reserve(QUEUE_LIMIT + 1, Room::Own(QUEUE_LIMIT), false), Err(Errno::EAGAIN));
        queue.append([b"abc".as_slice(), b"def"].into_iter(), None);
        assert_eq!(queue.reserve(QUEUE_LIMIT - 5, Room::Own(QUEUE_LIMIT), false), Err(Errno::EAGAIN));
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
        queue.append([b"g".as_slice()].into_iter(), None);
        queue
            .flush(|pieces, _| {
                sent.extend(pieces.iter().flat_map(|piece| piece.iter()));
                Ok(pieces.iter().map(|piece| piece.len()).sum())
            })
            .unwrap();
        assert_eq!((sent, queue.is_empty()), (b"abcdefg".to_vec(), true));
    }

    #[test]
    fn descriptor_leaves_with_first_byte_of_its_frame_only() {
        let open = || Some(KeptFd::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap())));
        for step in (1..9).chain([100]) {
            let mut queue = SendQueue::default();
            for (bytes, descriptor) in [("one", None), ("two", open()), ("three", open()), ("four", None)] {
                queue.reserve(bytes.len(), Room::Own(QUEUE_LIMIT), descriptor.is_some()).unwrap();
                queue.append([bytes.as_bytes()].into_iter(), descriptor);
            }
            queue.prepend([b"half".as_slice()].into_iter()).unwrap();
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
            // After a frame with a descriptor no further frame leaves in the same call.
            assert!(step < 100 || sent == "halfone|+two|+three|four|", "{sent}");
        }
    }

    /// A waiting byte: its value, the descriptor that has to be sent with it, and the number of its frame.
    type Waiting = (u8, Option<RawFd>, usize);

    /// Flushes into a sink that fails after so many calls, each of which takes at most `most` bytes.
    fn flush_some(queue: &mut SendQueue, expected: &mut VecDeque<Waiting>, calls: usize, most: usize) {
        let mut left = calls;
        let flushed = queue.flush(|pieces, descriptor| {
            left = left.checked_sub(1).ok_or(Errno::EAGAIN)?;
            let offered: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let next = expected.range(..offered.len());
            assert!(next.clone().map(|(byte, ..)| *byte).eq(offered.iter().copied()), "in order");
            let (_, first, frame) = *expected.front().unwrap();
            assert_eq!(descriptor, first, "with the first byte");
            let is_apart = |(_, other, number): &Waiting| match descriptor {
                Some(_) => *number == frame,
                None => other.is_none(),
            };
            assert!(next.clone().all(is_apart), "with no other frame");
            let taken = offered.len().min(most);
            expected.drain(..taken);
            Ok(taken)
        });
        assert_eq!(flushed.is_ok(), expected.is_empty());
        assert_eq!(queue.len(), expected.len());
    }

    #[test]
    fn queue_sends_all_bytes_once_and_in_order() {
        const LIMIT: usize = 150;
        let mut state = 1_u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((state >> 33) % limit).unwrap()
        };
        for _ in 0..300 {
            let (mut queue, mut expected) = (SendQueue::default(), VecDeque::new());
            for number in 0..40 {
                let bytes: Vec<u8> = (0..1 + below(30)).map(|place| (number * 31 + place) as u8).collect();
                let halves = bytes.split_at(below(bytes.len() as u64 + 1));
                let pieces = [halves.0, halves.1].into_iter();
                match below(8) {
                    0..4 => {
                        let room = queue.reserve(bytes.len(), Room::Own(LIMIT), true);
                        assert_eq!(room.is_ok(), expected.len() + bytes.len() <= LIMIT, "the bound");
                        if room.is_err() {
                            continue;
                        }
                        let file = (below(3) == 0).then(|| std::fs::File::open("/dev/null").unwrap());
                        let raw = file.as_ref().map(AsRawFd::as_raw_fd);
                        queue.append(pieces, file.map(|file| KeptFd::new(OwnedFd::from(file))));
                        let with = |place: usize| raw.filter(|_| place == 0);
                        expected.extend(
                            bytes.iter().enumerate().map(|(place, byte)| (*byte, with(place), number)),
                        );
                    }
                    4 => {
                        queue.prepend(pieces).unwrap();
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
        let mut queue = SendQueue::default();
        let descriptor = KeptFd::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let number = descriptor.as_raw_fd();
        queue.reserve(11, Room::Own(QUEUE_LIMIT), true).unwrap();
        queue.append([b"with".as_slice()].into_iter(), Some(descriptor));
        queue.append([b"without".as_slice()].into_iter(), None);
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
