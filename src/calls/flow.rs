//! The result of one step of a call.

#![forbid(unsafe_code)]

/// How a call goes on after a step.
pub enum Flow<T> {
    /// The call is done.
    Done(T),
    /// The call waits as the step has said in its `Wait`, outside every lock, and then makes its next step.
    Wait,
}

impl<T> Flow<T> {
    /// Converts the result of a call that is done.
    pub fn map<R>(self, hand_over: impl FnOnce(T) -> R) -> Flow<R> {
        match self {
            Self::Wait => Flow::Wait,
            Self::Done(result) => Flow::Done(hand_over(result)),
        }
    }
}
