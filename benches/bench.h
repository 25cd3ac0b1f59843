/*
 * Shared by the benchmarks.
 *
 * A *transport* is a way to send messages: bare sockets, libipc, another library. A *work* is a workload with messages,
 * written once for all transports. A *pair* is a server process and a client process that run one workload over one
 * transport. All pairs of a measurement run at the same time and take turns in short slices of time, so that other load
 * of the machine affects them all alike; the ratio is computed within each round of slices, and the figure is the
 * median of these ratios.
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

/* How a server handles a message. */
enum manner {
    ANSWER_ALL,    /* sends it back */
    ANSWER_MARKED, /* checks that no message is missing, and sends back those with the mark */
    ANSWER_LAST    /* sends it back when its sender is the only client that is left */
};

/* The mark: a bit of a message's number. */
#define ANSWER_ME (UINT64_C (1) << 63)

/* The parameters that server and client of a pair share. */
struct setup {
    char name[48];      /* of the service; unique for each pair */
    size_t size;        /* of each payload */
    enum manner manner;
};

struct transport {
    const char *name;
    /* If a transport fails, the others go on. */
    bool is_peer;
    /* The largest payload of which a message takes less than a slice; 0: any. */
    size_t largest;
    /* Runs the server, in a process of its own; calls serving () when clients may connect. Does not return. */
    void (*serve) (const struct setup *setup);
    void *(*connect) (const struct setup *setup);
    /* The buffer for the payload of the next message: setup->size bytes. */
    char *(*payload) (void *connection);
    void (*send) (void *connection);
    /* The payload of the next message, setup->size bytes; it is valid until the next call. */
    const char *(*receive) (void *connection);
    void (*disconnect) (void *connection);
};

/* Bare sockets: with a server of one client that waits in recv, and with a server of many clients that uses epoll. */
extern const struct transport bare, bare_epoll, bare_epoll_apart;
extern const struct transport libipc, libipc_queue;
/* The system calls that libipc's promises need, by hand. */
extern const struct transport full;
/* Defined if the library was found. nng has one protocol for one client and one for many. */
extern const struct transport zeromq, nng_pair, nng_reqrep, libqb, sd_bus_peer, sd_varlink_peer;

/* All transports for workloads with one client, and with many; bare is the first, NULL the last. */
extern const struct transport *const for_one[], *const for_batches[], *const for_many[];

/* The client's side of a pair. */
struct client {
    const struct transport *transport;
    const struct setup *setup;
    int count;          /* of connections */
    void **connections;
    uint64_t *numbers;  /* of the last message that was sent over each connection */
};

struct work {
    const char *name;
    /* Whether the figure is operations per second; otherwise it is microseconds per operation. */
    bool is_rate;
    /* Whether a pair keeps its processes for all rounds, since they take long to start. */
    bool keeps_running;
    /* Works until `end`, at least once; returns how many operations were done. */
    uint64_t (*slice) (struct client *client, uint64_t end);
};

struct pair {
    const struct transport *transport;
    struct setup setup;
    int connections; /* the number of connections of its client */
    int idle;        /* connections that another process keeps open at the same time */
    int base;        /* the pair by whose figures its figures are divided */
    char variant[32];
};

/* How long and how often to measure. */
extern int rounds;
extern int slice_ms;

/* Measures on one core and on two, and prints a line for each pair, for run.sh to read. */
void measure (const struct work *work, struct pair *pairs, int count);

/* Prints such a line. A ratio of 0 means that there is none. */
struct figure {
    double value, ratio, low, high;
    int rounds;
};
void print_figure (const char *work, const char *variant, int cores, const char *transport, const char *unit,
                   struct figure figure);

/* Starts a process that ends with its parent and runs on one of the cores. Returns its process id. */
pid_t start (void (*body) (void *), void *argument, int core);
/* Ends the process with SIGTERM, or with SIGKILL if it does not end. */
void stop (pid_t pid);
/* The children that are started next write to the returned pipe when they call serving (). */
int expect_serving (void);
/* Waits for serving (); returns whether it was called. */
bool await_serving (int pipe);
void serving (void);

/* Returns whether there is something to read before the timeout. */
bool can_read (int fd);

/* The cores that this process may use, two at most, and their number. */
int cores_allowed (int cores[2]);

/* The time in nanoseconds, of a monotonic clock. */
uint64_t now (void);

/* A payload contains its message's number, if it is large enough: at its begin, and once more at its end. */
void put_number (char *payload, size_t size, uint64_t number);
void check_number (const char *payload, size_t size, uint64_t number);
/* One message in each direction, checked. */
void ping (struct client *client, int connection);

/* The state with which a server checks its messages; returns whether the message must be answered now. */
struct inbox {
    const struct setup *setup;
    uint64_t last;
};
bool wants_answer (struct inbox *inbox, const char *payload, size_t size);

/* For clients of libraries that have to say whether a message is answered: with this manner of the server. */
bool is_question (enum manner manner, const char *payload, size_t size);

/* The directory of the sockets, which is removed when this process exits; and a path in it. */
void make_directory (void);
void path_in_directory (char *path, size_t size, const char *name);

/* Prints the error, and ends the process. */
#if defined(__GNUC__)
__attribute__ ((noreturn, format (printf, 1, 2)))
#endif
void fail (const char *format, ...);

/* A buffer of zeros whose pages are allocated: pages that were never written share one zero page, which is read as
 * fast as if it were cached. A NULL ends the process. */
void *checked_alloc (size_t size);
void *checked_buffer (size_t size);

/* Workloads. Each has an entry in main.c. */
void round_trip (void);
void stream (void);
void many_clients (void);
void idle_connections (void);
void connect_and_close (void);
void memory (void);
/* Not measured but counted: run.sh runs it under valgrind. */
void instructions (const char *transport, long count);

/* The same round trips by "full", in one process. */
void trips_of_full (size_t size, long count);

#endif
