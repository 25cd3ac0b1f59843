"""libipc for Python, through ctypes: the structures are those of ipc.h.

It is a file to copy and to extend. Every function of the library is an attribute of `lib`; those whose arguments
are declared below are ready for use.

    with ipc.Client("echo", timeout=5) as server:
        server.write(b"hello")
        print(server.read(timeout=1).payload)

    with ipc.Server("echo") as server:
        for told in server:
            if told.event == ipc.MESSAGE:
                told.client.write(told.payload, told.type)

In asyncio, `async for told in server` does the same.

Times are in seconds, as everywhere in Python; None is without end. A failure is an IpcError, which is also the
exception that Python has for its errno: FileNotFoundError for a service that is not there, TimeoutError, and so on.

SPDX-License-Identifier: MIT OR Apache-2.0
"""

import asyncio
import collections
import ctypes
import errno
import os
import time
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p

# use_errno: ctypes keeps the errno of each call apart from what Python itself does in between.
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
    # The payload is no c_char_p: it has a length, and may have NUL bytes in it.
    _fields_ = [("type", c_char), ("length", c_uint32), ("payload", POINTER(c_char))]

    def bytes(self):
        return ctypes.string_at(self.payload, self.length) if self.length > 0 else b""


class Event(ctypes.Structure):
    _fields_ = [("type", c_int), ("origin", POINTER(ConnectionInfo)), ("m", POINTER(Message))]


class PeerInfo(ctypes.Structure):
    _fields_ = [("pid", c_int32), ("uid", c_uint32), ("gid", c_uint32)]


# enum ipc_event_type
NOT_SET, ERROR, EXTRA_SOCKET, CONNECTION, DISCONNECTION, MESSAGE = range(6)

# enum msg_types
MSG_TYPE_SERVER_CLOSE, MSG_TYPE_ERR, MSG_TYPE_DATA = b"\0", b"\1", b"\2"

# Those of enum ipc_errors that this file tells apart.
IPC_ERROR_NONE = 0

_CONNECTION, _LIST = POINTER(ConnectionInfo), POINTER(ConnectionInfos)

# Without these ctypes would cut pointers in two, and take anything for anything.
for name, *arguments in [
    ("ipc_server_init", POINTER(c_char_p), _CONNECTION, c_char_p),
    ("ipc_server_close", _CONNECTION),
    ("ipc_connection", POINTER(c_char_p), _CONNECTION, c_char_p),
    ("ipc_connection_timeout", _CONNECTION, c_char_p, c_int),
    ("ipc_close", _CONNECTION),
    ("ipc_end", _LIST, _CONNECTION, c_int),
    ("ipc_read_timeout", _CONNECTION, POINTER(Message), c_int),
    ("ipc_send", _CONNECTION, c_char, c_char_p, c_size_t),
    ("ipc_wait_event_timeout", _LIST, _CONNECTION, POINTER(Event), c_int),
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

# Must not be NULL, and is not read: the library looks into the environment of the process, os.environ.
_NO_ENVIRONMENT = (c_char_p * 1)(None)

# What happens next: the event, whom it is about, and the type and the bytes of a message. For an extra descriptor
# `client` is its number.
Told = collections.namedtuple("Told", "event client type payload")


class IpcError(OSError):
    """The code of the library, and errno."""

    code = None

    def __str__(self):
        return self.strerror


_KINDS = {}


def check(what, code):
    """Raises the IpcError of a code that is a failure."""
    if code == IPC_ERROR_NONE:
        return
    number = ctypes.get_errno()
    # OSError knows which of Python's exceptions an errno is.
    kind = type(OSError(number, ""))
    if kind not in _KINDS:
        bases = (IpcError,) if kind is OSError else (IpcError, kind)
        _KINDS[kind] = type("IpcError", bases, {"__module__": __name__})
    error = _KINDS[kind](number, f"{what}: {lib.ipc_errors_get(code).decode()} ({os.strerror(number)})")
    error.code = code
    raise error


def _until(timeout, call):
    """Calls with the milliseconds that are left, again after each signal, as PEP 475 has it."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        # Rounded up: a time that is not over is not 0.
        left = -1 if end is None else max(0, -int((time.monotonic() - end) * 1000 // 1))
        code = call(left)
        # Python runs the signal handlers that are due now; one may raise an exception.
        if code == IPC_ERROR_NONE or ctypes.get_errno() != errno.EINTR:
            return code


class _Connection:
    """What a client and a server's client have in common."""

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
        """Who is at the other end: pid, uid and gid, by the kernel's word."""
        peer = PeerInfo()
        check("asking for the peer", lib.ipc_peer(self._pointer, byref(peer)))
        return peer

    def limit(self, longest_message=0, longest_queue=0):
        """Limits what the peer may send, and what is kept for it, in bytes; 0 is the library's own limit."""
        check("setting limits", lib.ipc_limits(self._pointer, longest_message, longest_queue))


class Client(_Connection):
    """A connection to a service, for the statement `with`. It waits for the service for `timeout` seconds."""

    def __init__(self, service, index=0, version=0, timeout=0):
        self._info = ConnectionInfo(version=version, index=index, fd=-1)
        super().__init__(ctypes.pointer(self._info))
        name = os.fsencode(service)
        if timeout == 0:
            # It says why there is none, and not that no time is left.
            code = _until(None, lambda _: lib.ipc_connection(_NO_ENVIRONMENT, self._pointer, name))
        else:
            code = _until(timeout, lambda left: lib.ipc_connection_timeout(self._pointer, name, left))
        check("connecting", code)

    def close(self):
        if self.fd >= 0:
            lib.ipc_close(self._pointer)
            self._info.fd = -1

    def read(self, timeout=None):
        """Waits for the next message: Told, with its type and its bytes."""
        m = Message()
        check("reading", _until(timeout, lambda left: lib.ipc_read_timeout(self._pointer, byref(m), left)))
        try:
            return Told(MESSAGE, self, m.type, m.bytes())
        finally:
            lib.ipc_message_empty(byref(m))


class Member(_Connection):
    """A client of a server, for the statement `with`, which ends it. It is good until its DISCONNECTION was told."""

    def __init__(self, server, pointer):
        super().__init__(pointer)
        self._server = server
        # For the program's own use.
        self.data = None

    def close(self, linger=None):
        """Ends the connection: its DISCONNECTION follows. What is queued has `linger` seconds to leave; None: as long
        as the client reads."""
        milliseconds = -1 if linger is None else int(linger * 1000)
        code = lib.ipc_end(byref(self._server._list), self._pointer, milliseconds)
        if code != IPC_ERROR_NONE and ctypes.get_errno() != errno.ENOENT:
            check("ending a client", code)


class Server:
    """A service and its clients, for the statement `with`; to be iterated over, in asyncio by `async for`."""

    def __init__(self, service, index=0, version=0):
        self._list = ConnectionInfos()
        self._event = Event()
        self._service = ConnectionInfo(version=version, index=index, fd=-1)
        self._clients = {}
        name = os.fsencode(service)
        try:
            check("opening the service", lib.ipc_server_init(_NO_ENVIRONMENT, byref(self._service), name))
        except IpcError:
            # It frees the path.
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
            told = self.wait(timeout=0)
            if told is not None:
                return told
            ready = loop.create_future()
            loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(fd)

    @property
    def clients(self):
        """Those that are connected."""
        return list(self._clients.values())

    def close(self):
        if self._service.fd < 0:
            return
        self._let_go()
        # The service first: no new client finds it.
        lib.ipc_server_close(byref(self._service))
        self._service.fd = -1
        for member in self._list.cinfos[: self._list.size]:
            # The descriptors of read_too are not ours to close.
            if member.contents.type != b"a":
                lib.ipc_close(member)
            _free(member)
        lib.ipc_connections_free(byref(self._list))
        self._clients.clear()

    def limit(self, longest_message=0, longest_queue=0):
        """Limits the clients that come from now on, as Client.limit does."""
        check("setting limits", lib.ipc_limits(byref(self._service), longest_message, longest_queue))

    def fileno(self):
        """A descriptor that is readable while there are events, for any other event loop."""
        fd = c_int(-1)
        check("asking for the descriptor", lib.ipc_event_fd(byref(self._list), byref(self._service), byref(fd)))
        return fd.value

    def read_too(self, fd):
        """Has wait read this descriptor too and tell what it gives, as EXTRA_SOCKET."""
        check("adding a descriptor", lib.ipc_add_fd(byref(self._list), fd))

    def wait(self, timeout=None):
        """What happens next: Told. None if the time is over before.

        A client is a Member, the same one from its CONNECTION to its DISCONNECTION.
        """
        self._let_go()
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
                # A pointer of our own: that of the event is overwritten by the next one.
                pointer = ctypes.cast(origin, _CONNECTION)
                client = self._clients[origin] = Member(self, pointer)
        if not self._event.m:
            return Told(event, client, None, b"")
        message = self._event.m.contents
        return Told(event, client, message.type, message.bytes())

    def _let_go(self):
        if self._event.m:
            lib.ipc_message_empty(self._event.m)
            _free(self._event.m)
        # Who has left is out of the list, and the structure ours to free.
        if self._event.type == DISCONNECTION:
            self._clients.pop(ctypes.addressof(self._event.origin.contents), None)
            _free(self._event.origin)
        self._event = Event()
