/*
 * kv: a client of kvd. It waits until kvd runs.
 *
 *     kv get KEY | set KEY VALUE | delete KEY | watch KEY [COUNT]
 *
 * It prints the value; its exit status is 1 if there is no value. watch prints the value, and then each
 * change, COUNT changes or without end; an empty line is a deletion.
 *
 * It shows how to wait for a service (ipc_connection_timeout), and for an answer (ipc_read_timeout).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "kv"
#include "common.h"

#define SERVICE "kvd"
#define TIMEOUT_MS 5000

/* Prints the value in an answer; returns false if there is none. */
static bool
print_value (const struct ipc_message *m)
{
    size_t key = m->length > 0 ? strlen (m->payload) : 0;

    if (m->type == 'n') {
        return false;
    }
    printf ("%.*s\n", key < m->length ? (int) (m->length - key - 1) : 0, m->length > key ? m->payload + key + 1 : "");
    return true;
}

static bool
ask (const struct ipc_connection_info *server, char type, const char *key, const char *value, long changes)
{
    /* If there is a value, the NUL after the key is sent, too. */
    struct iovec pieces[2] = {{(void *) key, strlen (key) + (value != NULL)}, {NULL, 0}};
    struct ipc_message m = {0};
    bool good;

    if (value != NULL) {
        pieces[1] = (struct iovec) {(void *) value, strlen (value)};
    }
    good = ok ("asking", ipc_sendv (server, type, pieces, 2))
        && ok ("waiting for the answer", ipc_read_timeout (server, &m, TIMEOUT_MS));
    if (good && (type != 'd' || m.type == 'n')) {
        good = print_value (&m) || type == 'w';
    }
    while (good && type == 'w' && changes != 0) {
        fflush (stdout);
        good = ok ("waiting for a change", ipc_read (server, &m)) && print_value (&m);
        changes -= changes > 0;
    }
    ipc_message_empty (&m);
    return good;
}

int
main (int argc, char *argv[])
{
    const char *verb = argc > 2 ? argv[1] : "";
    bool sets = strcmp (verb, "set") == 0, watches = strcmp (verb, "watch") == 0;
    struct ipc_connection_info server = {0};
    bool good;

    if ((argc != 3 || ! (watches || strcmp (verb, "get") == 0 || strcmp (verb, "delete") == 0))
        && (argc != 4 || ! (sets || watches))) {
        fprintf (stderr, "usage: kv get KEY | set KEY VALUE | delete KEY | watch KEY [COUNT]\n");
        return EXIT_FAILURE;
    }
    if (! ok ("connecting to " SERVICE, ipc_connection_timeout (&server, SERVICE, TIMEOUT_MS))) {
        return EXIT_FAILURE;
    }
    good = ask (&server, verb[0], argv[2], sets ? argv[3] : NULL, watches && argc == 4 ? atol (argv[3]) : -1);
    return ok ("closing", ipc_close (&server)) && good ? EXIT_SUCCESS : EXIT_FAILURE;
}
