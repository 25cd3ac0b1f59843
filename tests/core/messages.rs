//! Promises 1 to 4: messages arrive once, whole and in order; a NUL follows each payload; a read receives no
//! more than its frame; writes of several threads.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use crate::support::*;

const SIZES: [usize; 9] = [0, 1, 5, 4096, 65_531, 65_536, 212_992, 1_000_000, 7_999_995];

#[test]
fn promise_1_every_size_is_echoed_by_the_event_loop() {
    own_process!(60);
    let mut server = Program::server();
    let (peer, fd) = server.peer();
    for (seed, size) in SIZES.into_iter().enumerate() {
        let payload = pattern(size, seed);
        let writer = write_in_thread(peer.try_clone().unwrap(), frame(9, &payload));
        assert!(server.next() == Reported::Message(fd, 9, payload.clone()), "size {size}");
        writer.join().unwrap();
        let mut reader = peer.try_clone().unwrap();
        let reader = std::thread::spawn(move || read_frame(&mut reader));
        assert_eq!(server.write(fd, 8, &payload), IPC_ERROR_NONE);
        until("the answer", || {
            // Bytes that were queued are sent during later calls.
            assert_eq!(server.write(fd, 1, b""), IPC_ERROR_NONE);
            reader.is_finished()
        });
        assert!(reader.join().unwrap() == (8, payload), "size {size}");
        peer.set_nonblocking(true).unwrap();
        let mut rest = [0; 4096];
        while (&peer).read(&mut rest).is_ok() {}
        peer.set_nonblocking(false).unwrap();
    }
}

#[test]
fn promise_1_every_size_arrives_by_direct_reads_and_writes() {
    own_process!(60);
    let (one, two) = pair();
    let two_fd = two.as_raw_fd();
    let reader = std::thread::spawn(move || SIZES.map(|size| (size, read(two_fd).unwrap())));
    for (seed, size) in SIZES.into_iter().enumerate() {
        assert_eq!(write(one.as_raw_fd(), 3, &pattern(size, seed)), IPC_ERROR_NONE);
    }
    for (seed, (size, (kind, payload))) in reader.join().unwrap().into_iter().enumerate() {
        assert!(kind == 3 && payload == pattern(size, seed), "size {size}");
    }
}

#[test]
fn promise_1_100000_messages_then_end_of_file() {
    own_process!(60);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    let writer = std::thread::spawn(move || {
        let all: Vec<u8> = (0..100_000).flat_map(|n| frame(2, format!("{n:010}").as_bytes())).collect();
        peer.write_all(&all).unwrap();
    });
    for n in 0..100_000 {
        assert_eq!(server.next(), Reported::Message(fd, 2, format!("{n:010}").into_bytes()));
    }
    assert_eq!(server.next(), Reported::Disconnection(fd));
    writer.join().unwrap();
}

#[test]
fn promise_1_frame_received_byte_by_byte_is_assembled() {
    own_process!(60);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    let (mut other, other_fd) = server.peer();
    let bytes = frame(1, b"piecemeal");
    for (n, byte) in bytes.iter().enumerate() {
        peer.write_all(&[*byte]).unwrap();
        if n + 1 < bytes.len() {
            // The other connection's message shows that the loop has taken its turns.
            other.write_all(&frame(1, &[n as u8])).unwrap();
            assert_eq!(server.next(), Reported::Message(other_fd, 1, vec![n as u8]));
        }
    }
    assert_eq!(server.next(), Reported::Message(fd, 1, b"piecemeal".to_vec()));
    let (mut one, two) = pair();
    let reader = std::thread::spawn(move || read(two.as_raw_fd()));
    for byte in bytes {
        one.write_all(&[byte]).unwrap();
    }
    assert_eq!(reader.join().unwrap(), Ok((1, b"piecemeal".to_vec())));
}

#[test]
fn promise_2_nul_follows_each_payload() {
    own_process!(60);
    // take_payload checks the byte after each payload; these are the ways in which a payload is received.
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    for size in [1, 15, 16, 17, 4095, 4096, 16_379, 16_380, 100_000] {
        let writer = write_in_thread(peer.try_clone().unwrap(), frame(1, &vec![b'x'; size]).repeat(3));
        for _ in 0..2 {
            assert_eq!(server.next(), Reported::Message(fd, 1, vec![b'x'; size]));
        }
        assert_eq!(read(fd), Ok((1, vec![b'x'; size])));
        writer.join().unwrap();
    }
    peer.write_all(&frame(1, b"")).unwrap();
    assert_eq!(server.next(), Reported::Message(fd, 1, vec![]));
}

#[test]
fn promise_3_direct_reads_take_no_byte_beyond_their_frame() {
    own_process!(60);
    let (mut one, mut two) = pair();
    one.write_all(&[frame(1, b"first"), frame(2, b""), frame(3, b"third"), frame(4, b"last")].concat())
        .unwrap();
    let fd = two.as_raw_fd();
    assert_eq!(read(fd), Ok((1, b"first".to_vec())));
    let mut message = EMPTY_MESSAGE;
    assert_eq!(unsafe { ipc_message_read(fd, &mut message) }, IPC_ERROR_NONE);
    assert_eq!(take_payload(message), (2, vec![]));
    let (mut buffer, mut length) = (std::ptr::null_mut(), 0);
    assert_eq!(unsafe { usock_recv(fd, &mut buffer, &mut length) }, IPC_ERROR_NONE);
    let received = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length as usize) };
    assert_eq!(received, frame(3, b"third"));
    unsafe { libc::free(buffer.cast()) };
    assert_eq!(read_frame(&mut two), (4, b"last".to_vec()), "the rest is still in the kernel");
}

#[test]
fn promise_3_bytes_read_ahead_are_delivered_first() {
    own_process!(60);
    let mut server = Program::server();
    let (mut peer, fd) = server.peer();
    let last = pattern(50_000, 1);
    peer.write_all(&[frame(1, b"first"), frame(2, b"ahead"), frame(3, &last)].concat()).unwrap();
    assert_eq!(server.next(), Reported::Message(fd, 1, b"first".to_vec()));
    assert_eq!(read(fd), Ok((2, b"ahead".to_vec())));
    assert!(read(fd) == Ok((3, last)), "one part read ahead, one part from the kernel");
    peer.write_all(&frame(4, b"again")).unwrap();
    assert_eq!(server.next(), Reported::Message(fd, 4, b"again".to_vec()));
}

#[test]
fn promise_3_interrupted_read_keeps_received_bytes() {
    own_process!(60);
    let (mut one, two) = pair();
    let fd = two.as_raw_fd();
    let bytes = frame(5, &pattern(100, 3));
    two.set_nonblocking(true).unwrap();
    for n in 0..bytes.len() {
        assert_eq!(read(fd), Err(IPC_ERROR_USOCK_RECV), "{n} bytes");
        assert_eq!(errno(), libc::EAGAIN);
        one.write_all(&bytes[n..=n]).unwrap();
    }
    assert_eq!(read(fd), Ok((5, pattern(100, 3))));
}

#[test]
fn promise_3_frame_too_large_for_the_buffer_is_kept() {
    own_process!(60);
    let (mut one, two) = pair();
    one.write_all(&frame(6, b"twelve bytes")).unwrap();
    let mut room = [0_u8; 17];
    let (mut place, mut length) = (room.as_mut_ptr().cast(), 16);
    let fd = two.as_raw_fd();
    assert_eq!(unsafe { usock_recv(fd, &mut place, &mut length) }, IPC_ERROR_USOCK_RECV);
    assert_eq!((errno(), length), (libc::EMSGSIZE, 17));
    assert_eq!(unsafe { usock_recv(fd, &mut place, &mut length) }, IPC_ERROR_NONE);
    assert_eq!((length, &room[..]), (17, &frame(6, b"twelve bytes")[..]));
}

#[test]
fn promise_3_read_ahead_frame_too_large_for_buffer_is_kept() {
    own_process!(60);
    let mut program = Program::server();
    let (mut one, fd) = program.peer();
    one.write_all(&[frame(1, b"first"), frame(6, b"twelve bytes")].concat()).unwrap();
    assert_eq!(program.next(), Reported::Message(fd, 1, b"first".to_vec()));
    let mut room = [0_u8; 64];
    let (mut place, mut length) = (room.as_mut_ptr().cast(), 16);
    assert_eq!(unsafe { usock_recv(fd, &mut place, &mut length) }, IPC_ERROR_USOCK_RECV);
    assert_eq!((errno(), length, room), (libc::EMSGSIZE, 17, [0; 64]));
    assert_eq!(unsafe { usock_recv(fd, &mut place, &mut length) }, IPC_ERROR_NONE);
    assert_eq!((length, &room[..17]), (17, &frame(6, b"twelve bytes")[..]));
}

#[test]
fn promise_4_writes_of_several_threads_do_not_mix() {
    own_process!(120);
    const THREADS: usize = 4;
    const EACH: usize = 40;
    for listed in [false, true] {
        let (one, two) = pair();
        let mut program = Program::client();
        let mut info = ipc_connection_info { fd: one.as_raw_fd(), ..EMPTY_INFO };
        if listed {
            assert_eq!(unsafe { ipc_add(&mut program.list, &mut info) }, IPC_ERROR_NONE);
        }
        let one = Arc::new(one);
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let one = Arc::clone(&one);
                std::thread::spawn(move || {
                    for n in 0..EACH {
                        // Some payloads fit into the socket's buffer, some do not.
                        let size = [10, 300_000, 4096, 1_000_000][(n + thread) % 4];
                        let mut payload = vec![thread as u8; size];
                        payload[..8].copy_from_slice(&n.to_ne_bytes());
                        while write(one.as_raw_fd(), thread as u8, &payload) != IPC_ERROR_NONE {
                            assert!(listed && errno() == libc::EAGAIN);
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let reader = std::thread::spawn(move || {
            let mut stream = std::io::BufReader::new(two);
            let mut next = [0; THREADS];
            for _ in 0..THREADS * EACH {
                let mut header = [0; 5];
                stream.read_exact(&mut header).unwrap();
                let mut payload = vec![0; u32::from_ne_bytes(header[1..].try_into().unwrap()) as usize];
                stream.read_exact(&mut payload).unwrap();
                let thread = header[0] as usize;
                assert_eq!(usize::from_ne_bytes(payload[..8].try_into().unwrap()), next[thread]);
                assert!(payload[8..].iter().all(|byte| *byte == header[0]), "mixed");
                next[thread] += 1;
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        while !reader.is_finished() {
            // Queued bytes are sent during later calls.
            write(one.as_raw_fd(), 200, b"");
            if reader.is_finished() {
                break;
            }
            std::thread::yield_now();
        }
        reader.join().unwrap();
        if listed {
            assert_eq!(unsafe { ipc_del(&mut program.list, &mut info) }, IPC_ERROR_NONE);
        }
    }
}
