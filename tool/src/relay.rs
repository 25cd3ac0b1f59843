//! What passes between a client and a server, as it is, and the messages in it.
//!
//! ```text
//!            ┌── Flow ──►   receive ≤ 64 KiB of one frame ─► chunks ─► send
//!  client ───┤                             │
//!            └◄── Flow ──                  └─► Frames: a note when a message is whole
//! ```
//!
//! A flow receives only when it has sent all that it has received: so a side that does not read stops the
//! other, and what is held is one chunk, and one payload to be shown. It never receives beyond a frame, so
//! that descriptors stay with the bytes that they came with. The end of a side's sending (shutdown(2)) is
//! passed on as that; the end of a side as the end of the other.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};

use crate::libipc::{HEADER_SIZE as HEADER, MAX_PAYLOAD};
use crate::system;

/// The most that a flow holds.
const CHUNK: usize = 64 << 10;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// What a flow has seen.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    /// A message.
    Message {
        /// Its type.
        kind: u8,
        /// Its payload.
        payload: Vec<u8>,
        /// How many descriptors came with it.
        fds: usize,
    },
    /// The message announces a payload of this length, over the maximum; what follows is passed on, and not
    /// understood.
    TooLong(u32),
    /// Descriptors did not get to the other side.
    LostFds(Errno),
    /// The side has ended its sending (shutdown(2)), and may receive.
    Shutdown,
    /// The side has closed the connection.
    Closed,
    /// The side has ended amid a message, after this many bytes of it.
    Cut(usize),
}

/// The frames of one flow.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    payload: Vec<u8>,
    length: usize,
    fds: usize,
    is_lost: bool,
}

impl Frames {
    /// How many bytes there are to the end of the frame, or of its header.
    fn missing(&self) -> usize {
        if self.is_lost {
            usize::MAX
        } else if self.head.len() < HEADER {
            HEADER - self.head.len()
        } else {
            self.length - self.payload.len()
        }
    }

    /// Takes bytes, at most as many as are missing; what they complete.
    fn take(&mut self, bytes: &[u8], fds: usize) -> Option<Note> {
        if self.is_lost {
            return None;
        }
        self.fds += fds;
        if self.head.len() < HEADER {
            self.head.extend_from_slice(bytes);
            let length = self.head.get(1..HEADER).and_then(|length| length.try_into().ok());
            let length = u32::from_ne_bytes(length?);
            self.length = usize::try_from(length).unwrap_or(usize::MAX);
            if self.length > MAX_PAYLOAD {
                self.is_lost = true;
                return Some(Note::TooLong(length));
            }
        } else {
            self.payload.extend_from_slice(bytes);
        }
        (self.missing() == 0).then(|| {
            let Self { head, payload, fds, .. } = mem::take(self);
            Note::Message { kind: head.first().copied().unwrap_or(0), payload, fds }
        })
    }

    /// How many bytes of an incomplete frame were received.
    fn begun(&self) -> usize {
        if self.is_lost { 0 } else { self.head.len() + self.payload.len() }
    }
}

/// Bytes that were received and not sent yet, and the descriptors that go with the first of them.
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// From one side to the other.
#[derive(Default)]
struct Flow {
    frames: Frames,
    chunks: VecDeque<Chunk>,
    /// The side sends no more.
    has_ended: bool,
    /// The end was passed on to the other side, or the other side accepts nothing more.
    is_done: bool,
}

impl Flow {
    fn wants_to_receive(&self) -> bool {
        !self.has_ended && self.chunks.is_empty()
    }

    /// Receives what is there, to the end of a frame, or until the chunk is full.
    fn receive(&mut self, from: BorrowedFd<'_>, note: &mut dyn FnMut(Note)) {
        let mut held = 0;
        let mut room = vec![0; CHUNK];
        while let Some(part) =
            room.get_mut(..self.frames.missing().min(CHUNK - held)).filter(|part| !part.is_empty())
        {
            let received = match system::receive(from, part) {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return,
                // The side has closed the connection, and had not read all.
                Err(_) => system::Received { count: 0, fds: Vec::new(), has_lost: false },
            };
            if received.count == 0 {
                self.has_ended = true;
                return;
            }
            if received.has_lost {
                note(Note::LostFds(Errno::EMFILE));
            }
            let bytes = part.get(..received.count).unwrap_or_default();
            held += bytes.len();
            let whole = self.frames.take(bytes, received.fds.len());
            match self.chunks.back_mut().filter(|_| received.fds.is_empty()) {
                Some(chunk) => chunk.bytes.extend_from_slice(bytes),
                None => self.chunks.push_back(Chunk { bytes: bytes.to_vec(), sent: 0, fds: received.fds }),
            }
            if let Some(whole) = whole {
                note(whole);
                return;
            }
        }
    }

    /// Sends what the other side takes; an error if it takes nothing more.
    fn send(&mut self, to: BorrowedFd<'_>, note: &mut dyn FnMut(Note)) -> Result<(), Errno> {
        while let Some(chunk) = self.chunks.front_mut() {
            let fds: Vec<RawFd> = chunk.fds.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&fds)];
            let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
            let pieces = [IoSlice::new(chunk.bytes.get(chunk.sent..).unwrap_or_default())];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(to.as_raw_fd(), &pieces, rights, flags, None) {
                Ok(count) => {
                    chunk.sent += count;
                    chunk.fds.clear();
                    if chunk.sent >= chunk.bytes.len() {
                        self.chunks.pop_front();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                // The other side takes no descriptors, or too many are on their way.
                Err(errno) if !fds.is_empty() && !matches!(errno, Errno::EPIPE | Errno::ECONNRESET) => {
                    chunk.fds.clear();
                    note(Note::LostFds(errno));
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// One of the two sockets.
struct End {
    socket: OwnedFd,
    /// It is closed at the other end: nothing can be sent to it, and there may still be something to receive.
    is_closed: bool,
}

impl End {
    /// Looks whether it is closed now: it may have been closed since the last poll(2).
    fn look(&mut self) {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        let [fd] = fds;
        self.is_closed |= fd.any().unwrap_or(true);
    }
}

/// A client's connection, and the one to the server that stands for it.
pub struct Link {
    client: End,
    server: End,
    up: Flow,
    down: Flow,
}

impl Link {
    /// Between these two.
    pub fn new(client: OwnedFd, server: OwnedFd) -> Self {
        let end = |socket| End { socket, is_closed: false };
        Self { client: end(client), server: end(server), up: Flow::default(), down: Flow::default() }
    }

    /// What to wait for at each of the two sockets; None if there is nothing.
    pub fn interests(&self, may_receive: bool) -> [(BorrowedFd<'_>, Option<PollFlags>); 2] {
        let interest = |end: &End, out: &Flow, back: &Flow| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, may_receive && out.wants_to_receive());
            flags.set(PollFlags::POLLOUT, !back.chunks.is_empty() && !back.is_done);
            // The end of the socket is reported in any case, and again and again: it is asked for once.
            (!flags.is_empty() || !end.is_closed).then_some(flags)
        };
        [
            (self.client.socket.as_fd(), interest(&self.client, &self.up, &self.down)),
            (self.server.socket.as_fd(), interest(&self.server, &self.down, &self.up)),
        ]
    }

    /// Passes on what can be; `happened` is what poll(2) reports of the two sockets.
    pub fn step(&mut self, happened: [PollFlags; 2], may_receive: bool, note: &mut dyn FnMut(Side, Note)) {
        let Self { client, server, up, down } = self;
        for (end, events) in [&mut *client, &mut *server].into_iter().zip(happened) {
            end.is_closed |= events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        }
        pass(client, server, up, may_receive, &mut |event| note(Side::Client, event));
        pass(server, client, down, may_receive, &mut |event| note(Side::Server, event));
    }

    /// Whether something waits to be sent.
    pub fn has_unsent(&self) -> bool {
        [&self.up, &self.down].iter().any(|flow| !flow.chunks.is_empty() && !flow.is_done)
    }

    /// Whether the client has ended, and not all that it sent has got to the server.
    pub fn is_ending(&self) -> bool {
        self.client.is_closed && !self.up.is_done
    }

    /// Whether nothing will pass any more.
    pub fn is_over(&self) -> bool {
        self.up.is_done && self.down.is_done
    }
}

fn pass(from: &mut End, to: &End, flow: &mut Flow, may_receive: bool, note: &mut dyn FnMut(Note)) {
    if flow.is_done {
        return;
    }
    let had_ended = flow.has_ended;
    if may_receive && flow.wants_to_receive() && !to.is_closed {
        flow.receive(from.socket.as_fd(), note);
    }
    if flow.has_ended && !had_ended {
        match flow.frames.begun() {
            0 => {}
            begun => note(Note::Cut(begun)),
        }
        from.look();
        note(if from.is_closed { Note::Closed } else { Note::Shutdown });
    }
    let sent = if to.is_closed { Err(Errno::EPIPE) } else { flow.send(to.socket.as_fd(), note) };
    if sent.is_err() {
        // What the side sends from now on fails there, as it would without anything between. What it has sent
        // is shown, and lost.
        let _ = shutdown(from.socket.as_raw_fd(), Shutdown::Read);
        flow.chunks.clear();
        while may_receive && !flow.has_ended {
            flow.receive(from.socket.as_fd(), note);
            flow.chunks.clear();
        }
        flow.is_done = true;
    } else if flow.has_ended && flow.chunks.is_empty() {
        flow.is_done = true;
        let _ = shutdown(to.socket.as_raw_fd(), Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown as Std;
    use std::os::unix::net::UnixStream;

    struct World {
        client: UnixStream,
        server: UnixStream,
        link: Link,
        notes: Vec<(Side, Note)>,
    }

    impl World {
        fn new() -> Self {
            let (client, near) = UnixStream::pair().unwrap();
            let (far, server) = UnixStream::pair().unwrap();
            let link = Link::new(near.into(), far.into());
            Self { client, server, link, notes: Vec::new() }
        }

        /// Passes on until nothing happens any more.
        fn settle(&mut self) {
            loop {
                let interests = self.link.interests(true);
                let mut fds: Vec<_> = interests
                    .iter()
                    .filter_map(|(fd, flags)| flags.map(|flags| PollFd::new(*fd, flags)))
                    .collect();
                if poll(&mut fds, PollTimeout::ZERO).unwrap() == 0 {
                    return;
                }
                let mut events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
                let happened = interests
                    .map(|(_, flags)| flags.and_then(|_| events.next()).unwrap_or(PollFlags::empty()));
                let notes = &mut self.notes;
                self.link.step(happened, true, &mut |side, note| notes.push((side, note)));
                if self.link.is_over() {
                    return;
                }
            }
        }
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind][..], &u32::try_from(payload.len()).unwrap().to_ne_bytes(), payload].concat()
    }

    fn message(kind: u8, payload: &[u8]) -> Note {
        Note::Message { kind, payload: payload.to_vec(), fds: 0 }
    }

    #[test]
    fn messages_pass_both_ways_in_order() {
        let mut world = World::new();
        world.client.write_all(&[frame(2, b"one"), frame(255, b""), frame(0, &[7; 1000])].concat()).unwrap();
        world.server.write_all(&frame(3, b"answer")).unwrap();
        world.settle();
        let of = |side| world.notes.iter().filter(move |(from, _)| *from == side).map(|(_, note)| note);
        let sent: Vec<_> = of(Side::Client).collect();
        assert_eq!(sent, [&message(2, b"one"), &message(255, b""), &message(0, &[7; 1000])]);
        assert_eq!(of(Side::Server).collect::<Vec<_>>(), [&message(3, b"answer")]);
        let mut all = vec![0; 8 + 5 + 1005];
        world.server.read_exact(&mut all).unwrap();
        assert_eq!(all, [frame(2, b"one"), frame(255, b""), frame(0, &[7; 1000])].concat());
        let mut all = [0; 11];
        world.client.read_exact(&mut all).unwrap();
        assert_eq!(all[..], frame(3, b"answer"));
    }

    #[test]
    fn side_that_reads_nothing_stops_the_other() {
        let mut world = World::new();
        world.client.set_nonblocking(true).unwrap();
        let bytes = frame(2, &vec![1; MAX_PAYLOAD]);
        let mut sent = 0;
        loop {
            match world.client.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(_) => {
                    let before = sent;
                    world.settle();
                    sent += world.client.write(&bytes[sent..]).unwrap_or(0);
                    if sent == before {
                        break;
                    }
                }
            }
        }
        assert!(sent < 2 << 20, "{sent} bytes are on their way");
        assert!(world.link.up.chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>() <= CHUNK);
        // And goes on when it reads.
        let mut got = 0;
        world.server.set_nonblocking(true).unwrap();
        let mut room = vec![0; 1 << 20];
        while got < bytes.len() {
            got += world.server.read(&mut room).unwrap_or(0);
            sent += world.client.write(&bytes[sent..]).unwrap_or(0);
            world.settle();
        }
        assert_eq!(world.notes, [(Side::Client, message(2, &vec![1; MAX_PAYLOAD]))]);
    }

    #[test]
    fn end_of_sending_is_passed_on_as_that() {
        let mut world = World::new();
        world.client.write_all(&frame(2, b"last")).unwrap();
        world.client.shutdown(Std::Write).unwrap();
        world.settle();
        let mut all = Vec::new();
        world.server.read_to_end(&mut all).unwrap();
        assert_eq!(all, frame(2, b"last"));
        world.server.write_all(&frame(2, b"answer")).unwrap();
        world.settle();
        drop(world.server);
        let (near, far) = UnixStream::pair().unwrap();
        (world.server, _) = (near, far);
        world.settle();
        assert!(world.link.is_over());
        let mut all = Vec::new();
        world.client.read_to_end(&mut all).unwrap();
        assert_eq!(all, frame(2, b"answer"));
        let notes: Vec<_> = world.notes.into_iter().map(|(_, note)| note).collect();
        assert_eq!(notes, [message(2, b"last"), Note::Shutdown, message(2, b"answer"), Note::Closed]);
    }

    #[test]
    fn client_that_closes_amid_a_message_is_reported() {
        let mut world = World::new();
        world.client.write_all(&frame(2, b"half")[..7]).unwrap();
        let (other, _peer) = UnixStream::pair().unwrap();
        drop(mem::replace(&mut world.client, other));
        world.settle();
        assert!(world.link.is_over());
        let mut all = Vec::new();
        world.server.read_to_end(&mut all).unwrap();
        assert_eq!(all, frame(2, b"half")[..7]);
        assert_eq!(world.notes, [(Side::Client, Note::Cut(7)), (Side::Client, Note::Closed)]);
        assert!(world.server.write_all(b"x").is_ok_and(|()| false) || world.server.write_all(b"x").is_err());
    }

    #[test]
    fn length_over_the_maximum_is_passed_on_and_reported() {
        let mut world = World::new();
        let bytes = [&[2][..], &u32::MAX.to_ne_bytes(), b"whatever follows"].concat();
        world.client.write_all(&bytes).unwrap();
        world.settle();
        let mut all = vec![0; bytes.len()];
        world.server.read_exact(&mut all).unwrap();
        assert_eq!(all, bytes);
        assert_eq!(world.notes, [(Side::Client, Note::TooLong(u32::MAX))]);
    }

    #[test]
    fn descriptors_stay_with_their_message() {
        let mut world = World::new();
        let (read, write) = nix::unistd::pipe().unwrap();
        let fds = [write.as_raw_fd()];
        let send = |bytes: &[u8], fds: &[RawFd]| {
            let rights = [ControlMessage::ScmRights(fds)];
            let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
            let pieces = [IoSlice::new(bytes)];
            sendmsg::<()>(world.client.as_raw_fd(), &pieces, rights, MsgFlags::empty(), None).unwrap();
        };
        send(&frame(2, b"without"), &[]);
        send(&frame(2, b"with"), &fds);
        drop(write);
        world.settle();
        let mut room = [0; 64];
        let first = system::receive(world.server.as_fd(), &mut room[..12]).unwrap();
        assert_eq!((first.count, first.fds.len()), (12, 0));
        let second = system::receive(world.server.as_fd(), &mut room).unwrap();
        assert_eq!((second.count, second.fds.len()), (9, 1));
        nix::unistd::write(&second.fds[0], b"through").unwrap();
        assert_eq!(nix::unistd::read(&read, &mut room).unwrap(), 7);
        assert_eq!(world.notes[1].1, Note::Message { kind: 2, payload: b"with".to_vec(), fds: 1 });
    }
}
