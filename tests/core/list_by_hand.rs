//! Promise 13: the list belongs to the program, which changes it by hand, sets entries to NULL, closes
//! descriptors, and copies structures.

use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;

use crate::support::*;

/// A connection of the program's own: its structure, and the other end.
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

    pub fn say(&mut self, text: &str) {
        self.peer.write_all(&frame(1, text.as_bytes())).unwrap();
    }

    /// The peer sends a message, which is the next event, with the connection's own structure as origin.
    pub fn assert_heard(&mut self, program: &mut Program) {
        self.say("heard");
        assert_eq!(program.next(), Reported::Message(self.info.fd, 1, b"heard".to_vec()));
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

/// A program whose list has some connections of its own.
pub fn with_own(count: usize) -> (Box<Program>, Vec<Own>) {
    let mut program = Program::client();
    let mut own: Vec<_> = (0..count).map(|_| Own::new()).collect();
    for one in &mut own {
        assert_eq!(unsafe { ipc_add(&mut program.list, one.pointer()) }, IPC_ERROR_NONE);
    }
    for one in &mut own {
        one.assert_heard(&mut program);
    }
    (program, own)
}

fn set_entry(program: &mut Program, index: usize, pointer: *mut ipc_connection_info) {
    assert!(index < usize::try_from(program.list.size).unwrap());
    unsafe { program.list.cinfos.add(index).write(pointer) };
}

#[test]
fn promise_13_entries_that_are_set_to_null() {
    own_process!(30);
    for place in 0..3 {
        let (mut program, mut own) = with_own(3);
        set_entry(&mut program, place, std::ptr::null_mut());
        let mut gone = own.remove(place);
        gone.say("to nobody");
        for _ in 0..10 {
            own.iter_mut().for_each(|one| one.assert_heard(&mut program));
        }
        // Nobody computes for the bytes of the one that is left out.
        let (reported, share) = share_computed(&own[0].peer, &frame(1, b"later"), || program.next());
        assert_eq!(reported, Reported::Message(own[0].fd(), 1, b"later".to_vec()));
        assert!(share < 0.2, "it has computed for {share} of the time");
        // The place is used again.
        set_entry(&mut program, place, gone.pointer());
        assert_eq!(program.next(), Reported::Message(gone.fd(), 1, b"to nobody".to_vec()));
    }
}

#[test]
fn promise_13_entries_whose_descriptor_is_closed() {
    own_process!(30);
    for by_ipc_close in [true, false] {
        let (mut program, mut own) = with_own(4);
        let mut kept = own.split_off(2);
        for gone in &mut own {
            if by_ipc_close {
                assert_eq!(unsafe { ipc_close(gone.pointer()) }, IPC_ERROR_NONE);
            } else {
                close(gone.fd());
            }
        }
        for _ in 0..10 {
            kept.iter_mut().for_each(|one| one.assert_heard(&mut program));
            have_the_list_looked_through(&mut program.list);
        }
        for gone in &mut own {
            gone.info.fd = -1;
        }
        kept.iter_mut().for_each(|one| one.assert_heard(&mut program));
    }
}

#[test]
fn promise_13_entries_closed_before_the_first_wait() {
    own_process!(30);
    for by_ipc_close in [true, false] {
        let mut program = Program::client();
        let (mut gone, mut kept) = (Own::new(), Own::new());
        for one in [&mut gone, &mut kept] {
            assert_eq!(unsafe { ipc_add(&mut program.list, one.pointer()) }, IPC_ERROR_NONE);
        }
        // The number is free, also for what the library needs for itself.
        if by_ipc_close {
            assert_eq!(unsafe { ipc_close(gone.pointer()) }, IPC_ERROR_NONE);
        } else {
            close(gone.fd());
        }
        for _ in 0..10 {
            kept.assert_heard(&mut program);
            have_the_list_looked_through(&mut program.list);
        }
        gone.info.fd = -1;
    }
}

#[test]
fn promise_13_descriptor_set_to_minus_one_and_restored() {
    own_process!(30);
    let (mut program, mut own) = with_own(2);
    let fd = std::mem::replace(&mut own[0].info.fd, -1);
    own[0].say("to nobody");
    for _ in 0..10 {
        have_the_list_looked_through(&mut program.list);
        own[1].assert_heard(&mut program);
    }
    own[0].info.fd = fd;
    assert_eq!(program.next(), Reported::Message(fd, 1, b"to nobody".to_vec()));
}

#[test]
fn promise_13_another_array() {
    own_process!(30);
    let (mut program, mut own) = with_own(3);
    // As many, but others; then more; then fewer, in another order; then none.
    for take in [&[3, 1, 4][..], &[0, 1, 2, 3, 4], &[4, 2]] {
        while own.len() < 5 {
            own.push(Own::new());
        }
        let pointers: Vec<_> = take.iter().map(|index| own[*index].pointer()).collect();
        replace_array(&mut program.list, &pointers);
        for (index, one) in own.iter_mut().enumerate() {
            if take.contains(&index) {
                one.assert_heard(&mut program);
            }
        }
    }
    own[0].say("to nobody");
    own[4].assert_heard(&mut program);
}

#[test]
fn promise_13_another_size() {
    own_process!(30);
    let (mut program, mut own) = with_own(4);
    program.list.size = 2;
    own[2].say("beyond the end");
    own[3].say("beyond the end");
    own[0].assert_heard(&mut program);
    own[1].assert_heard(&mut program);
    program.list.size = 4;
    let mut reported = [program.next(), program.next()];
    reported.sort_by_key(|reported| if let Reported::Message(fd, ..) = reported { *fd } else { -1 });
    let expected = |one: &Own| Reported::Message(one.fd(), 1, b"beyond the end".to_vec());
    assert_eq!(reported, [expected(&own[2]), expected(&own[3])]);
    program.list.size = 0;
    assert_eq!(program.try_next(), Err(IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM));
}

#[test]
fn promise_13_an_entry_replaced_in_place() {
    own_process!(30);
    let (mut program, mut own) = with_own(3);
    let mut new = Own::new();
    new.say("already there");
    own[1].say("to nobody");
    set_entry(&mut program, 1, new.pointer());
    assert_eq!(program.next(), Reported::Message(new.fd(), 1, b"already there".to_vec()));
    assert_eq!(program.event.origin, new.pointer());
    // Two that change places are known by their new ones.
    let (first, last) = (own[0].pointer(), own[2].pointer());
    set_entry(&mut program, 0, last);
    set_entry(&mut program, 2, first);
    for _ in 0..3 {
        own[0].assert_heard(&mut program);
        own[2].assert_heard(&mut program);
        new.assert_heard(&mut program);
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
