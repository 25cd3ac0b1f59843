/*
 * What a run has come to, as tables in Markdown.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef TABLE_H
#define TABLE_H

#include "shared.h"

struct run {
    /* What was asked for; without rounds the minutes count. */
    int clients;
    double minutes;
    uint64_t rounds, seed;
    /* What it has come to. */
    double seconds;
    double server_seconds; /* of the processor, that the server took */
    uint64_t sessions;
    /* Of the server when nobody was there: after the first wave, and at the end. */
    uint64_t heap[2], resident[2], open[2];
};

/* A line while it runs. */
void print_progress (double minutes);

/* Whether every promise was kept. */
bool print_tables (const struct run *run);

#endif
