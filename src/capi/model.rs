//! What threads share, in every order that the model checker tries: `make model`.
//!
//! Each scenario runs some thousand times, with other choices of which thread goes on. System calls are real.

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
use crate::connection::state::Settings;
use crate::connection::table::{self, Prepared};
use crate::connection::{background, send};
use crate::kernel::file::FileId;
use crate::kernel::internal_fds;
use crate::kernel::semaphore::Semaphore;
use crate::process::entry_guard::EntryGuard;

/// How often a scenario runs with each of two ways to choose.
const RUNS: usize = 3000;

fn enter() -> EntryGuard {
    EntryGuard::enter().unwrap()
}

/// Numbers that no other scenario has: they run at the same time.
fn own_number() -> RawFd {
    static NEXT: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(200);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

#[allow(unsafe_code, reason = "what a program does")]
fn put_at(file: &impl AsRawFd, number: RawFd) {
    // SAFETY: the number belongs to the scenario.
    assert_eq!(unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) }, number);
}

#[allow(unsafe_code, reason = "what a program does")]
fn close(number: RawFd) {
    // SAFETY: the number belongs to the scenario.
    unsafe { libc::close(number) };
}

/// A connection of the library's at this number, and its peer.
fn connection_at(guard: &EntryGuard, number: RawFd) -> UnixStream {
    let (ours, peer) = UnixStream::pair().unwrap();
    put_at(&ours, number);
    table::give_out(guard, number, Prepared::without_settings(false)).unwrap();
    peer
}

fn check(scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    let again = Arc::clone(&scenario);
    shuttle::check_random(move || again(), RUNS);
    // Orders with few changes of the thread, each of them at any point.
    shuttle::check_pct(move || scenario(), RUNS, 3);
}

#[test]
fn frame_that_was_queued_is_not_found_on_the_next_connection() {
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
            // A close(2) that the library does not see would be a race with the writer's call.
            if was_queued {
                close(number);
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
            assert_eq!(std::io::Read::read(&mut &peer, &mut [0; 64]).unwrap(), 0, "nothing but the end");
        } else {
            let _ = close_connection(&mut enter(), number);
        }
        background::release(&enter());
    });
}

#[test]
fn turn_is_passed_once_and_nobody_waits_for_ever() {
    let number = own_number();
    check(move || {
        let _peer = connection_at(&enter(), number);
        let inside = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..3)
            .map(|index| {
                let inside = Arc::clone(&inside);
                thread::spawn(move || takes_its_turn(number, &inside, index == 1))
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

/// A writer; one that `ends` is cancelled while it waits or holds the turn.
fn takes_its_turn(number: RawFd, inside: &AtomicUsize, ends: bool) {
    let semaphore = Semaphore::new();
    let must_wait = {
        let guard = enter();
        let mut slot = table::lock_unverified(&guard, number);
        let thread = guard.thread();
        let turn = &mut slot.entry().unwrap().turn;
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
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
        thread::yield_now();
        inside.fetch_sub(1, Ordering::SeqCst);
    }
    let guard = enter();
    let thread = guard.thread();
    let mut slot = table::lock_unverified(&guard, number);
    slot.get().unwrap().turn.leave(thread);
}

#[test]
fn waiting_writer_learns_that_the_connection_is_closed() {
    let number = own_number();
    check(move || {
        let _peer = connection_at(&enter(), number);
        {
            let guard = enter();
            let thread = guard.thread();
            table::lock_unverified(&guard, number).entry().unwrap().turn.take(thread);
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
fn list_that_has_taken_a_connection_over_keeps_it() {
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
        assert_ne!(list, Some(8), "the first has given it up");
        assert!(before != Some(16) || list == Some(16), "the second has taken it over: {list:?}");
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
                        let connection = slot.entry().unwrap();
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

/// The loop ends a connection, as `report_end` and what follows do; whether its member is closed stands under its lock.
fn ends_as_the_loop_does(number: RawFd, is_closed: &Mutex<bool>) {
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
            move || ends_as_the_loop_does(number, &is_closed)
        });
        let program = thread::spawn(move || {
            // As loops::note_closing does, for a list that has the connection.
            *is_closed.lock().unwrap() = true;
            if close_connection(&mut enter(), number).is_err() {
                return;
            }
            // The number is free: the program opens a file, which gets it.
            let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
            put_at(&file, number);
            let which = FileId::of(number);
            for _ in 0..3 {
                thread::yield_now();
                assert_eq!(FileId::of(number), which, "the library has closed it");
            }
            close(number);
        });
        the_loop.join().unwrap();
        program.join().unwrap();
    });
}

#[test]
fn held_number_is_nobodys_until_it_is_given_back() {
    let number = own_number();
    check(move || {
        let peer = connection_at(&enter(), number);
        let held = internal_fds::close_and_hold(number).unwrap();
        let is_held = Arc::new(AtomicBool::new(true));
        let late = thread::spawn({
            let is_held = Arc::clone(&is_held);
            move || {
                let closed = close_connection(&mut enter(), number);
                assert!(closed.is_err() || !is_held.load(Ordering::SeqCst), "a held number was closed");
            }
        });
        let giver = thread::spawn(move || {
            thread::yield_now();
            is_held.store(false, Ordering::SeqCst);
            drop(held);
        });
        late.join().unwrap();
        giver.join().unwrap();
        drop(peer);
        assert!(FileId::of(number).is_err() || internal_fds::is_internal(number));
    });
}

#[test]
fn no_queued_connection_is_overlooked() {
    let number = own_number();
    check(move || {
        let _peer = connection_at(&enter(), number);
        // As after a look that another thread's bytes have set it for.
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
fn end_of_the_process_beside_a_thread_that_queues() {
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
