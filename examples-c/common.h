/*
 * What the examples have in common, so that each shows its own matter alone: errors, signals and the end.
 * pongd.c and pong.c do without, and show the whole of a server and a client in one file.
 *
 * To be included first, with PROGRAM defined as the program's name.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef COMMON_H
#define COMMON_H

#define _POSIX_C_SOURCE 200809L

#include <ipc_ext.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* True for success; else it says what went wrong: the library's sentence, and the system's. */
static inline bool
ok (const char *what, enum ipc_errors code)
{
    if (code != IPC_ERROR_NONE) {
        fprintf (stderr, PROGRAM ": %s: %s (%s)\n", what, ipc_errors_get (code), strerror (errno));
    }
    return code == IPC_ERROR_NONE;
}

/* Whether a wait has ended because the process was stopped and continued (Ctrl-Z and fg, SIGSTOP and SIGCONT).
 * Nothing is lost: wait again. */
static inline bool
interrupted (enum ipc_errors code)
{
    return code == IPC_ERROR_WAIT_EVENT__SELECT && errno == EINTR;
}

/* The signals that end a server, as a descriptor to wait for; -1 if there is none to be had. */
static inline int
open_signals (void)
{
    sigset_t signals;
    int fd = -1;

    sigemptyset (&signals);
    sigaddset (&signals, SIGTERM);
    sigaddset (&signals, SIGINT);
    sigaddset (&signals, SIGHUP);
    if (sigprocmask (SIG_BLOCK, &signals, NULL) == 0) {
        fd = signalfd (-1, &signals, SFD_CLOEXEC);
    }
    if (fd < 0) {
        perror (PROGRAM ": signals");
    }
    return fd;
}

/* Takes a descriptor of the program's own out of the list, if it is in there, and closes it. */
static inline void
end_fd (struct ipc_connection_infos *list, int fd)
{
    ipc_del_fd (list, fd);
    close (fd);
}

/* Closes and frees the clients that are still connected. */
static inline void
end_clients (struct ipc_connection_infos *clients)
{
    for (int32_t i = 0; i < clients->size; i++) {
        ok ("closing a client", ipc_close (clients->cinfos[i]));
        free (clients->cinfos[i]);
    }
    ipc_connections_free (clients);
}

#endif
