//! Opening a service with options (mode, owner, backlog, the program's own socket), and connecting with a
//! timeout.
//!
//! The options are checked and converted once (`decode_options`); a service with the program's own socket has
//! no others. A connect with a timeout goes through its steps in `calls::connect`. No state here.

use std::ffi::{c_char, c_int};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use super::boundary::{call, required, required_const, run};
use super::server_and_client::{listen_at, open_service, reset_closed_fd, route_of};
use super::types::ipc_connection_info;
use crate::calls::connect::TimedConnect;
use crate::error::{Error, ipc_errors};
use crate::kernel::deadline::Deadline;
use crate::kernel::internal_fds;
use crate::service::activation;
use crate::service::endpoint::{self, Options};

/// Flag of ipc_server_options: `mode` is set.
pub const IPC_SERVER_MODE: u32 = 1;
/// Flag of ipc_server_options: `uid` is set.
pub const IPC_SERVER_UID: u32 = 2;
/// Flag of ipc_server_options: `gid` is set.
pub const IPC_SERVER_GID: u32 = 4;
/// Flag of ipc_server_options: `backlog` is set.
pub const IPC_SERVER_BACKLOG: u32 = 8;
/// Flag of ipc_server_options: `fd` is set.
pub const IPC_SERVER_FD: u32 = 16;

/// The flags for a socket that the library makes.
const MAKING: u32 = IPC_SERVER_MODE | IPC_SERVER_UID | IPC_SERVER_GID | IPC_SERVER_BACKLOG;

/// Options of ipc_server_open. With all members 0 the service is opened as by ipc_server_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ipc_server_options {
    /// Which of the other members are set: IPC_SERVER_MODE and the others.
    pub flags: u32,
    /// The permissions of the socket's file, independent of the umask. A user who may write to the file may
    /// connect.
    pub mode: libc::mode_t,
    /// The owner of the socket's file.
    pub uid: libc::uid_t,
    /// The group of the socket's file.
    pub gid: libc::gid_t,
    /// How many new clients may wait to be accepted. If it is not set: as many as the kernel allows.
    pub backlog: c_int,
    /// A listening socket, which belongs to the service when the call has succeeded.
    pub fd: c_int,
}

/// ipc_server_init with options; `options` may be NULL. A process that mode, owner and group do not permit
/// cannot connect at any moment. The options have no effect on a socket that a service manager has handed
/// over.
///
/// With IPC_SERVER_FD the service listens at `fd`; no other flag may be set then. ipc_server_close does not
/// remove the socket's file in this case. `srv->spath` becomes the path that ipc_server_init would use.
///
/// Errors: IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM, IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM: NULL
/// (EINVAL).
/// IPC_ERROR_SERVER_INIT__MALLOC, IPC_ERROR_USOCK_INIT__EMPTY_PATH, IPC_ERROR_USOCK_INIT__LISTEN: as for
/// ipc_server_init.
/// IPC_ERROR_USOCK_INIT__BIND: as for ipc_server_init; also if a flag is unknown or cannot be combined with
/// IPC_SERVER_FD, `mode` is over 0777, or `backlog` is below 0 (EINVAL); or if you may not set this owner or
/// group (EPERM).
/// IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR: `fd` is not open (EBADF), no socket (ENOTSOCK), or not a
/// listening Unix stream socket (EINVAL); or socket(2) failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_server_open(
    srv: *mut ipc_connection_info,
    sname: *const c_char,
    options: *const ipc_server_options,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_INIT__BIND, |guard| {
        // SAFETY: the caller's structure, if any.
        unsafe { reset_closed_fd(guard, srv) };
        let srv = required(srv, ipc_errors::IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM)?;
        let sname = required_const(sname, ipc_errors::IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM)?;
        // SAFETY: the caller's options, if any.
        let decoded = unsafe { options.as_ref() }.map_or(Ok((Options::default(), None)), decode_options);
        let (options, fd) = decoded?;
        // SAFETY: the caller's structure and string.
        unsafe {
            open_service(guard, srv, sname, |guard, path| match fd {
                None => listen_at(guard, path, &options),
                Some(fd) => {
                    let failed =
                        |errno| Error::new(ipc_errors::IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR, errno);
                    internal_fds::of_program(fd).and_then(activation::check).map_err(failed)?;
                    if endpoint::is_service(guard, fd) {
                        return Err(Error::new(ipc_errors::IPC_ERROR_USOCK_INIT__BIND, Errno::EBUSY));
                    }
                    endpoint::adopt(guard, fd).map(|()| fd).map_err(failed)
                }
            })
        }
    })
}

/// The options that are set, and the program's socket, if there is one.
fn decode_options(options: &ipc_server_options) -> Result<(Options, Option<c_int>), Error> {
    let has = |flag| options.flags & flag != 0;
    let is_invalid = options.flags & !(MAKING | IPC_SERVER_FD) != 0
        || has(IPC_SERVER_FD) && has(MAKING)
        || has(IPC_SERVER_MODE) && options.mode > 0o777
        || has(IPC_SERVER_BACKLOG) && options.backlog < 0;
    if is_invalid {
        return Err(Error::argument(ipc_errors::IPC_ERROR_USOCK_INIT__BIND));
    }
    let made = Options {
        mode: has(IPC_SERVER_MODE).then(|| Mode::from_bits_truncate(options.mode)),
        user: has(IPC_SERVER_UID).then(|| Uid::from_raw(options.uid)),
        group: has(IPC_SERVER_GID).then(|| Gid::from_raw(options.gid)),
        backlog: has(IPC_SERVER_BACKLOG).then_some(options.backlog),
    };
    Ok((made, has(IPC_SERVER_FD).then_some(options.fd)))
}

/// Connects as ipc_connection does, and waits for at most `timeout_ms` milliseconds, also for a service that
/// does not exist yet or whose server is dead. With 0 the function tries once; below 0 it waits without a
/// timeout.
///
/// A signal handler that runs meanwhile does not end a wait that has a timeout, nor make it longer.
///
/// Errors: IPC_ERROR_CONNECTION__NO_SERVER, IPC_ERROR_CONNECTION__NO_SERVICE_NAME: NULL (EINVAL).
/// IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, IPC_ERROR_NOT_ENOUGH_MEMORY: as for ipc_connection.
/// IPC_ERROR_USOCK_CONNECT__SOCKET: the timeout has expired (ETIMEDOUT); or as for ipc_connection.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_connection_timeout(
    p: *mut ipc_connection_info,
    sname: *const c_char,
    timeout_ms: c_int,
) -> ipc_errors {
    let mut state = None;
    // SAFETY: this frame has plain data only; the caller's structure and string.
    unsafe {
        run(ipc_errors::IPC_ERROR_USOCK_CONNECT__SOCKET, |guard, wait| {
            if wait.is_first() && !p.is_null() {
                (*p).fd = -1;
            }
            let p = required(p, ipc_errors::IPC_ERROR_CONNECTION__NO_SERVER)?;
            let sname = required_const(sname, ipc_errors::IPC_ERROR_CONNECTION__NO_SERVICE_NAME)?;
            let path =
                route_of(p, sname).inspect_err(|_| state.iter_mut().for_each(TimedConnect::give_up))?;
            let connect = state.get_or_insert_with(|| TimedConnect::new(Deadline::of(timeout_ms)));
            Ok(connect.step(guard, &path, wait)?.map(|fd| (*p).fd = fd))
        })
    }
}
