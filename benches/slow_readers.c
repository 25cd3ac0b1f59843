/*
 * What slow, late, greedy and stuck readers cost a server of one thread and its other clients. `make bench-slow` runs
 * this program; README.md describes the output.
 *
 * The server has all clients in one list. It answers each request with as many messages as the request asks for, in one
 * loop of ipc_write. Each client is a process; readers that misbehave use bare sockets (slow_roles.c).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "slow.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static pid_t server;

/* The highest resident memory of the server so far, in MB. */
static long
server_memory (void)
{
    char path[64], line[256];
    long kilobytes = 0;
    FILE *file;

    snprintf (path, sizeof path, "/proc/%d/status", (int) server);
    file = fopen (path, "r");
    check ("/proc", file != NULL);
    while (fgets (line, sizeof line, file) != NULL) {
        sscanf (line, "VmHWM: %ld", &kilobytes);
    }
    fclose (file);
    return kilobytes / 1000;
}

static void
start_server (void)
{
    struct stat status;

    *counters = (struct counters) {0};
    server = start (serve);
    for (int64_t end = now () + 10 * SECOND; stat (socket_path, &status) != 0;) {
        check ("the server does not start", now () < end);
        sleep_until (now () + SECOND / 1000);
    }
}

static void
stop_server (void)
{
    stop (server);
    unlink (socket_path);
}

static int
compare (const void *a, const void *b)
{
    int32_t x = *(const int32_t *) a, y = *(const int32_t *) b;

    return (x > y) - (x < y);
}

/* Round trips until `end`, or while `other` runs if it is not 0: the median in microseconds. Its exit status is checked. */
static double
median_trip (int64_t end, pid_t other)
{
    static int32_t trips[MOST_TRIPS];
    struct ipc_connection_info connection = {0};
    long count = 0;
    int status = 0;

    check ("ipc_connection", ipc_connection (environ, &connection, SERVICE) == IPC_ERROR_NONE);
    while (count < MOST_TRIPS && (other != 0 ? waitpid (other, &status, WNOHANG) == 0 : now () < end)) {
        trips[count++] = (int32_t) round_trip (&connection);
        sleep_until (now () + SECOND / 10000);
    }
    check ("a reader has failed", status == 0);
    ipc_close (&connection);
    qsort (trips, (size_t) count, sizeof *trips, compare);
    return count == 0 ? 0 : trips[count / 2] / 1000.0;
}

static void
start_all (pid_t *children, int count, void (*run) (void))
{
    for (int i = 0; i < count; i++) {
        children[i] = start (run);
    }
}

static void
stop_all (pid_t *children, int count)
{
    for (int i = 0; i < count; i++) {
        stop (children[i]);
    }
}

static void
measure_stream (int busy)
{
    pid_t children[BUSY + 1], reader;
    double before, with;
    int64_t begin;

    start_server ();
    start_all (children, busy, ask_all_the_time);
    before = median_trip (now () + 3 * SECOND, 0);
    *counters = (struct counters) {0};
    begin = now ();
    reader = start (read_stream);
    with = median_trip (0, reader);
    printf ("%d MB at 3 MB/s, %2d busy clients   %8.1f %8.1f %6.2f   %5.1f s, refused %ld, lost 0, server %ld MB\n",
            STREAM_COUNT * (STREAM_MESSAGE / 1000) / 1000, busy, before, with, with / before,
            (double) (now () - begin) / SECOND, counters->refused, server_memory ());
    stop_all (children, busy);
    stop_server ();
}

static void
measure_beside (const char *what, int count, void (*usual) (void), void (*run) (void))
{
    pid_t children[50];
    double before, with;

    start_server ();
    if (usual != NULL) {
        start_all (children, count, usual);
    }
    before = median_trip (now () + 3 * SECOND, 0);
    if (usual != NULL) {
        stop_all (children, count);
    }
    start_all (children, count, run);
    sleep_until (now () + SECOND);
    *counters = (struct counters) {0};
    with = median_trip (now () + 10 * SECOND, 0);
    printf ("%-34s  %8.1f %8.1f %6.2f   server %ld MB\n", what, before, with, with / before, server_memory ());
    stop_all (children, count);
    stop_server ();
}

static void
measure_end (const char *what, int count, void (*run) (void))
{
    pid_t holder;
    int status;

    held = count;
    *counters = (struct counters) {0};
    server = start (run);
    holder = start (read_nothing);
    check ("waitpid", waitpid (server, &status, 0) == server);
    if (counters->end == 0) {
        counters->end = now ();
    }
    check ("the server has failed", status == 0);
    printf ("%-46s %6.2f s, queued %ld MB\n", what, (double) (counters->end - counters->begin) / SECOND,
            counters->accepted / 1000000);
    stop (holder);
    unlink (socket_path);
}

int
main (void)
{
    char directory[] = "/tmp/slow-readers.XXXXXX";
    struct rlimit files;

    check ("getrlimit", getrlimit (RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    check ("setrlimit", setrlimit (RLIMIT_NOFILE, &files) == 0);
    check ("mkdtemp", mkdtemp (directory) != NULL);
    snprintf (socket_path, sizeof socket_path, "%s/" SERVICE "-0-0", directory);
    check ("setenv", setenv ("IPC_RUNDIR", directory, 1) == 0);
    counters = mmap (NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check ("mmap", counters != MAP_FAILED);
    setvbuf (stdout, NULL, _IOLBF, 0);
    printf ("A good client's median round trip, us     without     with  ratio\n");
    measure_stream (0);
    measure_stream (BUSY);
    measure_beside ("50 readers, 6 ms late", 50, read_on_time, read_late);
    measure_beside ("10 greedy readers, a step each 900 ms", 10, NULL, read_greedily);
    printf ("\nEnds\n");
    measure_end ("10,000 closes with queues", CLOSED, serve_and_close_all);
    measure_end ("exit with 50 stuck readers and full queues", STUCK, serve_and_exit);
    check ("rmdir", rmdir (directory) == 0);
    return 0;
}
