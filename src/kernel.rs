//! System calls with their errors, and the descriptors that the library keeps open for itself.
//!
//! A function here reports what the kernel has answered, and never decides what the answer means for a
//! connection.

pub mod ancillary;
pub mod deadline;
pub mod dir_watch;
pub mod direct;
pub mod event_fd;
pub mod fd;
pub mod file;
pub mod internal_fds;
pub mod notices;
pub mod poller;
pub mod semaphore;
pub mod signals;
pub mod socket;
pub mod socket_diag;
pub mod threads;
pub mod wait;
