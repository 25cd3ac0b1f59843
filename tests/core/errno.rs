//! Promises 26 and 27, for calls that succeed: they do not change errno, and print nothing, except for the
//! functions that exist to print. For calls that fail, see `arguments.rs`.

use std::ffi::{CStr, CString};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::ptr::{null_mut, slice_from_raw_parts};

use crate::child;
use crate::support::*;
use ipc_event_type::*;

child::roles! { calls_every_function, calls_every_function_that_prints }

/// An errno that no system call sets.
const UNTOUCHED: i32 = 27_000;

/// Asserts that the call succeeds and does not change errno.
fn succeeds(what: &str, call: impl FnOnce() -> ipc_errors) {
    set_errno(UNTOUCHED);
    let code = call();
    assert_eq!((code, errno()), (IPC_ERROR_NONE, UNTOUCHED), "{what}");
}

/// The same for a call that returns something other than a code.
fn returns<T>(what: &str, call: impl FnOnce() -> T) -> T {
    set_errno(UNTOUCHED);
    let answer = call();
    assert_eq!(errno(), UNTOUCHED, "{what}");
    answer
}

fn services_and_connections(rundir: &Path) {
    let name = c"everything";
    let path = rundir.join("everything-0-0");
    // The socket of a dead server is at the path; the directory exists already.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (mut srv, mut client, mut accepted, mut list) = (EMPTY_INFO, EMPTY_INFO, EMPTY_INFO, EMPTY_LIST);
    let (mut m, mut new_client) = (EMPTY_MESSAGE, null_mut());
    let mut reported = [1; libc::PATH_MAX as usize];
    unsafe {
        succeeds("init", || ipc_server_init(env(), &mut srv, name.as_ptr()));
        returns("service_path", || service_path(reported.as_mut_ptr(), name.as_ptr(), 0, 0));
        assert_eq!(CStr::from_ptr(reported.as_ptr()).to_bytes(), path.as_os_str().as_bytes());
        succeeds("connection", || ipc_connection(env(), &mut client, name.as_ptr()));
        succeeds("accept", || ipc_accept(&mut srv, &mut accepted));
        succeeds("write", || write(client.fd, 1, b"one"));
        succeeds("message_write", || ipc_message_write(client.fd, &m));
        succeeds("read", || ipc_read(&accepted, &mut m));
        succeeds("empty", || ipc_message_empty(&mut m));
        succeeds("message_read", || ipc_message_read(accepted.fd, &mut m));
        succeeds("close", || ipc_close(&mut client));
        succeeds("close", || ipc_close(&mut accepted));
        succeeds("connection", || ipc_connection(env(), &mut client, name.as_ptr()));
        succeeds("handle", || handle_new_connection(&mut srv, &mut list, &mut new_client));
        succeeds("close", || ipc_close(new_client));
        succeeds("close", || ipc_close(&mut client));
        returns("connections_free", || ipc_connections_free(&mut list));
        libc::free(new_client.cast());
        succeeds("server_close", || ipc_server_close(&mut srv));
        let (one, two) = (connection(&pair().0), EMPTY_INFO);
        let copy = returns("copy", || ipc_connection_copy(&one));
        assert_eq!(returns("eq", || [ipc_connection_eq(&one, copy), ipc_connection_eq(&two, copy)]), [1, 0]);
        succeeds("gen", || ipc_connection_gen(copy, 1, 2, 3, 4));
        libc::free(copy.cast());
    }
}

fn sockets(rundir: &Path) {
    let path = CString::new(rundir.join("socket").as_os_str().as_bytes()).unwrap();
    let long = long_path(rundir);
    let [mut listener, mut client, mut accepted] = [-1; 3];
    let (mut buffer, mut length, mut sent) = (null_mut(), 0, 0);
    let bytes = frame(1, b"payload");
    for path in [path, long] {
        unsafe {
            succeeds("usock_init", || usock_init(&mut listener, path.as_ptr()));
            succeeds("usock_connect", || usock_connect(&mut client, path.as_ptr()));
            succeeds("usock_accept", || usock_accept(listener, &mut accepted));
            succeeds("usock_send", || usock_send(client, bytes.as_ptr().cast(), 12, &mut sent));
            succeeds("usock_recv", || usock_recv(accepted, &mut buffer, &mut length));
            assert_eq!((sent, &*slice_from_raw_parts(buffer.cast(), length as usize)), (12, &bytes[..]));
            libc::free(buffer.cast());
            buffer = null_mut();
            for fd in [listener, client, accepted] {
                succeeds("usock_close", || usock_close(fd));
            }
            succeeds("usock_remove", || usock_remove(path.as_ptr()));
        }
    }
}

/// A path whose directory and file name are each too long for a socket's address: the library uses its
/// detour.
fn long_path(rundir: &Path) -> CString {
    let directory: PathBuf = rundir.join("d".repeat(200));
    std::fs::create_dir(&directory).unwrap();
    CString::new(directory.join("n".repeat(200)).as_os_str().as_bytes()).unwrap()
}

fn messages() {
    let (mut made, mut m, mut again) = (null_mut(), EMPTY_MESSAGE, EMPTY_MESSAGE);
    let (mut buffer, mut size, mut room) = (null_mut(), 0, [0_u8; 12]);
    let payload = c"payload".as_ptr();
    unsafe {
        succeeds("new", || ipc_message_new(&mut made, 7));
        succeeds("empty", || ipc_message_empty(made));
        libc::free(made.cast());
        succeeds("format", || ipc_message_format(&mut m, 3, payload, 7));
        succeeds("format_data", || ipc_message_format_data(&mut m, payload, 7));
        succeeds("format_write", || ipc_message_format_write(&m, &mut buffer, &mut size));
        let mut place = room.as_mut_ptr().cast();
        succeeds("format_write, in place", || ipc_message_format_write(&m, &mut place, &mut size));
        succeeds("format_read", || ipc_message_format_read(&mut again, buffer, size));
        assert_eq!(take_payload(again), (2, b"payload".to_vec()));
        libc::free(buffer.cast());
        succeeds("empty", || ipc_message_empty(&mut again));
        succeeds("format_server_close", || ipc_message_format_server_close(&mut m));
        succeeds("empty", || ipc_message_empty(&mut m));
        let code = MaybeUninit::new(IPC_ERROR_USOCK_SEND);
        assert!(!returns("errors_get", || ipc_errors_get(code)).is_null());
    }
}

/// Every event of ipc_wait_event, and each way in which a message is sent to a connection in a list.
fn events(rundir: &Path) {
    let mut program = child::server();
    let (srv, list) = (program.srv(), &raw mut program.list);
    let mut event: ipc_event = unsafe { std::mem::zeroed() };
    let mut expect = |expected: ipc_event_type| unsafe {
        succeeds("wait_event", || ipc_wait_event(list, srv, &mut event));
        assert_eq!(event.r#type.assume_init(), expected);
        (*event.origin).fd
    };
    let mut peer = std::os::unix::net::UnixStream::connect(&program.path).unwrap();
    let fd = expect(IPC_EVENT_TYPE_CONNECTION);
    peer.write_all(&[frame(1, b"one"), frame(1, b"two"), frame(1, b"half")[..7].to_vec()].concat()).unwrap();
    expect(IPC_EVENT_TYPE_MESSAGE);
    expect(IPC_EVENT_TYPE_MESSAGE);
    // While the call waits, a queue is sent and the rest of a frame arrives.
    let size = 1_000_000;
    succeeds("write, queued", || write(fd, 1, &vec![27; size]));
    succeeds("write, queued second", || write(fd, 1, &vec![27; size]));
    let reader = std::thread::spawn(move || {
        peer.read_exact(&mut vec![0; 2 * (size + 5)]).unwrap();
        peer.write_all(&frame(1, b"half")[7..]).unwrap();
        peer
    });
    expect(IPC_EVENT_TYPE_MESSAGE);
    let mut peer = reader.join().unwrap();
    peer.write_all(&[255; 5]).unwrap();
    expect(IPC_EVENT_TYPE_ERROR);
    expect(IPC_EVENT_TYPE_DISCONNECTION);
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    succeeds("add_fd", || unsafe { ipc_add_fd(list, file.as_raw_fd()) });
    expect(IPC_EVENT_TYPE_EXTRA_SOCKET);
    let (one, _other) = pair();
    let mut member = connection(&one);
    succeeds("add", || unsafe { ipc_add(list, &mut member) });
    succeeds("del", || unsafe { ipc_del(list, &mut member) });
    succeeds("add", || unsafe { ipc_add(list, &mut member) });
    succeeds("write, queued", || write(member.fd, 1, &vec![27; size]));
    returns("connections_free, with a queue", || unsafe { ipc_connections_free(list) });
    set_errno(UNTOUCHED);
    let id = child::fork();
    assert_eq!(errno(), UNTOUCHED, "fork");
    if id == 0 {
        unsafe { libc::_exit(0) };
    }
    assert_eq!(child::wait_for(id), 0);
    succeeds("server_close", || unsafe { ipc_server_close(srv) });
    program.srv = None;
    assert_eq!(std::fs::read_dir(rundir).unwrap().count(), 1, "the long path's directory");
}

fn calls_every_function() {
    let rundir = PathBuf::from(std::env::var_os("IPC_RUNDIR").unwrap());
    services_and_connections(&rundir);
    sockets(&rundir);
    messages();
    events(&rundir);
}

fn calls_every_function_that_prints() {
    let (mut info, mut bytes) = (EMPTY_INFO, *b"bytes");
    let mut infos = [&raw mut info];
    let mut list = ipc_connection_infos { cinfos: infos.as_mut_ptr(), size: 1 };
    let message = ipc_message { r#type: 2, length: 5, payload: bytes.as_mut_ptr().cast() };
    unsafe {
        returns("connection_print", || ipc_connection_print(&mut info));
        returns("connections_print", || ipc_connections_print(&mut list));
        returns("message_print", || ipc_message_print(&message));
        returns("print_hexa", || print_hexa(c"prefix".as_ptr(), bytes.as_mut_ptr(), 5));
        returns("mprint_hexa", || mprint_hexa(c"name".as_ptr().cast_mut(), bytes.as_mut_ptr(), 5));
        for log in [log_error, log_info, log_debug] {
            returns("log", || log(c"%s %d".as_ptr(), c"logged".as_ptr(), 27));
        }
    }
}

/// What a program in this role prints on standard output; it must print nothing on standard error.
fn printed_by(role: impl Fn()) -> String {
    let rundir = tempfile::tempdir().unwrap();
    let mut command = child::command(role);
    let output = command.env("IPC_RUNDIR", rundir.path()).stderr(Stdio::piped()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.is_empty() && output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn promise_27_success_leaves_errno_and_output_untouched() {
    own_process!(60);
    assert_eq!(printed_by(calls_every_function), "");
}

#[test]
fn promise_27_printing_leaves_errno_as_it_is() {
    own_process!(60);
    let printed = printed_by(calls_every_function_that_prints);
    assert_eq!(printed.matches("logged 27\n").count(), 3, "{printed}");
    assert!(printed.lines().count() >= 8, "{printed}");
}
