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

/* True for success; else it says what went wrong: the library's sentence, and the system's. */
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

/* One question, one answer: no list and no event is needed. */
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

/* Two that speak at any time, the user and the server: both are in one list, and events tell who it is. */
struct conversation {
    struct ipc_connection_infos list;
    struct ipc_connection_info server;
    struct ipc_connection_info *input;
    size_t awaited;   /* answers that are still to come */
    bool input_ended; /* end of file, or "exit" */
};

/* The line that is being read. Pages of it that no line reaches cost no memory. */
static char line[IPC_MAX_MESSAGE_SIZE];
static size_t line_length;

static bool
take_line (struct conversation *c)
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

/* Takes what standard input has given: part of a line, or many lines; nothing at the end of the file. */
static bool
take_input (struct conversation *c, const struct ipc_message *m)
{
    bool good = true;

    for (uint32_t i = 0; i < m->length && good && ! c->input_ended; i++) {
        if (m->payload[i] == '\n') {
            good = take_line (c);
        } else if (line_length < sizeof line) {
            line[line_length++] = m->payload[i];
        } else {
            fprintf (stderr, "pong: a line does not fit in a message\n");
            good = false;
        }
    }
    if (m->length == 0) {
        /* The last line may lack its newline. */
        good = line_length == 0 || take_line (c);
        c->input_ended = true;
    }

    /* No more input before all answers are there: who sends on and does not read fills the queues. */
    if (good && c->awaited > 0) {
        good = ok ("leaving standard input", ipc_del (&c->list, c->input));
    }
    return good;
}

static bool
take_answer (struct conversation *c, const struct ipc_message *m)
{
    print_answer (m);
    if (c->awaited == 0 || --c->awaited > 0 || c->input_ended) {
        return true;
    }
    return ok ("going back to standard input", ipc_add (&c->list, c->input));
}

/* Until the input has ended and each of its lines has come back. */
static bool
converse (struct conversation *c)
{
    struct ipc_event event = {0};
    bool good = true;

    while (good && (! c->input_ended || c->awaited > 0)) {
        /* NULL: a client has no service to take new connections from. */
        enum ipc_errors code = ipc_wait_event (&c->list, NULL, &event);

        /* Stopped and continued (Ctrl-Z, fg): nothing is lost, wait again. */
        if (code == IPC_ERROR_WAIT_EVENT__SELECT && errno == EINTR) {
            continue;
        }
        good = ok ("waiting", code);

        switch (event.type) {
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            good = take_input (c, event.m);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            good = take_answer (c, event.m);
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

    /* The next ipc_wait_event would free the last message; there is none. */
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
    /* Made by the library, freed by us. */
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

    /* Each answer is to be seen at once, also where standard output is a file or a pipe. */
    setvbuf (stdout, NULL, _IOLBF, 0);

    return (argc > 1 ? talk (env) : ask_once (env)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
