//! One connection: what has come in, what is yet to go out, and where that is remembered.

pub mod background;
pub mod frame_decoder;
pub mod received_fds;
pub mod send;
pub mod send_queue;
pub mod stall;
pub mod state;
pub mod table;
pub mod turn;
pub mod user_data;
