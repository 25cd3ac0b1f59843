/*
 * Round trips in one process, whose instructions valgrind counts: client and server take turns in one thread, so that
 * each run has the same count. run.sh runs the program with two numbers of messages; the difference is the cost of the
 * messages.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <ipc.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { SIZE = 64 };

static void
check (const char *what, bool good)
{
    if (! good) {
        fail ("instructions: %s: %s", what, strerror (errno));
    }
}

static void
trips_of_libipc (long count)
{
    struct ipc_connection_info service = {0};
    struct ipc_connection_info connection = {0};
    struct ipc_connection_infos clients = {0};
    struct ipc_event event = {0};
    char payload[SIZE];
    struct ipc_message question = {.type = MSG_TYPE_DATA, .length = SIZE, .payload = payload};
    struct ipc_message answer = {0};

    make_directory ();
    memset (payload, 0, sizeof payload);
    check ("ipc_server_init", ipc_server_init (environ, &service, "count") == IPC_ERROR_NONE);
    check ("ipc_connection", ipc_connection (environ, &connection, "count") == IPC_ERROR_NONE);
    check ("ipc_wait_event", ipc_wait_event (&clients, &service, &event) == IPC_ERROR_NONE);
    check ("no connection", event.type == IPC_EVENT_TYPE_CONNECTION);
    for (long i = 1; i <= count; i++) {
        put_number (payload, SIZE, (uint64_t) i);
        check ("ipc_write", ipc_write (&connection, &question) == IPC_ERROR_NONE);
        check ("ipc_wait_event", ipc_wait_event (&clients, &service, &event) == IPC_ERROR_NONE);
        check ("no message", event.type == IPC_EVENT_TYPE_MESSAGE);
        check ("ipc_write", ipc_write (event.origin, event.m) == IPC_ERROR_NONE);
        check ("ipc_read", ipc_read (&connection, &answer) == IPC_ERROR_NONE);
        check ("length", answer.length == SIZE);
        check_number (answer.payload, SIZE, (uint64_t) i);
        ipc_message_empty (&answer);
    }
    IPC_EVENT_CLEAN (&event);
    check ("ipc_close", ipc_close (&connection) == IPC_ERROR_NONE);
    check ("ipc_server_close", ipc_server_close (&service) == IPC_ERROR_NONE);
}

static void
trips_of_bare (long count)
{
    char out[SIZE + IPC_HEADER_SIZE] = {0};
    char in[sizeof out];
    struct epoll_event event = {.events = EPOLLIN};
    int ends[2];
    int set = epoll_create1 (EPOLL_CLOEXEC);
    ssize_t whole = (ssize_t) sizeof out;

    check ("socketpair", socketpair (AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    check ("epoll_ctl", epoll_ctl (set, EPOLL_CTL_ADD, ends[1], &event) == 0);
    for (long i = 1; i <= count; i++) {
        put_number (out + IPC_HEADER_SIZE, SIZE, (uint64_t) i);
        check ("send", send (ends[0], out, sizeof out, MSG_NOSIGNAL) == whole);
        check ("epoll_wait", epoll_wait (set, &event, 1, -1) == 1);
        check ("recv", recv (ends[1], in, sizeof in, 0) == whole);
        check ("send", send (ends[1], in, sizeof in, MSG_NOSIGNAL) == whole);
        check ("recv", recv (ends[0], in, sizeof in, 0) == whole);
        check_number (in + IPC_HEADER_SIZE, SIZE, (uint64_t) i);
    }
}

void
instructions (const char *transport, long count)
{
    alarm (3 * LIMIT_SECONDS);
    if (strcmp (transport, "libipc") == 0) {
        trips_of_libipc (count);
    } else if (strcmp (transport, "full") == 0) {
        trips_of_full (SIZE, count);
    } else {
        trips_of_bare (count);
    }
}
