/*
 * What the processes of a run know together: one server, its clients, and the driver that starts them. It lies
 * in memory that all of them see; the counters only grow, and the driver makes a table of them.
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

/* Nothing here takes long: whoever waits for something for this time has waited in vain. */
#define LIMIT_SECONDS 60

/* The server's timer. */
#define TICK_MILLISECONDS 100

/* How a client behaves; README.md tells what each does. */
enum behaviour {
    UNKNOWN, /* it has not said hello */
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

/* Promises, as far as they can be broken here. */
enum promise {
    LOST,        /* a message did not come */
    DOUBLED,     /* it came twice, or late */
    CORRUPT,     /* it came with other bytes */
    TURNS,       /* CONNECTION, ERROR, DISCONNECTION: not each where it belongs */
    CALLS,       /* a call failed that had no reason to, or did not fail that had to */
    HUNG,        /* somebody waited in vain, or ended otherwise than it should */
    MEMORY,      /* more is in use than there was */
    OPEN,        /* descriptors are open that nobody needs */
    LEFT_BEHIND, /* something is in the list, or in the run directory */
    PROMISES
};

extern const char *const promise_names[PROMISES];

struct traffic {
    uint64_t messages, bytes;
};

/* All clients of one behaviour. */
struct tally {
    uint64_t connections;
    struct traffic up;   /* that have come to the server, each checked there */
    struct traffic down; /* that have come to the client, each checked there */
    uint64_t longest_turn; /* of a question and its answer, in nanoseconds */
};

/* What the server alone writes. */
struct server_counts {
    uint64_t waits, events;
    uint64_t connections, disconnections, dismissed, errors;
    uint64_t refusals; /* EAGAIN */
    uint64_t gone;     /* EPIPE, to those who may go */
    uint64_t longest_write; /* nanoseconds */
    uint64_t queued;   /* bytes that the library holds for its clients, at the last tick */
    uint64_t descriptors_in, descriptors_out;
    uint64_t ticks, watched;
    uint64_t heap;     /* bytes in use, at the last tick or measurement; 0 where nobody knows */
    uint64_t measured; /* how many measurements it has made; what the last one has found: */
    uint64_t resident, open;
};

/* What a client and others tell each other. */
struct seat {
    bool connected; /* may be killed */
    bool full;      /* the server has been refused: more does not fit */
};

struct shared {
    struct tally tallies[BEHAVIOURS];
    struct server_counts server;
    uint64_t breaches; /* of the protocol, each of which is an ERROR for the server */
    uint64_t untaken;  /* descriptors that were sent to the server, and that it did not take */
    uint64_t broken[PROMISES];
    bool warm; /* the first wave may go */
    struct seat seats[];
};

extern struct shared *shared;

void shared_begin (int seats);

/* For what other processes look at while it changes. */
#define GET(place) __atomic_load_n (&(place), __ATOMIC_RELAXED)
#define SET(place, value) __atomic_store_n (&(place), (value), __ATOMIC_RELAXED)
#define ADD(place, value) ((void) __atomic_fetch_add (&(place), (value), __ATOMIC_RELAXED))

void count (struct traffic *traffic, uint32_t length);

/* A promise is broken: says how, and goes on. `who` is set by each process. */
extern char who[64];
#if defined(__GNUC__)
__attribute__ ((format (printf, 2, 3)))
#endif
void broken (enum promise promise, const char *format, ...);

/* A call that has to succeed; whether it has. */
bool good (const char *call, enum ipc_errors code);

/* Ends the process: without this nothing can be tested. */
#if defined(__GNUC__)
__attribute__ ((noreturn))
#endif
void give_up (const char *what);

/* The place keeps the largest number that was ever given to it. */
void keep_largest (uint64_t *place, uint64_t number);

/* Nanoseconds, of a clock that only goes forward. */
uint64_t now (void);

void pause_ms (unsigned milliseconds);

/* Waits for a condition, at most LIMIT_SECONDS; whoever uses it looks what it was. */
#define AWAIT(condition) \
    for (uint64_t end_ = now () + LIMIT_SECONDS * UINT64_C (1000000000); ! (condition) && now () < end_;) \
    pause_ms (1)

#endif
