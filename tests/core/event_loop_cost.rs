//! Promise 10: the work for an event does not grow with the number of idle connections, and descriptors of
//! 1024 and above work like others.

use std::cell::Cell;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipc::internals::{
    Deadline, Entry, EntryGuard, Flow, Kind, List, OutOfMemory, Wait, WaitEvent, What, note_closing,
    note_freed,
};

use crate::support::*;

/// A list that counts how often its entries are read.
#[derive(Default)]
struct Counting {
    entries: Vec<Entry>,
    /// How many entries were made so far: the `addr` of the newest one.
    made: usize,
    reads: Cell<usize>,
}

impl List for Box<Counting> {
    type Origin = RawFd;
    type Client = ();

    fn key(&self) -> usize {
        std::ptr::from_ref(&**self).addr()
    }

    fn shape(&self) -> (usize, usize) {
        (self.entries.as_ptr().addr(), self.entries.len())
    }

    fn at(&self, index: usize) -> Option<(Entry, RawFd)> {
        self.reads.set(self.reads.get() + 1);
        self.entries.get(index).map(|entry| (*entry, entry.fd))
    }

    fn prepare(&mut self) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn push(&mut self, (): (), fd: RawFd) -> Option<usize> {
        self.made += 1;
        self.entries.push(Entry { fd, addr: self.made, kind: Kind::Connection });
        Some(self.entries.len() - 1)
    }

    fn take_back(&mut self, index: usize) {
        self.remove_entry(index);
    }

    fn remove_entry(&mut self, index: usize) {
        self.entries.swap_remove(index);
    }
}

/// A loop over a counting list, with idle members and a listener.
struct Counted {
    list: Box<Counting>,
    listener: UnixListener,
    path: std::path::PathBuf,
    idle: Vec<UnixStream>,
    size: usize,
    events: usize,
    begin: Instant,
}

impl Counted {
    fn with_idle_members(count: usize) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let path = rundir().join(format!("counted{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let listener = UnixListener::bind(&path).unwrap();
        let mut list = Box::<Counting>::default();
        let mut idle = Vec::new();
        for _ in 0..count {
            let (one, two) = pair();
            list.made += 1;
            let addr = list.made;
            list.entries.push(Entry { fd: one.into_raw_fd(), addr, kind: Kind::Connection });
            idle.push(two);
        }
        Self { list, listener, path, idle, size: count, events: 0, begin: Instant::now() }
    }

    fn next(&mut self) -> (RawFd, What) {
        let mut call = WaitEvent::new(Some(self.listener.as_raw_fd()), Deadline::NONE, 1);
        let mut wait = Wait::default();
        let event = loop {
            let guard = EntryGuard::enter().unwrap();
            match call.step(&guard, &mut self.list, &mut wait) {
                Ok(Flow::Done(event)) => break event.unwrap(),
                Ok(Flow::Wait) => {}
                Err(_) => panic!("{}", std::io::Error::last_os_error()),
            }
            drop(guard);
            unsafe { wait.run() };
        };
        self.events += 1;
        (event.origin, event.what)
    }

    /// Resets the counters.
    fn restart(&mut self) {
        self.list.reads.set(0);
        self.events = 0;
        self.begin = Instant::now();
    }

    /// Asserts that few entries were read for each event. The reads of the scans do not count: one scan of
    /// the whole list each 10 ms is allowed.
    fn assert_few_reads(&self, what: &str) {
        const FEW: usize = 8;
        const BETWEEN_SCANS: Duration = Duration::from_millis(10);
        let scans =
            1 + usize::try_from(self.begin.elapsed().as_millis() / BETWEEN_SCANS.as_millis()).unwrap();
        let (reads, events, size) = (self.list.reads.get(), self.events, self.size);
        say(&format!("{what}: {events} events of a list of {size} read {reads} entries"));
        assert!(reads <= FEW * events + scans * size, "with {scans} scans at most");
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        note_freed(&EntryGuard::enter().unwrap(), self.list.key());
        for entry in &self.list.entries {
            close(entry.fd);
        }
    }
}

/// How many idle connections: ten, and as many as the limit of descriptors allows, 4000 at most.
fn sizes() -> [usize; 2] {
    let room = (raise_descriptor_limit() - open_descriptors()).saturating_sub(300) / 2;
    if room < 4000 {
        say(&format!("ONLY {room} CONNECTIONS INSTEAD OF 4000: the hard limit of descriptors is too low"));
    }
    [10, room.min(4000)]
}

#[test]
fn promise_10_message_cost_is_independent_of_idle_clients() {
    own_process!(60);
    const MESSAGES: usize = 2000;
    for size in sizes() {
        let mut counted = Counted::with_idle_members(size);
        let mut busy = UnixStream::connect(&counted.path).unwrap();
        let (fd, What::Connection) = counted.next() else { panic!("no connection") };
        counted.restart();
        for n in 0..MESSAGES {
            // The busy client is the last of the list; every other message is from the first.
            let (peer, expected) =
                if n % 2 == 0 { (&mut busy, fd) } else { (&mut counted.idle[0], counted.list.entries[0].fd) };
            peer.write_all(&frame(1, b"busy")).unwrap();
            assert!(matches!(counted.next(), (fd, What::Message(_)) if fd == expected));
        }
        counted.assert_few_reads("messages");
    }
}

#[test]
fn promise_10_connect_cost_is_independent_of_idle_clients() {
    own_process!(60);
    for size in sizes() {
        let mut counted = Counted::with_idle_members(size);
        let first = UnixStream::connect(&counted.path).unwrap();
        assert!(matches!(counted.next(), (_, What::Connection)));
        counted.restart();
        for _ in 0..500 {
            let client = UnixStream::connect(&counted.path).unwrap();
            let (fd, What::Connection) = counted.next() else { panic!("no connection") };
            drop(client);
            assert!(matches!(counted.next(), (closed, What::Disconnection) if closed == fd));
        }
        counted.assert_few_reads("connections and disconnections");
        drop(first);
        assert!(matches!(counted.next(), (_, What::Disconnection)));
        counted.restart();
        // The last entry takes the place of each one that is removed, and sends a message from there.
        for _ in 0..size.min(500) - 1 {
            let middle = counted.idle.len() / 2;
            let closed = counted.list.entries[middle].fd;
            drop(counted.idle.swap_remove(middle));
            assert!(matches!(counted.next(), (fd, What::Disconnection) if fd == closed));
            let Some(moved) = counted.idle.get_mut(middle) else { continue };
            moved.write_all(&frame(1, b"from another place")).unwrap();
            let sender = counted.list.entries[middle].fd;
            assert!(matches!(counted.next(), (fd, What::Message(_)) if fd == sender));
        }
        counted.assert_few_reads("disconnections, and messages of moved entries");
    }
}

/// A program closes clients itself, in a list with many others.
#[test]
fn promise_10_close_cost_is_independent_of_idle_clients() {
    own_process!(60);
    for size in sizes() {
        let mut counted = Counted::with_idle_members(size);
        let mut client = UnixStream::connect(&counted.path).unwrap();
        let (mut fd, What::Connection) = counted.next() else { panic!("no connection") };
        counted.restart();
        for _ in 0..500 {
            // A younger client always exists, so that the closed one is not the last in the list.
            let younger = UnixStream::connect(&counted.path).unwrap();
            let (younger_fd, What::Connection) = counted.next() else { panic!("no connection") };
            note_closing(&EntryGuard::enter().unwrap(), fd);
            close(fd);
            assert!(matches!(counted.next(), (closed, What::Disconnection) if closed == fd));
            (client, fd) = (younger, younger_fd);
        }
        counted.assert_few_reads("connections that the program has closed");
        drop(client);
    }
}

/// A program puts structures of its own into the list in place of the structures that were reported.
#[test]
fn promise_10_entries_replaced_by_copies_cost_the_same() {
    own_process!(60);
    for size in sizes() {
        let mut counted = Counted::with_idle_members(0);
        for _ in 0..size {
            counted.idle.push(UnixStream::connect(&counted.path).unwrap());
            assert!(matches!(counted.next(), (_, What::Connection)));
        }
        counted.size = size;
        // In another array, so that the library notices the change at once.
        counted.list.entries = counted.list.entries.clone();
        for entry in &mut counted.list.entries {
            entry.addr += 1_000_000;
        }
        counted.restart();
        for n in 0..2000 {
            let place = n * 7 % size;
            counted.idle[place].write_all(&frame(1, b"busy")).unwrap();
            let expected = counted.list.entries[place].fd;
            assert!(matches!(counted.next(), (fd, What::Message(_)) if fd == expected));
        }
        counted.assert_few_reads("messages of connections with new structures");
    }
}

#[test]
fn promise_10_descriptors_of_1024_and_above_work() {
    own_process!(30);
    if raise_descriptor_limit() < 1300 {
        return say("SKIPPED: descriptors over 1024; the hard limit of descriptors is too low");
    }
    let low: Vec<_> = (0..1100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let mut server = Program::server();
    assert!(server.srv.unwrap().fd > 1024);
    let (mut peer, fd) = server.peer();
    assert!(fd > 1024);
    let (reader, mut writer) = pipe();
    assert_eq!(unsafe { ipc_add_fd(&mut server.list, reader.as_raw_fd()) }, IPC_ERROR_NONE);
    for n in 0..10 {
        peer.write_all(&frame(1, &[n]).repeat(2)).unwrap();
        assert_eq!(server.next(), Reported::Message(fd, 1, vec![n]));
        assert_eq!(read(fd), Ok((1, vec![n])));
        assert_eq!(server.write(fd, 2, &[n]), IPC_ERROR_NONE);
        assert_eq!(read_frame(&mut peer), (2, vec![n]));
        writer.write_all(b"extra").unwrap();
        assert_eq!(server.next(), Reported::Extra(reader.as_raw_fd(), b"extra".to_vec()));
    }
    drop(peer);
    assert_eq!(server.next(), Reported::Disconnection(fd));
    free_extras(&mut server);
    drop(low);
}
