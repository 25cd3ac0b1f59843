//! Disturbances of a program, between its calls and in them: descriptors that it does not know are closed,
//! threads are cancelled, signals, stops, forks.

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use ipc::capi::entries::ipc_connections_free;
use ipc::capi::events::ipc_wait_event;
use ipc::capi::server_and_client::ipc_read;
use ipc::capi::types::ipc_errors::*;
use ipc::capi::types::*;

use super::connection::{Due, Kind, State};
use super::sockets;
use super::world::{File, World};
use crate::targets::stream::{Next, frame};
use crate::targets::trace;

/// How many files the program opens at numbers that it has closed: at a time, and in all.
const FILES: usize = 3;
const ALL_FILES: usize = 12;

/// A call that another thread makes.
#[derive(Clone, Copy)]
enum Waiting {
    ForEvent(*mut ipc_connection_infos, *mut ipc_connection_info, *mut ipc_event),
    ToRead(*const ipc_connection_info, *mut ipc_message),
}

/// The state of the other thread.
struct Guest {
    waiting: Waiting,
    /// The thread makes its call only when it may: it may be cancelled by then.
    may_call: AtomicBool,
    id: AtomicI32,
    has_returned: AtomicBool,
    code: AtomicI32,
    errno: AtomicI32,
}

/// The outcome of its call: cancelled, or returned with a code and errno.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Cancelled,
    Returned(i32, i32),
}

/// No value in this frame has a destructor: the thread may end in the call.
extern "C-unwind" fn play(guest: *mut c_void) -> *mut c_void {
    let guest = guest.cast::<Guest>();
    unsafe {
        (*guest).id.store(libc::gettid(), Ordering::SeqCst);
        while !(*guest).may_call.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        let code = match (*guest).waiting {
            Waiting::ForEvent(list, srv, event) => ipc_wait_event(list, srv, event),
            Waiting::ToRead(info, message) => ipc_read(info, message),
        };
        (*guest).errno.store(*libc::__errno_location(), Ordering::SeqCst);
        (*guest).code.store(code as i32, Ordering::SeqCst);
        (*guest).has_returned.store(true, Ordering::SeqCst);
    }
    ptr::null_mut()
}

/// Whether this thread of the process sleeps.
fn is_asleep(thread: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// Makes another thread make the call, and runs the closure when that thread waits, or before its call;
/// returns the outcome of the call.
fn call_in_thread(
    waiting: Waiting,
    before_it: bool,
    act: impl FnOnce(libc::pthread_t, &dyn Fn() -> bool),
) -> Outcome {
    let guest = Guest {
        waiting,
        may_call: AtomicBool::new(!before_it),
        id: AtomicI32::new(0),
        has_returned: AtomicBool::new(false),
        code: AtomicI32::new(0),
        errno: AtomicI32::new(0),
    };
    let place = ptr::from_ref(&guest).cast_mut().cast();
    let mut thread: libc::pthread_t = 0;
    // Both kinds of function are called in the same way; only the one with C-unwind may be unwound.
    let play: extern "C" fn(*mut c_void) -> *mut c_void =
        unsafe { std::mem::transmute(play as extern "C-unwind" fn(*mut c_void) -> *mut c_void) };
    assert_eq!(unsafe { libc::pthread_create(&mut thread, ptr::null(), play, place) }, 0);
    while guest.id.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    while !before_it && !is_asleep(guest.id.load(Ordering::SeqCst)) {
        assert!(!guest.has_returned.load(Ordering::SeqCst), "a call that was to wait has returned");
        std::thread::yield_now();
    }
    act(thread, &|| guest.has_returned.load(Ordering::SeqCst));
    guest.may_call.store(true, Ordering::SeqCst);
    let mut result = ptr::null_mut();
    assert_eq!(unsafe { libc::pthread_join(thread, &mut result) }, 0);
    if guest.has_returned.load(Ordering::SeqCst) {
        Outcome::Returned(guest.code.load(Ordering::SeqCst), guest.errno.load(Ordering::SeqCst))
    } else {
        // PTHREAD_CANCELED.
        assert_eq!(result.addr(), usize::MAX);
        Outcome::Cancelled
    }
}

fn cancel(thread: libc::pthread_t, _: &dyn Fn() -> bool) {
    assert_eq!(unsafe { libc::pthread_cancel(thread) }, 0);
}

/// A signal whose handler does nothing, with or without SA_RESTART. A signal that arrives at the moment in
/// which the call has just woken up is not noticed: it is sent again.
fn interrupt(thread: libc::pthread_t, is_over: &dyn Fn() -> bool) {
    extern "C" fn handle(_: c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as extern "C" fn(c_int) as libc::sighandler_t;
        for (signal, flags) in [(libc::SIGUSR1, 0), (libc::SIGUSR2, libc::SA_RESTART)] {
            action.sa_flags = flags;
            assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
        }
    });
    static TURN: AtomicI32 = AtomicI32::new(0);
    let signal = [libc::SIGUSR1, libc::SIGUSR2][usize::from(TURN.fetch_add(1, Ordering::Relaxed) % 2 == 1)];
    while !is_over() {
        assert_eq!(unsafe { libc::pthread_kill(thread, signal) }, 0);
        unsafe { libc::usleep(100) };
    }
}

/// Forks a child that runs the closure and exits.
fn fork(act: impl FnOnce()) {
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        act();
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child has failed");
}

/// The process is stopped and continued, as by Ctrl-Z and `fg`.
fn stop_and_continue() {
    let process = unsafe { libc::getpid() };
    let status = format!("/proc/{process}/stat");
    fork(|| {
        unsafe { libc::kill(process, libc::SIGSTOP) };
        let is_stopped =
            |status: String| status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        while !std::fs::read_to_string(&status).is_ok_and(is_stopped) {}
        unsafe { libc::kill(process, libc::SIGCONT) };
    });
}

impl World {
    /// Whether a wait for the list has no event and will go on: no uncertain event is possible, either.
    fn is_quiet(&self, with_service: bool) -> bool {
        let is_quiet = |number: usize| {
            let connection = &self.connections[number];
            connection.is_dead
                || connection.state == State::Open
                    && connection.reset == Due::Never
                    && !connection.event_is_due()
                    // A disconnection that waits for a queue is reported when the queue is sent.
                    && (!connection.ended || connection.end_reported)
                    && (connection.kind == Kind::Extra || connection.next() == Next::Nothing)
                || connection.state == State::Closed && connection.own_end == Due::Never
        };
        !self.here.hidden
            && !self.here.changed
            && (!with_service || self.backlog.is_empty())
            && (with_service && self.srv.is_some() || self.is_anybody_alive() == Due::Certainly)
            && self.here.listed.iter().flatten().all(|number| is_quiet(*number))
    }

    /// Another thread waits for the list, and is disturbed.
    pub fn disturb_wait(&mut self, with_service: bool, how: usize) {
        let bell = if how == 3 { Some(self.bell()) } else { None };
        if !self.is_quiet(with_service) {
            return;
        }
        let srv = if with_service { self.srv() } else { ptr::null_mut() };
        self.before_call(with_service);
        trace!("  another thread waits, and is disturbed, way {how}");
        let waiting = Waiting::ForEvent(&mut *self.here.list, srv, &mut *self.here.event);
        let outcome = call_in_thread(waiting, how == 0, |thread, is_over| match how {
            0 | 1 => cancel(thread, is_over),
            2 => interrupt(thread, is_over),
            _ => {
                stop_and_continue();
                bell.into_iter().for_each(|bell| _ = self.connections[bell].send(b"!"));
            }
        });
        match (how, outcome) {
            (0 | 1, Outcome::Cancelled) => {}
            (2, Outcome::Returned(code, libc::EINTR)) if code == IPC_ERROR_WAIT_EVENT__SELECT as i32 => {
                self.assert_not_set()
            }
            (3, Outcome::Returned(code, _)) if code == IPC_ERROR_NONE as i32 => self.check_what_was_told(),
            (_, outcome) => panic!("{outcome:?} of a wait that was disturbed, way {how}"),
        }
    }

    /// Another thread reads from the connection, on which nothing has arrived, and is cancelled.
    pub fn cancel_read(&mut self, number: usize, is_late: bool) {
        let connection = &self.connections[number];
        if connection.ended || connection.next() != Next::Nothing || connection.reset > Due::Never {
            return;
        }
        trace!("  a read from {} is cancelled", connection.fd);
        let mut message = ipc_message { r#type: 0, length: 0, payload: ptr::null_mut() };
        let outcome = call_in_thread(Waiting::ToRead(connection.info, &mut message), is_late, cancel);
        assert_eq!(outcome, Outcome::Cancelled);
        assert!(message.payload.is_null());
    }

    /// The program closes the descriptors that it does not know, and opens files of its own, which it watches.
    pub fn close_unknown(&mut self, event_fds: bool) {
        let known: Vec<RawFd> = self
            .connections
            .iter()
            .filter(|connection| !matches!(connection.state, State::Waiting | State::Closed | State::Over))
            .map(|connection| connection.fd)
            .chain(self.files.iter().map(|file| file.fd))
            .chain(self.sets.iter().copied())
            .chain(self.kept.iter().copied())
            .chain(self.srv.iter().map(|srv| srv.fd))
            .chain(self.before.iter().copied())
            .chain([&self.here, &self.there].into_iter().filter_map(|listing| listing.event_fd()))
            .filter(|fd| event_fds || ![self.here.event_fd(), self.there.event_fd()].contains(&Some(*fd)))
            .collect();
        let unknown =
            sockets::open_numbers().into_iter().filter(|fd| *fd < sockets::HIGH && !known.contains(fd));
        for fd in unknown {
            trace!("  {fd}, which the program does not know, is closed");
            sockets::close(fd);
        }
        if !event_fds {
            (self.here.event_fd, self.there.event_fd) = (None, None);
        }
        // The library notices in the next call: before that, the descriptor for other loops is not readable.
        (self.here.changed, self.there.changed) = (true, true);
        for connection in &mut self.connections {
            // The descriptors that the library has received, and those in its send queues.
            connection.passed.iter_mut().for_each(|(_, count)| *count = None);
            connection.may_lack_descriptors |= connection.queued() > 0;
        }
        if self.files.len() >= ALL_FILES {
            return;
        }
        // The set may get the number of the library's, and the files those of connections.
        let set = sockets::epoll_set();
        self.in_each_list(|world| world.remove_dead_unnoticed(set));
        trace!("  {set} is an epoll set of the program");
        self.sets.push(set);
        for _ in self.files.len()..ALL_FILES.min(self.files.len() + FILES) {
            let (fd, other_end) = sockets::pair();
            self.in_each_list(|world| world.remove_dead_unnoticed(fd));
            trace!("  {fd} is a file of the program");
            let holds = sockets::send(&other_end, &frame(2, 20, 99).repeat(3));
            sockets::watch(set, fd);
            self.files.push(File { fd, holds, set: Some(set), _other_end: other_end });
        }
    }

    /// A child of the program closes all descriptors, or frees the list.
    pub fn fork_child(&mut self, closes: bool) {
        trace!("  a child closes all: {closes}");
        let list = ptr::from_mut(&mut *self.here.list);
        fork(|| unsafe {
            if closes {
                (3..sockets::HIGH).for_each(|fd| _ = libc::close(fd));
            }
            ipc_connections_free(list);
        });
    }

    /// An open extra descriptor that is reported when its other end is written to.
    pub fn bell(&mut self) -> usize {
        let is_bell = |number: &usize| {
            let connection = &self.connections[*number];
            connection.kind == Kind::Extra
                && connection.state == State::Open
                && !connection.ended
                && !connection.is_watched
                && !connection.is_dead
        };
        let bell = self.here.listed.iter().flatten().copied().find(is_bell);
        bell.unwrap_or_else(|| self.add_extra(true))
    }
}
