//! ipc_write_fd, ipc_allow_fds and ipc_take_fd: file descriptor passing with messages.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use crate::support::ext::*;
use crate::support::*;

#[test]
fn passed_file_pipe_and_socket_refer_to_the_same_file() {
    own_process!(30);
    for way in WAYS {
        let (mut receiver, peer) = Receiver::new(way, true);
        // A file: both descriptors share its position.
        let mut file = numbered_file(4711);
        std::io::Seek::rewind(&mut file).unwrap();
        set_errno(4711);
        write_fd(peer.as_raw_fd(), 1, b"a file", &file).unwrap();
        assert_eq!(errno(), 4711);
        assert_eq!(receiver.next(), (1, b"a file".to_vec()));
        let mut taken = File::from(take(receiver.fd).unwrap());
        assert_ne!(taken.as_raw_fd(), file.as_raw_fd());
        taken.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(std::io::Seek::stream_position(&mut file).unwrap(), 3);
        assert!(take(receiver.fd).is_none(), "all are taken");
        // A pipe; the sender closes its own descriptor at once.
        let (reader, mut writer) = pipe();
        write_fd(peer.as_raw_fd(), 2, b"a pipe", &reader).unwrap();
        drop(reader);
        assert_eq!(receiver.next(), (2, b"a pipe".to_vec()));
        let mut taken = File::from(take(receiver.fd).unwrap());
        writer.write_all(b"through it").unwrap();
        drop(writer);
        let mut all = Vec::new();
        taken.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"through it");
        // A connection of the library, which still works.
        let (one, other) = pair();
        write_fd(peer.as_raw_fd(), 3, b"a socket", &one).unwrap();
        drop(one);
        assert_eq!(receiver.next(), (3, b"a socket".to_vec()));
        let taken = take(receiver.fd).unwrap();
        assert_eq!(write(taken.as_raw_fd(), 4, b"hello"), IPC_ERROR_NONE);
        assert_eq!(read(other.as_raw_fd()), Ok((4, b"hello".to_vec())));
        // The connection itself.
        write_fd(peer.as_raw_fd(), 5, b"", &peer).unwrap();
        assert_eq!(receiver.next(), (5, vec![]));
        assert!(is_same_file(&take(receiver.fd).unwrap(), &peer));
    }
}

#[test]
fn each_descriptor_arrives_with_its_message() {
    own_process!(30);
    const COUNT: usize = 200;
    for way in WAYS {
        for at_once in [1, 2, 7, 30] {
            let (mut receiver, peer) = Receiver::new(way, true);
            let files: Vec<_> = (0..COUNT).map(numbered_file).collect();
            let has_one = |number: usize| number * 7 % 5 < 2;
            let mut reported = 0;
            while reported < COUNT {
                let batch = reported..COUNT.min(reported + at_once);
                for number in batch.clone() {
                    let payload = vec![number as u8; number % 60];
                    match has_one(number) {
                        true => write_fd(peer.as_raw_fd(), 1, &payload, &files[number]).unwrap(),
                        false => assert_eq!(write(peer.as_raw_fd(), 1, &payload), IPC_ERROR_NONE),
                    }
                }
                for number in batch {
                    assert_eq!(receiver.next(), (1, vec![number as u8; number % 60]));
                    let expected = if has_one(number) { vec![number] } else { vec![] };
                    assert_eq!(take_numbers(receiver.fd), expected, "{way:?}, {at_once} at once");
                    reported += 1;
                }
            }
        }
    }
}

/// Messages that the loop has read ahead are returned first by ipc_read, with their descriptors.
#[test]
fn descriptors_read_ahead_are_delivered_by_ipc_read() {
    own_process!(30);
    let (mut receiver, peer) = Receiver::new(Way::Loop, true);
    let files: Vec<_> = (0..12).map(numbered_file).collect();
    for (number, file) in files.iter().enumerate() {
        match number % 3 {
            0 => assert_eq!(write(peer.as_raw_fd(), 1, &[number as u8]), IPC_ERROR_NONE),
            _ => write_fd(peer.as_raw_fd(), 1, &[number as u8], file).unwrap(),
        }
    }
    for number in 0..files.len() {
        let message = if number % 4 == 0 { receiver.next() } else { read(receiver.fd).unwrap() };
        assert_eq!(message, (1, vec![number as u8]));
        let expected = if number % 3 == 0 { vec![] } else { vec![number] };
        assert_eq!(take_numbers(receiver.fd), expected);
    }
}

#[test]
fn large_message_carries_a_descriptor() {
    own_process!(30);
    const SIZE: usize = 1 << 20;
    for way in WAYS {
        let (mut receiver, peer) = Receiver::new(way, true);
        let file = numbered_file(5);
        let writer = std::thread::spawn(move || {
            for number in 0..4 {
                assert_eq!(write(peer.as_raw_fd(), 9, b"between"), IPC_ERROR_NONE);
                write_fd(peer.as_raw_fd(), 1, &pattern(SIZE, number), &file).unwrap();
            }
            peer
        });
        for number in 0..4 {
            assert_eq!(receiver.next(), (9, b"between".to_vec()));
            assert!(take(receiver.fd).is_none());
            assert!(receiver.next() == (1, pattern(SIZE, number)));
            assert_eq!(take_numbers(receiver.fd), [5], "{way:?}");
        }
        writer.join().unwrap();
    }
}

/// A peer may send its bytes in any pieces, and attach descriptors to any byte.
#[test]
fn descriptor_attached_at_any_byte_arrives_with_its_message() {
    own_process!(60);
    const FRAMES: usize = 4;
    const PAYLOAD: &[u8] = b"words";
    const LENGTH: usize = 5 + PAYLOAD.len();
    let files: Vec<_> = (0..FRAMES).map(numbered_file).collect();
    let byte_of = |n: usize| frame(1, PAYLOAD)[n % LENGTH];
    for way in WAYS {
        // The same byte of each message, or a byte that differs from message to message.
        for (place, step) in (0..LENGTH).flat_map(|place| [(place, 0), (place, 3)]) {
            // All bytes are sent before the first receive, or each byte is received before the next one is
            // sent.
            for one_by_one in [false, true] {
                let (mut receiver, peer) = Receiver::new(way, true);
                let has_one = |n: usize| n % LENGTH == (place + step * (n / LENGTH)) % LENGTH;
                let send = |n: usize| {
                    let file = has_one(n).then(|| files[n / LENGTH].as_raw_fd());
                    send_with(&peer, &[byte_of(n)], file.as_slice());
                };
                if !one_by_one {
                    (0..FRAMES * LENGTH).for_each(send);
                }
                for number in 0..FRAMES {
                    if one_by_one {
                        for n in number * LENGTH..(number + 1) * LENGTH {
                            send(n);
                            let is_amid = (n + 1) % LENGTH > 0;
                            if let Some(listed) = receiver.listed.as_mut().filter(|_| is_amid) {
                                assert_eq!(listed.program.poll(0), Seen::Nothing);
                            }
                        }
                    }
                    assert_eq!(receiver.next(), (1, PAYLOAD.to_vec()));
                    let reported = take_numbers(receiver.fd);
                    assert_eq!(
                        reported,
                        [number],
                        "{way:?}, byte {place}, step {step}, one by one: {one_by_one}"
                    );
                }
            }
        }
    }
}

#[test]
fn descriptors_of_one_message_arrive_in_order() {
    own_process!(30);
    let files: Vec<_> = (0..40).map(numbered_file).collect();
    let fds: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    for way in WAYS {
        for count in [2, 3, MOST] {
            let (mut receiver, peer) = Receiver::new(way, true);
            send_with(&peer, &frame(1, b"first"), &fds[..count]);
            send_with(&peer, &frame(1, b"none"), &[]);
            send_with(&peer, &frame(1, b"second"), &fds[count..2 * count]);
            assert_eq!(receiver.next().1, b"first");
            assert_eq!(take_numbers(receiver.fd), (0..count).collect::<Vec<_>>());
            assert_eq!(receiver.next().1, b"none");
            assert_eq!(take_numbers(receiver.fd), []);
            assert_eq!(receiver.next().1, b"second");
            assert_eq!(take_numbers(receiver.fd), (count..2 * count).collect::<Vec<_>>());
        }
        // Each byte of a message with a descriptor.
        let (mut receiver, peer) = Receiver::new(way, true);
        for (byte, fd) in frame(1, b"bytes").iter().zip(&fds) {
            send_with(&peer, &[*byte], &[*fd]);
        }
        assert_eq!(receiver.next().1, b"bytes");
        assert_eq!(take_numbers(receiver.fd), (0..10).collect::<Vec<_>>());
    }
}

/// At most `MOST` descriptors wait to be taken. If an earlier message has that many, and the next message's
/// descriptor is received together with the earlier message's last bytes, this descriptor is closed. If the
/// messages are received separately, each has its own descriptors.
#[test]
fn untaken_descriptors_are_limited_to_the_maximum() {
    own_process!(30);
    let files: Vec<_> = (0..=MOST).map(numbered_file).collect();
    let fds: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    for way in WAYS {
        for together in [true, false] {
            let (mut receiver, peer) = Receiver::new(way, true);
            let first = frame(1, b"first");
            send_with(&peer, &first[..3], &fds[..MOST]);
            send_with(&peer, &first[3..], &[]);
            if together {
                send_with(&peer, &frame(1, b"second"), &fds[MOST..]);
            }
            assert_eq!(receiver.next().1, b"first");
            assert_eq!(take_numbers(receiver.fd), (0..MOST).collect::<Vec<_>>());
            if !together {
                send_with(&peer, &frame(1, b"second"), &fds[MOST..]);
            }
            assert_eq!(receiver.next().1, b"second");
            // ipc_read receives no byte of the second message before it has returned the first.
            let numbers = take_numbers(receiver.fd);
            assert!(numbers == [MOST] || together && numbers.is_empty(), "{way:?}: {numbers:?}");
        }
    }
}

#[test]
fn descriptors_over_the_maximum_do_no_harm() {
    own_process!(30);
    let file = numbered_file(6);
    for way in WAYS {
        let (mut receiver, peer) = Receiver::new(way, true);
        let before = open_descriptors();
        // The kernel sends at most 253 descriptors in one call.
        for count in [MOST + 1, 253] {
            send_with(&peer, &frame(1, b"many"), &vec![file.as_raw_fd(); count]);
            assert_eq!(receiver.next().1, b"many");
            assert_eq!(open_descriptors(), before + MOST);
            assert_eq!(take_numbers(receiver.fd), [6; MOST]);
            assert_eq!(open_descriptors(), before);
        }
        // `MOST` descriptors with each byte: no more than `MOST` stay open.
        for byte in frame(1, b"many") {
            send_with(&peer, &[byte], &[file.as_raw_fd(); MOST]);
        }
        assert_eq!(receiver.next().1, b"many");
        assert!(open_descriptors() <= before + MOST);
        assert_eq!(take_numbers(receiver.fd), [6; MOST]);
        assert_eq!(open_descriptors(), before);
        send_with(&peer, &frame(1, b"goes on"), &[file.as_raw_fd()]);
        assert_eq!(receiver.next().1, b"goes on");
        assert_eq!(take_numbers(receiver.fd), [6]);
    }
}

#[test]
fn queued_message_arrives_in_order_with_its_descriptor() {
    own_process!(60);
    const COUNT: usize = 300;
    for way in WAYS {
        // The sender's connection is in a list, and the peer does not read yet.
        let (mut receiver, peer) = Receiver::new(way, true);
        let sender = Listed::of(peer);
        let files: Vec<_> = (0..COUNT).map(numbered_file).collect();
        let has_one = |number: usize| number % 4 == 1;
        for (number, file) in files.iter().enumerate() {
            let payload = pattern(number * 11 % 3000, number);
            match number % 4 {
                1 => write_fd(sender.fd(), 1, &payload, file).unwrap(),
                2 => queue(sender.fd(), 1, &payload).unwrap(),
                _ => assert_eq!(write(sender.fd(), 1, &payload), IPC_ERROR_NONE),
            }
        }
        assert!(pending(sender.fd()) > 0, "some messages are queued");
        // The sender's own descriptors may be closed now.
        drop(files);
        let to = sender.fd();
        let sent = std::thread::spawn(move || flush(to, -1));
        for number in 0..COUNT {
            assert!(receiver.next() == (1, pattern(number * 11 % 3000, number)), "{number}");
            let expected = if has_one(number) { vec![number] } else { vec![] };
            assert_eq!(take_numbers(receiver.fd), expected, "{way:?}");
        }
        assert_eq!(sent.join().unwrap(), Ok(()));
    }
}
