/*
 * What the benchmarks share.
 *
 * A *transport* is a way to send messages: bare sockets, libipc, a peer. A *work* is something to do with
 * messages, written once for all transports. A *pair* is a server process and a client process that do one
 * work over one transport. All pairs of a measurement are alive at the same time and take turns in short
 * slices of time, so that whatever the machine does meanwhile meets them all alike; the ratio is formed
 * within each round of slices, and the figure is the median of these ratios.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef BENCH_H
#define BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Nothing here takes long: a process that gets no answer for this time is ended by its alarm. */
#define LIMIT_SECONDS 20

/* What a server does with a message. */
enum manner {
    ANSWER_ALL,    /* sends it back */
    ANSWER_MARKED, /* checks that none is missing, and sends back those with the mark */
    ANSWER_LAST    /* sends it back once its sender is the only client that is left */
};

/* The mark: a bit of a message's number. */
#define ANSWER_ME (UINT64_C (1) << 63)

/* What server and client of a pair agree on. */
struct setup {
    char name[48];      /* of the service; no other pair has it */
    size_t size;        /* of each payload */
    enum manner manner;
};

struct transport {
    const char *name;
    /* Where it fails, the others go on. */
    bool is_peer;
    /* Serves, in a process of its own; calls serving () once clients may come. Does not return. */
    void (*serve) (const struct setup *setup);
    void *(*connect) (const struct setup *setup);
    /* Where the payload of the next message is to be written: setup->size bytes. */
    char *(*payload) (void *connection);
    void (*send) (void *connection);
    /* The payload of the next message, setup->size bytes; it stays until the next call. */
    const char *(*receive) (void *connection);
    void (*disconnect) (void *connection);
};

/* Sockets and nothing else: with a server of one client that waits in recv, and with one of many in epoll. */
extern const struct transport bare, bare_epoll, bare_epoll_apart;
extern const struct transport libipc, libipc_queue;
/* What libipc's promises ask for, by hand. */
extern const struct transport full;
/* There where the peer was found. nng has one protocol for one client and one for many. */
extern const struct transport zeromq, nng_pair, nng_reqrep, libqb, sd_bus_peer;

/* All transports for works with one client, and with many; bare comes first. NULL is the last. */
extern const struct transport *const for_one[], *const for_batches[], *const for_many[];

/* The client's side of a pair. */
struct client {
    const struct transport *transport;
    const struct setup *setup;
    int count;          /* of connections */
    void **connections;
    uint64_t *numbers;  /* of the message that was sent last over each */
};

struct work {
    const char *name;
    /* Whether the figure is operations per second, else microseconds per operation. */
    bool is_rate;
    /* Works until `end`, at least once; how many operations were done. */
    uint64_t (*slice) (struct client *client, uint64_t end);
};

struct pair {
    const struct transport *transport;
    struct setup setup;
    int connections; /* that its client has open */
    int idle;        /* connections that another process has open beside */
    int base;        /* the pair that its figures are divided by */
    char variant[32];
};

/* How much to measure. */
extern int rounds;
extern int slice_ms;

/* Measures on one core and on two, and prints a line for each pair, for run.sh to read. */
void measure (const struct work *work, struct pair *pairs, int count);

/* Such a line. A ratio of 0 is none. */
struct figure {
    double value, ratio, low, high;
    int rounds;
};
void print_figure (const char *work, const char *variant, int cores, const char *who, const char *unit,
                   struct figure figure);

/* Starts a process that ends with its parent and runs on one of the cores. Returns its number. */
pid_t start (void (*body) (void *), void *argument, int core);
/* Ends it, if not by SIGTERM then by SIGKILL. */
void stop (pid_t pid);
/* Makes the calls of serving () in children that are started next go to the pipe that is returned. */
int expect_serving (void);
/* Waits for serving (); whether it came. */
bool await_serving (int pipe);
void serving (void);

/* The time in nanoseconds, of a clock that only goes forward. */
uint64_t now (void);

/* A payload carries its message's number, where it has room: at its start, and once more at its end. */
void put_number (char *payload, size_t size, uint64_t number);
void check_number (const char *payload, size_t size, uint64_t number);
/* One message there and back, checked. */
void ping (struct client *client, int connection);

/* What a server remembers to check what comes: whether the message is to be answered now. */
struct inbox {
    const struct setup *setup;
    uint64_t last;
};
bool wants_answer (struct inbox *inbox, const char *payload, size_t size);

/* The directory of the sockets, which is removed when this process exits; and a path in it. */
void make_folder (void);
void path_in_folder (char *path, size_t size, const char *name);

/* Says what went wrong, and ends the process. */
#if defined(__GNUC__)
__attribute__ ((noreturn, format (printf, 1, 2)))
#endif
void fail (const char *format, ...);

/* Zeros; and a buffer whose memory is there: of what was never written to the kernel has one page for all, which is read as
 * if it lay in the cache. NULL ends the process. */
void *checked_alloc (size_t size);
void *checked_buffer (size_t size);

/* Works. Each has an entry in main.c. */
void round_trip (void);
void stream (void);
void many_clients (void);
void idle_connections (void);
void connect_and_close (void);
void memory (void);
/* Not measured but counted: run.sh runs it in valgrind. */
void instructions (const char *who, long count);

#endif
