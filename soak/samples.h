/*
 * The memory and the descriptors of the server's process, measured from outside, once a second.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SAMPLES_H
#define SAMPLES_H

#include "shared.h"

struct sample {
    uint64_t resident; /* bytes of memory */
    uint64_t heap;     /* bytes of it in use */
    uint64_t queued;   /* bytes of the heap that are queued for clients */
    uint64_t open;     /* descriptors */
};

/* Takes a sample, if the process can be measured. */
void sample_take (pid_t server);

size_t sample_count (void);
/* The sample at this part of the run: 0 is the first, 1 the last. */
struct sample sample_at (double part);

uint64_t most_resident (void);
uint64_t most_heap (void);
uint64_t most_queued (void);
uint64_t most_open (void);

/* The median of the samples between these parts of the run. */
uint64_t median_resident (double from, double to);
uint64_t median_heap (double from, double to);
/* The median of the heap in use that is not queued; without a figure for the heap, of the resident memory. */
uint64_t median_in_use (double from, double to);

#endif
