//! Services and connections of `ipc.h`: open, connect, accept, read, write, close; and the path of a service.
//!
//! A structure is a service that is *open* if its `spath` is not NULL and its `fd` is the listening socket of
//! a service (`endpoint::is_service`); else it is *closed*. `open_service` opens it, `ipc_server_close`
//! closes it. A closed structure has the `fd` -1 after a failed open, so that a later close does not close
//! standard input. The environment is read at each call; the library does not change it.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;

use super::boundary::{call, call_or, fd_of, required, required_const, run};
use super::messages;
use super::types::{ipc_connection_info, ipc_message};
use crate::calls::accept::Accept;
use crate::calls::close::close_connection;
use crate::calls::flow::Flow;
use crate::error::{Error, ipc_errors};
use crate::event_loop::loops;
use crate::frame::c_heap::{self, Block};
use crate::kernel::deadline::Deadline;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::EntryGuard;
use crate::service::endpoint::{self, Connect, Options};
use crate::service::route::{self, Route};
use crate::service::{activation, path};

/// The value of an environment variable. `None` also in a program that runs with the rights of another user
/// or group (AT_SECURE): there the environment is not trusted.
fn variable<'a>(name: &CStr) -> Option<&'a CStr> {
    // SAFETY: getauxval takes any number and getenv a string; the program does not change the environment
    // meanwhile.
    let value = unsafe {
        if libc::getauxval(libc::AT_SECURE) != 0 { ptr::null() } else { libc::getenv(name.as_ptr()) }
    };
    // SAFETY: getenv returns a string, which is copied before the program's code runs again.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

/// The run directory.
fn rundir<'a>() -> &'a CStr {
    variable(c"IPC_RUNDIR").unwrap_or(path::DEFAULT_RUNDIR)
}

/// The path of the service with this name and with the structure's index and version.
///
/// # Safety
/// `info` points to a structure, `name` to a string.
unsafe fn service_path_of(
    info: *const ipc_connection_info,
    name: *const c_char,
    too_long: ipc_errors,
    no_memory: ipc_errors,
) -> Result<CString, Error> {
    // SAFETY: as promised by the caller.
    let (name, index, version) = unsafe { (CStr::from_ptr(name), (*info).index, (*info).version) };
    path::path(rundir(), name, index, version).map_err(|errno| match errno {
        Errno::ENOMEM => Error::new(no_memory, errno),
        errno => Error::new(too_long, errno),
    })
}

/// The path to connect to for the service with this name: the service's own path, or the path that an
/// environment variable sets.
///
/// # Safety
/// `info` points to a structure, `name` to a string.
pub(super) unsafe fn route_of(
    info: *const ipc_connection_info,
    name: *const c_char,
) -> Result<CString, Error> {
    let (too_long, no_memory) =
        (ipc_errors::IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY);
    let failed = |errno| Error::new(ipc_errors::IPC_ERROR_USOCK_CONNECT__SOCKET, errno);
    let of_memory = |_| Error::new(no_memory, Errno::ENOMEM);
    // SAFETY: as promised by the caller.
    let service = unsafe { CStr::from_ptr(name) }.to_bytes();
    let own = route::variable(service).and_then(|name| path::c_string(&name)).map_err(of_memory)?;
    let values = [own.as_c_str(), c"IPC_NETWORK"].map(|name| variable(name).map_or(&[][..], CStr::to_bytes));
    let [own, all] = values;
    match route::route(service, own, all).map_err(failed)? {
        // SAFETY: as promised by the caller.
        Route::Direct => unsafe { service_path_of(info, name, too_long, no_memory) },
        Route::Service(other) => {
            let other = path::c_string(other).map_err(of_memory)?;
            // SAFETY: as promised by the caller.
            unsafe { service_path_of(info, other.as_ptr(), too_long, no_memory) }
        }
        Route::Path(path) if path.len() >= path::PATH_MAX => Err(Error::new(too_long, Errno::ENAMETOOLONG)),
        Route::Path(path) => path::c_string(path).map_err(of_memory),
        // The library has no bridge to other machines.
        Route::Bridge(_) => Err(failed(Errno::ENETUNREACH)),
    }
}

/// Opens the service `sname`: listens on a socket at "rundir/sname-index-version", with index and version
/// from `srv`, and fills in `srv->fd` and `srv->spath`. rundir is the value of the environment variable
/// IPC_RUNDIR, or /run/ipc/; its last directory is made if it is missing. The socket of a dead server is
/// replaced. `env` must not be NULL and is not read. Close the service with ipc_server_close.
///
/// If a service manager has handed over a listening socket of this path (LISTEN_PID, LISTEN_FDS of
/// sd_listen_fds(3)), the service uses this socket: no file is made or replaced, and ipc_server_close does
/// not remove the file.
///
/// `srv->spath` must be NULL or from malloc(3), and is freed: initialise the structure with zeros. On failure
/// `srv->fd` is -1, and `srv->spath` is the path that was tried, if a path was tried; ipc_server_close frees
/// it.
///
/// Errors: IPC_ERROR_SERVER_INIT__NO_ENVIRONMENT_PARAM, IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM,
/// IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM: NULL (EINVAL).
/// IPC_ERROR_SERVER_INIT__MALLOC: ENOMEM.
/// IPC_ERROR_USOCK_INIT__EMPTY_PATH: the path is longer than PATH_MAX (ENAMETOOLONG).
/// IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR: socket(2) failed.
/// IPC_ERROR_USOCK_INIT__BIND: another server has the path (EADDRINUSE), or the directory or the socket
/// cannot be made: errno has the reason (EACCES, ENOENT, ENOTDIR, EROFS, EMFILE; ENAMETOOLONG for a name that
/// is too long for the file system; ...). EBUSY: the structure is that of an open service, and is not
/// changed.
/// IPC_ERROR_USOCK_INIT__LISTEN: listen(2) failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_server_init(
    env: *mut *mut c_char,
    srv: *mut ipc_connection_info,
    sname: *const c_char,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_INIT__BIND, |guard| {
        // SAFETY: the caller's structure, if any.
        unsafe { reset_closed_fd(guard, srv) };
        required(env, ipc_errors::IPC_ERROR_SERVER_INIT__NO_ENVIRONMENT_PARAM)?;
        let srv = required(srv, ipc_errors::IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM)?;
        let sname = required_const(sname, ipc_errors::IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM)?;
        // SAFETY: the caller's structure and string.
        unsafe { open_service(guard, srv, sname, |guard, path| listen_at(guard, path, &Options::default())) }
    })
}

/// Whether the structure is that of an open service.
///
/// # Safety
/// `srv` points to a structure.
unsafe fn is_open(guard: &EntryGuard, srv: *const ipc_connection_info) -> bool {
    // SAFETY: as promised by the caller.
    unsafe { !(*srv).spath.is_null() && endpoint::is_service(guard, (*srv).fd) }
}

/// Sets `srv->fd` to -1, unless the service is open. A structure that was initialised with zeros has the
/// number of standard input, which a close after a failed open would close.
///
/// # Safety
/// `srv` is NULL or points to a structure.
pub(super) unsafe fn reset_closed_fd(guard: &EntryGuard, srv: *mut ipc_connection_info) {
    // SAFETY: as promised by the caller.
    unsafe {
        if !srv.is_null() && !is_open(guard, srv) {
            (*srv).fd = -1;
        }
    }
}

/// Opens a service; `listen` returns the listening socket for the service's path.
///
/// # Safety
/// `srv` points to a structure, `sname` to a string.
pub(super) unsafe fn open_service(
    guard: &mut EntryGuard,
    srv: *mut ipc_connection_info,
    sname: *const c_char,
    listen: impl FnOnce(&mut EntryGuard, &CStr) -> Result<RawFd, Error>,
) -> Result<(), Error> {
    let (too_long, no_memory) =
        (ipc_errors::IPC_ERROR_USOCK_INIT__EMPTY_PATH, ipc_errors::IPC_ERROR_SERVER_INIT__MALLOC);
    // SAFETY: as promised by the caller.
    if unsafe { is_open(guard, srv) } {
        return Err(Error::new(ipc_errors::IPC_ERROR_USOCK_INIT__BIND, Errno::EBUSY));
    }
    // SAFETY: as promised by the caller.
    let path = unsafe { service_path_of(srv, sname, too_long, no_memory) }?;
    let spath = Block::copy_of(path.to_bytes()).map_err(|_| Error::new(no_memory, Errno::ENOMEM))?;
    // SAFETY: the caller's structure; its path is NULL or from malloc(3).
    unsafe {
        c_heap::free((*srv).spath);
        (*srv).spath = spath.into_c();
    }
    let fd = listen(guard, &path)?;
    // SAFETY: the caller's structure.
    unsafe { (*srv).fd = fd };
    Ok(())
}

/// The socket that a service manager has handed over for this path, or a new one.
pub(super) fn listen_at(guard: &mut EntryGuard, path: &CStr, options: &Options) -> Result<RawFd, Error> {
    let failed = |errno| Error::new(ipc_errors::IPC_ERROR_USOCK_INIT__BIND, errno);
    let handed_over = variable(c"LISTEN_PID").zip(variable(c"LISTEN_FDS"));
    let found = handed_over.and_then(|(pid, count)| {
        activation::find(activation::handed_over(pid, count), path)
            .filter(|fd| !endpoint::is_service(guard, *fd))
    });
    if let Some(fd) = found {
        return endpoint::adopt(guard, fd).map(|()| fd).map_err(failed);
    }
    path::make_rundir(path).map_err(failed)?;
    endpoint::listen(guard, path, options)
}

/// Connects to the service `sname`, at the path that ipc_server_init describes, and fills in `p->fd`, with -1
/// on failure; the other members are not changed. The environment variables IPC_NETWORK_<SERVICE> and
/// IPC_NETWORK may name another service or socket to connect to: see libipc(7). The call waits while the
/// server's backlog is full. `env` must not be NULL and is not read. End the connection with ipc_close.
///
/// Errors: IPC_ERROR_CONNECTION__NO_ENVIRONMENT_PARAM, IPC_ERROR_CONNECTION__NO_SERVER,
/// IPC_ERROR_CONNECTION__NO_SERVICE_NAME: NULL (EINVAL).
/// IPC_ERROR_USOCK_CONNECT__EMPTY_PATH: the path is longer than PATH_MAX (ENAMETOOLONG).
/// IPC_ERROR_USOCK_CONNECT__SOCKET: the value of such a variable is not valid (EINVAL), or names a target
/// that needs a bridge to another machine (ENETUNREACH); or as for usock_connect.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_connection(
    env: *mut *mut c_char,
    p: *mut ipc_connection_info,
    sname: *const c_char,
) -> ipc_errors {
    let mut state = None;
    // SAFETY: this frame has plain data only; the caller's structure and string.
    unsafe {
        run(ipc_errors::IPC_ERROR_USOCK_CONNECT__SOCKET, |guard, wait| {
            if wait.is_first() && !p.is_null() {
                (*p).fd = -1;
            }
            required(env, ipc_errors::IPC_ERROR_CONNECTION__NO_ENVIRONMENT_PARAM)?;
            let p = required(p, ipc_errors::IPC_ERROR_CONNECTION__NO_SERVER)?;
            let sname = required_const(sname, ipc_errors::IPC_ERROR_CONNECTION__NO_SERVICE_NAME)?;
            connect_step(guard, wait, &mut state, |wait| Connect::new(&route_of(p, sname)?, wait))
                .map(|flow| flow.map(|fd| (*p).fd = fd))
        })
    }
}

/// A step of making a connection: the first step calls `begin` and waits, the second one returns the
/// descriptor.
pub(super) fn connect_step(
    guard: &EntryGuard,
    wait: &mut Wait,
    state: &mut Option<Connect>,
    begin: impl FnOnce(&mut Wait) -> Result<Connect, Error>,
) -> Result<Flow<RawFd>, Error> {
    match *state {
        Some(connect) => connect.finish(guard, wait).map(Flow::Done),
        None => {
            *state = Some(begin(wait)?);
            Ok(Flow::Wait)
        }
    }
}

/// Closes a service: closes its socket, removes the socket's file if the file is still that of this socket,
/// frees `srv->spath` and sets it to NULL. Connections stay open, and bytes that are queued for them are sent
/// within later calls.
///
/// A child that was forked after ipc_server_init may call the function while its parent goes on serving: the
/// file is not removed then. A signal handler may call it at any time.
///
/// Errors: IPC_ERROR_USOCK_CLOSE: NULL (EINVAL); the structure is not that of an open service, because the
/// service was closed already or was never opened (EBADF; nothing is closed or removed); or close(2) failed.
/// IPC_ERROR_USOCK_REMOVE__NO_FILE: the file was removed already, or belongs to another server (ENOENT).
/// IPC_ERROR_USOCK_REMOVE__UNLINK: unlink(2) failed. In both cases the service is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_server_close(srv: *mut ipc_connection_info) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_CLOSE;
    let close = |guard: Option<&mut EntryGuard>| {
        let srv = required(srv, code)?;
        // SAFETY: the caller's structure.
        let (fd, spath) = unsafe { ((*srv).fd, (*srv).spath) };
        // SAFETY: the caller's structure. A signal handler that closes the service from here on finds no path
        // to free.
        unsafe { (*srv).spath = ptr::null_mut() };
        if spath.is_null() {
            // Not open: the number may belong to another descriptor by now.
            return Err(Error::new(code, Errno::EBADF));
        }
        // SAFETY: `spath` is a string, which is freed below.
        let path = unsafe { CStr::from_ptr(spath) };
        let may_free = guard.is_some();
        let result = endpoint::close_service(guard, fd, path);
        if may_free {
            // SAFETY: `spath` is from malloc(3), and the structure no longer points to it.
            unsafe { c_heap::free(spath) };
        }
        result
    };
    call_or(
        code,
        || close(None),
        |guard| {
            // SAFETY: the caller's structure, if any.
            let fd = unsafe { fd_of(srv, code) }.ok().filter(|fd| endpoint::is_service(guard, *fd));
            fd.into_iter().for_each(|fd| loops::note_closing(guard, fd));
            close(Some(guard))
        },
    )
}

/// Closes the connection's descriptor. The structure is not changed, and stays in its list.
///
/// Bytes that are queued for the connection are sent within later calls of the library, as long as the peer
/// reads; ipc_close does not wait for that. Only if no descriptor is free for a copy of the connection,
/// ipc_close itself sends the bytes, for one second at most.
///
/// A signal handler may call the function at any time.
///
/// Error: IPC_ERROR_USOCK_CLOSE: NULL (EINVAL), or the descriptor is not open (EBADF).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_close(p: *mut ipc_connection_info) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_CLOSE;
    // SAFETY: the caller's structure, if any.
    let fd = unsafe { fd_of(p, code) };
    call_or(code, || endpoint::close(fd?), |guard| close_connection(guard, fd?))
}

/// Waits for a client of the service `srv`, accepts the client, and fills in `p`: the client's fd, and
/// version and index of the service; type and spath are not changed. A program that calls ipc_wait_event does
/// not need ipc_accept.
///
/// Errors: IPC_ERROR_ACCEPT__NO_SERVICE_PARAM, IPC_ERROR_ACCEPT__NO_CLIENT_PARAM: NULL (EINVAL).
/// IPC_ERROR_ACCEPT: accept4(2) failed, with the reason in errno: EINTR, EMFILE, EBADF, ...
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_accept(
    srv: *mut ipc_connection_info,
    p: *mut ipc_connection_info,
) -> ipc_errors {
    let mut accept = None;
    // SAFETY: this frame has plain data only; the caller's structures.
    unsafe {
        run(ipc_errors::IPC_ERROR_ACCEPT, |guard, wait| {
            let srv = required(srv, ipc_errors::IPC_ERROR_ACCEPT__NO_SERVICE_PARAM)?;
            let p = required(p, ipc_errors::IPC_ERROR_ACCEPT__NO_CLIENT_PARAM)?;
            let flow = accept.get_or_insert_with(|| Accept::new((*srv).fd)).step(guard, wait);
            let flow = flow.map_err(|errno| Error::new(ipc_errors::IPC_ERROR_ACCEPT, errno))?;
            Ok(flow.map(|fd| {
                (*p).version = (*srv).version;
                (*p).index = (*srv).index;
                (*p).fd = fd;
            }))
        })
    }
}

/// Waits for the next message of the connection and puts it into `m`. Messages that ipc_wait_event has read
/// ahead are returned first; after them the message is read from the socket, and no byte beyond it. The
/// payload is from malloc(3) and yours: ipc_message_empty frees it. A payload that `m` held before is freed:
/// initialise the message with zeros. On failure the message is as before.
///
/// Errors: IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM: `m` is NULL (EINVAL).
/// IPC_ERROR_CLOSED_RECIPIENT: the peer has closed the connection: between two messages (EPIPE), or in the
/// middle of a message or with unread bytes in its socket (ECONNRESET).
/// IPC_ERROR_USOCK_RECV: the connection is NULL (EINVAL); the peer announced more than IPC_MAX_MESSAGE_SIZE
/// or than ipc_limits allows, and no more messages can be read (EPROTO); a signal handler has run (EINTR), or
/// the socket's own timeout or O_NONBLOCK ended the wait (EAGAIN): the next call goes on where this call
/// stopped; or recv(2) failed.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; the next call returns the message.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_read(p: *const ipc_connection_info, m: *mut ipc_message) -> ipc_errors {
    // SAFETY: the caller's structures, if any.
    unsafe { messages::read_message(m, fd_of(p, ipc_errors::IPC_ERROR_USOCK_RECV), Deadline::NONE) }
}

/// Sends the message to the connection, whole and once.
///
/// For a connection in no list, the call returns when the kernel has taken the whole message, however long
/// that takes. For a connection in a list, the call waits a few milliseconds at most for a peer that does not
/// keep up; the rest is queued in memory, and is sent within later calls of the library, also after
/// ipc_close, and at exit. At most 16 MiB are queued for a connection; if the queue is full, the call waits
/// as long as the peer reads. If another entry of the list needs to be served meanwhile, more is queued, up
/// to 256 MiB for all connections together. A limit of ipc_limits replaces both: if the queue is full then,
/// the call fails at once. Several threads may write to one connection.
///
/// Errors: IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM: `m` is NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: the message's length is over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: the message has a length and no payload (EINVAL).
/// IPC_ERROR_USOCK_SEND: the connection is NULL (EINVAL), the peer has closed the connection (EPIPE; no
/// SIGPIPE is raised), a fork has left unsent messages to the parent (EBUSY), or sendmsg(2) failed.
/// IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA: with the message, more bytes would be queued than the limit, and
/// the peer has read nothing for one second, or the call has taken ten seconds (EAGAIN). Nothing of the
/// message was sent; try again later.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; nothing was sent. Or a part was sent, there is no memory to queue the
/// rest, and the peer has read nothing for one second: then the connection is shut down.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_write(
    p: *const ipc_connection_info,
    m: *const ipc_message,
) -> ipc_errors {
    // SAFETY: the caller's structures, if any.
    unsafe { messages::write_message(m, fd_of(p, ipc_errors::IPC_ERROR_USOCK_SEND), None) }
}

/// Writes the path of the service `sname` to `path`, which has room for PATH_MAX bytes. On failure `path`
/// becomes an empty string, and errno is ENAMETOOLONG if the path does not fit, ENOMEM if there is no memory,
/// or EINVAL if `sname` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn service_path(path: *mut c_char, sname: *const c_char, index: i32, version: i32) {
    let code = ipc_errors::IPC_ERROR_USOCK_INIT__EMPTY_PATH;
    call(code, |_| {
        let path = required(path, code)?;
        // SAFETY: the caller's buffer.
        unsafe { path.write(0) };
        let sname = required_const(sname, code)?;
        // SAFETY: the caller's string.
        let name = unsafe { CStr::from_ptr(sname) };
        let socket_path = path::path(rundir(), name, index as u32, version as u32)
            .map_err(|errno| Error::new(code, errno))?;
        let bytes = socket_path.to_bytes();
        // SAFETY: the buffer has PATH_MAX bytes; the path with its NUL has at most as many.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr().cast(), path, bytes.len());
            path.add(bytes.len()).write(0);
        }
        Ok(())
    });
}
