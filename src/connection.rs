//! One connection: the bytes that were received and not yet returned, the bytes that are not yet sent, and
//! the table that keeps both for each descriptor. Nothing here waits.

pub mod background;
pub mod frame_decoder;
pub mod received_fds;
pub mod send;
pub mod send_queue;
pub mod send_turn;
pub mod stall;
pub mod state;
pub mod table;
pub mod user_data;
