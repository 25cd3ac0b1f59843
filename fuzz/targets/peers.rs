//! A program with a service and a list, and hostile peers: the script says what the program and the peers do
//! next. The events are compared with a model of the events that must be reported; at the end no memory,
//! descriptor or queued byte may be left.
//!
//! ipc_wait_event is called only if an event is certain: it never has a reason to wait, except for the 10
//! milliseconds in which the scan finds changes that the program has made by hand. If it waits all the same,
//! the time limit of the caller of the script ends the process.

mod by_hand;
mod closing;
mod connection;
mod disturbing;
mod ending;
mod looking;
mod mistakes;
mod odd_extras;
mod passing;
mod queueing;
mod sockets;
mod talking;
mod waiting;
mod world;

use self::connection::{Connection, Due, Kind, State};
use self::world::World;
use super::script::Script;
use super::stream::{any_header, frame};
use super::trace;

/// The first of the steps that disturb the program.
const DISTURBING: u8 = 240;

/// The first of the steps that are mistakes of the program, and of those with extra descriptors of other
/// kinds.
const ODD: u8 = 236;

/// The first of the steps that a daemon makes with its clients.
const ENDING: u8 = 232;

/// Limits: the steps of one run, and the bytes that one peer sends.
const STEPS: usize = 300;
const BUDGET: usize = 600_000;

/// More events of one connection than the library reports before it asks the kernel which others are ready.
const TURNS: usize = 100;

pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut world = World::new();
    for _ in 0..STEPS {
        let Some(step) = script.next() else { break };
        world.play(step, &mut script);
        world.check_list();
    }
    world.finish();
    world.end();
}

impl World {
    fn play(&mut self, step: u8, script: &mut Script<'_>) {
        if step >= DISTURBING {
            return self.disturb(step - DISTURBING, script);
        }
        if step >= ODD {
            return self.play_odd(step - ODD, script);
        }
        if step >= ENDING {
            return self.play_ending(step - ENDING, script);
        }
        trace!("step {}", step % 40);
        match step % 40 {
            0 | 1 if !self.is_full() => self.connect_client(),
            2 if !self.is_full() => {
                let number = self.make_own();
                self.add(number);
            }
            3 if !self.is_full() => _ = self.add_extra(script.coin()),
            // Steps of the peers.
            4 | 5 => self.peer_sends(script, |script| frame(script.byte(), script.size(), 0)),
            6 => self.peer_sends(script, |script| {
                let (count, size) = (1 + script.below(256), script.below(128));
                frame(script.byte(), size, 1).repeat(count)
            }),
            7 => self.peer_sends(script, any_header),
            8 => self.peer_sends(script, |script| {
                let count = script.below(16);
                script.bytes(count).to_vec()
            }),
            9 | 10 => self.peer_goes_on(script),
            11 => {
                let how = [libc::SHUT_WR, libc::SHUT_RD, libc::SHUT_RDWR][script.below(3)];
                let anyone = |world: &Self, number: usize| world.connections[number].kind != Kind::Extra;
                self.pick_anywhere(script, anyone)
                    .into_iter()
                    .for_each(|number| self.connections[number].shut_down(how));
            }
            12 => {
                self.pick_anywhere(script, |_, _| true)
                    .into_iter()
                    .for_each(|number| self.connections[number].leave());
            }
            13 => {
                let count = 1 + script.size();
                let picked = self.pick_anywhere(script, |_, _| true);
                picked.into_iter().for_each(|number| _ = self.connections[number].read(count));
            }
            // Steps of the program.
            14..=17 => _ = self.wait(step % 40 != 17),
            18 => self.wait_for_all(script.coin()),
            19 if !self.is_full() => self.ring(),
            20 | 21 => {
                let (kind, size, way) = (script.byte(), script.size(), script.below(4));
                let usable = |world: &Self, number: usize| world.connections[number].is_usable();
                self.pick(script, usable).into_iter().for_each(|number| self.write(number, kind, size, way));
            }
            22 => {
                let way = script.byte();
                let readable = |world: &Self, number: usize| {
                    world.connections[number].is_usable() && world.connections[number].state == State::Open
                };
                self.pick(script, readable).into_iter().for_each(|number| self.read(number, way));
            }
            23 => {
                let (way, at_once) = (script.below(6), script.below(4) > 0);
                let closeable = |world: &Self, number: usize| {
                    matches!(world.connections[number].state, State::Open | State::ErrorReported)
                };
                if let Some(number) = self.pick(script, closeable) {
                    self.close_in_some_way(number, way, at_once);
                }
            }
            24 => self.pick(script, Self::may_be_deleted).into_iter().for_each(|number| self.delete(number)),
            25 => {
                let addable = |world: &Self, number: usize| {
                    world.connections[number].may_be_added() && !world.is_listed(number)
                };
                self.pick(script, addable).into_iter().for_each(|number| self.add(number));
            }
            26 => self.change_by_hand(script),
            27 => {
                let listed = |world: &Self, number: usize| {
                    let connection = &world.connections[number];
                    world.is_listed(number) && connection.state == State::Open && !connection.is_unnoticed
                };
                let (same_number, by_library, at_once) = (script.coin(), script.coin(), script.below(4) > 0);
                if let Some(number) = self.pick(script, listed) {
                    self.reuse(number, same_number, by_library, at_once, false);
                }
            }
            28 => self.accept(script.coin()),
            29 => self.wait_for_nobody(),
            30 => match script.below(4) {
                0 if self.queued() == 0 => self.close_service(),
                1 if self.queued() == 0 => self.free_list(),
                _ => {
                    let usable = |world: &Self, number: usize| world.connections[number].is_usable();
                    if let Some(number) = self.pick(script, usable) {
                        sockets::make_narrow(self.connections[number].fd);
                    }
                }
            },
            31 => {
                // Another reader than the library: the program, or another process.
                let count = script.size();
                let readable = |world: &Self, number: usize| {
                    let connection = &world.connections[number];
                    (connection.kind, connection.state) == (Kind::Extra, State::Open)
                        && connection.sent.is_partial()
                };
                if let Some(number) = self.pick(script, readable) {
                    let bytes = sockets::read(self.connections[number].fd, count).unwrap();
                    self.connections[number].took(&bytes);
                }
            }
            32.. => self.play_extension(step % 40, script),
            _ => {}
        }
    }

    /// Steps that a program seldom makes.
    fn play_odd(&mut self, step: u8, script: &mut Script<'_>) {
        trace!("step {}", ODD + step);
        match step {
            0 | 1 => {
                let kind = script.below(7);
                let listed = |world: &Self, number: usize| {
                    let connection = &world.connections[number];
                    world.is_listed(number) && connection.is_usable() && connection.state == State::Open
                };
                let number = self.pick(script, listed);
                self.make_mistake(kind, number);
            }
            _ => {
                let (kind, size) = (script.below(4), script.size());
                self.play_odd_extra(kind, size);
            }
        }
    }

    /// Steps of a daemon with its clients.
    fn play_ending(&mut self, step: u8, script: &mut Script<'_>) {
        trace!("step {}", ENDING + step);
        let usable = |world: &Self, number: usize| world.connections[number].is_usable();
        match step {
            0 => self.pick(script, usable).into_iter().for_each(|number| self.set_data(number)),
            1 | 2 => {
                let linger = [0, -1, 1, 1000][script.below(4)];
                let endable = |world: &Self, number: usize| {
                    let connection = &world.connections[number];
                    usable(world, number) && world.is_served(number) && !connection.is_unnoticed
                };
                if let Some(number) = self.pick(script, endable).filter(|_| !self.here.hidden) {
                    self.end_member(number, linger);
                }
            }
            _ => match script.byte() {
                how @ 128.. => ending::play_notices(how),
                kind @ 64.. => {
                    let size = script.below(200);
                    self.broadcast(kind, size);
                }
                _ => {
                    self.check_status();
                    self.pick(script, usable).into_iter().for_each(|number| self.check_data(number));
                }
            },
        }
    }

    /// The same for the functions of ipc_ext.h.
    fn play_extension(&mut self, step: u8, script: &mut Script<'_>) {
        let usable = |world: &Self, number: usize| world.connections[number].is_usable();
        let open = |world: &Self, number: usize| {
            usable(world, number) && world.connections[number].state == State::Open
        };
        match step {
            32 => {
                let how = script.byte();
                self.look(how % 2 == 1, how / 2 % 4 == 3);
            }
            33 => {
                let (how, room) = (script.byte(), script.below(9));
                self.wait_for_many(how % 4 > 0, [-1, -1, 0, looking::AMPLE][usize::from(how / 4 % 4)], room);
            }
            34 => {
                let (kind, size) = (script.byte(), script.size());
                self.pick(script, usable).into_iter().for_each(|number| self.queue(number, kind, size));
            }
            35 => {
                if let Some(number) = self.pick(script, usable) {
                    self.flush(number);
                    self.connections[number].check_peer();
                }
            }
            36 => {
                let of_service = script.below(4) == 0;
                let (max_payload, queue) = (script.size(), [0, 1, 3000, script.size()][script.below(4)]);
                let number = if of_service { None } else { self.pick(script, open) };
                if of_service || number.is_some() {
                    self.limit(number, max_payload, queue);
                }
            }
            37 if !self.is_full() => {
                let extra = |world: &Self, number: usize| {
                    let connection = &world.connections[number];
                    (connection.kind, connection.state) == (Kind::Extra, State::Open)
                        && world.is_listed(number)
                };
                match self.pick(script, extra).filter(|_| script.below(4) == 0) {
                    Some(number) => self.delete_descriptor(number),
                    None => _ = self.add_watched(),
                }
            }
            38 => self.ask_for_event_fd(script.below(4) > 0),
            39 => match script.below(4) {
                0 => self.allow_descriptors(None),
                1 => self
                    .pick(script, open)
                    .into_iter()
                    .for_each(|number| self.allow_descriptors(Some(number))),
                _ => {
                    let (size, count) = (script.size(), script.below(20));
                    let peer = |world: &Self, number: usize| world.connections[number].kind != Kind::Extra;
                    if let Some(number) = self.pick_anywhere(script, peer) {
                        self.peer_sends_descriptors(number, size, count);
                    }
                }
            },
            _ => {}
        }
    }

    /// The number of the connection is reused by another file, or by another connection.
    fn reuse(&mut self, number: usize, same_number: bool, by_library: bool, at_once: bool, lives_on: bool) {
        if !self.may_change(at_once) {
            return;
        }
        match (self.connections[number].kind, self.connections[number].own_end) {
            (Kind::Client, Due::Certainly) => self.take_number(number, lives_on),
            (Kind::Own, _) => self.reconnect(number, same_number, by_library, lives_on),
            _ => {}
        }
        self.have_it_noticed(at_once);
    }

    /// Steps that disturb a program, and its other list.
    fn disturb(&mut self, step: u8, script: &mut Script<'_>) {
        trace!("step {}", DISTURBING + step);
        match step {
            0..=2 => self.swap_lists(),
            3 => self.close_unknown(script.coin()),
            4 => self.close_all(script.below(4) > 0),
            5..=7 => {
                let (how, with_service) = (script.below(4), script.coin());
                self.disturb_wait(with_service, how);
            }
            8 | 9 => {
                let usable = |world: &Self, number: usize| {
                    world.connections[number].is_usable() && world.connections[number].state == State::Open
                };
                let before_it = script.coin();
                if let Some(number) = self.pick(script, usable) {
                    self.cancel_read(number, before_it);
                }
            }
            10..=12 => {
                let listed = |world: &Self, number: usize| {
                    let connection = &world.connections[number];
                    world.is_listed(number) && connection.state == State::Open && !connection.is_unnoticed
                };
                let (same_number, at_once) = (script.coin(), script.below(4) > 0);
                if let Some(number) = self.pick(script, listed) {
                    self.reuse(number, same_number, false, at_once, true);
                }
            }
            _ => {
                let closes = script.coin();
                if self.may_be_slow() {
                    self.fork_child(closes);
                }
            }
        }
    }

    fn may_be_deleted(&self, number: usize) -> bool {
        self.is_listed(number) && self.connections[number].state != State::Fresh
    }

    /// One of the connections that match and are not in the other list.
    fn pick(&self, script: &mut Script<'_>, fits: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        self.pick_anywhere(script, |world, number| {
            !world.connections[number].is_elsewhere && fits(world, number)
        })
    }

    fn pick_anywhere(&self, script: &mut Script<'_>, fits: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let fitting: Vec<_> = (0..self.connections.len()).filter(|number| fits(self, *number)).collect();
        (!fitting.is_empty()).then(|| fitting[script.below(fitting.len())])
    }

    /// A peer gets bytes to send, and sends some of them.
    fn peer_sends(&mut self, script: &mut Script<'_>, what: impl Fn(&mut Script<'_>) -> Vec<u8>) {
        let has_peer = |world: &Self, number: usize| world.connections[number].peer.is_some();
        let Some(number) = self.pick_anywhere(script, has_peer) else { return };
        let bytes = what(script);
        let connection = &mut self.connections[number];
        if connection.sent.len() + connection.unsent.len() + bytes.len() <= BUDGET {
            connection.unsent.extend(bytes);
        }
        let count = [usize::MAX, usize::MAX, 0, script.size()][script.below(4)];
        self.sends_some(number, count);
    }

    fn peer_goes_on(&mut self, script: &mut Script<'_>) {
        let count = if script.coin() { usize::MAX } else { script.size() };
        let has_more = |world: &Self, number: usize| !world.connections[number].unsent.is_empty();
        self.pick_anywhere(script, has_more).into_iter().for_each(|number| self.sends_some(number, count));
    }

    fn sends_some(&mut self, number: usize, count: usize) {
        let connection = &mut self.connections[number];
        let count = count.min(connection.unsent.len());
        let bytes = connection.unsent.make_contiguous()[..count].to_vec();
        let sent = connection.send(&bytes);
        connection.unsent.drain(..sent);
    }

    /// The queue of a connection is sent without a further call for it only while the connection is in the
    /// list.
    fn list_all_with_queue(&mut self) {
        for number in 0..self.connections.len() {
            let connection = &self.connections[number];
            if connection.is_usable()
                && connection.queued() > 0
                && !connection.is_elsewhere
                && !self.is_served(number)
            {
                self.delete(number);
                self.add(number);
            }
        }
    }

    /// All peers read what is queued for them and leave, and all events are reported.
    fn finish(&mut self) {
        trace!("the end");
        self.in_each_list(|world| {
            world.wait_for_all(true);
            // The queue of a connection is sent when the library knows that the connection is in the list.
            world.have_it_noticed(true);
        });
        let mut without_progress = 0;
        loop {
            let queued = self.queued();
            (0..self.connections.len()).for_each(|number| while self.connections[number].read(1 << 20) {});
            if queued == 0 {
                break;
            }
            self.in_each_list(|world| {
                world.list_all_with_queue();
                world.ring();
            });
            without_progress = if self.queued() < queued { 0 } else { without_progress + 1 };
            // Ready connections take some turns before the kernel is asked which others are ready.
            assert!(without_progress < TURNS, "{queued} bytes stay queued for peers that read");
        }
        self.connections.iter_mut().for_each(Connection::leave);
        self.in_each_list(|world| {
            world.wait_for_all(true);
            (0..world.connections.len()).for_each(|number| world.delete(number));
        });
        for number in 0..self.connections.len() {
            match self.connections[number].state {
                State::Open | State::ErrorReported => self.close_in_some_way(number, 0, true),
                State::Over => {}
                state => panic!("{state:?} at the end"),
            }
        }
        self.in_each_list(World::wait_for_nobody);
    }
}
