//! Promise 24: a signal handler that closes everything may run at any moment, also when it interrupts the
//! library. The handler does not hang or crash, and the library does not use the heap in it, since malloc(3)
//! may be interrupted, too. The handler may exit or return.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

use crate::child::{self, Child};
use crate::support::*;

child::roles! { runs_interrupted_programs }

/// The allocator of the whole test program. It notes whether the heap is used while `FORBIDDEN` is set.
struct Watched;

#[global_allocator]
static HEAP: Watched = Watched;
static FORBIDDEN: AtomicBool = AtomicBool::new(false);
static USED: AtomicBool = AtomicBool::new(false);

unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USED.fetch_or(FORBIDDEN.load(Relaxed), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        USED.fetch_or(FORBIDDEN.load(Relaxed), Relaxed);
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        USED.fetch_or(FORBIDDEN.load(Relaxed), Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        USED.fetch_or(FORBIDDEN.load(Relaxed), Relaxed);
        unsafe { System.realloc(place, layout, size) }
    }
}

/// The handler closes these three.
static mut SERVICE: ipc_connection_info = EMPTY_INFO;
static mut CLIENT: ipc_connection_info = EMPTY_INFO;
static mut LIST: ipc_connection_infos = EMPTY_LIST;
/// The path of the service, and whether the service is open in this process and in no other.
static PATH: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());
static OPEN: AtomicBool = AtomicBool::new(false);

static RETURNS: AtomicBool = AtomicBool::new(false);
static HANDLED: AtomicBool = AtomicBool::new(false);
static NESTED: AtomicBool = AtomicBool::new(false);

/// Exit codes of a program that has succeeded: INSIDE if the handler has interrupted the library.
const INSIDE: i32 = 7;
const OUTSIDE: i32 = 8;
/// Exit codes of a program that has failed.
const HEAP_USED: i32 = 9;
const PATH_LEFT: i32 = 10;

extern "C" fn close_everything(_: i32) {
    if HANDLED.load(Relaxed) {
        // A further signal, which wakes up a program that waits for a closed descriptor.
        return;
    }
    let before = errno_now();
    unsafe {
        // A call returns EDEADLK if it has interrupted the library.
        ipc_message_empty(ptr::null_mut());
        NESTED.store(errno_now() == libc::EDEADLK, Relaxed);
        let was_open = OPEN.load(Relaxed);
        FORBIDDEN.store(NESTED.load(Relaxed), Relaxed);
        ipc_connections_free(&raw mut LIST);
        if CLIENT.fd >= 0 {
            ipc_close(&raw mut CLIENT);
        }
        if SERVICE.fd >= 0 {
            ipc_server_close(&raw mut SERVICE);
        }
        FORBIDDEN.store(false, Relaxed);
        if USED.load(Relaxed) {
            libc::_exit(HEAP_USED);
        }
        if was_open && libc::access(PATH.load(Relaxed), libc::F_OK) == 0 {
            libc::_exit(PATH_LEFT);
        }
        if !RETURNS.load(Relaxed) {
            libc::exit(if NESTED.load(Relaxed) { INSIDE } else { OUTSIDE });
        }
    }
    HANDLED.store(true, Relaxed);
    set_errno(before);
}

fn errno_now() -> i32 {
    unsafe { *libc::__errno_location() }
}

/// Makes the calls in order; the function returns as soon as the handler has run and returned.
macro_rules! until_handled {
    ($($call:expr);+ $(;)?) => {
        unsafe {
            $(
                let _ = $call;
                if HANDLED.load(Relaxed) {
                    return;
                }
            )+
        }
    };
}

fn open(name: &CStr) {
    until_handled! {
        ipc_server_init(env(), &raw mut SERVICE, name.as_ptr());
        OPEN.store(true, Relaxed);
    }
}

fn close() {
    until_handled! {
        OPEN.store(false, Relaxed);
        ipc_server_close(&raw mut SERVICE);
        SERVICE.fd = -1;
    }
}

fn wait(event: &mut ipc_event) {
    unsafe { ipc_wait_event(&raw mut LIST, &raw mut SERVICE, event) };
}

/// A client connects, asks, gets answers, and closes. The program itself does not use the heap here and
/// below: a handler that interrupts the program's own malloc(3) must not use the library.
fn ask_and_answer(name: &CStr, payload: &[u8]) {
    let mut event: ipc_event = unsafe { std::mem::zeroed() };
    let mut answer = EMPTY_MESSAGE;
    until_handled! {
        ipc_connection(env(), &raw mut CLIENT, name.as_ptr());
        wait(&mut event);
    }
    for _ in 0..3 {
        until_handled! {
            write(CLIENT.fd, 1, payload);
            write(CLIENT.fd, 2, payload);
            wait(&mut event);
            ipc_write(event.origin, event.m.cast());
            wait(&mut event);
            ipc_write(event.origin, event.m.cast());
            ipc_read(&raw const CLIENT, &mut answer);
            ipc_message_empty(&mut answer);
            ipc_read(&raw const CLIENT, &mut answer);
            ipc_message_empty(&mut answer);
        }
    }
    until_handled! {
        ipc_close(&raw mut CLIENT);
        CLIENT.fd = -1;
        wait(&mut event);
    }
}

/// Writes to a client that does not read until bytes are queued; then the client closes.
fn fill_a_queue(name: &CStr, payload: &[u8]) {
    let mut event: ipc_event = unsafe { std::mem::zeroed() };
    until_handled! {
        ipc_connection(env(), &raw mut CLIENT, name.as_ptr());
        wait(&mut event);
    }
    for _ in 0..20 {
        until_handled! { ipc_write(event.origin, &message(payload)); }
    }
    until_handled! {
        ipc_close(&raw mut CLIENT);
        CLIENT.fd = -1;
        wait(&mut event);
    }
}

fn message(payload: &[u8]) -> ipc_message {
    ipc_message { r#type: 1, length: payload.len() as u32, payload: payload.as_ptr().cast_mut().cast() }
}

/// Changes a list, makes and frees messages, and forks.
fn change_lists_and_fork(fds: [i32; 2], payload: &[u8]) {
    let mut infos = fds.map(|fd| ipc_connection_info { fd, ..EMPTY_INFO });
    let (mut made, mut buffer, mut size) = (ptr::null_mut(), ptr::null_mut(), 0);
    let mut formatted = EMPTY_MESSAGE;
    until_handled! {
        ipc_add(&raw mut LIST, &mut infos[0]);
        ipc_add(&raw mut LIST, &mut infos[1]);
        ipc_del(&raw mut LIST, &mut infos[0]);
        ipc_del(&raw mut LIST, &mut infos[1]);
        ipc_message_new(&mut made, 1000);
        ipc_message_format_data(&mut formatted, payload.as_ptr().cast(), payload.len() as isize);
        ipc_message_format_write(&formatted, &mut buffer, &mut size);
        usock_send(fds[0], buffer, size, ptr::null_mut());
        ipc_message_empty(&mut formatted);
        ipc_message_read(fds[1], &mut formatted);
        ipc_message_empty(&mut formatted);
    }
    // While the child lives, it has the service as well, and closing the service may not remove the path.
    OPEN.store(false, Relaxed);
    let id = unsafe { libc::fork() };
    if id == 0 {
        unsafe { libc::_exit(0) };
    }
    until_handled! {
        libc::waitpid(id, ptr::null_mut(), 0);
        OPEN.store(true, Relaxed);
    }
}

/// Repeats one kind of calls until the signal, which is sent after a time that differs from program to
/// program.
fn call_until_interrupted(number: usize) -> ! {
    let name = CString::new(format!("i{number}")).unwrap();
    let path = Path::new(&std::env::var_os("IPC_RUNDIR").unwrap()).join(format!("i{number}-0-0"));
    PATH.store(CString::new(path.as_os_str().as_bytes()).unwrap().into_raw(), Relaxed);
    let payload = vec![24; [0, 10, 3000, 30_000][number / 4 % 4]];
    let (one, two) = pair();
    let fds = [&one, &two].map(|stream| connection(stream).fd);
    let microseconds = 1 + (number * 7919 % 4000) as i64;
    let timer = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 5000 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: microseconds },
    };
    let handler: extern "C" fn(i32) = close_everything;
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // Without SA_RESTART: a program that waits must be woken up.
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGALRM, &action, ptr::null_mut());
        open(&name);
        libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut());
    }
    while !HANDLED.load(Relaxed) {
        match number % 4 {
            0 => ask_and_answer(&name, &payload),
            1 => fill_a_queue(&name, &[24; 30_000]),
            2 => change_lists_and_fork(fds, &payload),
            _ => {
                close();
                if !HANDLED.load(Relaxed) {
                    open(&name);
                }
            }
        }
    }
    // The handler has returned, and the library still works.
    unsafe {
        libc::setitimer(libc::ITIMER_REAL, &std::mem::zeroed(), ptr::null_mut());
        let mut server = child::server();
        let client = child::connect(&server.path);
        let fd = server.next_connection();
        assert_eq!(write(client, 1, b"question"), IPC_ERROR_NONE);
        assert_eq!(server.next(), Reported::Message(fd, 1, b"question".to_vec()));
        assert_eq!(write(fd, 1, b"answer"), IPC_ERROR_NONE);
        assert_eq!(read(client), Ok((1, b"answer".to_vec())));
        assert_eq!(usock_close(client), IPC_ERROR_NONE);
        assert_eq!(server.next(), Reported::Disconnection(fd));
        drop(server);
        libc::exit(if NESTED.load(Relaxed) { INSIDE } else { OUTSIDE });
    }
}

fn runs_interrupted_programs() {
    RETURNS.store(child::read_line() == "return", Relaxed);
    let times: usize = child::read_line().parse().unwrap();
    let mut inside = 0;
    for number in 0..times {
        let id = child::fork();
        if id == 0 {
            let _ = std::panic::catch_unwind(|| call_until_interrupted(number));
            unsafe { libc::_exit(101) };
        }
        let mut status = 0;
        let ended = || unsafe { libc::waitpid(id, &mut status, libc::WNOHANG) } == id;
        until(&format!("the end of program {number}"), ended);
        let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        match code {
            Some(INSIDE) => inside += 1,
            Some(OUTSIDE) => {}
            Some(HEAP_USED) => panic!("program {number}: the heap was used"),
            Some(PATH_LEFT) => panic!("program {number}: the path is left"),
            _ => panic!("program {number}: {status:#x}"),
        }
    }
    child::send_line(inside.to_string());
}

/// Interrupts so many programs that serve in this directory. Returns how many were interrupted inside the
/// library.
fn interrupt(rundir: &Path, how: &str, times: usize) -> usize {
    let mut child = Child::run(child::command(runs_interrupted_programs).env("IPC_RUNDIR", rundir));
    child.send_line(how);
    child.send_line(times.to_string());
    child.read_line().parse().unwrap()
}

#[test]
fn promise_24_handler_may_clean_up_and_exit_at_any_moment() {
    own_process!(100);
    let rundir = tempfile::tempdir().unwrap();
    let inside = interrupt(rundir.path(), "exit", 1000);
    say(&format!("{inside} of 1000 handlers inside the library"));
    assert!(inside > 200, "{inside} of 1000 inside the library");
}

#[test]
fn promise_24_handler_may_clean_up_and_return_at_any_moment() {
    own_process!(100);
    let rundir = tempfile::tempdir().unwrap();
    let inside = interrupt(rundir.path(), "return", 400);
    say(&format!("{inside} of 400 handlers inside the library"));
    assert!(inside > 80, "{inside} of 400 inside the library");
}

#[test]
fn promise_24_handler_may_clean_up_a_long_path_at_any_moment() {
    own_process!(100);
    let top = tempfile::tempdir().unwrap();
    for depth in [1, 10] {
        let rundir = top.path().join(["d".repeat(200).as_str()].repeat(depth).join("/"));
        std::fs::create_dir_all(&rundir).unwrap();
        interrupt(&rundir, "exit", 100);
    }
}
