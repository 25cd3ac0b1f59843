/*
 * What the server's process looks like from outside, once a second.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SAMPLES_H
#define SAMPLES_H

#include "shared.h"

struct sample {
    uint64_t resident; /* bytes of memory */
    uint64_t heap;     /* bytes of it in use */
    uint64_t queued;   /* bytes of these that wait for clients to read */
    uint64_t open;     /* descriptors */
};

/* Takes one, where there is something to look at. */
void sample_take (pid_t server);

size_t sample_count (void);
/* The one at this part of the run: 0 the first, 1 the last. */
struct sample sample_at (double part);

uint64_t most_resident (void);
uint64_t most_heap (void);
uint64_t most_queued (void);
uint64_t most_open (void);

/* Half of the samples between these parts of the run are below it. */
uint64_t median_resident (double from, double to);
uint64_t median_heap (double from, double to);
/* The same of what is in use and not queued; without a figure for what is in use, of what is resident. */
uint64_t median_in_use (double from, double to);

#endif
