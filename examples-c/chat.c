/*
 * chat: a client of chatd. It sends each line of standard input, and prints the lines of the other users,
 * until end of file.
 *
 * It shows how to wait for a descriptor of the program and for a server at the same time (ipc_add_fd).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "chat"
#include "common.h"

#define SERVICE "chatd"
#define LONGEST_LINE 4096

/* The line that is being read; a longer line is sent in pieces. */
static char line[LONGEST_LINE];
static uint32_t line_length;

static bool
send_line (const struct ipc_connection_info *server)
{
    /* The payload of a message to be sent need not be from malloc: the library does not free it. */
    struct ipc_message m = {.type = MSG_TYPE_DATA, .length = line_length, .payload = line};

    line_length = 0;
    return m.length == 0 || ok ("sending", ipc_write (server, &m));
}

/* Handles bytes of standard input: part of a line, or many lines. */
static bool
handle_input (const struct ipc_connection_info *server, const struct ipc_message *input)
{
    bool good = true;

    for (uint32_t i = 0; i < input->length && good; i++) {
        bool ended = input->payload[i] == '\n';

        if (! ended) {
            line[line_length++] = input->payload[i];
        }
        if (ended || line_length == sizeof line) {
            good = send_line (server);
        }
    }
    return good;
}

/* Runs until end of file; returns false if it ends for another reason. */
static bool
talk (struct ipc_connection_infos *list, struct ipc_connection_info *server)
{
    struct ipc_event event = {0};
    const struct ipc_message *m;
    bool running = true;
    bool good = true;

    while (running && good) {
        /* NULL: a client has no service. */
        enum ipc_errors code = ipc_wait_event (list, NULL, &event);

        good = ok ("waiting", code);
        m = event.m;

        switch (event.type) {
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            /* Length 0 is end of file; the last line may have no newline. */
            running = m->length > 0;
            good = running ? handle_input (server, m) : send_line (server);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            printf ("%.*s\n", (int) m->length, m->length > 0 ? m->payload : "");
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            /* The library has closed the connection. The structure is not from malloc, and is not freed. */
            fprintf (stderr, "chat: the server has closed the connection\n");
            server->fd = -1;
            good = false;
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
    struct ipc_connection_infos list = {0};
    struct ipc_connection_info server = {0};
    bool good;

    (void) argc;
    (void) argv;
    setvbuf (stdout, NULL, _IOLBF, 0);

    if (! ok ("connecting to " SERVICE, ipc_connection (env, &server, SERVICE))) {
        return EXIT_FAILURE;
    }
    good = ok ("adding the server", ipc_add (&list, &server))
        && ok ("adding standard input", ipc_add_fd (&list, STDIN_FILENO)) && talk (&list, &server);

    if (server.fd >= 0) {
        good = ok ("closing", ipc_close (&server)) && good;
    }
    ipc_del_fd (&list, STDIN_FILENO);
    ipc_connections_free (&list);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
