//! The steps of a sequence, as data, and how a sequence is chosen at random.

/// How many connections there are at a time.
pub const CONNECTIONS: usize = 3;

/// The largest payload.
pub const LARGEST: usize = 7_999_995;

/// Pseudorandom numbers, the same ones for the same seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_of<T: Copy, const N: usize>(&mut self, all: [T; N]) -> T {
        all[self.below(N)]
    }

    /// A payload's size: sizes at which the library behaves differently are frequent, large sizes are rare.
    fn size(&mut self) -> usize {
        match self.below(400) {
            0..30 => 0,
            30..60 => 1,
            60..130 => self.below(40),
            130..220 => self.below(300),
            220..300 => self.below(20_000),
            // About 64 KiB, ipc_queue's batch, with and without the header.
            300..340 => 65_526 + self.below(16),
            340..390 => self.below(300_000),
            390..397 => 1_000_000 + self.below(100),
            397 => self.below(LARGEST),
            _ => LARGEST,
        }
    }
}

/// The ways to send a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Write,
    /// usock_send, of a whole frame.
    Send,
    /// ipc_write_fd, with the file of this number.
    WithFile(usize),
}

/// A call that fails in any state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A length above the maximum.
    TooLong,
    /// A length without a payload.
    NoPayload,
    /// A message with an invalid descriptor.
    NoFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// With `reading`, the peer reads meanwhile. Without it, the peer of a connection in a list does not
    /// read, and the peer of a connection in no list begins to read after a time that a call for a list would
    /// not wait.
    Write {
        way: Way,
        size: usize,
        reading: bool,
    },
    /// ipc_queue in a second thread while a message is half written.
    QueueSecond {
        size: usize,
        second: usize,
    },
    /// ipc_queue of a message that fills the queue exactly to the limit.
    QueueToTheLimit,
    /// Messages that the kernel accepts whole or not at all, until the kernel accepts no more: nothing is
    /// queued.
    Fill {
        size: usize,
    },
    Queue {
        size: usize,
        count: usize,
    },
    /// With this timeout. None: without a timeout, and the peer reads meanwhile.
    Flush {
        timeout: Option<i32>,
    },
    /// An invalid message.
    Refused(Wrong),
    /// ipc_add or ipc_del, whichever is possible.
    AddOrDelete,
    /// ipc_limits.
    Limit {
        bytes: usize,
    },
    /// SO_SNDBUF.
    Buffer {
        bytes: usize,
    },
    /// ipc_close. The queued bytes are sent in the background, and the peer reads.
    Close {
        delete_before: bool,
    },
    /// The connection is shut down and closed; the queued bytes are dropped.
    GiveUp,
    PeerReads {
        bytes: usize,
    },
    /// The peer writes a message, which the program gets by ipc_wait_event, or by ipc_read if it is in no
    /// list.
    PeerWrites {
        size: usize,
    },
    /// The peer sends no more.
    PeerHalfCloses,
    /// The peer shuts down its reading side: what is sent from now on is not received.
    PeerStopsReading,
    PeerCloses,
    /// ipc_wait_event_timeout with timeout 0, until no event is pending, for all connections.
    Poll,
}

/// An action, and the number of the connection that it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub to: usize,
    pub action: Action,
}

/// A random sequence. Any part of a sequence is a sequence, too.
pub fn sequence(random: &mut Random) -> Vec<Step> {
    let count = 20 + random.below(60);
    let mut to = 0;
    let step = |_| {
        // Mostly several steps in a row for the same connection.
        if random.below(4) == 0 {
            to = random.below(CONNECTIONS);
        }
        Step { to, action: action(random) }
    };
    (0..count).map(step).collect()
}

fn action(random: &mut Random) -> Action {
    match random.below(100) {
        0..22 => {
            let way = match random.below(8) {
                0 | 1 => Way::Send,
                2..5 => Way::WithFile(random.below(4)),
                _ => Way::Write,
            };
            Action::Write { way, size: random.size(), reading: random.below(4) == 0 }
        }
        22..39 => {
            let size = random.size();
            let (most, one) = (if size < 1000 { 150 } else { 3 }, random.below(2) == 0);
            Action::Queue { size, count: if one { 1 } else { 1 + random.below(most) } }
        }
        39 => Action::QueueToTheLimit,
        40..52 => Action::Flush { timeout: random.one_of([Some(0), Some(0), Some(0), Some(3), None]) },
        52..70 => {
            let bytes = random.one_of([1, 4, 5, 6, 100, 5_000, 50_000, 300_000, 3_000_000]);
            Action::PeerReads { bytes: bytes + random.below(bytes) }
        }
        70..76 => Action::Poll,
        76..81 => Action::AddOrDelete,
        81..83 => Action::Fill { size: 500 + random.below(1_400) },
        83 => Action::QueueSecond { size: 100_000 + random.below(500_000), second: random.size() },
        84..87 => Action::Buffer { bytes: random.one_of([1, 3_000, 20_000, 70_000, 200_000]) },
        87..90 => Action::Limit { bytes: random.one_of([0, 1, 5, 5_000, 65_536, 70_000, 400_000]) },
        90..93 => Action::PeerWrites { size: random.below(5_000) },
        93..95 => Action::Refused(random.one_of([Wrong::TooLong, Wrong::NoPayload, Wrong::NoFile])),
        95 | 96 => Action::Close { delete_before: random.below(2) == 0 },
        97 => random.one_of([Action::GiveUp, Action::PeerStopsReading]),
        98 => Action::PeerHalfCloses,
        _ => Action::PeerCloses,
    }
}
