//! Promises 34, 35 and 48: what old programs expect of memory and structures.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, IntoRawFd};

use ipc::capi::messages::{ipc_message_empty, ipc_message_format_read, ipc_message_read};
use ipc::capi::printing::ipc_connection_print;

use crate::support::ext::*;
use crate::support::*;

const CLOSED: Failure = (IPC_ERROR_USOCK_CLOSE, libc::EBADF);

#[test]
fn promise_34_payload_that_is_replaced_is_freed() {
    own_process!(30);
    if !heap_can_be_counted() {
        return;
    }
    const SIZE: usize = 100_000;
    let (ours, peer) = pair();
    let mut m = EMPTY_MESSAGE;
    let bytes = frame(3, &pattern(SIZE, 3));
    let mut before = None;
    for round in 0..20 {
        for direct in [false, true] {
            assert_eq!(write(peer.as_raw_fd(), 1, &pattern(SIZE, round)), IPC_ERROR_NONE);
            let info = info(ours.as_raw_fd());
            let code = unsafe {
                match direct {
                    true => ipc_message_read(info.fd, &mut m),
                    false => ipc_read(&info, &mut m),
                }
            };
            assert_eq!(code, IPC_ERROR_NONE);
            assert_eq!(m.length as usize, SIZE);
        }
        let size = bytes.len() as isize;
        let code = unsafe { ipc_message_format_read(&mut m, bytes.as_ptr().cast(), size) };
        assert_eq!(code, IPC_ERROR_NONE);
        let now = heap_in_use();
        assert!(now < *before.get_or_insert(now) + SIZE, "round {round}: {now} bytes of heap");
    }
    assert_eq!(unsafe { ipc_message_empty(&mut m) }, IPC_ERROR_NONE);
}

#[test]
fn promise_34_failed_read_leaves_the_message_unchanged() {
    own_process!(30);
    let (ours, peer) = pair();
    let mut m = EMPTY_MESSAGE;
    let bytes = frame(3, b"held");
    unsafe {
        let size = bytes.len() as isize;
        assert_eq!(ipc_message_format_read(&mut m, bytes.as_ptr().cast(), size), IPC_ERROR_NONE);
        let before = (m.r#type, m.length, m.payload);
        assert_ne!(ipc_message_format_read(&mut m, bytes.as_ptr().cast(), size - 1), IPC_ERROR_NONE);
        assert_eq!((m.r#type, m.length, m.payload), before);
        drop(peer);
        assert_eq!(ipc_message_read(ours.as_raw_fd(), &mut m), IPC_ERROR_CLOSED_RECIPIENT);
        assert_eq!((m.r#type, m.length, m.payload), before);
        assert_eq!(take_payload(m), (3, b"held".to_vec()));
        assert_eq!(ipc_message_empty(&mut m), IPC_ERROR_NONE);
    }
}

/// The path of a structure.
fn spath(info: &ipc_connection_info) -> Option<String> {
    let path = unsafe { info.spath.as_ref() }?;
    Some(unsafe { CStr::from_ptr(path) }.to_str().unwrap().to_owned())
}

fn server_init(srv: &mut ipc_connection_info, name: &CStr) -> Result<(), Failure> {
    outcome(unsafe { ipc_server_init(env(), srv, name.as_ptr()) })
}

fn server_close(srv: &mut ipc_connection_info) -> Result<(), Failure> {
    outcome(unsafe { ipc_server_close(srv) })
}

/// A structure of zeros, as programs initialise it.
const ZEROS: ipc_connection_info = ipc_connection_info { fd: 0, ..EMPTY_INFO };

#[test]
fn promise_35_failed_structures_can_be_printed_and_closed() {
    own_process!(30);
    let mut living = ZEROS;
    assert_eq!(server_init(&mut living, c"living"), Ok(()));
    // Another server has the path.
    let mut srv = ZEROS;
    assert_eq!(server_init(&mut srv, c"living"), Err((IPC_ERROR_USOCK_INIT__BIND, libc::EADDRINUSE)));
    assert_eq!((srv.fd, spath(&srv)), (-1, spath(&living)));
    unsafe { ipc_connection_print(&mut srv) };
    assert_eq!(server_close(&mut srv), Err(CLOSED));
    assert!(srv.spath.is_null() && server_close(&mut srv) == Err(CLOSED));
    let mut client = ZEROS;
    assert_ne!(outcome(unsafe { ipc_connection(env(), &mut client, c"missing".as_ptr()) }), Ok(()));
    assert_eq!(client.fd, -1);
    unsafe { ipc_connection_print(&mut client) };
    assert_eq!(outcome(unsafe { ipc_close(&mut client) }), Err(CLOSED));
    assert!(is_open(0), "standard input is open");
    // The failed calls do not affect the running service.
    assert_eq!(outcome(unsafe { ipc_connection(env(), &mut client, c"living".as_ptr()) }), Ok(()));
    assert_eq!(outcome(unsafe { ipc_close(&mut client) }), Ok(()));
    assert_eq!(server_close(&mut living), Ok(()));
}

#[test]
fn promise_35_structure_that_failed_opens_later() {
    own_process!(30);
    let (mut living, mut srv) = (ZEROS, ZEROS);
    assert_eq!(server_init(&mut living, c"living"), Ok(()));
    for _ in 0..3 {
        assert!(server_init(&mut srv, c"living").is_err());
    }
    assert_eq!(server_init(&mut srv, c"other"), Ok(()));
    assert!(spath(&srv).is_some_and(|path| path.ends_with("other-0-0")));
    assert_eq!(server_close(&mut srv), Ok(()));
    assert_eq!(server_close(&mut living), Ok(()));
}

#[test]
fn promise_48_open_service_is_not_opened_again() {
    own_process!(30);
    let mut srv = ZEROS;
    assert_eq!(server_init(&mut srv, c"first"), Ok(()));
    let before = (srv.fd, spath(&srv));
    for name in [c"second", c"first"] {
        assert_eq!(server_init(&mut srv, name), Err((IPC_ERROR_USOCK_INIT__BIND, libc::EBUSY)));
        assert_eq!((srv.fd, spath(&srv)), before);
    }
    let mut client = ZEROS;
    assert_eq!(outcome(unsafe { ipc_connection(env(), &mut client, c"first".as_ptr()) }), Ok(()));
    assert_eq!(outcome(unsafe { ipc_close(&mut client) }), Ok(()));
    assert_eq!(server_close(&mut srv), Ok(()));
    assert_eq!(server_init(&mut srv, c"second"), Ok(()));
    assert_eq!(server_close(&mut srv), Ok(()));
}

#[test]
fn promise_48_second_end_of_a_service_closes_nothing() {
    own_process!(30);
    // What has the closed service's number: a file, another service, a connection.
    for what in 0..3 {
        let (mut srv, mut other) = (ZEROS, ZEROS);
        assert_eq!(server_init(&mut srv, c"first"), Ok(()));
        assert_eq!(server_init(&mut other, c"second"), Ok(()));
        let (ours, _peer) = pair();
        assert_eq!(server_close(&mut srv), Ok(()));
        let fd = match what {
            0 => std::fs::File::open("/dev/null").unwrap().into_raw_fd(),
            1 => other.fd,
            _ => ours.as_raw_fd(),
        };
        srv.fd = fd;
        assert_eq!(server_close(&mut srv), Err(CLOSED), "{what}");
        assert!(is_open(fd));
        // The same with a path in the structure.
        let path = std::ffi::CString::new("/nowhere").unwrap();
        srv.spath = unsafe { libc::strdup(path.as_ptr()) };
        if what != 1 {
            assert_eq!(server_close(&mut srv), Err(CLOSED), "{what}");
            assert!(srv.spath.is_null() && is_open(fd));
        } else {
            unsafe { libc::free(srv.spath.cast()) };
        }
        assert_eq!(server_close(&mut other), Ok(()));
    }
    assert_eq!(server_close(&mut { ZEROS }), Err(CLOSED));
    assert!(is_open(0));
}

#[test]
fn promise_48_structure_is_added_once() {
    own_process!(30);
    let (mut listed, _peer) = listed();
    let (ours, _other) = pair();
    let mut second = info(ours.as_raw_fd());
    let list = &mut listed.program.list;
    let again = Err((IPC_ERROR_ADD__EMPTY_LIST, libc::EEXIST));
    assert_eq!(outcome(unsafe { ipc_add(list, &mut *listed.info) }), again);
    assert_eq!(outcome(unsafe { ipc_add(list, &mut second) }), Ok(()));
    assert_eq!(outcome(unsafe { ipc_add(list, &mut *listed.info) }), again);
    assert_eq!(outcome(unsafe { ipc_add(list, &mut second) }), again);
    assert_eq!(list.size, 2);
    assert_eq!(outcome(unsafe { ipc_del(list, &mut second) }), Ok(()));
    assert_eq!(outcome(unsafe { ipc_add(list, &mut second) }), Ok(()));
    assert_eq!(outcome(unsafe { ipc_del(list, &mut second) }), Ok(()));
}

#[test]
fn promise_48_close_of_an_unopened_number_is_an_error() {
    own_process!(30);
    let mut server = Program::server();
    let event_fd = server.event_fd();
    for fd in [-1, -5, 900_000, i32::MAX, i32::MIN] {
        assert_eq!(outcome(unsafe { ipc_close(&mut info(fd)) }), Err(CLOSED), "{fd}");
        assert_eq!(outcome(usock_close(fd)), Err(CLOSED), "{fd}");
    }
    assert!(is_open(event_fd));
}

#[test]
fn promise_48_refused_descriptor_leaves_the_list_unchanged() {
    own_process!(30);
    let (mut listed, _peer) = listed();
    let event_fd = listed.program.event_fd();
    let around = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    assert_eq!(unsafe { libc::epoll_ctl(around, libc::EPOLL_CTL_ADD, event_fd, &mut event) }, 0);
    let path = unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    let before = open_descriptors();
    for fd in [path, around, event_fd, -1, 900_000] {
        let list = &mut listed.program.list;
        assert!(outcome(unsafe { ipc_add_fd(list, fd) }).is_err(), "{fd}");
        assert_eq!((list.size, open_descriptors()), (1, before), "{fd}");
    }
    close(around);
    close(path);
}

#[test]
fn ipc_connection_eq_returns_0_or_1_as_a_wider_type() {
    own_process!(30);
    type Wide = unsafe extern "C" fn(*const ipc_connection_info, *const ipc_connection_info) -> i32;
    let function = ipc_connection_eq as *const ();
    let equal = unsafe { std::mem::transmute::<*const (), Wide>(function) };
    let (one, other) = (info(5), info(6));
    unsafe {
        assert_eq!((equal(&one, &one), equal(&one, &other)), (1, 0));
        assert_eq!((equal(std::ptr::null(), &one), equal(&one, std::ptr::null())), (0, 0));
    }
}

/// The kernel gives the program's socket a descriptor of the peer's process with each message.
#[test]
fn promise_44_descriptors_of_other_control_messages_closed() {
    own_process!(30);
    const SO_PASSPIDFD: libc::c_int = 76;
    let (ours, peer) = pair();
    let fd = ours.as_raw_fd();
    let on: libc::c_int = 1;
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSPIDFD, (&raw const on).cast(), 4) };
    if set != 0 {
        eprintln!("SKIPPED: descriptors of processes: this kernel does not pass them");
        return;
    }
    let before = open_descriptors();
    for allowed in [false, true] {
        if allowed {
            allow(fd);
        }
        for number in 0..5 {
            assert_eq!(write(peer.as_raw_fd(), 1, &[number]), IPC_ERROR_NONE);
            assert_eq!(read(fd), Ok((1, vec![number])));
            assert!(take(fd).is_none(), "no descriptor for the program");
        }
        assert_eq!(open_descriptors(), before);
    }
}
