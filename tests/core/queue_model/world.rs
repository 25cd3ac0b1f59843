//! Runs a sequence: a program with a list, connections that are in the list or not, and their peers.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::connection::{AT_ONCE, Connection};
use super::step::{Action, CONNECTIONS, LARGEST, Step, Way, Wrong};
use crate::support::ext::*;
use crate::support::*;
use crate::targets::script::append_pattern;

/// The type of the peers' messages.
const ANSWER: u8 = 77;

/// How many bytes each peer receives at a time while a call runs.
const PACES: [usize; CONNECTIONS] = [9_000, 700, 150_000];

/// How long the queued bytes of a closed connection may take to arrive at a peer that reads.
const SOON: Duration = Duration::from_secs(30);

/// Runs a whole sequence. The error says what was wrong, and in which step.
pub fn run(steps: &[Step]) -> Result<(), String> {
    let mut world = World::new();
    for (number, step) in steps.iter().enumerate() {
        world.run(*step).map_err(|what| format!("{what}\nin step {number}: {step:?}"))?;
    }
    world.finish().map_err(|what| format!("{what}\nat the end"))
}

pub struct World {
    program: Box<Program>,
    connections: Vec<Connection>,
    /// A connection that is never used: the list always has a member to wait for.
    neighbour: (Box<ipc_connection_info>, OwnedFd, UnixStream),
    files: Vec<File>,
    /// How many messages there were: each has different bytes.
    messages: usize,
}

impl World {
    fn new() -> Self {
        let mut program = Program::client();
        let (ours, peer) = pair();
        let mut info = Box::new(info(ours.as_raw_fd()));
        assert_eq!(unsafe { ipc_add(&mut program.list, &mut *info) }, IPC_ERROR_NONE);
        let mut world = Self {
            program,
            connections: PACES.map(Connection::new).into(),
            neighbour: (info, ours.into(), peer),
            files: (0..4).map(numbered_file).collect(),
            messages: 0,
        };
        (1..CONNECTIONS).for_each(|to| world.add_or_delete(to).unwrap());
        world
    }

    fn run(&mut self, step: Step) -> Result<(), String> {
        let connection = &mut self.connections[step.to];
        match step.action {
            Action::Write { way, size, reading } => self.write(step.to, way, size, reading)?,
            Action::QueueSecond { size, second } => {
                let ((kind, payload), (_, second)) = (self.message(size), self.message(second));
                self.connections[step.to].queue_second(kind, &payload, &second)?;
            }
            Action::QueueToTheLimit => {
                let room = connection.limit.saturating_sub(pending(connection.fd()));
                if let Some(size) = room.checked_sub(5).filter(|size| *size <= LARGEST) {
                    let ((kind, payload), connection) = (self.message(size), &mut self.connections[step.to]);
                    connection.queue(kind, &payload)?;
                }
            }
            Action::Fill { size } => self.fill(step.to, size)?,
            Action::Queue { size, count } => {
                for _ in 0..count {
                    let (kind, payload) = self.message(size);
                    self.connections[step.to].queue(kind, &payload)?;
                }
            }
            Action::Flush { timeout } => connection.flush(timeout)?,
            Action::Refused(wrong) => self.refused(step.to, wrong)?,
            Action::AddOrDelete => self.add_or_delete(step.to)?,
            Action::Limit { bytes } => connection.set_limit(bytes)?,
            Action::Buffer { bytes } => set_send_buffer(connection, bytes),
            Action::Close { delete_before } => self.close(step.to, delete_before)?,
            Action::GiveUp => self.give_up(step.to)?,
            Action::PeerReads { bytes } => connection.peer_reads(bytes)?,
            Action::PeerWrites { size } => self.peer_writes(step.to, size)?,
            Action::PeerHalfCloses => connection.peer_shuts_down(std::net::Shutdown::Write),
            Action::PeerStopsReading => connection.peer_shuts_down(std::net::Shutdown::Read),
            Action::PeerCloses => connection.peer_closes(),
            Action::Poll => self.poll(None)?,
        }
        self.connections.iter().try_for_each(Connection::check)
    }

    /// The next message: its type and its payload.
    fn message(&mut self, size: usize) -> (u8, Vec<u8>) {
        self.messages += 1;
        let mut payload = Vec::new();
        append_pattern(&mut payload, size, self.messages);
        (self.messages as u8, payload)
    }

    fn write(&mut self, to: usize, way: Way, size: usize, reading: bool) -> Result<(), String> {
        let (kind, payload) = self.message(size);
        let (connection, files) = (&mut self.connections[to], &self.files);
        let file = match way {
            Way::WithFile(number) => Some(number),
            Way::Write | Way::Send => None,
        };
        connection.write(kind, &payload, file, reading, |fd| match way {
            Way::Write => outcome(write(fd, kind, &payload)),
            Way::Send => send(fd, &frame(kind, &payload)),
            Way::WithFile(number) => write_fd(fd, kind, &payload, &files[number]),
        })
    }

    /// Writes messages with a queue limit of 1 byte, until one is refused, since the kernel accepts no more.
    fn fill(&mut self, to: usize, size: usize) -> Result<(), String> {
        let connection = &mut self.connections[to];
        if !connection.is_listed || !connection.reads || pending(connection.fd()) > 0 {
            return Ok(());
        }
        let limit = connection.limit;
        connection.set_limit(1)?;
        loop {
            let before = self.connections[to].expected.bytes;
            self.write(to, Way::Write, size, false)?;
            if self.connections[to].expected.bytes == before {
                return self.connections[to].set_limit(limit);
            }
        }
    }

    fn refused(&mut self, to: usize, wrong: Wrong) -> Result<(), String> {
        let file = &self.files[0];
        let connection = &mut self.connections[to];
        let payload = b"refused";
        let length = if wrong == Wrong::TooLong { LARGEST + 1 } else { payload.len() };
        let message = ipc_message { length: u32::try_from(length).unwrap(), ..message(1, payload) };
        let none = ipc_message { payload: none(), ..message };
        let bad_file = Err((IPC_ERROR_USOCK_SEND, libc::EBADF));
        let (message, expected) = match wrong {
            Wrong::TooLong => (&message, Err((IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE))),
            Wrong::NoPayload => (&none, Err((IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, libc::EINVAL))),
            Wrong::NoFile if connection.reads => (&message, bad_file),
            Wrong::NoFile => return Ok(()),
        };
        // The call may have to send the queued bytes first.
        let reported = connection.while_reading(AT_ONCE, |info| match wrong {
            Wrong::NoFile => vec![outcome(unsafe { ipc_write_fd(info, message, -1) })],
            _ => vec![
                outcome(unsafe { ipc_write(info, message) }),
                outcome(unsafe { ipc_queue(info, message) }),
                outcome(unsafe { ipc_write_fd(info, message, file.as_raw_fd()) }),
            ],
        })?;
        ensure!(reported.iter().all(|reported| *reported == expected), "{reported:?}");
        Ok(())
    }

    fn add_or_delete(&mut self, to: usize) -> Result<(), String> {
        let connection = &mut self.connections[to];
        let (list, info) = (&mut self.program.list, &mut *connection.info);
        let reported = match connection.is_listed {
            true => outcome(unsafe { ipc_del(list, info) }),
            false => outcome(unsafe { ipc_add(list, info) }),
        };
        ensure!(reported == Ok(()), "{reported:?}");
        connection.is_listed = !connection.is_listed;
        Ok(())
    }

    /// Replaces a closed connection by a new one, in the list if the old one was there.
    fn replace(&mut self, to: usize, was_listed: bool) -> Result<(), String> {
        let connection = &mut self.connections[to];
        *connection = Connection::new(connection.pace);
        if was_listed { self.add_or_delete(to) } else { Ok(()) }
    }

    fn close(&mut self, to: usize, delete_before: bool) -> Result<(), String> {
        let was_listed = self.connections[to].is_listed;
        if was_listed && delete_before {
            self.add_or_delete(to)?;
        }
        let connection = &mut self.connections[to];
        let reported = outcome(unsafe { ipc_close(&mut *connection.info) });
        ensure!(reported == Ok(()), "ipc_close: {reported:?}");
        // The queued bytes are sent during later calls, whichever connection these are for.
        let (begin, neighbour) = (Instant::now(), self.neighbour.0.fd);
        while connection.peer_reads_on()? {
            ensure!(
                begin.elapsed() < SOON,
                "{} bytes of a closed connection do not arrive",
                connection.expected.bytes
            );
            pending(neighbour);
        }
        connection.peer_reads_to_the_end(true)?;
        if was_listed && !delete_before {
            self.add_or_delete(to)?;
        }
        self.replace(to, was_listed)
    }

    fn give_up(&mut self, to: usize) -> Result<(), String> {
        let connection = &mut self.connections[to];
        let was_listed = connection.is_listed;
        assert_eq!(unsafe { libc::shutdown(connection.fd(), libc::SHUT_RDWR) }, 0);
        if was_listed {
            self.add_or_delete(to)?;
        }
        let connection = &mut self.connections[to];
        let reported = outcome(unsafe { ipc_close(&mut *connection.info) });
        ensure!(reported == Ok(()), "ipc_close: {reported:?}");
        connection.peer_reads_to_the_end(false)?;
        self.replace(to, was_listed)
    }

    fn peer_writes(&mut self, to: usize, size: usize) -> Result<(), String> {
        let (_, payload) = self.message(size);
        let connection = &mut self.connections[to];
        if connection.peer.is_none() || !connection.writes {
            return Ok(());
        }
        connection.peer_writes(&frame(ANSWER, &payload));
        if connection.is_listed {
            let fd = connection.fd();
            return self.poll(Some(Reported::Message(fd, ANSWER, payload)));
        }
        let reported = read(connection.fd());
        ensure!(
            reported == Ok((ANSWER, payload)),
            "ipc_read: {:?}",
            reported.map(|(kind, got)| (kind, got.len()))
        );
        Ok(())
    }

    /// Takes all pending events: the awaited one, and the ends of connections whose peers have closed.
    fn poll(&mut self, mut awaited: Option<Reported>) -> Result<(), String> {
        loop {
            match self.program.try_poll(0) {
                Ok(Seen::Nothing) => break,
                Ok(Seen::Reported(Reported::Error(fd))) => {
                    let connection = &self.connections[self.number_of(fd)?];
                    ensure!(connection.peer.is_none(), "an ERROR of a connection whose peer is open");
                }
                Ok(Seen::Reported(Reported::Disconnection(fd))) => self.ended(fd)?,
                Ok(Seen::Reported(reported)) if awaited.as_ref() == Some(&reported) => awaited = None,
                other => return Err(format!("ipc_wait_event_timeout: {other:?}")),
            }
        }
        ensure!(awaited.is_none(), "the peer's message is not reported");
        for connection in self.connections.iter().filter(|connection| connection.is_listed) {
            connection.check_sent()?;
            ensure!(connection.peer.is_some(), "the peer has closed, and no DISCONNECTION is reported");
            let is_over = !connection.writes && connection.is_writable() && pending(connection.fd()) == 0;
            ensure!(!is_over, "the peer sends no more, nothing is queued, and no DISCONNECTION is reported");
        }
        Ok(())
    }

    fn number_of(&self, fd: i32) -> Result<usize, String> {
        let place = self.connections.iter().position(|it| it.is_listed && it.fd() == fd);
        place.ok_or_else(|| format!("an event of {fd}, which is no connection of the list"))
    }

    /// A DISCONNECTION was reported.
    fn ended(&mut self, fd: i32) -> Result<(), String> {
        let to = self.number_of(fd)?;
        let connection = &mut self.connections[to];
        ensure!(!connection.writes, "a DISCONNECTION of a connection whose peer has not ended it");
        ensure!(!is_open(fd), "a DISCONNECTION of a connection that is open");
        connection.is_listed = false;
        connection.peer_reads_to_the_end(true)?;
        self.replace(to, true)
    }

    /// Flushes and closes each connection: everything that was accepted must arrive.
    fn finish(&mut self) -> Result<(), String> {
        for to in 0..CONNECTIONS {
            self.run(Step { to, action: Action::Flush { timeout: None } })?;
            self.run(Step { to, action: Action::Close { delete_before: true } })?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for connection in &mut self.connections {
            // Closing then does not wait.
            connection.peer = None;
            if connection.is_listed {
                unsafe { ipc_del(&mut self.program.list, &mut *connection.info) };
            }
            if is_open(connection.fd()) {
                unsafe { ipc_close(&mut *connection.info) };
            }
        }
    }
}

fn send(fd: i32, bytes: &[u8]) -> Result<(), Failure> {
    let mut sent = -7;
    let reported = outcome(unsafe { usock_send(fd, bytes.as_ptr().cast(), bytes.len() as isize, &mut sent) });
    assert_eq!(sent, if reported.is_ok() { bytes.len() as isize } else { 0 });
    reported
}

fn set_send_buffer(connection: &Connection, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap();
    let set = unsafe {
        let size = u32::try_from(size_of_val(&bytes)).unwrap();
        libc::setsockopt(connection.fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const bytes).cast(), size)
    };
    assert_eq!(set, 0);
}
