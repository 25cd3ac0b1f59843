//! Promise 29: a burst of clients finds room, as much as the kernel grants.

use crate::support::*;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::{AsRawFd, OwnedFd};

#[test]
fn promise_29_burst_before_first_wait_is_accepted() {
    own_process!(60);
    let granted: usize =
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    // Both ends are in this process.
    let room = (raise_descriptor_limit() - open_descriptors()).saturating_sub(50) / 2;
    let burst = granted.min(room).min(5000);
    if burst < granted.min(1000) {
        say(&format!("A BURST OF ONLY {burst}: the hard limit of descriptors is too low"));
    }
    let mut server = Program::server();
    let address = UnixAddr::new(&server.path).unwrap();
    let clients: Vec<OwnedFd> = (0..burst)
        .map(|n| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let client = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
            // A full queue is EAGAIN.
            assert_eq!(connect(client.as_raw_fd(), &address), Ok(()), "client {n} of {burst}");
            client
        })
        .collect();
    for _ in 0..burst {
        server.next_connection();
    }
    drop(clients);
    for _ in 0..burst {
        assert!(matches!(server.next(), Reported::Disconnection(_)));
    }
    say(&format!("a burst of {burst} clients; the kernel grants {granted}"));
}
