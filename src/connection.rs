//! One connection: the bytes received, the bytes still to be sent, and the table that keeps both for each
//! descriptor.

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
