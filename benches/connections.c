/*
 * Workloads with connections: connecting and closing, and the server's memory for an idle connection.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <ipc.h>
#include <malloc.h>
#include <sys/resource.h>

/* Connections between two readings of the clock. */
#define BATCH 8

/* At the end one more client sends a request, and gets its answer after the server has received the DISCONNECTIONs
 * of all others. */
static uint64_t
come_and_go (struct client *client, uint64_t end)
{
    const struct transport *transport = client->transport;
    size_t size = client->setup->size;
    uint64_t count = 0;
    void *last;

    do {
        for (int i = 0; i < BATCH; i++) {
            transport->disconnect (transport->connect (client->setup));
        }
        count += BATCH;
    } while (now () < end);
    last = transport->connect (client->setup);
    put_number (transport->payload (last), size, count);
    transport->send (last);
    check_number (transport->receive (last), size, count);
    transport->disconnect (last);
    return count + 1;
}

void
connect_and_close (void)
{
    static const struct work work = {.name = "connect + close", .is_rate = true, .slice = come_and_go};
    struct pair pairs[2];

    for (int i = 0; i < 2; i++) {
        pairs[i] = (struct pair) {
            .transport = i == 0 ? &bare_epoll : &libipc,
            .setup = {.size = sizeof (uint64_t), .manner = ANSWER_LAST},
            .variant = "1 client",
        };
    }
    measure (&work, pairs, 2);
}

/* Memory. The server measures its own heap; another process has the clients. */

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)

enum { IDLE = 10000 };

static struct setup idle_setup = {.name = "memory", .size = 64};
static int to_holder[2], to_driver[2];

static size_t
heap_in_use (void)
{
    struct mallinfo2 info = mallinfo2 ();

    return info.uordblks + info.hblkhd;
}

/* Memory that belongs to the program: the structures and the array, including malloc's overhead for a block. */
static size_t
of_the_program (const struct ipc_connection_infos *clients)
{
    size_t sum = malloc_usable_size (clients->cinfos) + sizeof (size_t);

    for (int32_t i = 0; i < clients->size; i++) {
        sum += malloc_usable_size (clients->cinfos[i]) + sizeof (size_t);
    }
    return sum;
}

static void
report (int fd, double value)
{
    if (write (fd, &value, sizeof value) != (ssize_t) sizeof value) {
        fail ("memory: the pipe is not read");
    }
}

static double
hear (int fd)
{
    double value = 0;

    if (read (fd, &value, sizeof value) != (ssize_t) sizeof value) {
        fail ("memory: no answer");
    }
    return value;
}

static void
count_memory (void *unused)
{
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos clients = {0};
    struct ipc_event event = {0};
    int answered = 0;
    size_t before;

    (void) unused;
    alarm (LIMIT_SECONDS);
    if (ipc_server_init (environ, &service, idle_setup.name) != IPC_ERROR_NONE) {
        fail ("memory: ipc_server_init: %s", strerror (errno));
    }
    serving ();
    before = heap_in_use ();
    while (answered < IDLE) {
        if (ipc_wait_event (&clients, &service, &event) != IPC_ERROR_NONE) {
            fail ("memory: ipc_wait_event: %s", strerror (errno));
        }
        if (event.type == IPC_EVENT_TYPE_MESSAGE) {
            answered += ipc_write (event.origin, event.m) == IPC_ERROR_NONE;
        } else if (event.type != IPC_EVENT_TYPE_CONNECTION) {
            fail ("memory: an event of type %d", (int) event.type);
        }
        if (clients.size == IDLE && answered % IDLE == 0) {
            /* The message belongs to the program. */
            IPC_EVENT_CLEAN (&event);
            report (to_driver[1], (double) (heap_in_use () - before - of_the_program (&clients)) / IDLE);
        }
    }
}

static void
hold_clients (void *unused)
{
    static void *connections[IDLE];
    static uint64_t numbers[IDLE];
    struct client client = {
        .transport = &libipc, .setup = &idle_setup, .count = IDLE, .connections = connections,
        .numbers = numbers,
    };

    (void) unused;
    alarm (LIMIT_SECONDS);
    for (int i = 0; i < IDLE; i++) {
        connections[i] = libipc.connect (&idle_setup);
    }
    hear (to_holder[0]);
    for (int i = 0; i < IDLE; i++) {
        ping (&client, i);
    }
    for (;;) {
        pause ();
    }
}

void
memory (void)
{
    struct rlimit limit;
    struct figure figure = {.rounds = 1};
    pid_t server, holder;
    int pipe_of_server;

    if (getrlimit (RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < IDLE + 64) {
        fprintf (stderr, "SKIPPED: memory of %d connections: the limit of descriptors is %lu\n", IDLE,
                 (unsigned long) limit.rlim_cur);
        return;
    }
    if (pipe (to_holder) != 0 || pipe (to_driver) != 0) {
        fail ("pipe: %s", strerror (errno));
    }
    pipe_of_server = expect_serving ();
    server = start (count_memory, NULL, 0);
    if (! await_serving (pipe_of_server)) {
        fail ("memory: the server does not start");
    }
    holder = start (hold_clients, NULL, 0);
    close (to_driver[1]);

    figure.value = hear (to_driver[0]);
    print_figure ("memory", "that never spoke", 1, "libipc", "B", figure);
    report (to_holder[1], 0);
    figure.value = hear (to_driver[0]);
    print_figure ("memory", "after a message", 1, "libipc", "B", figure);
    stop (holder);
    stop (server);
}

#else

void
memory (void)
{
    fprintf (stderr, "SKIPPED: memory of a connection: this C library has no mallinfo2\n");
}

#endif
