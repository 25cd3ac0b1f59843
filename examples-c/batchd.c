/*
 * batchd: takes messages by the hundred thousand, from one client or many, and answers each empty message: by
 * then it has taken all that came before. At the end it tells how many there were.
 *
 * It shows how to take many events with one call (ipc_wait_events). The client is batch.c.
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
        /* A client that cannot be answered is no reason to leave the others. */
        ok ("answering", ipc_write (client, m));
        return;
    }
    messages++;
    bytes += m->length;
}

/* Takes one event; false for the one to end. */
static bool
take_event (const struct ipc_event *event)
{
    switch (event->type) {
    case IPC_EVENT_TYPE_MESSAGE:
        take_message (event->origin, event->m);
        break;
    case IPC_EVENT_TYPE_ERROR:
        fprintf (stderr, "batchd: %d broke the protocol or the connection\n", event->origin->fd);
        break;
    case IPC_EVENT_TYPE_DISCONNECTION:
        /* Events before this one may have named it; none after it does. */
        free (event->origin);
        break;
    case IPC_EVENT_TYPE_EXTRA_SOCKET:
        return false;
    default:
        break;
    }
    return true;
}

/* Serves until a signal comes; false if it ends for another reason. */
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

        /* All of them, also behind the one to end: a DISCONNECTION is told once. */
        for (size_t i = 0; i < count; i++) {
            running = take_event (&events[i]) && running;
        }
        most_at_once = count > most_at_once ? count : most_at_once;
    }

    /* The next ipc_wait_events would free the messages; there is none. */
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
