//! The send queue compared with a model: random sequences of calls, with peers that read and close at random.
//! After each step, every accepted byte is in exactly one place: received, in the kernel, or pending. The
//! received bytes are the accepted ones, in order, and a descriptor arrives with the first byte of its
//! message.
//!
//! In the environment:
//! LIBIPC_MODEL_SEQUENCES: the number of sequences, 100 if it is not set;
//! LIBIPC_MODEL_SEED: the seed of the first sequence, 1 if it is not set; each further sequence has the next
//! number.

/// Returns an error with this text if the condition is false.
macro_rules! ensure {
    ($is_so:expr, $($what:tt)+) => {
        if !$is_so {
            return Err(format!($($what)+));
        }
    };
}

mod connection;
mod expected;
mod step;
mod world;

use std::fmt::Write;
use std::thread;

use crate::support::*;
use step::{Random, Step, sequence};

const SEQUENCES: u64 = 100;

/// The limit of time for one sequence.
const SECONDS: u64 = 100;

/// How often a failing sequence is tried at most with some of its steps left out.
const TRIES: u64 = 300;

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |set| set.parse().unwrap_or_else(|_| panic!("{variable}={set} is no number")))
}

/// Runs the sequence in a thread that is named after its seed: the messages of a panic and of the limit
/// contain the name.
fn run(seed: u64, steps: &[Step]) -> Result<(), String> {
    let steps = steps.to_vec();
    let running = thread::Builder::new().name(format!("the sequence of LIBIPC_MODEL_SEED={seed}"));
    let running = running.spawn(move || {
        let _limit = limit(SECONDS);
        let before = open_descriptors();
        world::run(&steps)?;
        let after = open_descriptors();
        ensure!(after == before, "{before} descriptors were open, and {after} are");
        Ok(())
    });
    running.unwrap().join().unwrap_or_else(|_| Err("a panic".to_owned()))
}

/// The shortest failing part of the sequence that was found, and its failure.
fn shrink(seed: u64, mut steps: Vec<Step>, mut failure: String) -> (Vec<Step>, String) {
    let (mut size, mut tries) = (steps.len() / 2, 0);
    while size > 0 && tries < TRIES {
        let mut from = 0;
        while from < steps.len() && tries < TRIES {
            let mut part = steps.clone();
            part.drain(from..steps.len().min(from + size));
            tries += 1;
            match run(seed, &part) {
                Ok(()) => from += size,
                Err(what) => (steps, failure) = (part, what),
            }
        }
        size /= 2;
    }
    (steps, failure)
}

fn report(seed: u64, steps: &[Step], failure: &str) -> String {
    let mut report = format!("{failure}\n\nThe sequence, without the steps that are not needed for this:\n");
    for (number, step) in steps.iter().enumerate() {
        writeln!(report, "{number:4} {step:?}").unwrap();
    }
    let again = "cargo test --test core queue_model";
    write!(report, "\nLIBIPC_MODEL_SEED={seed} LIBIPC_MODEL_SEQUENCES=1 {again} runs all of it again")
        .unwrap();
    report
}

/// The number of sequences.
fn count() -> u64 {
    number("LIBIPC_MODEL_SEQUENCES", SEQUENCES)
}

#[test]
fn accepted_messages_arrive_once_and_refused_ones_never() {
    own_process!(SECONDS.saturating_mul(count().saturating_add(TRIES)));
    let seed = number("LIBIPC_MODEL_SEED", 1);
    for seed in (0..count()).map(|number| seed.wrapping_add(number)) {
        let steps = sequence(&mut Random(seed));
        if let Err(failure) = run(seed, &steps) {
            let (steps, failure) = shrink(seed, steps, failure);
            panic!("{}", report(seed, &steps, &failure));
        }
    }
}
