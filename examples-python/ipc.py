"""libipc for Python, through ctypes: the structures are those of ipc.h.

It is a file to copy and to extend. Every function of the library is an attribute of `lib`; those whose arguments
are declared below are ready for use.

SPDX-License-Identifier: MIT OR Apache-2.0
"""

import ctypes
import errno
import os
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_int32, c_ssize_t, c_uint32, c_void_p

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


# enum ipc_event_type
NOT_SET, ERROR, EXTRA_SOCKET, CONNECTION, DISCONNECTION, MESSAGE = range(6)

# enum msg_types
MSG_TYPE_DATA = b"\2"

# Those of enum ipc_errors that this file tells apart.
IPC_ERROR_NONE = 0
IPC_ERROR_WAIT_EVENT__SELECT = 16

# Without these ctypes would cut pointers in two, and take anything for anything.
for name, *arguments in [
    ("ipc_server_init", POINTER(c_char_p), POINTER(ConnectionInfo), c_char_p),
    ("ipc_connection", POINTER(c_char_p), POINTER(ConnectionInfo), c_char_p),
    ("ipc_server_close", POINTER(ConnectionInfo)),
    ("ipc_close", POINTER(ConnectionInfo)),
    ("ipc_read", POINTER(ConnectionInfo), POINTER(Message)),
    ("ipc_write", POINTER(ConnectionInfo), POINTER(Message)),
    ("ipc_wait_event", POINTER(ConnectionInfos), POINTER(ConnectionInfo), POINTER(Event)),
    ("ipc_add_fd", POINTER(ConnectionInfos), c_int),
    ("ipc_message_format", POINTER(Message), c_char, c_char_p, c_ssize_t),
    ("ipc_message_empty", POINTER(Message)),
]:
    function = getattr(lib, name)
    function.argtypes = arguments
    function.restype = c_int
lib.ipc_connections_free.argtypes = [POINTER(ConnectionInfos)]
lib.ipc_connections_free.restype = None
lib.ipc_errors_get.argtypes = [c_int]
lib.ipc_errors_get.restype = c_char_p

_free = ctypes.CDLL(None).free
_free.argtypes = [c_void_p]
_free.restype = None

# Must not be NULL, and is not read: the library looks into the environment of the process, os.environ.
_NO_ENVIRONMENT = (c_char_p * 1)(None)


class IpcError(OSError):
    """The code of the library, and errno."""

    def __init__(self, what, code, number):
        super().__init__(number, f"{what}: {lib.ipc_errors_get(code).decode()} ({os.strerror(number)})")
        self.code = code

    def __str__(self):
        return self.strerror


def check(what, code):
    if code != IPC_ERROR_NONE:
        raise IpcError(what, code, ctypes.get_errno())


def write(connection, payload, type=MSG_TYPE_DATA):
    """Sends bytes to a ConnectionInfo."""
    m = Message()
    try:
        # The library copies the bytes. A message without payload has length 0 and no pointer.
        check("making a message", lib.ipc_message_format(byref(m), type, payload or None, len(payload)))
        check("sending", lib.ipc_write(byref(connection), byref(m)))
    finally:
        lib.ipc_message_empty(byref(m))


class Client:
    """A connection to a service, for the statement `with`."""

    def __init__(self, service, index=0, version=0):
        self.connection = ConnectionInfo(version=version, index=index, fd=-1)
        check("connecting", lib.ipc_connection(_NO_ENVIRONMENT, byref(self.connection), service.encode()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.connection.fd >= 0:
            lib.ipc_close(byref(self.connection))
            self.connection.fd = -1

    def write(self, payload, type=MSG_TYPE_DATA):
        write(self.connection, payload, type)

    def read(self):
        """Waits for the next message; its type and its bytes."""
        m = Message()
        check("reading", lib.ipc_read(byref(self.connection), byref(m)))
        try:
            return m.type, m.bytes()
        finally:
            lib.ipc_message_empty(byref(m))


class Server:
    """A service and its clients, for the statement `with`."""

    def __init__(self, service, index=0, version=0):
        self._list = ConnectionInfos()
        self._event = Event()
        self._service = ConnectionInfo(version=version, index=index, fd=-1)
        check("opening the service", lib.ipc_server_init(_NO_ENVIRONMENT, byref(self._service), service.encode()))
        self.path = os.fsdecode(self._service.spath)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

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

    def read_too(self, fd):
        """Has wait read this descriptor too and tell what it gives, as EXTRA_SOCKET."""
        check("adding a descriptor", lib.ipc_add_fd(byref(self._list), fd))

    def wait(self):
        """What happens next: its type, whom it is about, and the bytes of a message or a descriptor.

        Whom it is about is a ConnectionInfo to write to, good until the wait after its DISCONNECTION.
        """
        self._let_go()
        while True:
            code = lib.ipc_wait_event(byref(self._list), byref(self._service), byref(self._event))
            # Between two calls Python runs the signal handlers that are due; one may raise an exception.
            if code != IPC_ERROR_WAIT_EVENT__SELECT or ctypes.get_errno() != errno.EINTR:
                break
        check("waiting", code)
        payload = self._event.m.contents.bytes() if self._event.m else b""
        return self._event.type, self._event.origin.contents, payload

    def _let_go(self):
        if self._event.m:
            lib.ipc_message_empty(self._event.m)
            _free(self._event.m)
        # Who has left is out of the list, and the structure ours to free.
        if self._event.type == DISCONNECTION:
            _free(self._event.origin)
        self._event = Event()
