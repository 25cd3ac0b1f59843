//! Promise 13: the list belongs to the program, which may change it by hand: set entries to NULL, close
//! descriptors, replace the array, and copy structures.

use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;

use crate::support::*;

/// A connection that the program has made itself: its structure, and the peer.
pub struct Own {
    pub info: Box<ipc_connection_info>,
    pub peer: UnixStream,
}

impl Own {
    pub fn new() -> Self {
        let (peer, end) = pair();
        Self { info: Box::new(ipc_connection_info { fd: end.into_raw_fd(), ..EMPTY_INFO }), peer }
    }

    pub fn pointer(&mut self) -> *mut ipc_connection_info {
        &mut *self.info
    }

    pub fn fd(&self) -> i32 {
        self.info.fd
    }

    pub fn send(&mut self, text: &str) {
        self.peer.write_all(&frame(1, text.as_bytes())).unwrap();
    }

    /// The peer sends a message, which is the next event, with the connection's own structure as origin.
    pub fn assert_reported(&mut self, program: &mut Program) {
        self.send("reported");
        assert_eq!(program.next(), Reported::Message(self.info.fd, 1, b"reported".to_vec()));
        assert_eq!(program.event.origin, self.pointer());
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.info.fd >= 0 {
            unsafe { ipc_close(&mut *self.info) };
        }
    }
}

/// A program whose list has so many connections of the program.
pub fn with_own(count: usize) -> (Box<Program>, Vec<Own>) {
    let mut program = Program::client();
    let mut own: Vec<_> = (0..count).map(|_| Own::new()).collect();
    for one in &mut own {
        assert_eq!(unsafe { ipc_add(&mut program.list, one.pointer()) }, IPC_ERROR_NONE);
    }
    for one in &mut own {
        one.assert_reported(&mut program);
    }
    (program, own)
}

fn set_entry(program: &mut Program, index: usize, pointer: *mut ipc_connection_info) {
    assert!(index < usize::try_from(program.list.size).unwrap());
    unsafe { program.list.cinfos.add(index).write(pointer) };
}

#[test]
fn promise_13_null_entries_are_ignored() {
    own_process!(30);
    for place in 0..3 {
        let (mut program, mut own) = with_own(3);
        set_entry(&mut program, place, std::ptr::null_mut());
        let mut removed = own.remove(place);
        removed.send("unheard");
        for _ in 0..10 {
            own.iter_mut().for_each(|one| one.assert_reported(&mut program));
        }
        // Unread bytes of a removed entry use no CPU time.
        let (reported, share) = share_computed(&own[0].peer, &frame(1, b"later"), || program.next());
        assert_eq!(reported, Reported::Message(own[0].fd(), 1, b"later".to_vec()));
        assert!(share < 0.2, "{share} of the time was CPU time");
        // The entry is set again.
        set_entry(&mut program, place, removed.pointer());
        assert_eq!(program.next(), Reported::Message(removed.fd(), 1, b"unheard".to_vec()));
    }
}

#[test]
fn promise_13_entries_with_closed_descriptors_are_ignored() {
    own_process!(30);
    for by_ipc_close in [true, false] {
        let (mut program, mut own) = with_own(4);
        let mut kept = own.split_off(2);
        for removed in &mut own {
            if by_ipc_close {
                assert_eq!(unsafe { ipc_close(removed.pointer()) }, IPC_ERROR_NONE);
            } else {
                close(removed.fd());
            }
        }
        for _ in 0..10 {
            kept.iter_mut().for_each(|one| one.assert_reported(&mut program));
            force_list_scan(&mut program.list);
        }
        for removed in &mut own {
            removed.info.fd = -1;
        }
        kept.iter_mut().for_each(|one| one.assert_reported(&mut program));
    }
}

#[test]
fn promise_13_entries_closed_before_first_wait_are_ignored() {
    own_process!(30);
    for by_ipc_close in [true, false] {
        let mut program = Program::client();
        let (mut removed, mut kept) = (Own::new(), Own::new());
        for one in [&mut removed, &mut kept] {
            assert_eq!(unsafe { ipc_add(&mut program.list, one.pointer()) }, IPC_ERROR_NONE);
        }
        // The number is free, and the library's own descriptors may get it.
        if by_ipc_close {
            assert_eq!(unsafe { ipc_close(removed.pointer()) }, IPC_ERROR_NONE);
        } else {
            close(removed.fd());
        }
        for _ in 0..10 {
            kept.assert_reported(&mut program);
            force_list_scan(&mut program.list);
        }
        removed.info.fd = -1;
    }
}

#[test]
fn promise_13_descriptor_set_to_minus_one_and_restored() {
    own_process!(30);
    let (mut program, mut own) = with_own(2);
    let fd = std::mem::replace(&mut own[0].info.fd, -1);
    own[0].send("unheard");
    for _ in 0..10 {
        force_list_scan(&mut program.list);
        own[1].assert_reported(&mut program);
    }
    own[0].info.fd = fd;
    assert_eq!(program.next(), Reported::Message(fd, 1, b"unheard".to_vec()));
}

#[test]
fn promise_13_replaced_array_is_noticed() {
    own_process!(30);
    let (mut program, mut own) = with_own(3);
    // An array of the same size with other entries; then a larger one; then a smaller one, in another order.
    for take in [&[3, 1, 4][..], &[0, 1, 2, 3, 4], &[4, 2]] {
        while own.len() < 5 {
            own.push(Own::new());
        }
        let pointers: Vec<_> = take.iter().map(|index| own[*index].pointer()).collect();
        replace_array(&mut program.list, &pointers);
        for (index, one) in own.iter_mut().enumerate() {
            if take.contains(&index) {
                one.assert_reported(&mut program);
            }
        }
    }
    own[0].send("unheard");
    own[4].assert_reported(&mut program);
}

#[test]
fn promise_13_changed_size_is_noticed() {
    own_process!(30);
    let (mut program, mut own) = with_own(4);
    program.list.size = 2;
    own[2].send("beyond the end");
    own[3].send("beyond the end");
    own[0].assert_reported(&mut program);
    own[1].assert_reported(&mut program);
    program.list.size = 4;
    let mut reported = [program.next(), program.next()];
    reported.sort_by_key(|reported| if let Reported::Message(fd, ..) = reported { *fd } else { -1 });
    let expected = |one: &Own| Reported::Message(one.fd(), 1, b"beyond the end".to_vec());
    assert_eq!(reported, [expected(&own[2]), expected(&own[3])]);
    program.list.size = 0;
    assert_eq!(program.try_next(), Err(IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM));
}

#[test]
fn promise_13_replaced_entry_is_noticed() {
    own_process!(30);
    let (mut program, mut own) = with_own(3);
    let mut new = Own::new();
    new.send("already there");
    own[1].send("unheard");
    set_entry(&mut program, 1, new.pointer());
    assert_eq!(program.next(), Reported::Message(new.fd(), 1, b"already there".to_vec()));
    assert_eq!(program.event.origin, new.pointer());
    // Two entries change places.
    let (first, last) = (own[0].pointer(), own[2].pointer());
    set_entry(&mut program, 0, last);
    set_entry(&mut program, 2, first);
    for _ in 0..3 {
        own[0].assert_reported(&mut program);
        own[2].assert_reported(&mut program);
        new.assert_reported(&mut program);
    }
    let fd = own[0].fd();
    own[0].peer.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(program.next(), Reported::Disconnection(fd));
    assert_eq!(program.event.origin, first);
    own[0].info.fd = -1;
    assert_eq!(entries(&program.list), [last, new.pointer()]);
}

#[test]
fn promise_13_copy_by_value_works_like_the_structure() {
    own_process!(30);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    peer.write_all(&frame(1, b"ahead").repeat(3)).unwrap();
    assert_eq!(server.next(), Reported::Message(fd, 1, b"ahead".to_vec()));
    let copy = unsafe { *server.event.origin };
    let mut message = EMPTY_MESSAGE;
    assert_eq!(unsafe { ipc_read(&copy, &mut message) }, IPC_ERROR_NONE);
    assert_eq!(unsafe { ipc_write(&copy, &message) }, IPC_ERROR_NONE);
    assert_eq!(read_frame(&mut peer), (1, b"ahead".to_vec()));
    assert_eq!(take_payload(message), (1, b"ahead".to_vec()));
    assert_eq!(unsafe { ipc_message_empty(&mut message) }, IPC_ERROR_NONE);
    assert_eq!(server.next(), Reported::Message(fd, 1, b"ahead".to_vec()));
    let mut copy = copy;
    assert_eq!(unsafe { ipc_close(&mut copy) }, IPC_ERROR_NONE);
    assert_eq!(server.next(), Reported::Disconnection(fd));
}
