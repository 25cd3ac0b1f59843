/*
 * Workloads with messages: round trips, one way, many clients, and round trips with idle connections.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <sys/resource.h>

/* Small messages between two readings of the clock, so that the cost of reading it is negligible. */
#define BATCH 32

enum { MAX_TRANSPORTS = 8 };

/* One pair for each transport; the figures of the others are divided by those of bare, the first. */
static int
pairs_of (const struct transport *const *transports, struct pair like, struct pair *pairs)
{
    int count = 0;

    for (; *transports != NULL && count < MAX_TRANSPORTS; transports++) {
        size_t largest = (*transports)->largest;

        if (largest == 0 || like.setup.size <= largest) {
            pairs[count] = like;
            pairs[count++].transport = *transports;
        }
    }
    return count;
}

static int
batch_of (size_t size)
{
    return size <= 4096 ? BATCH : 1;
}

static const char *
size_name (size_t size)
{
    static char name[32];

    if (size >= 1000000) {
        /* 7,999,995 is the largest payload: 8 MB with its header. */
        snprintf (name, sizeof name, "%zu MB", (size + 5) / 1000000);
    } else if (size >= 1024) {
        snprintf (name, sizeof name, "%zu KiB", size / 1024);
    } else {
        snprintf (name, sizeof name, "%zu B", size);
    }
    return name;
}

/* Round trips. */

static uint64_t
there_and_back (struct client *client, uint64_t end)
{
    int batch = batch_of (client->setup->size);
    uint64_t count = 0;

    do {
        for (int i = 0; i < batch; i++) {
            ping (client, 0);
        }
        count += (uint64_t) batch;
    } while (now () < end);
    return count;
}

void
round_trip (void)
{
    static const size_t sizes[] = {0, 64, 1024, 4096, 65536, 1000000, 7999995};
    static const struct work work = {.name = "round trip", .slice = there_and_back};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct pair like = {.setup = {.size = sizes[i], .manner = ANSWER_ALL}, .connections = 1};
        struct pair pairs[MAX_TRANSPORTS];

        snprintf (like.variant, sizeof like.variant, "%s", size_name (sizes[i]));
        measure (&work, pairs, pairs_of (for_one, like, pairs));
    }
}

/* One way. The last message of a slice is answered: when the answer arrives, all messages have arrived. */

static uint64_t
one_way (struct client *client, uint64_t end)
{
    const struct transport *transport = client->transport;
    void *server = client->connections[0];
    size_t size = client->setup->size;
    int batch = batch_of (size);
    uint64_t number = client->numbers[0];
    uint64_t before = number;

    do {
        for (int i = 0; i < batch; i++) {
            put_number (transport->payload (server), size, ++number);
            transport->send (server);
        }
    } while (now () < end);
    put_number (transport->payload (server), size, ++number | ANSWER_ME);
    transport->send (server);
    check_number (transport->receive (server), size, number | ANSWER_ME);
    client->numbers[0] = number;
    return number - before;
}

void
stream (void)
{
    static const size_t sizes[] = {64, 1000000};
    static const struct work work = {.name = "one way", .is_rate = true, .slice = one_way};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct pair like = {.setup = {.size = sizes[i], .manner = ANSWER_MARKED}, .connections = 1};
        struct pair pairs[MAX_TRANSPORTS];

        snprintf (like.variant, sizeof like.variant, "%s", size_name (sizes[i]));
        measure (&work, pairs, pairs_of (for_one, like, pairs));
    }
    {
        struct pair like = {
            .setup = {.size = 64, .manner = ANSWER_MARKED},
            .connections = 1,
            .variant = "64 B queued",
        };
        struct pair pairs[MAX_TRANSPORTS];

        measure (&work, pairs, pairs_of (for_batches, like, pairs));
    }
}

/* Many clients, each of which waits for its answer before it sends again. */

static uint64_t
all_in_lockstep (struct client *client, uint64_t end)
{
    const struct transport *transport = client->transport;
    size_t size = client->setup->size;
    uint64_t count = 0;
    bool more = true;

    for (int i = 0; i < client->count; i++) {
        put_number (transport->payload (client->connections[i]), size, ++client->numbers[i]);
        transport->send (client->connections[i]);
    }
    while (more) {
        more = now () < end;
        for (int i = 0; i < client->count; i++) {
            void *server = client->connections[i];

            check_number (transport->receive (server), size, client->numbers[i]);
            count++;
            if (more) {
                put_number (transport->payload (server), size, ++client->numbers[i]);
                transport->send (server);
            }
        }
    }
    return count;
}

void
many_clients (void)
{
    static const int counts[] = {1, 10, 100};
    static const struct work work = {.name = "clients", .is_rate = true, .slice = all_in_lockstep};

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct pair like = {.setup = {.size = 64, .manner = ANSWER_ALL}, .connections = counts[i]};
        struct pair pairs[MAX_TRANSPORTS];

        snprintf (like.variant, sizeof like.variant, "%d", counts[i]);
        measure (&work, pairs, pairs_of (for_many, like, pairs));
    }
}

/* One client, with idle connections at the same time; the figures are divided by those of the same server without
 * idle connections. */

void
idle_connections (void)
{
    static const int counts[] = {0, 1000, 10000};
    static const struct transport *const transports[] = {&bare_epoll, &libipc};
    static const struct work work = {.name = "beside idle", .keeps_running = true, .slice = there_and_back};
    struct rlimit limit;
    struct pair pairs[6];
    int count = 0;

    for (int t = 0; t < 2; t++) {
        int base = count;

        for (int i = 0; i < 3; i++) {
            if (getrlimit (RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < (rlim_t) counts[i] + 64) {
                fprintf (stderr, "SKIPPED: with %d idle connections: the limit of descriptors is %lu\n",
                         counts[i], (unsigned long) limit.rlim_cur);
                continue;
            }
            pairs[count] = (struct pair) {
                .transport = transports[t],
                .setup = {.size = 64, .manner = ANSWER_ALL},
                .connections = 1,
                .idle = counts[i],
                .base = base,
            };
            snprintf (pairs[count].variant, sizeof pairs[count].variant, "%d", counts[i]);
            count++;
        }
    }
    measure (&work, pairs, count);
}
