//! Signals that end the program, at each moment: files that must not stay are removed, and the status is 128
//! and the signal's number.
//!
//! All threads have these signals blocked; one thread takes them from a signalfd. So no call of the library
//! is ever interrupted, and the end does not depend on what the others do. [`keep`] makes something together
//! with what removes it, under a lock that the end takes, too: there is no moment at which a file exists and
//! its removal is not known.
//!
//! The same thread notices that nothing reads standard output any more (`ipc listen NAME | head -1`), for
//! commands that would otherwise wait for their next line to fail: [`end_with_output`].

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{self, Child, Command};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::error::Error;
use crate::system;

/// What ends the program.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Removes something that must not stay.
pub type Cleanup = Box<dyn FnOnce() + Send>;

struct Registry {
    next: u64,
    cleanups: Vec<(u64, Cleanup)>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { next: 0, cleanups: Vec::new() });

/// The program that signals go to in place of ending this one; 0 if there is none.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// The signal mask that the process was started with.
static MASK: OnceLock<SigSet> = OnceLock::new();

/// Whether the program ends when standard output is closed.
static ENDS_WITH_OUTPUT: AtomicBool = AtomicBool::new(false);

/// Wakes the thread when that has changed.
static CHANGED: Mutex<Option<EventFd>> = Mutex::new(None);

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that is removed when this is dropped, or when a signal ends the program.
#[derive(Debug)]
pub struct Kept {
    id: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Removed with the lock held: a signal meanwhile waits for that.
        let mut registry = registry();
        if let Some(at) = registry.cleanups.iter().position(|(id, _)| *id == self.id) {
            (registry.cleanups.remove(at).1)();
        }
    }
}

/// Makes something, and notes how to remove it.
pub fn keep<T>(make: impl FnOnce() -> Result<(T, Cleanup), Error>) -> Result<(T, Kept), Error> {
    let mut registry = registry();
    let (made, cleanup) = make()?;
    registry.next += 1;
    let id = registry.next;
    registry.cleanups.push((id, cleanup));
    Ok((made, Kept { id }))
}

/// Ends the program, whatever other threads do. With the lock: nothing is made any more.
fn end(mut registry: MutexGuard<'_, Registry>, status: i32) -> ! {
    while let Some((_, cleanup)) = registry.cleanups.pop() {
        cleanup();
    }
    process::exit(status)
}

/// Blocks the signals, and starts the thread that takes them. Called before any other thread is started.
pub fn start() -> nix::Result<()> {
    // nohup(1) sets SIGHUP to be ignored, and that is respected. A shell without job control sets SIGINT and
    // SIGQUIT to be ignored by all programs in the background; `kill -INT` is to remove a socket there, too.
    let stays_ignored = |signal: &Signal| *signal == Signal::SIGHUP && system::is_ignored(*signal);
    let signals: SigSet = ENDING.into_iter().filter(|signal| !stays_ignored(signal)).collect();
    let _ = MASK.set(SigSet::thread_get_mask()?);
    signals.thread_block()?;
    let source = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let changed = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let reading = changed.as_fd().try_clone_to_owned().map_err(|_| Errno::last())?;
    *CHANGED.lock().unwrap_or_else(PoisonError::into_inner) = Some(changed);
    let take = move || {
        loop {
            wait(&source, reading.as_fd());
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(take).map(drop).map_err(|_| Errno::EAGAIN)
}

/// Waits for a signal, or for the end of standard output, and ends the program.
fn wait(source: &SignalFd, changed: BorrowedFd<'_>) {
    let output = io::stdout();
    let mut fds =
        vec![PollFd::new(source.as_fd(), PollFlags::POLLIN), PollFd::new(changed, PollFlags::POLLIN)];
    if ENDS_WITH_OUTPUT.load(Ordering::SeqCst) {
        // No event is asked for: the end of a pipe is reported all the same.
        fds.push(PollFd::new(output.as_fd(), PollFlags::empty()));
    }
    if poll(&mut fds, PollTimeout::NONE).is_err() {
        return;
    }
    let has = |at: usize, flags: PollFlags| {
        fds.get(at).and_then(PollFd::revents).is_some_and(|events| events.intersects(flags))
    };
    if has(1, PollFlags::POLLIN) {
        let _ = nix::unistd::read(changed, &mut [0; 8]);
    }
    if has(2, PollFlags::POLLERR | PollFlags::POLLHUP) {
        end(registry(), 141);
    }
    while let Ok(Some(taken)) = source.read_signal() {
        let Some(signal) =
            i32::try_from(taken.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
        else {
            continue;
        };
        let registry = registry();
        match CHILD.load(Ordering::SeqCst) {
            0 => end(registry, 128 + signal as i32),
            // Ctrl-C on a terminal reaches the program by itself.
            _ if taken.ssi_code > 0 => {}
            child => drop(kill(Pid::from_raw(child), signal)),
        }
    }
}

/// Has the program end, with status 141, when standard output is a pipe that nothing reads any more.
pub fn end_with_output() {
    ENDS_WITH_OUTPUT.store(true, Ordering::SeqCst);
    if let Some(changed) = &*CHANGED.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = changed.write(1);
    }
}

/// A program that can be started, with the signals that this one has blocked as they were.
pub fn command(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    if let Some(mask) = MASK.get() {
        system::start_with_mask(&mut command, *mask);
    }
    command
}

/// Starts a program, to which signals go from then on, until [`child_has_ended`]. At no moment does a signal
/// end this process and not the program.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _registry = registry();
    let child = command.spawn()?;
    CHILD.store(i32::try_from(child.id()).unwrap_or(0), Ordering::SeqCst);
    Ok(child)
}

/// The program has ended, and its number is still its own: it is waited for after this.
pub fn child_has_ended() {
    let _registry = registry();
    CHILD.store(0, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn kept_thing_is_removed_once_when_dropped() {
        let removed = Arc::new(AtomicI32::new(0));
        let count = Arc::clone(&removed);
        let remove = move || count.store(count.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
        let (made, kept) = keep(|| Ok(("made", Box::new(remove) as Cleanup))).unwrap();
        assert_eq!((made, removed.load(Ordering::SeqCst)), ("made", 0));
        drop(kept);
        assert_eq!(removed.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn thing_that_cannot_be_made_is_not_kept() {
        let result = keep(|| Err::<((), Cleanup), _>(Error::plain("s", "no")));
        assert_eq!(result.unwrap_err(), Error::plain("s", "no"));
    }
}
