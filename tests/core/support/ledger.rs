//! The clients that are connected, and the ways in which a connection can end.

use std::collections::HashSet;
use std::io::Write;
use std::net::Shutdown;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;

pub type Origin = *mut ipc_connection_info;

/// A server that keeps a ledger of the origins whose CONNECTION was reported, and no DISCONNECTION yet.
pub struct Ledger {
    pub server: Box<Program>,
    /// The origins whose CONNECTION was reported, and no DISCONNECTION yet.
    pub here: HashSet<Origin>,
}

impl Deref for Ledger {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.server
    }
}

impl DerefMut for Ledger {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.server
    }
}

impl Ledger {
    pub fn new() -> Self {
        Self { server: Program::server(), here: HashSet::new() }
    }

    /// The next event and its origin, which is entered in the ledger.
    pub fn next(&mut self) -> (Reported, Origin) {
        let reported = self.server.next();
        let origin = self.server.event.origin;
        match reported {
            Reported::Connection(_) => assert!(self.here.insert(origin), "connected twice: {reported:?}"),
            Reported::Disconnection(_) => {
                assert!(self.here.remove(&origin), "disconnected twice, or never connected: {reported:?}")
            }
            _ => assert!(self.here.contains(&origin), "not connected: {reported:?}"),
        }
        (reported, origin)
    }

    /// A connected peer, with a number apart from the server's descriptors, whose CONNECTION is not reported yet.
    pub fn waiting(&self) -> UnixStream {
        out_of_the_way(UnixStream::connect(&self.path).unwrap())
    }

    /// A peer whose CONNECTION was reported; the server's descriptor for it, and its origin.
    pub fn peer(&mut self) -> (UnixStream, i32, Origin) {
        let peer = self.waiting();
        match self.next() {
            (Reported::Connection(fd), origin) => (peer, fd, origin),
            other => panic!("{other:?} instead of a connection"),
        }
    }

    /// All events but those of `marker`: at least as many as expected, and what comes in five rounds of the
    /// marker's messages after that. The library may take its time to notice what the program has done.
    pub fn all_there_is(
        &mut self,
        expected: usize,
        marker: &mut (UnixStream, i32, Origin),
    ) -> Vec<(Reported, Origin)> {
        let (peer, fd, origin) = marker;
        let (mut all, mut rounds, end) = (Vec::new(), 0, Instant::now() + Duration::from_secs(5));
        while rounds < 5 {
            have_the_list_looked_through(&mut self.server.list);
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

    /// No event is pending: the next client that connects is the next event, and the one after that.
    pub fn assert_nothing_more(&mut self) {
        for _ in 0..2 {
            have_the_list_looked_through(&mut self.server.list);
            let (mut peer, fd, origin) = self.peer();
            peer.write_all(&frame(1, b"the next")).unwrap();
            assert_eq!(self.next(), (Reported::Message(fd, 1, b"the next".to_vec()), origin));
            drop(peer);
            assert_eq!(self.next(), (Reported::Disconnection(fd), origin));
        }
    }
}

/// One end of a connection: what happens to it, by the peer or by the program.
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
    /// Brings it about. The peer comes back where it is the program that has ended it.
    pub fn happen(
        self,
        ledger: &mut Ledger,
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
            PeerClosesWithBytesUnread => assert_eq!(ledger.write(fd, 1, b"never read"), IPC_ERROR_NONE),
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
                peer.write_all(&frame(1, b"told").repeat(3)).unwrap();
                assert_eq!(ledger.next(), (Reported::Message(fd, 1, b"told".to_vec()), origin));
                assert_eq!(unsafe { ipc_close(origin) }, IPC_ERROR_NONE);
                return Some(peer);
            }
            HalfReadThenClose => {
                peer.write_all(&[frame(1, b"told"), frame(1, b"half")[..7].to_vec()].concat()).unwrap();
                assert_eq!(ledger.next(), (Reported::Message(fd, 1, b"told".to_vec()), origin));
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
