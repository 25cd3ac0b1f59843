/*
 * Pairs of processes, rounds of slices, and figures: see bench.h.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <sys/socket.h>
#include <sys/wait.h>

int rounds = 100;
int slice_ms = 10;

/* Peers are measured in one of so many rounds. */
#define PEER_EVERY 5

/* So many operations at least, and a slice at least, warm a pair up. */
#define WARM 8

/* A pair that is running. */

struct running {
    struct pair *pair;
    const struct work *work;
    pid_t server, client, holder;
    int control[2];
    bool given_up;
    uint64_t operations;   /* of the last slice */
    double *per_operation; /* nanoseconds, of each round; 0: not measured */
};

/* The report of a client about a slice. */
struct report {
    uint64_t operations, nanoseconds;
};

static void
serve_pair (void *argument)
{
    const struct running *running = argument;

    running->pair->transport->serve (&running->pair->setup);
}

static void
hold_connections (void *argument)
{
    const struct pair *pair = ((const struct running *) argument)->pair;

    alarm (LIMIT_SECONDS);
    for (int i = 0; i < pair->idle; i++) {
        pair->transport->connect (&pair->setup);
    }
    alarm (0);
    serving ();
    for (;;) {
        pause ();
    }
}

static void
run_client (void *argument)
{
    const struct running *running = argument;
    const struct transport *transport = running->pair->transport;
    struct client client = {
        .transport = transport, .setup = &running->pair->setup, .count = running->pair->connections
    };
    uint64_t span;

    client.connections = checked_alloc ((size_t) client.count * sizeof *client.connections);
    client.numbers = checked_alloc ((size_t) client.count * sizeof *client.numbers);
    alarm (LIMIT_SECONDS);
    for (int i = 0; i < client.count; i++) {
        client.connections[i] = transport->connect (client.setup);
    }
    alarm (0);
    while (read (running->control[1], &span, sizeof span) == (ssize_t) sizeof span && span > 0) {
        struct report report;
        uint64_t begin;

        alarm (LIMIT_SECONDS);
        begin = now ();
        report.operations = running->work->slice (&client, begin + span);
        report.nanoseconds = now () - begin;
        if (write (running->control[1], &report, sizeof report) != (ssize_t) sizeof report) {
            fail ("the figures are not read");
        }
        /* Other pairs have their turns now, however long these take. */
        alarm (0);
    }
    alarm (LIMIT_SECONDS);
    for (int i = 0; i < client.count; i++) {
        transport->disconnect (client.connections[i]);
    }
}

static void
give_up (struct running *running, const char *why)
{
    const struct pair *pair = running->pair;

    if (! pair->transport->is_peer) {
        fail ("%s, %s, %s: %s", running->work->name, pair->variant, pair->transport->name, why);
    }
    fprintf (stderr, "SKIPPED: %s, %s, %s: %s\n", running->work->name, pair->variant, pair->transport->name,
             why);
    running->given_up = true;
}

static void
start_pair (struct running *running, int cores)
{
    static int pairs_so_far;
    struct pair *pair = running->pair;
    int pipe;

    snprintf (pair->setup.name, sizeof pair->setup.name, "bench%d-%d", (int) getpid (), pairs_so_far++);
    pipe = expect_serving ();
    running->server = start (serve_pair, running, 0);
    if (! await_serving (pipe)) {
        give_up (running, "the server does not start");
    }
    if (! running->given_up && pair->idle > 0) {
        pipe = expect_serving ();
        running->holder = start (hold_connections, running, cores - 1);
        if (! await_serving (pipe)) {
            give_up (running, "the idle connections do not come");
        }
    }
    if (running->given_up) {
        return;
    }
    if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, running->control) != 0) {
        fail ("socketpair: %s", strerror (errno));
    }
    running->client = start (run_client, running, cores - 1);
    /* Only the client has the other end now: when the client exits, this end reads end of file. */
    close (running->control[1]);
}

static void
stop_pair (struct running *running)
{
    uint64_t none = 0;

    if (running->client > 0) {
        /* The client closes its connections; its alarm ends it if it cannot. */
        if (send (running->control[0], &none, sizeof none, MSG_NOSIGNAL) == (ssize_t) sizeof none) {
            waitpid (running->client, NULL, 0);
        } else {
            stop (running->client);
        }
        close (running->control[0]);
    }
    stop (running->server);
    stop (running->holder);
    running->client = running->server = running->holder = 0;
}

static void
run_slice (struct running *running, int round)
{
    uint64_t span = (uint64_t) slice_ms * 1000000u;
    struct report report;

    if (running->given_up) {
        return;
    }
    if (send (running->control[0], &span, sizeof span, MSG_NOSIGNAL) != (ssize_t) sizeof span
        || ! can_read (running->control[0])
        || read (running->control[0], &report, sizeof report) != (ssize_t) sizeof report) {
        give_up (running, "no answer: a message was lost, or a process has failed");
        return;
    }
    running->operations = report.operations;
    if (round >= 0) {
        running->per_operation[round] = (double) report.nanoseconds / (double) report.operations;
    }
}

/* Figures. */

static int
compare (const void *a, const void *b)
{
    double x = *(const double *) a;
    double y = *(const double *) b;

    return (x > y) - (x < y);
}

/* The quantile of the sorted values. */
static double
quantile (const double *sorted, int count, double part)
{
    double place = part * (count - 1);
    int below = (int) place;
    int above = below + 1 < count ? below + 1 : below;

    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

static struct figure
figure_of (const struct running *running, const struct running *base, bool is_rate)
{
    double values[rounds], ratios[rounds];
    struct figure figure = {0};
    int count = 0;

    for (int i = 0; i < rounds; i++) {
        double own = running->per_operation[i];
        double other = base->per_operation[i];

        if (own > 0 && other > 0) {
            values[count] = is_rate ? 1e9 / own : own / 1e3;
            ratios[count++] = is_rate ? other / own : own / other;
        }
    }
    qsort (values, (size_t) count, sizeof *values, compare);
    qsort (ratios, (size_t) count, sizeof *ratios, compare);
    figure.rounds = count;
    figure.value = quantile (values, count, 0.5);
    figure.ratio = quantile (ratios, count, 0.5);
    figure.low = quantile (ratios, count, 0.25);
    figure.high = quantile (ratios, count, 0.75);
    return figure;
}

void
print_figure (const char *work, const char *variant, int cores, const char *transport, const char *unit,
              struct figure figure)
{
    printf ("%s\t%s\t%d\t%s\t%s\t%.6g\t%.4f\t%.4f\t%.4f\t%d\n", work, variant, cores, transport, unit, figure.value,
            figure.ratio, figure.low, figure.high, figure.rounds);
    fflush (stdout);
}

/* The pair of this transport. */
static const struct running *
pair_named (const struct running *running, int count, const char *name)
{
    for (int i = 0; i < count; i++) {
        if (strcmp (running[i].pair->transport->name, name) == 0 && ! running[i].given_up) {
            return &running[i];
        }
    }
    return NULL;
}

/* Whether the pair is measured in the round. */
static bool
has_turn (const struct running *running, int round)
{
    return ! running->given_up && (! running->pair->transport->is_peer || round % PEER_EVERY == 0);
}

/* A slice of one pair, in processes of its own that are warm by then. */
static void
run_alone (struct running *running, int cores, int round)
{
    uint64_t warm = 0;

    start_pair (running, cores);
    while (warm < WARM && ! running->given_up) {
        run_slice (running, -1);
        warm += running->operations;
    }
    run_slice (running, round);
    stop_pair (running);
}

/* A slice of each pair. Every second round runs in reverse order, so that no pair is always the first. */
static void
run_round (struct running *running, int count, int cores, int round)
{
    for (int i = 0; i < count; i++) {
        struct running *next = &running[round % 2 == 0 ? i : count - 1 - i];

        if (next->work->keeps_running) {
            run_slice (next, round);
        } else if (has_turn (next, round)) {
            run_alone (next, cores, round);
        }
    }
}

static void
measure_on (const struct work *work, struct pair *pairs, int count, int cores)
{
    const struct running *own, *by_hand;
    struct running *running = checked_alloc ((size_t) count * sizeof *running);

    for (int i = 0; i < count; i++) {
        running[i].pair = &pairs[i];
        running[i].work = work;
        running[i].per_operation = checked_alloc ((size_t) rounds * sizeof (double));
        if (work->keeps_running) {
            start_pair (&running[i], cores);
            run_slice (&running[i], -1);
        }
    }
    for (int round = 0; round < rounds; round++) {
        run_round (running, count, cores, round);
    }
    for (int i = 0; i < count; i++) {
        stop_pair (&running[i]);
        if (! running[i].given_up) {
            print_figure (work->name, pairs[i].variant, cores, pairs[i].transport->name,
                          work->is_rate ? "1/s" : "us",
                          figure_of (&running[i], &running[pairs[i].base], work->is_rate));
        }
    }
    own = pair_named (running, count, "libipc");
    by_hand = pair_named (running, count, "full");
    if (own != NULL && by_hand != NULL) {
        print_figure (work->name, own->pair->variant, cores, "to full", work->is_rate ? "1/s" : "us",
                      figure_of (own, by_hand, work->is_rate));
    }
    for (int i = 0; i < count; i++) {
        free (running[i].per_operation);
    }
    free (running);
}

void
measure (const struct work *work, struct pair *pairs, int count)
{
    int cores[2];

    measure_on (work, pairs, count, 1);
    if (cores_allowed (cores) == 2) {
        measure_on (work, pairs, count, 2);
    } else {
        fprintf (stderr, "SKIPPED: %s on two cores: this process may use only one\n", work->name);
    }
}
