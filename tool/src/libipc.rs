//! The library, through its C interface, made safe. This file and `system` are the only ones with `unsafe`.
//!
//! | type | what it is |
//! |---|---|
//! | [`Client`] | one connection, which this process made; closed when dropped |
//! | [`Events`] | a list of connections, with a service or without, and what happens next in it |
//! | [`Failure`] | a call that failed: the library's code, and errno |
//!
//! Messages are copied once, from the C heap to [`Message`]. Times are [`Duration`]s; `None` waits for ever.

use std::ffi::{c_char, c_int};
use std::fmt::Display;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;
use std::{io, ptr};

use ipc::capi::types::{
    IPC_HEADER_SIZE, IPC_MAX_MESSAGE_SIZE, ipc_connection_info, ipc_connection_infos, ipc_errors, ipc_event,
    ipc_event_type, ipc_message, msg_types,
};
use ipc::capi::{clients, entries, passing, queueing, sending, server_and_client, services, waiting};
use nix::errno::Errno;

use crate::error::Error;
use crate::service::Service;
use crate::signals::{self, Kept};

/// Bytes of a frame before its payload: its type, and the length of the payload in the order of this machine.
pub const HEADER_SIZE: usize = IPC_HEADER_SIZE as usize;

/// The longest payload of a message.
pub const MAX_PAYLOAD: usize = IPC_MAX_MESSAGE_SIZE as usize;

/// The usual type of a message, and that of an error.
pub const TYPE_DATA: u8 = msg_types::MSG_TYPE_DATA as u8;
pub const TYPE_ERROR: u8 = msg_types::MSG_TYPE_ERR as u8;

/// A call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The library's code.
    pub code: ipc_errors,
    /// errno of the call.
    pub errno: Errno,
}

impl Failure {
    /// Whether the peer has closed the connection, or the connection broke.
    pub fn is_end(self) -> bool {
        self.code == ipc_errors::IPC_ERROR_CLOSED_RECIPIENT
            || matches!(self.errno, Errno::EPIPE | Errno::ECONNRESET)
    }

    /// The end of a command that this failure is: what could not be done with the service.
    pub fn ends(self, service: &Service, message: impl Display) -> Error {
        Error::failed(service, message, self.errno)
    }
}

type Result<T> = std::result::Result<T, Failure>;

fn check(code: ipc_errors) -> Result<()> {
    match code {
        ipc_errors::IPC_ERROR_NONE => Ok(()),
        code => Err(Failure { code, errno: Errno::last() }),
    }
}

fn milliseconds(time: Option<Duration>) -> c_int {
    // A wait that has begun to end is no poll: what is left of a millisecond counts as one.
    time.map_or(-1, |time| c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX))
}

/// A connection's structure that has a number and nothing else: all that the library looks at.
fn info(fd: RawFd) -> ipc_connection_info {
    ipc_connection_info { version: 0, index: 0, fd, r#type: 0, spath: ptr::null_mut() }
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Message {
    /// Copies the message.
    ///
    /// # Safety
    /// The message is one that the library has filled in.
    unsafe fn copy_of(message: &ipc_message) -> Self {
        let payload = if message.payload.is_null() {
            Vec::new()
        } else {
            let length = usize::try_from(message.length).unwrap_or(0);
            // SAFETY: the library has put as many bytes there as it says.
            unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>(), length) }.to_vec()
        };
        Self { kind: message.r#type as u8, payload }
    }
}

/// Peer credentials (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// The calls of a connection: a copy of the number of its descriptor, which others own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection(RawFd);

impl Connection {
    /// Sends a message. What the peer does not take at once the library queues, up to its limit; then it
    /// waits.
    pub fn send(self, kind: u8, payload: &[u8]) -> Result<()> {
        // SAFETY: the library reads `payload.len()` bytes, and the structure.
        check(unsafe {
            sending::ipc_send(&info(self.0), kind as c_char, payload.as_ptr().cast(), payload.len())
        })
    }

    /// Appends a message to what is queued for the peer; EAGAIN if that is as much as its limit.
    pub fn queue(self, kind: u8, payload: &[u8]) -> Result<()> {
        let message = ipc_message {
            r#type: kind as c_char,
            length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload: payload.as_ptr().cast::<c_char>().cast_mut(),
        };
        // SAFETY: the library reads the message, and does not write to it.
        check(unsafe { queueing::ipc_queue(&info(self.0), &message) })
    }

    /// Waits until the kernel has what is queued: ETIMEDOUT if the time is over before.
    pub fn flush(self, timeout: Option<Duration>) -> Result<()> {
        // SAFETY: the library reads the structure.
        check(unsafe { queueing::ipc_flush(&info(self.0), milliseconds(timeout)) })
    }

    /// How many bytes are queued in the library.
    pub fn pending(self) -> Result<usize> {
        let mut bytes = 0;
        // SAFETY: the library reads the structure, and writes the number.
        check(unsafe { queueing::ipc_pending(&info(self.0), &mut bytes) })?;
        Ok(bytes)
    }

    /// Sends nothing more: the peer sees the end of the connection after the last message, and may still
    /// send.
    pub fn end_sending(self) -> Result<()> {
        // SAFETY: two numbers.
        match Errno::result(unsafe { libc::shutdown(self.0, libc::SHUT_WR) }) {
            Ok(_) => Ok(()),
            Err(errno) => Err(Failure { code: ipc_errors::IPC_ERROR_USOCK_SEND, errno }),
        }
    }

    /// The peer's credentials.
    pub fn peer(self) -> Result<Peer> {
        let mut peer = passing::ipc_peer { pid: 0, uid: 0, gid: 0 };
        // SAFETY: the library reads the structure, and writes the credentials.
        check(unsafe { passing::ipc_peer(&info(self.0), &mut peer) })?;
        Ok(Peer { pid: peer.pid, uid: peer.uid, gid: peer.gid })
    }

    /// Allows descriptors to be received with messages.
    pub fn allow_fds(self) -> Result<()> {
        // SAFETY: the library reads the structure.
        check(unsafe { passing::ipc_allow_fds(&info(self.0)) })
    }
}

/// A connection that this process made: closed when dropped. What is queued then leaves until the process
/// ends.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to the service, where the environment says.
    pub fn connect(service: &Service) -> Result<Self> {
        let mut info = info(-1);
        (info.index, info.version) = (service.index, service.version);
        let name = service.c_name();
        let mut environment = ptr::null_mut();
        // SAFETY: the library fills in the structure, and reads the name. It does not read `environment`.
        check(unsafe { server_and_client::ipc_connection(&mut environment, &mut info, name.as_ptr()) })?;
        Ok(Self { connection: Connection(info.fd) })
    }

    /// A connection that was made otherwise.
    pub fn of_fd(fd: OwnedFd) -> Self {
        Self { connection: Connection(fd.into_raw_fd()) }
    }

    /// The next message: ETIMEDOUT if none is there in time; [`Failure::is_end`] at the end of the
    /// connection.
    pub fn read(&mut self, timeout: Option<Duration>) -> Result<Message> {
        let mut message = ipc_message { r#type: 0, length: 0, payload: ptr::null_mut() };
        // SAFETY: the library reads the structure, and fills in the message.
        check(unsafe {
            waiting::ipc_read_timeout(&info(self.connection.0), &mut message, milliseconds(timeout))
        })?;
        // SAFETY: the library has filled in the message.
        let copy = unsafe { Message::copy_of(&message) };
        // SAFETY: the payload is from malloc(3), and named here alone.
        unsafe { libc::free(message.payload.cast()) };
        Ok(copy)
    }

    /// The connection's calls.
    pub fn connection(&self) -> Connection {
        self.connection
    }

    /// The descriptor, for calls that the library does not have: the library is then not to be used with it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open until drop.
        unsafe { BorrowedFd::borrow_raw(self.connection.0) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: the library reads the structure.
        unsafe { server_and_client::ipc_close(&mut info(self.connection.0)) };
    }
}

/// What happens in [`Events`].
#[derive(Debug)]
pub enum Event {
    /// The time is over.
    Nothing,
    /// A client has connected.
    Connection(Connection),
    /// A message was received.
    Message(Connection, Message),
    /// The peer broke the protocol or the connection failed; its disconnection follows.
    Error,
    /// The connection is over and closed; its number may be another's from now on.
    Disconnection(Connection, &'static str),
    /// A descriptor that is watched has become readable, or has ended.
    Readable,
}

/// A service's structure, which two threads may hold: the one that serves, and the one that ends the program.
struct Listening(Box<ipc_connection_info>);

// SAFETY: the pointer in it is a string from malloc(3), which is the library's until the service is closed.
unsafe impl Send for Listening {}

/// A list of connections, and the service that they connect to, if there is one.
pub struct Events {
    service: Option<(Listening, Kept)>,
    /// In a place of its own, since the library knows a list by its address: a value of this type may be
    /// moved.
    list: Box<ipc_connection_infos>,
    event: ipc_event,
    /// The connections of [`Events::add`], with the structures that the list names.
    own: Vec<(Client, Box<ipc_connection_info>)>,
    /// The structures of clients that are out of the list for a time.
    paused: Vec<*mut ipc_connection_info>,
}

impl Events {
    /// A list without a service.
    pub fn new() -> Self {
        Self {
            service: None,
            list: Box::new(ipc_connection_infos { cinfos: ptr::null_mut(), size: 0 }),
            event: ipc_event {
                r#type: MaybeUninit::new(ipc_event_type::IPC_EVENT_TYPE_NOT_SET),
                origin: ptr::null_mut(),
                m: ptr::null_mut(),
            },
            own: Vec::new(),
            paused: Vec::new(),
        }
    }

    /// Opens a service, with a mode for its socket or as the umask has it. Its file is removed when the list
    /// is dropped, or a signal ends the program.
    pub fn serve(service: &Service, mode: Option<u32>) -> std::result::Result<Self, Error> {
        let mut structure = Box::new(info(-1));
        (structure.index, structure.version) = (service.index, service.version);
        let options = services::ipc_server_options {
            flags: if mode.is_some() { services::IPC_SERVER_MODE } else { 0 },
            mode: mode.unwrap_or(0),
            uid: 0,
            gid: 0,
            backlog: 0,
            fd: -1,
        };
        let opened = signals::keep(|| {
            // SAFETY: the library fills in the structure, and reads the name and the options.
            check(unsafe { services::ipc_server_open(&mut *structure, service.c_name().as_ptr(), &options) })
                .map_err(|failure| {
                    // SAFETY: the path that was tried is from malloc(3), or NULL.
                    unsafe { libc::free(structure.spath.cast()) };
                    failure.ends(service, "cannot listen")
                })?;
            let copy = Listening(Box::new(*structure));
            let close = move || {
                let mut copy = copy;
                // SAFETY: a copy of the structure of an open service, closed once: here.
                unsafe { server_and_client::ipc_server_close(&mut *copy.0) };
            };
            Ok((Listening(structure), Box::new(close) as signals::Cleanup))
        })?;
        let mut events = Self::new();
        events.service = Some(opened);
        Ok(events)
    }

    /// Adds a connection, whose events are reported; it is closed at its end, or with the list.
    pub fn add(&mut self, client: Client) -> Result<Connection> {
        let connection = client.connection();
        let mut structure = Box::new(info(connection.0));
        // SAFETY: the structure lives until the connection has left the list.
        check(unsafe { entries::ipc_add(&mut *self.list, &mut *structure) })?;
        self.own.push((client, structure));
        Ok(connection)
    }

    /// Reports nothing of a client until [`Events::resume`]: what it sends stays in the kernel, which holds
    /// it back. What is queued for it goes on leaving.
    pub fn pause(&mut self, client: Connection) -> Result<()> {
        // SAFETY: the entries of the list, each with a structure.
        let found = self.entries().find(|entry| unsafe { (**entry).r#type == 0 && (**entry).fd == client.0 });
        let Some(entry) = found else {
            return Err(Failure {
                code: ipc_errors::IPC_ERROR_DEL__CANNOT_FIND_CLIENT,
                errno: Errno::ENOENT,
            });
        };
        // SAFETY: the entry is in the list.
        check(unsafe { entries::ipc_del(&mut *self.list, entry) })?;
        self.paused.push(entry);
        Ok(())
    }

    /// Reports what the client does again. If that fails the client is closed.
    pub fn resume(&mut self, client: Connection) -> Result<()> {
        // SAFETY: paused structures stay.
        let at = self.paused.iter().position(|entry| unsafe { (**entry).fd == client.0 });
        let Some(entry) = at.map(|at| self.paused.swap_remove(at)) else {
            return Err(Failure { code: ipc_errors::IPC_ERROR_ADD__NO_PARAM_CLIENT, errno: Errno::ENOENT });
        };
        // SAFETY: the structure is from malloc(3), and in no list.
        check(unsafe { entries::ipc_add(&mut *self.list, entry) }).inspect_err(|_| unsafe {
            server_and_client::ipc_close(entry);
            libc::free(entry.cast());
        })
    }

    /// What the list names.
    fn entries(&self) -> impl Iterator<Item = *mut ipc_connection_info> + use<> {
        let (entries, count) = (self.list.cinfos, usize::try_from(self.list.size).unwrap_or(0));
        // SAFETY: the list has as many entries as it says.
        (0..count).map(move |at| unsafe { *entries.add(at) })
    }

    /// Adds a descriptor. When it is readable that is reported: [`Event::Readable`].
    /// EPERM for a file, which always is.
    pub fn watch(&mut self, fd: RawFd) -> Result<()> {
        // SAFETY: the library fills in the list.
        check(unsafe { waiting::ipc_watch_fd(&mut *self.list, fd) })
    }

    /// Waits for what happens next.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Event> {
        let service = match &mut self.service {
            Some((service, _)) => &raw mut *service.0,
            None => ptr::null_mut(),
        };
        // SAFETY: the library's own list and event; the structure of a service that is open.
        check(unsafe {
            waiting::ipc_wait_event_timeout(&mut *self.list, service, &mut self.event, milliseconds(timeout))
        })?;
        // SAFETY: the library has set the type.
        let kind = unsafe { self.event.r#type.assume_init() };
        if kind == ipc_event_type::IPC_EVENT_TYPE_NOT_SET {
            return Ok(Event::Nothing);
        }
        let origin = self.event.origin;
        // SAFETY: the entry that the event is about is in the list, or was until now.
        let connection = Connection(unsafe { (*origin).fd });
        Ok(match kind {
            ipc_event_type::IPC_EVENT_TYPE_CONNECTION => Event::Connection(connection),
            ipc_event_type::IPC_EVENT_TYPE_MESSAGE => {
                // SAFETY: the event has a message, which the library has filled in.
                let message = unsafe { Message::copy_of(&*self.event.m.cast::<ipc_message>()) };
                Event::Message(connection, message)
            }
            ipc_event_type::IPC_EVENT_TYPE_ERROR => Event::Error,
            ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION => {
                let why = reason(origin);
                self.forget(origin);
                Event::Disconnection(connection, why)
            }
            _ => Event::Readable,
        })
    }

    /// Frees the structure of a connection that has left the list. The library has closed its number.
    fn forget(&mut self, origin: *mut ipc_connection_info) {
        match self.own.iter().position(|(_, structure)| ptr::eq(&raw const **structure, origin)) {
            Some(at) => std::mem::forget(self.own.swap_remove(at).0),
            // SAFETY: the structure of a client that connected is from malloc(3), and the program's since its
            // end.
            None => unsafe { libc::free(origin.cast()) },
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // The service first, so that no client connects that nothing serves.
        self.service = None;
        let (mut clients, mut watched) = (Vec::new(), Vec::new());
        for entry in self.entries() {
            let is_own = self.own.iter().any(|(_, structure)| ptr::eq(&raw const **structure, entry));
            // SAFETY: the entry is in the list.
            match unsafe { (*entry).r#type } {
                0 if is_own => {}
                0 => clients.push(entry),
                // SAFETY: as above.
                _ => watched.push(unsafe { (*entry).fd }),
            }
        }
        for fd in watched {
            // SAFETY: the library changes the list, and frees the entry.
            unsafe { waiting::ipc_del_fd(&mut *self.list, fd) };
        }
        for client in clients {
            // SAFETY: a client that connected: closed, taken from the list, and its structure freed, as C
            // programs do.
            unsafe {
                server_and_client::ipc_close(client);
                entries::ipc_del(&mut *self.list, client);
                libc::free(client.cast());
            }
        }
        for client in self.paused.drain(..) {
            // SAFETY: the same, but that it is in no list.
            unsafe {
                server_and_client::ipc_close(client);
                libc::free(client.cast());
            }
        }
        for (_, structure) in &mut self.own {
            // SAFETY: the structure is in the list.
            unsafe { entries::ipc_del(&mut *self.list, &mut **structure) };
        }
        // SAFETY: the list is the library's; what the event holds is a message or NULL.
        unsafe {
            entries::ipc_connections_free(&mut *self.list);
            if !self.event.m.is_null() {
                ipc::capi::messages::ipc_message_empty(self.event.m.cast());
                libc::free(self.event.m);
            }
        }
    }
}

/// Why a connection has ended or is about to, in words.
fn reason(origin: *const ipc_connection_info) -> &'static str {
    use clients::ipc_reason::*;
    let mut reason = IPC_REASON_NONE;
    // SAFETY: the library reads the structure, and writes the reason.
    if unsafe { clients::ipc_why(origin, &mut reason) } != ipc_errors::IPC_ERROR_NONE {
        return "unknown";
    }
    match reason {
        IPC_REASON_NONE => "unknown",
        IPC_REASON_ENDED => "ended",
        IPC_REASON_CUT => "cut off amid a message",
        IPC_REASON_RESET => "reset",
        IPC_REASON_TOO_LONG => "message too long",
        IPC_REASON_CLOSED => "closed here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A connection in the list, and its peer.
    fn added(events: &mut Events) -> (Connection, Client) {
        let (here, there) = UnixStream::pair().unwrap();
        let connection = events.add(Client::of_fd(OwnedFd::from(here))).unwrap();
        (connection, Client::of_fd(OwnedFd::from(there)))
    }

    fn next(events: &mut Events) -> Option<(Connection, Vec<u8>)> {
        match events.wait(Some(Duration::ZERO)).unwrap() {
            Event::Message(connection, message) => Some((connection, message.payload)),
            Event::Nothing => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paused_connection_is_silent_and_loses_nothing() {
        let mut events = Events::new();
        let (first, first_peer) = added(&mut events);
        let (second, second_peer) = added(&mut events);
        for payload in [&b"a"[..], b"b"] {
            first_peer.connection().send(TYPE_DATA, payload).unwrap();
        }
        assert_eq!(next(&mut events), Some((first, b"a".to_vec())));
        events.pause(first).unwrap();
        assert!(events.pause(first).is_err(), "it is paused already");
        second_peer.connection().send(TYPE_DATA, b"c").unwrap();
        assert_eq!(next(&mut events), Some((second, b"c".to_vec())));
        assert_eq!(next(&mut events), None);
        // The library knows the list by its address, which stays.
        let mut events = Box::new(events);
        events.resume(first).unwrap();
        assert!(events.resume(first).is_err(), "it is not paused");
        assert_eq!(next(&mut events), Some((first, b"b".to_vec())));
        drop(first_peer);
        let end = events.wait(None).unwrap();
        assert!(matches!(end, Event::Disconnection(ended, "ended") if ended == first), "{end:?}");
    }

    #[test]
    fn end_of_sending_leaves_the_other_direction_open() {
        let (here, there) = UnixStream::pair().unwrap();
        let [mut here, mut there] = [here, there].map(|end| Client::of_fd(OwnedFd::from(end)));
        here.connection().send(TYPE_DATA, b"last").unwrap();
        here.connection().end_sending().unwrap();
        assert_eq!(there.read(None).unwrap().payload, b"last");
        assert!(there.read(None).unwrap_err().is_end());
        there.connection().send(TYPE_DATA, b"answer").unwrap();
        assert_eq!(here.read(None).unwrap().payload, b"answer");
    }
}
