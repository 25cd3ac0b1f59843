//! When the entries of the list are checked.
//!
//! The program may close descriptors and change entries directly, and nothing reports such a change. So while
//! a call waits, one pass goes through the list, a part at a time with pauses between the parts, so that the
//! time of one check does not grow with the list. After that there is one pass each second.

#![forbid(unsafe_code)]

use std::ops::Range;

use crate::kernel::deadline;

/// How many entries are checked at a time.
const PART: usize = 64;

/// The pauses between two parts and between two passes, in milliseconds.
pub const PART_PAUSE: u32 = 10;
pub const PASS_PAUSE: u32 = 1000;

/// How far the list has been checked since the program last ran.
#[derive(Default)]
pub struct Scan {
    /// The place at which the next part begins.
    from: usize,
    left: Left,
    /// When the last part was checked, in milliseconds.
    looked_at: i64,
    /// Whether the present call may wait.
    may_wait: bool,
}

#[derive(Default, PartialEq, Eq)]
/// What is left to check.
enum Left {
    /// Nothing: no change since the last pass.
    #[default]
    Nothing,
    /// The places from `from` on.
    Rest,
    /// The whole list; the pass that has come to `from` began before the program ran, and does not count.
    All,
}

impl Scan {
    /// A call of the program begins: the program has run since the last one.
    pub fn begin(&mut self, may_wait: bool) {
        self.left = Left::All;
        self.may_wait = may_wait;
    }

    /// How long to wait until the next check, in milliseconds.
    pub fn pause(&self) -> u32 {
        if self.left == Left::Nothing { PASS_PAUSE } else { PART_PAUSE }
    }

    /// Whether a part is to be checked when the clock ticks.
    pub fn is_due(&mut self) -> bool {
        if self.left == Left::Nothing && deadline::milliseconds() - self.looked_at >= i64::from(PASS_PAUSE) {
            self.left = Left::All;
        }
        self.left != Left::Nothing && self.may_wait
    }

    /// Whether a part is to be checked without a tick: a call that may not wait does not set the clock, which
    /// would wake a program that calls again and again without waiting.
    pub fn is_overdue(&self) -> bool {
        !self.may_wait && deadline::milliseconds() - self.looked_at >= i64::from(PART_PAUSE)
    }

    /// All entries were checked at once.
    pub fn finish(&mut self) {
        (self.from, self.left, self.looked_at) = (0, Left::Nothing, deadline::milliseconds());
    }

    /// The next part to check, of a list of this size.
    pub fn part(&mut self, size: usize) -> Range<usize> {
        if self.from == 0 && self.left == Left::All {
            self.left = Left::Rest;
        }
        self.looked_at = deadline::milliseconds();
        let part = self.from..size.min(self.from + PART);
        if part.end < size {
            self.from = part.end;
        } else {
            self.from = 0;
            if self.left == Left::Rest {
                self.left = Left::Nothing;
            }
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_visits_each_entry_once_after_last_call() {
        let mut scan = Scan::default();
        scan.begin(true);
        let mut seen = Vec::new();
        while scan.is_due() {
            seen.extend(scan.part(150));
        }
        assert!(seen.into_iter().eq(0..150));
        assert_eq!(scan.pause(), PASS_PAUSE);
        // After a call in the middle of a pass the whole list is checked again.
        scan.begin(true);
        assert_eq!(scan.part(150), 0..64);
        scan.begin(true);
        assert_eq!((scan.part(150), scan.part(150)), (64..128, 128..150));
        assert!(scan.is_due());
        assert_eq!(scan.part(150), 0..64);
    }

    #[test]
    fn pass_ends_when_list_shrinks() {
        let mut scan = Scan::default();
        scan.begin(true);
        assert_eq!(scan.part(100), 0..64);
        assert!(scan.part(10).is_empty());
        assert!(!scan.is_due());
    }
}
