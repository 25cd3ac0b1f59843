/*
 * chatd: a chat room. What one client says goes to all others, behind the name of its user, which is the
 * kernel's word and not the client's.
 *
 * It shows how to send one message to many (ipc_queue), who is at the other end (ipc_peer), and how to keep
 * clients from asking too much (ipc_limits). The client is chat.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "chatd"
#include "common.h"

#include <pwd.h>
#include <sys/socket.h>

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

/* Queues what one says for all others. Nobody waits here, not even for clients that do not read: the next
 * ipc_wait_event sends what is queued. */
static void
tell_others (const struct ipc_connection_infos *clients, const struct ipc_connection_info *speaker,
             const char *text)
{
    char line[LONGEST_LINE + 64];
    struct ipc_message m = {.type = MSG_TYPE_DATA, .payload = line};

    m.length = (uint32_t) snprintf (line, sizeof line, "%.60s%s", user_name (speaker), text);
    for (int32_t i = 0; i < clients->size; i++) {
        const struct ipc_connection_info *client = clients->cinfos[i];

        /* The descriptor of the signals is in the list, too: its type is 'a'. */
        if (client != speaker && client->type != 'a' && ! ok ("queueing", ipc_queue (client, &m))) {
            /* It has left a megabyte unread. After this its DISCONNECTION comes, as if it had gone itself;
             * what is queued for it is dropped. */
            shutdown (client->fd, SHUT_RDWR);
        }
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

        if (interrupted (code)) {
            continue;
        }
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
    int signals = open_signals ();
    bool good;

    (void) argc;
    (void) argv;
    setvbuf (stdout, NULL, _IOLBF, 0);

    if (signals < 0) {
        return EXIT_FAILURE;
    }
    good = ok ("waiting for signals", ipc_add_fd (&clients, signals))
        && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        /* The service's limits are those of the clients that it takes from now on. */
        good = ok ("setting limits", ipc_limits (&service, LONGEST_LINE, LONGEST_QUEUE))
            && serve (&clients, &service);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    end_fd (&clients, signals);
    end_clients (&clients);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
