//! How connections, the service and the run end.

use std::os::fd::RawFd;
use std::ptr;
use std::time::{Duration, Instant};

use ipc::capi::entries::{ipc_connections_free, ipc_del};
use ipc::capi::server_and_client::{ipc_close, ipc_server_close};
use ipc::capi::types::ipc_errors::*;
use ipc::capi::usock::usock_close;

use super::connection::{Connection, Due, Kind, State};
use super::queueing::Settings;
use super::sockets;
use super::world::{File, World, call, free, free_message, rundir};
use crate::targets::stream::{Next, frame};
use crate::targets::trace;

/// The rest of a closed connection is kept no longer.
const RESTS_END: Duration = Duration::from_secs(10);

impl World {
    /// Closes the service: clients in its backlog are closed.
    pub fn close_service(&mut self) {
        let Some(mut srv) = self.srv.take() else { return };
        self.settings = Settings::default();
        // From now on only the lists own it.
        (self.here.changed, self.there.changed) = (true, true);
        trace!("  the service is closed");
        assert_eq!(call(|| unsafe { ipc_server_close(&mut *srv) }), Ok(()));
        assert!(srv.spath.is_null());
        std::fs::remove_dir(rundir()).expect("nothing is left in the run directory");
        for number in self.backlog.drain(..) {
            self.connections[number].state = State::Over;
            self.connections[number].lossy = true;
        }
    }

    /// Removes entries from the list whose descriptor the program has closed and whose number now belongs to
    /// another connection: the library would take the entry for this connection.
    pub fn remove_dead(&mut self, fd: RawFd) {
        let dead = |number: &usize| {
            self.connections[*number].state == State::Closed && self.connections[*number].fd == fd
        };
        let dead: Vec<_> = self.here.listed.iter().flatten().copied().filter(dead).collect();
        dead.into_iter().for_each(|number| self.delete(number));
    }

    /// The same for entries that the library has not seen in the list before they were closed.
    pub fn remove_dead_unnoticed(&mut self, fd: RawFd) {
        let is_unnoticed = |number: &usize| {
            let connection = &self.connections[*number];
            connection.state == State::Closed && connection.fd == fd && connection.is_unnoticed
        };
        if self.here.listed.iter().flatten().any(is_unnoticed) {
            self.remove_dead(fd);
        }
    }

    /// ipc_del.
    pub fn delete(&mut self, number: usize) {
        let Some(place) = self.place(number) else { return };
        if self.connections[number].state != State::Closed {
            self.remove_dead(self.connections[number].fd);
        }
        let place = self.place(number).unwrap_or(place);
        trace!("  {} is deleted from the list", self.connections[number].fd);
        let info = self.connections[number].info;
        assert_eq!(call(|| unsafe { ipc_del(&mut *self.here.list, info) }), Ok(()));
        self.here.listed.swap_remove(place);
        assert_eq!(self.here.list.cinfos.is_null(), self.here.listed.is_empty());
        self.is_unlisted(number);
    }

    /// The connection is no longer in the list: no event of it is reported. An error that was reported is
    /// reported again, if it still exists when the connection is added again.
    pub fn is_unlisted(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        (connection.is_dead, connection.is_unnoticed) = (false, false);
        match connection.state {
            State::Closed => self.is_over(number),
            State::Fresh => {
                sockets::close(connection.fd);
                self.is_over(number);
            }
            State::ErrorReported => {
                connection.state = State::Open;
                if connection.next() != Next::TooLong {
                    connection.reset = Due::Never;
                }
            }
            _ => {}
        }
        let connection = &mut self.connections[number];
        connection.own_end = connection.own_end.min(Due::Perhaps);
    }

    /// The program frees the structure.
    pub fn is_over(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        free(connection.info);
        (connection.info, connection.state) = (ptr::null_mut(), State::Over);
    }

    /// The program closes the connection, and the library notices at once or later.
    pub fn close_in_some_way(&mut self, number: usize, way: usize, at_once: bool) {
        // The library waits up to a second to send the queue when it closes the connection itself.
        let is_queued = self.connections[number].queued() > 0;
        let way = if is_queued && matches!(way, 0 | 1 | 5) { 2 } else { way };
        if way < 2 {
            self.close(number, way);
        } else if self.may_change(at_once) {
            self.close(number, way);
            self.have_it_noticed(at_once);
        }
    }

    /// The program closes the connection itself: with ipc_close, usock_close, or close(2); while another
    /// process has it open; by the structure, by a copy of it, or by the number alone.
    fn close(&mut self, number: usize, way: usize) {
        let connection = &mut self.connections[number];
        let (fd, info) = (connection.fd, connection.info);
        let is_queued = connection.queued() > 0;
        trace!("  {fd} is closed, way {way}");
        connection.lossy |= is_queued;
        self.closed.push(fd);
        match way {
            0 => assert_eq!(call(|| unsafe { ipc_close(info) }), Ok(())),
            1 => assert_eq!(call(|| usock_close(fd)), Ok(())),
            2 => sockets::close(fd),
            3 => {
                connection.copy = Some(sockets::high_copy(fd));
                sockets::close(fd);
            }
            4 => {
                sockets::close(fd);
                unsafe { (*info).fd = -1 };
                connection.fd = -1;
            }
            _ => {
                self.kept.push(fd);
                unsafe { (*info).fd = -1 };
                connection.fd = -1;
            }
        }
        if connection.state == State::ErrorReported {
            connection.own_end = connection.own_end.max(Due::Perhaps);
        }
        if way == 5 {
            // The peer does not see an end of file.
            connection.copy = Some(sockets::high_copy(fd));
        }
        connection.state = State::Closed;
        if way == 5 {
            self.remove_dead(fd);
            // In the other list a dead entry with the number may be taken for the file that still has it.
            for other in &mut self.connections {
                if other.is_elsewhere && other.state == State::Closed && other.fd == fd {
                    other.number_taken = true;
                    other.own_end = other.own_end.max(Due::Perhaps);
                }
            }
        }
        if !self.is_listed(number) && !self.connections[number].is_elsewhere {
            self.is_over(number);
        }
    }

    /// The program closes a client with close(2) and opens something else, which gets the number.
    pub fn take_number(&mut self, number: usize, lives_on: bool) {
        self.remove_dead(self.connections[number].fd);
        let connection = &mut self.connections[number];
        if lives_on {
            connection.copy = Some(sockets::high_copy(connection.fd));
        }
        trace!("  {} becomes the number of another file", connection.fd);
        connection.lossy |= connection.queued() > 0;
        self.closed.push(connection.fd);
        sockets::close(connection.fd);
        let (end, other_end) = sockets::pair();
        sockets::duplicate_to(end, connection.fd);
        let holds = sockets::send(&other_end, &frame(2, 20, 99).repeat(3));
        (connection.state, connection.number_taken) = (State::Closed, true);
        self.files.push(File { fd: connection.fd, holds, set: None, _other_end: other_end });
    }

    /// The program connects anew with the same structure, and perhaps at the same number.
    pub fn reconnect(&mut self, number: usize, same_number: bool, by_library: bool, lives_on: bool) {
        let is_queued = self.connections[number].queued() > 0;
        let connection = &mut self.connections[number];
        let (old, info) = (connection.fd, connection.info);
        self.closed.push(old);
        let copy = lives_on.then(|| (sockets::high_copy(old), connection.peer.take()));
        if by_library && !is_queued {
            assert_eq!(call(|| usock_close(old)), Ok(()));
        } else {
            sockets::close(old);
        }
        let (mut fd, peer) = sockets::pair();
        if same_number {
            sockets::duplicate_to(fd, old);
            fd = old;
        }
        trace!("  {old} is connected anew, as {fd}");
        unsafe { (*info).fd = fd };
        let own_end = connection.own_end;
        let (is_dead, is_unnoticed) = (fd == old, fd != old);
        *connection =
            Connection { info, own_end, is_dead, is_unnoticed, ..Connection::new(Kind::Own, fd, peer) };
        self.others.extend(copy);
        self.remove_dead(fd);
        self.forget_other_queue(number);
    }

    /// The program closes all its descriptors but its service, and those that it has just put into a list by
    /// hand: the library could not know what those were.
    pub fn close_all(&mut self, at_once: bool) {
        if !self.may_change(at_once) {
            return;
        }
        for number in 0..self.connections.len() {
            let connection = &self.connections[number];
            if matches!(connection.state, State::Open | State::ErrorReported) && !connection.is_unnoticed {
                self.close(number, 2);
            }
        }
        self.files.drain(..).for_each(|file| sockets::close(file.fd));
        self.sets.drain(..).for_each(sockets::close);
        self.kept.drain(..).for_each(sockets::close);
        self.close_unknown(true);
        self.in_each_list(|world| world.have_it_noticed(at_once));
    }

    /// ipc_connections_free.
    pub fn free_list(&mut self) {
        trace!("  the list is freed");
        unsafe { ipc_connections_free(&mut *self.here.list) };
        assert!(self.here.list.cinfos.is_null());
        self.here.event_fd = None;
        self.here.hidden = false;
        for number in std::mem::take(&mut self.here.listed).into_iter().flatten() {
            self.is_unlisted(number);
        }
    }

    /// The end of a run, when no connection is left: everything is as it was before.
    pub fn end(mut self) {
        self.in_each_list(|world| {
            world.check_list();
            world.free_list();
        });
        assert!(self.connections.iter().all(|connection| connection.state == State::Over));
        self.close_service();
        self.in_each_list(|world| {
            world.here.replaced.drain(..).for_each(free);
            free_message(world.here.event.m.cast());
            world.here.events.drain(..).for_each(|event| free_message(event.m.cast()));
        });
        free(self.message.payload);
        for set in self.sets.drain(..) {
            let watched = self.files.iter().filter(|file| file.set == Some(set)).count();
            assert_eq!(sockets::reports(set), watched, "the library has taken from a set of the program");
            sockets::close(set);
        }
        for file in &self.files {
            assert!(sockets::is_open(file.fd), "the library has closed a file of the program");
            assert_eq!(sockets::unread(file.fd), file.holds, "the library has read a file of the program");
            sockets::close(file.fd);
        }
        self.kept.drain(..).for_each(sockets::close);
        for fd in self.closed.drain(..) {
            // The library keeps its data of a connection that was closed with close(2) until the number is
            // used again, or closed again.
            assert_eq!(call(|| usock_close(fd)), Err((IPC_ERROR_USOCK_CLOSE, libc::EBADF)));
        }
        super::ending::assert_all_destroyed();
        let before = std::mem::take(&mut self.before);
        drop(self);
        // The queues of closed connections are sent in the background, or dropped there.
        let begin = Instant::now();
        while sockets::open_numbers() != before && begin.elapsed() < RESTS_END {
            let _ = call(|| usock_close(-1));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(sockets::open_numbers(), before, "descriptors");
    }
}
