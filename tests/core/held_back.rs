//! Promises 16 and 44: what a write does when the connection's queue is full, and the order of writers.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::ext::*;
use crate::support::*;

const REFUSED: Failure = (IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, libc::EAGAIN);

/// The limit of one connection's queue, and of all queues of the process together.
const QUEUE: usize = 16 << 20;
const ALL_QUEUES: usize = 256 << 20;

const SIZE: usize = 50_000;

fn numbered(number: usize) -> Vec<u8> {
    let mut payload = pattern(SIZE, number);
    payload[..8].copy_from_slice(&number.to_ne_bytes());
    payload
}

/// Writes numbered messages until one is refused. Returns how many were accepted.
fn fill(fd: i32, first: usize) -> usize {
    for number in first.. {
        match outcome(write(fd, 1, &numbered(number))) {
            Ok(()) => {}
            Err(failure) => {
                assert_eq!(failure, REFUSED);
                return number - first;
            }
        }
    }
    0
}

/// Receives so many messages, with a pause after each `step` bytes.
fn read_slowly(peer: &mut UnixStream, count: usize, step: usize, pause: Duration) {
    let mut got = Vec::new();
    for number in 0..count {
        while got.len() < SIZE + 5 {
            let mut some = vec![0; step];
            let taken = peer.read(&mut some).unwrap();
            assert!(taken > 0, "{number} messages arrive");
            got.extend_from_slice(&some[..taken]);
            std::thread::sleep(pause);
        }
        let rest = got.split_off(SIZE + 5);
        assert!(got == frame(1, &numbered(number)), "message {number}");
        got = rest;
    }
}

#[test]
fn writer_to_a_slow_reader_is_held_back_and_loses_nothing() {
    own_process!(60);
    const COUNT: usize = 800;
    let (listed, mut peer) = listed();
    let fd = listed.fd();
    let reader = std::thread::spawn(move || {
        until("the queue is full", || pending(fd) + SIZE + 5 > QUEUE);
        read_slowly(&mut peer, COUNT, 60_000, Duration::from_millis(1));
    });
    let mut most = 0;
    for number in 0..COUNT {
        assert_eq!(outcome(write(listed.fd(), 1, &numbered(number))), Ok(()), "message {number}");
        most = most.max(pending(listed.fd()));
    }
    assert!(most <= QUEUE && most > QUEUE - 2 * SIZE, "{most} bytes were queued");
    assert_eq!(outcome(unsafe { ipc_flush(&*listed.info, -1) }), Ok(()));
    reader.join().unwrap();
}

#[test]
fn reader_that_stops_costs_its_writer_one_wait() {
    own_process!(60);
    let (listed, mut peer) = listed();
    let accepted = fill(listed.fd(), 0);
    let (begin, payload) = (Instant::now(), numbered(0));
    // The first refused call has waited; further calls are refused at once.
    for _ in 0..1000 {
        assert_eq!(outcome(write(listed.fd(), 1, &payload)), Err(REFUSED));
    }
    // If each call waited, this would take more than a quarter of an hour.
    let limit = Duration::from_secs(20) * patience();
    assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
    // The peer reads again, and its writer is held back again instead of refused.
    let more = 400;
    let reader = std::thread::spawn(move || {
        read_slowly(&mut peer, accepted + more, 200_000, Duration::ZERO);
    });
    until("there is room again", || outcome(write(listed.fd(), 1, &numbered(accepted))) == Ok(()));
    for number in accepted + 1..accepted + more {
        assert_eq!(outcome(write(listed.fd(), 1, &numbered(number))), Ok(()));
    }
    assert_eq!(outcome(unsafe { ipc_flush(&*listed.info, -1) }), Ok(()));
    reader.join().unwrap();
}

/// There is memory for a connection, but not for the rest of a frame of some megabytes.
const LARGE: usize = 16_384;

/// The kernel has taken a part of the frame, so the rest must follow. The peer reads it, or else the call ends.
#[test]
fn writer_without_memory_for_the_queue_waits_for_a_peer_that_reads() {
    own_process!(60);
    static RUNS: AtomicBool = AtomicBool::new(false);
    static READS: AtomicBool = AtomicBool::new(false);
    let payload = pattern(3_000_000, 1);
    let (listed, peer) = listed();
    let fd = listed.fd();
    let mut room = vec![0; 5 + payload.len()];
    let reader = std::thread::spawn(move || {
        RUNS.store(true, Ordering::Relaxed);
        while !READS.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        (&peer).read_exact(&mut room).unwrap();
        room
    });
    // A thread needs memory when it begins.
    until("the reader runs", || RUNS.load(Ordering::Relaxed));
    let written = without_memory(LARGE, || {
        READS.store(true, Ordering::Relaxed);
        write(fd, 1, &payload)
    });
    assert_eq!(written, IPC_ERROR_NONE);
    assert!(reader.join().unwrap() == frame(1, &payload));
}

#[test]
fn writer_without_memory_for_the_queue_gives_up_a_peer_that_does_not_read() {
    own_process!(60);
    let payload = pattern(3_000_000, 1);
    let (listed, mut peer) = listed();
    let fd = listed.fd();
    let result = without_memory(LARGE, || (write(fd, 1, &payload), errno()));
    assert_eq!(result, (IPC_ERROR_NOT_ENOUGH_MEMORY, libc::ENOMEM));
    // The connection is shut down: no other frame follows the part.
    assert_eq!(outcome(write(fd, 1, b"another")), Err((IPC_ERROR_USOCK_SEND, libc::EPIPE)));
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).unwrap();
    assert!(!bytes.is_empty() && frame(1, &payload).starts_with(&bytes), "{} bytes", bytes.len());
}

/// Fills the queue of a connection while another member of the list is ready. Returns how many bytes are
/// queued.
fn queued_while_another_is_ready(wait: impl FnOnce(&mut Listed)) -> usize {
    let (mut listed, _peer) = listed();
    wait(&mut listed);
    fill(listed.fd(), 0);
    let queued = pending(listed.fd());
    assert_eq!(unsafe { libc::shutdown(listed.fd(), libc::SHUT_RDWR) }, 0);
    free_extras(&mut listed.program);
    queued
}

#[test]
fn queue_grows_beyond_its_limit_while_others_wait_to_be_served() {
    own_process!(100);
    let is_full = |queued: usize, what: &str| {
        let all = ALL_QUEUES - SIZE - 5..=ALL_QUEUES;
        assert!(all.contains(&queued), "{what}: {queued} bytes queued");
    };
    let (ours, mut neighbour) = pair();
    let mut other = info(ours.as_raw_fd());
    let queued = queued_while_another_is_ready(|listed| {
        assert_eq!(unsafe { ipc_add(&mut listed.program.list, &mut other) }, IPC_ERROR_NONE);
        neighbour.write_all(b"x").unwrap();
    });
    is_full(queued, "a connection that is readable");
    let (reader, mut writer) = pipe();
    let queued = queued_while_another_is_ready(|listed| {
        assert_eq!(unsafe { ipc_add_fd(&mut listed.program.list, reader.as_raw_fd()) }, IPC_ERROR_NONE);
        writer.write_all(b"x").unwrap();
    });
    is_full(queued, "an extra descriptor");
    let (ours, mut neighbour) = pair();
    let mut ahead = info(ours.as_raw_fd());
    let queued = queued_while_another_is_ready(|listed| {
        assert_eq!(unsafe { ipc_add(&mut listed.program.list, &mut ahead) }, IPC_ERROR_NONE);
        neighbour.write_all(&[frame(1, b"one"), frame(1, b"two")].concat()).unwrap();
        assert_eq!(listed.program.next(), Reported::Message(ours.as_raw_fd(), 1, b"one".to_vec()));
    });
    is_full(queued, "a message that was read ahead");
}

#[test]
fn own_requests_do_not_count_as_other_ready_members() {
    own_process!(60);
    let (listed, mut peer) = listed();
    peer.write_all(&frame(1, b"request")).unwrap();
    fill(listed.fd(), 0);
    let queued = pending(listed.fd());
    assert!(queued <= QUEUE, "{queued} bytes queued");
}

#[test]
fn limit_set_by_the_program_applies_at_once() {
    own_process!(60);
    let (listed, _peer) = listed();
    limits(listed.fd(), 0, QUEUE).unwrap();
    for _ in 0..100 {
        fill(listed.fd(), 0);
    }
    assert!(pending(listed.fd()) <= QUEUE);
}

#[test]
fn descriptors_queued_for_a_connection_are_limited() {
    own_process!(60);
    let (listed, peer) = listed();
    while pending(listed.fd()) == 0 {
        assert_eq!(outcome(write(listed.fd(), 1, &numbered(0))), Ok(()));
    }
    let (file, before) = (numbered_file(1), open_descriptors());
    for number in 0..64 {
        assert_eq!(write_fd(listed.fd(), 1, b"with one", &file), Ok(()), "descriptor {number}");
    }
    assert_eq!(write_fd(listed.fd(), 1, b"one too many", &file), Err(REFUSED));
    assert_eq!(open_descriptors(), before + 64);
    assert_eq!(
        outcome(write(listed.fd(), 1, b"without")),
        Ok(()),
        "messages without a descriptor are accepted"
    );
    drop(peer);
}

#[test]
fn threads_take_turns_and_their_frames_do_not_mix() {
    own_process!(60);
    const THREADS: usize = 4;
    const FRAMES: usize = 40;
    const LENGTH: usize = 600_000;
    let (ours, mut peer) = patient_pair();
    let fd = ours.as_raw_fd();
    let (mut sequence, mut last) = (Vec::new(), [0; THREADS]);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for number in 0..FRAMES {
                    let payload = pattern(LENGTH, thread * FRAMES + number);
                    assert_eq!(outcome(write(fd, thread as u8, &payload)), Ok(()));
                }
            });
        }
        for _ in 0..THREADS * FRAMES {
            let (thread, payload) = read_frame(&mut peer);
            let thread = usize::from(thread);
            assert!(payload == pattern(LENGTH, thread * FRAMES + last[thread]), "whole, and in order");
            last[thread] += 1;
            sequence.push(thread);
        }
    });
    // The turn passes in order: no thread writes all of its frames before another thread has begun.
    let first = |thread: usize| sequence.iter().position(|other| *other == thread).unwrap();
    let late = (0..THREADS).map(first).max().unwrap();
    assert!(late < 2 * FRAMES, "a thread waited for {late} frames: {sequence:?}");
}
