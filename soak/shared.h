/*
 * The memory that all processes of a run share: one server, its clients, and the driver that starts them. The counters
 * only grow, and the driver prints a table of them.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SHARED_H
#define SHARED_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <ipc_ext.h>
#include <stdbool.h>

#define SERVICE "soak"

/* A process that waits longer than this for anything counts as hung. */
#define LIMIT_SECONDS 60

/* The server's timer. */
#define TICK_MILLISECONDS 100

/* The behaviour of a client; README.md describes each. */
enum behaviour {
    UNKNOWN, /* it has not sent HELLO yet */
    WARMING, /* takes part in the first wave, before anything is measured */
    POLITE,
    FLOODING,
    THREADS,
    DESCRIPTORS,
    SLOW,
    STUCK,
    HOSTILE,
    KILLED,
    DISMISSED,
    BEHAVIOURS
};

extern const char *const behaviour_names[BEHAVIOURS];

/* The promises that a run can find broken. */
enum promise {
    LOST,        /* a message did not arrive */
    DOUBLED,     /* a message arrived twice, or late */
    CORRUPT,     /* a message arrived with other bytes */
    TURNS,       /* CONNECTION, ERROR, DISCONNECTION in a wrong order */
    CALLS,       /* a call failed without a reason, or succeeded although it had to fail */
    HUNG,        /* a process waited without result, or ended in a wrong way */
    MEMORY,      /* more memory is in use than before */
    OPEN,        /* descriptors are open that are not needed */
    LEFT_BEHIND, /* an entry is left in the list, or a file in the run directory */
    PROMISES
};

extern const char *const promise_names[PROMISES];

struct traffic {
    uint64_t messages, bytes;
};

/* All clients of one behaviour. */
struct tally {
    uint64_t connections;
    struct traffic up;   /* received and checked by the server */
    struct traffic down; /* received and checked by the client */
    uint64_t longest_turn; /* of a question and its answer, in nanoseconds */
};

/* Written only by the server. */
struct server_counts {
    uint64_t waits, events;
    uint64_t connections, disconnections, dismissed, errors;
    uint64_t refusals; /* EAGAIN */
    uint64_t epipes;   /* EPIPE, of clients that may leave at any time */
    uint64_t longest_write; /* nanoseconds */
    uint64_t queued;   /* bytes that the library holds for its clients, at the last tick */
    uint64_t descriptors_in, descriptors_out;
    uint64_t ticks, watched;
    uint64_t heap;     /* bytes in use, at the last tick or measurement; 0 if unknown */
    uint64_t measured; /* how many measurements were made; the results of the last one: */
    uint64_t resident, open;
};

/* Shared by a client and other processes. */
struct seat {
    bool connected; /* may be killed */
    bool full;      /* a message was refused: the queue is full */
};

struct shared {
    struct tally tallies[BEHAVIOURS];
    struct server_counts server;
    uint64_t breaches; /* violations of the protocol, each of which is an ERROR for the server */
    uint64_t untaken;  /* descriptors that were sent to the server and not taken */
    uint64_t broken[PROMISES];
    bool warm; /* the first wave may leave */
    struct seat seats[];
};

extern struct shared *shared;

void shared_begin (int seats);

/* For variables that other processes read while they change. */
#define GET(place) __atomic_load_n (&(place), __ATOMIC_RELAXED)
#define SET(place, value) __atomic_store_n (&(place), (value), __ATOMIC_RELAXED)
#define ADD(place, value) ((void) __atomic_fetch_add (&(place), (value), __ATOMIC_RELAXED))

void count (struct traffic *traffic, uint32_t length);

/* Reports a broken promise, and goes on. `process_name` is set by each process. */
extern char process_name[64];
#if defined(__GNUC__)
__attribute__ ((format (printf, 2, 3)))
#endif
void broken (enum promise promise, const char *format, ...);

/* Checks a call that must succeed; returns whether it did. */
bool good (const char *call, enum ipc_errors code);

/* Ends the process: nothing can be tested without this. */
#if defined(__GNUC__)
__attribute__ ((noreturn))
#endif
void give_up (const char *what);

/* Stores the value if it is larger than all values before. */
void keep_largest (uint64_t *place, uint64_t number);

/* Nanoseconds, of a monotonic clock. */
uint64_t now (void);

void pause_ms (unsigned milliseconds);

/* Waits for a condition, at most LIMIT_SECONDS; the caller then checks the condition. */
#define AWAIT(condition) \
    for (uint64_t end_ = now () + LIMIT_SECONDS * UINT64_C (1000000000); ! (condition) && now () < end_;) \
    pause_ms (1)

#endif
