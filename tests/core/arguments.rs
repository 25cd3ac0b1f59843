//! Promises 26 and 27, for calls that fail: each wrong argument that the library can detect is refused with a
//! code and errno. The call prints nothing, ends no process, and leaks neither memory nor descriptors.

use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::ptr::{null, null_mut};

use crate::child;
use crate::support::ext::heap_can_be_counted;
use crate::support::*;
use libc::{
    EBADF, EBADMSG, ECONNREFUSED, EINVAL, EISDIR, EMSGSIZE, ENAMETOOLONG, ENOENT, ENOTCONN, ENOTDIR, ENOTSOCK,
};

child::roles! { calls_with_wrong_arguments }

const MAX: isize = 7_999_995;

/// Asserts that the call fails twice, each time with this code and this errno.
fn fails(what: &str, code: ipc_errors, expected: i32, mut call: impl FnMut() -> ipc_errors) {
    for _ in 0..2 {
        set_errno(0);
        let answer = call();
        assert_eq!((answer, errno()), (code, expected), "{what}");
    }
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn info(fd: i32) -> ipc_connection_info {
    ipc_connection_info { fd, ..EMPTY_INFO }
}

fn null_pointers() {
    let (name, mut p, mut m, mut list) = (c"s".as_ptr(), EMPTY_INFO, EMPTY_MESSAGE, EMPTY_LIST);
    let mut event: ipc_event = unsafe { std::mem::zeroed() };
    let (mut buffer, mut size, mut fd) = ([0_u8; 16].as_mut_ptr().cast::<c_char>(), 16, -1);
    unsafe {
        fails("init, env", IPC_ERROR_SERVER_INIT__NO_ENVIRONMENT_PARAM, EINVAL, || {
            ipc_server_init(null_mut(), &mut p, name)
        });
        fails("init, srv", IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM, EINVAL, || {
            ipc_server_init(env(), null_mut(), name)
        });
        fails("init, name", IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM, EINVAL, || {
            ipc_server_init(env(), &mut p, null())
        });
        fails("connection, env", IPC_ERROR_CONNECTION__NO_ENVIRONMENT_PARAM, EINVAL, || {
            ipc_connection(null_mut(), &mut p, name)
        });
        fails("connection, p", IPC_ERROR_CONNECTION__NO_SERVER, EINVAL, || {
            ipc_connection(env(), null_mut(), name)
        });
        fails("connection, name", IPC_ERROR_CONNECTION__NO_SERVICE_NAME, EINVAL, || {
            ipc_connection(env(), &mut p, null())
        });
        fails("server_close", IPC_ERROR_USOCK_CLOSE, EINVAL, || ipc_server_close(null_mut()));
        fails("close", IPC_ERROR_USOCK_CLOSE, EINVAL, || ipc_close(null_mut()));
        fails("accept, srv", IPC_ERROR_ACCEPT__NO_SERVICE_PARAM, EINVAL, || ipc_accept(null_mut(), &mut p));
        fails("accept, p", IPC_ERROR_ACCEPT__NO_CLIENT_PARAM, EINVAL, || ipc_accept(&mut { p }, null_mut()));
        fails("read, p", IPC_ERROR_USOCK_RECV, EINVAL, || ipc_read(null(), &mut m));
        fails("read, m", IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM, EINVAL, || ipc_read(&p, null_mut()));
        fails("write, p", IPC_ERROR_USOCK_SEND, EINVAL, || ipc_write(null(), &m));
        fails("write, m", IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, EINVAL, || ipc_write(&p, null()));
        fails("wait, list", IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, EINVAL, || {
            ipc_wait_event(null_mut(), &mut p, &mut event)
        });
        fails("wait, event", IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM, EINVAL, || {
            ipc_wait_event(&mut list, &mut p, null_mut())
        });
        fails("add, list", IPC_ERROR_ADD__NO_PARAM_CLIENTS, EINVAL, || ipc_add(null_mut(), &mut p));
        fails("add, p", IPC_ERROR_ADD__NO_PARAM_CLIENT, EINVAL, || ipc_add(&mut list, null_mut()));
        fails("del, list", IPC_ERROR_DEL__NO_CLIENTS_PARAM, EINVAL, || ipc_del(null_mut(), &mut p));
        fails("del, p", IPC_ERROR_DEL__NO_CLIENT_PARAM, EINVAL, || ipc_del(&mut list, null_mut()));
        fails("add_fd", IPC_ERROR_ADD_FD__NO_PARAM_CINFOS, EINVAL, || ipc_add_fd(null_mut(), 0));
        fails("handle, srv", IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFO_PARAM, EINVAL, || {
            handle_new_connection(null_mut(), &mut list, null_mut())
        });
        fails("handle, list", IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFOS_PARAM, EINVAL, || {
            handle_new_connection(&mut p, null_mut(), null_mut())
        });
        fails("gen", IPC_ERROR_CONNECTION_GEN__NO_CINFO, EINVAL, || {
            ipc_connection_gen(null_mut(), 1, 2, 3, 4)
        });
        fails("message_new", IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM, EINVAL, || {
            ipc_message_new(null_mut(), 5)
        });
        fails("format_read, m", IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE, EINVAL, || {
            ipc_message_format_read(null_mut(), buffer, 5)
        });
        fails("format_read, buf", IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER, EINVAL, || {
            ipc_message_format_read(&mut m, null(), 5)
        });
        fails("format_write, m", IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE, EINVAL, || {
            ipc_message_format_write(null(), &mut buffer, &mut size)
        });
        fails("format_write, buf", IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER, EINVAL, || {
            ipc_message_format_write(&m, null_mut(), &mut size)
        });
        fails("format_write, size", IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE, EINVAL, || {
            ipc_message_format_write(&m, &mut buffer, null_mut())
        });
        fails("message_read", IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM, EINVAL, || {
            ipc_message_read(0, null_mut())
        });
        fails("message_write", IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, EINVAL, || {
            ipc_message_write(0, null())
        });
        let no_message = IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM;
        fails("format", no_message, EINVAL, || ipc_message_format(null_mut(), 1, buffer, 5));
        fails("format_data", no_message, EINVAL, || ipc_message_format_data(null_mut(), buffer, 5));
        fails("server_close message", no_message, EINVAL, || ipc_message_format_server_close(null_mut()));
        fails("empty", IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST, EINVAL, || ipc_message_empty(null_mut()));
        fails("send", IPC_ERROR_USOCK_SEND, EINVAL, || usock_send(0, null(), 5, null_mut()));
        fails("recv, buf", IPC_ERROR_USOCK_RECV__NO_BUFFER, EINVAL, || usock_recv(0, null_mut(), &mut size));
        fails("recv, len", IPC_ERROR_USOCK_RECV__NO_LENGTH, EINVAL, || {
            usock_recv(0, &mut buffer, null_mut())
        });
        fails("connect, fd", IPC_ERROR_USOCK_CONNECT__WRONG_FILE_DESCRIPTOR, EINVAL, || {
            usock_connect(null_mut(), name)
        });
        fails("connect, path", IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, EINVAL, || {
            usock_connect(&mut fd, null())
        });
        fails("usock_init, fd", IPC_ERROR_USOCK_INIT__EMPTY_FILE_DESCRIPTOR, EINVAL, || {
            usock_init(null_mut(), name)
        });
        fails("usock_init, path", IPC_ERROR_USOCK_INIT__EMPTY_PATH, EINVAL, || usock_init(&mut fd, null()));
        fails("usock_accept", IPC_ERROR_USOCK_ACCEPT__PATH_FILE_DESCRIPTOR, EINVAL, || {
            usock_accept(0, null_mut())
        });
        fails("usock_remove", IPC_ERROR_USOCK_REMOVE__UNLINK, EINVAL, || usock_remove(null()));
        // The functions that return no code.
        assert!(ipc_connection_copy(null()).is_null());
        assert_eq!([ipc_connection_eq(null(), &p), ipc_connection_eq(&p, null())], [0, 0]);
        ipc_connections_free(null_mut());
        ipc_connection_print(null_mut());
        ipc_connections_print(null_mut());
        ipc_message_print(null());
        service_path(null_mut(), name, 0, 0);
        let mut path = [1; libc::PATH_MAX as usize];
        service_path(path.as_mut_ptr(), null(), 0, 0);
        assert_eq!(CStr::from_ptr(path.as_ptr()), c"");
    }
}

fn invalid_sizes() {
    let (mut m, mut made, mut size) = (EMPTY_MESSAGE, null_mut(), 0);
    let (mut buffer, bytes) = (null_mut(), [1_u8; 64].as_ptr().cast::<c_char>());
    unsafe {
        for length in [-1, isize::MIN, isize::MAX, MAX + 1] {
            let code = IPC_ERROR_MESSAGE_FORMAT__LENGTH;
            fails("message_new", code, EMSGSIZE, || ipc_message_new(&mut made, length));
            fails("format", code, EMSGSIZE, || ipc_message_format(&mut m, 1, bytes, length));
            fails("format, no payload", code, EMSGSIZE, || ipc_message_format(&mut m, 1, null(), length));
            fails("format_data", code, EMSGSIZE, || ipc_message_format_data(&mut m, bytes, length));
        }
        for (payload, length) in [(bytes, 0), (null(), 5)] {
            let code = IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS;
            fails("format", code, EINVAL, || ipc_message_format(&mut m, 1, payload, length));
            fails("format_data", code, EINVAL, || ipc_message_format_data(&mut m, payload, length));
        }
        let whole = frame(1, b"payload");
        for size in [-1, isize::MIN, isize::MAX, 0, 4, 5, 11, 13] {
            fails("format_read", IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE, EBADMSG, || {
                ipc_message_format_read(&mut m, whole.as_ptr().cast(), size)
            });
        }
        let (one, two) = pair();
        let fd = one.as_raw_fd();
        let writes = |what, code, expected, m: &ipc_message| {
            fails(what, code, expected, || ipc_write(&info(fd), m));
            fails(what, code, expected, || ipc_message_write(fd, m));
        };
        for length in [MAX as u32 + 1, u32::MAX] {
            let m = ipc_message { length, payload: bytes.cast_mut(), ..EMPTY_MESSAGE };
            writes("too long", IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE, &m);
            fails("too long", IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE, || {
                ipc_message_format_write(&m, &mut buffer, &mut size)
            });
        }
        let m = ipc_message { length: 5, ..EMPTY_MESSAGE };
        writes("no payload", IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, EINVAL, &m);
        fails("no payload", IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, EINVAL, || {
            ipc_message_format_write(&m, &mut buffer, &mut size)
        });
        for length in [-1, isize::MIN] {
            fails("send", IPC_ERROR_USOCK_SEND, EINVAL, || usock_send(fd, bytes, length, null_mut()));
        }
        // A negative buffer size counts as 0; the frame stays for the next call.
        assert_eq!(write(fd, 1, b"payload"), IPC_ERROR_NONE);
        let mut room = [0_u8; 12];
        let mut place = room.as_mut_ptr().cast();
        for room in [-1, isize::MIN, 0, 4, 11] {
            fails("recv", IPC_ERROR_USOCK_RECV, EMSGSIZE, || {
                usock_recv(two.as_raw_fd(), &mut place, &mut { room })
            });
        }
        assert_eq!(read(two.as_raw_fd()), Ok((1, b"payload".to_vec())));
        assert_eq!((room, buffer.is_null(), made.is_null()), ([0; 12], true, true));
    }
}

fn invalid_descriptors(directory: &Path) {
    let file = File::create(directory.join("file")).unwrap();
    let listener = UnixListener::bind(directory.join("listener")).unwrap();
    let (one, _two) = pair();
    let closed = one.try_clone().unwrap().into_raw_fd();
    assert_eq!(usock_close(closed), IPC_ERROR_NONE);
    let (file, listener, connected) = (file.as_raw_fd(), listener.as_raw_fd(), one.as_raw_fd());
    let (mut m, mut p, mut fd) = (EMPTY_MESSAGE, EMPTY_INFO, -1);
    let (mut buffer, mut size) = (null_mut(), 0);
    let none = [closed, -1, i32::MIN, i32::MAX].map(|fd| (fd, EBADF, EBADF));
    for (of, read_errno, write_errno) in
        none.into_iter().chain([(file, ENOTSOCK, ENOTSOCK), (listener, EINVAL, ENOTCONN)])
    {
        unsafe {
            let bytes = [1_u8; 8].as_ptr().cast();
            fails("read", IPC_ERROR_USOCK_RECV, read_errno, || ipc_read(&info(of), &mut m));
            fails("message_read", IPC_ERROR_USOCK_RECV, read_errno, || ipc_message_read(of, &mut m));
            fails("recv", IPC_ERROR_USOCK_RECV, read_errno, || usock_recv(of, &mut buffer, &mut size));
            fails("write", IPC_ERROR_USOCK_SEND, write_errno, || write(of, 1, b"payload"));
            fails("message_write", IPC_ERROR_USOCK_SEND, write_errno, || ipc_message_write(of, &m));
            fails("send", IPC_ERROR_USOCK_SEND, write_errno, || usock_send(of, bytes, 8, null_mut()));
        }
    }
    for (of, expected) in
        none.map(|(of, ..)| (of, EBADF)).into_iter().chain([(file, ENOTSOCK), (connected, EINVAL)])
    {
        unsafe {
            fails("accept", IPC_ERROR_ACCEPT, expected, || ipc_accept(&mut info(of), &mut p));
            fails("usock_accept", IPC_ERROR_USOCK_ACCEPT, expected, || usock_accept(of, &mut fd));
            let mut list = EMPTY_LIST;
            let handle = || handle_new_connection(&mut info(of), &mut list, null_mut());
            fails("handle", IPC_ERROR_ACCEPT, expected, handle);
            assert_eq!(list.size, 0);
            ipc_connections_free(&mut list);
        }
    }
    for (of, ..) in none {
        unsafe {
            fails("close", IPC_ERROR_USOCK_CLOSE, EBADF, || ipc_close(&mut info(of)));
            fails("usock_close", IPC_ERROR_USOCK_CLOSE, EBADF, || usock_close(of));
            fails("server_close", IPC_ERROR_USOCK_CLOSE, EBADF, || ipc_server_close(&mut info(of)));
            let mut list = EMPTY_LIST;
            fails("add_fd", IPC_ERROR_WAIT_EVENT__SELECT, EBADF, || ipc_add_fd(&mut list, of));
            assert_eq!((list.size, list.cinfos.is_null()), (0, true));
        }
    }
    assert_eq!((fd, buffer.is_null(), m.payload.is_null()), (-1, true, true));
}

/// Waiting for events with a descriptor that is not a service's.
fn invalid_services(directory: &Path) {
    let file = File::create(directory.join("file")).unwrap();
    let mut event: ipc_event = unsafe { std::mem::zeroed() };
    for (of, expected) in [(-1, EBADF), (i32::MAX, EBADF), (file.as_raw_fd(), ENOTSOCK)] {
        let mut list = EMPTY_LIST;
        fails("wait, srv", IPC_ERROR_WAIT_EVENT__SELECT, expected, || unsafe {
            ipc_wait_event(&mut list, &mut info(of), &mut event)
        });
        unsafe { ipc_connections_free(&mut list) };
    }
}

fn invalid_lists() {
    let mut p = EMPTY_INFO;
    let mut event: ipc_event = unsafe { std::mem::zeroed() };
    unsafe {
        for size in [0, 3, i32::MAX, -1, i32::MIN] {
            let mut list = ipc_connection_infos { cinfos: null_mut(), size };
            let no_clients = IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM;
            fails("wait", no_clients, EINVAL, || ipc_wait_event(&mut list, null_mut(), &mut event));
            let (code, expected) = if size > 0 {
                (IPC_ERROR_DEL__EMPTIED_LIST, EINVAL)
            } else {
                (IPC_ERROR_DEL__EMPTY_LIST, ENOENT)
            };
            fails("del", code, expected, || ipc_del(&mut list, &mut p));
            if size != 0 {
                fails("add", IPC_ERROR_ADD__EMPTY_LIST, EINVAL, || ipc_add(&mut list, &mut p));
                fails("add_fd", IPC_ERROR_ADD__EMPTY_LIST, EINVAL, || ipc_add_fd(&mut list, 0));
                assert_eq!((list.size, list.cinfos.is_null()), (size, true));
            }
            ipc_connections_print(&mut list);
            ipc_connections_free(&mut list);
            assert_eq!(list.size, 0);
        }
        let (one, _two) = pair();
        let (mut member, mut list) = (info(one.as_raw_fd()), EMPTY_LIST);
        assert_eq!(ipc_add(&mut list, &mut member), IPC_ERROR_NONE);
        fails("del", IPC_ERROR_DEL__CANNOT_FIND_CLIENT, ENOENT, || ipc_del(&mut list, &mut p));
        assert_eq!(ipc_del(&mut list, &mut member), IPC_ERROR_NONE);
    }
}

fn invalid_paths(directory: &Path) {
    let file = c_string(&directory.join("a file"));
    std::fs::write(directory.join("a file"), "").unwrap();
    let [missing, below_a_file, no_directory] =
        ["missing", "a file/s", "missing/s"].map(|name| c_string(&directory.join(name)));
    let long = CString::new("x".repeat(300)).unwrap();
    let mut fd = -1;
    unsafe {
        for (path, code, expected) in [
            (c"", IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, EINVAL),
            (&missing, IPC_ERROR_USOCK_CONNECT__SOCKET, ENOENT),
            (&below_a_file, IPC_ERROR_USOCK_CONNECT__SOCKET, ENOTDIR),
            (&file, IPC_ERROR_USOCK_CONNECT__SOCKET, ECONNREFUSED),
            (&long, IPC_ERROR_USOCK_CONNECT__SOCKET, ENAMETOOLONG),
        ] {
            fails("connect", code, expected, || usock_connect(&mut fd, path.as_ptr()));
        }
        for (path, code, expected) in [
            (c"", IPC_ERROR_USOCK_INIT__EMPTY_PATH, EINVAL),
            (&no_directory, IPC_ERROR_USOCK_INIT__BIND, ENOENT),
            (&below_a_file, IPC_ERROR_USOCK_INIT__BIND, ENOTDIR),
            (&long, IPC_ERROR_USOCK_INIT__BIND, ENAMETOOLONG),
        ] {
            fails("usock_init", code, expected, || usock_init(&mut fd, path.as_ptr()));
        }
        for (path, code, expected) in [
            (c"", IPC_ERROR_USOCK_REMOVE__NO_FILE, ENOENT),
            (&missing, IPC_ERROR_USOCK_REMOVE__NO_FILE, ENOENT),
            (&c_string(directory), IPC_ERROR_USOCK_REMOVE__UNLINK, EISDIR),
        ] {
            fails("usock_remove", code, expected, || usock_remove(path.as_ptr()));
        }
        assert_eq!(fd, -1);
    }
}

fn unknown_codes() {
    // A C program can pass any int.
    let message =
        |code: i32| unsafe { ipc_errors_get(std::mem::transmute::<i32, MaybeUninit<ipc_errors>>(code)) };
    assert!((0..60).all(|code| !message(code).is_null()));
    assert!([60, -1, i32::MAX, i32::MIN].into_iter().all(|code| message(code).is_null()));
}

/// Makes all these calls 220 times, in a program that prints nothing itself. At the end the program has no
/// more open descriptors than before, and no more memory in use.
fn calls_with_wrong_arguments() {
    let directory = std::env::var_os("IPC_RUNDIR").unwrap();
    let directory = Path::new(&directory);
    let all = || {
        null_pointers();
        invalid_sizes();
        invalid_descriptors(directory);
        invalid_services(directory);
        invalid_lists();
        invalid_paths(directory);
        unknown_codes();
        for name in ["file", "listener", "a file"] {
            std::fs::remove_file(directory.join(name)).unwrap();
        }
    };
    (0..20).for_each(|_| all());
    let (descriptors, heap) = (open_descriptors(), heap_in_use());
    (0..200).for_each(|_| all());
    assert_eq!(open_descriptors(), descriptors);
    // The smallest block of malloc(3) has 32 bytes: one lost in each round would be 6400.
    assert!(heap_in_use() < heap + 3200, "{heap} bytes of heap, now {}", heap_in_use());
}

#[test]
fn promise_26_wrong_arguments_fail_and_print_nothing() {
    own_process!(60);
    let rundir = tempfile::tempdir().unwrap();
    let mut command = child::command_with_plain_heap(calls_with_wrong_arguments);
    let output = command.env("IPC_RUNDIR", rundir.path()).stderr(Stdio::piped()).output().unwrap();
    let [output_text, error_text] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output_text.is_empty() && error_text.is_empty(), "it printed:\n{output_text}{error_text}");
    assert!(output.status.success(), "{}", output.status);
}

/// What the library knows of descriptors is in a table by number: it grows with those that are open.
#[test]
fn promise_26_number_that_is_not_open_costs_no_memory() {
    own_process!(60);
    if !heap_can_be_counted() {
        return;
    }
    type Call = fn(i32) -> ipc_errors;
    let calls: [(&str, Call); 6] = [
        ("ipc_write", |fd| write(fd, 1, b"text")),
        ("ipc_read", |fd| unsafe { ipc_read(&info(fd), &mut { EMPTY_MESSAGE }) }),
        ("usock_send", |fd| unsafe { usock_send(fd, c"text".as_ptr(), 4, &mut 0) }),
        ("usock_recv", |fd| unsafe { usock_recv(fd, &mut null_mut(), &mut 0) }),
        ("ipc_close", |fd| unsafe { ipc_close(&mut info(fd)) }),
        ("usock_close", |fd| usock_close(fd)),
    ];
    for (name, call) in calls {
        for number in [900_000, i32::MAX] {
            let before = heap_in_use();
            set_errno(0);
            assert_ne!(call(number), IPC_ERROR_NONE, "{name} {number}");
            assert_eq!(errno(), EBADF, "{name} {number}");
            let now = heap_in_use();
            assert!(now < before + 10_000, "{name} {number}: {now} bytes of heap, {before} before");
        }
    }
}
