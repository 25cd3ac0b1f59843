/*
 * pollpongd: pongd in a program with an event loop of its own, here poll(2). It sends each message back to
 * its client; pong is the client. It reads commands from standard input: c prints the number of clients, m
 * the number of received messages, q ends the program.
 *
 * It shows how another event loop waits for libipc (ipc_event_fd). It is the same with epoll(7), libevent,
 * GLib or Qt: one descriptor, and a function to call when the descriptor is readable.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "pollpongd"
#include "common.h"

#include <poll.h>

#define SERVICE "pongd"

static size_t client_count;
static size_t message_count;

/* Handles all pending events of libipc. It does not wait: the loop waits. */
static bool
handle_events (struct ipc_connection_infos *clients, struct ipc_connection_info *service, bool *running)
{
    struct ipc_event event = {0};
    bool good;

    do {
        good = ok ("getting events", ipc_wait_event_timeout (clients, service, &event, 0));

        switch (event.type) {
        case IPC_EVENT_TYPE_CONNECTION:
            client_count++;
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            message_count++;
            /* If one client cannot be answered, the server goes on for the others. */
            ok ("answering", ipc_write (event.origin, event.m));
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            client_count--;
            free (event.origin);
            break;
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            /* A signal. */
            *running = false;
            break;
        default:
            break;
        }
    } while (event.type != IPC_EVENT_TYPE_NOT_SET);
    return good;
}

/* Handles commands of standard input; returns false for the command that ends the program. */
static bool
handle_commands (struct pollfd *input)
{
    char commands[256];
    ssize_t length = read (input->fd, commands, sizeof commands);

    for (ssize_t i = 0; i < length; i++) {
        switch (commands[i]) {
        case 'c':
            printf ("%zu clients\n", client_count);
            break;
        case 'm':
            printf ("%zu messages\n", message_count);
            break;
        case 'q':
            return false;
        }
    }
    if (length <= 0) {
        /* There are no more commands. poll ignores descriptors below 0. */
        input->fd = -1;
    }
    return true;
}

/* Serves until a command or a signal ends it; returns false if it ends for another reason. */
static bool
serve (struct ipc_connection_infos *clients, struct ipc_connection_info *service)
{
    struct pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {-1, POLLIN, 0}};
    bool running = true;
    bool good = ok ("preparing to wait", ipc_event_fd (clients, service, &fds[1].fd));

    while (running && good) {
        if (poll (fds, 2, -1) < 0) {
            good = errno == EINTR;
            continue;
        }
        if (fds[0].revents != 0) {
            running = handle_commands (&fds[0]);
        }
        if (fds[1].revents != 0) {
            good = handle_events (clients, service, &running);
        }
    }
    return good;
}

int
main (int argc, char *argv[], char *env[])
{
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos clients = {0};
    bool good;

    (void) argc;
    (void) argv;
    setvbuf (stdout, NULL, _IOLBF, 0);
    good = add_signals (&clients) && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        good = serve (&clients, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    /* This also closes the descriptor of ipc_event_fd. */
    end_list (&clients);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
