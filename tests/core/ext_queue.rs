//! ipc_queue and ipc_pending: messages that are sent together, in order, whole and once.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use crate::child::{self, Child};
use crate::support::ext::*;
use crate::support::*;

child::roles! { queues_and_flushes }

/// How many bytes ipc_queue collects before it sends them itself.
const BATCH: usize = 64 << 10;

const REFUSED: Result<(), Failure> = Err((IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA, libc::EAGAIN));

#[test]
fn queued_messages_are_sent_together() {
    own_process!(30);
    let (ours, mut peer) = patient_pair();
    let fd = ours.as_raw_fd();
    let mut expected = Vec::new();
    set_errno(4711);
    while expected.len() + 105 < BATCH {
        queue(fd, 1, &pattern(100, expected.len())).unwrap();
        expected.extend(frame(1, &pattern(100, expected.len())));
        assert_eq!((pending(fd), errno()), (expected.len(), 4711));
    }
    assert_eq!(readable_now(&mut peer), b"", "nothing was sent yet");
    // One more message fills the batch, and all messages are sent.
    queue(fd, 2, &[7; 200]).unwrap();
    expected.extend(frame(2, &[7; 200]));
    assert_eq!(pending(fd), 0);
    assert!(readable_now(&mut peer) == expected);
}

/// Fewer system calls are the purpose of ipc_queue.
#[test]
fn many_small_messages_take_few_system_calls() {
    own_process!(60);
    const COUNT: usize = 20_000;
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        say("SKIPPED: system calls are not counted, strace is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, log) = (directory.path().join("service"), directory.path().join("log"));
    let listener = UnixListener::bind(&path).unwrap();
    let command = child::command(queues_and_flushes);
    let mut traced = std::process::Command::new("strace");
    traced.args(["-f", "-qq", "-e", "trace=sendmsg,sendto", "-o"]).arg(&log);
    traced.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        traced.env(name, value.unwrap());
    }
    traced.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut program = Child::run(&mut traced);
    program.send_line(path.to_str().unwrap());
    program.send_line(format!("{COUNT}"));
    let (mut stream, _) = listener.accept().unwrap();
    for number in 0..COUNT {
        assert_eq!(read_frame(&mut stream), (1, number.to_string().into_bytes()));
    }
    if !program.end().success() {
        say("SKIPPED: system calls are not counted, strace cannot trace here");
        return;
    }
    let calls = std::fs::read_to_string(&log).unwrap().lines().count();
    assert!((1..COUNT / 50).contains(&calls), "{calls} system calls for {COUNT} messages");
}

#[test]
fn queued_and_written_messages_arrive_in_call_order() {
    own_process!(30);
    const COUNT: usize = 3000;
    for listed in [false, true] {
        let (ours, peer) = patient_pair();
        let listed = listed.then(|| Listed::of(ours.try_clone().unwrap()));
        let fd = listed.as_ref().map_or(ours.as_raw_fd(), Listed::fd);
        let reader = std::thread::spawn(move || {
            let mut peer = peer;
            for number in 0..COUNT {
                let size = number * 7 % 1000 + 8;
                let (kind, payload) = read_frame(&mut peer);
                assert_eq!((kind, payload.len()), (3, size), "{number}");
                assert_eq!(payload[..8], number.to_ne_bytes());
            }
        });
        for number in 0..COUNT {
            let mut payload = vec![1; number * 7 % 1000 + 8];
            payload[..8].copy_from_slice(&number.to_ne_bytes());
            if number % 5 == 4 {
                assert_eq!(write(fd, 3, &payload), IPC_ERROR_NONE);
            } else {
                queue(fd, 3, &payload).unwrap();
            }
        }
        flush(fd, -1).unwrap();
        assert_eq!(pending(fd), 0);
        reader.join().unwrap();
    }
}

#[test]
fn queued_messages_arrive_once_whole_and_in_order() {
    own_process!(60);
    const COUNT: usize = 100_000;
    let (ours, mut peer) = patient_pair();
    let reader = std::thread::spawn(move || {
        let mut stream = std::io::BufReader::with_capacity(1 << 20, &mut peer);
        for number in 0..COUNT {
            let expected = frame(1, &pattern(number % 211, number));
            let mut got = vec![0; expected.len()];
            stream.read_exact(&mut got).unwrap();
            assert!(got == expected, "message {number}");
        }
        assert_eq!(stream.buffer(), b"");
        readable_now(&mut peer)
    });
    for number in 0..COUNT {
        let payload = pattern(number % 211, number);
        while queue(ours.as_raw_fd(), 1, &payload) == REFUSED {
            flush(ours.as_raw_fd(), -1).unwrap();
        }
    }
    flush(ours.as_raw_fd(), 20_000).unwrap();
    assert_eq!(reader.join().unwrap(), b"", "nothing twice");
}

#[test]
fn queued_bytes_are_sent_during_a_wait_for_events() {
    own_process!(30);
    let (mut ours, mut peer) = listed();
    queue(ours.fd(), 1, b"question").unwrap();
    let other = std::thread::spawn(move || {
        assert_eq!(read_frame(&mut peer), (1, b"question".to_vec()));
        peer.write_all(&frame(2, b"answer")).unwrap();
        peer
    });
    assert_eq!(ours.program.poll(-1), Reported::Message(ours.fd(), 2, b"answer".to_vec()));
    let mut peer = other.join().unwrap();
    // A call with timeout 0 sends the queue, too.
    queue(ours.fd(), 1, b"again").unwrap();
    assert_eq!(ours.program.poll(0), Seen::Nothing);
    assert_eq!(pending(ours.fd()), 0);
    assert_eq!(readable_now(&mut peer), frame(1, b"again"));
    // More bytes than the kernel accepts, on a connection that is added to the list after the message was
    // queued.
    let (late, mut reads) = patient_pair();
    queue(late.as_raw_fd(), 1, &pattern(3_000_000, 1)).unwrap();
    let mut info = connection(&late);
    assert_eq!(unsafe { ipc_add(&mut ours.program.list, &mut info) }, IPC_ERROR_NONE);
    let reader = std::thread::spawn(move || {
        assert!(read_frame(&mut reads) == (1, pattern(3_000_000, 1)));
        reads.write_all(&frame(3, b"got it")).unwrap();
        reads
    });
    assert_eq!(ours.program.poll(-1), Reported::Message(info.fd, 3, b"got it".to_vec()));
    let _reads = reader.join().unwrap();
    assert_eq!(unsafe { ipc_del(&mut ours.program.list, &mut info) }, IPC_ERROR_NONE);
}

#[test]
fn queued_bytes_are_sent_during_ipc_read() {
    own_process!(30);
    let (ours, mut peer) = patient_pair();
    let (third, mut third_peer) = patient_pair();
    queue(ours.as_raw_fd(), 1, b"question").unwrap();
    queue(third.as_raw_fd(), 1, b"to another").unwrap();
    let other = std::thread::spawn(move || {
        assert_eq!(read_frame(&mut third_peer), (1, b"to another".to_vec()));
        assert_eq!(read_frame(&mut peer), (1, b"question".to_vec()));
        peer.write_all(&frame(2, b"answer")).unwrap();
    });
    assert_eq!(read(ours.as_raw_fd()), Ok((2, b"answer".to_vec())));
    other.join().unwrap();
}

fn queues_and_flushes() {
    let fd = child::connect(Path::new(&child::read_line()));
    let count: usize = child::read_line().parse().unwrap();
    (0..count).for_each(|number| queue(fd, 1, number.to_string().as_bytes()).unwrap());
    flush(fd, 20_000).unwrap();
}

#[test]
fn full_queue_refuses_a_message_whole_until_it_has_room() {
    own_process!(60);
    for max_queue in [0, 300_000] {
        let (ours, mut peer) = patient_pair();
        let fd = ours.as_raw_fd();
        if max_queue > 0 {
            limits(fd, 0, max_queue).unwrap();
        }
        let room = if max_queue == 0 { 16 << 20 } else { max_queue };
        let size = room / 20;
        let mut number = 0;
        let refused = loop {
            match queue(fd, 1, &pattern(size, number)) {
                Ok(()) => number += 1,
                refused => break refused,
            }
        };
        assert_eq!(refused, REFUSED);
        let full = pending(fd);
        assert!(full <= room && full + size + 5 > room, "{full} of {room} bytes");
        assert_eq!(queue(fd, 2, &pattern(size, 0)), REFUSED);
        assert_eq!(pending(fd), full, "no byte of the refused message is queued");
        // A message that fills the queue exactly.
        queue(fd, 1, &pattern(room - full - 5, number)).unwrap();
        assert_eq!(pending(fd), room);
        assert_eq!(queue(fd, 2, b""), REFUSED);
        assert_eq!(flush(fd, 0), Err((IPC_ERROR_USOCK_SEND, libc::ETIMEDOUT)));
        let reader = std::thread::spawn(move || {
            for number in 0..number {
                assert!(read_frame(&mut peer) == (1, pattern(size, number)), "message {number}");
            }
            assert!(read_frame(&mut peer) == (1, pattern(room - full - 5, number)));
            assert_eq!(read_frame(&mut peer), (3, b"after".to_vec()), "no refused message");
        });
        flush(fd, 20_000).unwrap();
        queue(fd, 3, b"after").unwrap();
        flush(fd, 0).unwrap();
        reader.join().unwrap();
    }
}

#[test]
fn frames_that_several_threads_queue_and_write_do_not_mix() {
    own_process!(60);
    const THREADS: u8 = 6;
    const EACH: usize = 2000;
    for listed in [false, true] {
        let (ours, mut peer) = patient_pair();
        let listed = listed.then(|| Listed::of(ours.try_clone().unwrap()));
        let fd = listed.as_ref().map_or(ours.as_raw_fd(), Listed::fd);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    for number in 0..EACH {
                        let payload = pattern(number % 3000, usize::from(thread) + number);
                        // The queue has a limit, and the reader is slower than the threads together.
                        let call = || match thread % 3 {
                            0 => outcome(write(fd, thread, &payload)),
                            _ => queue(fd, thread, &payload),
                        };
                        until("room", || match call() {
                            Ok(()) => true,
                            refused => {
                                assert_eq!(refused, REFUSED);
                                false
                            }
                        });
                        if thread == 2 && number % 50 == 0 {
                            flush(fd, -1).unwrap();
                        }
                    }
                    flush(fd, -1).unwrap();
                });
            }
            // If the reader panics, the socket is shut down, so that no thread waits for it.
            let _end = Queued::new(peer.try_clone().unwrap());
            let mut reported = [0; THREADS as usize];
            let mut stream = std::io::BufReader::new(&mut peer);
            while reported.iter().sum::<usize>() < EACH * usize::from(THREADS) {
                let mut header = [0; 5];
                stream.read_exact(&mut header).unwrap();
                let thread = usize::from(header[0]);
                let number = reported[thread];
                let expected = pattern(number % 3000, thread + number);
                assert_eq!(header[1..], u32::try_from(expected.len()).unwrap().to_ne_bytes());
                let mut payload = vec![0; expected.len()];
                stream.read_exact(&mut payload).unwrap();
                assert!(payload == expected, "thread {thread}, message {number}");
                reported[thread] += 1;
            }
            assert_eq!((stream.buffer(), pending(fd)), (&[][..], 0));
            assert_eq!(readable_now(&mut peer), b"");
        });
    }
}

/// Other connections do not wait for a peer that does not read.
#[test]
fn full_queue_does_not_affect_other_connections() {
    own_process!(30);
    let (stuck, _never_reads) = pair();
    let stuck = Queued::new(stuck);
    while queue(stuck.as_raw_fd(), 1, &[1; 100_000]).is_ok() {}
    let (ours, mut peer) = patient_pair();
    let begin = std::time::Instant::now();
    for _ in 0..100 {
        queue(ours.as_raw_fd(), 1, b"quick").unwrap();
        flush(ours.as_raw_fd(), -1).unwrap();
        assert_eq!(read_frame(&mut peer), (1, b"quick".to_vec()));
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    // A call for the full queue does not wait, either.
    assert_eq!(queue(stuck.as_raw_fd(), 1, &[1; 100_000]), REFUSED);
}
