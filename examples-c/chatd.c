/*
 * chatd: a chat room. What one client says goes to all others, behind the name of its user, which is the
 * kernel's word and not the client's.
 *
 * It shows how to send one message to many (ipc_broadcast), who is at the other end (ipc_peer), how to keep
 * clients from asking too much (ipc_limits), and how to send them away (ipc_end). The client is chat.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "chatd"
#include "common.h"

#include <pwd.h>

#define SERVICE "chatd"
#define LONGEST_LINE 4096
#define LONGEST_QUEUE (1024 * 1024)

static const char *
user_name (const struct ipc_connection_info *client)
{
    struct ipc_peer peer;
    struct passwd *user = NULL;

    if (ok ("asking for the peer", ipc_peer (client, &peer))) {
        user = getpwuid (peer.uid);
    }
    return user != NULL ? user->pw_name : "somebody";
}

/* Sends those away who have left a megabyte unread. Their DISCONNECTION comes, and what is queued for them is
 * dropped. */
static void
end_who_does_not_read (struct ipc_connection_infos *clients)
{
    size_t bytes;

    for (int32_t i = 0; i < clients->size; i++) {
        struct ipc_connection_info *client = clients->cinfos[i];

        if (ipc_pending (client, &bytes) == IPC_ERROR_NONE && bytes > LONGEST_QUEUE - 2 * LONGEST_LINE) {
            fprintf (stderr, "chatd: %d does not read\n", client->fd);
            ipc_end (clients, client, 0);
        }
    }
}

/* Sends what one says to all others. Nobody waits here, not even for clients that do not read: what they do not
 * take is queued, and leaves from within the next ipc_wait_event. */
static void
tell_others (struct ipc_connection_infos *clients, const struct ipc_connection_info *speaker, const char *text)
{
    char line[LONGEST_LINE + 64];
    struct ipc_message m = {.type = MSG_TYPE_DATA, .payload = line};
    size_t failed = 0;

    m.length = (uint32_t) snprintf (line, sizeof line, "%.60s%s", user_name (speaker), text);
    if (ok ("telling the others", ipc_broadcast (clients, &m, speaker, &failed)) && failed > 0) {
        end_who_does_not_read (clients);
    }
}

/* The text of a message between ": " and its end; characters that command terminals are made harmless. */
static void
take_line (const struct ipc_message *m, char text[LONGEST_LINE + 3])
{
    size_t length = 2;

    memcpy (text, ": ", length);
    for (uint32_t i = 0; i < m->length; i++) {
        unsigned char c = (unsigned char) m->payload[i];

        text[length++] = c < ' ' || c == 127 ? '?' : m->payload[i];
    }
    text[length] = '\0';
}

/* Serves until a signal comes; false if it ends for another reason. */
static bool
serve (struct ipc_connection_infos *clients, struct ipc_connection_info *service)
{
    struct ipc_event event = {0};
    char text[LONGEST_LINE + 3];
    bool running = true;
    bool good = true;

    while (running && good) {
        enum ipc_errors code = ipc_wait_event (clients, service, &event);

        good = ok ("waiting", code);

        switch (event.type) {
        case IPC_EVENT_TYPE_CONNECTION:
            tell_others (clients, event.origin, " has come");
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            take_line (event.m, text);
            tell_others (clients, event.origin, text);
            break;
        case IPC_EVENT_TYPE_ERROR:
            fprintf (stderr, "chatd: %d said too much, or left without having read all\n", event.origin->fd);
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            free (event.origin);
            break;
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            running = false;
            break;
        default:
            break;
        }
    }

    /* The next ipc_wait_event would free the last message; there is none. */
    IPC_EVENT_CLEAN (&event);
    return good;
}

int
main (int argc, char *argv[], char *env[])
{
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos clients = {0};
    bool good;

    (void) argc;
    (void) argv;
    setvbuf (stdout, NULL, _IOLBF, 0);
    good = add_signals (&clients)
        && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        /* The service's limits are those of the clients that it takes from now on. */
        good = ok ("setting limits", ipc_limits (&service, LONGEST_LINE, LONGEST_QUEUE))
            && serve (&clients, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    end_list (&clients);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
