#include "table.h"

#include <inttypes.h>

#include "samples.h"

#define MIB (1024.0 * 1024.0)

static struct traffic
all_up (void)
{
    struct traffic all = {0, 0};

    for (int i = 0; i < BEHAVIOURS; i++) {
        all.messages += GET (shared->tallies[i].up.messages);
        all.bytes += GET (shared->tallies[i].up.bytes);
    }
    return all;
}

static uint64_t
all_broken (void)
{
    uint64_t all = 0;

    for (int i = 0; i < PROMISES; i++) {
        all += GET (shared->broken[i]);
    }
    return all;
}

void
print_progress (double minutes)
{
    struct traffic up = all_up ();
    struct sample last = sample_at (1);

    printf ("minute %.0f: %" PRIu64 " connections, %" PRIu64 " messages and %.0f MiB to the server; it has %.1f MiB "
            "and %" PRIu64 " descriptors; %" PRIu64 " promises broken\n",
            minutes, GET (shared->server.connections), up.messages, (double) up.bytes / MIB,
            (double) last.resident / MIB, last.open, all_broken ());
    fflush (stdout);
}

static void
print_clients (void)
{
    printf ("\n| clients | connections | messages up | MiB up | messages down | MiB down | longest turn, ms |\n"
            "|---|---|---|---|---|---|---|\n");
    for (int i = POLITE; i < BEHAVIOURS; i++) {
        const struct tally *tally = &shared->tallies[i];

        printf ("| %s | %" PRIu64 " | %" PRIu64 " | %.1f | %" PRIu64 " | %.1f | ", behaviour_names[i],
                tally->connections, tally->up.messages, (double) tally->up.bytes / MIB, tally->down.messages,
                (double) tally->down.bytes / MIB);
        if (tally->longest_turn > 0) {
            printf ("%.1f |\n", (double) tally->longest_turn / 1e6);
        } else {
            printf ("- |\n");
        }
    }
}

static void
print_server (const struct run *run)
{
    const struct server_counts *counts = &shared->server;

    printf ("\n| the server | |\n|---|---|\n");
    printf ("| processor time, s | %.1f |\n", run->server_seconds);
    printf ("| waits, events | %" PRIu64 ", %" PRIu64 " |\n", counts->waits, counts->events);
    printf ("| CONNECTION, DISCONNECTION, ended by the server itself | %" PRIu64 ", %" PRIu64 ", %" PRIu64 " |\n",
            counts->connections, counts->disconnections, counts->dismissed);
    printf ("| ERROR; breaches of the protocol | %" PRIu64 "; %" PRIu64 " |\n", counts->errors, shared->breaches);
    printf ("| refused, since the queue was full (EAGAIN) | %" PRIu64 " |\n", counts->refusals);
    printf ("| writes to clients that had closed (EPIPE) | %" PRIu64 " |\n", counts->epipes);
    printf ("| longest write, ms | %.1f |\n", (double) counts->longest_write / 1e6);
    printf ("| descriptors taken, passed; sent to it and not taken | %" PRIu64 ", %" PRIu64 "; %" PRIu64 " |\n",
            counts->descriptors_in, counts->descriptors_out, shared->untaken);
    printf ("| ticks of its timer; of its watched descriptor | %" PRIu64 "; %" PRIu64 " |\n", counts->ticks,
            counts->watched);
}

static void
print_resources (const struct run *run)
{
    static const char *const parts[] = {"begin", "1/4", "1/2", "3/4", "end"};

    printf ("\n| the server has | no client | ");
    for (int i = 0; i < 5; i++) {
        printf ("%s | ", parts[i]);
    }
    printf ("median | most | no client any more |\n|---|---|---|---|---|---|---|---|---|---|\n");
    printf ("| memory (RSS), MiB | %.1f | ", (double) run->resident[0] / MIB);
    for (int i = 0; i < 5; i++) {
        printf ("%.1f | ", (double) sample_at (i / 4.0).resident / MIB);
    }
    printf ("%.1f | %.1f | %.1f |\n", (double) median_resident (0, 1) / MIB, (double) most_resident () / MIB,
            (double) run->resident[1] / MIB);
    printf ("| heap in use, MiB | %.3f | ", (double) run->heap[0] / MIB);
    for (int i = 0; i < 5; i++) {
        printf ("%.1f | ", (double) sample_at (i / 4.0).heap / MIB);
    }
    printf ("%.1f | %.1f | %.3f |\n", (double) median_heap (0, 1) / MIB, (double) most_heap () / MIB,
            (double) run->heap[1] / MIB);
    printf ("| of it queued for clients, MiB | - | ");
    for (int i = 0; i < 5; i++) {
        printf ("%.1f | ", (double) sample_at (i / 4.0).queued / MIB);
    }
    printf ("- | %.1f | - |\n", (double) most_queued () / MIB);
    printf ("| descriptors | %" PRIu64 " | ", run->open[0]);
    for (int i = 0; i < 5; i++) {
        printf ("%" PRIu64 " | ", sample_at (i / 4.0).open);
    }
    printf ("- | %" PRIu64 " | %" PRIu64 " |\n", most_open (), run->open[1]);
}

static void
print_promises (void)
{
    printf ("\n| promise broken | times |\n|---|---|\n");
    for (int i = 0; i < PROMISES; i++) {
        printf ("| %s | %" PRIu64 " |\n", promise_names[i], shared->broken[i]);
    }
}

bool
print_tables (const struct run *run)
{
    struct traffic up = all_up ();

    printf ("\n%d clients at a time, %.0f s, seed %" PRIu64 ": %" PRIu64 " sessions, %" PRIu64
            " messages and %.0f MiB to the server.\n",
            run->clients, run->seconds, run->seed, run->sessions, up.messages, (double) up.bytes / MIB);
    print_clients ();
    print_server (run);
    print_resources (run);
    print_promises ();
    printf ("\n%s\n", all_broken () == 0 ? "Every promise was kept." : "PROMISES WERE BROKEN.");
    return all_broken () == 0;
}
