//! What a call waits for, as data. The waiting itself is in wait.c.
//!
//! A step of a call takes what is there, and where that is not enough it says what to wait for. The exported
//! function then waits, outside of every lock and with nothing to drop on its stack, and makes the next step:
//! so a thread can be cancelled where it waits, and nowhere else.
#![deny(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::RawFd;
use std::ptr;

use nix::Result;
use nix::errno::Errno;

/// What [`Wait::what`] says, as wait.c has it.
const POLL: i32 = 0;
const PEEK: i32 = 1;
const ACCEPT: i32 = 2;
const CONNECT: i32 = 3;

/// Bytes of an address, and of what can be looked at.
const BYTES: usize = 128;

/// What to wait for, and then what has come of it. Plain data: a thread that is cancelled leaves it where it is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Wait {
    what: i32,
    fd: RawFd,
    timeout: i32,
    count: u32,
    one: libc::pollfd,
    many: *mut libc::pollfd,
    bytes: [u8; BYTES],
    size: u32,
    is_masked: i32,
    mask: libc::sigset_t,
    held: [RawFd; 2],
    cancelled: Option<extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
    result: libc::c_long,
    error: i32,
}

const NOTHING: libc::pollfd = libc::pollfd { fd: -1, events: 0, revents: 0 };

impl Wait {
    #[allow(unsafe_code, reason = "a set of signals is plain data")]
    fn new(what: i32, fd: RawFd) -> Self {
        Self {
            what,
            fd,
            timeout: -1,
            count: 0,
            one: NOTHING,
            many: ptr::null_mut(),
            bytes: [0; BYTES],
            size: 0,
            is_masked: 0,
            // SAFETY: all zeros is an empty set of signals.
            mask: unsafe { std::mem::zeroed() },
            held: [-1; 2],
            cancelled: None,
            argument: ptr::null_mut(),
            result: 0,
            error: 0,
        }
    }

    /// Waits with poll(2) until the descriptor has one of these events: for so many milliseconds, below 0 without
    /// end. It is EINTR after a signal handler, and not after a stop and a continue.
    pub fn poll(fd: RawFd, events: i16, timeout: i32) -> Self {
        let mut wait = Self::new(POLL, fd);
        wait.one = libc::pollfd { fd, events, revents: 0 };
        (wait.count, wait.timeout) = (1, timeout);
        wait
    }

    /// Waits for so many milliseconds.
    pub fn pause(timeout: i32) -> Self {
        Self { timeout, ..Self::new(POLL, -1) }
    }

    /// Waits in recv(2) for the first bytes of a socket, `size` at most, and leaves them there.
    pub fn peek(fd: RawFd, size: usize) -> Self {
        let size = u32::try_from(size.min(BYTES)).unwrap_or(0);
        Self { size, ..Self::new(PEEK, fd) }
    }

    /// Waits in accept4(2) for a client.
    pub fn accept(fd: RawFd) -> Self {
        Self::new(ACCEPT, fd)
    }

    /// Waits in connect(2) for a server. `address` is a socket address in the kernel's form.
    pub fn connect(fd: RawFd, address: &[u8]) -> Self {
        let mut wait = Self::new(CONNECT, fd);
        let count = address.len().min(BYTES);
        wait.bytes.iter_mut().zip(address).for_each(|(place, byte)| *place = *byte);
        wait.size = u32::try_from(count).unwrap_or(0);
        wait
    }

    /// While the call waits, and only then, signals are handled: `mask` is what was blocked before.
    pub fn with_mask(mut self, mask: Option<libc::sigset_t>) -> Self {
        if let Some(mask) = mask {
            (self.is_masked, self.mask) = (1, mask);
        }
        self
    }

    /// If the thread ends while it waits, `cancelled` is called with this argument.
    pub fn if_cancelled(mut self, cancelled: extern "C" fn(*mut c_void), argument: *mut c_void) -> Self {
        (self.cancelled, self.argument) = (Some(cancelled), argument);
        self
    }

    /// If the thread ends while it waits, these are closed.
    pub fn holding(mut self, held: [RawFd; 2]) -> Self {
        self.held = held;
        self
    }

    /// Whether it was a wait with poll(2).
    pub fn is_poll(&self) -> bool {
        self.what == POLL
    }

    /// What the system call has returned.
    pub fn result(&self) -> Result<usize> {
        if self.error == 0 {
            Ok(usize::try_from(self.result).unwrap_or(0))
        } else {
            Err(Errno::from_raw(self.error))
        }
    }

    /// What poll(2) has found at the descriptor; nothing if the time was over before.
    pub fn events(&self) -> Result<i16> {
        self.result()?;
        if self.one.revents & libc::POLLNVAL != 0 { Err(Errno::EBADF) } else { Ok(self.one.revents) }
    }

    /// The bytes that were looked at.
    pub fn peeked(&self) -> Result<&[u8]> {
        let count = self.result()?;
        self.bytes.get(..count).ok_or(Errno::EOVERFLOW)
    }

    /// Waits.
    ///
    /// # Safety
    /// The thread may be unwound from here: no frame up to the program's has anything to drop. An array that was
    /// given is still there.
    #[allow(unsafe_code, reason = "see above")]
    pub unsafe fn run(&mut self) {
        // SAFETY: the structure is that of wait.c, of which a test compares the size.
        unsafe { ipc_c_wait(self) };
    }
}

/// Descriptors to be polled: plain data, which has to be freed.
#[derive(Clone, Copy)]
pub struct PollSet {
    fds: *mut libc::pollfd,
    count: usize,
    room: usize,
}

#[allow(unsafe_code, reason = "an array that C frees if the thread ends")]
impl PollSet {
    /// Room for so many.
    pub fn with_room(room: usize) -> Result<Self> {
        // SAFETY: calloc takes any sizes.
        let fds: *mut libc::pollfd = unsafe { libc::calloc(room, size_of::<libc::pollfd>()) }.cast();
        if fds.is_null() { Err(Errno::ENOMEM) } else { Ok(Self { fds, count: 0, room }) }
    }

    /// Adds one, if there is room.
    pub fn push(&mut self, fd: RawFd, events: i16) {
        if self.count < self.room {
            // SAFETY: the index is below the room.
            unsafe { self.fds.add(self.count).write(libc::pollfd { fd, events, revents: 0 }) };
            self.count += 1;
        }
    }

    /// Waits with poll(2) for one of them, for so many milliseconds, below 0 without end.
    pub fn wait(self, timeout: i32) -> Wait {
        let mut wait = Wait::new(POLL, -1);
        let count = u32::try_from(self.count).unwrap_or(0);
        (wait.many, wait.count, wait.timeout) = (self.fds, count, timeout);
        wait
    }

    /// Visits those that are ready, but for the first `skip`, and frees the set.
    pub fn finish(self, skip: usize, mut visit: impl FnMut(RawFd)) {
        for index in skip..self.count {
            // SAFETY: the index is below the count, and all of these were written.
            let one = unsafe { self.fds.add(index).read() };
            if one.revents != 0 {
                visit(one.fd);
            }
        }
        // SAFETY: from calloc, and nobody uses it any more.
        unsafe { libc::free(self.fds.cast()) };
    }
}

#[allow(unsafe_code, reason = "in wait.c")]
unsafe extern "C-unwind" {
    fn ipc_c_wait(wait: *mut Wait);
}

/// Waits, in a test that no thread of is cancelled.
#[cfg(test)]
#[allow(unsafe_code, reason = "see above")]
pub fn run_in_test(mut wait: Wait) -> Wait {
    // SAFETY: nothing unwinds here.
    unsafe { wait.run() };
    wait
}

#[cfg(test)]
mod tests {
    use super::run_in_test as run;
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[allow(unsafe_code, reason = "in wait.c")]
    unsafe extern "C" {
        fn ipc_c_wait_size() -> usize;
    }

    #[test]
    #[allow(unsafe_code, reason = "a number")]
    fn structure_has_the_size_that_c_gives_it() {
        // SAFETY: it returns a constant.
        assert_eq!(size_of::<Wait>(), unsafe { ipc_c_wait_size() });
    }

    #[test]
    fn peek_leaves_the_bytes_where_they_are() {
        let (mut one, two) = UnixStream::pair().unwrap();
        one.write_all(b"header and more").unwrap();
        for _ in 0..2 {
            assert_eq!(run(Wait::peek(two.as_raw_fd(), 6)).peeked(), Ok(&b"header"[..]));
        }
        drop(one);
        assert_eq!(run(Wait::peek(-1, 6)).peeked(), Err(Errno::EBADF));
    }

    #[test]
    fn poll_reports_events_time_and_closed_numbers() {
        let (mut one, two) = UnixStream::pair().unwrap();
        assert_eq!(run(Wait::poll(two.as_raw_fd(), libc::POLLIN, 0)).events(), Ok(0));
        one.write_all(b"x").unwrap();
        assert_eq!(run(Wait::poll(two.as_raw_fd(), libc::POLLIN, -1)).events(), Ok(libc::POLLIN));
        let number = two.as_raw_fd();
        drop((one, two));
        assert_eq!(run(Wait::poll(number + 500, libc::POLLIN, -1)).events(), Err(Errno::EBADF));
    }
}
