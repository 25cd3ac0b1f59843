//! Promise 26, for peers: whatever a peer sends, the library does not abort, exit, print or leak, and
//! continues to serve other peers.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use crate::child;
use crate::support::*;

child::roles! { serves_any_client, reads_anything }

/// Pseudorandom numbers, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// Valid, invalid and truncated frames and random bytes. They fit into a socket's buffer.
fn nonsense(seed: usize) -> Vec<u8> {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (seed as u64) << 20);
    let mut bytes = Vec::new();
    for _ in 0..1 + dice.below(8) {
        let size = [0, 1, 5, 100, 5000][dice.below(5)];
        let mut part = frame(dice.below(256) as u8, &dice.bytes(size));
        match dice.below(6) {
            0 => part = dice.bytes(size),
            1 => part[1..5].copy_from_slice(&dice.bytes(4)),
            2 => part[1..5]
                .copy_from_slice(&[7_999_995, 7_999_996, u32::MAX, 1 << 31][dice.below(4)].to_ne_bytes()),
            3 => part.truncate(dice.below(part.len())),
            _ => {}
        }
        bytes.extend(part);
    }
    bytes
}

const LAST: &[u8] = b"this was the last of the clients";

/// Echoes each message until the last client has sent its message and all other clients have closed.
fn serves_any_client() {
    let mut program = child::server();
    let descriptors = open_descriptors();
    let (mut heap, mut last_has_asked) = (0, false);
    for events in 0.. {
        if last_has_asked && program.list.size == 1 {
            assert!(events > 2 * PEERS, "{events} events");
            break;
        }
        if let Reported::Message(fd, kind, payload) = program.next() {
            // The write may be refused: many clients do not read.
            let _ = write(fd, kind, &payload);
            last_has_asked |= payload == LAST;
        }
        heap = if events == 0 { heap_in_use() } else { heap };
    }
    // The epoll set, its clock, and the last client.
    assert_eq!(open_descriptors(), descriptors + 3);
    // A leak of fifty bytes for each client would exceed this.
    assert!(heap_in_use() < heap + 50 * PEERS, "{heap} bytes of heap, now {}", heap_in_use());
}

const PEERS: usize = 1500;

/// Many clients send nonsense; then a last client asks. Returns the answer to the last client.
fn send_nonsense_and_ask(path: &Path) -> std::io::Result<Vec<u8>> {
    for seed in 0..PEERS {
        let mut peer = UnixStream::connect(path)?;
        // The server may close the connection before all bytes are sent.
        let _ = peer.write_all(&nonsense(seed));
        match seed % 4 {
            0 => {}
            1 => drop(peer.shutdown(Shutdown::Write)),
            2 => drop(peer.shutdown(Shutdown::Read)),
            _ => {
                peer.shutdown(Shutdown::Write)?;
                let _ = peer.read_to_end(&mut Vec::new());
            }
        }
    }
    let mut last = UnixStream::connect(path)?;
    last.write_all(&frame(7, LAST))?;
    let mut answer = vec![0; 5 + LAST.len()];
    last.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn promise_26_server_survives_whatever_its_peers_send() {
    own_process!(60);
    let rundir = tempfile::tempdir().unwrap();
    let mut command = child::command_with_plain_heap(serves_any_client);
    let server = command.env("IPC_RUNDIR", rundir.path()).stderr(Stdio::piped()).spawn().unwrap();
    let path = rundir.path().join(format!("child{}-0-0", server.id()));
    until("the server", || UnixStream::connect(&path).is_ok());
    let answered = send_nonsense_and_ask(&path);
    let output = server.wait_with_output().unwrap();
    let [output_text, error_text] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output_text.is_empty() && error_text.is_empty(), "it printed:\n{output_text}{error_text}");
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(answered.unwrap(), frame(7, LAST));
}

/// Reads the same bytes with the calls that read one frame.
fn reads_anything() {
    let once = |seeds: std::ops::Range<usize>| {
        for seed in seeds {
            let (mut one, two) = pair();
            one.write_all(&nonsense(seed)).unwrap();
            drop(one);
            let fd = two.as_raw_fd();
            let mut frames = 0;
            let code = loop {
                let (mut buffer, mut length) = (std::ptr::null_mut(), 0);
                let code = match seed % 2 {
                    0 => read(fd).map_or_else(|code| code, |_| IPC_ERROR_NONE),
                    _ => unsafe { usock_recv(fd, &mut buffer, &mut length) },
                };
                unsafe { libc::free(buffer.cast()) };
                if code != IPC_ERROR_NONE {
                    break code;
                }
                frames += 1;
            };
            assert!(frames <= 5000);
            let reported = (code, errno());
            let ends = [
                (IPC_ERROR_CLOSED_RECIPIENT, libc::EPIPE),
                (IPC_ERROR_CLOSED_RECIPIENT, libc::ECONNRESET),
                (IPC_ERROR_USOCK_RECV, libc::EPROTO),
            ];
            assert!(ends.contains(&reported), "{reported:?}");
            assert_eq!(usock_close(two.into_raw_fd()), IPC_ERROR_NONE);
        }
    };
    once(0..1000);
    let (descriptors, heap) = (open_descriptors(), heap_in_use());
    once(0..2000);
    assert_eq!(open_descriptors(), descriptors);
    assert!(heap_in_use() < heap + 4000, "{heap} bytes of heap, now {}", heap_in_use());
}

#[test]
fn promise_26_direct_reads_survive_whatever_a_peer_sends() {
    own_process!(60);
    let output = child::command_with_plain_heap(reads_anything).stderr(Stdio::piped()).output().unwrap();
    let [output_text, error_text] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output_text.is_empty() && error_text.is_empty(), "it printed:\n{output_text}{error_text}");
    assert!(output.status.success(), "{}", output.status);
}
