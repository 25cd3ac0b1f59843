//! What a call does, with its waiting.

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
