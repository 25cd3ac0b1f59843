//! Promise 17: the queued bytes of a connection that was closed, and the copy of its descriptor.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use crate::support::ext::*;
use crate::support::*;

const SIZE: usize = 3_000_000;

/// A connection in a list, with most of one message queued.
fn listed_with_a_queue() -> (Listed, UnixStream) {
    let (listed, peer) = listed();
    assert_eq!(write(listed.fd(), 1, &pattern(SIZE, 17)), IPC_ERROR_NONE);
    assert!(pending(listed.fd()) > 0);
    (listed, peer)
}

#[test]
fn promise_17_close_frees_fd_at_once_and_peer_gets_all_bytes() {
    own_process!(60);
    let (mut listed, peer) = listed_with_a_queue();
    let fd = listed.info.fd;
    assert_eq!(unsafe { ipc_close(&mut *listed.info) }, IPC_ERROR_NONE);
    assert!(!is_open(fd), "the number is free");
    // Another connection gets the number, and its peer none of the queued bytes.
    let (other, mut other_peer) = pair();
    at_number(other.as_raw_fd(), fd);
    assert_eq!(write(fd, 7, b"other"), IPC_ERROR_NONE);
    assert_eq!(read_frame(&mut other_peer), (7, b"other".to_vec()));
    other_peer.set_nonblocking(true).unwrap();
    let reader = read_to_the_end(peer);
    until("the rest arrives", || {
        pending(other.as_raw_fd());
        reader.is_finished()
    });
    assert!(reader.join().unwrap() == frame(1, &pattern(SIZE, 17)));
    let nothing = other_peer.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn promise_17_queued_bytes_dropped_when_peer_stalls() {
    own_process!(60);
    let before = open_descriptors();
    let (mut listed, peer) = listed_with_a_queue();
    assert_eq!(unsafe { ipc_close(&mut *listed.info) }, IPC_ERROR_NONE);
    assert!(open_descriptors() > before + 1, "a copy is kept");
    let (other, _other_peer) = pair();
    until("the queued bytes are dropped", || {
        pending(other.as_raw_fd());
        open_descriptors() == before + 3
    });
    drop(peer);
}

#[test]
fn promise_17_close_sends_queue_itself_if_no_fd_is_free() {
    own_process!(60);
    let (mut listed, peer) = listed_with_a_queue();
    let reader = read_to_the_end(peer);
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: 0, ..limit }), 0);
        limit
    };
    assert_eq!(unsafe { ipc_close(&mut *listed.info) }, IPC_ERROR_NONE);
    assert!(reader.join().unwrap() == frame(1, &pattern(SIZE, 17)));
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

#[test]
fn promise_17_event_fd_is_readable_for_background_bytes() {
    own_process!(60);
    let (mut listed, mut peer) = listed_with_a_queue();
    let (ours, _neighbour) = pair();
    let mut other = info(ours.as_raw_fd());
    assert_eq!(unsafe { ipc_add(&mut listed.program.list, &mut other) }, IPC_ERROR_NONE);
    let fd = listed.program.event_fd();
    assert_eq!(unsafe { ipc_del(&mut listed.program.list, &mut *listed.info) }, IPC_ERROR_NONE);
    assert_eq!(unsafe { ipc_close(&mut *listed.info) }, IPC_ERROR_NONE);
    until("the descriptor is quiet", || {
        assert_eq!(listed.program.try_poll(0), Ok(Seen::Nothing));
        !is_readable(fd)
    });
    let mut got = Vec::new();
    let whole = frame(1, &pattern(SIZE, 17));
    while got.len() < whole.len() {
        let mut some = [0; 300_000];
        let count = peer.read(&mut some).unwrap();
        got.extend_from_slice(&some[..count]);
        if got.len() + 1_000_000 < whole.len() {
            assert!(becomes_readable(fd, 10_000), "readable when the kernel accepts more bytes");
        }
        until("the kernel accepts no more bytes", || {
            assert_eq!(listed.program.try_poll(0), Ok(Seen::Nothing));
            !is_readable(fd)
        });
    }
    assert!(got == whole);
    assert_eq!(unsafe { ipc_del(&mut listed.program.list, &mut other) }, IPC_ERROR_NONE);
}

#[test]
fn promise_17_forked_child_drops_its_copies() {
    own_process!(60);
    let (mut listed, peer) = listed_with_a_queue();
    assert_eq!(unsafe { ipc_close(&mut *listed.info) }, IPC_ERROR_NONE);
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            unsafe { libc::pause() };
        }
    }
    let reader = read_to_the_end(peer);
    let (other, _other_peer) = pair();
    until("the end of file arrives", || {
        pending(other.as_raw_fd());
        reader.is_finished()
    });
    assert!(reader.join().unwrap() == frame(1, &pattern(SIZE, 17)));
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}

/// No descriptor is free for a copy, so the close waits for the peer itself: the frames of other threads must
/// not get into the queue that it sends.
#[test]
fn promise_17_connection_that_is_being_closed_accepts_no_frame() {
    own_process!(60);
    static BEGINS: AtomicBool = AtomicBool::new(false);
    let (listed, mut peer) = listed_with_a_queue();
    let fd = listed.fd();
    let (sender, id) = mpsc::channel();
    let closing = std::thread::spawn(move || {
        sender.send(unsafe { libc::gettid() }).unwrap();
        while !BEGINS.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        usock_close(fd)
    });
    let state = File::open(format!("/proc/self/task/{}/stat", id.recv().unwrap())).unwrap();
    let sleeps = || {
        let mut text = [0; 200];
        let count = state.read_at(&mut text, 0).unwrap();
        String::from_utf8_lossy(&text[..count]).contains(") S ")
    };
    let (limit, _) = descriptor_limits();
    // poll(2) takes no more descriptors than the limit.
    set_descriptor_limit(3);
    BEGINS.store(true, Ordering::Relaxed);
    while !sleeps() {
        std::thread::yield_now();
    }
    assert_eq!(write(fd, 7, b"another frame"), IPC_ERROR_USOCK_SEND);
    assert_eq!(errno(), libc::EBADF);
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).unwrap();
    assert!(frame(1, &pattern(SIZE, 17)).starts_with(&bytes), "{} bytes", bytes.len());
    assert_eq!(closing.join().unwrap(), IPC_ERROR_NONE);
    set_descriptor_limit(limit);
}
