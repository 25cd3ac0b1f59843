"""pongd: a server that sends every message back to whom it came from, until SIGTERM or SIGINT ends it.

SPDX-License-Identifier: MIT OR Apache-2.0
"""

import os
import signal
import sys

import ipc


def open_signals():
    """A descriptor that has something when a signal has come.

    A handler that sets a flag would come too late if it ran just before the wait.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reading


def serve(server):
    for told in server:
        if told.event == ipc.MESSAGE:
            try:
                told.client.write(told.payload, told.type)
            except ipc.IpcError as error:
                # A client that cannot be answered is no reason to leave the others.
                print(f"pongd: {error}", file=sys.stderr)
        elif told.event == ipc.ERROR:
            print(f"pongd: {told.client.fd} broke the protocol or the connection", file=sys.stderr)
        elif told.event == ipc.EXTRA_SOCKET:
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
