//! Promise 11: if no descriptors are left, connected clients are still served, nothing spins, and waiting
//! clients are accepted as descriptors become free.

use std::io::Write;
use std::os::unix::net::UnixStream;

use crate::support::*;

const CLIENTS: usize = 120;
const DESCRIPTORS: u64 = 64;

/// A server that has reached its limit of descriptors. Its clients, in the order of connect(2): first the
/// accepted ones, then those that still wait. The clients' own descriptors are above the limit.
struct Full {
    server: Box<Program>,
    clients: Vec<UnixStream>,
    /// The server's descriptors for the accepted clients.
    fds: Vec<i32>,
    spare: Option<std::fs::File>,
}

impl Full {
    fn new() -> Self {
        raise_descriptor_limit();
        let server = Program::server();
        let spare = std::fs::File::open("/dev/null").unwrap();
        let clients =
            (0..CLIENTS).map(|_| at_high_number(UnixStream::connect(&server.path).unwrap())).collect();
        set_descriptor_limit(DESCRIPTORS);
        let mut full = Self { server, clients, fds: Vec::new(), spare: Some(spare) };
        full.accept_clients_while_room();
        full
    }

    /// Accepts clients until three messages of the first client were reported in a row with no CONNECTION
    /// between them.
    fn accept_clients_while_room(&mut self) {
        self.fds.push(self.server.next_connection());
        let mut alone = 0;
        while alone < 3 {
            self.clients[0].write_all(&frame(1, b"anybody else?")).unwrap();
            alone += 1;
            while let Reported::Connection(fd) = self.next_message_or_connection() {
                self.fds.push(fd);
                alone = 0;
            }
        }
    }

    fn next_message_or_connection(&mut self) -> Reported {
        let reported = self.server.next();
        let message = Reported::Message(self.fds[0], 1, b"anybody else?".to_vec());
        assert!(matches!(reported, Reported::Connection(_)) || reported == message, "{reported:?}");
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
        "{connected} of {CLIENTS} clients with {DESCRIPTORS} descriptors: {:.2} % of the time on the CPU",
        share * 100.0
    ));
    assert!(share < 0.2);
    full.assert_all_are_answered();
}

#[test]
fn promise_11_waiting_clients_accepted_when_others_leave() {
    own_process!(60);
    let mut full = Full::new();
    let (mut accepted, mut closed) = (full.fds.len(), 0);
    // One client is closed, by itself or by the server, and one is accepted.
    while accepted < CLIENTS {
        let fd = full.fds.remove(0);
        let client = full.clients.remove(0);
        if closed % 2 == 0 {
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
        (accepted, closed) = (accepted + 1, closed + 1);
        if accepted % 20 == 0 {
            full.assert_all_are_answered();
        }
    }
    full.assert_all_are_answered();
    full.clients.clear();
    for _ in closed..CLIENTS {
        assert!(matches!(full.server.next(), Reported::Disconnection(_)));
    }
    assert_eq!(full.server.list.size, 0);
}

/// The library is not notified when the program closes a descriptor of its own.
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
