/*
 * bench WORK [rounds [milliseconds of a slice]]
 *
 * Prints lines of ten fields with tabs between them: work, variant, cores, transport, unit, value, ratio, its lower
 * and upper quartile, rounds. Ends with status 0 unless something does not work: no timing is a failure.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <signal.h>
#include <sys/resource.h>

const struct transport *const for_one[] = {
    &bare,
    &libipc,
    &full,
#ifdef HAVE_ZEROMQ
    &zeromq,
#endif
#ifdef HAVE_NNG
    &nng_pair,
#endif
#ifdef HAVE_LIBQB
    &libqb,
#endif
#ifdef HAVE_SD_BUS
    &sd_bus_peer,
#endif
#ifdef HAVE_SD_VARLINK
    &sd_varlink_peer,
#endif
    NULL
};

/* Transports that combine small messages. */
const struct transport *const for_batches[] = {
    &bare,
    &libipc_queue,
#ifdef HAVE_ZEROMQ
    &zeromq,
#endif
    NULL
};

const struct transport *const for_many[] = {
    &bare_epoll,
    &libipc,
    &full,
    &bare_epoll_apart,
#ifdef HAVE_ZEROMQ
    &zeromq,
#endif
#ifdef HAVE_NNG
    &nng_reqrep,
#endif
#ifdef HAVE_LIBQB
    &libqb,
#endif
    NULL
};

static const struct {
    const char *name;
    void (*run) (void);
} works[] = {
    {"round-trip", round_trip},
    {"stream", stream},
    {"clients", many_clients},
    {"idle", idle_connections},
    {"connect", connect_and_close},
    {"memory", memory},
};
enum { WORKS = sizeof works / sizeof *works };

static void
allow_all_descriptors (void)
{
    struct rlimit limit;

    if (getrlimit (RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit (RLIMIT_NOFILE, &limit);
    }
}

int
main (int argc, char *argv[])
{
    const char *name = argc > 1 ? argv[1] : "";
    int found = -1;

    allow_all_descriptors ();
    /* With every transport, a closed peer is an error of the call. */
    signal (SIGPIPE, SIG_IGN);

    if (argc == 4 && strcmp (name, "instructions") == 0) {
        instructions (argv[2], atol (argv[3]));
        return EXIT_SUCCESS;
    }
    for (int i = 0; i < WORKS; i++) {
        if (strcmp (works[i].name, name) == 0) {
            found = i;
        }
    }
    rounds = argc > 2 ? atoi (argv[2]) : rounds;
    slice_ms = argc > 3 ? atoi (argv[3]) : slice_ms;
    if (found < 0 || rounds < 1 || slice_ms < 1) {
        fprintf (stderr, "usage: bench WORK [rounds [milliseconds of a slice]]; WORK is one of:\n");
        for (int i = 0; i < WORKS; i++) {
            fprintf (stderr, "  %s\n", works[i].name);
        }
        return EXIT_FAILURE;
    }

    make_directory ();
    works[found].run ();
    return EXIT_SUCCESS;
}
