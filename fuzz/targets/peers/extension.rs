//! What ipc_ext.h adds: waiting without an end and for many events, queues, limits, descriptors.

use std::ffi::c_char;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use ipc::capi::passing::{ipc_allow_fds, ipc_take_fd, ipc_write_fd};
use ipc::capi::queueing::{ipc_flush, ipc_limits, ipc_pending, ipc_queue};
use ipc::capi::types::*;
use ipc::capi::waiting::{ipc_del_fd, ipc_event_fd, ipc_wait_event_timeout, ipc_wait_events, ipc_watch_fd};
use ipc::error::ipc_errors::{self, *};

use super::connection::{Connection, Due, Kind, State};
use super::sockets;
use super::world::{NO_INFO, World, call};
use crate::targets::stream::{HEADER, MOST, Next, frame};
use crate::targets::trace;

/// How much may be queued where the program has set nothing else.
pub const QUEUE: usize = 16 << 20;

/// How many descriptors may come with one message.
const DESCRIPTORS: usize = 16;

/// What the library is told of a connection, or of a service for those to come.
#[derive(Clone, Copy)]
pub struct Settings {
    pub longest: usize,
    pub queue: usize,
    pub descriptors: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { longest: MOST, queue: QUEUE, descriptors: false }
    }
}

/// A descriptor that is readable while there is something to tell.
#[derive(Clone, Copy)]
pub struct EventFd {
    fd: RawFd,
    with_service: bool,
}

impl World {
    /// A look that does not wait. What was changed by hand may be noticed later.
    pub fn look(&mut self, with_service: bool) {
        let srv = if with_service { self.srv() } else { ptr::null_mut() };
        self.check_event_fd(with_service);
        let may_be_nobody = srv.is_null() && self.is_anybody_alive() < Due::Certainly;
        let result = call(|| unsafe { ipc_wait_event_timeout(&mut *self.list, srv, &mut *self.event, 0) });
        match result {
            Ok(()) if self.event_kind() == ipc_event_type::IPC_EVENT_TYPE_NOT_SET => self.assert_not_set(),
            Ok(()) => self.check_what_was_told(),
            Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)) => {
                assert!(may_be_nobody, "somebody is there");
                self.assert_not_set();
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Many events at once.
    pub fn wait_for_many(&mut self, with_service: bool, room: usize) {
        let srv = if with_service { self.srv() } else { ptr::null_mut() };
        self.check_event_fd(with_service);
        let timeout = if self.has_something(with_service) { -1 } else { 0 };
        let may_be_nobody = srv.is_null() && self.is_anybody_alive() < Due::Certainly;
        let mut events = std::mem::take(&mut self.events);
        let mut count = room.clamp(1, events.len());
        let asked = count;
        let result = call(|| unsafe {
            ipc_wait_events(&mut *self.list, srv, events.as_mut_ptr(), &mut count, timeout)
        });
        trace!("  {count} of {asked} events");
        match result {
            Ok(()) => assert!(count <= asked && (count > 0 || timeout == 0), "{count} events"),
            Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)) => {
                assert!(may_be_nobody && count == 0)
            }
            // The fuzzer's own signals.
            Err((IPC_ERROR_WAIT_EVENT__SELECT, libc::EINTR)) => assert_eq!(count, 0),
            Err(error) => panic!("{error:?}"),
        }
        for event in &events[..count] {
            self.check_event(*event, false);
        }
        for event in &events[count..asked] {
            assert!(event.m.is_null(), "a message of the call before, in an event that is none");
        }
        self.events = events;
        self.adopt_order();
        self.check_list();
        self.react();
    }

    /// Several have come and gone: those who are there are the ones that should be, in some order.
    fn adopt_order(&mut self) {
        let size = usize::try_from(self.list.size).unwrap();
        let mut expected = std::mem::take(&mut self.listed);
        for index in 0..size {
            let info = unsafe { *self.list.cinfos.add(index) };
            let number = |one: &Connection| !info.is_null() && one.info == info;
            let known = self.connections.iter().position(number);
            if known.is_none() && !info.is_null() {
                // One that has got the number of another one, whose end was told first.
                let number = self.come(info);
                self.connections[number].state = State::Fresh;
                continue;
            }
            let place =
                expected.iter().position(|entry| *entry == known).expect("an entry that should be gone");
            self.listed.push(expected.swap_remove(place));
        }
        assert!(expected.is_empty(), "an entry is missing");
    }

    /// The descriptor for other event loops.
    pub fn ask_for_event_fd(&mut self, with_service: bool) {
        let srv = if with_service { self.srv() } else { ptr::null_mut() };
        let mut fd = -1;
        assert_eq!(call(|| unsafe { ipc_event_fd(&mut *self.list, srv, &mut fd) }), Ok(()));
        trace!("  the descriptor for other loops is {fd}");
        if let Some(before) = self.event_fd {
            assert_eq!(before.fd, fd, "another descriptor than before");
        }
        self.event_fd = Some(EventFd { fd, with_service });
        self.changed = false;
        self.remove_dead(fd);
        self.check_event_fd(with_service);
    }

    /// It is readable, if something is to be told that does not have to be noticed first.
    pub fn check_event_fd(&mut self, with_service: bool) {
        let Some(event_fd) = self.event_fd.filter(|event_fd| event_fd.with_service == with_service) else {
            self.event_fd_is_stale();
            return;
        };
        if !self.changed && !self.hidden && self.has_something(with_service) {
            assert!(
                sockets::is_readable(event_fd.fd),
                "something is to be told, and the descriptor does not say so"
            );
        }
        self.changed = false;
    }

    /// A call with another service has been made: the descriptor is for that one now.
    fn event_fd_is_stale(&mut self) {
        if let Some(event_fd) = &mut self.event_fd {
            event_fd.with_service = !event_fd.with_service;
            self.changed = false;
        }
    }

    /// ipc_watch_fd.
    pub fn add_watched(&mut self) -> usize {
        let (fd, peer) = sockets::pipe();
        trace!("  watched {fd} is added to the list");
        assert_eq!(call(|| unsafe { ipc_watch_fd(&mut *self.list, fd) }), Ok(()));
        let mut connection = Connection::new(Kind::Extra, fd, peer);
        connection.is_watched = true;
        connection.info = unsafe { *self.list.cinfos.add(self.listed.len()) };
        assert_eq!(unsafe { (*connection.info).fd }, fd);
        self.listed.push(Some(self.connections.len()));
        self.connections.push(connection);
        self.connections.len() - 1
    }

    /// The program does what it has to with the watched descriptors that it was told of.
    pub fn react(&mut self) {
        for number in std::mem::take(&mut self.to_be_read) {
            let connection = &mut self.connections[number];
            if connection.sent.is_partial() {
                let bytes = sockets::read(connection.fd, 1 << 20).unwrap();
                connection.took(&bytes);
            } else if connection.ended && self.is_listed(number) {
                self.delete_descriptor(number);
            }
        }
    }

    /// ipc_del_fd, and the end of the descriptor.
    pub fn delete_descriptor(&mut self, number: usize) {
        let fd = self.connections[number].fd;
        self.remove_dead(fd);
        let place = self.place(number).unwrap();
        trace!("  {fd} is deleted by its number");
        assert_eq!(call(|| unsafe { ipc_del_fd(&mut *self.list, fd) }), Ok(()));
        self.listed.swap_remove(place);
        sockets::close(fd);
        let connection = &mut self.connections[number];
        (connection.info, connection.state) = (ptr::null_mut(), State::Over);
    }

    /// ipc_queue.
    pub fn queue(&mut self, number: usize, kind: u8, size: usize) {
        let connection = &mut self.connections[number];
        let bytes = frame(kind, size, connection.owed.len());
        let message = message_of(&bytes);
        let result = call(|| unsafe { ipc_queue(connection.info, &message) });
        trace!("  {size} bytes are queued for {}", connection.fd);
        match result {
            Ok(()) if connection.reads => connection.owed.extend(bytes),
            result => connection.assert_refusal(result, bytes.len(), connection.queued()),
        }
    }

    /// ipc_flush, and what ipc_pending tells before and after.
    pub fn flush(&mut self, number: usize) {
        let connection = &self.connections[number];
        connection.check_pending();
        let result = call(|| unsafe { ipc_flush(connection.info, 0) });
        trace!("  {} is flushed: {result:?}", connection.fd);
        let late = Err((IPC_ERROR_USOCK_SEND, libc::ETIMEDOUT));
        let gone = Err((IPC_ERROR_USOCK_SEND, libc::EPIPE));
        if connection.reads {
            assert_eq!(result, if connection.queued() == 0 { Ok(()) } else { late });
        } else {
            assert!(result == Ok(()) || result == gone, "{result:?}");
        }
        connection.check_pending();
    }

    /// What was queued for another connection, which the program has closed with close(2), is no more this one's
    /// than its number: ipc_queue does not ask each time, ipc_flush does.
    pub fn forget_other_queue(&self, number: usize) {
        let result = call(|| unsafe { ipc_flush(self.connections[number].info, 0) });
        assert!(matches!(result, Ok(()) | Err((IPC_ERROR_USOCK_SEND, libc::EBADF))), "{result:?}");
    }

    /// ipc_limits, of a connection or of the service.
    pub fn limit(&mut self, number: Option<usize>, longest: usize, queue: usize) {
        trace!("  limits of {number:?}: {longest}, {queue}");
        let or = |limit, without| if limit == 0 { without } else { limit };
        let set = |settings: &mut Settings| {
            (settings.longest, settings.queue) = (or(longest, MOST), or(queue, QUEUE));
        };
        let info: *const _ = match number {
            Some(number) if self.connections[number].next() == Next::TooLong => return,
            Some(number) => self.connections[number].info,
            None if self.srv.is_none() => return,
            None => self.srv(),
        };
        let longest = u32::try_from(longest).unwrap();
        assert_eq!(call(|| unsafe { ipc_limits(info, longest, queue) }), Ok(()));
        match number {
            None => set(&mut self.settings),
            Some(number) => {
                let connection = &mut self.connections[number];
                set(&mut connection.settings);
                connection.sent.limit(connection.settings.longest);
                // What is too long by now may be in the library already, which looks again with what comes next.
                connection.error_read |= connection.next() == Next::TooLong;
            }
        }
    }

    /// ipc_allow_fds, of a connection or of the service.
    pub fn allow_descriptors(&mut self, number: Option<usize>) {
        let info: *const _ = match number {
            Some(number) => {
                self.connections[number].settings.descriptors = true;
                self.connections[number].info
            }
            None if self.srv.is_none() => return,
            None => {
                self.settings.descriptors = true;
                self.srv()
            }
        };
        trace!("  descriptors are allowed for {number:?}");
        assert_eq!(call(|| unsafe { ipc_allow_fds(info) }), Ok(()));
    }

    /// A file to be sent.
    pub fn file(&mut self) -> &OwnedFd {
        self.file.get_or_insert_with(sockets::null)
    }

    /// The peer sends a frame, and descriptors with it.
    pub fn peer_sends_descriptors(&mut self, number: usize, size: usize, count: usize) {
        let file = self.file().as_raw_fd();
        let connection = &mut self.connections[number];
        let Some(peer) =
            connection.peer.as_ref().filter(|_| !connection.ended && connection.unsent.is_empty())
        else {
            return;
        };
        let bytes = frame(2, size, count);
        let sent = sockets::send_with(peer, &bytes, &vec![file; count]);
        trace!("  the peer of {} sends {sent} bytes and {count} descriptors", connection.fd);
        let begin = connection.sent.len();
        connection.sent.send(&bytes[..sent]);
        connection.unsent.extend(&bytes[sent..]);
        let is_certain =
            connection.settings.descriptors && connection.state != State::Waiting && sent == bytes.len();
        connection.passed.push_back((begin, is_certain.then_some(count.min(DESCRIPTORS))));
    }

    /// ipc_write_fd.
    pub fn write_with_descriptor(
        &mut self,
        info: *const ipc_connection_info,
        bytes: &[u8],
    ) -> Result<(), (ipc_errors, i32)> {
        let (message, file) = (message_of(bytes), self.file().as_raw_fd());
        call(|| unsafe { ipc_write_fd(info, &message, file) })
    }
}

impl Connection {
    /// What ipc_pending tells is what the kernel does not have.
    fn check_pending(&self) {
        let mut bytes = usize::MAX;
        assert_eq!(call(|| unsafe { ipc_pending(self.info, &mut bytes) }), Ok(()));
        if self.reads {
            assert_eq!(bytes, self.queued(), "ipc_pending");
        }
    }

    /// A message was not taken: there was no room, or nobody reads.
    pub fn assert_refusal(&self, result: Result<(), (ipc_errors, i32)>, size: usize, queued: usize) {
        match result {
            Ok(()) => assert!(!self.reads),
            Err((IPC_ERROR_USOCK_SEND, libc::EPIPE)) => assert!(!self.reads, "EPIPE, and the peer reads"),
            Err((IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, libc::EAGAIN)) => {
                assert!(queued + size > self.settings.queue, "no room behind {queued} bytes");
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// The message that begins at this place of the stream has been handed to the program, which takes the
    /// descriptors that came with it, or leaves them to the library.
    pub fn take_descriptors(&mut self, begin: usize, all: bool) {
        let info = ipc_connection_info { fd: self.fd, ..NO_INFO };
        let mut came = 0;
        while all || came == 0 {
            let mut fd = -7;
            match call(|| unsafe { ipc_take_fd(&info, &mut fd) }) {
                Ok(()) => {
                    sockets::assert_is_null(fd);
                    sockets::close(fd);
                    came += 1;
                }
                Err(error) => {
                    assert_eq!((error, fd), ((IPC_ERROR_USOCK_RECV, libc::ENOENT), -1));
                    break;
                }
            }
        }
        assert!(came <= DESCRIPTORS && (came == 0 || self.settings.descriptors), "{came} descriptors");
        while let Some((sent_at, expected)) = self.passed.front().copied().filter(|(at, _)| *at <= begin) {
            if let Some(expected) = expected.filter(|_| sent_at == begin) {
                assert_eq!(came, if all { expected } else { expected.min(1) }, "descriptors of a message");
            }
            self.passed.pop_front();
        }
    }
}

/// The message of a frame.
pub fn message_of(frame: &[u8]) -> ipc_message {
    ipc_message {
        r#type: frame[0].cast_signed() as c_char,
        length: u32::try_from(frame.len() - HEADER).unwrap(),
        payload: frame[HEADER..].as_ptr().cast_mut().cast(),
    }
}
