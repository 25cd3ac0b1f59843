//! Peer credentials (SO_PEERCRED) and file descriptor passing (SCM_RIGHTS).
//!
//! A received descriptor is *waiting* in the connection's memory (`connection::received_fds`) until
//! `ipc_take_fd` hands it to the program, or until the next message of the connection is received, or the
//! connection ends: then the library closes it. This file has no state of its own.

use std::ffi::c_int;
use std::os::fd::IntoRawFd;

use nix::errno::Errno;

use super::boundary::{call, fd_of, required, setting_failed};
use super::messages;
use super::types::{ipc_connection_info, ipc_message};
use crate::connection::table;
use crate::error::{Error, ipc_errors};
use crate::kernel::fd;
use crate::kernel::socket;

/// The credentials of a peer, as the kernel recorded them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_peer {
    /// The process ID; the process may have ended meanwhile, and another process may have its ID. 0 for a
    /// process in another PID namespace.
    pub pid: libc::pid_t,
    /// The effective user ID.
    pub uid: libc::uid_t,
    /// The effective group ID.
    pub gid: libc::gid_t,
}

fn failed(errno: Errno) -> Error {
    Error::new(ipc_errors::IPC_ERROR_USOCK_RECV, errno)
}

/// Returns the peer credentials of the connection, as the kernel recorded them (SO_PEERCRED of unix(7)). A
/// server gets the credentials of the process that connected, a client those of the process that opened the
/// service.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: a parameter is NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: the connection is not open (EBADF), no socket (ENOTSOCK) or not connected
/// (ENOTCONN).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_peer(p: *const ipc_connection_info, peer: *mut ipc_peer) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO;
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |_| {
        let peer = required(peer, code)?;
        // SAFETY: the caller's structure, if any.
        let credentials = socket::peer_credentials(unsafe { fd_of(p, code) }?).map_err(failed)?;
        // SAFETY: the caller's room for a peer.
        unsafe {
            peer.write(ipc_peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
        };
        Ok(())
    })
}

/// Sends the message as ipc_write does, and passes the descriptor `fd` with the message. If the peer has
/// called ipc_allow_fds, the peer gets another descriptor of the same open file, and else the message alone.
/// `fd` stays open, and may be closed at once.
///
/// Errors: as for ipc_write; IPC_ERROR_USOCK_SEND with EBADF also if `fd` is not open, with EMFILE if the
/// message has to be queued and no descriptor is free for a copy of `fd`, and with ETOOMANYREFS if too many
/// descriptors are in flight (unix(7)).
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_write_fd(
    p: *const ipc_connection_info,
    m: *const ipc_message,
    fd: c_int,
) -> ipc_errors {
    // SAFETY: the caller's message and structure.
    unsafe { messages::write_message(m, fd_of(p, ipc_errors::IPC_ERROR_USOCK_SEND), Some(fd)) }
}

/// Allows the peer to pass descriptors with the messages of the connection, or, called for a service, of the
/// connections that the service accepts from then on. By default passed descriptors are closed by the kernel,
/// since a peer could use up all descriptors of the process.
///
/// At most 16 descriptors of a connection wait for ipc_take_fd; each is close-on-exec. Descriptors that were
/// not taken are closed when ipc_read or ipc_wait_event receives from the connection again, or when the
/// connection ends. After fork(2) the permission holds in the child, too.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: the descriptor is not open (EBADF), or no socket (ENOTSOCK).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_allow_fds(p: *const ipc_connection_info) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |guard| {
        // SAFETY: the caller's structure, if any.
        let fd = unsafe { fd_of(p, ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO) }?;
        table::change_settings(guard, fd, |settings| settings.descriptors = true).map_err(setting_failed)
    })
}

/// `*fd` becomes the next descriptor that was passed with the last received message of the connection; the
/// descriptor is yours to close. Call the function again for further descriptors of the message.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: a parameter is NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: no descriptor was passed with the message, or all were taken (ENOENT; `*fd` becomes
/// -1), or the connection is not open (EBADF).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_take_fd(p: *const ipc_connection_info, fd: *mut c_int) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO;
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |guard| {
        let fd = required(fd, code)?;
        // SAFETY: the caller's room for a descriptor, and its structure, if any.
        let connection = unsafe {
            fd.write(-1);
            fd_of(p, code)?
        };
        fd::check_usable(connection).map_err(failed)?;
        let taken = table::lock_verified(guard, connection)
            .get()
            .and_then(|connection| connection.decoder.descriptors.as_mut()?.take());
        // SAFETY: as above.
        unsafe { fd.write(taken.ok_or(failed(Errno::ENOENT))?.into_raw_fd()) };
        Ok(())
    })
}
