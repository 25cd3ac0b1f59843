#include "shared.h"

#include <sys/mman.h>
#include <unistd.h>

/* Further lines would not help. */
#define MOST_COMPLAINTS 30

const char *const behaviour_names[BEHAVIOURS] = {
    [UNKNOWN] = "unknown",   [WARMING] = "warming", [POLITE] = "polite",
    [FLOODING] = "flooding", [THREADS] = "threads", [DESCRIPTORS] = "descriptors",
    [SLOW] = "slow",         [STUCK] = "stuck",     [HOSTILE] = "hostile",
    [KILLED] = "killed",     [DISMISSED] = "dismissed",
};

const char *const promise_names[PROMISES] = {
    [LOST] = "messages lost",
    [DOUBLED] = "messages doubled or out of order",
    [CORRUPT] = "messages corrupt",
    [TURNS] = "CONNECTION, ERROR, DISCONNECTION not in their turn",
    [CALLS] = "calls with a wrong result",
    [HUNG] = "waited without result, or ended wrongly",
    [MEMORY] = "memory not given back",
    [OPEN] = "descriptors left open",
    [LEFT_BEHIND] = "left in the list or the run directory",
};

struct shared *shared;
char process_name[64] = "driver";

void
shared_begin (int seats)
{
    size_t size = sizeof *shared + (size_t) seats * sizeof shared->seats[0];
    void *memory = mmap (NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        give_up ("mmap");
    }
    shared = memory;
}

void
count (struct traffic *traffic, uint32_t length)
{
    ADD (traffic->messages, 1);
    ADD (traffic->bytes, length);
}

void
broken (enum promise promise, const char *format, ...)
{
    uint64_t complaints = 0;
    char text[300];
    int errno_before = errno;
    va_list arguments;

    ADD (shared->broken[promise], 1);
    for (int i = 0; i < PROMISES; i++) {
        complaints += GET (shared->broken[i]);
    }
    if (complaints <= MOST_COMPLAINTS) {
        va_start (arguments, format);
        vsnprintf (text, sizeof text, format, arguments);
        va_end (arguments);
        fprintf (stderr, "BROKEN (%s): %s: %s\n", promise_names[promise], process_name, text);
    }
    errno = errno_before;
}

bool
good (const char *call, enum ipc_errors code)
{
    if (code != IPC_ERROR_NONE) {
        broken (CALLS, "%s: %s (%s)", call, ipc_errors_get (code), strerror (errno));
    }
    return code == IPC_ERROR_NONE;
}

void
give_up (const char *what)
{
    fprintf (stderr, "%s: %s: %s\n", process_name, what, strerror (errno));
    _exit (EXIT_FAILURE);
}

void
keep_largest (uint64_t *place, uint64_t number)
{
    uint64_t before = GET (*place);

    while (number > before
           && ! __atomic_compare_exchange_n (place, &before, number, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

uint64_t
now (void)
{
    struct timespec time;

    clock_gettime (CLOCK_MONOTONIC, &time);
    return (uint64_t) time.tv_sec * 1000000000 + (uint64_t) time.tv_nsec;
}

void
pause_ms (unsigned milliseconds)
{
    struct timespec time = {milliseconds / 1000, (long) (milliseconds % 1000) * 1000000};

    while (nanosleep (&time, &time) != 0 && errno == EINTR) {
    }
}
