/*
 * Functions that the examples share: reporting errors, waiting for signals, and closing the list at the end.
 * pongd.c and pong.c do not use them, and show a whole server and a whole client in one file each.
 *
 * Include this file first, with PROGRAM defined as the program's name.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef COMMON_H
#define COMMON_H

#define _POSIX_C_SOURCE 200809L

#include <ipc_ext.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

/* Returns true for success; else prints what failed, and the messages for code and errno. */
static inline bool
ok (const char *what, enum ipc_errors code)
{
    if (code != IPC_ERROR_NONE) {
        fprintf (stderr, PROGRAM ": %s: %s (%s)\n", what, ipc_errors_get (code), strerror (errno));
    }
    return code == IPC_ERROR_NONE;
}

/* Has the signals that end a server come through the list: as events, of which none is missed. */
static inline bool
add_signals (struct ipc_connection_infos *list)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    bool good = true;

    for (size_t i = 0; good && i < sizeof signals / sizeof signals[0]; i++) {
        good = ok ("waiting for signals", ipc_add_signal (list, signals[i]));
    }
    return good;
}

/* Closes and frees the entries of the list: the clients that are still connected, signals and timers. */
static inline void
end_list (struct ipc_connection_infos *list)
{
    for (int32_t i = 0; i < list->size; i++) {
        ok ("closing a connection", ipc_close (list->cinfos[i]));
        free (list->cinfos[i]);
    }
    ipc_connections_free (list);
}

#endif
