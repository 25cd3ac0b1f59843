//! Closing a connection.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::calls::flush::last_flush;
use crate::connection::table;
use crate::error::{Error, ipc_errors as Code};
use crate::event_loop::loops;
use crate::kernel::{internal_fds, socket};
use crate::process::entry_guard::Section;
use crate::service::endpoint;

/// Closes a descriptor, after a last try to send what is queued for it. One that the library keeps, and the number of a
/// connection whose end was just reported, is not the program's to close: EBADF.
pub fn close_connection(section: &mut Section, fd: RawFd) -> Result<(), Error> {
    if internal_fds::is_internal(fd) {
        return Err(Error::new(Code::IPC_ERROR_USOCK_CLOSE, Errno::EBADF));
    }
    last_flush(section, Some(fd));
    loops::closing(section, fd);
    let mut slot = table::lock(section, fd);
    if slot.get().is_some_and(|connection| connection.writer.is_some()) {
        // A thread that is in the middle of a frame waits for the socket.
        socket::shut_down(fd);
    }
    drop(slot);
    // The memory is dropped without the lock; a read that waits learns that the number is another one's from now on.
    drop(table::note_closing(section, fd));
    endpoint::close(fd)
}
