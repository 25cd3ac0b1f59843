//! What is yet to be sent on one connection.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::IoSlice;

use nix::errno::Errno;

/// Bytes that may wait in memory to be sent, beside what the kernel holds.
pub const QUEUE_LIMIT: usize = 16 << 20;

/// What is yet to be sent.
#[derive(Default)]
pub struct Outbound {
    bytes: VecDeque<u8>,
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

    /// Makes room for `more` bytes: EAGAIN over the limit, ENOMEM without memory.
    pub fn reserve(&mut self, more: usize) -> Result<(), Errno> {
        if more > QUEUE_LIMIT.saturating_sub(self.bytes.len()) {
            return Err(Errno::EAGAIN);
        }
        self.bytes.try_reserve(more).map_err(|_| Errno::ENOMEM)
    }

    /// Appends what [`Outbound::reserve`] has made room for.
    pub fn append(&mut self, pieces: &[IoSlice<'_>]) {
        for piece in pieces {
            self.bytes.extend(piece.iter());
        }
    }

    /// Puts the rest of a frame that is half sent before all that waits: ENOMEM without memory.
    pub fn prepend(&mut self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        let size: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut bytes = VecDeque::new();
        bytes.try_reserve(size + self.bytes.len()).map_err(|_| Errno::ENOMEM)?;
        let behind = std::mem::replace(&mut self.bytes, bytes);
        self.append(pieces);
        self.bytes.extend(behind);
        Ok(())
    }

    /// Gives `sink` what waits until it takes no more; `sink` tells how much it took.
    pub fn flush(
        &mut self,
        mut sink: impl FnMut(&[IoSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        while !self.bytes.is_empty() {
            let (front, back) = self.bytes.as_slices();
            let taken = sink(&[IoSlice::new(front), IoSlice::new(back)])?;
            self.bytes.drain(..taken.min(self.bytes.len()));
        }
        self.bytes = VecDeque::new();
        Ok(())
    }

    /// Forgets what waits: the peer is gone.
    pub fn clear(&mut self) {
        self.bytes = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_sends_in_order_and_refuses_whole() {
        let mut queue = Outbound::default();
        queue.reserve(QUEUE_LIMIT).unwrap();
        assert_eq!(queue.reserve(QUEUE_LIMIT + 1), Err(Errno::EAGAIN));
        queue.append(&[IoSlice::new(b"abc"), IoSlice::new(b"def")]);
        assert_eq!(queue.reserve(QUEUE_LIMIT - 5), Err(Errno::EAGAIN));
        let (mut sent, mut calls) = (Vec::new(), 0);
        let stopped = queue.flush(|pieces| {
            calls += 1;
            if calls == 3 {
                return Err(Errno::EAGAIN);
            }
            let byte = pieces.iter().find_map(|piece| piece.first().copied()).unwrap();
            sent.push(byte);
            Ok(1)
        });
        assert_eq!((stopped, &sent[..], queue.len()), (Err(Errno::EAGAIN), &b"ab"[..], 4));
        queue.append(&[IoSlice::new(b"g")]);
        queue
            .flush(|pieces| {
                sent.extend(pieces.iter().flat_map(|piece| piece.iter()));
                Ok(pieces.iter().map(|piece| piece.len()).sum())
            })
            .unwrap();
        assert_eq!((sent, queue.is_empty()), (b"abcdefg".to_vec(), true));
    }
}
