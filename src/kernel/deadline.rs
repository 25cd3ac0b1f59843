//! Until when a call may wait.

#![forbid(unsafe_code)]

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// In microseconds of the monotonic clock.
    end: Option<i64>,
}

impl Deadline {
    /// For ever.
    pub const NONE: Self = Self { end: None };

    /// For so many milliseconds from now on; for ever if they are negative.
    pub fn of(milliseconds: i32) -> Self {
        if milliseconds < 0 { Self::NONE } else { Self::since(now(), milliseconds) }
    }

    /// For so many milliseconds from the time `begun` on, which [`now`] has said; for ever if they are negative.
    pub fn since(begun: i64, milliseconds: i32) -> Self {
        Self { end: (milliseconds >= 0).then(|| begun + 1000 * i64::from(milliseconds)) }
    }

    /// The time that is left, in milliseconds: -1 for ever.
    pub fn left(self) -> i32 {
        let Some(end) = self.end else { return -1 };
        // Rounded up: a wait of 0 before the time is over would spin.
        let left = (end - now() + 999) / 1000;
        i32::try_from(left.max(0)).unwrap_or(i32::MAX)
    }
}

/// The time by which limits are counted, in microseconds.
pub fn now() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_microseconds())
}

/// The same in milliseconds.
pub fn milliseconds() -> i64 {
    now() / 1000
}
