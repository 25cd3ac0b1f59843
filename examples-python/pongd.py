"""pongd: a server that sends each message back to the client that sent it, until SIGTERM or SIGINT ends it.

SPDX-License-Identifier: MIT OR Apache-2.0
"""

import os
import signal
import sys

import ipc


def open_signals():
    """Returns a descriptor that is readable after a signal.

    A handler that sets a flag would have no effect if it ran just before the wait.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reading


def serve(server):
    for event in server:
        if event.kind == ipc.MESSAGE:
            try:
                event.client.write(event.payload, event.type)
            except ipc.IpcError as error:
                # If one client cannot be answered, the server goes on for the others.
                print(f"pongd: {error}", file=sys.stderr)
        elif event.kind == ipc.ERROR:
            print(f"pongd: {event.client.fd} broke the protocol or the connection", file=sys.stderr)
        elif event.kind == ipc.EXTRA_SOCKET:
            return


def main():
    signals = open_signals()
    try:
        with ipc.Server("pongd") as server:
            server.read_too(signals)
            print("listening at", server.path, flush=True)
            serve(server)
    except ipc.IpcError as error:
        sys.exit(f"pongd: {error}")
    print("ended")


if __name__ == "__main__":
    main()
