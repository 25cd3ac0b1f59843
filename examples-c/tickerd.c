/*
 * tickerd: sends the time to all its clients, and closes the connections of clients that send nothing.
 *
 *     tickerd INTERVAL N      sends every INTERVAL milliseconds; closes a client that is silent for N
 *     intervals
 *
 * It shows the two ways to wait for time: a timer, for regular work (ipc_add_timer), and a timeout, for work
 * when no event has happened (ipc_wait_event_timeout); and how to keep data of each client (ipc_set_data).
 * The client is ticker.c.
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
static long long longest_silence; /* milliseconds */

/* The data of a client. */
struct client_data {
    int64_t deadline; /* the time until which the client must send a message */
};

/* The time of the monotonic clock, in milliseconds. */
static int64_t
now (void)
{
    struct timespec time;

    clock_gettime (CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C (1000) + time.tv_nsec / 1000000;
}

/* Stores the data of a new client. If there is no memory for the data, the connection is ended. */
static void
add_client (struct ipc_connection_infos *list, struct ipc_connection_info *client)
{
    struct client_data *data = malloc (sizeof *data);

    /* The library frees the data after the client's DISCONNECTION. */
    if (data == NULL || ! ok ("storing data of a client", ipc_set_data (client, data, free))) {
        free (data);
        ipc_end (list, client, 0);
        return;
    }
    data->deadline = now () + longest_silence;
}

/* The client has sent a message: sets its next deadline. */
static void
extend_deadline (const struct ipc_connection_info *client)
{
    struct client_data *data = ipc_data (client);

    if (data != NULL) {
        data->deadline = now () + longest_silence;
    }
}

/* How long to wait for events: until the first deadline of a client, or without a timeout (-1). */
static int
time_to_wait (const struct ipc_connection_infos *list)
{
    int64_t least = -1;

    for (int32_t i = 0; i < list->size; i++) {
        /* NULL for the entries of the timer and the signals. */
        const struct client_data *data = ipc_data (list->cinfos[i]);

        if (data != NULL) {
            int64_t left = data->deadline - now ();

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
        const struct client_data *data = ipc_data (client);

        if (data != NULL && data->deadline <= now ()) {
            /* The client's DISCONNECTION follows; until then the entry stays in the list. */
            printf ("CLOSING %d\n", client->fd);
            ipc_end (list, client, 0);
        }
    }
}

static void
send_time (struct ipc_connection_infos *list)
{
    size_t failed = 0;
    char text[LONGEST_MESSAGE];
    time_t seconds = time (NULL);
    struct ipc_message m = {.type = MSG_TYPE_DATA, .payload = text};

    m.length = (uint32_t) strftime (text, sizeof text, "%Y-%m-%d %H:%M:%S", localtime (&seconds));
    if (ok ("sending the time", ipc_broadcast (list, &m, NULL, &failed)) && failed > 0) {
        /* The queues of these clients are full of earlier times: they do not get this one. */
        printf ("NOT SENT TO %zu\n", failed);
    }
}

/* Serves until a signal is received; returns false if it ends for another reason. */
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
            /* The timeout has expired and no event is pending: each message in time was handled before. */
            close_quiet_clients (list);
            break;
        case IPC_EVENT_TYPE_CONNECTION:
            printf ("CONNECTION %d\n", event.origin->fd);
            add_client (list, event.origin);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            extend_deadline (event.origin);
            break;
        case IPC_EVENT_TYPE_ERROR:
            /* The client has sent a message that is too long, or closed with unread bytes. Its DISCONNECTION
             * follows. */
            printf ("ERROR %d\n", event.origin->fd);
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            printf ("DISCONNECTION %d\n", event.origin->fd);
            free (event.origin);
            break;
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            running = ((struct ipc_message *) event.m)->type != IPC_MSG_SIGNAL;
            if (running) {
                send_time (list);
            }
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
    longest_silence = intervals * interval;
    good = add_signals (&list)
        && ok ("adding the timer", ipc_add_timer (&list, 0, (int) interval, NULL))
        && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        /* Limits of a service hold for the clients that it accepts from now on. */
        good = ok ("setting limits", ipc_limits (&service, LONGEST_MESSAGE, LONGEST_QUEUE))
            && serve (&list, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    end_list (&list);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
