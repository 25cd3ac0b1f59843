//! System calls, and the descriptors that the library keeps.

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
