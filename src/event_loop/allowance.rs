//! How long writers may wait for the peers of one list: during these waits the list is not served.
//!
//! A wait that ends soon, with bytes taken, is free: the peer keeps up, and a large message need not be
//! copied into a queue. All other waits together may last [`ALL`], until none was counted for [`RENEWED`]. So
//! no period of that length has longer waits, however many peers are slow.

#![forbid(unsafe_code)]

/// A wait up to this long is free, if the peer has taken bytes; in microseconds.
const SOON: i64 = 1000;

/// How long all other waits together may last, in microseconds.
const ALL: i64 = 5000;

/// After so long without a counted wait the whole time is available again, in microseconds.
const RENEWED: i64 = 100_000;

/// The time that the writers of one list have used.
#[derive(Default)]
pub struct Allowance {
    spent: i64,
    /// When the last counted wait ended, in microseconds.
    last: i64,
}

impl Allowance {
    /// How long a wait that begins now may last, in milliseconds; 0 if it must not begin.
    pub fn left(&mut self, now: i64) -> i32 {
        if now - self.last >= RENEWED {
            self.spent = 0;
        }
        i32::try_from((ALL - self.spent).max(0) / 1000).unwrap_or(0)
    }

    /// A wait has ended; `has_taken` says whether the peer has taken bytes.
    pub fn note(&mut self, began: i64, now: i64, has_taken: bool) {
        let took = now - began;
        if !has_taken || took > SOON {
            self.spent += took;
            self.last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_count_until_a_period_without_any() {
        let (mut allowance, mut now) = (Allowance::default(), 10 * RENEWED);
        // Waits for peers that keep up are not limited.
        for _ in 0..100 {
            assert_eq!(allowance.left(now), 5);
            allowance.note(now, now + SOON, true);
            now += SOON;
        }
        allowance.note(now, now + 2000, true);
        now += 2000;
        assert_eq!(allowance.left(now), 3);
        allowance.note(now, now + 1500, false);
        now += 1500;
        assert_eq!(allowance.left(now), 1);
        allowance.note(now, now + 1600, false);
        now += 1600;
        assert_eq!(allowance.left(now), 0);
        assert_eq!(allowance.left(now + RENEWED - 1), 0);
        assert_eq!(allowance.left(now + RENEWED), 5);
    }

    #[test]
    fn no_period_exceeds_the_allowance() {
        let (mut allowance, mut state, mut now) = (Allowance::default(), 1_u64, RENEWED);
        let mut waits = Vec::new();
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += i64::try_from((state >> 33) % 30_000).unwrap();
            let left = i64::from(allowance.left(now)) * 1000;
            if left > 0 {
                allowance.note(now, now + left, false);
                waits.push((now, now + left));
                now += left;
            }
        }
        for (index, (begin, _)) in waits.iter().enumerate() {
            let within = waits.iter().skip(index).take_while(|(other, _)| *other < begin + RENEWED);
            let sum: i64 = within.map(|(from, to)| to.min(&(begin + RENEWED)) - from).sum();
            assert!(sum <= ALL, "{sum} microseconds");
        }
    }
}
