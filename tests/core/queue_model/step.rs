//! What can happen to connections that are written to: a sequence of it, at random, as data.

/// How many connections there are at a time.
pub const CONNECTIONS: usize = 3;

/// The largest payload.
pub const LARGEST: usize = 7_999_995;

/// Numbers that look random, the same ones for the same seed (splitmix64).
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

    /// A payload's size: those where something changes are more frequent than others, large ones are rare.
    fn size(&mut self) -> usize {
        match self.below(400) {
            0..30 => 0,
            30..60 => 1,
            60..130 => self.below(40),
            130..220 => self.below(300),
            220..300 => self.below(20_000),
            // A batch of ipc_queue, with and without its header.
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

/// A call that is refused whatever the state of the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A length over the largest.
    TooLong,
    /// A length and no payload.
    NoPayload,
    /// A descriptor to go with it that is none.
    NoFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// The peer reads meanwhile, if that is said; to a connection in no list it reads later than one in a list would
    /// be waited for, if not.
    Write {
        way: Way,
        size: usize,
        reading: bool,
    },
    /// ipc_queue by another thread while a message is half written.
    QueueBehind {
        size: usize,
        behind: usize,
    },
    /// ipc_queue of a message for which there is room just so.
    QueueToTheLimit,
    /// Messages that the kernel takes whole or not at all, until it takes no more: nothing is queued.
    Fill {
        size: usize,
    },
    Queue {
        size: usize,
        count: usize,
    },
    /// With this time-out; none: as long as it takes, and the peer reads meanwhile.
    Flush {
        timeout: Option<i32>,
    },
    /// A message that is no message.
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
    /// ipc_close. What is queued has its last chance, and the peer reads.
    Close {
        delete_before: bool,
    },
    /// The connection is shut down and closed; what is queued is dropped.
    GiveUp,
    PeerReads {
        bytes: usize,
    },
    /// The peer writes a message, which the program gets by ipc_wait_event, or by ipc_read if it is in no list.
    PeerWrites {
        size: usize,
    },
    /// The peer sends no more.
    PeerHalfCloses,
    /// The peer reads no more what is sent from now on.
    PeerStopsReading,
    PeerCloses,
    /// ipc_wait_event that does not wait, until it reports nothing; of all connections.
    Look,
}

/// Something that is done, and which connection it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub to: usize,
    pub doing: Doing,
}

/// A sequence. Any part of one is a sequence, too.
pub fn sequence(random: &mut Random) -> Vec<Step> {
    let count = 20 + random.below(60);
    let mut to = 0;
    let step = |_| {
        // Mostly the same one for some steps.
        if random.below(4) == 0 {
            to = random.below(CONNECTIONS);
        }
        Step { to, doing: doing(random) }
    };
    (0..count).map(step).collect()
}

fn doing(random: &mut Random) -> Doing {
    match random.below(100) {
        0..22 => {
            let way = match random.below(8) {
                0 | 1 => Way::Send,
                2..5 => Way::WithFile(random.below(4)),
                _ => Way::Write,
            };
            Doing::Write { way, size: random.size(), reading: random.below(4) == 0 }
        }
        22..39 => {
            let size = random.size();
            let (most, one) = (if size < 1000 { 150 } else { 3 }, random.below(2) == 0);
            Doing::Queue { size, count: if one { 1 } else { 1 + random.below(most) } }
        }
        39 => Doing::QueueToTheLimit,
        40..52 => Doing::Flush { timeout: random.one_of([Some(0), Some(0), Some(0), Some(3), None]) },
        52..70 => {
            let bytes = random.one_of([1, 4, 5, 6, 100, 5_000, 50_000, 300_000, 3_000_000]);
            Doing::PeerReads { bytes: bytes + random.below(bytes) }
        }
        70..76 => Doing::Look,
        76..81 => Doing::AddOrDelete,
        81..83 => Doing::Fill { size: 500 + random.below(1_400) },
        83 => Doing::QueueBehind { size: 100_000 + random.below(500_000), behind: random.size() },
        84..87 => Doing::Buffer { bytes: random.one_of([1, 3_000, 20_000, 70_000, 200_000]) },
        87..90 => Doing::Limit { bytes: random.one_of([0, 1, 5, 5_000, 65_536, 70_000, 400_000]) },
        90..93 => Doing::PeerWrites { size: random.below(5_000) },
        93..95 => Doing::Refused(random.one_of([Wrong::TooLong, Wrong::NoPayload, Wrong::NoFile])),
        95 | 96 => Doing::Close { delete_before: random.below(2) == 0 },
        97 => random.one_of([Doing::GiveUp, Doing::PeerStopsReading]),
        98 => Doing::PeerHalfCloses,
        _ => Doing::PeerCloses,
    }
}
