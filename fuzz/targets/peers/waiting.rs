//! ipc_wait_event, when an event is certain, and its events.

use std::ptr;

use ipc::capi::events::ipc_wait_event;
use ipc::capi::messages::ipc_message_empty;
use ipc::capi::types::ipc_errors::*;
use ipc::capi::types::*;

use super::connection::{Connection, Due, Kind, State};
use super::talking::content;
use super::world::{World, call, free};
use super::{TURNS, sockets};
use crate::targets::stream::Next;
use crate::targets::trace;

/// The position of an event among those of one call.
#[derive(Clone, Copy)]
pub struct Place {
    /// The only event: the descriptors are as it says.
    pub alone: bool,
    /// The last event of the call.
    pub last: bool,
}

impl World {
    /// The connections in the list of which an event is certain.
    pub fn who_is_due(&self) -> Vec<usize> {
        let listed = self.here.listed.iter().flatten().copied();
        listed.filter(|number| self.connections[*number].event_is_due()).collect()
    }

    /// Whether an event is certain: of one of these connections, or of a new client.
    pub fn event_is_due(&self, with_service: bool, due: &[usize]) -> bool {
        !due.is_empty() || with_service && self.srv.is_some() && !self.backlog.is_empty()
    }

    /// A call is made that uses the list; returns the connections of which an event is due.
    pub fn before_call(&mut self, with_service: bool) -> Vec<usize> {
        self.check_event_fd(with_service);
        self.list_is_looked_at();
        self.here.reported.clear();
        self.who_is_due()
    }

    /// The library checks the list: at least whether it has another array.
    pub fn list_is_looked_at(&mut self) {
        self.here.changed = false;
        self.here.hidden &= self.here.replaced.is_empty();
        self.here.replaced.drain(..).for_each(free);
        for number in self.here.listed.iter().flatten() {
            let connection = &mut self.connections[*number];
            connection.is_looped = true;
            // A closed entry whose number a member has: the library does not know whose the number was.
            connection.is_unnoticed &= self.here.hidden || connection.state == State::Closed;
        }
    }

    /// The connections of which an event was due before the call take turns: none waits for long while others
    /// are reported.
    pub fn check_turns(&mut self, due: &[usize]) {
        for (number, connection) in self.connections.iter_mut().enumerate() {
            let is_left = due.contains(&number) && !self.here.reported.contains(&number) && !self.here.hidden;
            connection.passed_over = if is_left { connection.passed_over + 1 } else { 0 };
            assert!(connection.passed_over < TURNS, "{} is not reported, all the others are", connection.fd);
        }
    }

    /// One call, if it cannot wait for ever; returns whether it was made.
    pub fn wait(&mut self, with_service: bool) -> bool {
        let due = self.who_is_due();
        if !self.event_is_due(with_service, &due) {
            return false;
        }
        let srv = if with_service { self.srv() } else { ptr::null_mut() };
        self.before_call(with_service);
        let fds: Vec<_> = due.iter().map(|number| self.connections[*number].fd).collect();
        trace!("  waits; something is due of {fds:?}");
        let result = call(|| unsafe { ipc_wait_event(&mut *self.here.list, srv, &mut *self.here.event) });
        assert_eq!(result, Ok(()));
        self.check_what_was_told();
        self.check_turns(&due);
        true
    }

    pub fn check_what_was_told(&mut self) {
        self.find_fresh();
        self.check_event(*self.here.event, Place { alone: true, last: true });
        self.take_event();
        self.check_list();
        self.react();
    }

    pub fn event_kind(&self) -> ipc_event_type {
        unsafe { self.here.event.r#type.assume_init() }
    }

    pub fn assert_not_set(&self) {
        assert_eq!(self.event_kind(), ipc_event_type::IPC_EVENT_TYPE_NOT_SET);
        assert!(self.here.event.origin.is_null() && self.here.event.m.is_null());
    }

    /// Whether an event of any connection in the list is ever possible.
    pub fn is_anybody_alive(&self) -> Due {
        let alive = self.here.listed.iter().flatten().map(|number| self.connections[*number].is_alive());
        alive.max().unwrap_or(Due::Never)
    }

    /// The list has nothing to wait for.
    pub fn wait_for_nobody(&mut self) {
        if self.is_anybody_alive() > Due::Never {
            return;
        }
        trace!("  there is nothing to wait for");
        self.before_call(false);
        let result =
            call(|| unsafe { ipc_wait_event(&mut *self.here.list, ptr::null_mut(), &mut *self.here.event) });
        assert_eq!(result, Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)));
        self.assert_not_set();
    }

    /// Waits until all certain events are reported.
    pub fn wait_for_all(&mut self, with_service: bool) {
        // Each message, and a few events for each connection; an extra descriptor reports its bytes in
        // pieces.
        let mut calls = 0;
        while self.wait(with_service) {
            calls += 1;
            assert!(calls < 100_000, "events without end");
        }
    }

    /// Makes the library work until it reports a byte that is written to an extra descriptor only now: all
    /// connections that were ready before have their turns.
    pub fn ring(&mut self) {
        let bell = self.bell();
        self.connections[bell].send(b"!");
        for _ in 0..10_000 {
            if !self.connections[bell].sent.is_partial() {
                return;
            }
            assert!(self.wait(false));
        }
        panic!("a byte of an extra descriptor is not reported");
    }

    /// Checks that the event was due.
    pub fn check_event(&mut self, event: ipc_event, at: Place) {
        let ipc_event { r#type, origin, m } = event;
        let (kind, message) = (unsafe { r#type.assume_init() }, m.cast::<ipc_message>());
        let content = (!message.is_null()).then(|| content(unsafe { &*message }));
        let known = self.connections.iter().position(|connection| connection.info == origin);
        assert!(!origin.is_null());
        self.here.reported.extend(known);
        trace!(
            "  {kind:?} of {}: {:?}",
            unsafe { (*origin).fd },
            content.as_ref().map(|(_, bytes)| bytes.len())
        );
        match (kind, known, content) {
            (ipc_event_type::IPC_EVENT_TYPE_CONNECTION, None, None) => self.told_connection(origin),
            (ipc_event_type::IPC_EVENT_TYPE_CONNECTION, Some(number), None) => {
                assert_eq!(self.connections[number].state, State::Fresh, "a CONNECTION");
                self.connections[number].state = State::Open;
            }
            (_, Some(number), content) => {
                assert!(self.is_served(number), "an event of a connection that is not in the list");
                assert_eq!(unsafe { (*origin).fd }, self.connections[number].fd);
                match (kind, content) {
                    (ipc_event_type::IPC_EVENT_TYPE_MESSAGE, Some((kind, payload))) => {
                        self.connections[number].told_message(kind, &payload, at.last);
                    }
                    (ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET, Some((kind, bytes))) => {
                        assert_eq!(kind, msg_types::MSG_TYPE_DATA as u8);
                        self.connections[number].told_extra(&bytes);
                    }
                    (ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET, None) => {
                        let connection = &self.connections[number];
                        assert!(connection.is_watched && connection.event_is_due(), "nothing is to be read");
                        assert!(!self.here.to_be_read.contains(&number), "reported twice in one call");
                        self.here.to_be_read.push(number);
                    }
                    (ipc_event_type::IPC_EVENT_TYPE_ERROR, None) => {
                        self.connections[number].assert_error_is_due();
                        if self.connections[number].state == State::Open {
                            self.connections[number].state = State::ErrorReported;
                        }
                    }
                    (ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION, None) => {
                        self.check_ended(number, origin);
                        self.told_end(number, at.alone);
                    }
                    (kind, _) => panic!("{kind:?} of {:?}", self.connections[number].kind),
                }
            }
            (kind, None, _) => panic!("{kind:?} without a connection"),
        }
    }

    /// The program frees the message, or leaves it for the next call to free.
    fn take_event(&mut self) {
        let message = self.here.event.m.cast::<ipc_message>();
        if !message.is_null() && unsafe { (*message).length } % 2 == 1 {
            assert_eq!(call(|| unsafe { ipc_message_empty(message) }), Ok(()));
            free(message);
            self.here.event.m = ptr::null_mut();
        }
    }

    fn told_connection(&mut self, origin: *mut ipc_connection_info) {
        let number = self.note_accepted(origin);
        self.connections[number].state = State::Open;
    }

    /// The first client in the backlog now has this structure.
    pub fn note_accepted(&mut self, info: *mut ipc_connection_info) -> usize {
        let number = self.backlog.pop_front().expect("a CONNECTION, and there is no client");
        let connection = &mut self.connections[number];
        (connection.info, connection.fd) = (info, unsafe { (*info).fd });
        connection.settings = self.settings;
        connection.is_looped = true;
        connection.sent.limit(self.settings.max_payload);
        let info = unsafe { *info };
        assert_eq!((info.index, info.version, info.r#type), (3, 5, 0));
        assert!(info.spath.is_null() && sockets::is_open(info.fd));
        self.here.listed.push(Some(number));
        number
    }

    /// A client that has the number of another client, whose end is reported first, is in the list already.
    fn find_fresh(&mut self) {
        let is_end =
            unsafe { self.here.event.r#type.assume_init() } == ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION;
        if !is_end || self.here.list.size != i32::try_from(self.here.listed.len()).unwrap() {
            return;
        }
        let entry = |index| unsafe { *self.here.list.cinfos.add(index) };
        let is_known = |info: &*mut ipc_connection_info| {
            info.is_null() || self.connections.iter().any(|one| one.info == *info)
        };
        let new = (0..self.here.listed.len()).map(entry).find(|info| !is_known(info));
        let number = self.note_accepted(new.expect("a DISCONNECTION, and the list has not become shorter"));
        self.connections[number].state = State::Fresh;
    }

    fn told_end(&mut self, number: usize, alone: bool) {
        let connection = &mut self.connections[number];
        connection.assert_end_is_due();
        if connection.state != State::Closed {
            assert!(
                !alone || !sockets::is_open(connection.fd),
                "the descriptor is open after its DISCONNECTION"
            );
            connection.lossy |= connection.state == State::ErrorReported;
        }
        let place = self.place(number).unwrap();
        self.here.listed.swap_remove(place);
        self.is_over(number);
    }
}

impl Connection {
    fn told_message(&mut self, kind: u8, payload: &[u8], last: bool) {
        assert_eq!((self.state, self.kind == Kind::Extra), (State::Open, false), "a MESSAGE");
        match self.next() {
            Next::Frame(sent_kind, sent) => {
                assert_eq!(sent_kind, kind);
                assert!(sent == payload, "another message than was sent, of {} bytes", payload.len());
            }
            other => panic!("a MESSAGE instead of {other:?}"),
        }
        let begin = self.sent.delivered();
        self.sent.deliver();
        if last {
            self.take_descriptors(begin, payload.len() % 2 == 1);
        } else {
            // The descriptors can be taken until the connection's next message.
            assert!(
                self.descriptors_at(begin).unwrap_or(0) == 0,
                "descriptors, and it is not the last event"
            );
        }
    }

    fn told_extra(&mut self, bytes: &[u8]) {
        assert_eq!((self.state, self.kind), (State::Open, Kind::Extra), "EXTRA_SOCKET");
        assert!(!self.is_watched, "the library has read what it was to watch");
        assert!(bytes.len() <= 64 << 10);
        if bytes.is_empty() {
            assert!(
                self.ended && !self.end_reported && !self.sent.is_partial(),
                "the end of an extra descriptor"
            );
            self.end_reported = true;
        }
        self.took(bytes);
    }

    /// The program received these bytes of an extra descriptor.
    pub fn took(&mut self, bytes: &[u8]) {
        let delivered = self.sent.delivered();
        let sent = self.sent.bytes().get(delivered..delivered + bytes.len());
        assert!(sent == Some(bytes), "other bytes than were written to an extra descriptor");
        self.sent.skip(bytes.len());
    }

    /// It is no longer certain whether an event is reported if the program closes the connection itself.
    pub fn forget_own_end(&mut self) {
        self.own_end = self.own_end.min(Due::Perhaps);
    }
}
