//! What a thread waits for until another one wakes it: a semaphore of sem_init(3) in the waiting thread's frame.
//!
//! sem_wait(3) is a cancellation point, and sem_post(3) may be called in a signal handler.
#![deny(unsafe_code)]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

/// The semaphore; no thread waits for a semaphore that was never armed.
#[repr(transparent)]
pub struct Semaphore(UnsafeCell<MaybeUninit<libc::sem_t>>);

impl Semaphore {
    /// One that is not armed.
    pub fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::uninit()))
    }

    fn place(&self) -> *mut libc::sem_t {
        self.0.get().cast()
    }

    /// Sets it so that a wait lasts until [`Waker::wake`], which the caller sees to be called no later than the semaphore
    /// is there.
    #[allow(unsafe_code, reason = "libc has no safe call")]
    pub fn arm(&self) -> Waker {
        // SAFETY: a place for a semaphore of this process, which no thread waits for.
        unsafe { libc::sem_init(self.place(), 0, 0) };
        Waker(self.place())
    }
}

#[cfg(all(test, libipc_model))]
impl Semaphore {
    /// Whether it was woken: in the model, threads do not wait in the kernel.
    #[allow(unsafe_code, reason = "libc has no safe call")]
    pub fn try_wait(&self) -> bool {
        // SAFETY: it is armed.
        unsafe { libc::sem_trywait(self.place()) == 0 }
    }
}

/// Wakes the thread that waits for a semaphore.
pub struct Waker(*mut libc::sem_t);

#[allow(unsafe_code, reason = "a semaphore is made for that")]
// SAFETY: sem_post may be called by any thread.
unsafe impl Send for Waker {}

impl Waker {
    /// Ends the wait that is there, or the next one.
    #[allow(unsafe_code, reason = "libc has no safe call")]
    pub fn wake(&self) {
        // SAFETY: the thread that waits takes its waker back, under the lock that this one was found under, before its frame
        // is left.
        unsafe { libc::sem_post(self.0) };
    }
}
