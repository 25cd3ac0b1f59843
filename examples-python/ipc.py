"""libipc for Python, through ctypes: the structures are those of ipc.h.

It is a file to copy and to extend. Every function of the library is an attribute of `lib`; the functions with
declared arguments (below) are ready for use.

    with ipc.Client("echo", timeout=5) as server:
        server.write(b"hello")
        print(server.read(timeout=1).payload)

    with ipc.Server("echo") as server:
        for event in server:
            if event.kind == ipc.MESSAGE:
                event.client.write(event.payload, event.type)

In asyncio, `async for event in server` does the same.

Times are in seconds, as everywhere in Python; None means no timeout. A failure is an IpcError, which is also Python's
exception for its errno: FileNotFoundError for a service that does not exist, TimeoutError, and so on.

SPDX-License-Identifier: MIT OR Apache-2.0
"""

import asyncio
import collections
import ctypes
import errno
import os
import time
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p

# use_errno: ctypes saves the errno of each call, which Python itself could change after the call.
lib = ctypes.CDLL("libipc.so.0", use_errno=True)


class ConnectionInfo(ctypes.Structure):
    _fields_ = [
        ("version", c_uint32),
        ("index", c_uint32),
        ("fd", c_int32),
        ("type", c_char),
        ("spath", c_char_p),
    ]


class ConnectionInfos(ctypes.Structure):
    _fields_ = [("cinfos", POINTER(POINTER(ConnectionInfo))), ("size", c_int32)]


class Message(ctypes.Structure):
    # The payload is not a c_char_p: it has a length, and may contain NUL bytes.
    _fields_ = [("type", c_char), ("length", c_uint32), ("payload", POINTER(c_char))]

    def bytes(self):
        return ctypes.string_at(self.payload, self.length) if self.length > 0 else b""


class EventInfo(ctypes.Structure):
    _fields_ = [("type", c_int), ("origin", POINTER(ConnectionInfo)), ("m", POINTER(Message))]


class PeerInfo(ctypes.Structure):
    _fields_ = [("pid", c_int32), ("uid", c_uint32), ("gid", c_uint32)]


# enum ipc_event_type
NOT_SET, ERROR, EXTRA_SOCKET, CONNECTION, DISCONNECTION, MESSAGE = range(6)

# enum msg_types
MSG_TYPE_SERVER_CLOSE, MSG_TYPE_ERR, MSG_TYPE_DATA = b"\0", b"\1", b"\2"

# enum ipc_errors; this file needs one value only.
IPC_ERROR_NONE = 0

_CONNECTION, _LIST = POINTER(ConnectionInfo), POINTER(ConnectionInfos)

# Without these declarations ctypes would truncate pointers, and accept arguments of any type.
for name, *arguments in [
    ("ipc_server_init", POINTER(c_char_p), _CONNECTION, c_char_p),
    ("ipc_server_close", _CONNECTION),
    ("ipc_connection", POINTER(c_char_p), _CONNECTION, c_char_p),
    ("ipc_connection_timeout", _CONNECTION, c_char_p, c_int),
    ("ipc_close", _CONNECTION),
    ("ipc_end", _LIST, _CONNECTION, c_int),
    ("ipc_read_timeout", _CONNECTION, POINTER(Message), c_int),
    ("ipc_send", _CONNECTION, c_char, c_char_p, c_size_t),
    ("ipc_wait_event_timeout", _LIST, _CONNECTION, POINTER(EventInfo), c_int),
    ("ipc_event_fd", _LIST, _CONNECTION, POINTER(c_int)),
    ("ipc_add", _LIST, _CONNECTION),
    ("ipc_add_fd", _LIST, c_int),
    ("ipc_del_fd", _LIST, c_int),
    ("ipc_limits", _CONNECTION, c_uint32, c_size_t),
    ("ipc_peer", _CONNECTION, POINTER(PeerInfo)),
    ("ipc_message_empty", POINTER(Message)),
]:
    function = getattr(lib, name)
    function.argtypes = arguments
    function.restype = c_int
lib.ipc_connections_free.argtypes = [_LIST]
lib.ipc_connections_free.restype = None
lib.ipc_errors_get.argtypes = [c_int]
lib.ipc_errors_get.restype = c_char_p

_free = ctypes.CDLL(None).free
_free.argtypes = [c_void_p]
_free.restype = None

# Must not be NULL, and is not read: the library uses the environment of the process, os.environ.
_NO_ENVIRONMENT = (c_char_p * 1)(None)

# An event: its kind, its client, and the type and the bytes of a message. For an extra descriptor `client` is the
# descriptor's number.
Event = collections.namedtuple("Event", "kind client type payload")


class IpcError(OSError):
    """The code of the library, and errno."""

    code = None

    def __str__(self):
        return self.strerror


_KINDS = {}


def check(what, code):
    """Raises an IpcError if the code is an error."""
    if code == IPC_ERROR_NONE:
        return
    number = ctypes.get_errno()
    # OSError returns the subclass for this errno.
    kind = type(OSError(number, ""))
    if kind not in _KINDS:
        bases = (IpcError,) if kind is OSError else (IpcError, kind)
        _KINDS[kind] = type("IpcError", bases, {"__module__": __name__})
    error = _KINDS[kind](number, f"{what}: {lib.ipc_errors_get(code).decode()} ({os.strerror(number)})")
    error.code = code
    raise error


def _until(timeout, call):
    """Calls with the milliseconds that are left; calls again after each signal, as PEP 475 says."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        # Rounded up: 0 only when the timeout has expired.
        left = -1 if end is None else max(0, -int((time.monotonic() - end) * 1000 // 1))
        code = call(left)
        # Python runs the pending signal handlers here; a handler may raise an exception.
        if code == IPC_ERROR_NONE or ctypes.get_errno() != errno.EINTR:
            return code


class _Connection:
    """The common part of Client and Member."""

    def __init__(self, pointer):
        self._pointer = pointer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def fd(self):
        return self._pointer.contents.fd

    def write(self, payload, type=MSG_TYPE_DATA):
        """Sends bytes as a message."""
        check("sending", lib.ipc_send(self._pointer, type, payload or None, len(payload)))

    def peer(self):
        """The peer credentials from the kernel: pid, uid and gid."""
        peer = PeerInfo()
        check("asking for the peer", lib.ipc_peer(self._pointer, byref(peer)))
        return peer

    def limit(self, longest_message=0, longest_queue=0):
        """Limits the messages of the peer, and the bytes queued for it; 0 is the library's default."""
        check("setting limits", lib.ipc_limits(self._pointer, longest_message, longest_queue))


class Client(_Connection):
    """A connection to a service, for the statement `with`. It waits for the service for `timeout` seconds."""

    def __init__(self, service, index=0, version=0, timeout=0):
        self._info = ConnectionInfo(version=version, index=index, fd=-1)
        super().__init__(ctypes.pointer(self._info))
        name = os.fsencode(service)
        if timeout == 0:
            # This function reports why there is no connection; the other one reports a timeout.
            code = _until(None, lambda _: lib.ipc_connection(_NO_ENVIRONMENT, self._pointer, name))
        else:
            code = _until(timeout, lambda left: lib.ipc_connection_timeout(self._pointer, name, left))
        check("connecting", code)

    def close(self):
        if self.fd >= 0:
            lib.ipc_close(self._pointer)
            self._info.fd = -1

    def read(self, timeout=None):
        """Waits for the next message; returns an Event with its type and its bytes."""
        m = Message()
        check("reading", _until(timeout, lambda left: lib.ipc_read_timeout(self._pointer, byref(m), left)))
        try:
            return Event(MESSAGE, self, m.type, m.bytes())
        finally:
            lib.ipc_message_empty(byref(m))


class Member(_Connection):
    """A client of a server, for the statement `with`, which ends the connection. Valid until its DISCONNECTION."""

    def __init__(self, server, pointer):
        super().__init__(pointer)
        self._server = server
        # For the program's own use.
        self.data = None

    def close(self, linger=None):
        """Ends the connection: its DISCONNECTION follows. Queued bytes are sent for at most `linger` seconds; None: as
        long as the client reads."""
        milliseconds = -1 if linger is None else int(linger * 1000)
        code = lib.ipc_end(byref(self._server._list), self._pointer, milliseconds)
        if code != IPC_ERROR_NONE and ctypes.get_errno() != errno.ENOENT:
            check("ending a client", code)


class Server:
    """A service and its clients, for the statement `with`; to be iterated over, in asyncio by `async for`."""

    def __init__(self, service, index=0, version=0):
        self._list = ConnectionInfos()
        self._event = EventInfo()
        self._service = ConnectionInfo(version=version, index=index, fd=-1)
        self._clients = {}
        name = os.fsencode(service)
        try:
            check("opening the service", lib.ipc_server_init(_NO_ENVIRONMENT, byref(self._service), name))
        except IpcError:
            # This call frees the path.
            lib.ipc_server_close(byref(self._service))
            raise
        self.path = os.fsdecode(self._service.spath)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __iter__(self):
        return self

    def __next__(self):
        return self.wait()

    def __aiter__(self):
        return self

    async def __anext__(self):
        loop, fd = asyncio.get_running_loop(), self.fileno()
        while True:
            event = self.wait(timeout=0)
            if event is not None:
                return event
            ready = loop.create_future()
            loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(fd)

    @property
    def clients(self):
        """The connected clients."""
        return list(self._clients.values())

    def close(self):
        if self._service.fd < 0:
            return
        self._free_event()
        # The service is closed first, so that no new client connects.
        lib.ipc_server_close(byref(self._service))
        self._service.fd = -1
        for member in self._list.cinfos[: self._list.size]:
            # The descriptors of read_too belong to the program.
            if member.contents.type != b"a":
                lib.ipc_close(member)
            _free(member)
        lib.ipc_connections_free(byref(self._list))
        self._clients.clear()

    def limit(self, longest_message=0, longest_queue=0):
        """Limits the clients that connect from now on, as Client.limit does."""
        check("setting limits", lib.ipc_limits(byref(self._service), longest_message, longest_queue))

    def fileno(self):
        """A descriptor that is readable while there are events, for any other event loop."""
        fd = c_int(-1)
        check("asking for the descriptor", lib.ipc_event_fd(byref(self._list), byref(self._service), byref(fd)))
        return fd.value

    def read_too(self, fd):
        """Makes wait read this descriptor, too, and report its bytes as EXTRA_SOCKET."""
        check("adding a descriptor", lib.ipc_add_fd(byref(self._list), fd))

    def wait(self, timeout=None):
        """Waits for the next Event; returns None when the timeout has expired.

        The client of an event is a Member, the same object from its CONNECTION to its DISCONNECTION.
        """
        self._free_event()
        check(
            "waiting",
            _until(
                timeout,
                lambda left: lib.ipc_wait_event_timeout(
                    byref(self._list), byref(self._service), byref(self._event), left
                ),
            ),
        )
        event = self._event.type
        if event == NOT_SET:
            return None
        origin = ctypes.addressof(self._event.origin.contents)
        if event == EXTRA_SOCKET:
            client = self._event.origin.contents.fd
        else:
            client = self._clients.get(origin)
            if client is None:
                # A new pointer object: the next event overwrites the one in self._event.
                pointer = ctypes.cast(origin, _CONNECTION)
                client = self._clients[origin] = Member(self, pointer)
        if not self._event.m:
            return Event(event, client, None, b"")
        message = self._event.m.contents
        return Event(event, client, message.type, message.bytes())

    def _free_event(self):
        if self._event.m:
            lib.ipc_message_empty(self._event.m)
            _free(self._event.m)
        # The library has removed a closed connection from the list; its structure is freed here.
        if self._event.type == DISCONNECTION:
            self._clients.pop(ctypes.addressof(self._event.origin.contents), None)
            _free(self._event.origin)
        self._event = EventInfo()
