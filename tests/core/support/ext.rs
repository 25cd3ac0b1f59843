//! The functions of ipc_ext.h, called as a C program would.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub use std::ptr::null_mut as none;

use super::*;

pub const NOTHING: [Seen; 0] = [];

pub const EMPTY_EVENT: ipc_event = ipc_event {
    r#type: std::mem::MaybeUninit::new(ipc_event_type::IPC_EVENT_TYPE_NOT_SET),
    origin: std::ptr::null_mut(),
    m: std::ptr::null_mut(),
};

/// The result of a call that may return without an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    /// A watched descriptor is ready.
    Ready(RawFd),
    Reported(Reported),
}

impl PartialEq<Reported> for Seen {
    fn eq(&self, other: &Reported) -> bool {
        matches!(self, Self::Reported(reported) if reported == other)
    }
}

/// The code of a failed call, and errno after it.
pub type Failure = (ipc_errors, i32);

pub fn outcome(code: ipc_errors) -> Result<(), Failure> {
    if code == IPC_ERROR_NONE { Ok(()) } else { Err((code, errno())) }
}

pub fn info(fd: RawFd) -> ipc_connection_info {
    ipc_connection_info { fd, ..EMPTY_INFO }
}

pub fn message(kind: u8, payload: &[u8]) -> ipc_message {
    ipc_message {
        r#type: kind as c_char,
        length: u32::try_from(payload.len()).unwrap(),
        payload: payload.as_ptr().cast_mut().cast(),
    }
}

pub fn queue(fd: RawFd, kind: u8, payload: &[u8]) -> Result<(), Failure> {
    outcome(unsafe { ipc_queue(&info(fd), &message(kind, payload)) })
}

pub fn flush(fd: RawFd, timeout: i32) -> Result<(), Failure> {
    outcome(unsafe { ipc_flush(&info(fd), timeout) })
}

pub fn pending(fd: RawFd) -> usize {
    let mut bytes = usize::MAX;
    assert_eq!(outcome(unsafe { ipc_pending(&info(fd), &mut bytes) }), Ok(()));
    bytes
}

pub fn limits(fd: RawFd, max_message: u32, max_queue: usize) -> Result<(), Failure> {
    outcome(unsafe { ipc_limits(&info(fd), max_message, max_queue) })
}

pub fn allow(fd: RawFd) {
    assert_eq!(outcome(unsafe { ipc_allow_fds(&info(fd)) }), Ok(()));
}

pub fn write_fd(fd: RawFd, kind: u8, payload: &[u8], with: &impl AsRawFd) -> Result<(), Failure> {
    outcome(unsafe { ipc_write_fd(&info(fd), &message(kind, payload), with.as_raw_fd()) })
}

/// The next descriptor of the message received last, if there is one.
pub fn take(fd: RawFd) -> Option<OwnedFd> {
    let mut taken = -7;
    match outcome(unsafe { ipc_take_fd(&info(fd), &mut taken) }) {
        Ok(()) => Some(unsafe { OwnedFd::from_raw_fd(taken) }),
        Err(failure) => {
            assert_eq!((failure, taken), ((IPC_ERROR_USOCK_RECV, libc::ENOENT), -1));
            None
        }
    }
}

/// Whether both descriptors refer to the same file, by device and inode.
pub fn is_same_file(one: &impl AsRawFd, two: &impl AsRawFd) -> bool {
    let [one, two] = [one.as_raw_fd(), two.as_raw_fd()];
    let stat = |fd| {
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        assert_eq!(unsafe { libc::fstat(fd, &mut stat) }, 0);
        (stat.st_dev, stat.st_ino)
    };
    stat(one) == stat(two)
}

/// A file whose content is this number, so that it can be recognised.
pub fn numbered_file(number: usize) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&number.to_ne_bytes()).unwrap();
    file
}

/// The number of such a file.
pub fn number_of(fd: &impl AsRawFd) -> usize {
    let mut bytes = [0; 8];
    let got = unsafe { libc::pread(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), 8, 0) };
    assert_eq!(got, 8, "{}", std::io::Error::last_os_error());
    usize::from_ne_bytes(bytes)
}

/// The numbers of all files that were received with the last message.
pub fn take_numbers(fd: RawFd) -> Vec<usize> {
    std::iter::from_fn(|| take(fd)).map(|taken| number_of(&taken)).collect()
}

/// Sends bytes from a raw peer, with descriptors.
pub fn send_with(peer: &UnixStream, bytes: &[u8], fds: &[RawFd]) {
    let piece = IoSlice::new(bytes);
    let mut control = vec![0_u64; 512];
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = (&raw const piece).cast_mut().cast();
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let size = u32::try_from(size_of_val(fds)).unwrap();
        unsafe {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(size) as _;
            let rights = libc::CMSG_FIRSTHDR(&header);
            (*rights).cmsg_level = libc::SOL_SOCKET;
            (*rights).cmsg_type = libc::SCM_RIGHTS;
            (*rights).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(rights).cast::<RawFd>().copy_from(fds.as_ptr(), fds.len());
        }
    }
    let mut sent = unsafe { libc::sendmsg(peer.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
    if sent < 0 && errno() == libc::EPERM {
        // Since Linux 6.16 sendmsg fails with EPERM if the receiver does not accept descriptors.
        (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
        sent = unsafe { libc::sendmsg(peer.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
    }
    assert_eq!(sent, bytes.len() as isize, "{}", std::io::Error::last_os_error());
}

/// Whether the descriptor is readable, by poll(2).
pub fn is_readable(fd: RawFd) -> bool {
    becomes_readable(fd, 0)
}

/// Whether the descriptor becomes readable within so many milliseconds.
pub fn becomes_readable(fd: RawFd, timeout: i32) -> bool {
    let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let count = unsafe { libc::poll(&mut asked, 1, timeout) };
    assert!(count >= 0 && asked.revents & libc::POLLNVAL == 0, "{}", std::io::Error::last_os_error());
    count == 1
}

/// The CPU time of this thread.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Whether the heap of this process can be counted. AddressSanitizer and valgrind replace it.
pub fn heap_can_be_counted() -> bool {
    let before = heap_in_use();
    let block = std::hint::black_box(vec![1_u8; 1 << 20]);
    let counted = heap_in_use() >= before + block.len();
    if !counted {
        say("SKIPPED: counting the heap, which is not the C library's here");
    }
    counted
}

/// A program with one connection, which is in its list, and the raw peer.
pub struct Listed {
    pub program: Box<Program>,
    pub info: Box<ipc_connection_info>,
}

impl Listed {
    pub fn of(ours: UnixStream) -> Self {
        let mut program = Program::client();
        let mut info = Box::new(info(ours.into_raw_fd()));
        assert_eq!(unsafe { ipc_add(&mut program.list, &mut *info) }, IPC_ERROR_NONE);
        Self { program, info }
    }

    pub fn fd(&self) -> RawFd {
        self.info.fd
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        unsafe {
            ipc_del(&mut self.program.list, &mut *self.info);
            if is_open(self.info.fd) {
                ipc_close(&mut *self.info);
            }
        }
    }
}

/// One end of a connection that may have bytes queued. It is shut down and closed by the library, so that the
/// next connection with the number is not affected.
pub struct Queued(Option<UnixStream>);

impl Queued {
    pub fn new(stream: UnixStream) -> Self {
        Self(Some(stream))
    }
}

impl std::ops::Deref for Queued {
    type Target = UnixStream;

    fn deref(&self) -> &UnixStream {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            // Closing then need not wait until the queued bytes are sent.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            let _ = usock_close(stream.into_raw_fd());
        }
    }
}

/// A pair whose second end, the peer, fails after 20 seconds instead of waiting for ever for bytes.
pub fn patient_pair() -> (UnixStream, UnixStream) {
    let (ours, peer) = pair();
    peer.set_read_timeout(Some(Duration::from_secs(20) * patience())).unwrap();
    (ours, peer)
}

pub fn listed() -> (Listed, UnixStream) {
    let (ours, peer) = patient_pair();
    (Listed::of(ours), peer)
}

/// Converts an event. The structure of a client whose DISCONNECTION is reported is freed.
fn seen(program: &mut Program, event: &ipc_event) -> Seen {
    let kind = unsafe { event.r#type.assume_init() };
    if kind == ipc_event_type::IPC_EVENT_TYPE_NOT_SET {
        assert!(event.origin.is_null() && event.m.is_null());
        return Seen::Nothing;
    }
    let origin = event.origin;
    let fd = unsafe { (*origin).fd };
    let message = || unsafe { take_payload(*event.m.cast::<ipc_message>()) };
    Seen::Reported(match kind {
        ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET if event.m.is_null() => return Seen::Ready(fd),
        ipc_event_type::IPC_EVENT_TYPE_EXTRA_SOCKET => Reported::Extra(fd, message().1),
        ipc_event_type::IPC_EVENT_TYPE_MESSAGE => {
            let (kind, payload) = message();
            Reported::Message(fd, kind, payload)
        }
        ipc_event_type::IPC_EVENT_TYPE_ERROR => Reported::Error(fd),
        ipc_event_type::IPC_EVENT_TYPE_CONNECTION => {
            program.clients.push(origin);
            Reported::Connection(fd)
        }
        _ => {
            if let Some(place) = program.clients.iter().position(|client| *client == origin) {
                program.clients.swap_remove(place);
                unsafe { libc::free(origin.cast()) };
            }
            Reported::Disconnection(fd)
        }
    })
}

impl Program {
    /// ipc_wait_event_timeout.
    pub fn try_poll(&mut self, timeout: i32) -> Result<Seen, Failure> {
        let srv = self.srv();
        let code = unsafe { ipc_wait_event_timeout(&mut self.list, srv, &mut self.event, timeout) };
        let result = outcome(code);
        let event = ipc_event { ..self.event };
        if result.is_err() {
            assert_eq!(unsafe { event.r#type.assume_init() }, ipc_event_type::IPC_EVENT_TYPE_NOT_SET);
        }
        result.map(|()| seen(self, &event))
    }

    pub fn poll(&mut self, timeout: i32) -> Seen {
        self.try_poll(timeout).unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    /// All pending events, until a call returns without an event.
    pub fn all(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| Some(self.poll(0)).filter(|seen| *seen != Seen::Nothing)).collect()
    }

    /// ipc_wait_events, with an array of events that the test keeps.
    pub fn many(&mut self, events: &mut [ipc_event], timeout: i32) -> Vec<Seen> {
        let (srv, mut count) = (self.srv(), events.len());
        let code = unsafe { ipc_wait_events(&mut self.list, srv, events.as_mut_ptr(), &mut count, timeout) };
        assert_eq!(outcome(code), Ok(()));
        assert!(count <= events.len(), "{count} events in an array of {}", events.len());
        for event in &events[count..] {
            assert_eq!(seen(self, event), Seen::Nothing);
        }
        events[..count].iter().map(|event| seen(self, event)).collect()
    }

    pub fn event_fd(&mut self) -> RawFd {
        let (srv, mut fd) = (self.srv(), -1);
        assert_eq!(outcome(unsafe { ipc_event_fd(&mut self.list, srv, &mut fd) }), Ok(()));
        assert!(is_open(fd));
        fd
    }

    pub fn watch(&mut self, fd: &impl AsRawFd) -> RawFd {
        assert_eq!(outcome(unsafe { ipc_watch_fd(&mut self.list, fd.as_raw_fd()) }), Ok(()));
        fd.as_raw_fd()
    }

    pub fn del_fd(&mut self, fd: &impl AsRawFd) -> Result<(), Failure> {
        outcome(unsafe { ipc_del_fd(&mut self.list, fd.as_raw_fd()) })
    }
}

/// An array of so many events. Dropping the array frees the events' messages.
pub struct Events(Vec<ipc_event>);

pub fn events(count: usize) -> Events {
    Events((0..count).map(|_| EMPTY_EVENT).collect())
}

impl std::ops::Deref for Events {
    type Target = [ipc_event];

    fn deref(&self) -> &[ipc_event] {
        &self.0
    }
}

impl std::ops::DerefMut for Events {
    fn deref_mut(&mut self) -> &mut [ipc_event] {
        &mut self.0
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|event| free_message(std::mem::replace(&mut event.m, none()).cast()));
    }
}

/// The largest number of descriptors that are received with one message.
pub const MOST: usize = 16;

/// The two ways to receive.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Loop,
    Read,
}

pub const WAYS: [Way; 2] = [Way::Loop, Way::Read];

/// A connection that receives descriptors in one of the ways, and its peer.
pub struct Receiver {
    pub listed: Option<Listed>,
    pub fd: RawFd,
}

impl Receiver {
    pub fn new(way: Way, is_allowed: bool) -> (Self, UnixStream) {
        let (ours, peer) = patient_pair();
        let fd = ours.as_raw_fd();
        let listed = match way {
            Way::Loop => {
                let mut listed = Listed::of(ours);
                // The first call opens the library's own descriptors for the loop.
                assert_eq!(listed.program.poll(0), Seen::Nothing);
                Some(listed)
            }
            Way::Read => {
                let _owned_by_the_receiver = ours.into_raw_fd();
                None
            }
        };
        if is_allowed {
            allow(fd);
        }
        (Self { listed, fd }, peer)
    }

    pub fn next(&mut self) -> (u8, Vec<u8>) {
        match &mut self.listed {
            Some(listed) => match listed.program.poll(20_000) {
                Seen::Reported(Reported::Message(_, kind, payload)) => (kind, payload),
                other => panic!("{other:?}"),
            },
            None => read(self.fd).unwrap_or_else(|code| panic!("{code:?}")),
        }
    }

    /// The connection's end is reported, and its descriptor is closed.
    pub fn end(&mut self) {
        match &mut self.listed {
            Some(listed) => {
                assert!(matches!(
                    listed.program.try_poll(20_000),
                    Ok(Seen::Reported(Reported::Disconnection(_)))
                ))
            }
            None => {
                assert_eq!(read(self.fd), Err(IPC_ERROR_CLOSED_RECIPIENT));
                assert_eq!(unsafe { ipc_close(&mut info(self.fd)) }, IPC_ERROR_NONE);
            }
        }
        self.fd = -1;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if self.listed.is_none() && self.fd >= 0 {
            unsafe { ipc_close(&mut info(self.fd)) };
        }
    }
}

/// Takes all pending events, until a call returns without an event; then the descriptor is not readable.
pub fn drain(program: &mut Program, fd: RawFd) -> Vec<Seen> {
    let mut all = Vec::new();
    // Some work needs several calls and reports no event: half a message, a queue that is sent.
    until("nothing is left", || {
        all.extend(program.all());
        !is_readable(fd)
    });
    all
}

/// Asserts that poll(2) on the event descriptor does not return while nothing happens, and that no CPU time
/// is used.
pub fn assert_idle(program: &mut Program, fd: RawFd) {
    let before = cpu_time();
    let (end, mut wakeups) = (Instant::now() + Duration::from_millis(300), 0);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if becomes_readable(fd, i32::try_from(left.as_millis()).unwrap() + 1) {
            wakeups += 1;
            assert_eq!(program.all(), NOTHING);
        }
    }
    let spent = cpu_time() - before;
    assert!(wakeups <= 2, "{wakeups} wake-ups without an event");
    assert!(spent < Duration::from_millis(60), "{spent:?} of CPU time while idle");
}

/// The bytes that the peer can read without waiting.
pub fn readable_now(peer: &mut UnixStream) -> Vec<u8> {
    peer.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    match peer.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
    }
    peer.set_nonblocking(false).unwrap();
    bytes
}
