//! What a step of a call ends with.

#![forbid(unsafe_code)]

/// What a call is about to do.
pub enum Flow<T> {
    /// It is over.
    Done(T),
    /// It waits for what the step has said, outside of every lock, and then makes its next step.
    Wait,
}

impl<T> Flow<T> {
    /// Hands over what the call has come to, if it is over.
    pub fn map<R>(self, hand_over: impl FnOnce(T) -> R) -> Flow<R> {
        match self {
            Self::Wait => Flow::Wait,
            Self::Done(result) => Flow::Done(hand_over(result)),
        }
    }
}
