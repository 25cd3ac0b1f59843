/*
 * The results of a run, as tables in Markdown.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef TABLE_H
#define TABLE_H

#include "shared.h"

struct run {
    /* The options; if there are no rounds the minutes count. */
    int clients;
    double minutes;
    uint64_t rounds, seed;
    /* The results. */
    double seconds;
    double server_seconds; /* processor time of the server */
    uint64_t sessions;
    /* Measurements of the server without clients: after the first wave, and at the end. */
    uint64_t heap[2], resident[2], open[2];
};

/* Prints a line of progress. */
void print_progress (double minutes);

/* Prints the tables; returns whether every promise was kept. */
bool print_tables (const struct run *run);

#endif
