//! What a call does, with its waiting.

pub mod close;
pub mod flush;
pub mod queue;
pub mod read;
pub mod write;
