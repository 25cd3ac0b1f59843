/*
 * pongd: a server that sends each message back to the client that sent it.
 *
 * It shows a whole service: open the service, wait for events, answer, and end on a signal.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include <ipc.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/signalfd.h>

#define SERVICE "pongd"

/* Returns true for success; else prints what failed, and the messages for code and errno. */
static bool
ok (const char *what, enum ipc_errors code)
{
    if (code != IPC_ERROR_NONE) {
        fprintf (stderr, "pongd: %s: %s (%s)\n", what, ipc_errors_get (code), strerror (errno));
    }
    return code == IPC_ERROR_NONE;
}

/*
 * Returns a descriptor for the signals that end the server. A signal handler that sets a flag has a race: a
 * signal between the test of the flag and the wait is noticed only after the next event. If the descriptor is
 * in the list, a signal is itself an event.
 */
static int
open_signals (void)
{
    sigset_t signals;

    sigemptyset (&signals);
    sigaddset (&signals, SIGTERM);
    sigaddset (&signals, SIGINT);
    sigaddset (&signals, SIGHUP);
    if (sigprocmask (SIG_BLOCK, &signals, NULL) != 0) {
        return -1;
    }
    return signalfd (-1, &signals, SFD_CLOEXEC);
}

static void
print_message (const struct ipc_connection_info *client, const struct ipc_message *m)
{
    printf ("MESSAGE from %d, %u bytes: ", client->fd, (unsigned) m->length);
    if (m->length > 0) {
        fwrite (m->payload, 1, m->length, stdout);
    }
    putchar ('\n');
}

/* Serves until a signal is received; returns false if it ends for another reason. */
static bool
serve (struct ipc_connection_infos *clients, struct ipc_connection_info *service)
{
    struct ipc_event event = {0};
    bool running = true;
    bool good = true;

    while (running && good) {
        enum ipc_errors code = ipc_wait_event (clients, service, &event);

        /* The process was stopped and continued (SIGSTOP, SIGCONT). No event is lost: wait again. */
        if (code == IPC_ERROR_WAIT_EVENT__SELECT && errno == EINTR) {
            continue;
        }
        good = ok ("waiting", code);

        switch (event.type) {
        case IPC_EVENT_TYPE_CONNECTION:
            printf ("CONNECTION %d\n", event.origin->fd);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            print_message (event.origin, event.m);
            /* If one client cannot be answered, the server goes on for the others. */
            ok ("answering", ipc_write (event.origin, event.m));
            break;
        case IPC_EVENT_TYPE_ERROR:
            fprintf (stderr, "pongd: %d broke the protocol or the connection\n", event.origin->fd);
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            /* The library has closed the connection and removed it from the list; the program frees it. */
            printf ("DISCONNECTION %d\n", event.origin->fd);
            free (event.origin);
            break;
        case IPC_EVENT_TYPE_EXTRA_SOCKET:
            /* A signal was received. */
            running = false;
            break;
        case IPC_EVENT_TYPE_NOT_SET:
            break;
        }
    }

    /* There is no further ipc_wait_event, which would free the last message. */
    IPC_EVENT_CLEAN (&event);
    return good;
}

/* Closes and frees the entries of the list: the clients that are still connected, and the signals. */
static void
end_connections (struct ipc_connection_infos *list)
{
    for (int32_t i = 0; i < list->size; i++) {
        ok ("closing", ipc_close (list->cinfos[i]));
        free (list->cinfos[i]);
    }
    ipc_connections_free (list);
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

    /* Each line is printed at once, also if standard output is a file or a pipe. */
    setvbuf (stdout, NULL, _IOLBF, 0);

    if (signals < 0) {
        perror ("pongd: signals");
        return EXIT_FAILURE;
    }
    if (! ok ("waiting for signals", ipc_add_fd (&clients, signals))) {
        return EXIT_FAILURE;
    }
    if (! ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE))) {
        end_connections (&clients);
        return EXIT_FAILURE;
    }

    printf ("listening at %s\n", service.spath);
    good = serve (&clients, &service);

    /* The service is closed first, so that no new client connects. Queued answers are sent at exit, as long
     * as the clients read. */
    good = ok ("closing the service", ipc_server_close (&service)) && good;
    end_connections (&clients);
    puts ("ended");
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
