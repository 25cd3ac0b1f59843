/*
 * chatd: a chat room. It sends each client's lines to all other clients, after the name of the client's user,
 * which the server gets from the kernel and not from the client.
 *
 * It shows how to send one message to many clients (ipc_broadcast), how to get the credentials of a client
 * (ipc_peer), how to limit a client's messages and queue (ipc_limits), and how to end a connection (ipc_end).
 * The client is chat.c.
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

/* Ends the connection of each client that has left a megabyte unread. Its queued bytes are dropped, and its
 * DISCONNECTION follows. */
static void
end_slow_clients (struct ipc_connection_infos *clients)
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

/* Sends the text to all clients except the speaker. This does not wait, even if a client does not read: bytes
 * that the client's socket does not take are queued, and are sent within the next ipc_wait_event. */
static void
send_to_others (struct ipc_connection_infos *clients, const struct ipc_connection_info *speaker, const char *text)
{
    char line[LONGEST_LINE + 64];
    struct ipc_message m = {.type = MSG_TYPE_DATA, .payload = line};
    size_t failed = 0;

    m.length = (uint32_t) snprintf (line, sizeof line, "%.60s%s", user_name (speaker), text);
    if (ok ("sending to the others", ipc_broadcast (clients, &m, speaker, &failed)) && failed > 0) {
        end_slow_clients (clients);
    }
}

/* Copies the text of a message, after ": ". Control characters, which terminals execute, are replaced. */
static void
copy_line (const struct ipc_message *m, char text[LONGEST_LINE + 3])
{
    size_t length = 2;

    memcpy (text, ": ", length);
    for (uint32_t i = 0; i < m->length; i++) {
        unsigned char c = (unsigned char) m->payload[i];

        text[length++] = c < ' ' || c == 127 ? '?' : m->payload[i];
    }
    text[length] = '\0';
}

/* Serves until a signal is received; returns false if it ends for another reason. */
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
            send_to_others (clients, event.origin, " has joined");
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            copy_line (event.m, text);
            send_to_others (clients, event.origin, text);
            break;
        case IPC_EVENT_TYPE_ERROR:
            fprintf (stderr, "chatd: %d sent a message that is too long, or closed with unread bytes\n",
                     event.origin->fd);
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

    /* There is no further ipc_wait_event, which would free the last message. */
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
        /* Limits of a service hold for the clients that it accepts from now on. */
        good = ok ("setting limits", ipc_limits (&service, LONGEST_LINE, LONGEST_QUEUE))
            && serve (&clients, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    end_list (&clients);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
