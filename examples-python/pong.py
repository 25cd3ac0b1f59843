"""pong: sends each of its arguments to pongd as a message, and prints the answers.

SPDX-License-Identifier: MIT OR Apache-2.0
"""

import os
import sys

import ipc


def main():
    try:
        with ipc.Client("pongd") as server:
            for argument in sys.argv[1:]:
                server.write(os.fsencode(argument))
                sys.stdout.buffer.write(server.read().payload + b"\n")
    except ipc.IpcError as error:
        sys.exit(f"pong: {error}")


if __name__ == "__main__":
    main()
