//! How one thread wakes another: a semaphore of sem_init(3) in the stack frame of the waiting thread. A
//! semaphore is used because sem_wait(3) is a cancellation point, and sem_post(3) may be called in a signal
//! handler.
//!
//! ```text
//! not armed ──arm──► armed, 0 ──wake──► armed, 1 ──the waiting thread goes on (wait.c)──► armed, 0
//! ```
//!
//! Only the waiting thread arms the semaphore and waits for it. Any thread may post it, as long as the
//! waiting thread's frame exists: the waker is kept in a queue under a lock. Before the waiting thread leaves
//! the frame, it makes sure, under the same lock, that the queue does not contain the waker any more.
#![deny(unsafe_code)]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

/// The semaphore. A thread may wait for it only after it was armed.
#[repr(transparent)]
pub struct Semaphore(UnsafeCell<MaybeUninit<libc::sem_t>>);

impl Semaphore {
    /// A semaphore that is not armed.
    pub fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::uninit()))
    }

    fn place(&self) -> *mut libc::sem_t {
        self.0.get().cast()
    }

    /// Sets the semaphore to 0: the next wait lasts until [`Waker::wake`]. The caller makes sure that the
    /// waker is not used after the semaphore's frame was left.
    #[allow(unsafe_code, reason = "libc has no safe call")]
    pub fn arm(&self) -> Waker {
        // SAFETY: the memory is large enough, and no thread waits for this semaphore now.
        unsafe { libc::sem_init(self.place(), 0, 0) };
        Waker(self.place())
    }
}

#[cfg(all(test, libipc_model))]
impl Semaphore {
    /// Whether the semaphore was posted: in the concurrency model, threads do not wait in the kernel.
    #[allow(unsafe_code, reason = "libc has no safe call")]
    pub fn try_wait(&self) -> bool {
        // SAFETY: the semaphore is armed.
        unsafe { libc::sem_trywait(self.place()) == 0 }
    }
}

/// Wakes the thread that waits for a semaphore.
pub struct Waker(*mut libc::sem_t);

#[allow(unsafe_code, reason = "a pointer to a semaphore is not Send by itself")]
// SAFETY: sem_post may be called by any thread.
unsafe impl Send for Waker {}

impl Waker {
    /// Ends the present wait, or else the next wait.
    #[allow(unsafe_code, reason = "libc has no safe call")]
    pub fn wake(&self) {
        // SAFETY: the caller has found this waker under a lock. The waiting thread removes its waker under
        // the same lock before it leaves the frame, so the semaphore still exists.
        unsafe { libc::sem_post(self.0) };
    }
}
