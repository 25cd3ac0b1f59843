/*
 * tickerd: tells all its clients the time, and closes those that have said nothing for too long.
 *
 *     tickerd INTERVAL N      every INTERVAL milliseconds; N intervals without a word are too long
 *
 * It shows the two ways to wait for time: a timerfd, for what happens regularly (ipc_add_fd), and a time-out,
 * for what happens when nothing else has (ipc_wait_event_timeout). The client is ticker.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "tickerd"
#include "common.h"

#include <sys/socket.h>
#include <sys/timerfd.h>

#define SERVICE "tickerd"
#define LONGEST_MESSAGE 64
#define LONGEST_QUEUE 4096

static int timer = -1;
static int signals = -1;
static long interval; /* milliseconds */
static long patience; /* milliseconds */

/* In milliseconds, from anywhere. It begins anew after 49 days, so only differences mean something. */
static uint32_t
now (void)
{
    struct timespec time;

    clock_gettime (CLOCK_MONOTONIC, &time);
    return (uint32_t) (time.tv_sec * INT64_C (1000) + time.tv_nsec / 1000000);
}

static int
open_timer (void)
{
    struct itimerspec times = {{interval / 1000, interval % 1000 * 1000000}, {0, 1}};
    int fd = timerfd_create (CLOCK_MONOTONIC, TFD_CLOEXEC);

    if (fd < 0 || timerfd_settime (fd, 0, &times, NULL) != 0) {
        perror (PROGRAM ": timer");
    }
    return fd;
}

/* The client has said something, if only that it is there. The library knows it by its descriptor alone: the
 * index is ours, and holds until when it is to say something again. */
static void
heard (struct ipc_connection_info *client)
{
    client->index = now () + (uint32_t) patience;
}

static int32_t
time_left (const struct ipc_connection_info *client)
{
    return (int32_t) (client->index - now ());
}

/* How long to wait for events: until the first client is quiet for too long, or for ever (-1). */
static int
time_to_wait (const struct ipc_connection_infos *list)
{
    int32_t least = -1;

    for (int32_t i = 0; i < list->size; i++) {
        /* The timer and the signals are in the list, too: their type is 'a'. */
        if (list->cinfos[i]->type != 'a') {
            int32_t left = time_left (list->cinfos[i]);

            left = left > 0 ? left : 0;
            least = least < 0 || left < least ? left : least;
        }
    }
    return least;
}

static void
close_quiet_clients (const struct ipc_connection_infos *list)
{
    for (int32_t i = 0; i < list->size; i++) {
        struct ipc_connection_info *client = list->cinfos[i];

        if (client->type != 'a' && time_left (client) <= 0) {
            /* Its DISCONNECTION follows, as if it had gone itself. */
            printf ("CLOSING %d\n", client->fd);
            shutdown (client->fd, SHUT_RDWR);
            heard (client);
        }
    }
}

static void
tell_time (const struct ipc_connection_infos *list)
{
    char text[LONGEST_MESSAGE];
    time_t seconds = time (NULL);
    struct ipc_message m = {.type = MSG_TYPE_DATA, .payload = text};

    m.length = (uint32_t) strftime (text, sizeof text, "%Y-%m-%d %H:%M:%S", localtime (&seconds));
    for (int32_t i = 0; i < list->size; i++) {
        if (list->cinfos[i]->type != 'a' && ipc_queue (list->cinfos[i], &m) != IPC_ERROR_NONE) {
            /* Its queue is full of times that are over, or its DISCONNECTION is to come: not one more. */
            printf ("NOT TOLD %d\n", list->cinfos[i]->fd);
        }
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

        if (interrupted (code)) {
            continue;
        }
        good = ok ("waiting", code);

        switch (event.type) {
        case IPC_EVENT_TYPE_NOT_SET:
            /* The time is over and nothing is at hand: no word that has come in time is overlooked. */
            close_quiet_clients (list);
            break;
        case IPC_EVENT_TYPE_CONNECTION:
            printf ("CONNECTION %d\n", event.origin->fd);
            heard (event.origin);
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
            /* The library has read the timer's counter, so the timer is quiet until the next interval. */
            running = event.origin->fd != signals;
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
    long intervals;
    bool good;

    setvbuf (stdout, NULL, _IOLBF, 0);
    interval = argc == 3 ? atol (argv[1]) : 0;
    intervals = argc == 3 ? atol (argv[2]) : 0;
    if (interval <= 0 || intervals <= 0 || intervals > INT32_MAX / interval) {
        fprintf (stderr, "usage: tickerd INTERVAL N\n");
        return EXIT_FAILURE;
    }
    patience = intervals * interval;
    timer = open_timer ();
    signals = open_signals ();
    if (timer < 0 || signals < 0) {
        return EXIT_FAILURE;
    }
    good = ok ("adding the timer", ipc_add_fd (&list, timer))
        && ok ("adding the signals", ipc_add_fd (&list, signals))
        && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        /* The service's limits are those of the clients that it takes from now on. */
        good = ok ("setting limits", ipc_limits (&service, LONGEST_MESSAGE, LONGEST_QUEUE))
            && serve (&list, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    end_fd (&list, timer);
    end_fd (&list, signals);
    end_clients (&list);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
