//! Unit tests of the table of descriptors.

use super::*;
use std::os::unix::net::UnixStream;

fn limits(guard: &EntryGuard, fd: RawFd) -> Option<usize> {
    lock_verified(guard, fd).settings().queue
}

/// A socket with a number that no other test uses.
fn socket_at(number: RawFd) -> (RawFd, UnixStream) {
    let (one, two) = UnixStream::pair().unwrap();
    let fd = nix::fcntl::fcntl(&one, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(number)).unwrap();
    (fd, two)
}

fn close(fd: RawFd) {
    fd::close(fd).unwrap();
}

#[test]
fn unused_numbers_have_no_entry() {
    let guard = EntryGuard::enter().unwrap();
    for fd in [-1, 900, RawFd::MAX] {
        let mut slot = lock_verified(&guard, fd);
        assert!(slot.get().is_none() && slot.list().is_none());
        assert_eq!((slot.settings(), slot.counters()), (Settings::default(), (0, 0)));
    }
}

/// A wrong number must not decide how many entries the table has.
#[test]
fn numbers_that_are_not_open_get_no_entry() {
    let guard = EntryGuard::enter().unwrap();
    for fd in [-1, RawFd::MAX] {
        let mut slot = lock_verified(&guard, fd);
        assert_eq!(slot.connection().err(), Some(Errno::EBADF));
        assert!(slot.shard.entries.len() < 1_000_000);
    }
}

#[test]
fn entry_is_cleared_when_number_is_another_sockets() {
    let guard = EntryGuard::enter().unwrap();
    let (fd, _peer) = socket_at(910);
    change_settings(&guard, fd, |settings| settings.queue = Some(5)).unwrap();
    lock_verified(&guard, fd).connection().unwrap().left_to_parent = true;
    note_listed(&guard, fd, 8).unwrap();
    assert_eq!((limits(&guard, fd), lock_verified(&guard, fd).list()), (Some(5), Some(8)));
    close(fd);
    let (again, _peer) = socket_at(910);
    assert_eq!(again, fd);
    assert_eq!(limits(&guard, fd), Settings::default().queue);
    let mut slot = lock_verified(&guard, fd);
    assert!(slot.get().is_none() && slot.list().is_none());
    drop(slot);
    close(fd);
}

#[test]
fn counters_count_uses_and_closes_of_number() {
    let guard = EntryGuard::enter().unwrap();
    let (fd, _peer) = socket_at(930);
    give_out(&guard, fd, Prepared::without_settings(false)).unwrap();
    assert_eq!(lock_verified(&guard, fd).counters(), (1, 0));
    lock_verified(&guard, fd).connection().unwrap().left_to_parent = true;
    assert!(note_closing(&guard, fd).unwrap().is_some());
    // A second call does not close the number meanwhile, either.
    assert!(note_closing(&guard, fd).is_err());
    note_closed(&guard, fd);
    assert_eq!(lock_verified(&guard, fd).counters(), (1, 1));
    let settings = Settings { queue: Some(7), ..Settings::default() };
    give_out(
        &guard,
        fd,
        Prepared { values: Some(boxed(ProgramValues { settings, data: None }).unwrap()), refuses: false },
    )
    .unwrap();
    assert_eq!(lock_verified(&guard, fd).counters(), (2, 1));
    assert_eq!(limits(&guard, fd), Some(7));
    close(fd);
}

#[test]
fn idle_connection_returns_its_memory() {
    let guard = EntryGuard::enter().unwrap();
    let (fd, _peer) = socket_at(950);
    let mut slot = lock_verified(&guard, fd);
    slot.connection().unwrap().is_assumed = true;
    slot.remove_if_idle();
    assert!(slot.get().is_none());
    slot.connection().unwrap().left_to_parent = true;
    slot.remove_if_idle();
    assert!(slot.get().is_some());
    slot.clear();
    assert!(slot.into_discarded().is_some());
    close(fd);
}

#[test]
fn former_list_does_not_unlist_connection_of_new_list() {
    let guard = EntryGuard::enter().unwrap();
    let (fd, _peer) = socket_at(970);
    note_listed(&guard, fd, 8).unwrap();
    note_listed(&guard, fd, 16).unwrap();
    lock_unverified(&guard, fd).note_unlisted(8);
    assert_eq!(lock_verified(&guard, fd).list(), Some(16));
    lock_unverified(&guard, fd).note_unlisted(16);
    assert_eq!(lock_verified(&guard, fd).list(), None);
    close(fd);
}
