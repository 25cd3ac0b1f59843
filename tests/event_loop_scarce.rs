//! Events are reported even after system calls or allocations have failed temporarily.
//!
//! A separate test program, since it replaces the heap, and syscall(2) and epoll_create1(2), which the
//! sanitizers must intercept in all other tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the functions are called as their header says")]

#[allow(dead_code, unused_imports, reason = "tests/core uses the rest")]
#[path = "core/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::time::Duration;

use support::ext::*;
use support::*;

/// After this time the clock has expired.
const PAUSE: Duration = Duration::from_millis(30);

thread_local! {
    static NO_MEMORY: Cell<bool> = const { Cell::new(false) };
}

/// An allocator that fails while `NO_MEMORY` is set.
struct Scarce;

unsafe impl GlobalAlloc for Scarce {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if NO_MEMORY.get() { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if NO_MEMORY.get() { std::ptr::null_mut() } else { unsafe { System.realloc(block, layout, size) } }
    }
}

#[global_allocator]
static HEAP: Scarce = Scarce;

/// The errno that each send of the library fails with; 0: sends work. A test sets it.
static SENDS_FAIL: AtomicI32 = AtomicI32::new(0);
/// The same for epoll_create1(2).
static SETS_FAIL: AtomicI32 = AtomicI32::new(0);

type Word = std::ffi::c_long;
type Syscall = unsafe extern "C" fn(Word, Word, Word, Word, Word, Word, Word) -> Word;

/// Replaces syscall(2), by which the library sends.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(number: Word, a: Word, b: Word, c: Word, d: Word, e: Word, f: Word) -> Word {
    static NEXT: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
    let failing = SENDS_FAIL.load(Ordering::Relaxed);
    if [libc::SYS_sendto, libc::SYS_sendmsg].contains(&number) && failing != 0 {
        set_errno(failing);
        return -1;
    }
    if NEXT.load(Ordering::Relaxed).is_null() {
        NEXT.store(unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) }, Ordering::Relaxed);
    }
    let next: Syscall = unsafe { std::mem::transmute(NEXT.load(Ordering::Relaxed)) };
    unsafe { next(number, a, b, c, d, e, f) }
}

/// Replaces epoll_create1(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_create1(flags: i32) -> i32 {
    let failing = SETS_FAIL.load(Ordering::Relaxed);
    if failing != 0 {
        set_errno(failing);
        return -1;
    }
    unsafe { libc::syscall(libc::SYS_epoll_create1, flags) as i32 }
}

/// Makes a stale registration in the epoll set: the server closes a client's number, but a copy keeps the
/// file open. Returns the peer and the copy.
fn stale_registration(server: &mut Program) -> (UnixStream, OwnedFd) {
    let (peer, fd) = server.peer();
    assert_eq!(server.poll(0), Seen::Nothing);
    let kept = unsafe { OwnedFd::from_raw_fd(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 500)) };
    close(fd);
    force_list_scan(&mut server.list);
    assert_eq!(server.poll(10_000), Reported::Disconnection(fd));
    (peer, kept)
}

/// The library cannot make a new epoll set, and the program closes a client meanwhile.
#[test]
fn reused_number_is_not_registered_after_set_creation_failed() {
    own_process!(60);
    let mut server = Program::server();
    let (stale, kept) = stale_registration(&mut server);
    let (_peer, fd) = server.peer();
    (&stale).write_all(&frame(1, b"not read")).unwrap();
    SETS_FAIL.store(libc::ENFILE, Ordering::Relaxed);
    let failed = server.try_poll(10_000);
    SETS_FAIL.store(0, Ordering::Relaxed);
    assert_eq!(failed.err(), Some((IPC_ERROR_WAIT_EVENT__SELECT, libc::ENFILE)));
    drop(kept);
    let (ours, theirs) = pair();
    let (mut ours, mut theirs) = (at_high_number(ours), at_high_number(theirs));
    assert_eq!(unsafe { libc::dup2(ours.as_raw_fd(), fd) }, fd);
    theirs.write_all(&frame(1, b"the program's own")).unwrap();
    let mut reported = vec![server.poll(10_000)];
    reported.push(server.poll(100));
    assert_eq!(reported, [Seen::Reported(Reported::Disconnection(fd)), Seen::Nothing]);
    assert_eq!(readable_now(&mut ours), frame(1, b"the program's own"));
    close(fd);
}

/// The list cannot be copied for lack of memory, and messages have already arrived.
#[test]
fn pending_messages_are_delivered_after_out_of_memory() {
    own_process!(60);
    let (mut listed, mut peer) = listed();
    let fd = listed.fd();
    let (ours, _theirs) = pair();
    let mut other = info(ours.into_raw_fd());
    assert_eq!(unsafe { ipc_add(&mut listed.program.list, &mut other) }, IPC_ERROR_NONE);
    assert_eq!(listed.program.poll(0), Seen::Nothing);
    peer.write_all(&frame(1, b"word").repeat(2)).unwrap();
    assert_eq!(listed.program.poll(10_000), Reported::Message(fd, 1, b"word".to_vec()));
    // The two entries are swapped.
    let all = entries(&listed.program.list);
    unsafe {
        listed.program.list.cinfos.write(all[1]);
        listed.program.list.cinfos.add(1).write(all[0]);
    }
    let (list, event) = (&raw mut listed.program.list, &raw mut listed.program.event);
    NO_MEMORY.set(true);
    let code = unsafe { ipc_wait_event_timeout(list, none(), event, 0) };
    NO_MEMORY.set(false);
    assert_eq!(code, IPC_ERROR_NOT_ENOUGH_MEMORY);
    assert_eq!(listed.program.poll(10_000), Reported::Message(fd, 1, b"word".to_vec()));
}

/// The kernel has no memory to send the queue of a half-closed peer; then the program flushes the queue
/// itself.
#[test]
fn disconnection_is_reported_after_the_program_flushed() {
    own_process!(60);
    let (mut listed, peer) = listed();
    let fd = listed.fd();
    assert_eq!(listed.program.poll(0), Seen::Nothing);
    queue(fd, 1, b"word").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    SENDS_FAIL.store(libc::ENOBUFS, Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(listed.program.poll(0), Seen::Nothing);
    }
    SENDS_FAIL.store(0, Ordering::Relaxed);
    flush(fd, 10_000).unwrap();
    assert_eq!(listed.program.poll(10_000), Reported::Disconnection(fd));
    drop(peer);
}

/// The library has no memory when its clock has expired.
#[test]
fn clock_continues_after_out_of_memory() {
    own_process!(60);
    let mut server = Program::server();
    let (stale, kept) = stale_registration(&mut server);
    let (_peer, fd) = server.peer();
    // The clock has expired, and must expire again.
    for _ in 0..2 {
        std::thread::sleep(PAUSE);
        assert_eq!(server.poll(0), Seen::Nothing);
        assert_eq!(server.poll(1), Seen::Nothing);
    }
    std::thread::sleep(PAUSE);
    (&stale).write_all(&frame(1, b"not read")).unwrap();
    let (list, srv, event) = (&raw mut server.list, server.srv(), &raw mut server.event);
    NO_MEMORY.set(true);
    let code = unsafe { ipc_wait_event_timeout(list, srv, event, 10_000) };
    NO_MEMORY.set(false);
    assert_eq!(code, IPC_ERROR_NOT_ENOUGH_MEMORY);
    drop(kept);
    close(fd);
    assert_eq!(server.poll(10_000), Reported::Disconnection(fd));
}
