//! What a call waits for, as data. The waiting itself is in wait.c.
//!
//! A step of a call takes what is there, and where that is not enough it says what to wait for. The exported
//! function then waits, outside of every lock and with nothing to drop on its stack, and makes the next step:
//! so a thread can be cancelled where it waits, and nowhere else.
#![deny(unsafe_code)]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::{ptr, slice};

use nix::Result;
use nix::errno::Errno;

use crate::kernel::semaphore::{Semaphore, Waker};
use crate::kernel::signals;

/// What [`Wait::what`] says, as wait.c has it.
const NOTHING_YET: i32 = -1;
const POLL: i32 = 0;
const PEEK: i32 = 1;
const ACCEPT: i32 = 2;
const CONNECT: i32 = 3;
const TURN: i32 = 4;

/// How many descriptors are polled without an array of their own.
pub const FEW: usize = 8;

/// Bytes of an address, and of what can be looked at.
const BYTES: usize = 128;

/// What to wait for, and then what has come of it. Plain data: a thread that is cancelled leaves it where it is.
#[repr(C)]
pub struct Wait {
    what: i32,
    fd: RawFd,
    timeout: i32,
    count: u32,
    few: [MaybeUninit<libc::pollfd>; FEW],
    many: *mut libc::pollfd,
    bytes: [MaybeUninit<u8>; BYTES],
    size: u32,
    is_masked: i32,
    mask: MaybeUninit<libc::sigset_t>,
    held: [RawFd; 3],
    cancelled: Option<extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
    semaphore: Semaphore,
    result: libc::c_long,
    error: i32,
}

impl Default for Wait {
    /// No wait yet.
    fn default() -> Self {
        Self {
            what: NOTHING_YET,
            fd: -1,
            timeout: -1,
            count: 0,
            few: [const { MaybeUninit::uninit() }; FEW],
            many: ptr::null_mut(),
            bytes: [const { MaybeUninit::uninit() }; BYTES],
            size: 0,
            is_masked: 0,
            mask: MaybeUninit::uninit(),
            held: [-1; 3],
            cancelled: None,
            argument: ptr::null_mut(),
            semaphore: Semaphore::new(),
            result: 0,
            error: 0,
        }
    }
}

impl Wait {
    fn set(&mut self, what: i32, fd: RawFd) {
        (self.what, self.fd, self.timeout) = (what, fd, -1);
        (self.many, self.count, self.held, self.cancelled) = (ptr::null_mut(), 0, [-1; 3], None);
    }

    /// The next wait is poll(2) until the descriptor has one of these events: for so many milliseconds, below 0 without
    /// end. It is EINTR after a signal handler, and not after a stop and a continue.
    pub fn poll(&mut self, fd: RawFd, events: i16, timeout: i32) {
        self.poll_few(&[fd], events, timeout);
    }

    /// The same until one of these few descriptors has one of the events.
    pub fn poll_few(&mut self, fds: &[RawFd], events: i16, timeout: i32) {
        self.set(POLL, fds.first().copied().unwrap_or(-1));
        for (place, fd) in self.few.iter_mut().zip(fds) {
            place.write(libc::pollfd { fd: *fd, events, revents: 0 });
        }
        (self.count, self.timeout) = (u32::try_from(fds.len().min(FEW)).unwrap_or(0), timeout);
    }

    /// The next wait is one for so many milliseconds.
    pub fn pause(&mut self, timeout: i32) {
        self.set(POLL, -1);
        self.timeout = timeout;
    }

    /// The next wait is recv(2) for the first bytes of a socket, `size` at most, which stay there.
    pub fn peek(&mut self, fd: RawFd, size: usize) {
        self.set(PEEK, fd);
        self.size = u32::try_from(size.min(BYTES)).unwrap_or(0);
    }

    /// The next wait is accept4(2) for a client.
    pub fn accept(&mut self, fd: RawFd) {
        self.set(ACCEPT, fd);
    }

    /// The next wait is connect(2) for a server. `address` is a socket address in the kernel's form. If the thread ends
    /// meanwhile, these are closed.
    pub fn connect(&mut self, fd: RawFd, address: &[u8], [one, other]: [RawFd; 2]) {
        self.set(CONNECT, fd);
        let count = address.len().min(BYTES);
        self.bytes.iter_mut().zip(address).for_each(|(place, byte)| _ = place.write(*byte));
        self.size = u32::try_from(count).unwrap_or(0);
        self.held = [one, other, -1];
    }

    /// This descriptor, too, is closed if the thread ends in the next wait, which was set before.
    pub fn close_if_cancelled(&mut self, fd: RawFd) {
        let [.., last] = &mut self.held;
        *last = fd;
    }

    /// The next wait is one for another thread, which gets what ends it. Until then this value stays where it is.
    pub fn turn(&mut self) -> Waker {
        self.set(TURN, -1);
        self.semaphore.arm()
    }

    /// Blocks signals from now on, but while the thread waits, until [`Wait::unblock_signals`]. Whether they were not blocked.
    pub fn block_signals(&mut self) -> bool {
        let mask = if self.is_masked == 0 { signals::block() } else { None };
        if let Some(mask) = mask {
            (self.is_masked, self.mask) = (1, MaybeUninit::new(mask));
        }
        mask.is_some()
    }

    /// Whether signals are blocked but while the thread waits.
    pub fn has_blocked_signals(&self) -> bool {
        self.is_masked != 0
    }

    /// Blocks what was blocked before, and no more.
    #[allow(unsafe_code, reason = "a set that C uses, too")]
    pub fn unblock_signals(&mut self) {
        if std::mem::take(&mut self.is_masked) != 0 {
            // SAFETY: it was set when the signals were blocked.
            signals::restore(unsafe { self.mask.assume_init_ref() });
        }
    }

    /// If the thread ends while it waits, `cancelled` is called with this argument.
    pub fn if_cancelled(&mut self, cancelled: extern "C" fn(*mut c_void), argument: *mut c_void) {
        (self.cancelled, self.argument) = (Some(cancelled), argument);
    }

    /// Whether nothing was waited for yet.
    pub fn is_first(&self) -> bool {
        self.what == NOTHING_YET
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

    /// What poll(2) has found at the one descriptor; nothing if the time was over before.
    pub fn events(&self) -> Result<i16> {
        self.result()?;
        let found = self.polled().first().map_or(0, |one| one.revents);
        if found & libc::POLLNVAL != 0 { Err(Errno::EBADF) } else { Ok(found) }
    }

    /// The few descriptors that were polled.
    #[allow(unsafe_code, reason = "an array that C uses, too")]
    fn polled(&self) -> &[libc::pollfd] {
        let count = if self.many.is_null() { FEW.min(self.count as usize) } else { 0 };
        // SAFETY: `poll_few` has written so many.
        unsafe { slice::from_raw_parts(self.few.as_ptr().cast(), count) }
    }

    /// Which of the few descriptors poll(2) has found ready.
    pub fn ready(&self) -> impl Iterator<Item = RawFd> {
        self.polled().iter().filter(|one| self.result > 0 && one.revents != 0).map(|one| one.fd)
    }

    /// The descriptor that poll(2) has found readable, and nothing else of it, if it is the only one.
    pub fn only_ready(&self) -> Option<RawFd> {
        if self.what != POLL || self.result != 1 {
            return None;
        }
        self.polled().iter().find(|one| one.revents == libc::POLLIN).map(|one| one.fd)
    }

    /// The first bytes of a socket, if so many as an array has were looked for and are there.
    pub fn first<const N: usize>(&self) -> Option<[u8; N]> {
        if self.what == PEEK { self.peeked().ok()?.try_into().ok() } else { None }
    }

    /// The bytes that were looked at.
    #[allow(unsafe_code, reason = "an array that the kernel has written")]
    pub fn peeked(&self) -> Result<&[u8]> {
        let bytes = self.bytes.get(..self.result()?).ok_or(Errno::EOVERFLOW)?;
        // SAFETY: recv(2) has written as many as it said.
        Ok(unsafe { slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
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

    /// The next wait is poll(2) for one of them, for so many milliseconds, below 0 without end.
    pub fn wait(self, wait: &mut Wait, timeout: i32) {
        wait.set(POLL, -1);
        let count = u32::try_from(self.count).unwrap_or(0);
        (wait.many, wait.count, wait.timeout) = (self.fds, count, timeout);
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
        // SAFETY: from calloc, and not used any more.
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
pub fn run_in_test(prepare: impl FnOnce(&mut Wait)) -> Wait {
    let mut wait = Wait::default();
    prepare(&mut wait);
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
            assert_eq!(run(|wait| wait.peek(two.as_raw_fd(), 6)).peeked(), Ok(&b"header"[..]));
        }
        drop(one);
        assert_eq!(run(|wait| wait.peek(-1, 6)).peeked(), Err(Errno::EBADF));
    }

    #[test]
    fn poll_reports_events_time_and_closed_numbers() {
        let (mut one, two) = UnixStream::pair().unwrap();
        assert_eq!(run(|wait| wait.poll(two.as_raw_fd(), libc::POLLIN, 0)).events(), Ok(0));
        one.write_all(b"x").unwrap();
        assert_eq!(run(|wait| wait.poll(two.as_raw_fd(), libc::POLLIN, -1)).events(), Ok(libc::POLLIN));
        let number = two.as_raw_fd();
        drop((one, two));
        assert_eq!(run(|wait| wait.poll(number + 500, libc::POLLIN, -1)).events(), Err(Errno::EBADF));
    }
}
