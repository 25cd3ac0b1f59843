//! Extra descriptors of kinds other than the run's own, in a list of their own: datagrams, packets and pipes,
//! of any size, and a temporary error.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use ipc::capi::entries::{ipc_add_fd, ipc_connections_free};
use ipc::capi::events::ipc_wait_event;
use ipc::capi::types::ipc_errors::*;
use ipc::capi::types::*;
use ipc::capi::waiting::ipc_del_fd;

use super::talking::content;
use super::world::{World, call, free_message};
use crate::targets::trace;

/// The most bytes of a stream that one event has.
const AT_ONCE: usize = 64 << 10;

/// A list with one extra descriptor.
struct Alone {
    list: Box<ipc_connection_infos>,
    event: ipc_event,
    fd: RawFd,
}

impl Alone {
    fn new(fd: RawFd) -> Self {
        let mut list = Box::new(ipc_connection_infos { cinfos: ptr::null_mut(), size: 0 });
        assert_eq!(call(|| unsafe { ipc_add_fd(&mut *list, fd) }), Ok(()));
        Self { list, event: unsafe { std::mem::zeroed() }, fd }
    }

    /// The bytes of the next event, which is due.
    fn next(&mut self) -> Vec<u8> {
        let event = &mut self.event;
        assert_eq!(call(|| unsafe { ipc_wait_event(&mut *self.list, ptr::null_mut(), event) }), Ok(()));
        let kind = unsafe { event.r#type.assume_init() };
        assert_eq!(kind, ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET);
        assert_eq!(unsafe { (*event.origin).fd }, self.fd);
        let (kind, bytes) = content(unsafe { &*event.m.cast::<ipc_message>() });
        assert_eq!(kind, msg_types::MSG_TYPE_DATA as u8);
        bytes
    }

    /// The end of file was reported: nothing is left to wait for.
    fn assert_over(&mut self) {
        let event = &mut self.event;
        let result = call(|| unsafe { ipc_wait_event(&mut *self.list, ptr::null_mut(), event) });
        assert_eq!(result, Err((IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, libc::EINVAL)));
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let result = call(|| unsafe { ipc_del_fd(&mut *self.list, self.fd) });
        assert!(result == Ok(()) || std::thread::panicking());
        unsafe { ipc_connections_free(&mut *self.list) };
        free_message(self.event.m.cast());
    }
}

impl World {
    /// A descriptor of this kind, with messages of this size.
    pub fn play_odd_extra(&mut self, kind: usize, size: usize) {
        trace!("  an extra descriptor of another kind, {kind}, {size} bytes");
        match kind {
            0 => error_passes(size),
            1 => messages_are_whole(libc::SOCK_DGRAM, size),
            2 => messages_are_whole(libc::SOCK_SEQPACKET, size),
            _ => pipe_is_read_to_its_end(size),
        }
    }
}

fn bytes_of(size: usize) -> Vec<u8> {
    (0..size).map(|place| (place * 7 + size) as u8).collect()
}

/// A datagram to a port that no socket has causes an error of the socket: reported once, as an event without
/// bytes, and not as end of file.
fn error_passes(size: usize) {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    // Without a network there is nothing to test.
    let (Ok(socket), Ok(other)) = (bind(), bind()) else { return };
    let (own, unbound) = (socket.local_addr().unwrap(), other.local_addr().unwrap());
    drop(other);
    socket.connect(unbound).unwrap();
    let mut alone = Alone::new(socket.as_raw_fd());
    if socket.send(b"lost").is_err() {
        return;
    }
    assert_eq!(alone.next(), b"");
    if let Ok(other) = UdpSocket::bind(unbound) {
        let bytes = bytes_of(1 + size % 9000);
        if other.send_to(&bytes, own).is_ok() {
            assert_eq!(alone.next(), bytes);
        }
    }
}

fn pair_of(kind: libc::c_int) -> (OwnedFd, OwnedFd) {
    let mut ends = [-1; 2];
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) };
    assert_eq!(result, 0);
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) }).into()
}

/// Datagrams and packets are reported whole, even if they are larger than the pieces of a stream; packets
/// have an end of file.
fn messages_are_whole(kind: libc::c_int, size: usize) {
    let (ours, peer) = pair_of(kind);
    let mut alone = Alone::new(ours.as_raw_fd());
    let sizes = [size, AT_ONCE + 1 + size % 1000, 1];
    for size in sizes {
        let (bytes, flags) = (bytes_of(size), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        let sent = unsafe { libc::send(peer.as_raw_fd(), bytes.as_ptr().cast(), size, flags) };
        assert_eq!(sent, size as isize);
        assert!(alone.next() == bytes, "{size} bytes");
    }
    drop(peer);
    if kind == libc::SOCK_SEQPACKET {
        assert_eq!(alone.next(), b"");
        alone.assert_over();
    }
}

/// In pieces, in order, and then the end of file, once.
fn pipe_is_read_to_its_end(size: usize) {
    let mut ends = [-1; 2];
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) }, 0);
    let [ours, peer] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    let mut alone = Alone::new(ours.as_raw_fd());
    let mut left = &bytes_of(2 * size)[..];
    while !left.is_empty() {
        let written = unsafe { libc::write(peer.as_raw_fd(), left.as_ptr().cast(), left.len()) };
        let (now, later) = left.split_at(usize::try_from(written).unwrap());
        let mut reported = Vec::new();
        while reported.len() < now.len() {
            let piece = alone.next();
            assert!((1..=AT_ONCE).contains(&piece.len()));
            reported.extend(piece);
        }
        assert!(reported == now, "other bytes than were written to a pipe");
        left = later;
    }
    drop(peer);
    assert_eq!(alone.next(), b"");
    alone.assert_over();
}
