//! The framing alone: bytes to frames and back, without a system call.
//!
//! `copying` is the baseline: the same bytes, copied once from a buffer of the size of a receive into blocks
//! of the size of the payloads.
#![allow(clippy::unwrap_used, reason = "a benchmark may end where the library may not")]

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr;

use divan::Bencher;
use divan::counter::ItemsCount;

use ipc::internals::Block;
use ipc::internals::{FrameDecoder, READ_AHEAD, ReadOutcome};
use ipc::internals::{HEADER_SIZE, Header, MAX_PAYLOAD, parse_exact};

fn main() {
    divan::main();
}

/// Payloads: empty, small ones of which a receive contains many, and some that need many receives.
const SIZES: [usize; 6] = [0, 64, 1 << 10, 4 << 10, 64 << 10, 1_000_000];

/// The bytes that each run processes, at least: more than one receive, less than a processor's cache.
const STREAM: usize = 8 * READ_AHEAD;

fn header(length: usize) -> [u8; HEADER_SIZE] {
    Header { kind: 2, length }.encode().unwrap()
}

/// Frames with payloads of this size, and how many.
fn stream_of(length: usize) -> (Vec<u8>, usize) {
    let frame = [&header(length)[..], &vec![7; length]].concat();
    let count = STREAM.div_ceil(frame.len());
    (frame.repeat(count), count)
}

/// A receive from memory: what fits.
fn receive<'r, T>(stream: &mut &[u8], room: &'r mut [MaybeUninit<u8>]) -> Result<&'r mut [u8], T> {
    let count = room.len().min(stream.len());
    let (now, later) = stream.split_at(count);
    *stream = later;
    let (front, _) = room.split_at_mut(count);
    // SAFETY: `front` and `now` have the same length and, one being writable, no byte in common; the copy
    // initialises all of `front`.
    unsafe {
        ptr::copy_nonoverlapping(now.as_ptr(), front.as_mut_ptr().cast(), count);
        Ok(&mut *(ptr::from_mut(front) as *mut [u8]))
    }
}

fn cut_all(mut stream: &[u8], exact: bool) -> usize {
    let (mut decoder, mut spare, mut count) = (FrameDecoder::default(), Block::default(), 0);
    loop {
        while let Some(frame) = decoder.cut().unwrap() {
            black_box(frame.payload);
            count += 1;
        }
        decoder.return_spare(&mut spare);
        let came = if exact {
            decoder.receive_exact(|room, _| receive(&mut stream, room))
        } else {
            decoder.receive_ahead(&mut spare, |room, _| receive(&mut stream, room))
        };
        if came.unwrap() == ReadOutcome::End {
            return count;
        }
    }
}

fn bench_stream(bencher: Bencher, length: usize, work: impl Fn(&[u8]) -> usize + Sync) {
    let (stream, count) = stream_of(length);
    bencher.counter(ItemsCount::new(count)).bench(|| assert_eq!(work(black_box(&stream)), count));
}

/// As `ipc_wait_event` receives: many frames at once.
#[divan::bench(args = SIZES)]
fn cutting_ahead(bencher: Bencher, length: usize) {
    bench_stream(bencher, length, |stream| cut_all(stream, false));
}

/// As `ipc_read` receives: no byte beyond the frame.
#[divan::bench(args = SIZES)]
fn cutting_exact(bencher: Bencher, length: usize) {
    bench_stream(bencher, length, |stream| cut_all(stream, true));
}

#[divan::bench(args = SIZES)]
fn copying(bencher: Bencher, length: usize) {
    bench_stream(bencher, length, |stream| {
        let mut buffer = Vec::new();
        let mut count = 0;
        for chunk in stream.chunks(READ_AHEAD) {
            buffer.clear();
            buffer.extend_from_slice(chunk);
            black_box(&buffer);
        }
        for frame in stream.chunks(HEADER_SIZE + length) {
            let (_, payload) = frame.split_at(HEADER_SIZE);
            black_box(Block::copy_of(payload).unwrap());
            count += 1;
        }
        count
    });
}

#[divan::bench]
fn header_encode() -> [u8; HEADER_SIZE] {
    header(black_box(64))
}

#[divan::bench]
fn header_decode() -> Header {
    Header::decode(black_box(header(64)), MAX_PAYLOAD).unwrap()
}

#[divan::bench]
fn parse_a_whole_frame(bencher: Bencher) {
    let frame = [&header(64)[..], &[7; 64]].concat();
    bencher.bench(|| parse_exact(black_box(&frame)).is_some());
}
