/*
 * kvd: keeps values by their keys, for all its clients, and tells those that watch a key of each change.
 *
 *     kvd [SECONDS]      clients that say nothing for so long, and watch nothing, are sent away
 *
 * A whole daemon: a service with a mode (ipc_server_open), which a service manager may start on demand; what it keeps
 * of each client (ipc_set_data); signals and times (ipc_add_signal, ipc_add_timer), of which SIGUSR1 prints a status
 * line (ipc_status); limits, and clients that are sent away (ipc_end). The client is kv.c.
 *
 * The type of a request is what to do: 'g' get, 's' set, 'd' delete, 'w' watch. Its payload is the key; to set, a NUL
 * and the value behind it. An answer is 'v', with key, NUL and value, or 'n': there is none. A change of a watched key
 * is 'c', in the same form, or without a value where it was deleted.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "kvd"
#include "common.h"

#include <time.h>

#define SERVICE "kvd"
#define LONGEST_MESSAGE 65536
#define LONGEST_QUEUE (16 * LONGEST_MESSAGE)

/* Key, NUL and value, as they are sent. */
struct entry {
    struct entry *next;
    size_t length;
    char text[];
};

/* What is kept of each client. */
struct guest {
    time_t heard;
    char *watched; /* a key, or NULL */
};

static struct entry *entries;
static int patience = 60;

static time_t
now (void)
{
    struct timespec time;

    clock_gettime (CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

static void
free_guest (void *data)
{
    struct guest *guest = data;

    free (guest->watched);
    free (guest);
}

/* Where the entry of the key is, or would be. */
static struct entry **
find (const char *key)
{
    struct entry **place = &entries;

    while (*place != NULL && strcmp ((*place)->text, key) != 0) {
        place = &(*place)->next;
    }
    return place;
}

static void
forget (struct entry **place)
{
    struct entry *entry = *place;

    *place = entry->next;
    free (entry);
}

static void
answer (struct ipc_connection_infos *list, struct ipc_connection_info *client, char type, const char *text,
        size_t length)
{
    /* One that does not read its answers is sent away; what is wrong otherwise its next event says. */
    if (ipc_send (client, type, text, length) == IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA) {
        ipc_end (list, client, 0);
    }
}

/* Tells those that watch the key; the client that has changed it, too. */
static void
tell_watchers (struct ipc_connection_infos *list, const char *text, size_t length)
{
    for (int32_t i = 0; i < list->size; i++) {
        const struct guest *guest = ipc_data (list->cinfos[i]);

        if (guest != NULL && guest->watched != NULL && strcmp (guest->watched, text) == 0) {
            answer (list, list->cinfos[i], 'c', text, length);
        }
    }
}

static void
set (struct ipc_connection_infos *list, struct ipc_connection_info *client, const struct ipc_message *m)
{
    struct entry **place = find (m->payload);
    struct entry *entry = malloc (sizeof *entry + m->length);

    if (entry == NULL) {
        answer (list, client, 'n', NULL, 0);
        return;
    }
    if (*place != NULL) {
        forget (place);
    }
    entry->next = *place;
    entry->length = m->length;
    memcpy (entry->text, m->payload, m->length);
    *place = entry;
    answer (list, client, 'v', entry->text, entry->length);
    tell_watchers (list, entry->text, entry->length);
}

static void
take_request (struct ipc_connection_infos *list, struct ipc_connection_info *client, const struct ipc_message *m)
{
    struct guest *guest = ipc_data (client);
    struct entry **place;

    /* The library puts a NUL behind each payload: the key ends in any case. */
    if (guest == NULL || m->length == 0 || (m->type == 's' && strlen (m->payload) == m->length)) {
        ipc_end (list, client, 0);
        return;
    }
    guest->heard = now ();
    place = find (m->payload);
    switch (m->type) {
    case 's':
        set (list, client, m);
        break;
    case 'w':
        free (guest->watched);
        guest->watched = strdup (m->payload);
        /* fall through */
    case 'g':
        if (*place != NULL) {
            answer (list, client, 'v', (*place)->text, (*place)->length);
        } else {
            answer (list, client, 'n', NULL, 0);
        }
        break;
    case 'd':
        answer (list, client, *place != NULL ? 'v' : 'n', NULL, 0);
        if (*place != NULL) {
            forget (place);
            tell_watchers (list, m->payload, strlen (m->payload));
        }
        break;
    default:
        ipc_end (list, client, 0);
    }
}

static void
welcome (struct ipc_connection_infos *list, struct ipc_connection_info *client)
{
    struct guest *guest = calloc (1, sizeof *guest);

    if (guest == NULL || ! ok ("keeping a client", ipc_set_data (client, guest, free_guest))) {
        free (guest);
        ipc_end (list, client, 0);
        return;
    }
    guest->heard = now ();
}

static void
end_idle_clients (struct ipc_connection_infos *list)
{
    for (int32_t i = 0; i < list->size; i++) {
        const struct guest *guest = ipc_data (list->cinfos[i]);

        if (guest != NULL && guest->watched == NULL && now () - guest->heard >= patience) {
            ipc_end (list, list->cinfos[i], 0);
        }
    }
}

/* A signal or a time; false for the one to end. */
static bool
take_notice (struct ipc_connection_infos *list, const struct ipc_message *m)
{
    const struct ipc_notice *notice = (const void *) m->payload;
    struct ipc_status status;

    if (m->type == IPC_MSG_TIMER) {
        end_idle_clients (list);
    } else if (notice->signo == SIGUSR1 && ok ("asking for figures", ipc_status (list, &status))) {
        printf ("%zu clients, %zu bytes queued, %llu requests\n", status.clients, status.queued,
                (unsigned long long) status.received);
    } else {
        return false;
    }
    return true;
}

/* Serves until a signal comes; false if it ends for another reason. */
static bool
serve (struct ipc_connection_infos *list, struct ipc_connection_info *service)
{
    struct ipc_event event = {0};
    bool running = true;
    bool good = true;

    while (running && good) {
        good = ok ("waiting", ipc_wait_event (list, service, &event));
        switch (event.type) {
        case IPC_EVENT_TYPE_CONNECTION:
            welcome (list, event.origin);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            take_request (list, event.origin, event.m);
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            /* What is kept of it the library frees. */
            free (event.origin);
            break;
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            running = take_notice (list, event.m);
            break;
        default:
            break;
        }
    }
    IPC_EVENT_CLEAN (&event);
    return good;
}

int
main (int argc, char *argv[])
{
    static const struct ipc_server_options options = {.flags = IPC_SERVER_MODE, .mode = 0660};
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos list = {0};
    bool good;

    setvbuf (stdout, NULL, _IOLBF, 0);
    patience = argc > 1 ? atoi (argv[1]) : patience;
    good = add_signals (&list) && ok ("waiting for SIGUSR1", ipc_add_signal (&list, SIGUSR1))
        && ok ("adding a timer", ipc_add_timer (&list, 1000, 1000, NULL))
        && ok ("opening the service " SERVICE, ipc_server_open (&service, SERVICE, &options));
    if (good) {
        printf ("listening at %s\n", service.spath);
        good = ok ("setting limits", ipc_limits (&service, LONGEST_MESSAGE, LONGEST_QUEUE))
            && serve (&list, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }
    end_list (&list);
    while (entries != NULL) {
        forget (&entries);
    }
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
