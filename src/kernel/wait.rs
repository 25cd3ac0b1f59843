//! What a call waits for, and the outcome of the wait, as plain data. The waiting itself is in wait.c.
//!
//! ```text
//! NOTHING_YET ──a step prepares a wait──► POLL, PEEK, ACCEPT, CONNECT or TURN ──run──► the same kind, and
//!                                               ▲                                      its outcome
//!                                               └─────the next step prepares a wait────────┘
//! ```
//!
//! A step of a call does what is possible at once. If that is not enough, the step prepares the next wait
//! here. The exported function then runs the wait, outside of every lock and with nothing to drop on its
//! stack, and makes the next step, which reads the outcome. So a thread can be cancelled while it waits, and
//! nowhere else.
//!
//! A [`Wait`] belongs to one call in one thread. wait.c has the same structure and writes `result`, `error`
//! and the buffers that the system call fills; another thread touches only the semaphore, by its [`Waker`].
#![deny(unsafe_code)]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::{ptr, slice};

use nix::Result;
use nix::errno::Errno;

use crate::kernel::direct;
use crate::kernel::semaphore::{Semaphore, Waker};
use crate::kernel::signals;

/// The values of [`Wait::what`], the same as in wait.c; `NOTHING_YET` is not used there.
const NOTHING_YET: i32 = -1;
const POLL: i32 = 0;
const PEEK: i32 = 1;
const ACCEPT: i32 = 2;
const CONNECT: i32 = 3;
const TURN: i32 = 4;

/// How many descriptors are polled without a separate array.
pub const FEW: usize = 8;

/// The size of the buffer for an address or for peeked bytes.
const BYTES: usize = 128;

/// What to wait for, and then the outcome. Plain data without a destructor: a cancelled thread does not drop
/// it.
///
/// The fields are written by the methods that prepare a wait, unless the comment names another writer.
#[repr(C)]
pub struct Wait {
    /// The kind of the wait: `NOTHING_YET`, `POLL`, `PEEK`, `ACCEPT`, `CONNECT` or `TURN`.
    what: i32,
    /// The socket of `PEEK`, `ACCEPT` and `CONNECT`; not used by the others.
    fd: RawFd,
    /// The timeout of `POLL` in milliseconds; below 0 without limit.
    timeout: i32,
    /// How many descriptors `POLL` polls: of `few`, or of `many` if that is not NULL.
    count: u32,
    /// The descriptors of `POLL`; the first `count` are initialised if `many` is NULL. poll(2) writes
    /// `revents`.
    few: [MaybeUninit<libc::pollfd>; FEW],
    /// The array of a [`PollSet`], or NULL. wait.c frees the array if the thread is cancelled.
    many: *mut libc::pollfd,
    /// The address of `CONNECT`, or the buffer that recv(2) fills for `PEEK`.
    bytes: [MaybeUninit<u8>; BYTES],
    /// How many of `bytes` are the address, or how many to peek at most.
    size: u32,
    /// 1 while signals are blocked between waits, else 0; written by `block_signals` and `unblock_signals`.
    is_masked: i32,
    /// The signal mask during the wait, which is the mask before the call; initialised if `is_masked` is 1.
    mask: MaybeUninit<libc::sigset_t>,
    /// Descriptors that wait.c closes if the thread is cancelled; -1 for none.
    held: [RawFd; 3],
    /// The function that wait.c calls if the thread is cancelled, with `argument`.
    cancelled: Option<extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
    /// What `TURN` waits for; another thread posts it.
    semaphore: Semaphore,
    /// The return value of the system call; written by wait.c.
    result: libc::c_long,
    /// errno if the system call failed, else 0; written by wait.c.
    error: i32,
}

impl Default for Wait {
    /// No wait is prepared yet.
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
    /// Begins to prepare a wait of this kind: resets what an earlier wait has set.
    fn set(&mut self, what: i32, fd: RawFd) {
        (self.what, self.fd, self.timeout) = (what, fd, -1);
        (self.many, self.count, self.held, self.cancelled) = (ptr::null_mut(), 0, [-1; 3], None);
    }

    /// The next wait is poll(2) until the descriptor has one of these events, for at most `timeout`
    /// milliseconds; below 0 without limit. The wait fails with EINTR after a signal handler, but not after
    /// the process was stopped and continued.
    pub fn poll(&mut self, fd: RawFd, events: i16, timeout: i32) {
        self.poll_few(&[fd], events, timeout);
    }

    /// As [`Wait::poll`], until one of these descriptors, at most [`FEW`], has one of the events.
    pub fn poll_few(&mut self, fds: &[RawFd], events: i16, timeout: i32) {
        let mut few = self.few();
        fds.iter().for_each(|fd| few.push(*fd, events));
        few.poll(timeout);
    }

    /// Begins to collect the descriptors of a poll(2). Nothing is prepared until [`Few::poll`], but the
    /// descriptors of the last poll(2) are lost.
    #[inline]
    pub fn few(&mut self) -> Few<'_> {
        Few { wait: self, count: 0 }
    }

    /// The next wait lasts so many milliseconds, and waits for no descriptor.
    pub fn pause(&mut self, timeout: i32) {
        self.set(POLL, -1);
        self.timeout = timeout;
    }

    /// The next wait is recv(2) with MSG_PEEK: it reads the first `size` bytes at most and leaves them in the
    /// socket.
    pub fn peek(&mut self, fd: RawFd, size: usize) {
        self.set(PEEK, fd);
        self.size = u32::try_from(size.min(BYTES)).unwrap_or(0);
    }

    /// The next wait is accept4(2) for a client.
    pub fn accept_client(&mut self, fd: RawFd) {
        self.set(ACCEPT, fd);
    }

    /// The next wait is connect(2) to `address`, a socket address in the kernel's form. If the thread is
    /// cancelled in the wait, the two descriptors are closed.
    pub fn connect(&mut self, fd: RawFd, address: &[u8], [one, other]: [RawFd; 2]) {
        self.set(CONNECT, fd);
        let count = address.len().min(BYTES);
        self.bytes.iter_mut().zip(address).for_each(|(place, byte)| _ = place.write(*byte));
        self.size = u32::try_from(count).unwrap_or(0);
        self.held = [one, other, -1];
    }

    /// The descriptor is closed if the thread is cancelled in the next wait, which must have been prepared
    /// before.
    pub fn close_if_cancelled(&mut self, fd: RawFd) {
        let [.., last] = &mut self.held;
        *last = fd;
    }

    /// The next wait lasts until another thread uses the returned waker. Until then this value must not be
    /// moved.
    pub fn turn(&mut self) -> Waker {
        self.set(TURN, -1);
        self.semaphore.arm()
    }

    /// Blocks signals, except while the thread waits, until [`Wait::unblock_signals`]. Returns whether this
    /// call has blocked them: false if they were blocked before.
    pub fn block_signals(&mut self) -> bool {
        let mask = if self.is_masked == 0 { signals::block() } else { None };
        if let Some(mask) = mask {
            (self.is_masked, self.mask) = (1, MaybeUninit::new(mask));
        }
        mask.is_some()
    }

    /// Whether signals are blocked, except while the thread waits.
    pub fn has_blocked_signals(&self) -> bool {
        self.is_masked != 0
    }

    /// Restores the signal mask that was in effect before `block_signals`.
    #[allow(unsafe_code, reason = "C shares the mask")]
    pub fn unblock_signals(&mut self) {
        if std::mem::take(&mut self.is_masked) != 0 {
            // SAFETY: `block_signals` has written the mask.
            signals::restore(unsafe { self.mask.assume_init_ref() });
        }
    }

    /// If the thread is cancelled in the next wait, wait.c calls `cancelled` with this argument.
    pub fn if_cancelled(&mut self, cancelled: extern "C" fn(*mut c_void), argument: *mut c_void) {
        (self.cancelled, self.argument) = (Some(cancelled), argument);
    }

    /// Whether no wait was prepared yet.
    pub fn is_first(&self) -> bool {
        self.what == NOTHING_YET
    }

    /// Whether the last wait was poll(2).
    pub fn is_poll(&self) -> bool {
        self.what == POLL
    }

    /// The result of the system call.
    pub fn result(&self) -> Result<usize> {
        if self.error == 0 {
            Ok(usize::try_from(self.result).unwrap_or(0))
        } else {
            Err(Errno::from_raw(self.error))
        }
    }

    /// The events that poll(2) has found at the descriptor; 0 if the timeout has expired.
    pub fn events(&self) -> Result<i16> {
        self.result()?;
        let found = self.polled().first().map_or(0, |one| one.revents);
        if found & libc::POLLNVAL != 0 { Err(Errno::EBADF) } else { Ok(found) }
    }

    /// The descriptors in `few` that were polled.
    #[allow(unsafe_code, reason = "C shares the array")]
    fn polled(&self) -> &[libc::pollfd] {
        let count = if self.many.is_null() { FEW.min(self.count as usize) } else { 0 };
        // SAFETY: `poll_few` has written `count` elements.
        unsafe { slice::from_raw_parts(self.few.as_ptr().cast(), count) }
    }

    /// The descriptors in `few` that poll(2) has found ready.
    pub fn ready(&self) -> impl Iterator<Item = RawFd> {
        self.polled().iter().filter(|one| self.result > 0 && one.revents != 0).map(|one| one.fd)
    }

    /// If poll(2) has found exactly one descriptor ready, and this one readable without any other event: the
    /// descriptor.
    pub fn only_ready(&self) -> Option<RawFd> {
        if self.what != POLL || self.result != 1 {
            return None;
        }
        self.polled().iter().find(|one| one.revents == libc::POLLIN).map(|one| one.fd)
    }

    /// The peeked bytes as an array of N, if the last wait was a peek and found exactly N bytes.
    pub fn first<const N: usize>(&self) -> Option<&[u8; N]> {
        if self.what == PEEK { self.peeked().ok()?.try_into().ok() } else { None }
    }

    /// The peeked bytes.
    #[allow(unsafe_code, reason = "the kernel has written the array")]
    pub fn peeked(&self) -> Result<&[u8]> {
        let bytes = self.bytes.get(..self.result()?).ok_or(Errno::EOVERFLOW)?;
        // SAFETY: recv(2) has written `result` bytes.
        Ok(unsafe { slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
    }

    /// Waits as prepared, and writes the outcome.
    ///
    /// # Safety
    /// The thread may be unwound from here: no frame between this one and the program's has anything to drop.
    /// The array of a [`PollSet`] is not freed yet.
    #[allow(unsafe_code, reason = "calls wait.c")]
    pub unsafe fn run(&mut self) {
        // SAFETY: wait.c declares the same structure; a test compares the sizes.
        unsafe { ipc_c_wait(self) };
    }
}

/// Calls `visit` for each of these descriptors, at most [`FEW`], that is readable now, or has failed. Does not
/// wait.
#[allow(unsafe_code, reason = "nix's poll is a cancellation point")]
pub fn visit_ready(fds: &[RawFd], mut visit: impl FnMut(RawFd)) -> Result<()> {
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; FEW];
    polled.iter_mut().zip(fds).for_each(|(one, fd)| one.fd = *fd);
    // SAFETY: the array has so many elements.
    Errno::result(unsafe { direct::poll_ready(polled.as_mut_ptr(), fds.len().min(FEW)) })?;
    polled.iter().filter(|one| one.revents != 0).for_each(|one| visit(one.fd));
    Ok(())
}

/// A few descriptors to be polled.
pub struct Few<'a> {
    wait: &'a mut Wait,
    count: usize,
}

impl Few<'_> {
    /// Adds a descriptor, if there is room.
    #[inline]
    pub fn push(&mut self, fd: RawFd, events: i16) {
        if let Some(place) = self.wait.few.get_mut(self.count) {
            place.write(libc::pollfd { fd, events, revents: 0 });
            self.count += 1;
        }
    }

    /// The next wait is [`Wait::poll_few`] for the descriptors.
    #[inline]
    pub fn poll(self, timeout: i32) {
        self.wait.set(POLL, -1);
        (self.wait.count, self.wait.timeout) = (self.count as u32, timeout);
    }
}

/// Any number of descriptors to be polled. Plain data: [`PollSet::finish`], or wait.c if the thread is
/// cancelled, frees the array.
#[derive(Clone, Copy)]
pub struct PollSet {
    /// The array, from calloc(3).
    fds: *mut libc::pollfd,
    /// How many elements are written, at most `room`; `push` counts them.
    count: usize,
    /// How many elements the array has.
    room: usize,
}

#[allow(unsafe_code, reason = "C frees the array if the thread is cancelled")]
impl PollSet {
    /// An empty set with room for `room` descriptors.
    pub fn with_room(room: usize) -> Result<Self> {
        // SAFETY: calloc takes any sizes.
        let fds: *mut libc::pollfd = unsafe { libc::calloc(room, size_of::<libc::pollfd>()) }.cast();
        if fds.is_null() { Err(Errno::ENOMEM) } else { Ok(Self { fds, count: 0, room }) }
    }

    /// Adds a descriptor, if there is room.
    pub fn push(&mut self, fd: RawFd, events: i16) {
        if self.count < self.room {
            // SAFETY: the index is below the room.
            unsafe { self.fds.add(self.count).write(libc::pollfd { fd, events, revents: 0 }) };
            self.count += 1;
        }
    }

    /// The next wait is poll(2) on the descriptors of the set, for at most `timeout` milliseconds; below 0
    /// without limit.
    pub fn prepare(self, wait: &mut Wait, timeout: i32) {
        wait.set(POLL, -1);
        let count = u32::try_from(self.count).unwrap_or(0);
        (wait.many, wait.count, wait.timeout) = (self.fds, count, timeout);
    }

    /// Calls `visit` for each ready descriptor, except the first `skip` of the set, and frees the set.
    pub fn finish(self, skip: usize, mut visit: impl FnMut(RawFd)) {
        for index in skip..self.count {
            // SAFETY: the index is below the count, and `push` has written the elements below the count.
            let one = unsafe { self.fds.add(index).read() };
            if one.revents != 0 {
                visit(one.fd);
            }
        }
        // SAFETY: the array is from calloc, and not used any more.
        unsafe { libc::free(self.fds.cast()) };
    }
}

#[allow(unsafe_code, reason = "in wait.c")]
unsafe extern "C-unwind" {
    fn ipc_c_wait(wait: *mut Wait);
}

/// Prepares a wait and runs it, in a test in which no thread is cancelled.
#[cfg(test)]
#[allow(unsafe_code, reason = "calls wait.c")]
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
    #[allow(unsafe_code, reason = "calls wait.c")]
    fn structure_has_the_same_size_in_c() {
        // SAFETY: the function returns a constant.
        assert_eq!(size_of::<Wait>(), unsafe { ipc_c_wait_size() });
    }

    #[test]
    fn peek_leaves_the_bytes_in_the_socket() {
        let (mut one, two) = UnixStream::pair().unwrap();
        one.write_all(b"header and more").unwrap();
        for _ in 0..2 {
            assert_eq!(run(|wait| wait.peek(two.as_raw_fd(), 6)).peeked(), Ok(&b"header"[..]));
        }
        drop(one);
        assert_eq!(run(|wait| wait.peek(-1, 6)).peeked(), Err(Errno::EBADF));
    }

    #[test]
    fn poll_reports_events_timeout_and_closed_descriptors() {
        let (mut one, two) = UnixStream::pair().unwrap();
        assert_eq!(run(|wait| wait.poll(two.as_raw_fd(), libc::POLLIN, 0)).events(), Ok(0));
        one.write_all(b"x").unwrap();
        assert_eq!(run(|wait| wait.poll(two.as_raw_fd(), libc::POLLIN, -1)).events(), Ok(libc::POLLIN));
        let number = two.as_raw_fd();
        drop((one, two));
        assert_eq!(run(|wait| wait.poll(number + 500, libc::POLLIN, -1)).events(), Err(Errno::EBADF));
    }
}
