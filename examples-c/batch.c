/*
 * batch: a client of batchd. It sends COUNT messages of SIZE bytes, waits until the server has received the
 * last message, and prints how long that took.
 *
 *     batch COUNT SIZE
 *
 * It shows how to send many messages with few system calls (ipc_queue, ipc_flush).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "batch"
#include "common.h"

#define SERVICE "batchd"

/* Queues a copy of the message. If the queue is full because the server does not keep up, it waits. */
static bool
queue (const struct ipc_connection_info *server, const struct ipc_message *m)
{
    enum ipc_errors code = ipc_queue (server, m);

    if (code == IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA) {
        return ok ("waiting for room", ipc_flush (server, -1)) && ok ("queueing", ipc_queue (server, m));
    }
    return ok ("queueing", code);
}

/* Sends all messages; returns true when the server has received them. */
static bool
send_all (const struct ipc_connection_info *server, long count, const struct ipc_message *m)
{
    struct ipc_message end = {.type = MSG_TYPE_DATA};
    struct ipc_message answer = {0};
    bool good = true;

    for (long i = 0; i < count && good; i++) {
        good = queue (server, m);
    }
    /* The library sends the queue whenever it has grown by 64 KiB; the flush sends the last messages. */
    good = good && queue (server, &end) && ok ("sending", ipc_flush (server, -1))
        && ok ("reading the answer", ipc_read (server, &answer));
    ipc_message_empty (&answer);
    return good;
}

int
main (int argc, char *argv[], char *env[])
{
    long count = argc == 3 ? atol (argv[1]) : 0;
    long size = argc == 3 ? atol (argv[2]) : 0;
    struct ipc_connection_info server = {0};
    struct ipc_message *m = NULL;
    struct timespec start;
    struct timespec end;
    double seconds;
    bool good;

    if (count <= 0 || size <= 0) {
        fprintf (stderr, "usage: batch COUNT SIZE\n");
        return EXIT_FAILURE;
    }
    if (! ok ("making a message", ipc_message_new (&m, size))) {
        return EXIT_FAILURE;
    }
    good = ok ("connecting to " SERVICE, ipc_connection (env, &server, SERVICE));
    if (good) {
        clock_gettime (CLOCK_MONOTONIC, &start);
        good = send_all (&server, count, m);
        clock_gettime (CLOCK_MONOTONIC, &end);
        good = ok ("closing", ipc_close (&server)) && good;
    }
    if (good) {
        seconds = (double) (end.tv_sec - start.tv_sec) + (double) (end.tv_nsec - start.tv_nsec) / 1e9;
        printf ("%ld messages of %ld bytes in %.3f s: %.0f per second\n", count, size, seconds,
                (double) count / seconds);
    }
    ipc_message_empty (m);
    free (m);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
