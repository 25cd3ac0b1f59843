/*
 * Shared by the two parts of slow_readers: the processes (slow_roles.c), and what is measured (slow_readers.c).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SLOW_H
#define SLOW_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <ipc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define SERVICE "slow-readers"
#define SECOND 1000000000LL

enum {
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

extern char **environ;

/* The path of the service's socket. */
extern char socket_path[64];

/* Shared by all processes: what the server has counted, and the time that it took. */
struct counters {
    long accepted;
    long refused;
    int64_t begin;
    int64_t end;
};
extern struct counters *counters;

/* How many clients hold a connection and read nothing. */
extern int held;

/* Unless it is good: prints what has failed, and errno, and exits. */
void check (const char *what, bool good);

/* The time in nanoseconds, of a monotonic clock. */
int64_t now (void);
void sleep_until (int64_t time);

/* Runs a role in a child, and ends it. */
pid_t start (void (*role) (void));
void stop (pid_t child);

/* One round trip of a client that behaves: its time. */
int64_t round_trip (struct ipc_connection_info *connection);

/* The roles: servers. */
void serve (void);
void serve_and_close_all (void);
void serve_and_exit (void);

/* The roles: clients. */
void ask_all_the_time (void);
void read_late (void);
void read_on_time (void);
void read_greedily (void);
void read_stream (void);
void read_nothing (void);

#endif
