//! Promise 11: where descriptors run out, those who are connected go on, nothing spins, and those who wait
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
        full.take_in_whom_there_is_room_for();
        full
    }

    /// Until the first client is heard three times without another one that comes between.
    fn take_in_whom_there_is_room_for(&mut self) {
        self.fds.push(self.server.next_connection());
        let mut alone = 0;
        while alone < 3 {
            self.clients[0].write_all(&frame(1, b"anybody else?")).unwrap();
            alone += 1;
            while let Told::Connection(fd) = self.heard_or_come() {
                self.fds.push(fd);
                alone = 0;
            }
        }
    }

    fn heard_or_come(&mut self) -> Told {
        let told = self.server.next();
        let heard = Told::Message(self.fds[0], 1, b"anybody else?".to_vec());
        assert!(matches!(told, Told::Connection(_)) || told == heard, "{told:?}");
        told
    }

    fn assert_all_are_answered(&mut self) {
        for (n, (client, fd)) in self.clients.iter_mut().zip(&self.fds).enumerate() {
            client.write_all(&frame(1, &[n as u8])).unwrap();
            assert_eq!(self.server.next(), Told::Message(*fd, 1, vec![n as u8]));
            assert_eq!(self.server.write(*fd, 2, &[n as u8]), IPC_ERROR_NONE);
            assert_eq!(read_frame(client), (2, vec![n as u8]));
        }
    }
}

#[test]
fn promise_11_those_who_are_connected_go_on_and_nothing_spins() {
    own_process!(60);
    say("not tried: ENFILE, the limit of the whole machine");
    let mut full = Full::new();
    let connected = full.fds.len();
    assert!((30..DESCRIPTORS as usize).contains(&connected), "{connected} are connected");
    full.assert_all_are_answered();
    let (told, share) = share_computed(&full.clients[0], &frame(1, b"later"), || full.server.next());
    assert_eq!(told, Told::Message(full.fds[0], 1, b"later".to_vec()));
    say(&format!(
        "{connected} of {CLIENTS} clients with {DESCRIPTORS} descriptors: it computes for {:.2} % of its time",
        share * 100.0
    ));
    assert!(share < 0.2);
    full.assert_all_are_answered();
}

#[test]
fn promise_11_those_who_wait_are_taken_in_as_others_leave() {
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
        let mut told = [full.server.next(), full.server.next()];
        if told[0] != Told::Disconnection(fd) {
            told.reverse();
        }
        let [Told::Disconnection(left), Told::Connection(new)] = told else { panic!("{told:?}") };
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
        assert!(matches!(full.server.next(), Told::Disconnection(_)));
    }
    assert_eq!(full.server.list.size, 0);
}

/// The library does not see it where the program closes a descriptor of its own.
#[test]
fn promise_11_those_who_wait_are_taken_in_when_the_program_closes_something_else() {
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
