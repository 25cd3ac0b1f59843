/*
 * batchd: receives messages by the hundred thousand, from one client or many, and answers each empty message
 * when it has received all messages before it. At the end it prints how many messages it has received.
 *
 * It shows how to get many events with one call (ipc_wait_events). The client is batch.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "batchd"
#include "common.h"

#include <inttypes.h>

#define SERVICE "batchd"
#define MOST_EVENTS 256

static uint64_t messages;
static uint64_t bytes;
static size_t most_at_once;

static void
take_message (const struct ipc_connection_info *client, const struct ipc_message *m)
{
    if (m->length == 0) {
        /* If one client cannot be answered, the server goes on for the others. */
        ok ("answering", ipc_write (client, m));
        return;
    }
    messages++;
    bytes += m->length;
}

/* Handles one event; returns false if the server must end. */
static bool
handle_event (const struct ipc_event *event)
{
    switch (event->type) {
    case IPC_EVENT_TYPE_MESSAGE:
        take_message (event->origin, event->m);
        break;
    case IPC_EVENT_TYPE_ERROR:
        fprintf (stderr, "batchd: %d broke the protocol or the connection\n", event->origin->fd);
        break;
    case IPC_EVENT_TYPE_DISCONNECTION:
        /* Earlier events may refer to the structure, later events do not. */
        free (event->origin);
        break;
    case IPC_EVENT_TYPE_EXTRA_SOCKET:
        return false;
    default:
        break;
    }
    return true;
}

/* Serves until a signal is received; returns false if it ends for another reason. */
static bool
serve (struct ipc_connection_infos *clients, struct ipc_connection_info *service)
{
    static struct ipc_event events[MOST_EVENTS];
    bool running = true;
    bool good = true;

    while (running && good) {
        size_t count = MOST_EVENTS;
        enum ipc_errors code = ipc_wait_events (clients, service, events, &count, -1);

        good = ok ("waiting", code);

        /* Handles all events, also after the one to end: each DISCONNECTION is reported once. */
        for (size_t i = 0; i < count; i++) {
            running = handle_event (&events[i]) && running;
        }
        most_at_once = count > most_at_once ? count : most_at_once;
    }

    /* There is no further ipc_wait_events, which would free the messages. */
    for (size_t i = 0; i < MOST_EVENTS; i++) {
        IPC_EVENT_CLEAN (&events[i]);
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
    good = add_signals (&clients)
        && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        good = serve (&clients, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
        printf ("%" PRIu64 " messages, %" PRIu64 " bytes, %zu events at once\n", messages, bytes, most_at_once);
    }

    end_list (&clients);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
