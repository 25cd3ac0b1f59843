//! Services and connections: open, connect, accept, read, write, close.

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

/// What a variable of the environment says, if it may say anything in this program.
fn variable<'a>(name: &CStr) -> Option<&'a CStr> {
    // SAFETY: getauxval takes any number; getenv a string, and the environment is the program's to keep.
    let value = unsafe {
        if libc::getauxval(libc::AT_SECURE) != 0 { ptr::null() } else { libc::getenv(name.as_ptr()) }
    };
    // SAFETY: getenv answers with a string, copied before the program's code runs again.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

/// The run directory.
fn rundir<'a>() -> &'a CStr {
    variable(c"IPC_RUNDIR").unwrap_or(path::DEFAULT_RUNDIR)
}

/// The path of the service with this name, and the index and version of the structure.
pub(super) unsafe fn path_of(
    info: *const ipc_connection_info,
    name: *const c_char,
    too_long: ipc_errors,
    no_memory: ipc_errors,
) -> Result<CString, Error> {
    // SAFETY: the caller's structure and string.
    let (name, index, version) = unsafe { (CStr::from_ptr(name), (*info).index, (*info).version) };
    path::path(rundir(), name, index, version).map_err(|errno| match errno {
        Errno::ENOMEM => Error::new(no_memory, errno),
        errno => Error::new(too_long, errno),
    })
}

/// The path that a connection to the service with this name goes to: its own, or where the environment says.
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
        Route::Direct => unsafe { path_of(info, name, too_long, no_memory) },
        Route::Service(other) => {
            let other = path::c_string(other).map_err(of_memory)?;
            // SAFETY: as promised by the caller.
            unsafe { path_of(info, other.as_ptr(), too_long, no_memory) }
        }
        Route::Path(path) if path.len() >= path::PATH_MAX => Err(Error::new(too_long, Errno::ENAMETOOLONG)),
        Route::Path(path) => path::c_string(path).map_err(of_memory),
        // There is none.
        Route::Bridge(_) => Err(failed(Errno::ENETUNREACH)),
    }
}

/// Opens the service `sname`: listens on a socket at "rundir/sname-index-version", with index and version
/// from `srv`, and fills in `srv->fd` and `srv->spath`. rundir is the environment variable IPC_RUNDIR, or
/// /run/ipc/; its last directory is made if it is missing. A socket that a dead server has left is
/// replaced. `env` must not be NULL and is not read. End it with ipc_server_close.
///
/// If a service manager has handed over a listening socket of this path (LISTEN_PID, LISTEN_FDS of sd_listen_fds(3)), that is
/// the service's: nothing is made or replaced, and ipc_server_close leaves the file to the manager.
///
/// `srv->spath` is NULL or from malloc(3), and freed: initialise the structure with zeros. On failure `srv->fd` is -1, and
/// `srv->spath` the path that was tried, if it came to that; ipc_server_close frees it.
///
/// Errors: IPC_ERROR_SERVER_INIT__NO_ENVIRONMENT_PARAM, IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM,
/// IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM: NULL (EINVAL).
/// IPC_ERROR_SERVER_INIT__MALLOC: ENOMEM.
/// IPC_ERROR_USOCK_INIT__EMPTY_PATH: the path is longer than PATH_MAX (ENAMETOOLONG).
/// IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR: socket(2) failed.
/// IPC_ERROR_USOCK_INIT__BIND: another server has the path (EADDRINUSE), or the directory or the socket
/// cannot be made: errno has the reason (EACCES, ENOENT, ENOTDIR, EROFS, EMFILE; ENAMETOOLONG for a name that is
/// too long for the file system; ...). EBUSY: the structure is that of a service that is open; it stays as it is.
/// IPC_ERROR_USOCK_INIT__LISTEN: listen(2) failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_server_init(
    env: *mut *mut c_char,
    srv: *mut ipc_connection_info,
    sname: *const c_char,
) -> ipc_errors {
    call(ipc_errors::IPC_ERROR_USOCK_INIT__BIND, |guard| {
        // SAFETY: the caller's structure, if any.
        unsafe { forget_number(guard, srv) };
        required(env, ipc_errors::IPC_ERROR_SERVER_INIT__NO_ENVIRONMENT_PARAM)?;
        let srv = required(srv, ipc_errors::IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM)?;
        let sname = required_const(sname, ipc_errors::IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM)?;
        // SAFETY: the caller's structure and string.
        unsafe { open(guard, srv, sname, |guard, path| open_here(guard, path, &Options::default())) }
    })
}

/// Whether the structure is that of a service that is open.
///
/// # Safety
/// `srv` points to a structure.
unsafe fn is_open(guard: &EntryGuard, srv: *const ipc_connection_info) -> bool {
    // SAFETY: as promised by the caller.
    unsafe { !(*srv).spath.is_null() && endpoint::is_service(guard, (*srv).fd) }
}

/// Sets `srv->fd` to -1, unless the service is open: whatever fails, 0 would be standard input, which the end of a service that is
/// none would close.
///
/// # Safety
/// `srv` is NULL or points to a structure.
pub(super) unsafe fn forget_number(guard: &EntryGuard, srv: *mut ipc_connection_info) {
    // SAFETY: as promised by the caller.
    unsafe {
        if !srv.is_null() && !is_open(guard, srv) {
            (*srv).fd = -1;
        }
    }
}

/// Opens a service: `listen` brings the socket for its path.
///
/// # Safety
/// `srv` points to a structure, `sname` to a string.
pub(super) unsafe fn open(
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
    let path = unsafe { path_of(srv, sname, too_long, no_memory) }?;
    let spath = Block::copy_of(path.to_bytes()).map_err(|_| Error::new(no_memory, Errno::ENOMEM))?;
    // SAFETY: the caller's structure, whose path is NULL or from malloc(3).
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
pub(super) fn open_here(guard: &mut EntryGuard, path: &CStr, options: &Options) -> Result<RawFd, Error> {
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

/// Connects to the service `sname`, at the path that ipc_server_init describes, and fills in `p->fd`, with -1 on failure; the
/// other members are left alone. The environment variables IPC_NETWORK_<SERVICE> and IPC_NETWORK may say that the connection
/// goes to another service or socket: see libipc(7). It waits while the server's queue of new clients is full. `env` must not
/// be NULL and is not read. End the connection with ipc_close.
///
/// Errors: IPC_ERROR_CONNECTION__NO_ENVIRONMENT_PARAM, IPC_ERROR_CONNECTION__NO_SERVER,
/// IPC_ERROR_CONNECTION__NO_SERVICE_NAME: NULL (EINVAL).
/// IPC_ERROR_USOCK_CONNECT__EMPTY_PATH: the path is longer than PATH_MAX (ENAMETOOLONG).
/// IPC_ERROR_USOCK_CONNECT__SOCKET: the environment names what is no target (EINVAL), or one that only a bridge reaches
/// (ENETUNREACH); or as for usock_connect.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_connection(
    env: *mut *mut c_char,
    p: *mut ipc_connection_info,
    sname: *const c_char,
) -> ipc_errors {
    let mut state = None;
    // SAFETY: plain data in this frame; the caller's structure and string.
    unsafe {
        run(ipc_errors::IPC_ERROR_USOCK_CONNECT__SOCKET, |guard, wait| {
            if wait.is_first() && !p.is_null() {
                (*p).fd = -1;
            }
            required(env, ipc_errors::IPC_ERROR_CONNECTION__NO_ENVIRONMENT_PARAM)?;
            let p = required(p, ipc_errors::IPC_ERROR_CONNECTION__NO_SERVER)?;
            let sname = required_const(sname, ipc_errors::IPC_ERROR_CONNECTION__NO_SERVICE_NAME)?;
            connect(guard, wait, &mut state, |wait| Connect::new(&route_of(p, sname)?, wait))
                .map(|flow| flow.map(|fd| (*p).fd = fd))
        })
    }
}

/// A step of making a connection: the first one begins it.
pub(super) fn connect(
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

/// Ends a service: closes its socket, removes the socket's file and only its own, frees `srv->spath` and
/// sets it to NULL. Connections stay open, and what is queued for them goes on
/// leaving.
///
/// A child that was forked after ipc_server_init may call it while its parent goes on serving: the file
/// then stays. A signal handler may call it at any time.
///
/// Errors: IPC_ERROR_USOCK_CLOSE: NULL (EINVAL), or the structure is not that of a service: it was closed already, was
/// never opened, or could not be (EBADF). Then nothing is closed or removed; or close(2) failed.
/// IPC_ERROR_USOCK_REMOVE__NO_FILE: the file was removed already, or belongs to another server (ENOENT).
/// IPC_ERROR_USOCK_REMOVE__UNLINK: unlink(2) failed. In both cases the service is closed all the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_server_close(srv: *mut ipc_connection_info) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_CLOSE;
    let end = |guard: Option<&mut EntryGuard>| {
        let srv = required(srv, code)?;
        // SAFETY: the caller's structure.
        let (fd, spath) = unsafe { ((*srv).fd, (*srv).spath) };
        // SAFETY: the caller's structure. Whoever interrupts us from here on does not free the path again.
        unsafe { (*srv).spath = ptr::null_mut() };
        if spath.is_null() {
            // The number may be another descriptor's by now.
            return Err(Error::new(code, Errno::EBADF));
        }
        // SAFETY: `spath` is a string, which is freed below.
        let path = unsafe { CStr::from_ptr(spath) };
        let may_free = guard.is_some();
        let result = endpoint::close_service(guard, fd, path);
        if may_free {
            // SAFETY: `spath` is NULL or from malloc(3), and the structure names it no more.
            unsafe { c_heap::free(spath) };
        }
        result
    };
    call_or(
        code,
        || end(None),
        |guard| {
            // SAFETY: the caller's structure, if any.
            let fd = unsafe { fd_of(srv, code) }.ok().filter(|fd| endpoint::is_service(guard, *fd));
            fd.into_iter().for_each(|fd| loops::note_closing(guard, fd));
            end(Some(guard))
        },
    )
}

/// Closes the connection's descriptor. The structure stays as it is, and in the list that it is in.
///
/// What is queued for the connection leaves from within later calls, as long as the peer reads; this call does not wait
/// for that. Only if no descriptor is free to keep it with, it sends for one second at most.
///
/// A signal handler may call it at any time.
///
/// Error: IPC_ERROR_USOCK_CLOSE: NULL (EINVAL), or the descriptor is not open (EBADF).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_close(p: *mut ipc_connection_info) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_CLOSE;
    // SAFETY: the caller's structure, if any.
    let fd = unsafe { fd_of(p, code) };
    call_or(code, || endpoint::close(fd?), |guard| close_connection(guard, fd?))
}

/// Waits for a client of the service `srv`, takes it, and fills in `p`: its fd, and version and index of the
/// service; type and spath are left alone. ipc_wait_event does this by itself.
///
/// Errors: IPC_ERROR_ACCEPT__NO_SERVICE_PARAM, IPC_ERROR_ACCEPT__NO_CLIENT_PARAM: NULL (EINVAL).
/// IPC_ERROR_ACCEPT: accept4(2) failed, and errno has the reason: EINTR, EMFILE, EBADF, ...
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_accept(
    srv: *mut ipc_connection_info,
    p: *mut ipc_connection_info,
) -> ipc_errors {
    let mut accept = None;
    // SAFETY: plain data in this frame; the caller's structures.
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

/// Waits for the next message of the connection and puts it into `m`: first what ipc_wait_event has read
/// ahead, else from the socket, and no byte beyond the message. The payload is from malloc(3) and yours:
/// ipc_message_empty frees it. A payload that `m` held before is freed: initialise the message with zeros. On
/// failure the message is as before.
///
/// Errors: IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM: `m` is NULL (EINVAL).
/// IPC_ERROR_CLOSED_RECIPIENT: the peer has closed, between two messages (EPIPE), or within one or without
/// having read all that it was sent (ECONNRESET).
/// IPC_ERROR_USOCK_RECV: the connection is NULL (EINVAL); the peer announced more than IPC_MAX_MESSAGE_SIZE, or
/// than ipc_limits allows, and nothing more can be read (EPROTO); a signal handler has run (EINTR), or the
/// socket's own time-out or O_NONBLOCK ended the wait (EAGAIN): the next call goes on where this one stopped; or
/// recv(2) failed.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; the next call goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_read(p: *const ipc_connection_info, m: *mut ipc_message) -> ipc_errors {
    // SAFETY: the caller's structures, if any.
    unsafe { messages::read(m, fd_of(p, ipc_errors::IPC_ERROR_USOCK_RECV), Deadline::NONE) }
}

/// Sends the message to the connection, whole and once.
///
/// To a connection in no list it returns when the kernel has all of it, however long that takes. To one in a list it
/// waits a few milliseconds at most for a peer that does not keep up; the rest is kept in memory, and leaves from within later
/// calls of the library, also after ipc_close, and at exit. What is kept is at most 16 MiB. Then the call is held back as long
/// as the peer reads; if something else in the list waits to be served, more is kept, up to 256 MiB for all connections
/// together. ipc_limits sets another limit, which is kept at once. Several threads may write to one connection.
///
/// Errors: IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM: `m` is NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: its length is over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: it has a length and no payload (EINVAL).
/// IPC_ERROR_USOCK_SEND: the connection is NULL (EINVAL), the peer has closed the connection (EPIPE; there is no SIGPIPE), a
/// fork has left unsent messages to the parent (EBUSY), or sendmsg(2) failed.
/// IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA: with the message, what waits for this connection would be more than
/// that, and the peer has read nothing for a second, or the call has taken ten (EAGAIN). Nothing of the message was sent; try
/// again later.
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; nothing was sent.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_write(
    p: *const ipc_connection_info,
    m: *const ipc_message,
) -> ipc_errors {
    // SAFETY: the caller's structures, if any.
    unsafe { messages::write(m, fd_of(p, ipc_errors::IPC_ERROR_USOCK_SEND), None) }
}

/// Writes the path of the service `sname` to `path`, which has PATH_MAX bytes. A path that does not fit
/// becomes an empty string (errno ENAMETOOLONG), and so does one for want of memory (ENOMEM) or of a name (EINVAL).
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
        // SAFETY: the buffer has PATH_MAX bytes, and the path with its NUL no more than that.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr().cast(), path, bytes.len());
            path.add(bytes.len()).write(0);
        }
        Ok(())
    });
}
