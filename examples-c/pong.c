/*
 * pong: a client of pongd.
 *
 * `pong` sends one message, prints the answer and ends. `pong -i` (any argument will do) sends each line of
 * standard input as a message and prints the answers, until "exit" or the end of the file.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include <ipc.h>
#include <stdbool.h>
#include <unistd.h>

#define SERVICE "pongd"

/* Returns true for success; else prints what failed, and the messages for code and errno. */
static bool
ok (const char *what, enum ipc_errors code)
{
    if (code != IPC_ERROR_NONE) {
        fprintf (stderr, "pong: %s: %s (%s)\n", what, ipc_errors_get (code), strerror (errno));
    }
    return code == IPC_ERROR_NONE;
}

static bool
send_data (const struct ipc_connection_info *server, const char *bytes, size_t length)
{
    struct ipc_message m = {0};
    bool good;

    /* A message without payload has length 0 and no pointer. */
    good = ok ("making a message", ipc_message_format_data (&m, length > 0 ? bytes : NULL, (ssize_t) length))
        && ok ("sending", ipc_write (server, &m));
    ipc_message_empty (&m);
    return good;
}

static void
print_answer (const struct ipc_message *m)
{
    if (m->length > 0) {
        fwrite (m->payload, 1, m->length, stdout);
    }
    putchar ('\n');
}

/* One message and one answer: this needs neither a list nor events. */
static bool
ask_once (char **env)
{
    static const char question[] = "hello";
    struct ipc_connection_info server = {0};
    struct ipc_message answer = {0};
    bool good;

    if (! ok ("connecting to " SERVICE, ipc_connection (env, &server, SERVICE))) {
        return false;
    }
    good = send_data (&server, question, sizeof question - 1) && ok ("reading", ipc_read (&server, &answer));
    if (good) {
        print_answer (&answer);
        ipc_message_empty (&answer);
    }
    return ok ("closing", ipc_close (&server)) && good;
}

/* User and server may send at any time. Both are in one list; the origin of an event is one of them. */
struct conversation {
    struct ipc_connection_infos list;
    struct ipc_connection_info server;
    struct ipc_connection_info *input;
    size_t awaited;   /* number of answers that were not received yet */
    bool input_ended; /* end of file, or "exit" */
};

/* The line that is being read. Pages of the array that no line has used take no memory. */
static char line[IPC_MAX_MESSAGE_SIZE];
static size_t line_length;

static bool
handle_line (struct conversation *c)
{
    static const char exit_command[] = "exit";
    size_t length = line_length;

    line_length = 0;
    if (length == sizeof exit_command - 1 && memcmp (line, exit_command, length) == 0) {
        c->input_ended = true;
        return true;
    }
    c->awaited++;
    return send_data (&c->server, line, length);
}

/* Handles bytes of standard input: part of a line, or many lines; length 0 is end of file. */
static bool
handle_input (struct conversation *c, const struct ipc_message *m)
{
    bool good = true;

    for (uint32_t i = 0; i < m->length && good && ! c->input_ended; i++) {
        if (m->payload[i] == '\n') {
            good = handle_line (c);
        } else if (line_length < sizeof line) {
            line[line_length++] = m->payload[i];
        } else {
            fprintf (stderr, "pong: a line does not fit in a message\n");
            good = false;
        }
    }
    if (m->length == 0) {
        /* The last line may have no newline. */
        good = line_length == 0 || handle_line (c);
        c->input_ended = true;
    }

    /* No more input is read before all answers were received: a client that only sends fills the queues. */
    if (good && c->awaited > 0) {
        good = ok ("removing standard input from the list", ipc_del (&c->list, c->input));
    }
    return good;
}

static bool
handle_answer (struct conversation *c, const struct ipc_message *m)
{
    print_answer (m);
    if (c->awaited == 0 || --c->awaited > 0 || c->input_ended) {
        return true;
    }
    return ok ("adding standard input to the list", ipc_add (&c->list, c->input));
}

/* Runs until the input has ended and each of its lines was answered. */
static bool
converse (struct conversation *c)
{
    struct ipc_event event = {0};
    bool good = true;

    while (good && (! c->input_ended || c->awaited > 0)) {
        /* NULL: a client has no service. */
        enum ipc_errors code = ipc_wait_event (&c->list, NULL, &event);

        /* Stopped and continued (Ctrl-Z, fg): nothing is lost, wait again. */
        if (code == IPC_ERROR_WAIT_EVENT__SELECT && errno == EINTR) {
            continue;
        }
        good = ok ("waiting", code);

        switch (event.type) {
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            good = handle_input (c, event.m);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            good = handle_answer (c, event.m);
            break;
        case IPC_EVENT_TYPE_ERROR:
            fprintf (stderr, "pong: the connection failed\n");
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            /* The library has closed it; the structure is not from malloc, so there is nothing to free. */
            fprintf (stderr, "pong: the server has closed the connection\n");
            c->server.fd = -1;
            good = false;
            break;
        case IPC_EVENT_TYPE_CONNECTION:
        case IPC_EVENT_TYPE_NOT_SET:
            break;
        }
    }

    /* There is no further ipc_wait_event, which would free the last message. */
    IPC_EVENT_CLEAN (&event);
    return good;
}

static bool
talk (char **env)
{
    struct conversation c = {0};
    bool good;

    if (! ok ("standard input", ipc_add_fd (&c.list, STDIN_FILENO))) {
        return false;
    }
    /* The library has allocated the entry; the program frees it. */
    c.input = c.list.cinfos[0];

    good = ok ("connecting to " SERVICE, ipc_connection (env, &c.server, SERVICE));
    if (good) {
        good = ok ("adding the server", ipc_add (&c.list, &c.server)) && converse (&c);
        if (c.server.fd >= 0) {
            good = ok ("closing", ipc_close (&c.server)) && good;
        }
    }

    ipc_connections_free (&c.list);
    free (c.input);
    return good;
}

int
main (int argc, char *argv[], char *env[])
{
    (void) argv;

    /* Each answer is printed at once, also if standard output is a file or a pipe. */
    setvbuf (stdout, NULL, _IOLBF, 0);

    return (argc > 1 ? talk (env) : ask_once (env)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
