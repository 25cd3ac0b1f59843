/*
 * The processes of slow_readers: servers, readers that misbehave, with bare sockets, and clients that behave.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "slow.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

/* A request; the payload of a small message. */
struct request {
    uint32_t count;
    uint32_t size;
    char rest[SMALL - 2 * sizeof (uint32_t)];
};

char socket_path[64];
struct counters *counters;
int held;

static char payload[STUCK_MESSAGE];

static void
fail (const char *what)
{
    fprintf (stderr, "slow_readers: %s: %s\n", what, strerror (errno));
    exit (1);
}

void
check (const char *what, bool good)
{
    if (! good) {
        fail (what);
    }
}

int64_t
now (void)
{
    struct timespec t;

    clock_gettime (CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

void
sleep_until (int64_t time)
{
    struct timespec t = {.tv_sec = time / SECOND, .tv_nsec = time % SECOND};

    while (clock_nanosleep (CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

/* Runs a function in a child. */
pid_t
start (void (*run) (void))
{
    pid_t child = fork ();

    check ("fork", child >= 0);
    if (child == 0) {
        alarm (LIMIT_SECONDS);
        run ();
        _exit (0);
    }
    return child;
}

void
stop (pid_t child)
{
    kill (child, SIGKILL);
    waitpid (child, NULL, 0);
}

/* Servers. */

static void
answer (struct ipc_connection_info *client, const struct ipc_message *m)
{
    struct request request = {.count = 1, .size = SMALL};

    memcpy (&request, m->payload, m->length < sizeof request ? m->length : sizeof request);
    for (uint32_t i = 0; i < request.count; i++) {
        struct ipc_message out = {.type = MSG_TYPE_DATA, .length = request.size, .payload = payload};

        if (ipc_write (client, &out) == IPC_ERROR_NONE) {
            counters->accepted++;
        } else {
            counters->refused++;
        }
    }
}

void
serve (void)
{
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos clients = {0};
    struct ipc_event event = {0};

    check ("ipc_server_init", ipc_server_init (environ, &service, SERVICE) == IPC_ERROR_NONE);
    for (;;) {
        enum ipc_errors code = ipc_wait_event (&clients, &service, &event);

        if (code != IPC_ERROR_NONE) {
            check ("ipc_wait_event", errno == EINTR);
        } else if (event.type == IPC_EVENT_TYPE_MESSAGE) {
            answer (event.origin, event.m);
        } else if (event.type == IPC_EVENT_TYPE_DISCONNECTION) {
            free (event.origin);
        }
    }
}

/* Accepts `held` clients, and queues messages for each: one, or as many as are accepted. */
static void
serve_stuck (struct ipc_connection_infos *clients, uint32_t size, bool only_one)
{
    struct ipc_connection_info service = {0};
    struct ipc_event event = {0};
    int least = 1;

    check ("ipc_server_init", ipc_server_init (environ, &service, SERVICE) == IPC_ERROR_NONE);
    while (clients->size < held) {
        check ("ipc_wait_event", ipc_wait_event (clients, &service, &event) == IPC_ERROR_NONE);
        check ("a CONNECTION", event.type == IPC_EVENT_TYPE_CONNECTION);
        setsockopt (event.origin->fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof least);
    }
    for (int i = 0; i < held; i++) {
        struct ipc_message out = {.type = MSG_TYPE_DATA, .length = size, .payload = payload};

        while (ipc_write (clients->cinfos[i], &out) == IPC_ERROR_NONE) {
            counters->accepted += size;
            if (only_one) {
                break;
            }
        }
    }
    counters->begin = now ();
}

void
serve_and_close_all (void)
{
    struct ipc_connection_infos clients = {0};

    serve_stuck (&clients, CLOSED_QUEUE, true);
    while (clients.size > 0) {
        struct ipc_connection_info *client = clients.cinfos[clients.size - 1];

        check ("ipc_close", ipc_close (client) == IPC_ERROR_NONE);
        check ("ipc_del", ipc_del (&clients, client) == IPC_ERROR_NONE);
        free (client);
    }
    counters->end = now ();
    _exit (0);
}

void
serve_and_exit (void)
{
    struct ipc_connection_infos clients = {0};

    serve_stuck (&clients, STUCK_MESSAGE, false);
    exit (0);
}

/* Readers that misbehave. */

static int
connect_bare (void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    check ("socket", fd >= 0);
    memcpy (address.sun_path, socket_path, sizeof socket_path);
    while (connect (fd, (struct sockaddr *) &address, sizeof address) != 0) {
        check ("connect", errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED || errno == ENOENT);
        sleep_until (now () + SECOND / 1000);
    }
    return fd;
}

static bool
ask (int fd, uint32_t count, uint32_t size, int flags)
{
    struct request request = {.count = count, .size = size};
    char frame[IPC_HEADER_SIZE + SMALL] = {MSG_TYPE_DATA};
    uint32_t length = SMALL;

    memcpy (frame + 1, &length, sizeof length);
    memcpy (frame + IPC_HEADER_SIZE, &request, sizeof request);
    return send (fd, frame, sizeof frame, MSG_NOSIGNAL | flags) == (ssize_t) sizeof frame;
}

/* Reads so many bytes. */
static bool
read_all (int fd, size_t count)
{
    static char bytes[65536];

    while (count > 0) {
        ssize_t some = recv (fd, bytes, count < sizeof bytes ? count : sizeof bytes, 0);

        if (some <= 0) {
            return false;
        }
        count -= (size_t) some;
    }
    return true;
}

/* Asks for an answer larger than what the kernel holds, and reads it, with a pause before one of both. */
static void
read_answers (bool is_late)
{
    int fd = connect_bare ();

    for (;;) {
        sleep_until (now () + (is_late ? 0 : LATE_NS));
        check ("ask", ask (fd, 1, LATE_ANSWER, 0));
        sleep_until (now () + (is_late ? LATE_NS : 0));
        check ("an answer", read_all (fd, IPC_HEADER_SIZE + LATE_ANSWER));
    }
}

void
read_late (void)
{
    read_answers (true);
}

void
read_on_time (void)
{
    read_answers (false);
}

/* Asks for more than it reads, and reads a step each 900 ms. */
void
read_greedily (void)
{
    int fd = connect_bare ();

    for (;;) {
        int64_t next = now () + GREEDY_PAUSE_NS;

        while (now () < next) {
            ask (fd, 1, GREEDY_STEP * 4, MSG_DONTWAIT);
            sleep_until (now () + SECOND / 100);
        }
        check ("a step", read_all (fd, GREEDY_STEP));
    }
}

/* Asks for a stream, and reads it at its rate; exits with 1 unless all of it arrives. */
void
read_stream (void)
{
    int fd = connect_bare ();
    int64_t begin = now ();
    const int64_t whole = (int64_t) STREAM_COUNT * (IPC_HEADER_SIZE + STREAM_MESSAGE), step = 30000;

    check ("ask", ask (fd, STREAM_COUNT, STREAM_MESSAGE, 0));
    for (int64_t done = 0; done < whole;) {
        int64_t some = whole - done < step ? whole - done : step;

        check ("the stream", read_all (fd, (size_t) some));
        done += some;
        sleep_until (begin + done * SECOND / STREAM_RATE);
    }
}

void
read_nothing (void)
{
    for (int i = 0; i < held; i++) {
        connect_bare ();
    }
    for (;;) {
        pause ();
    }
}

/* Clients that behave. */

int64_t
round_trip (struct ipc_connection_info *connection)
{
    struct request request = {.count = 1, .size = SMALL};
    struct ipc_message question = {.type = MSG_TYPE_DATA, .length = SMALL, .payload = (char *) &request};
    struct ipc_message reply = {0};
    int64_t begin = now (), end;

    check ("ipc_write", ipc_write (connection, &question) == IPC_ERROR_NONE);
    check ("ipc_read", ipc_read (connection, &reply) == IPC_ERROR_NONE);
    end = now ();
    ipc_message_empty (&reply);
    return end - begin;
}

/* A client that asks all the time. */
void
ask_all_the_time (void)
{
    struct ipc_connection_info connection = {0};

    check ("ipc_connection", ipc_connection (environ, &connection, SERVICE) == IPC_ERROR_NONE);
    for (;;) {
        round_trip (&connection);
        sleep_until (now () + SECOND / 1000);
    }
}

