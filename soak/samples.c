#include "samples.h"

#include <dirent.h>
#include <unistd.h>

static struct sample *samples;
static size_t number, room;

static bool
look (pid_t server, struct sample *sample)
{
    char path[64];
    unsigned long pages;
    FILE *file;
    DIR *dir;
    bool found;

    snprintf (path, sizeof path, "/proc/%d/statm", (int) server);
    file = fopen (path, "r");
    if (file == NULL) {
        return false;
    }
    found = fscanf (file, "%*u %lu", &pages) == 1;
    fclose (file);
    snprintf (path, sizeof path, "/proc/%d/fd", (int) server);
    dir = opendir (path);
    if (! found || dir == NULL) {
        return false;
    }
    sample->resident = pages * (uint64_t) sysconf (_SC_PAGESIZE);
    sample->heap = GET (shared->server.heap);
    sample->queued = GET (shared->server.queued);
    sample->open = 0;
    while (readdir (dir) != NULL) {
        sample->open++;
    }
    closedir (dir);
    sample->open -= sample->open < 2 ? sample->open : 2; /* "." and ".." */
    return true;
}

void
sample_take (pid_t server)
{
    struct sample sample;

    if (! look (server, &sample)) {
        return;
    }
    if (number == room) {
        room = 2 * room + 1024;
        samples = realloc (samples, room * sizeof samples[0]);
        if (samples == NULL) {
            give_up ("memory");
        }
    }
    samples[number++] = sample;
}

size_t
sample_count (void)
{
    return number;
}

struct sample
sample_at (double part)
{
    static const struct sample none;

    return number == 0 ? none : samples[(size_t) (part * (double) (number - 1))];
}

static uint64_t
resident_of (const struct sample *sample)
{
    return sample->resident;
}

static uint64_t
heap_of (const struct sample *sample)
{
    return sample->heap;
}

static uint64_t
queued_of (const struct sample *sample)
{
    return sample->queued;
}

static uint64_t
in_use (const struct sample *sample)
{
    uint64_t all = sample->heap > 0 ? sample->heap : sample->resident;

    return all - (sample->queued < all ? sample->queued : all);
}

static uint64_t
open_of (const struct sample *sample)
{
    return sample->open;
}

static uint64_t
most (uint64_t (*figure) (const struct sample *))
{
    uint64_t most = 0;

    for (size_t i = 0; i < number; i++) {
        uint64_t one = figure (&samples[i]);
        most = one > most ? one : most;
    }
    return most;
}

static int
compare (const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *) left, b = *(const uint64_t *) right;

    return a < b ? -1 : a > b;
}

static uint64_t
median (uint64_t (*figure) (const struct sample *), double from, double to)
{
    size_t begin = (size_t) (from * (double) number), end = (size_t) (to * (double) number);
    size_t count = end - begin;
    uint64_t *sorted, median;

    if (count == 0) {
        return 0;
    }
    sorted = malloc (count * sizeof sorted[0]);
    if (sorted == NULL) {
        give_up ("memory");
    }
    for (size_t i = 0; i < count; i++) {
        sorted[i] = figure (&samples[begin + i]);
    }
    qsort (sorted, count, sizeof sorted[0], compare);
    median = sorted[count / 2];
    free (sorted);
    return median;
}

uint64_t
most_resident (void)
{
    return most (resident_of);
}

uint64_t
most_heap (void)
{
    return most (heap_of);
}

uint64_t
most_queued (void)
{
    return most (queued_of);
}

uint64_t
most_open (void)
{
    return most (open_of);
}

uint64_t
median_resident (double from, double to)
{
    return median (resident_of, from, to);
}

uint64_t
median_heap (double from, double to)
{
    return median (heap_of, from, to);
}

uint64_t
median_in_use (double from, double to)
{
    return median (in_use, from, to);
}
