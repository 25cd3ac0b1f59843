//! The writing queue against a model of it: sequences of calls, made at random, with peers that read what they like
//! and end when they like. After each step every byte that was accepted is received, in the kernel or pending, once;
//! what is received is what was accepted, in order; a descriptor comes with the first byte of its message.
//!
//! In the environment:
//! LIBIPC_MODEL_SEQUENCES: how many sequences, 100 if it is not set;
//! LIBIPC_MODEL_SEED: that of the first one, 1 if it is not set; each next one has the next number.

/// Ends a check with what is wrong, if it is not so.
macro_rules! ensure {
    ($is_so:expr, $($what:tt)+) => {
        if !$is_so {
            return Err(format!($($what)+));
        }
    };
}

mod connection;
mod owed;
mod step;
mod world;

use std::fmt::Write;
use std::thread;

use crate::support::*;
use step::{Random, Step, sequence};

const SEQUENCES: u64 = 100;

/// No sequence takes longer.
const SECONDS: u64 = 100;

/// How often at most a failing sequence is tried with some of its steps left out.
const TRIES: u64 = 300;

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |set| set.parse().unwrap_or_else(|_| panic!("{variable}={set} is no number")))
}

/// Plays the sequence in a thread that has its name: a panic and the limit tell it.
fn play(seed: u64, steps: &[Step]) -> Result<(), String> {
    let steps = steps.to_vec();
    let playing = thread::Builder::new().name(format!("the sequence of LIBIPC_MODEL_SEED={seed}"));
    let playing = playing.spawn(move || {
        let _limit = limit(SECONDS);
        let before = open_descriptors();
        world::play(&steps)?;
        let after = open_descriptors();
        ensure!(after == before, "{before} descriptors were open, and {after} are");
        Ok(())
    });
    playing.unwrap().join().unwrap_or_else(|_| Err("a panic".to_owned()))
}

/// The shortest part of the sequence that is found to fail, and how.
fn shrink(seed: u64, mut steps: Vec<Step>, mut failure: String) -> (Vec<Step>, String) {
    let (mut size, mut tries) = (steps.len() / 2, 0);
    while size > 0 && tries < TRIES {
        let mut from = 0;
        while from < steps.len() && tries < TRIES {
            let mut part = steps.clone();
            part.drain(from..steps.len().min(from + size));
            tries += 1;
            match play(seed, &part) {
                Ok(()) => from += size,
                Err(what) => (steps, failure) = (part, what),
            }
        }
        size /= 2;
    }
    (steps, failure)
}

fn report(seed: u64, steps: &[Step], failure: &str) -> String {
    let mut report = format!("{failure}\n\nThe sequence, without the steps that it takes not for that:\n");
    for (number, step) in steps.iter().enumerate() {
        writeln!(report, "{number:4} {step:?}").unwrap();
    }
    let again = "cargo test --test core queue_model";
    write!(report, "\nLIBIPC_MODEL_SEED={seed} LIBIPC_MODEL_SEQUENCES=1 {again} plays all of it again")
        .unwrap();
    report
}

/// How many sequences.
fn count() -> u64 {
    number("LIBIPC_MODEL_SEQUENCES", SEQUENCES)
}

#[test]
fn accepted_messages_arrive_once_and_refused_ones_never() {
    own_process!(SECONDS.saturating_mul(count().saturating_add(TRIES)));
    let seed = number("LIBIPC_MODEL_SEED", 1);
    for seed in (0..count()).map(|number| seed.wrapping_add(number)) {
        let steps = sequence(&mut Random(seed));
        if let Err(failure) = play(seed, &steps) {
            let (steps, failure) = shrink(seed, steps, failure);
            panic!("{}", report(seed, &steps, &failure));
        }
    }
}
