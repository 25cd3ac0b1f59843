//! Mistakes of programs: an action is repeated, or made with a structure of a call that has failed. Each is
//! an error, and has no other effect.

use std::ptr;

use ipc::capi::entries::{ipc_add, ipc_del};
use ipc::capi::server_and_client::{ipc_close, ipc_connection, ipc_server_close, ipc_server_init};
use ipc::capi::types::ipc_connection_info;
use ipc::capi::types::ipc_errors::{self, *};
use ipc::capi::usock::usock_close;

use super::sockets;
use super::world::{NO_INFO, World, call, env};
use crate::targets::trace;

/// A structure as programs initialise it: with the number of standard input.
const ZEROS: ipc_connection_info = ipc_connection_info { index: 3, version: 5, fd: 0, ..NO_INFO };

const CLOSED: Result<(), (ipc_errors, i32)> = Err((IPC_ERROR_USOCK_CLOSE, libc::EBADF));

impl World {
    /// A mistake of this kind. `number` is a connection in the list, if there is one.
    pub fn make_mistake(&mut self, kind: usize, number: Option<usize>) {
        trace!("  a mistake, of kind {kind}");
        let before = sockets::open_numbers();
        match kind {
            0 => self.add_twice(number),
            1 => self.open_twice(),
            2 => self.close_what_is_no_service(number),
            3 => self.open_where_one_lives(),
            4 => connect_to_nobody(),
            5 => self.close_what_is_not_open(),
            _ => self.delete_what_is_not_there(),
        }
        // The sending of rests in the background may end meanwhile.
        let after = sockets::open_numbers();
        assert!(after.iter().all(|fd| before.contains(fd)), "{before:?}, and then {after:?}");
        assert!(!before.contains(&0) || after.contains(&0), "standard input is closed");
    }

    fn add_twice(&mut self, number: Option<usize>) {
        let Some(info) = number.map(|number| self.connections[number].info) else { return };
        let result = call(|| unsafe { ipc_add(&mut *self.here.list, info) });
        assert_eq!(result, Err((IPC_ERROR_ADD__EMPTY_LIST, libc::EEXIST)));
    }

    fn open_twice(&mut self) {
        let Some(srv) = &mut self.srv else { return };
        let before = (srv.fd, srv.spath);
        for name in [c"s", c"other"] {
            let result = call(|| unsafe { ipc_server_init(env(), &mut **srv, name.as_ptr()) });
            assert_eq!(result, Err((IPC_ERROR_USOCK_INIT__BIND, libc::EBUSY)));
            assert_eq!((srv.fd, srv.spath), before);
        }
    }

    /// The structure of a service that could not be opened has the path, and may be closed.
    fn open_where_one_lives(&mut self) {
        if self.srv.is_none() {
            return;
        }
        let mut other = ZEROS;
        for _ in 0..2 {
            let result = call(|| unsafe { ipc_server_init(env(), &mut other, c"s".as_ptr()) });
            assert_eq!(result, Err((IPC_ERROR_USOCK_INIT__BIND, libc::EADDRINUSE)));
            assert_eq!((other.fd, other.spath.is_null()), (-1, false));
        }
        for _ in 0..2 {
            assert_eq!(call(|| unsafe { ipc_server_close(&mut other) }), CLOSED);
            assert!(other.spath.is_null());
        }
    }

    /// With a path that is left, or without: the descriptor with the number stays open.
    fn close_what_is_no_service(&self, number: Option<usize>) {
        let fd = number.map_or(0, |number| self.connections[number].fd);
        for path in [ptr::null_mut(), unsafe { libc::strdup(c"/nowhere".as_ptr()) }] {
            let mut srv = ipc_connection_info { fd, spath: path, ..ZEROS };
            assert_eq!(call(|| unsafe { ipc_server_close(&mut srv) }), CLOSED);
            assert!(srv.spath.is_null() && sockets::is_open(fd));
        }
    }

    fn close_what_is_not_open(&mut self) {
        // Numbers that no descriptor has: below those of the peers, and -1.
        for fd in [sockets::HIGH - 1, -1, i32::MIN] {
            assert_eq!(call(|| unsafe { ipc_close(&mut ipc_connection_info { fd, ..NO_INFO }) }), CLOSED);
            assert_eq!(call(|| usock_close(fd)), CLOSED);
        }
    }

    fn delete_what_is_not_there(&mut self) {
        let mut nowhere = NO_INFO;
        let is_empty = self.here.listed.is_empty();
        let result = call(|| unsafe { ipc_del(&mut *self.here.list, ptr::from_mut(&mut nowhere)) });
        let code = if is_empty { IPC_ERROR_DEL__EMPTY_LIST } else { IPC_ERROR_DEL__CANNOT_FIND_CLIENT };
        assert_eq!(result, Err((code, libc::ENOENT)));
    }
}

fn connect_to_nobody() {
    let mut client = ZEROS;
    let result = call(|| unsafe { ipc_connection(env(), &mut client, c"missing".as_ptr()) });
    assert_eq!((result, client.fd), (Err((IPC_ERROR_USOCK_CONNECT__SOCKET, libc::ENOENT)), -1));
    assert_eq!(call(|| unsafe { ipc_close(&mut client) }), CLOSED);
}
