/*
 * Processes, messages and the directory of the sockets: see bench.h.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

void
fail (const char *format, ...)
{
    va_list arguments;

    fprintf (stderr, "bench: FAILED: ");
    va_start (arguments, format);
    vfprintf (stderr, format, arguments);
    va_end (arguments);
    fputc ('\n', stderr);
    exit (EXIT_FAILURE);
}

void *
checked_alloc (size_t size)
{
    void *block = calloc (1, size > 0 ? size : 1);

    if (block == NULL) {
        fail ("no memory");
    }
    return block;
}

void *
checked_buffer (size_t size)
{
    void *block = checked_alloc (size);

    memset (block, 0x5a, size);
    return block;
}

uint64_t
now (void)
{
    struct timespec time;

    clock_gettime (CLOCK_MONOTONIC, &time);
    return (uint64_t) time.tv_sec * 1000000000u + (uint64_t) time.tv_nsec;
}

/* Messages and their numbers. */

void
put_number (char *payload, size_t size, uint64_t number)
{
    if (size >= sizeof number) {
        memcpy (payload, &number, sizeof number);
        memcpy (payload + size - sizeof number, &number, sizeof number);
    }
}

static uint64_t
number_of (const char *payload, size_t size)
{
    uint64_t first = 0;
    uint64_t last = 0;

    if (size >= sizeof first) {
        memcpy (&first, payload, sizeof first);
        memcpy (&last, payload + size - sizeof last, sizeof last);
        if (first != last) {
            fail ("start and end of a message are not of the same one");
        }
    }
    return first;
}

void
check_number (const char *payload, size_t size, uint64_t number)
{
    if (size >= sizeof number && number_of (payload, size) != number) {
        fail ("message %llu has come instead of %llu",
              (unsigned long long) (number_of (payload, size) & ~ANSWER_ME),
              (unsigned long long) (number & ~ANSWER_ME));
    }
}

bool
wants_answer (struct inbox *inbox, const char *payload, size_t size)
{
    uint64_t number;

    if (size != inbox->setup->size) {
        fail ("%zu bytes have come instead of %zu", size, inbox->setup->size);
    }
    number = number_of (payload, size);
    if (inbox->setup->manner != ANSWER_MARKED) {
        return true;
    }
    check_number (payload, size, ++inbox->last | (number & ANSWER_ME));
    return (number & ANSWER_ME) != 0;
}

bool
is_question (enum manner manner, const char *payload, size_t size)
{
    return manner == ANSWER_ALL || (number_of (payload, size) & ANSWER_ME) != 0;
}

void
ping (struct client *client, int connection)
{
    const struct transport *transport = client->transport;
    void *peer = client->connections[connection];
    size_t size = client->setup->size;
    uint64_t number = ++client->numbers[connection];

    put_number (transport->payload (peer), size, number);
    transport->send (peer);
    check_number (transport->receive (peer), size, number);
}

/* The directory of the sockets. */

static char dir[64];
static pid_t folder_owner;

static void
remove_folder (void)
{
    DIR *directory;
    struct dirent *entry;

    if (getpid () != folder_owner || (directory = opendir (dir)) == NULL) {
        return;
    }
    while ((entry = readdir (directory)) != NULL) {
        unlinkat (dirfd (directory), entry->d_name, 0);
    }
    closedir (directory);
    rmdir (dir);
}

void
make_directory (void)
{
    const char *parent = getenv ("TMPDIR");

    /* The paths of sockets must be short. */
    if (parent == NULL || strlen (parent) > sizeof dir - sizeof "/libipc-bench-XXXXXX") {
        parent = "/tmp";
    }
    snprintf (dir, sizeof dir, "%s/libipc-bench-XXXXXX", parent);
    if (mkdtemp (dir) == NULL || setenv ("IPC_RUNDIR", dir, 1) != 0) {
        fail ("%s: %s", dir, strerror (errno));
    }
    folder_owner = getpid ();
    atexit (remove_folder);
}

void
path_in_directory (char *path, size_t size, const char *name)
{
    if (snprintf (path, size, "%s/%s", dir, name) >= (int) size) {
        fail ("the path of %s is too long", name);
    }
}

/* Processes. */

int
cores_allowed (int cores[2])
{
    cpu_set_t set;
    int count = 0;

    if (sched_getaffinity (0, sizeof set, &set) != 0) {
        fail ("sched_getaffinity: %s", strerror (errno));
    }
    for (int core = 0; core < CPU_SETSIZE && count < 2; core++) {
        if (CPU_ISSET (core, &set)) {
            cores[count++] = core;
        }
    }
    return count;
}

static void
pin (int core)
{
    int cores[2];
    cpu_set_t set;

    if (core >= cores_allowed (cores)) {
        fail ("there is no core %d", core);
    }
    CPU_ZERO (&set);
    CPU_SET (cores[core], &set);
    if (sched_setaffinity (0, sizeof set, &set) != 0) {
        fail ("sched_setaffinity: %s", strerror (errno));
    }
}

/* Allocates a block of less than a page at the begin of the heap, of another size in each process. So buffers that are
 * allocated later lie elsewhere in their pages: how long the kernel takes to copy between two buffers depends on that,
 * up to a third for 64 KiB. A process of a program would have one of these places in each run, by chance. The sizes are
 * the same in each run, and spread over the page: 2531 is 4096 by the golden ratio. */
static void
shift_heap (int number)
{
    static void *shift;

    shift = checked_alloc ((size_t) (number * 2531 % 4096) + 1);
    memset (shift, 1, 1);
}

pid_t
start (void (*body) (void *), void *argument, int core)
{
    static int started;
    pid_t parent = getpid ();
    pid_t child;

    started++;
    fflush (stdout);
    child = fork ();
    if (child < 0) {
        fail ("fork: %s", strerror (errno));
    }
    if (child == 0) {
        prctl (PR_SET_PDEATHSIG, SIGKILL);
        if (getppid () != parent) {
            _exit (EXIT_FAILURE);
        }
        pin (core);
        shift_heap (started);
        body (argument);
        _exit (EXIT_SUCCESS);
    }
    return child;
}

void
stop (pid_t pid)
{
    struct timespec pause = {.tv_nsec = 1000000};

    if (pid <= 0) {
        return;
    }
    kill (pid, SIGTERM);
    for (int tries = 0; tries < 2000; tries++) {
        if (waitpid (pid, NULL, WNOHANG) != 0) {
            return;
        }
        nanosleep (&pause, NULL);
    }
    kill (pid, SIGKILL);
    waitpid (pid, NULL, 0);
}

static int serving_pipe[2] = {-1, -1};

int
expect_serving (void)
{
    if (pipe (serving_pipe) != 0) {
        fail ("pipe: %s", strerror (errno));
    }
    return serving_pipe[0];
}

void
serving (void)
{
    if (write (serving_pipe[1], "", 1) != 1) {
        fail ("the parent does not read");
    }
}

bool
can_read (int fd)
{
    struct pollfd asked = {.fd = fd, .events = POLLIN};

    return poll (&asked, 1, LIMIT_SECONDS * 1500) == 1;
}

bool
await_serving (int pipe)
{
    char byte;
    bool came;

    close (serving_pipe[1]);
    came = can_read (pipe) && read (pipe, &byte, 1) == 1;
    close (pipe);
    return came;
}
