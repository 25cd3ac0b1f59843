//! What a step of a call ends with.

#![forbid(unsafe_code)]

use crate::kernel::wait::Wait;

/// What a call is about to do.
#[allow(clippy::large_enum_variant, reason = "it is moved once, from a step to the wait")]
pub enum Flow<T> {
    /// It is over.
    Done(T),
    /// It waits, outside of every lock, and then makes its next step.
    Wait(Wait),
}

impl<T> Flow<T> {
    /// Hands over what the call has come to, if it is over; else what to wait for.
    pub fn finish(self, hand_over: impl FnOnce(T)) -> Option<Wait> {
        match self {
            Self::Wait(wait) => Some(wait),
            Self::Done(result) => {
                hand_over(result);
                None
            }
        }
    }
}
