//! What each call of the C interface does: a sequence of steps under locks, with waits between the steps.
//!
//! A step returns a [`flow::Flow`]: the result of the call, or that the call has to wait. If it has to wait,
//! the step has written into a `kernel::wait::Wait` what to wait for. The waiting itself is the exported
//! function's.

pub mod accept;
pub mod close;
pub mod connect;
pub mod flow;
pub mod flush;
mod held_back;
pub mod outgoing;
pub mod queue;
pub mod read;
pub mod wait_event;
pub mod write;
