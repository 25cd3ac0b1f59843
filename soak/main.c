/*
 * soak: one server and many clients of all kinds, for minutes or hours; at the end, which promises were broken.
 * README.md describes the output.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "crowd.h"
#include "samples.h"
#include "server.h"
#include "table.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* How much more the server may have at the end than after the first wave. The library's tables of connections grow
 * with the largest number of connections at a time, and do not shrink: connections that were closed stay in them
 * until their disconnection is reported. A leak with each connection exceeds this within minutes. */
#define MORE_HEAP (64 << 10)
#define MORE_HEAP_PER_CLIENT (1 << 10)
#define MORE_RESIDENT (8 << 20)

/* How much higher the median of the heap in use, without queues for clients, may be in the last quarter than in the
 * second: messages that were received in part. With fewer samples it is not checked. */
#define MORE_IN_QUARTER (64 << 20)
#define FEWEST_SAMPLES 40

static int control[2];
static int watched;
static uint64_t rung;

static volatile sig_atomic_t is_interrupted;

static void
interrupt (int number)
{
    (void) number;
    is_interrupted = 1;
}

/* Closes the descriptors of the driver that a client does not need. */
static void
leave (void)
{
    close (control[0]);
    close (control[1]);
    close (watched);
}

static pid_t
start_server (void)
{
    pid_t server;

    watched = eventfd (0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (pipe (control) != 0 || watched == -1 || (server = fork ()) == -1) {
        give_up ("the server");
    }
    if (server == 0) {
        prctl (PR_SET_PDEATHSIG, SIGKILL);
        prctl (PR_SET_NAME, "soak-server");
        signal (SIGINT, SIG_IGN);
        signal (SIGTERM, SIG_DFL);
        close (control[1]);
        exit (serve (control[0], watched));
    }
    return server;
}

static void
ring (void)
{
    const uint64_t one = 1;

    if (write (watched, &one, sizeof one) != sizeof one) {
        give_up ("eventfd");
    }
    rung++;
}

/* No client is connected: the server measures itself. `when` is 0 after the first wave, 1 at the end. */
static void
measure (struct run *run, int when)
{
    const struct server_counts *counts = &shared->server;
    uint64_t before = GET (counts->measured);

    AWAIT (GET (counts->connections) == GET (counts->disconnections) + GET (counts->dismissed)
           && GET (counts->watched) == rung);
    if (write (control[1], "m", 1) != 1) {
        give_up ("the server");
    }
    AWAIT (GET (counts->measured) > before);
    if (GET (counts->measured) == before) {
        broken (HUNG, "the server does not answer");
    }
    run->heap[when] = GET (counts->heap);
    run->resident[when] = GET (counts->resident);
    run->open[when] = GET (counts->open);
}

/* Starts clients until the time is over, or until each seat was taken this many times. Returns false if the server
 * has ended before. */
static bool
let_come_and_go (const struct run *run, pid_t server)
{
    uint64_t begin = now (), next_sample = begin, next_minute = begin + UINT64_C (60000000000);
    uint64_t most = run->rounds == 0 ? UINT64_MAX : run->rounds;

    while (crowd_step (server, most)) {
        if ((run->rounds == 0 && (double) (now () - begin) >= run->minutes * 60e9) || is_interrupted) {
            most = 0;
        }
        if (crowd_size () == 0) {
            return true;
        }
        if (most != 0 && now () >= next_sample) {
            sample_take (server);
            ring ();
            next_sample += 1000000000;
        }
        if (now () >= next_minute) {
            print_progress ((double) (next_minute - begin) / 60e9);
            next_minute += UINT64_C (60000000000);
        }
        pause_ms (2);
    }
    return false;
}

static void
check_events (void)
{
    const struct server_counts *counts = &shared->server;
    uint64_t connections = 0;

    for (int i = 0; i < BEHAVIOURS; i++) {
        connections += shared->tallies[i].connections;
    }
    if (counts->connections != connections) {
        broken (TURNS, "%llu times CONNECTION, and %llu have come", (unsigned long long) counts->connections,
                (unsigned long long) connections);
    }
    if (counts->disconnections + counts->dismissed != connections) {
        broken (TURNS, "%llu times DISCONNECTION, and %llu ended by the server, of %llu connections",
                (unsigned long long) counts->disconnections, (unsigned long long) counts->dismissed,
                (unsigned long long) connections);
    }
    if (counts->errors < shared->breaches) {
        broken (TURNS, "%llu times ERROR, and %llu have broken the protocol", (unsigned long long) counts->errors,
                (unsigned long long) shared->breaches);
    }
    if (counts->watched != rung) {
        broken (CALLS, "ipc_watch_fd: reported %llu of %llu", (unsigned long long) counts->watched,
                (unsigned long long) rung);
    }
}

static void
check_more (enum promise promise, const char *what, uint64_t before, uint64_t after, uint64_t allowed)
{
    if (after > before + allowed) {
        broken (promise, "%s: %llu, and %llu before", what, (unsigned long long) after,
                (unsigned long long) before);
    }
}

static void
check_resources (const struct run *run)
{
    check_more (OPEN, "descriptors", run->open[0], run->open[1], 0);
    check_more (MEMORY, "bytes of heap in use", run->heap[0], run->heap[1],
                MORE_HEAP + (uint64_t) run->clients * MORE_HEAP_PER_CLIENT);
    check_more (MEMORY, "resident bytes", run->resident[0], run->resident[1], MORE_RESIDENT);
    if (sample_count () >= FEWEST_SAMPLES) {
        check_more (MEMORY, "bytes in use that are not queued, median of the last quarter, and of the second",
                    median_in_use (0.25, 0.5), median_in_use (0.75, 1), MORE_IN_QUARTER);
    }
}

static void
end_server (struct run *run, pid_t server)
{
    struct rusage usage;
    int status;

    close (control[1]);
    if (wait4 (server, &status, 0, &usage) != server || ! WIFEXITED (status) || WEXITSTATUS (status) != 0) {
        broken (HUNG, "the server's end: wait status %#x", (unsigned) status);
    }
    run->server_seconds = (double) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
        + (double) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void
make_directory (char *path, size_t size)
{
    const char *above = getenv ("TMPDIR");

    snprintf (path, size, "%s/soak.XXXXXX", above == NULL || *above == '\0' ? "/tmp" : above);
    if (mkdtemp (path) == NULL || setenv ("IPC_RUNDIR", path, 1) != 0) {
        give_up (path);
    }
}

/* Removes the run directory, which must be empty if the server ended normally. */
static void
remove_folder (const char *dir, bool is_well)
{
    char socket[PATH_MAX];

    if (rmdir (dir) == 0) {
        return;
    }
    if (is_well) {
        broken (LEFT_BEHIND, "%s: %s", dir, strerror (errno));
    }
    service_path (socket, SERVICE, 0, 0);
    unlink (socket);
    rmdir (dir);
}

/* Free blocks that the C library caches for each thread would count as in use. The C library reads this variable
 * when a program begins. */
static void
without_cache (char *argv[])
{
    char path[PATH_MAX];

    if (getenv ("GLIBC_TUNABLES") == NULL && setenv ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 1) == 0
        && realpath ("/proc/self/exe", path) != NULL) {
        execv (path, argv);
        give_up (path);
    }
}

static void
usage (void)
{
    fprintf (stderr, "usage: soak [-m minutes | -r rounds] [-c clients] [-s seed]\n");
    exit (2);
}

static void
read_options (struct run *run, int argc, char *argv[])
{
    int option;

    run->minutes = 1;
    run->clients = 200;
    run->seed = (uint64_t) time (NULL);
    while ((option = getopt (argc, argv, "m:r:c:s:")) != -1) {
        switch (option) {
        case 'm':
            run->minutes = strtod (optarg, NULL);
            break;
        case 'r':
            run->rounds = strtoull (optarg, NULL, 10);
            break;
        case 'c':
            run->clients = (int) strtol (optarg, NULL, 10);
            break;
        case 's':
            run->seed = strtoull (optarg, NULL, 10);
            break;
        default:
            usage ();
        }
    }
    if (optind != argc || run->clients < FEWEST_SEATS || (run->rounds == 0 && ! (run->minutes > 0))) {
        usage ();
    }
}

int
main (int argc, char *argv[])
{
    struct run run = {0};
    char dir[PATH_MAX];
    pid_t server;
    uint64_t begin;
    bool is_well;

    read_options (&run, argc, argv);
    without_cache (argv);
    printf ("soak: %d clients at a time, seed %llu\n", run.clients, (unsigned long long) run.seed);
    fflush (stdout);

    make_directory (dir, sizeof dir);
    shared_begin (run.clients);
    signal (SIGINT, interrupt);
    signal (SIGTERM, interrupt);
    signal (SIGPIPE, SIG_IGN);
    server = start_server ();
    AWAIT (GET (shared->server.measured) > 0);
    crowd_begin (run.clients, run.seed, leave);
    crowd_warm (server);
    measure (&run, 0);

    begin = now ();
    is_well = let_come_and_go (&run, server);
    run.seconds = (double) (now () - begin) / 1e9;
    run.sessions = crowd_sessions ();
    crowd_end ();
    if (is_well) {
        measure (&run, 1);
        end_server (&run, server);
        check_events ();
        check_resources (&run);
    }
    remove_folder (dir, is_well);
    return print_tables (&run) ? EXIT_SUCCESS : EXIT_FAILURE;
}
