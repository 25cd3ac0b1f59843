//! Deadlines of calls, on the monotonic clock. A deadline is fixed when it is made; no other state.

#![forbid(unsafe_code)]

use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime};

/// The time until which a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time in microseconds of the monotonic clock; None if the call may wait without limit.
    end: Option<i64>,
}

impl Deadline {
    /// No limit.
    pub const NONE: Self = Self { end: None };

    /// So many milliseconds from now; no limit if the number is negative.
    pub fn of(milliseconds: i32) -> Self {
        if milliseconds < 0 { Self::NONE } else { Self::since(now(), milliseconds) }
    }

    /// So many milliseconds after `begun`, a value of [`now`]; no limit if the number is negative.
    pub fn since(begun: i64, milliseconds: i32) -> Self {
        Self { end: (milliseconds >= 0).then(|| begun + 1000 * i64::from(milliseconds)) }
    }

    /// How many milliseconds are left: 0 if the deadline has passed, -1 if there is none.
    pub fn left(self) -> i32 {
        let Some(end) = self.end else { return -1 };
        // Rounded up: with a timeout of 0 before the deadline, the caller would spin.
        let left = (end - now() + 999) / 1000;
        i32::try_from(left.max(0)).unwrap_or(i32::MAX)
    }
}

/// A time of the monotonic clock as the kernel reports it: converted only if it is used.
#[derive(Clone, Copy)]
pub struct Moment(TimeSpec);

impl Moment {
    /// The present time.
    pub fn now() -> Self {
        Self(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0)))
    }

    /// The time in microseconds, as [`now`] returns it.
    pub fn microseconds(self) -> i64 {
        self.0.num_microseconds()
    }
}

/// The time of the monotonic clock in microseconds.
pub fn now() -> i64 {
    Moment::now().microseconds()
}

/// The time of the monotonic clock in milliseconds.
pub fn milliseconds() -> i64 {
    now() / 1000
}
