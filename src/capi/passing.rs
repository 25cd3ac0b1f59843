//! Peer credentials (SO_PEERCRED) and file descriptor passing (SCM_RIGHTS).

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

/// A process, as the kernel knows it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_peer {
    /// The process; it may have ended since, and its number be another one's. 0 for one in another PID namespace.
    pub pid: libc::pid_t,
    /// Its effective user.
    pub uid: libc::uid_t,
    /// Its effective group.
    pub gid: libc::gid_t,
}

fn failed(errno: Errno) -> Error {
    Error::new(ipc_errors::IPC_ERROR_USOCK_RECV, errno)
}

/// Returns the peer credentials of the connection, as the kernel recorded them (SO_PEERCRED of unix(7)): on the
/// server's side those of the process that connected, on the client's side those of the process that opened the service.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: a parameter is NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: the connection is not open (EBADF), no socket (ENOTSOCK) or not connected (ENOTCONN).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_peer(p: *const ipc_connection_info, peer: *mut ipc_peer) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO;
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |_| {
        let peer = required(peer, code)?;
        // SAFETY: the caller's structure, if any.
        let credentials = socket::peer_credentials(unsafe { fd_of(p, code) }?).map_err(failed)?;
        // SAFETY: the caller's place for a peer.
        unsafe {
            peer.write(ipc_peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
        };
        Ok(())
    })
}

/// Sends the message as ipc_write does, and with it the descriptor `fd`: the peer gets another descriptor of the
/// same open file, if it has called ipc_allow_fds, and else the message alone. Yours stays open, and may be
/// closed at once.
///
/// Errors: as for ipc_write; IPC_ERROR_USOCK_SEND with EBADF also for an `fd` that is not open, with EMFILE if
/// the message has to be queued and there is no descriptor left to keep it with, and with ETOOMANYREFS if too
/// many are on their way (unix(7)).
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_write_fd(
    p: *const ipc_connection_info,
    m: *const ipc_message,
    fd: c_int,
) -> ipc_errors {
    // SAFETY: the caller's message and structure.
    unsafe { messages::write(m, fd_of(p, ipc_errors::IPC_ERROR_USOCK_SEND), Some(fd)) }
}

/// Has descriptors received that come with the messages of the connection, or, called for a service, of those
/// that it accepts from then on. Without it they are closed by the kernel: a peer could fill the table of
/// descriptors.
///
/// At most 16 wait to be taken, each close-on-exec; ipc_take_fd gives them out. Those that are not taken are closed
/// when the connection is received from again, by ipc_read or ipc_wait_event, or with the connection. After
/// fork(2) it holds in the child, too.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: it is not open (EBADF), or no socket (ENOTSOCK).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_allow_fds(p: *const ipc_connection_info) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |guard| {
        // SAFETY: the caller's structure, if any.
        let fd = unsafe { fd_of(p, ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO) }?;
        table::set(guard, fd, |settings| settings.descriptors = true).map_err(setting_failed)
    })
}

/// `*fd` becomes the next descriptor that came with the message just received on the connection; it is yours to
/// close. Call it again for further ones.
///
/// Errors: IPC_ERROR_CONNECTION_GEN__NO_CINFO: a parameter is NULL (EINVAL).
/// IPC_ERROR_USOCK_RECV: none came with it, or all are taken (ENOENT; `*fd` becomes -1), or the connection is
/// not open (EBADF).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_take_fd(p: *const ipc_connection_info, fd: *mut c_int) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_CONNECTION_GEN__NO_CINFO;
    call(ipc_errors::IPC_ERROR_USOCK_RECV, |guard| {
        let fd = required(fd, code)?;
        // SAFETY: the caller's place for a descriptor, and its structure, if any.
        let of = unsafe {
            fd.write(-1);
            fd_of(p, code)?
        };
        fd::check_usable(of).map_err(failed)?;
        let taken = table::lock_verified(guard, of)
            .get()
            .and_then(|connection| connection.decoder.descriptors.as_mut()?.take());
        // SAFETY: as above.
        unsafe { fd.write(taken.ok_or(failed(Errno::ENOENT))?.into_raw_fd()) };
        Ok(())
    })
}
