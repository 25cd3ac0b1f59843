/*
 * What slow, late, greedy and stuck readers cost a server of one thread and its other clients. `make bench-slow` runs
 * this program; README.md describes the output.
 *
 * The server has all clients in one list. It answers each request with as many messages as the request asks for, in one
 * loop of ipc_write. Each client is a process; readers that misbehave use bare sockets.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#define _GNU_SOURCE

#include <errno.h>
#include <inttypes.h>
#include <ipc.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SERVICE "slow-readers"
#define SECOND 1000000000LL

enum {
    HEADER = 5,
    LIMIT_SECONDS = 300,
    SMALL = 64,
    BUSY = 20,
    STREAM_MESSAGE = 50000,
    STREAM_COUNT = 2000, /* 100 MB */
    STREAM_RATE = 3000000,
    LATE_ANSWER = 300000,
    LATE_NS = 6000000,
    GREEDY_STEP = 60000,
    GREEDY_PAUSE_NS = 900000000,
    CLOSED = 10000,
    CLOSED_QUEUE = 20000,
    STUCK = 50,
    STUCK_MESSAGE = 1000000,
    MOST_TRIPS = 4000000
};

/* A request; the payload of a small message. */
struct request {
    uint32_t count;
    uint32_t size;
    char rest[SMALL - 2 * sizeof (uint32_t)];
};

extern char **environ;

static char directory[] = "/tmp/slow-readers.XXXXXX";
static pid_t server;
static char payload[STUCK_MESSAGE];

/* Shared by all processes: what the server has counted, and the time that it took. */
static struct counters {
    long accepted;
    long refused;
    int64_t begin;
    int64_t end;
} *counters;

static void
fail (const char *what)
{
    fprintf (stderr, "slow_readers: %s: %s\n", what, strerror (errno));
    exit (1);
}

static void
check (const char *what, bool good)
{
    if (! good) {
        fail (what);
    }
}

static int64_t
now (void)
{
    struct timespec t;

    clock_gettime (CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void
sleep_until (int64_t time)
{
    struct timespec t = {.tv_sec = time / SECOND, .tv_nsec = time % SECOND};

    while (clock_nanosleep (CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

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

/* The server. */

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

static void
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

/* Runs a function in a child. */
static pid_t
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

static void
stop (pid_t child)
{
    kill (child, SIGKILL);
    waitpid (child, NULL, 0);
}

static void
start_server (void)
{
    char path[PATH_MAX];
    struct stat status;

    *counters = (struct counters) {0};
    server = start (serve);
    snprintf (path, sizeof path, "%s/" SERVICE "-0-0", directory);
    for (int64_t end = now () + 10 * SECOND; stat (path, &status) != 0;) {
        check ("the server does not start", now () < end);
        sleep_until (now () + SECOND / 1000);
    }
}

static void
remove_socket (void)
{
    char path[PATH_MAX];

    snprintf (path, sizeof path, "%s/" SERVICE "-0-0", directory);
    unlink (path);
}

static void
stop_server (void)
{
    stop (server);
    remove_socket ();
}

/* Clients with bare sockets. */

static int
connect_bare (void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    check ("socket", fd >= 0);
    snprintf (address.sun_path, sizeof address.sun_path, "%s/" SERVICE "-0-0", directory);
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
    char frame[HEADER + SMALL] = {MSG_TYPE_DATA};
    uint32_t length = SMALL;

    memcpy (frame + 1, &length, sizeof length);
    memcpy (frame + HEADER, &request, sizeof request);
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
        check ("an answer", read_all (fd, HEADER + LATE_ANSWER));
    }
}

static void
run_late (void)
{
    read_answers (true);
}

static void
run_on_time (void)
{
    read_answers (false);
}

/* Asks for more than it reads, and reads a step each 900 ms. */
static void
run_greedy (void)
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
static void
run_stream (void)
{
    int fd = connect_bare ();
    int64_t begin = now ();
    const int64_t whole = (int64_t) STREAM_COUNT * (HEADER + STREAM_MESSAGE), step = 30000;

    check ("ask", ask (fd, STREAM_COUNT, STREAM_MESSAGE, 0));
    for (int64_t done = 0; done < whole;) {
        int64_t some = whole - done < step ? whole - done : step;

        check ("the stream", read_all (fd, (size_t) some));
        done += some;
        sleep_until (begin + done * SECOND / STREAM_RATE);
    }
}

/* Clients that behave. */

static int
compare (const void *a, const void *b)
{
    int32_t x = *(const int32_t *) a, y = *(const int32_t *) b;

    return (x > y) - (x < y);
}

static void
connect_library (struct ipc_connection_info *connection)
{
    check ("ipc_connection", ipc_connection (environ, connection, SERVICE) == IPC_ERROR_NONE);
}

static int64_t
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
static void
run_busy (void)
{
    struct ipc_connection_info connection = {0};

    connect_library (&connection);
    for (;;) {
        round_trip (&connection);
        sleep_until (now () + SECOND / 1000);
    }
}

/* Round trips until `end`, or while `other` runs if it is not 0: the median in microseconds. Its exit status is checked. */
static double
median_trip (int64_t end, pid_t other)
{
    static int32_t trips[MOST_TRIPS];
    struct ipc_connection_info connection = {0};
    long count = 0;
    int status = 0;

    connect_library (&connection);
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

/* The scenarios. */

static void
measure_stream (int busy)
{
    pid_t children[BUSY + 1], reader;
    double before, with;
    int64_t begin;

    start_server ();
    start_all (children, busy, run_busy);
    before = median_trip (now () + 3 * SECOND, 0);
    *counters = (struct counters) {0};
    begin = now ();
    reader = start (run_stream);
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

/* Holds connections and reads nothing. */
static int held;

static void
run_stuck (void)
{
    for (int i = 0; i < held; i++) {
        connect_bare ();
    }
    for (;;) {
        pause ();
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

static void
close_all (void)
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

static void
exit_stuck (void)
{
    struct ipc_connection_infos clients = {0};

    serve_stuck (&clients, STUCK_MESSAGE, false);
    exit (0);
}

static void
measure_end (const char *what, int count, void (*run) (void))
{
    pid_t holder;
    int status;

    held = count;
    *counters = (struct counters) {0};
    server = start (run);
    holder = start (run_stuck);
    check ("waitpid", waitpid (server, &status, 0) == server);
    if (counters->end == 0) {
        counters->end = now ();
    }
    check ("the server has failed", status == 0);
    printf ("%-46s %6.2f s, queued %ld MB\n", what, (double) (counters->end - counters->begin) / SECOND,
            counters->accepted / 1000000);
    stop (holder);
    remove_socket ();
}

int
main (void)
{
    struct rlimit files;

    check ("getrlimit", getrlimit (RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    check ("setrlimit", setrlimit (RLIMIT_NOFILE, &files) == 0);
    check ("mkdtemp", mkdtemp (directory) != NULL);
    check ("setenv", setenv ("IPC_RUNDIR", directory, 1) == 0);
    counters = mmap (NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check ("mmap", counters != MAP_FAILED);
    setvbuf (stdout, NULL, _IOLBF, 0);
    printf ("A good client's median round trip, us     without     with  ratio\n");
    measure_stream (0);
    measure_stream (BUSY);
    measure_beside ("50 readers, 6 ms late", 50, run_on_time, run_late);
    measure_beside ("10 greedy readers, a step each 900 ms", 10, NULL, run_greedy);
    printf ("\nEnds\n");
    measure_end ("10,000 closes with queues", CLOSED, close_all);
    measure_end ("exit with 50 stuck readers and full queues", STUCK, exit_stuck);
    check ("rmdir", rmdir (directory) == 0);
    return 0;
}
