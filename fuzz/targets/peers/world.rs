//! The program: its service, its list, its connections, and how they are made.

use std::collections::VecDeque;
use std::ffi::{CString, c_char};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

use ipc::capi::entries::{handle_new_connection, ipc_add, ipc_add_fd};
use ipc::capi::server_and_client::{ipc_accept, ipc_connection, ipc_server_init};
use ipc::capi::services::{
    IPC_SERVER_BACKLOG, IPC_SERVER_MODE, ipc_connection_timeout, ipc_server_open, ipc_server_options,
};
use ipc::capi::types::ipc_errors::{self, *};
use ipc::capi::types::*;

use super::connection::{Connection, Due, Kind, State};
use super::looking::{AMPLE, EventFd};
use super::queueing::Settings;
use super::sockets;
use crate::targets::trace;

/// Limit of the connections that a script makes in one run.
const CONNECTIONS: usize = 16;

/// How often a run may do something that takes milliseconds.
pub const SLOW: usize = 2;

/// The most events of one call.
const EVENTS: usize = 8;

/// The value of errno before each call: a call that succeeds leaves it.
const UNTOUCHED: i32 = 4095;

pub const NO_INFO: ipc_connection_info =
    ipc_connection_info { version: 0, index: 0, fd: -1, r#type: 0, spath: ptr::null_mut() };

/// A file of the program, at a number that it has closed before.
pub struct File {
    pub fd: RawFd,
    pub holds: usize,
    /// The program's epoll set that watches it.
    pub set: Option<RawFd>,
    pub _other_end: OwnedFd,
}

/// One of the program's lists, and the buffers for its events.
pub struct Listing {
    pub list: Box<ipc_connection_infos>,
    pub event: Box<ipc_event>,
    /// The entries of the list, as numbers of connections; `None` for NULL.
    pub listed: Vec<Option<usize>>,
    /// A buffer for several events.
    pub events: Vec<ipc_event>,
    pub event_fd: Option<EventFd>,
    /// Whether the program has changed something by hand that the next call notices.
    pub changed: bool,
    /// Whether the program has changed something without changing the array: only the scan finds that, or the
    /// next call that sees another array.
    pub hidden: bool,
    /// Arrays that the list had since the last call. They are freed only then: a new array at the address of
    /// an old one would look unchanged.
    pub replaced: Vec<*mut *mut ipc_connection_info>,
    /// The connections of the events of the last call.
    pub reported: Vec<usize>,
    /// Watched descriptors that were reported.
    pub to_be_read: Vec<usize>,
}

impl Listing {
    fn new() -> Self {
        Self {
            list: Box::new(ipc_connection_infos { cinfos: ptr::null_mut(), size: 0 }),
            event: Box::new(unsafe { std::mem::zeroed() }),
            listed: Vec::new(),
            events: vec![unsafe { std::mem::zeroed() }; EVENTS],
            event_fd: None,
            changed: false,
            hidden: false,
            replaced: Vec::new(),
            reported: Vec::new(),
            to_be_read: Vec::new(),
        }
    }
}

pub struct World {
    pub srv: Option<Box<ipc_connection_info>>,
    /// The list that the program uses now, and the other one, with the same service.
    pub here: Listing,
    pub there: Listing,
    pub connections: Vec<Connection>,
    /// The clients that are not accepted yet.
    pub backlog: VecDeque<usize>,
    pub files: Vec<File>,
    /// Epoll sets of the program, at numbers that it has closed before.
    pub sets: Vec<RawFd>,
    /// Sockets that the program has removed from their structures, and kept.
    pub kept: Vec<RawFd>,
    /// Connections that had a number before, and are still open elsewhere, with their peers.
    pub others: Vec<(OwnedFd, Option<OwnedFd>)>,
    /// Numbers that the program has closed without the library.
    pub closed: Vec<RawFd>,
    /// How many pointers the program has set.
    pub pointers: usize,
    /// How many slow steps there were.
    pub slow: usize,
    /// The settings of the service, for clients that it accepts.
    pub settings: Settings,
    pub file: Option<OwnedFd>,
    /// A message that is reused: each read frees the payload that it replaces.
    pub message: ipc_message,
    /// Numbers that were open before the run.
    pub before: Vec<RawFd>,
}

/// The code of a failure, and errno after it. A call that succeeds leaves errno unchanged.
pub fn call(function: impl FnOnce() -> ipc_errors) -> Result<(), (ipc_errors, i32)> {
    unsafe { *libc::__errno_location() = UNTOUCHED };
    let code = function();
    let errno = unsafe { *libc::__errno_location() };
    if code == IPC_ERROR_NONE {
        assert_eq!(errno, UNTOUCHED, "errno after a success");
        return Ok(());
    }
    trace!("  {code:?}, errno {errno}");
    Err((code, errno))
}

/// The run directory. The library creates it, and each run removes it.
pub fn rundir() -> &'static PathBuf {
    static RUNDIR: OnceLock<PathBuf> = OnceLock::new();
    RUNDIR.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("libipc-fuzz-{}", std::process::id()));
        unsafe { std::env::set_var("IPC_RUNDIR", &path) };
        path
    })
}

pub fn env() -> *mut *mut c_char {
    static mut NOTHING: [*mut c_char; 1] = [ptr::null_mut()];
    (&raw mut NOTHING).cast()
}

pub fn free<T>(pointer: *mut T) {
    unsafe { libc::free(pointer.cast()) };
}

/// A structure of the program, from malloc(3): the next one may have the address of an earlier one.
fn make_info(fd: RawFd) -> *mut ipc_connection_info {
    let info = unsafe { libc::malloc(size_of::<ipc_connection_info>()) }.cast::<ipc_connection_info>();
    assert!(!info.is_null());
    unsafe { info.write(ipc_connection_info { fd, ..NO_INFO }) };
    info
}

impl World {
    pub fn new() -> Self {
        sockets::have_no_sigpipe();
        let before = sockets::open_numbers();
        Self {
            srv: None,
            here: Listing::new(),
            there: Listing::new(),
            connections: Vec::new(),
            backlog: VecDeque::new(),
            files: Vec::new(),
            sets: Vec::new(),
            kept: Vec::new(),
            others: Vec::new(),
            closed: Vec::new(),
            pointers: 0,
            slow: 0,
            settings: Settings::default(),
            file: None,
            message: ipc_message { r#type: 0, length: 0, payload: ptr::null_mut() },
            before,
        }
    }

    /// The program switches to its other list.
    pub fn swap_lists(&mut self) {
        std::mem::swap(&mut self.here, &mut self.there);
        for (listing, is_elsewhere) in [(&self.here, false), (&self.there, true)] {
            for number in listing.listed.iter().flatten() {
                self.connections[*number].is_elsewhere = is_elsewhere;
            }
        }
    }

    /// Runs the closure for each list.
    pub fn in_each_list(&mut self, act: impl Fn(&mut Self)) {
        for _ in 0..2 {
            act(self);
            self.swap_lists();
        }
    }

    pub fn srv(&mut self) -> *mut ipc_connection_info {
        self.srv.as_mut().map_or(ptr::null_mut(), |srv| ptr::from_mut(&mut **srv))
    }

    /// Whether the run may make one more slow step; counts it.
    pub fn may_be_slow(&mut self) -> bool {
        self.slow += 1;
        self.slow <= SLOW
    }

    pub fn is_full(&self) -> bool {
        self.connections.len() >= CONNECTIONS
    }

    /// The index of the connection in the list.
    pub fn place(&self, number: usize) -> Option<usize> {
        self.here.listed.iter().position(|entry| *entry == Some(number))
    }

    pub fn is_listed(&self, number: usize) -> bool {
        self.place(number).is_some()
    }

    /// Whether the library serves the connection in its list.
    pub fn is_served(&self, number: usize) -> bool {
        self.is_listed(number) && !self.connections[number].is_dead
    }

    /// Checks that the list has the entries that it should have.
    pub fn check_list(&self) {
        assert_eq!(
            self.here.list.size,
            i32::try_from(self.here.listed.len()).unwrap(),
            "the size of the list"
        );
        for (index, entry) in self.here.listed.iter().enumerate() {
            let pointer = unsafe { *self.here.list.cinfos.add(index) };
            let expected = entry.map_or(ptr::null_mut(), |number| self.connections[number].info);
            assert_eq!(pointer, expected, "entry {index} of the list");
        }
    }

    pub fn open_service(&mut self) {
        let mut srv = Box::new(ipc_connection_info { index: 3, version: 5, ..NO_INFO });
        let path = rundir().join("s-3-5");
        let options = ipc_server_options {
            flags: IPC_SERVER_MODE | IPC_SERVER_BACKLOG,
            mode: 0o600,
            uid: 0,
            gid: 0,
            backlog: 1000,
            fd: 0,
        };
        // In one of two ways.
        let opened = call(|| match self.connections.len() % 3 {
            0 => unsafe { ipc_server_init(env(), &mut *srv, c"s".as_ptr()) },
            1 => unsafe { ipc_server_open(&mut *srv, c"s".as_ptr(), ptr::null()) },
            _ => unsafe { ipc_server_open(&mut *srv, c"s".as_ptr(), &options) },
        });
        assert_eq!(opened, Ok(()));
        assert_eq!(
            unsafe { std::ffi::CStr::from_ptr(srv.spath) },
            &*CString::new(path.to_str().unwrap()).unwrap()
        );
        trace!("  a service at {}", srv.fd);
        self.remove_dead(srv.fd);
        self.srv = Some(srv);
        (self.here.changed, self.there.changed) = (true, true);
    }

    pub fn connect_client(&mut self) {
        if self.srv.is_none() {
            self.open_service();
        }
        trace!("  a client connects");
        let mut info = ipc_connection_info { index: 3, version: 5, ..NO_INFO };
        let connected = call(|| match self.connections.len() % 2 {
            0 => unsafe { ipc_connection(env(), &mut info, c"s".as_ptr()) },
            _ => unsafe { ipc_connection_timeout(&mut info, c"s".as_ptr(), AMPLE) },
        });
        assert_eq!(connected, Ok(()));
        let client = sockets::peer(info.fd);
        self.backlog.push_back(self.connections.len());
        self.connections.push(Connection::new(Kind::Client, -1, client));
    }

    pub fn make_own(&mut self) -> usize {
        let (fd, peer) = sockets::pair();
        let mut connection = Connection::new(Kind::Own, fd, peer);
        connection.info = make_info(fd);
        self.connections.push(connection);
        self.connections.len() - 1
    }

    pub fn add(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        trace!("  {} is added to the list", connection.fd);
        assert_eq!(call(|| unsafe { ipc_add(&mut *self.here.list, connection.info) }), Ok(()));
        connection.end_reported = false;
        // The library checks the entry again.
        connection.over_by_limit = connection.over_by_limit.filter(|_| connection.ended);
        self.here.listed.push(Some(number));
    }

    pub fn add_extra(&mut self, pipe: bool) -> usize {
        let (fd, peer) = if pipe { sockets::pipe() } else { sockets::pair() };
        trace!("  extra {fd} is added to the list");
        assert_eq!(call(|| unsafe { ipc_add_fd(&mut *self.here.list, fd) }), Ok(()));
        let mut connection = Connection::new(Kind::Extra, fd, peer);
        connection.info = unsafe { *self.here.list.cinfos.add(self.here.listed.len()) };
        let info = unsafe { *connection.info };
        assert_eq!((info.fd, info.r#type as u8), (fd, b'a'));
        self.here.listed.push(Some(self.connections.len()));
        self.connections.push(connection);
        self.connections.len() - 1
    }

    /// Accepts a client without ipc_wait_event.
    pub fn accept(&mut self, into_list: bool) {
        let (Some(number), false) = (self.backlog.pop_front(), self.srv.is_none()) else { return };
        let (srv, mut info) = (self.srv(), ptr::null_mut());
        if into_list {
            let result = call(|| unsafe { handle_new_connection(srv, &mut *self.here.list, &mut info) });
            assert_eq!(result, Ok(()));
            self.here.listed.push(Some(number));
        } else {
            info = make_info(-1);
            assert_eq!(call(|| unsafe { ipc_accept(srv, info) }), Ok(()));
        }
        let connection = &mut self.connections[number];
        (connection.state, connection.own_end) = (State::Open, Due::Never);
        connection.settings = self.settings;
        connection.sent.limit(self.settings.max_payload);
        (connection.info, connection.fd) = (info, unsafe { (*info).fd });
        trace!("  {} is accepted by hand", connection.fd);
        let fd = connection.fd;
        if !into_list {
            // Either list would take it for a connection: the library gives the number out.
            self.in_each_list(|world| world.remove_dead(fd));
            self.forget_other_queue(number);
        }
    }

    /// The bytes that the library has queued, for all connections.
    pub fn queued(&self) -> usize {
        self.connections.iter().map(Connection::queued).sum()
    }
}

pub fn free_message(message: *mut ipc_message) {
    if !message.is_null() {
        free(unsafe { (*message).payload });
        free(message);
    }
}
