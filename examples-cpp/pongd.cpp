/*
 * pongd: a server that sends each message back to the client that sent it, until SIGTERM or SIGINT ends it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "ipc.hpp"

#include <csignal>
#include <iostream>
#include <sys/signalfd.h>

/* Returns a descriptor that is readable when a signal was received. */
static int open_signals ()
{
    sigset_t signals;

    sigemptyset (&signals);
    sigaddset (&signals, SIGTERM);
    sigaddset (&signals, SIGINT);
    sigprocmask (SIG_BLOCK, &signals, nullptr);
    return signalfd (-1, &signals, SFD_CLOEXEC);
}

static void serve (ipc::Server &server)
{
    for (;;) {
        const ipc::Event event = server.wait ();

        switch (event.type) {
        case IPC_EVENT_TYPE_MESSAGE:
            try {
                server.write (event, event.message);
            } catch (const ipc::Error &error) {
                /* If one client cannot be answered, the server goes on for the others. */
                std::cerr << "pongd: " << error.what () << '\n';
            }
            break;
        case IPC_EVENT_TYPE_ERROR:
            std::cerr << "pongd: " << event.origin->fd << " broke the protocol or the connection\n";
            break;
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            return;
        default:
            /* CONNECTION and DISCONNECTION: the server keeps the list. */
            break;
        }
    }
}

int main ()
{
    try {
        ipc::Server server ("pongd");

        server.read_too (open_signals ());
        std::cout << "listening at " << server.path () << std::endl;
        serve (server);
    } catch (const ipc::Error &error) {
        std::cerr << "pongd: " << error.what () << '\n';
        return EXIT_FAILURE;
    }
    std::cout << "ended" << std::endl;
    return EXIT_SUCCESS;
}
