//! File descriptor passing, in both directions, and peer credentials.

use std::os::fd::{AsRawFd, OwnedFd};

use ipc::capi::passing::{ipc_allow_fds, ipc_peer, ipc_take_fd, ipc_write_fd};
use ipc::capi::types::ipc_errors::{self, *};
use ipc::capi::types::*;

use super::connection::{Connection, State};
use super::queueing::message_of;
use super::sockets;
use super::world::{NO_INFO, World, call};
use crate::targets::stream::frame;
use crate::targets::trace;

/// The most descriptors that may be sent with one message.
const DESCRIPTORS: usize = 16;

impl World {
    /// ipc_allow_fds, of a connection or of the service.
    pub fn allow_descriptors(&mut self, number: Option<usize>) {
        let info: *const _ = match number {
            Some(number) => {
                self.connections[number].settings.descriptors = true;
                self.connections[number].info
            }
            None if self.srv.is_none() => return,
            None => {
                self.settings.descriptors = true;
                self.srv()
            }
        };
        trace!("  descriptors are allowed for {number:?}");
        assert_eq!(call(|| unsafe { ipc_allow_fds(info) }), Ok(()));
    }

    /// A file to be passed.
    fn file(&mut self) -> &OwnedFd {
        self.file.get_or_insert_with(sockets::null)
    }

    /// The peer sends a frame, and descriptors with it.
    pub fn peer_sends_descriptors(&mut self, number: usize, size: usize, count: usize) {
        let file = self.file().as_raw_fd();
        let connection = &mut self.connections[number];
        let Some(peer) =
            connection.peer.as_ref().filter(|_| !connection.ended && connection.unsent.is_empty())
        else {
            return;
        };
        let bytes = frame(2, size, count);
        let sent = sockets::send_with(peer, &bytes, &vec![file; count]);
        trace!("  the peer of {} sends {sent} bytes and {count} descriptors", connection.fd);
        let begin = connection.sent.len();
        connection.sent.send(&bytes[..sent]);
        connection.unsent.extend(&bytes[sent..]);
        // The kernel closes the descriptors if the library has received the rest of the frame before they are
        // allowed.
        let is_certain =
            connection.settings.descriptors && connection.state != State::Waiting && sent == bytes.len();
        connection.passed.push_back((begin, is_certain.then_some(count.min(DESCRIPTORS))));
    }

    /// ipc_write_fd.
    pub fn write_with_descriptor(
        &mut self,
        info: *const ipc_connection_info,
        bytes: &[u8],
    ) -> Result<(), (ipc_errors, i32)> {
        let (message, file) = (message_of(bytes), self.file().as_raw_fd());
        call(|| unsafe { ipc_write_fd(info, &message, file) })
    }
}

impl Connection {
    /// ipc_peer: the peer is this process.
    pub fn check_peer(&self) {
        let unknown = ipc_peer { pid: -1, uid: u32::MAX, gid: u32::MAX };
        let mut peer = unknown;
        assert_eq!(call(|| unsafe { ipc_peer(self.info, &mut peer) }), Ok(()));
        let own = unsafe { (libc::getpid(), libc::geteuid(), libc::getegid()) };
        assert_eq!((peer.pid, peer.uid, peer.gid), own, "another peer");
    }

    /// How many descriptors the program gets with the message at this offset of the stream, if that is
    /// certain.
    pub fn descriptors_at(&self, begin: usize) -> Option<usize> {
        self.passed.iter().find(|(at, _)| *at == begin)?.1
    }

    /// The message at this offset of the stream was delivered to the program, which takes its descriptors, or
    /// leaves them to the library.
    pub fn take_descriptors(&mut self, begin: usize, all: bool) {
        let info = ipc_connection_info { fd: self.fd, ..NO_INFO };
        let mut received = 0;
        while all || received == 0 {
            let mut fd = -7;
            match call(|| unsafe { ipc_take_fd(&info, &mut fd) }) {
                Ok(()) => {
                    sockets::assert_is_null(fd);
                    sockets::close(fd);
                    received += 1;
                }
                Err(error) => {
                    assert_eq!((error, fd), ((IPC_ERROR_USOCK_RECV, libc::ENOENT), -1));
                    break;
                }
            }
        }
        assert!(
            received <= DESCRIPTORS && (received == 0 || self.settings.descriptors),
            "{received} descriptors"
        );
        if let Some(expected) = self.descriptors_at(begin) {
            assert_eq!(received, if all { expected } else { expected.min(1) }, "descriptors of a message");
        }
        self.passed.retain(|(at, _)| *at > begin);
    }
}
