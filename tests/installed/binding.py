"""Tests that examples-python/ipc.py does what it documents, with the installed library."""

import asyncio
import errno
import os
import signal
import socket
import threading
import time

import ipc


def raises(kind, call):
    try:
        call()
    except ipc.IpcError as error:
        assert isinstance(error, kind), (type(error).__mro__, error)
        assert error.code is not None and error.errno and str(error) == error.strerror
        return error
    raise AssertionError(f"no {kind.__name__}")


def errors_are_those_of_python():
    raises(FileNotFoundError, lambda: ipc.Client("missing"))
    begin = time.monotonic()
    raises(TimeoutError, lambda: ipc.Client("missing", timeout=0.05))
    assert time.monotonic() - begin >= 0.05
    raises(OSError, lambda: ipc.Server("x" * 5000))
    with ipc.Server("taken"):
        assert raises(OSError, lambda: ipc.Server("taken")).errno == errno.EADDRINUSE


def types_timeouts_and_limits():
    with ipc.Server("all", index=1, version=2) as server:
        assert server.wait(timeout=0) is None
        begin = time.monotonic()
        assert server.wait(timeout=0.03) is None and time.monotonic() - begin >= 0.03
        server.limit(longest_message=100)
        with ipc.Client("all", index=1, version=2) as client:
            event = server.wait()
            member = event.client
            assert event == (ipc.CONNECTION, member, None, b"") and server.clients == [member]
            for kind, payload in [(b"\x07", b"with\0zeros"), (ipc.MSG_TYPE_DATA, b""), (b"\xff", b"x" * 100)]:
                client.write(payload, kind)
                event = server.wait(timeout=10)
                assert event == (ipc.MESSAGE, member, kind, payload), event
                event.client.write(payload[::-1], kind)
                assert client.read(timeout=10)[2:] == (kind, payload[::-1])
            raises(TimeoutError, lambda: client.read(timeout=0.01))
            peer = client.peer()
            assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.geteuid(), os.getegid())
            assert member.peer().pid == os.getpid()
            member.data = "kept"
            client.write(b"x" * 101)
            assert server.wait(timeout=10).kind == ipc.ERROR
            event = server.wait(timeout=10)
            assert (event.kind, event.client.data) == (ipc.DISCONNECTION, "kept")
            assert server.wait(timeout=0) is None and server.clients == []


def client_is_closed():
    with ipc.Server("away") as server, ipc.Client("away") as client:
        with server.wait().client as member:
            member.write(b"last words")
        member.close()
        assert client.read(timeout=10).payload == b"last words"
        raises(BrokenPipeError, lambda: client.read(timeout=10))
        event = server.wait(timeout=10)
        assert (event.kind, event.client) == (ipc.DISCONNECTION, member)


def signals_do_not_end_a_wait():
    ran = []
    signal.signal(signal.SIGALRM, lambda *_: ran.append(1))
    with ipc.Server("signals") as server, ipc.Client("signals") as client:
        member = server.wait().client
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        threading.Timer(0.1, lambda: member.write(b"late")).start()
        assert client.read().payload == b"late"
        threading.Timer(0.1, lambda: client.write(b"later")).start()
        assert server.wait().payload == b"later"
        raises(TimeoutError, lambda: ipc.Client("missing", timeout=0.05))
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(ran) > 5
        # A handler that raises an exception ends the wait.
        signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            server.wait()
        except ZeroDivisionError:
            pass
        else:
            raise AssertionError("the handler's exception is lost")


async def serve(server, count):
    async for event in server:
        if event.kind == ipc.MESSAGE:
            event.client.write(event.payload.upper(), event.type)
            count -= 1
        if count == 0:
            return


async def in_asyncio():
    with ipc.Server("async") as server:
        serving = asyncio.create_task(serve(server, 100))

        async def ask(number):
            reader, writer = await asyncio.open_unix_connection(server.path)
            writer.write(b"\2" + (5).to_bytes(4, "little" if socket.htons(1) != 1 else "big") + b"hello")
            answer = await reader.readexactly(10)
            writer.close()
            return answer[5:]

        answers = await asyncio.wait_for(asyncio.gather(*[ask(number) for number in range(100)]), 20)
        await asyncio.wait_for(serving, 20)
        assert answers == [b"HELLO"] * 100
        # A task that is cancelled leaves no reader, and nothing is lost.
        serving = asyncio.create_task(serve(server, -1))
        await asyncio.sleep(0)
        serving.cancel()
        try:
            await serving
        except asyncio.CancelledError:
            pass
        assert not asyncio.get_running_loop().remove_reader(server.fileno())


errors_are_those_of_python()
types_timeouts_and_limits()
client_is_closed()
signals_do_not_end_a_wait()
asyncio.run(in_asyncio())
print("ok")
