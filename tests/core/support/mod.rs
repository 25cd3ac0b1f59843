//! What the tests of the promises share: the C interface, called as a C program would, and raw peers that
//! use the wire format with plain sockets.

mod event_checker;
pub mod ext;
pub mod foreign_files;
mod interface;
mod own_process;
mod process;

use std::ffi::{CString, c_char};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use event_checker::*;
pub use interface::*;
pub(crate) use own_process::own_process;
pub use own_process::*;
pub use process::*;

pub const EMPTY_INFO: ipc_connection_info =
    ipc_connection_info { version: 0, index: 0, fd: -1, r#type: 0, spath: std::ptr::null_mut() };
pub const EMPTY_LIST: ipc_connection_infos = ipc_connection_infos { cinfos: std::ptr::null_mut(), size: 0 };
pub const EMPTY_MESSAGE: ipc_message = ipc_message { r#type: 0, length: 0, payload: std::ptr::null_mut() };

/// Waits for a condition, ten seconds at most.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(10) * patience();
    while !condition() {
        assert!(std::time::Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The run directory of this test program.
pub fn rundir() -> &'static PathBuf {
    static RUNDIR: OnceLock<PathBuf> = OnceLock::new();
    RUNDIR.get_or_init(|| {
        extern "C" fn remove() {
            let _ = std::fs::remove_dir_all(rundir());
        }
        let path = tempfile::tempdir().unwrap().keep();
        unsafe { libc::atexit(remove) };
        unsafe { std::env::set_var("IPC_RUNDIR", &path) };
        path
    })
}

pub fn env() -> *mut *mut c_char {
    static mut NOTHING: [*mut c_char; 1] = [std::ptr::null_mut()];
    (&raw mut NOTHING).cast()
}

pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

pub fn set_errno(errno: i32) {
    unsafe { *libc::__errno_location() = errno };
}

pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[kind][..], &length.to_ne_bytes(), payload].concat()
}

/// Bytes that are easy to distinguish from other bytes.
pub fn pattern(size: usize, seed: usize) -> Vec<u8> {
    (0..size)
        .map(|n| (n.wrapping_mul(31).wrapping_add(seed).wrapping_mul(2_654_435_761) >> 7) as u8)
        .collect()
}

/// Reads one frame of a raw socket.
pub fn read_frame(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_ne_bytes(header[1..].try_into().unwrap()) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    (header[0], payload)
}

/// The event that ipc_wait_event reported.
#[derive(Debug, PartialEq, Eq)]
pub enum Reported {
    NotSet,
    Error(i32),
    Extra(i32, Vec<u8>),
    Connection(i32),
    Disconnection(i32),
    Message(i32, u8, Vec<u8>),
}

/// A program with a list, with or without a service.
pub struct Program {
    pub srv: Option<ipc_connection_info>,
    pub list: ipc_connection_infos,
    pub event: ipc_event,
    pub path: PathBuf,
    /// The clients whose CONNECTION was reported; the program has to free them.
    pub clients: Vec<*mut ipc_connection_info>,
}

impl Program {
    pub fn client() -> Box<Self> {
        Box::new(Self {
            srv: None,
            list: EMPTY_LIST,
            event: unsafe { std::mem::zeroed() },
            path: PathBuf::new(),
            clients: Vec::new(),
        })
    }

    pub fn server() -> Box<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut program = Self::client();
        let index = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut srv = ipc_connection_info { index, version: 7, ..EMPTY_INFO };
        let name = CString::new(format!("test{}", std::process::id())).unwrap();
        rundir();
        let code = unsafe { ipc_server_init(env(), &mut srv, name.as_ptr()) };
        assert_eq!(code, IPC_ERROR_NONE, "{}", std::io::Error::last_os_error());
        program.path = rundir().join(format!("test{}-{index}-7", std::process::id()));
        program.srv = Some(srv);
        program
    }

    pub fn srv(&mut self) -> *mut ipc_connection_info {
        self.srv.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut)
    }

    /// One call of ipc_wait_event: the event, or the call's code.
    pub fn try_next(&mut self) -> Result<Reported, ipc_errors> {
        let srv = self.srv();
        let code = unsafe { ipc_wait_event(&mut self.list, srv, &mut self.event) };
        let kind = unsafe { self.event.r#type.assume_init() };
        if code != IPC_ERROR_NONE {
            assert_eq!(kind, ipc_event_type::IPC_EVENT_TYPE_NOT_SET);
            return Err(code);
        }
        let origin = self.event.origin;
        assert!(!origin.is_null());
        let fd = unsafe { (*origin).fd };
        let message = || unsafe {
            let message = self.event.m.cast::<ipc_message>();
            assert!(!message.is_null());
            take_payload(*message)
        };
        Ok(match kind {
            ipc_event_type::IPC_EVENT_TYPE_NOT_SET => Reported::NotSet,
            ipc_event_type::IPC_EVENT_TYPE_ERROR => Reported::Error(fd),
            ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET => Reported::Extra(fd, message().1),
            ipc_event_type::IPC_EVENT_TYPE_CONNECTION => {
                self.clients.push(origin);
                Reported::Connection(fd)
            }
            ipc_event_type::IPC_EVENT_TYPE_DISCONNECTION => {
                if let Some(place) = self.clients.iter().position(|client| *client == origin) {
                    self.clients.swap_remove(place);
                    unsafe { libc::free(origin.cast()) };
                }
                Reported::Disconnection(fd)
            }
            ipc_event_type::IPC_EVENT_TYPE_MESSAGE => {
                let (kind, payload) = message();
                Reported::Message(fd, kind, payload)
            }
        })
    }

    pub fn next(&mut self) -> Reported {
        self.try_next().unwrap_or_else(|code| panic!("{code:?}: {}", std::io::Error::last_os_error()))
    }

    /// The next event that is a connection; its descriptor.
    pub fn next_connection(&mut self) -> i32 {
        match self.next() {
            Reported::Connection(fd) => fd,
            other => panic!("{other:?} instead of a connection"),
        }
    }

    /// A raw peer whose CONNECTION was reported, and the server's descriptor for it.
    pub fn peer(&mut self) -> (UnixStream, i32) {
        let stream = UnixStream::connect(&self.path).unwrap();
        let fd = self.next_connection();
        (stream, fd)
    }

    /// The structure of a client.
    pub fn info(&self, fd: i32) -> *mut ipc_connection_info {
        *self.clients.iter().find(|client| unsafe { (***client).fd } == fd).unwrap()
    }

    pub fn write(&mut self, fd: i32, kind: u8, payload: &[u8]) -> ipc_errors {
        write(fd, kind, payload)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        unsafe {
            free_message(self.event.m.cast());
            for client in self.clients.drain(..) {
                ipc_close(client);
                libc::free(client.cast());
            }
            ipc_connections_free(&mut self.list);
            if let Some(srv) = &mut self.srv {
                ipc_server_close(srv);
            }
        }
    }
}

/// ipc_write to the connection, without a copy of its own.
pub fn write(fd: i32, kind: u8, payload: &[u8]) -> ipc_errors {
    let info = ipc_connection_info { fd, ..EMPTY_INFO };
    let message = ipc_message {
        r#type: kind as c_char,
        length: u32::try_from(payload.len()).unwrap(),
        payload: payload.as_ptr().cast_mut().cast(),
    };
    unsafe { ipc_write(&info, &message) }
}

/// ipc_read of the connection.
pub fn read(fd: i32) -> Result<(u8, Vec<u8>), ipc_errors> {
    let info = ipc_connection_info { fd, ..EMPTY_INFO };
    let mut message = EMPTY_MESSAGE;
    match unsafe { ipc_read(&info, &mut message) } {
        IPC_ERROR_NONE => {
            let reported = take_payload(message);
            unsafe { ipc_message_empty(&mut message) };
            Ok(reported)
        }
        code => Err(code),
    }
}

/// A copy of a message's payload, which must be followed by a NUL that `length` does not count.
pub fn take_payload(message: ipc_message) -> (u8, Vec<u8>) {
    if message.length == 0 {
        assert!(message.payload.is_null());
        return (message.r#type as u8, Vec::new());
    }
    let length = message.length as usize;
    let bytes = unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>(), length + 1) };
    assert_eq!(bytes[length], 0, "the NUL after the payload");
    (message.r#type as u8, bytes[..length].to_vec())
}

fn free_message(message: *mut ipc_message) {
    if !message.is_null() {
        unsafe {
            libc::free((*message).payload.cast());
            libc::free(message.cast());
        }
    }
}

/// A connected pair of sockets, which the library does not know.
pub fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

/// A pipe: the end to read from, and the one to write to.
pub fn pipe() -> (std::fs::File, std::fs::File) {
    let mut ends = [-1; 2];
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    ends.map(|end| unsafe { std::os::fd::FromRawFd::from_raw_fd(end) }).into()
}

/// Writes from another thread: the bytes may be more than a socket buffer holds.
pub fn write_in_thread(mut stream: UnixStream, bytes: Vec<u8>) -> std::thread::JoinHandle<UnixStream> {
    std::thread::spawn(move || {
        stream.write_all(&bytes).unwrap();
        stream
    })
}

/// Reads until end of file, in a thread.
pub fn read_to_the_end(mut peer: UnixStream) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    })
}

/// The pointers of a list.
pub fn entries(list: &ipc_connection_infos) -> Vec<*mut ipc_connection_info> {
    (0..usize::try_from(list.size).unwrap()).map(|index| unsafe { *list.cinfos.add(index) }).collect()
}

/// Replaces the list's array by another one, by hand, as programs do.
pub fn replace_array(list: &mut ipc_connection_infos, entries: &[*mut ipc_connection_info]) {
    let old = list.cinfos;
    unsafe {
        list.cinfos = libc::malloc(size_of_val(entries)).cast();
        list.cinfos.copy_from_nonoverlapping(entries.as_ptr(), entries.len());
        list.size = i32::try_from(entries.len()).unwrap();
        libc::free(old.cast());
    }
}

/// Makes the next ipc_wait_event compare the whole list: the array gets a new address.
pub fn force_list_scan(list: &mut ipc_connection_infos) {
    let same = entries(list);
    replace_array(list, &same);
}

/// Removes and frees all entries that ipc_add_fd has made.
pub fn free_extras(program: &mut Program) {
    for info in entries(&program.list) {
        if !info.is_null() && unsafe { (*info).r#type } == b'a' as c_char {
            assert_eq!(unsafe { ipc_del(&mut program.list, info) }, IPC_ERROR_NONE);
            unsafe { libc::free(info.cast()) };
        }
    }
}
