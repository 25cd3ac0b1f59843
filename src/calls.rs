//! The calls of the interface: each is a sequence of steps under locks, with waits between the steps.

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
