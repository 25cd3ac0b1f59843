/*
 * tickerd: tells all its clients the time, and closes those that have said nothing for too long.
 *
 *     tickerd INTERVAL N      every INTERVAL milliseconds; N intervals without a word are too long
 *
 * It shows the two ways to wait for time: a timer, for what happens regularly (ipc_add_timer), and a time-out,
 * for what happens when nothing else has (ipc_wait_event_timeout); and how to keep something of each client
 * (ipc_set_data). The client is ticker.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "tickerd"
#include "common.h"

#include <time.h>

#define SERVICE "tickerd"
#define LONGEST_MESSAGE 64
#define LONGEST_QUEUE 4096

static long long interval; /* milliseconds */
static long long patience; /* milliseconds */

/* What is kept of each client. */
struct guest {
    int64_t deadline; /* until when it is to say something again */
};

/* In milliseconds. */
static int64_t
now (void)
{
    struct timespec time;

    clock_gettime (CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C (1000) + time.tv_nsec / 1000000;
}

/* A client without memory for it is sent away. */
static void
welcome (struct ipc_connection_infos *list, struct ipc_connection_info *client)
{
    struct guest *guest = malloc (sizeof *guest);

    /* The library frees it when the client has gone. */
    if (guest == NULL || ! ok ("keeping a client", ipc_set_data (client, guest, free))) {
        free (guest);
        ipc_end (list, client, 0);
        return;
    }
    guest->deadline = now () + patience;
}

/* The client has said something, if only that it is there. */
static void
heard (const struct ipc_connection_info *client)
{
    struct guest *guest = ipc_data (client);

    if (guest != NULL) {
        guest->deadline = now () + patience;
    }
}

/* How long to wait for events: until the first client is quiet for too long, or for ever (-1). */
static int
time_to_wait (const struct ipc_connection_infos *list)
{
    int64_t least = -1;

    for (int32_t i = 0; i < list->size; i++) {
        /* The timer and the signals, which are in the list, too, have none. */
        const struct guest *guest = ipc_data (list->cinfos[i]);

        if (guest != NULL) {
            int64_t left = guest->deadline - now ();

            left = left > 0 ? left : 0;
            least = least < 0 || left < least ? left : least;
        }
    }
    return (int) least;
}

static void
close_quiet_clients (struct ipc_connection_infos *list)
{
    for (int32_t i = 0; i < list->size; i++) {
        struct ipc_connection_info *client = list->cinfos[i];
        const struct guest *guest = ipc_data (client);

        if (guest != NULL && guest->deadline <= now ()) {
            /* Its DISCONNECTION follows; until then it stays in the list. */
            printf ("CLOSING %d\n", client->fd);
            ipc_end (list, client, 0);
        }
    }
}

static void
tell_time (struct ipc_connection_infos *list)
{
    size_t failed = 0;
    char text[LONGEST_MESSAGE];
    time_t seconds = time (NULL);
    struct ipc_message m = {.type = MSG_TYPE_DATA, .payload = text};

    m.length = (uint32_t) strftime (text, sizeof text, "%Y-%m-%d %H:%M:%S", localtime (&seconds));
    if (ok ("telling the time", ipc_broadcast (list, &m, NULL, &failed)) && failed > 0) {
        /* Their queues are full of times that are over: not one more. */
        printf ("NOT TOLD %zu\n", failed);
    }
}

/* Serves until a signal comes; false if it ends for another reason. */
static bool
serve (struct ipc_connection_infos *list, struct ipc_connection_info *service)
{
    struct ipc_event event = {0};
    bool running = true;
    bool good = true;

    while (running && good) {
        enum ipc_errors code = ipc_wait_event_timeout (list, service, &event, time_to_wait (list));

        good = ok ("waiting", code);

        switch (event.type) {
        case IPC_EVENT_TYPE_NOT_SET:
            /* The time is over and nothing is at hand: no word that has come in time is overlooked. */
            close_quiet_clients (list);
            break;
        case IPC_EVENT_TYPE_CONNECTION:
            printf ("CONNECTION %d\n", event.origin->fd);
            welcome (list, event.origin);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            heard (event.origin);
            break;
        case IPC_EVENT_TYPE_ERROR:
            /* It has said too much, or left without having read all; its DISCONNECTION follows. */
            printf ("ERROR %d\n", event.origin->fd);
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            printf ("DISCONNECTION %d\n", event.origin->fd);
            free (event.origin);
            break;
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            running = ((struct ipc_message *) event.m)->type != IPC_MSG_SIGNAL;
            if (running) {
                tell_time (list);
            }
            break;
        }
    }

    /* The next wait would free the last message; there is none. */
    IPC_EVENT_CLEAN (&event);
    return good;
}

int
main (int argc, char *argv[], char *env[])
{
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos list = {0};
    long long intervals;
    bool good;

    setvbuf (stdout, NULL, _IOLBF, 0);
    interval = argc == 3 ? atoll (argv[1]) : 0;
    intervals = argc == 3 ? atoll (argv[2]) : 0;
    if (interval <= 0 || intervals <= 0 || intervals > INT32_MAX / interval) {
        fprintf (stderr, "usage: tickerd INTERVAL N\n");
        return EXIT_FAILURE;
    }
    patience = intervals * interval;
    good = add_signals (&list)
        && ok ("adding the timer", ipc_add_timer (&list, 0, (int) interval, NULL))
        && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        /* The service's limits are those of the clients that it takes from now on. */
        good = ok ("setting limits", ipc_limits (&service, LONGEST_MESSAGE, LONGEST_QUEUE))
            && serve (&list, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    end_list (&list);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
