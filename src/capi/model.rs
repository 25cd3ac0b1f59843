//! The concurrency model: scenarios of several threads, run by a model checker (`make model`).
//!
//! Each scenario runs thousands of times; the checker chooses at each lock and atomic which thread goes on.
//! The threads of the checker and its primitives replace those of `process::sync`; system calls are real.
//! Scenarios run at the same time, so each has descriptor numbers of its own.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::errno::Errno;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;

use crate::calls::close::close_connection;
use crate::calls::queue::{pending, queue};
use crate::capi::process;
use crate::connection::send_queue::Room;
use crate::connection::table::{self, Prepared};
use crate::connection::{background, send};
use crate::kernel::file::FileId;
use crate::kernel::internal_fds;
use crate::kernel::semaphore::Semaphore;
use crate::process::entry_guard::EntryGuard;

/// How often a scenario runs with each of the two schedulers.
const RUNS: usize = 3000;

fn enter() -> EntryGuard {
    EntryGuard::enter().unwrap()
}

/// A descriptor number for this scenario, and fifteen numbers after it.
fn own_number() -> RawFd {
    static NEXT: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(200);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

#[allow(unsafe_code, reason = "dup3(2), as a program calls it")]
fn put_at(file: &impl AsRawFd, number: RawFd) {
    // SAFETY: the number belongs to the scenario.
    assert_eq!(unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) }, number);
}

#[allow(unsafe_code, reason = "close(2), as a program calls it")]
fn close_number(number: RawFd) {
    // SAFETY: the number belongs to the scenario.
    unsafe { libc::close(number) };
}

/// Makes a connection of the library with this number; returns its peer.
fn connection_at(guard: &EntryGuard, number: RawFd) -> UnixStream {
    let (ours, peer) = UnixStream::pair().unwrap();
    put_at(&ours, number);
    table::give_out(guard, number, Prepared::without_settings(false)).unwrap();
    peer
}

/// Runs the scenario with both schedulers.
fn check(scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    let again = Arc::clone(&scenario);
    shuttle::check_random(move || again(), RUNS);
    // Orders with few changes from one thread to another, each at any point.
    shuttle::check_pct(move || scenario(), RUNS, 3);
}

#[test]
fn queued_frame_is_not_sent_on_next_connection_of_number() {
    let number = own_number();
    check(move || {
        let _old_peer = connection_at(&enter(), number);
        let is_queued = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let is_queued = Arc::clone(&is_queued);
            move || {
                let _ = queue(&enter(), number, [b"to the old one", b""]);
                is_queued.store(true, Ordering::SeqCst);
            }
        });
        let closer = thread::spawn(move || {
            let was_queued = is_queued.load(Ordering::SeqCst);
            // During the writer's call, a close(2) would be a race of the program: the library is not
            // notified.
            if was_queued {
                close_number(number);
            } else {
                close_connection(&mut enter(), number).unwrap();
            }
            let peer = connection_at(&enter(), number);
            let left = pending(&enter(), number).unwrap();
            assert!(!was_queued || left == 0, "{left} bytes of the old connection");
            (peer, was_queued)
        });
        writer.join().unwrap();
        let (peer, was_queued) = closer.join().unwrap();
        peer.set_nonblocking(true).unwrap();
        if was_queued {
            let _ = close_connection(&mut enter(), number);
            assert_eq!(std::io::Read::read(&mut &peer, &mut [0; 64]).unwrap(), 0, "end of file only");
        } else {
            let _ = close_connection(&mut enter(), number);
        }
        background::release(&enter());
    });
}

#[test]
fn turn_is_passed_to_each_waiting_thread_once() {
    let number = own_number();
    check(move || {
        let _peer = connection_at(&enter(), number);
        let inside = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..3)
            .map(|index| {
                let inside = Arc::clone(&inside);
                thread::spawn(move || write_with_turn(number, &inside, index == 1))
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let guard = enter();
        let mut slot = table::lock_verified(&guard, number);
        assert!(slot.get().is_none_or(|connection| connection.turn.is_unused()));
        slot.remove_if_idle();
        drop(slot);
        drop(guard);
        close_connection(&mut enter(), number).unwrap();
    });
}

/// A writer: takes or waits for the turn, and passes it on. A writer with `ends` is cancelled while it waits
/// for the turn or holds it.
fn write_with_turn(number: RawFd, inside: &AtomicUsize, ends: bool) {
    let semaphore = Semaphore::new();
    let must_wait = {
        let guard = enter();
        let mut slot = table::lock_unverified(&guard, number);
        let thread = guard.thread();
        let turn = &mut slot.connection().unwrap().turn;
        let must_wait = !turn.is_free();
        if must_wait {
            turn.enqueue(thread, semaphore.arm()).unwrap();
        } else {
            turn.take(thread);
        }
        must_wait
    };
    if must_wait && !ends {
        while !semaphore.try_wait() {
            thread::yield_now();
        }
    }
    let is_held = |guard: &EntryGuard| {
        let thread = guard.thread();
        table::lock_unverified(guard, number)
            .get()
            .is_some_and(|connection| connection.turn.is_held_by(thread))
    };
    if !ends {
        assert!(is_held(&enter()), "the woken writer has the turn");
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two writers have the turn");
        thread::yield_now();
        inside.fetch_sub(1, Ordering::SeqCst);
    }
    let guard = enter();
    let thread = guard.thread();
    let mut slot = table::lock_unverified(&guard, number);
    slot.get().unwrap().turn.leave(thread);
}

#[test]
fn waiting_writer_is_woken_when_connection_is_closed() {
    let number = own_number();
    check(move || {
        let _peer = connection_at(&enter(), number);
        {
            let guard = enter();
            let thread = guard.thread();
            table::lock_unverified(&guard, number).connection().unwrap().turn.take(thread);
        }
        let waiter = thread::spawn(move || {
            let semaphore = Semaphore::new();
            let identity = {
                let guard = enter();
                let thread = guard.thread();
                let mut slot = table::lock_unverified(&guard, number);
                let identity = slot.identity();
                let Some(connection) = slot.get().filter(|connection| !connection.turn.is_free()) else {
                    return;
                };
                connection.turn.enqueue(thread, semaphore.arm()).unwrap();
                identity
            };
            while !semaphore.try_wait() {
                thread::yield_now();
            }
            let guard = enter();
            assert_eq!(table::lock_unverified(&guard, number).check_identity(identity), Err(Errno::EBADF));
        });
        close_connection(&mut enter(), number).unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn connection_stays_in_list_that_added_it_last() {
    let number = own_number();
    check(move || {
        let _peer = connection_at(&enter(), number);
        let first = thread::spawn(move || {
            table::note_listed(&enter(), number, 8).unwrap();
            let list = table::lock_verified(&enter(), number).list();
            table::lock_unverified(&enter(), number).note_unlisted(8);
            list
        });
        let second = thread::spawn(move || _ = table::note_listed(&enter(), number, 16).unwrap());
        let before = first.join().unwrap();
        second.join().unwrap();
        let list = table::lock_verified(&enter(), number).list();
        assert_ne!(list, Some(8), "the first list has removed the connection");
        assert!(before != Some(16) || list == Some(16), "the second list added it last: {list:?}");
        table::lock_unverified(&enter(), number).note_unlisted(16);
        close_connection(&mut enter(), number).unwrap();
    });
}

#[test]
fn fork_finds_no_thread_in_a_step_and_does_not_hang() {
    let number = own_number();
    check(move || {
        let _peers = [number, number + 1].map(|number| connection_at(&enter(), number));
        let inside = Arc::new(AtomicUsize::new(0));
        let changes: Vec<_> = [number, number + 1]
            .into_iter()
            .map(|number| {
                let inside = Arc::clone(&inside);
                thread::spawn(move || {
                    for _ in 0..2 {
                        let guard = enter();
                        let mut slot = table::lock_verified(&guard, number);
                        inside.fetch_add(1, Ordering::SeqCst);
                        let connection = slot.connection().unwrap();
                        connection.send_queue.reserve(1, Room::Rest, false).unwrap();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        slot.remove_if_idle();
                        drop(slot);
                        background::watch(&guard, number);
                        background::send(&guard, true);
                    }
                })
            })
            .collect();
        process::before_fork();
        assert_eq!(inside.load(Ordering::SeqCst), 0, "a thread is in the middle of a change");
        process::parent_after_fork();
        changes.into_iter().for_each(|change| change.join().unwrap());
        for number in [number, number + 1] {
            close_connection(&mut enter(), number).unwrap();
        }
        background::release(&enter());
    });
}

/// Ends a connection as the loop does when it reports the end. `is_closed` is the state of the loop's member,
/// and its lock is the loop's lock.
fn end_as_the_loop_does(number: RawFd, is_closed: &Mutex<bool>) {
    let noted = {
        let is_closed = is_closed.lock().unwrap();
        if *is_closed {
            return;
        }
        table::note_closing(&enter(), number)
    };
    if noted.is_ok() {
        drop(noted);
        thread::yield_now();
        let held = internal_fds::close_and_hold(number);
        table::note_closed(&enter(), number);
        thread::yield_now();
        drop(held);
    }
}

#[test]
fn program_file_stays_open_when_two_calls_end_a_connection() {
    let number = own_number();
    check(move || {
        let _peer = connection_at(&enter(), number);
        let is_closed = Arc::new(Mutex::new(false));
        let the_loop = thread::spawn({
            let is_closed = Arc::clone(&is_closed);
            move || end_as_the_loop_does(number, &is_closed)
        });
        let program = thread::spawn(move || {
            // As loops::note_closing does for the list that has the connection.
            *is_closed.lock().unwrap() = true;
            if close_connection(&mut enter(), number).is_err() {
                return;
            }
            // The number is free: the program opens a file, which gets the number.
            let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
            put_at(&file, number);
            let opened = FileId::of(number);
            for _ in 0..3 {
                thread::yield_now();
                assert_eq!(FileId::of(number), opened, "the library has closed the program's file");
            }
            close_number(number);
        });
        the_loop.join().unwrap();
        program.join().unwrap();
    });
}

#[test]
fn held_number_is_not_closed_before_its_release() {
    let number = own_number();
    check(move || {
        let peer = connection_at(&enter(), number);
        let held = internal_fds::close_and_hold(number).unwrap();
        let is_held = Arc::new(AtomicBool::new(true));
        let late_close = thread::spawn({
            let is_held = Arc::clone(&is_held);
            move || {
                let closed = close_connection(&mut enter(), number);
                assert!(closed.is_err() || !is_held.load(Ordering::SeqCst), "a held number was closed");
            }
        });
        let release = thread::spawn(move || {
            thread::yield_now();
            is_held.store(false, Ordering::SeqCst);
            drop(held);
        });
        late_close.join().unwrap();
        release.join().unwrap();
        drop(peer);
        assert!(FileId::of(number).is_err() || internal_fds::is_internal(number));
    });
}

#[test]
fn queued_connection_is_found_when_queued_during_a_search() {
    let number = own_number();
    check(move || {
        let _peer = connection_at(&enter(), number);
        // Makes `queued` search, as if bytes had been queued, and sent since.
        send::note_queued();
        let writer = thread::spawn(move || queue(&enter(), number, [b"frame", b""]).unwrap());
        let _ = send::queued(&enter());
        writer.join().unwrap();
        assert!(send::any_queued());
        let (found, all) = send::queued(&enter());
        assert!(all && found.contains(&number), "{found:?}");
        send::flush_connection(&enter(), number);
        close_connection(&mut enter(), number).unwrap();
    });
}

#[test]
fn process_exits_while_another_thread_queues() {
    let number = own_number();
    check(move || {
        let peer = connection_at(&enter(), number);
        let writer = thread::spawn(move || {
            for _ in 0..2 {
                let _ = queue(&enter(), number, [b"frame", b""]);
            }
        });
        table::release(&enter());
        background::release(&enter());
        internal_fds::release();
        writer.join().unwrap();
        let _ = close_connection(&mut enter(), number);
        drop(peer);
    });
}
