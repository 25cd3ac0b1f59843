//! Promises 7 and 13 where numbers, and the memory of structures, are used again: by services, by copies, in forked
//! children.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the functions are called as their header says")]

mod support;

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::ext::*;
use support::*;

/// After that long a look that does not wait goes through the list.
const PAUSE: Duration = Duration::from_millis(30);

/// A listening socket at exactly this number, which is closed for it.
fn listen_at(fd: RawFd, path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    put_at(fd, listener);
}

/// The same for any file.
fn put_at(fd: RawFd, file: impl IntoRawFd) {
    let other = file.into_raw_fd();
    assert_ne!(other, fd);
    assert_eq!(unsafe { libc::dup2(other, fd) }, fd);
    close(other);
}

/// What is told now, and what follows at once.
fn all_now(program: &mut Program) -> Vec<Seen> {
    let mut all = vec![program.look(10_000)];
    while let Ok(seen) = program.try_look(50)
        && seen != Seen::Nothing
    {
        all.push(seen);
    }
    all
}

/// A service that gets this number, the lowest that is free; and where it is.
fn service_with(number: RawFd, name: &str) -> (ipc_connection_info, PathBuf) {
    let path = rundir().join(name);
    let path_in_c = CString::new(path.to_str().unwrap()).unwrap();
    let mut listener = -1;
    assert_eq!(unsafe { usock_init(&mut listener, path_in_c.as_ptr()) }, IPC_ERROR_NONE);
    assert_eq!(listener, number, "the number is to be used again");
    (info(listener), path)
}

/// A client closed with close(2), and a new service that gets its number.
#[test]
fn promise_7_a_service_with_the_number_of_a_closed_client_hides_no_end() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    let mut server = Program::server();
    let (_first, _) = server.peer();
    let (_peer, fd) = server.peer();
    close(fd);
    let old = server.srv.replace(service_with(fd, "closed").0).unwrap();
    let told = all_now(&mut server);
    server.srv.replace(old);
    assert_eq!(told, [Seen::Told(Told::Disconnection(fd))]);
}

/// A connection of the list closed with ipc_close, and a service that gets its number, before the list is first
/// waited for and later.
#[test]
fn promise_7_a_service_with_the_number_of_a_dead_entry_is_heard() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    for is_waited_for in [false, true] {
        let mut program = Program::client();
        let (kept, _kept) = pair();
        let mut kept = info(kept.into_raw_fd());
        if is_waited_for {
            assert_eq!(unsafe { ipc_add(&mut program.list, &mut kept) }, IPC_ERROR_NONE);
            assert_eq!(program.look(0), Seen::Nothing);
        }
        let (ours, theirs) = pair();
        let _theirs = out_of_the_way(theirs);
        let mut dead = info(ours.into_raw_fd());
        assert_eq!(unsafe { ipc_add(&mut program.list, &mut dead) }, IPC_ERROR_NONE);
        assert_eq!(unsafe { ipc_close(&mut dead) }, IPC_ERROR_NONE);
        let (service, path) = service_with(dead.fd, &format!("dead {is_waited_for}"));
        program.srv = Some(service);
        if is_waited_for {
            assert_eq!(program.look(50), Seen::Nothing);
            have_the_list_looked_through(&mut program.list);
        }
        let _client = out_of_the_way(UnixStream::connect(&path).unwrap());
        let told = program.try_look(10_000);
        assert!(is_open(service.fd), "the library has closed the service: {told:?}");
        assert!(matches!(told, Ok(Seen::Told(Told::Connection(_)))), "{told:?}");
        program.srv = None;
        close(service.fd);
        close(kept.fd);
    }
}

/// The service's socket is another one with the same number, and the list was changed by hand.
#[test]
fn promise_7_another_service_with_the_number_of_the_one_before() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    let mut server = Program::server();
    let (_peer, _fd) = server.peer();
    let number = server.srv.as_ref().unwrap().fd;
    let path = rundir().join("e1");
    listen_at(number, &path);
    have_the_list_looked_through(&mut server.list);
    let _client = out_of_the_way(UnixStream::connect(&path).unwrap());
    let told = server.look(10_000);
    assert!(matches!(told, Seen::Told(Told::Connection(_))), "{told:?}");
}

/// And it must not be waited for in accept(2).
#[test]
fn promise_7_another_service_with_the_number_of_the_one_before_does_not_hold_up() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    let mut server = Program::server();
    let (mut peer, _fd) = server.peer();
    let number = server.srv.as_ref().unwrap().fd;
    let path = rundir().join("e2");
    listen_at(number, &path);
    assert_eq!(server.look(50), Seen::Nothing);
    peer.write_all(&frame(1, b"word").repeat(2)).unwrap();
    let _client = out_of_the_way(UnixStream::connect(&path).unwrap());
    let mut told = Vec::new();
    // Whichever comes first; the program takes the client itself.
    told.push(server.look(10_000));
    if let Seen::Told(Told::Message(..)) = told[0] {
        let mut taken = EMPTY_INFO;
        let srv = server.srv();
        assert_eq!(unsafe { ipc_accept(srv, &mut taken) }, IPC_ERROR_NONE);
    } else {
        panic!("the client came first: {told:?}");
    }
    told.extend(all_now(&mut server));
    assert_eq!(told.len(), 2, "{told:?}");
}

/// In an array of events, the client that has got the number of one that the program has closed.
#[test]
fn promise_7_an_end_comes_before_the_next_connection_with_the_number() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    let mut server = Program::server();
    let (mut first, first_fd) = server.peer();
    let (_peer, fd) = server.peer();
    first.write_all(&frame(1, b"word").repeat(2)).unwrap();
    assert_eq!(server.look(10_000), Told::Message(first_fd, 1, b"word".to_vec()));
    std::thread::sleep(PAUSE);
    close(fd);
    let _next = out_of_the_way(UnixStream::connect(&server.path).unwrap());
    let mut array = events(8);
    let mut told = server.many(&mut array, 10_000);
    for _ in 0..3 {
        told.extend(server.many(&mut array, 50));
    }
    let end = told.iter().position(|seen| *seen == Told::Disconnection(fd)).unwrap();
    let come = told.iter().position(|seen| *seen == Told::Connection(fd)).unwrap();
    assert!(end < come, "{told:?}");
}

/// A copy behind an ERROR.
#[test]
fn promise_13_an_error_is_told_once_also_where_the_structure_is_copied() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    let (mut listed, mut peer) = listed();
    peer.write_all(&[1, 255, 255, 255, 255]).unwrap();
    let fd = listed.fd();
    assert_eq!(listed.program.look(10_000), Told::Error(fd));
    let mut copy = *listed.info;
    unsafe { listed.program.list.cinfos.write(&mut copy) };
    let told = all_now(&mut listed.program);
    assert_eq!(told, [Seen::Told(Told::Disconnection(fd))]);
}

/// A watched descriptor whose structure is copied.
#[test]
fn promise_13_a_watched_descriptor_is_not_read_where_the_structure_is_copied() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    let mut program = Program::client();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let fd = program.watch(&reader);
    assert_eq!(program.look(0), Seen::Nothing);
    let entry = entries(&program.list)[0];
    let copy = unsafe { ipc_connection_copy(entry) };
    unsafe { program.list.cinfos.write(copy) };
    have_the_list_looked_through(&mut program.list);
    writer.write_all(b"the program's").unwrap();
    let told = program.look(10_000);
    assert_eq!(told, Seen::Ready(fd));
    unsafe {
        assert_eq!(ipc_del(&mut program.list, copy), IPC_ERROR_NONE);
        libc::free(copy.cast());
        libc::free(entry.cast());
    }
}

/// In a forked child, before it has waited.
#[test]
fn promise_7_a_child_that_closes_a_client_and_gets_its_number_for_something_else() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    if !has_own_process("promise_7_a_child_that_closes_a_client_and_gets_its_number_for_something_else") {
        return;
    }
    let mut server = Program::server();
    let (_first, _) = server.peer();
    let (_peer, fd) = server.peer();
    assert_eq!(server.look(0), Seen::Nothing);
    let worker = unsafe { libc::fork() };
    assert!(worker >= 0);
    if worker == 0 {
        unsafe { libc::alarm(10) };
        // A connection of the child's own, in no list, has the number.
        close(fd);
        let (ours, theirs) = pair();
        assert_eq!(ours.as_raw_fd(), fd, "the number is to be used again");
        let mut theirs = out_of_the_way(theirs);
        theirs.write_all(&frame(1, b"to the child's own")).unwrap();
        let told = all_now(&mut server);
        let mut ours = ours;
        let left = at_hand(&mut ours);
        let good = told == [Seen::Told(Told::Disconnection(fd))] && left == frame(1, b"to the child's own");
        if !good {
            say(&format!("{told:?}, left: {left:?}"));
        }
        unsafe { libc::_exit(if good { 0 } else { 1 }) };
    }
    let mut status = -1;
    assert_eq!(unsafe { libc::waitpid(worker, &mut status, 0) }, worker);
    assert_eq!(status, 0);
}

/// Taken out with its descriptor set to -1, and put in again by hand.
#[test]
fn promise_13_who_was_taken_out_by_ipc_del_is_not_told_to_be_gone() {
    let _one = one_at_a_time();
    let _limit = limit(60);
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
    let told = all_now(&mut server);
    assert_eq!(told, [Seen::Told(Told::Message(unsafe { (*client).fd }, 1, b"again".to_vec()))]);
}

/// A service closed with close(2) whose number a connection of the list has got.
#[test]
fn promise_7_a_connection_with_the_number_of_a_service_is_heard() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    let mut server = Program::server();
    let (_first, _) = server.peer();
    let (ours, mut peer) = pair();
    std::thread::sleep(PAUSE);
    assert_eq!(server.look(0), Seen::Nothing);
    let srv = server.srv.take().unwrap();
    unsafe { libc::free(srv.spath.cast()) };
    put_at(srv.fd, ours);
    let mut own = info(srv.fd);
    assert_eq!(unsafe { ipc_add(&mut server.list, &mut own) }, IPC_ERROR_NONE);
    let fd = server.event_fd();
    assert_eq!(server.all(), NOTHING);
    peer.write_all(&frame(1, b"word")).unwrap();
    assert!(becomes_readable(fd, 10_000));
    assert_eq!(server.look(0), Told::Message(own.fd, 1, b"word".to_vec()));
}

/// What was set for another service with the number.
#[test]
fn promise_7_a_service_has_no_settings_of_another_one_with_its_number() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    let mut server = Program::server();
    let number = server.srv.as_ref().unwrap().fd;
    limits(number, 10, 0).unwrap();
    let path = rundir().join("r1");
    listen_at(number, &path);
    let mut client = UnixStream::connect(&path).unwrap();
    let told = server.look(10_000);
    let Seen::Told(Told::Connection(fd)) = told else { panic!("{told:?}") };
    client.write_all(&frame(1, b"longer than ten bytes")).unwrap();
    assert_eq!(server.look(10_000), Told::Message(fd, 1, b"longer than ten bytes".to_vec()));
}

/// The library has looked at the list just now, and does not do so in the next look.
fn have_looked(program: &mut Program) {
    std::thread::sleep(PAUSE);
    assert_eq!(program.look(0), Seen::Nothing);
}

/// A client that the program has taken out by hand, whose structure it has freed: the next client gets the memory.
#[test]
fn promise_13_who_gets_the_memory_of_one_that_was_taken_out_is_not_gone() {
    let _one = one_at_a_time();
    let _limit = limit(60);
    if !heap_can_be_counted() {
        return;
    }
    let mut wrong = Vec::new();
    for way in ["NULL", "number", "closed", "ipc_close of another"] {
        let mut server = Program::server();
        let (_first, _) = server.peer();
        let (_peer, fd) = server.peer();
        let mut next = out_of_the_way(UnixStream::connect(&server.path).unwrap());
        // Another descriptor, so that the next client gets another number.
        let client = server.clients.pop().unwrap();
        // The client that waits is not to come now.
        let srv = server.srv.take();
        have_looked(&mut server);
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
                kept = Some((info(ours.into_raw_fd()), out_of_the_way(theirs)));
            }
        }
        let was = client.addr();
        // The message of the event takes one block, the next client the other.
        let block = unsafe { libc::malloc(size_of::<ipc_connection_info>()) };
        unsafe {
            libc::free(client.cast());
            libc::free(block);
        }
        server.srv = srv;
        let told = server.look(10_000);
        let Seen::Told(Told::Connection(next_fd)) = told else { panic!("{way}: {told:?}") };
        assert_eq!(server.info(next_fd).addr(), was, "the memory is to be used again");
        assert_ne!(next_fd, fd);
        if way == "ipc_close of another"
            && let Some((info, _)) = &mut kept
        {
            assert_eq!(unsafe { ipc_close(info) }, IPC_ERROR_NONE);
        }
        next.write_all(&frame(1, b"word")).unwrap();
        let told = all_now(&mut server);
        if told != [Seen::Told(Told::Message(next_fd, 1, b"word".to_vec()))] {
            wrong.push((way, told));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A copy that is taken out at once is in no list.
#[test]
fn promise_13_a_copy_that_is_taken_out_is_in_no_list() {
    let _one = one_at_a_time();
    let _limit = limit(60);
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
        // Longer than a peer is waited for whose connection is in a list.
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
    assert_eq!(left, 0, "it returns when the kernel has all of it");
}
