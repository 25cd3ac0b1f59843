/*
 * kvd: keeps values by their keys, for all its clients, and notifies the clients that watch a key of each
 * change.
 *
 *     kvd [SECONDS]      the time after which the connection of an idle client that watches no key is ended
 *
 * A whole daemon: a service with a mode (ipc_server_open), which a service manager may start on demand; data
 * of each client (ipc_set_data); a signal that prints a status line (ipc_add_signal, ipc_status); a timer for
 * idle clients (ipc_add_timer, ipc_end); limits (ipc_limits). The client is kv.c.
 *
 * The type of a request is the operation: 'g' get, 's' set, 'd' delete, 'w' watch. Its payload is the key;
 * for set, a NUL and the value follow the key. An answer has type 'v', with key, NUL and value, or type 'n',
 * if there is no value. A change of a watched key is reported with type 'c', in the same form, without NUL
 * and value if the key was deleted.
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

/* The data of a client. */
struct client_data {
    time_t last_request;
    char *watched; /* a key, or NULL */
};

static struct entry *entries;
static int idle_seconds = 60;

static time_t
now (void)
{
    struct timespec time;

    clock_gettime (CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

static void
free_client_data (void *pointer)
{
    struct client_data *data = pointer;

    free (data->watched);
    free (data);
}

/* The link to the entry of the key; it is NULL if there is no such entry. */
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
remove_entry (struct entry **place)
{
    struct entry *entry = *place;

    *place = entry->next;
    free (entry);
}

static void
answer (struct ipc_connection_infos *list, struct ipc_connection_info *client, char type, const char *text,
        size_t length)
{
    /* A client that does not read its answers is disconnected. Other failures are reported as events. */
    if (ipc_send (client, type, text, length) == IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA) {
        ipc_end (list, client, 0);
    }
}

/* Notifies the clients that watch the key, including the client that has changed it. */
static void
notify_watchers (struct ipc_connection_infos *list, const char *text, size_t length)
{
    for (int32_t i = 0; i < list->size; i++) {
        const struct client_data *data = ipc_data (list->cinfos[i]);

        if (data != NULL && data->watched != NULL && strcmp (data->watched, text) == 0) {
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
        remove_entry (place);
    }
    entry->next = *place;
    entry->length = m->length;
    memcpy (entry->text, m->payload, m->length);
    *place = entry;
    answer (list, client, 'v', entry->text, entry->length);
    notify_watchers (list, entry->text, entry->length);
}

static void
handle_request (struct ipc_connection_infos *list, struct ipc_connection_info *client, const struct ipc_message *m)
{
    struct client_data *data = ipc_data (client);
    struct entry **place;

    /* The library adds a NUL to each payload, so the key always ends. */
    if (data == NULL || m->length == 0 || (m->type == 's' && strlen (m->payload) == m->length)) {
        ipc_end (list, client, 0);
        return;
    }
    data->last_request = now ();
    place = find (m->payload);
    switch (m->type) {
    case 's':
        set (list, client, m);
        break;
    case 'w':
        free (data->watched);
        data->watched = strdup (m->payload);
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
            remove_entry (place);
            notify_watchers (list, m->payload, strlen (m->payload));
        }
        break;
    default:
        ipc_end (list, client, 0);
    }
}

static void
add_client (struct ipc_connection_infos *list, struct ipc_connection_info *client)
{
    struct client_data *data = calloc (1, sizeof *data);

    if (data == NULL || ! ok ("storing data of a client", ipc_set_data (client, data, free_client_data))) {
        free (data);
        ipc_end (list, client, 0);
        return;
    }
    data->last_request = now ();
}

static void
end_idle_clients (struct ipc_connection_infos *list)
{
    for (int32_t i = 0; i < list->size; i++) {
        const struct client_data *data = ipc_data (list->cinfos[i]);

        if (data != NULL && data->watched == NULL && now () - data->last_request >= idle_seconds) {
            ipc_end (list, list->cinfos[i], 0);
        }
    }
}

/* Handles a signal or the timer; returns false if the server must end. */
static bool
handle_notice (struct ipc_connection_infos *list, const struct ipc_message *m)
{
    const struct ipc_notice *notice = (const void *) m->payload;
    struct ipc_status status;

    if (m->type == IPC_MSG_TIMER) {
        end_idle_clients (list);
    } else if (notice->signo == SIGUSR1 && ok ("asking for the status", ipc_status (list, &status))) {
        printf ("%zu clients, %zu bytes queued, %llu requests\n", status.clients, status.queued,
                (unsigned long long) status.received);
    } else {
        return false;
    }
    return true;
}

/* Serves until a signal is received; returns false if it ends for another reason. */
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
            add_client (list, event.origin);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            handle_request (list, event.origin, event.m);
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            /* The library frees the client's data. */
            free (event.origin);
            break;
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            running = handle_notice (list, event.m);
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
    idle_seconds = argc > 1 ? atoi (argv[1]) : idle_seconds;
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
        remove_entry (&entries);
    }
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
