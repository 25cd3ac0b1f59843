//! Closing a connection.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::calls::flush::last_flush;
use crate::connection::table;
use crate::error::Error;
use crate::event_loop;
use crate::kernel::socket;
use crate::process::entry_guard::Section;
use crate::service::endpoint;

/// Closes a descriptor, after a last try to send what is queued for it.
pub fn close_connection(section: &mut Section, fd: RawFd) -> Result<(), Error> {
    last_flush(section, Some(fd));
    event_loop::closing(section, fd);
    let mut slot = table::lock(section, fd);
    if slot.get().is_some_and(|connection| connection.writer.is_some()) {
        // Who is in the middle of a frame, this thread or another, has the socket open for as long as it waits.
        socket::shut_down(fd);
    }
    slot.forget();
    drop(slot);
    endpoint::close(fd)
}
