//! Promise 13: structures that are copied, or removed from the list and freed, and whose memory is reused.

use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{PAUSE, all_now};
use crate::list_by_hand::{Own, with_own};
use crate::support::ext::*;
use crate::support::*;

/// Makes the library scan the list now, so that the next call does not scan.
fn scan_now(program: &mut Program) {
    std::thread::sleep(PAUSE);
    assert_eq!(program.poll(0), Seen::Nothing);
}

/// The structure is replaced by a copy after the ERROR.
#[test]
fn promise_13_error_reported_once_if_structure_is_copied() {
    own_process!(60);
    let (mut listed, mut peer) = listed();
    peer.write_all(&[1, 255, 255, 255, 255]).unwrap();
    let fd = listed.fd();
    assert_eq!(listed.program.poll(10_000), Reported::Error(fd));
    let mut copy = *listed.info;
    unsafe { listed.program.list.cinfos.write(&mut copy) };
    let reported = all_now(&mut listed.program);
    assert_eq!(reported, [Seen::Reported(Reported::Disconnection(fd))]);
}

/// A watched descriptor whose structure is copied.
#[test]
fn promise_13_watched_fd_not_read_if_structure_is_copied() {
    own_process!(60);
    let mut program = Program::client();
    let (reader, mut writer) = pipe();
    let fd = program.watch(&reader);
    assert_eq!(program.poll(0), Seen::Nothing);
    let entry = entries(&program.list)[0];
    let copy = unsafe { ipc_connection_copy(entry) };
    unsafe { program.list.cinfos.write(copy) };
    force_list_scan(&mut program.list);
    writer.write_all(b"the program's").unwrap();
    let reported = program.poll(10_000);
    assert_eq!(reported, Seen::Ready(fd));
    unsafe {
        assert_eq!(ipc_del(&mut program.list, copy), IPC_ERROR_NONE);
        libc::free(copy.cast());
        libc::free(entry.cast());
    }
}

/// A client's structure is removed with its descriptor set to -1, and added again by hand with a new
/// connection.
#[test]
fn promise_13_deleted_connection_reports_no_disconnection() {
    own_process!(60);
    let mut server = Program::server();
    let (_first, _) = server.peer();
    let (_peer, fd) = server.peer();
    let client = server.info(fd);
    unsafe {
        assert_eq!(ipc_close(client), IPC_ERROR_NONE);
        (*client).fd = -1;
        assert_eq!(ipc_del(&mut server.list, client), IPC_ERROR_NONE);
    }
    let (ours, mut peer) = pair();
    unsafe { (*client).fd = ours.into_raw_fd() };
    let mut all = entries(&server.list);
    all.push(client);
    replace_array(&mut server.list, &all);
    peer.write_all(&frame(1, b"again")).unwrap();
    let reported = all_now(&mut server);
    assert_eq!(reported, [Seen::Reported(Reported::Message(unsafe { (*client).fd }, 1, b"again".to_vec()))]);
}

/// The program removes a client by hand and frees its structure: the next client gets the memory, if as many other
/// blocks are freed after it as the heap hands out before. How many differs between versions of the C library.
#[test]
fn promise_13_new_entry_in_reused_memory_is_not_closed() {
    own_process!(60);
    for way in ["NULL", "number", "closed", "ipc_close of another"] {
        if !(0..6).any(|others| has_reused_memory(way, others)) {
            say(&format!("SKIPPED: a client in reused memory, {way}: this heap does not reuse it"));
        }
    }
}

/// Whether the next client has got the memory. If so, its message is reported.
fn has_reused_memory(way: &str, others: usize) -> bool {
    let mut server = Program::server();
    // So many clients that the list's array has another block size than a client's structure.
    let _first: Vec<_> = (0..8).map(|_| server.peer()).collect();
    let (_peer, fd) = server.peer();
    let mut next = at_high_number(UnixStream::connect(&server.path).unwrap());
    let client = server.clients.pop().unwrap();
    // Without the service, the waiting client is not accepted yet.
    let srv = server.srv.take();
    scan_now(&mut server);
    let place = entries(&server.list).iter().position(|entry| *entry == client).unwrap();
    let mut kept = None;
    match way {
        "NULL" => unsafe { server.list.cinfos.add(place).write(none()) },
        "number" => unsafe {
            (*client).fd = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 900);
            close((*client).fd);
            assert_eq!(ipc_del(&mut server.list, client), IPC_ERROR_NONE);
        },
        _ => {
            unsafe { server.list.cinfos.add(place).write(none()) };
            close(fd);
            let (ours, theirs) = pair();
            assert_eq!(ours.as_raw_fd(), fd);
            kept = Some((info(ours.into_raw_fd()), at_high_number(theirs)));
        }
    }
    let was = client.addr();
    let malloc = || unsafe { libc::malloc(size_of::<ipc_connection_info>()) };
    // After these the heap has no free block of this size.
    let mut blocks: Vec<_> = (0..100).map(|_| malloc()).collect();
    unsafe {
        libc::free(client.cast());
        blocks.drain(..others).for_each(|block| libc::free(block));
    }
    server.srv = srv;
    let reported = server.poll(10_000);
    blocks.into_iter().for_each(|block| unsafe { libc::free(block) });
    let Seen::Reported(Reported::Connection(next_fd)) = reported else { panic!("{way}: {reported:?}") };
    if server.info(next_fd).addr() != was {
        return false;
    }
    assert_ne!(next_fd, fd);
    let is_another = way == "ipc_close of another";
    if let Some((info, _)) = kept.as_mut().filter(|_| is_another) {
        assert_eq!(unsafe { ipc_close(info) }, IPC_ERROR_NONE);
    }
    next.write_all(&frame(1, b"word")).unwrap();
    let reported = all_now(&mut server);
    assert_eq!(reported, [Seen::Reported(Reported::Message(next_fd, 1, b"word".to_vec()))], "{way}");
    true
}

/// The program replaces an entry by a copy and removes the copy at once: the connection is in no list.
#[test]
fn promise_13_removed_copy_is_in_no_list() {
    own_process!(60);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    let origin = server.clients.pop().unwrap();
    let copy = unsafe { ipc_connection_copy(origin) };
    unsafe {
        server.list.cinfos.write(copy);
        assert_eq!(ipc_del(&mut server.list, copy), IPC_ERROR_NONE);
        libc::free(origin.cast());
    }
    let payload = pattern(4 << 20, 1);
    let reader = std::thread::spawn(move || {
        // Longer than a write for a connection in a list would wait.
        std::thread::sleep(Duration::from_millis(200));
        read_frame(&mut peer).1.len()
    });
    assert_eq!(write(fd, 1, &payload), IPC_ERROR_NONE);
    let left = pending(fd);
    unsafe {
        ipc_close(copy);
        libc::free(copy.cast());
    }
    assert_eq!(reader.join().unwrap(), payload.len());
    assert_eq!(left, 0, "the write has waited until the kernel had all bytes");
}

/// The program removes watched entries by hand and frees them: the memory may then belong to a client, or to
/// an extra descriptor that the library reads.
#[test]
fn entry_removed_by_hand_is_no_longer_watched() {
    own_process!(30);
    const COUNT: usize = 30;
    for is_noticed in [true, false] {
        let mut server = Program::server();
        let (mut first, first_fd) = server.peer();
        let rest = entries(&server.list);
        let pipes: Vec<_> = (0..COUNT).map(|_| pipe()).collect();
        for (reader, _) in &pipes {
            server.watch(reader);
        }
        assert_eq!(server.poll(0), Seen::Nothing);
        let watched: Vec<_> =
            entries(&server.list).into_iter().filter(|entry| !rest.contains(entry)).collect();
        let peers: Vec<_> = (0..COUNT).map(|_| UnixStream::connect(&server.path).unwrap()).collect();
        replace_array(&mut server.list, &rest);
        watched.iter().for_each(|entry| unsafe { libc::free(entry.cast()) });
        if is_noticed {
            first.write_all(&frame(1, b"first")).unwrap();
            until("the first client's message", || {
                server.poll(-1) == Reported::Message(first_fd, 1, b"first".to_vec())
            });
        }
        // The next blocks of this size are the clients' structures.
        while server.clients.len() < COUNT + 1 {
            assert!(matches!(server.poll(-1), Seen::Reported(Reported::Connection(_))));
        }
        let again = server.clients.iter().filter(|client| watched.contains(client)).count();
        if again == 0 {
            say("SKIPPED: a client in the memory of a watched one, the heap gives it out later");
        }
        for mut peer in peers {
            peer.write_all(&frame(1, b"to be read")).unwrap();
            let seen = server.poll(-1);
            assert!(
                matches!(&seen, Seen::Reported(Reported::Message(_, 1, text)) if text == b"to be read"),
                "{seen:?}"
            );
            drop(peer);
            assert!(matches!(server.poll(-1), Seen::Reported(Reported::Disconnection(_))));
        }
        for (reader, mut writer) in pipes {
            assert_eq!(unsafe { ipc_add_fd(&mut server.list, reader.as_raw_fd()) }, IPC_ERROR_NONE);
            writer.write_all(b"to be read").unwrap();
            assert_eq!(server.poll(-1), Reported::Extra(reader.as_raw_fd(), b"to be read".to_vec()));
            assert_eq!(server.del_fd(&reader), Ok(()));
        }
    }
}

/// A list on the stack that is never freed, and then another list at the same address.
#[test]
fn promise_13_new_list_at_an_abandoned_lists_address_works() {
    own_process!(30);
    for frees_array in [false, true] {
        for close_first in [false, true] {
            let (mut program, mut old) = with_own(3);
            for one in &mut old {
                one.send("to the old list");
            }
            if frees_array {
                unsafe { libc::free(program.list.cinfos.cast()) };
            }
            // What the library stores for the list's address is now wrong.
            program.list = EMPTY_LIST;
            if close_first {
                for one in &mut old {
                    close(one.fd());
                    one.info.fd = -1;
                }
            }
            let mut new: Vec<_> = (0..3).map(|_| Own::new()).collect();
            for one in &mut new {
                assert_eq!(unsafe { ipc_add(&mut program.list, one.pointer()) }, IPC_ERROR_NONE);
            }
            for _ in 0..3 {
                new.iter_mut().for_each(|one| one.assert_reported(&mut program));
            }
            force_list_scan(&mut program.list);
            new.iter_mut().for_each(|one| one.assert_reported(&mut program));
        }
    }
}

#[test]
fn promise_13_abandoned_list_of_clients_is_forgotten() {
    own_process!(30);
    let mut server = Program::server();
    for round in 0..3 {
        // The peers have high numbers: each round's clients get the numbers of the previous round.
        let peers: Vec<_> = (0..4).map(|_| at_high_number(server.peer().0)).collect();
        for n in [2, 0, 3, 1] {
            (&peers[n]).write_all(&frame(1, b"new")).unwrap();
            let reported = server.next();
            assert!(matches!(reported, Reported::Message(_, 1, _)), "round {round}: {reported:?}");
            assert!(server.clients.contains(&server.event.origin));
        }
        for client in std::mem::take(&mut server.clients) {
            unsafe {
                close((*client).fd);
                libc::free(client.cast());
            }
        }
        unsafe { libc::free(server.list.cinfos.cast()) };
        server.list = EMPTY_LIST;
    }
}
