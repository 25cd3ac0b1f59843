//! A server that checks the order of the events of each connection, and the ways in which a connection can
//! end.

use std::collections::HashSet;
use std::io::Write;
use std::net::Shutdown;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;

pub type Origin = *mut ipc_connection_info;

/// A server that checks that each origin has one CONNECTION, then any other events, then one DISCONNECTION.
pub struct EventChecker {
    pub server: Box<Program>,
    /// The origins whose CONNECTION was reported and whose DISCONNECTION was not. `next` writes it.
    pub connected: HashSet<Origin>,
}

impl Deref for EventChecker {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.server
    }
}

impl DerefMut for EventChecker {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.server
    }
}

impl EventChecker {
    pub fn new() -> Self {
        Self { server: Program::server(), connected: HashSet::new() }
    }

    /// The next event and its origin; updates `connected`.
    pub fn next(&mut self) -> (Reported, Origin) {
        let reported = self.server.next();
        let origin = self.server.event.origin;
        match reported {
            Reported::Connection(_) => {
                assert!(self.connected.insert(origin), "connected twice: {reported:?}")
            }
            Reported::Disconnection(_) => {
                assert!(
                    self.connected.remove(&origin),
                    "disconnected twice, or never connected: {reported:?}"
                )
            }
            _ => assert!(self.connected.contains(&origin), "not connected: {reported:?}"),
        }
        (reported, origin)
    }

    /// A connected peer, whose CONNECTION is not reported yet. Its number does not compete with the server's
    /// descriptors.
    pub fn connect(&self) -> UnixStream {
        at_high_number(UnixStream::connect(&self.path).unwrap())
    }

    /// A peer whose CONNECTION was reported; the server's descriptor for it, and its origin.
    pub fn peer(&mut self) -> (UnixStream, i32, Origin) {
        let peer = self.connect();
        match self.next() {
            (Reported::Connection(fd), origin) => (peer, fd, origin),
            other => panic!("{other:?} instead of a connection"),
        }
    }

    /// All events except those of `marker`: at least as many as expected (five seconds at most), and those of
    /// five further rounds of the marker's messages. The library may notice later what the program has done.
    pub fn all_events(
        &mut self,
        expected: usize,
        marker: &mut (UnixStream, i32, Origin),
    ) -> Vec<(Reported, Origin)> {
        let (peer, fd, origin) = marker;
        let (mut all, mut rounds, end) = (Vec::new(), 0, Instant::now() + Duration::from_secs(5));
        while rounds < 5 {
            force_list_scan(&mut self.server.list);
            peer.write_all(&frame(9, b"marker")).unwrap();
            let last = (Reported::Message(*fd, 9, b"marker".to_vec()), *origin);
            all.extend(std::iter::from_fn(|| Some(self.next()).filter(|reported| *reported != last)));
            if all.len() >= expected || Instant::now() > end {
                rounds += 1;
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        all
    }

    /// Asserts that no event is pending: the next events are those of a new client, twice.
    pub fn assert_nothing_more(&mut self) {
        for _ in 0..2 {
            force_list_scan(&mut self.server.list);
            let (mut peer, fd, origin) = self.peer();
            peer.write_all(&frame(1, b"the next")).unwrap();
            assert_eq!(self.next(), (Reported::Message(fd, 1, b"the next".to_vec()), origin));
            drop(peer);
            assert_eq!(self.next(), (Reported::Disconnection(fd), origin));
        }
    }
}

/// A way in which a connection ends, by the peer or by the program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    PeerCloses,
    PeerClosesInHeader,
    PeerClosesInPayload,
    PeerShutsDown,
    PeerClosesWithBytesUnread,
    PeerAnnouncesTooMuch,
    IpcClose,
    Close,
    ReadAheadThenIpcClose,
    HalfReadThenClose,
}

pub use End::*;

pub const ENDS: [End; 10] = [
    PeerCloses,
    PeerClosesInHeader,
    PeerClosesInPayload,
    PeerShutsDown,
    PeerClosesWithBytesUnread,
    PeerAnnouncesTooMuch,
    IpcClose,
    Close,
    ReadAheadThenIpcClose,
    HalfReadThenClose,
];

impl End {
    /// Ends the connection in this way. Returns the peer's socket if the peer has not closed it.
    pub fn apply(
        self,
        checker: &mut EventChecker,
        mut peer: UnixStream,
        fd: i32,
        origin: Origin,
    ) -> Option<UnixStream> {
        match self {
            PeerCloses => {}
            PeerClosesInHeader => peer.write_all(&frame(1, b"half")[..2]).unwrap(),
            PeerClosesInPayload => peer.write_all(&frame(1, b"half")[..7]).unwrap(),
            PeerShutsDown => {
                peer.shutdown(Shutdown::Write).unwrap();
                return Some(peer);
            }
            PeerClosesWithBytesUnread => assert_eq!(checker.write(fd, 1, b"never read"), IPC_ERROR_NONE),
            PeerAnnouncesTooMuch => {
                peer.write_all(&[1, 255, 255, 255, 255]).unwrap();
                return Some(peer);
            }
            IpcClose => {
                assert_eq!(unsafe { ipc_close(origin) }, IPC_ERROR_NONE);
                return Some(peer);
            }
            Close => {
                close(fd);
                return Some(peer);
            }
            ReadAheadThenIpcClose => {
                peer.write_all(&frame(1, b"whole").repeat(3)).unwrap();
                assert_eq!(checker.next(), (Reported::Message(fd, 1, b"whole".to_vec()), origin));
                assert_eq!(unsafe { ipc_close(origin) }, IPC_ERROR_NONE);
                return Some(peer);
            }
            HalfReadThenClose => {
                peer.write_all(&[frame(1, b"whole"), frame(1, b"half")[..7].to_vec()].concat()).unwrap();
                assert_eq!(checker.next(), (Reported::Message(fd, 1, b"whole".to_vec()), origin));
                close(fd);
                return Some(peer);
            }
        }
        None
    }

    pub fn is_an_error(self) -> bool {
        matches!(self, PeerClosesWithBytesUnread | PeerAnnouncesTooMuch)
    }
}
