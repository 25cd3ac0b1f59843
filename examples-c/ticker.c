/*
 * ticker: a client of tickerd. It prints the time COUNT times.
 *
 *     ticker COUNT            answers each time, so that the server does not close the connection
 *     ticker COUNT quiet      sends nothing, until the server closes the connection
 *
 * It shows how to wait for a server that may have died or hung (ipc_wait_event_timeout).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "ticker"
#include "common.h"

#define SERVICE "tickerd"
#define TIMEOUT 60000 /* milliseconds */

/* Runs until the time was received COUNT times; returns false if it ends for another reason. */
static bool
listen_to (struct ipc_connection_infos *list, struct ipc_connection_info *server, long count, bool quiet)
{
    struct ipc_message here = {.type = MSG_TYPE_DATA, .length = 4, .payload = "here"};
    struct ipc_event event = {0};
    const struct ipc_message *m;
    bool good = true;

    while (good && count > 0) {
        good = ok ("waiting", ipc_wait_event_timeout (list, NULL, &event, TIMEOUT));
        m = event.m;

        switch (event.type) {
        case IPC_EVENT_TYPE_MESSAGE:
            printf ("%.*s\n", (int) m->length, m->length > 0 ? m->payload : "");
            count--;
            good = quiet || ok ("answering", ipc_write (server, &here));
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            /* The library has closed the connection. The structure is not from malloc, and is not freed. */
            fprintf (stderr, "ticker: the server has closed the connection\n");
            server->fd = -1;
            good = false;
            break;
        case IPC_EVENT_TYPE_NOT_SET:
            if (good) {
                fprintf (stderr, "ticker: timeout: the server sends nothing\n");
                good = false;
            }
            break;
        default:
            break;
        }
    }

    /* There is no further wait, which would free the last message. */
    IPC_EVENT_CLEAN (&event);
    return good;
}

int
main (int argc, char *argv[], char *env[])
{
    struct ipc_connection_infos list = {0};
    struct ipc_connection_info server = {0};
    long count = argc > 1 ? atol (argv[1]) : 0;
    bool good;

    setvbuf (stdout, NULL, _IOLBF, 0);
    if (count <= 0) {
        fprintf (stderr, "usage: ticker COUNT [quiet]\n");
        return EXIT_FAILURE;
    }
    if (! ok ("connecting to " SERVICE, ipc_connection (env, &server, SERVICE))) {
        return EXIT_FAILURE;
    }
    good = ok ("adding the server", ipc_add (&list, &server)) && listen_to (&list, &server, count, argc > 2);
    if (server.fd >= 0) {
        good = ok ("closing", ipc_close (&server)) && good;
    }
    ipc_connections_free (&list);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
