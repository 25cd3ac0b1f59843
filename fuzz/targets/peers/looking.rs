//! The functions of ipc_ext.h for waiting: calls with a timeout of 0, several events at once, other event
//! loops, and descriptors that the program reads itself.

use std::os::fd::RawFd;
use std::ptr;

use ipc::capi::types::ipc_errors::*;
use ipc::capi::types::*;
use ipc::capi::waiting::{ipc_del_fd, ipc_event_fd, ipc_wait_event_timeout, ipc_wait_events, ipc_watch_fd};

use super::connection::{Connection, Due, Kind, State};
use super::sockets;
use super::waiting::Place;
use super::world::{Listing, World, call};
use crate::targets::trace;

/// A timeout in milliseconds that never expires: an event is certain.
pub const AMPLE: i32 = 60_000;

/// The descriptor of ipc_event_fd, which is readable while an event can be reported.
#[derive(Clone, Copy)]
pub struct EventFd {
    fd: RawFd,
    with_service: bool,
}

impl Listing {
    /// The number of the descriptor for other event loops.
    pub fn event_fd(&self) -> Option<RawFd> {
        self.event_fd.map(|event_fd| event_fd.fd)
    }
}

impl World {
    /// How many bytes the kernel has of connections whose bytes it delivers in pieces: each piece ends with
    /// bytes to which descriptors are attached. A call with timeout 0 receives a few pieces, and may have no
    /// event yet.
    fn in_pieces(&self, due: &[usize]) -> usize {
        let due = due.iter().map(|number| &self.connections[*number]);
        due.filter(|one| one.is_usable() && !one.passed.is_empty()).map(|one| sockets::unread(one.fd)).sum()
    }

    /// A call with timeout 0, or a wait for a certain event.
    pub fn look(&mut self, with_service: bool, may_wait: bool) {
        let srv = if with_service { self.srv() } else { ptr::null_mut() };
        let due = self.before_call(with_service);
        let is_due = self.event_is_due(with_service, &due);
        let timeout = if is_due && may_wait { AMPLE } else { 0 };
        let in_pieces = self.in_pieces(&due);
        let may_be_nobody = srv.is_null() && self.is_anybody_alive() < Due::Certainly;
        let result = call(|| unsafe {
            ipc_wait_event_timeout(&mut *self.here.list, srv, &mut *self.here.event, timeout)
        });
        match result {
            Ok(()) if self.event_kind() == ipc_event_type::IPC_EVENT_TYPE_NOT_SET => {
                if is_due {
                    let goes_on = self.here.hidden || self.in_pieces(&due) < in_pieces;
                    assert!(timeout == 0 && goes_on, "an event is due, and is not reported");
                }
                self.assert_not_set();
            }
            Ok(()) => {
                self.check_what_was_told();
                self.check_turns(&due);
            }
            Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)) => {
                assert!(may_be_nobody, "somebody is there");
                self.assert_not_set();
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Several events at once.
    pub fn wait_for_many(&mut self, with_service: bool, timeout: i32, room: usize) {
        let srv = if with_service { self.srv() } else { ptr::null_mut() };
        let due = self.before_call(with_service);
        let is_due = self.event_is_due(with_service, &due);
        let timeout = if is_due { timeout } else { 0 };
        let in_pieces = self.in_pieces(&due);
        let may_be_nobody = srv.is_null() && self.is_anybody_alive() < Due::Certainly;
        let mut events = std::mem::take(&mut self.here.events);
        let mut count = room.clamp(1, events.len());
        let asked = count;
        let result = call(|| unsafe {
            ipc_wait_events(&mut *self.here.list, srv, events.as_mut_ptr(), &mut count, timeout)
        });
        trace!("  {count} of {asked} events");
        match result {
            Ok(()) => {
                assert!(count <= asked, "{count} events in an array of {asked}");
                if count == 0 && is_due {
                    let goes_on = self.here.hidden || self.in_pieces(&due) < in_pieces;
                    assert!(timeout == 0 && goes_on, "an event is due, and is not reported");
                }
            }
            Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)) => {
                assert!(may_be_nobody && count == 0)
            }
            Err(error) => panic!("{error:?}"),
        }
        for (index, event) in events[..count].iter().enumerate() {
            let is_end =
                unsafe { event.r#type.assume_init() } == ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION;
            assert!(!is_end || index == 0, "a DISCONNECTION that is not the first of its array");
            self.check_event(*event, Place { alone: false, last: index + 1 == count });
        }
        for event in &events[count..asked] {
            assert!(event.m.is_null(), "a message of the call before, in an event that is none");
        }
        self.here.events = events;
        self.adopt_order();
        self.check_list();
        if count > 0 {
            self.check_turns(&due);
        }
        self.react();
    }

    /// Several clients have connected and left: the list has the entries that it should have, in some order.
    fn adopt_order(&mut self) {
        let size = usize::try_from(self.here.list.size).unwrap();
        let mut expected = std::mem::take(&mut self.here.listed);
        for index in 0..size {
            let info = unsafe { *self.here.list.cinfos.add(index) };
            let number = |one: &Connection| !info.is_null() && one.info == info;
            let known = self.connections.iter().position(number);
            if known.is_none() && !info.is_null() {
                // A client that has the number of another client, whose end was reported first.
                let number = self.note_accepted(info);
                self.connections[number].state = State::Fresh;
                continue;
            }
            let place =
                expected.iter().position(|entry| *entry == known).expect("an entry that should be removed");
            self.here.listed.push(expected.swap_remove(place));
        }
        assert!(expected.is_empty(), "an entry is missing");
    }

    /// The descriptor for other event loops.
    pub fn ask_for_event_fd(&mut self, with_service: bool) {
        let srv = if with_service { self.srv() } else { ptr::null_mut() };
        let mut fd = -1;
        assert_eq!(call(|| unsafe { ipc_event_fd(&mut *self.here.list, srv, &mut fd) }), Ok(()));
        trace!("  the descriptor for other loops is {fd}");
        if let Some(before) = self.here.event_fd {
            assert_eq!(before.fd, fd, "another descriptor than before");
        }
        self.here.event_fd = Some(EventFd { fd, with_service });
        self.list_is_looked_at();
        self.remove_dead(fd);
        self.check_event_fd(with_service);
    }

    /// The descriptor is readable, if an event is due that the scan does not have to find first.
    pub fn check_event_fd(&mut self, with_service: bool) {
        let is_due = self.event_is_due(with_service, &self.who_is_due());
        let Some(event_fd) = &mut self.here.event_fd else { return };
        if event_fd.with_service != with_service {
            // From the next call on the descriptor is for the other list.
            event_fd.with_service = with_service;
        } else if !self.here.changed && !self.here.hidden && is_due {
            let readable = sockets::is_readable(event_fd.fd);
            let due = self.who_is_due();
            assert!(readable, "events of {due:?} are due, and the descriptor is not readable");
        }
    }

    /// ipc_watch_fd.
    pub fn add_watched(&mut self) -> usize {
        let (fd, peer) = sockets::pipe();
        trace!("  watched {fd} is added to the list");
        assert_eq!(call(|| unsafe { ipc_watch_fd(&mut *self.here.list, fd) }), Ok(()));
        let mut connection = Connection::new(Kind::Extra, fd, peer);
        connection.is_watched = true;
        connection.info = unsafe { *self.here.list.cinfos.add(self.here.listed.len()) };
        assert_eq!(unsafe { (*connection.info).fd }, fd);
        self.here.listed.push(Some(self.connections.len()));
        self.connections.push(connection);
        self.connections.len() - 1
    }

    /// The program reads the watched descriptors that were reported.
    pub fn react(&mut self) {
        for number in std::mem::take(&mut self.here.to_be_read) {
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
        assert_eq!(call(|| unsafe { ipc_del_fd(&mut *self.here.list, fd) }), Ok(()));
        self.here.listed.swap_remove(place);
        sockets::close(fd);
        let connection = &mut self.connections[number];
        (connection.info, connection.state) = (ptr::null_mut(), State::Over);
    }
}
