//! Promise 11: if descriptors run out, connected clients go on, nothing spins, and the clients that wait
//! are taken in as descriptors come free.

use std::io::Write;
use std::os::unix::net::UnixStream;

use crate::support::*;

const CLIENTS: usize = 120;
const DESCRIPTORS: u64 = 64;

/// A server that has reached its limit of descriptors, with clients that it has taken in and clients that
/// wait, in the order in which they came. The clients' own descriptors are beyond the limit.
struct Full {
    server: Box<Program>,
    clients: Vec<UnixStream>,
    /// The descriptors of those that were taken in.
    fds: Vec<i32>,
    spare: Option<std::fs::File>,
}

impl Full {
    fn new() -> Self {
        raise_descriptor_limit();
        let server = Program::server();
        let spare = std::fs::File::open("/dev/null").unwrap();
        let clients =
            (0..CLIENTS).map(|_| out_of_the_way(UnixStream::connect(&server.path).unwrap())).collect();
        set_descriptor_limit(DESCRIPTORS);
        let mut full = Self { server, clients, fds: Vec::new(), spare: Some(spare) };
        full.accept_clients_while_room();
        full
    }

    /// Until the first client is heard three times without another one that comes between.
    fn accept_clients_while_room(&mut self) {
        self.fds.push(self.server.next_connection());
        let mut alone = 0;
        while alone < 3 {
            self.clients[0].write_all(&frame(1, b"anybody else?")).unwrap();
            alone += 1;
            while let Reported::Connection(fd) = self.heard_or_come() {
                self.fds.push(fd);
                alone = 0;
            }
        }
    }

    fn heard_or_come(&mut self) -> Reported {
        let reported = self.server.next();
        let heard = Reported::Message(self.fds[0], 1, b"anybody else?".to_vec());
        assert!(matches!(reported, Reported::Connection(_)) || reported == heard, "{reported:?}");
        reported
    }

    fn assert_all_are_answered(&mut self) {
        for (n, (client, fd)) in self.clients.iter_mut().zip(&self.fds).enumerate() {
            client.write_all(&frame(1, &[n as u8])).unwrap();
            assert_eq!(self.server.next(), Reported::Message(*fd, 1, vec![n as u8]));
            assert_eq!(self.server.write(*fd, 2, &[n as u8]), IPC_ERROR_NONE);
            assert_eq!(read_frame(client), (2, vec![n as u8]));
        }
    }
}

#[test]
fn promise_11_connected_clients_go_on_without_spinning() {
    own_process!(60);
    say("not tried: ENFILE, the limit of the whole machine");
    let mut full = Full::new();
    let connected = full.fds.len();
    assert!((30..DESCRIPTORS as usize).contains(&connected), "{connected} are connected");
    full.assert_all_are_answered();
    let (reported, share) = share_computed(&full.clients[0], &frame(1, b"later"), || full.server.next());
    assert_eq!(reported, Reported::Message(full.fds[0], 1, b"later".to_vec()));
    say(&format!(
        "{connected} of {CLIENTS} clients with {DESCRIPTORS} descriptors: it computes for {:.2} % of its time",
        share * 100.0
    ));
    assert!(share < 0.2);
    full.assert_all_are_answered();
}

#[test]
fn promise_11_waiting_clients_accepted_when_others_leave() {
    own_process!(60);
    let mut full = Full::new();
    let (mut come, mut gone) = (full.fds.len(), 0);
    // One leaves, by itself or at the server's word, and one comes.
    while come < CLIENTS {
        let fd = full.fds.remove(0);
        let client = full.clients.remove(0);
        if gone % 2 == 0 {
            drop(client);
        } else {
            assert_eq!(unsafe { ipc_close(full.server.info(fd)) }, IPC_ERROR_NONE);
        }
        let mut reported = [full.server.next(), full.server.next()];
        if reported[0] != Reported::Disconnection(fd) {
            reported.reverse();
        }
        let [Reported::Disconnection(left), Reported::Connection(new)] = reported else {
            panic!("{reported:?}")
        };
        assert_eq!(left, fd);
        full.fds.push(new);
        (come, gone) = (come + 1, gone + 1);
        if come % 20 == 0 {
            full.assert_all_are_answered();
        }
    }
    full.assert_all_are_answered();
    full.clients.clear();
    for _ in gone..CLIENTS {
        assert!(matches!(full.server.next(), Reported::Disconnection(_)));
    }
    assert_eq!(full.server.list.size, 0);
}

/// The library does not see it where the program closes a descriptor of its own.
#[test]
fn promise_11_waiting_clients_accepted_when_program_closes_fd() {
    own_process!(60);
    let mut full = Full::new();
    let spare = full.spare.take();
    let closing = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(spare);
    });
    let fd = full.server.next_connection();
    closing.join().unwrap();
    full.fds.push(fd);
    full.assert_all_are_answered();
}
