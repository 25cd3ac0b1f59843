/*
 * openfiled: opens the files of one directory for programs of its own user, and passes their descriptors to
 * the clients: the client reads the file itself, and needs no permission for the directory.
 *
 *     openfiled DIRECTORY
 *
 * It shows how to send a descriptor (ipc_write_fd), and what to check before (ipc_peer, ipc_limits, the
 * name). The client is openfile.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "openfiled"
#include "common.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#define SERVICE "openfiled"

/* Returns the descriptor of the file, or -1 with the reason in errno. */
static int
open_for (const struct ipc_connection_info *client, int directory, const struct ipc_message *request)
{
    struct ipc_peer peer;
    struct stat status;
    const char *name = request->payload; /* the library adds a NUL, which length does not count */
    int fd;

    if (ipc_peer (client, &peer) != IPC_ERROR_NONE) {
        return -1;
    }
    if (peer.uid != geteuid ()) {
        errno = EACCES;
        return -1;
    }
    /* The name must be of this directory, and have no NUL before its end. */
    if (request->length == 0 || strlen (name) != request->length || strchr (name, '/') != NULL
        || strcmp (name, ".") == 0 || strcmp (name, "..") == 0) {
        errno = EINVAL;
        return -1;
    }
    /* Follows no symbolic link, which may leave the directory, and does not wait for a FIFO's writer. */
    fd = openat (directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && (fstat (fd, &status) != 0 || ! S_ISREG (status.st_mode))) {
        close (fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

/* Answers with the file's descriptor, or with the reason in a message of type MSG_TYPE_ERR. */
static void
answer (const struct ipc_connection_info *client, int directory, const struct ipc_message *request)
{
    struct ipc_message m = {.type = MSG_TYPE_DATA};
    int fd = open_for (client, directory, request);

    if (fd < 0) {
        m.type = MSG_TYPE_ERR;
        m.payload = strerror (errno);
        m.length = (uint32_t) strlen (m.payload);
        ok ("refusing", ipc_write (client, &m));
        return;
    }
    ok ("passing the descriptor", ipc_write_fd (client, &m, fd));
    /* The client gets a descriptor of its own. */
    close (fd);
}

/* Serves until a signal is received; returns false if it ends for another reason. */
static bool
serve (struct ipc_connection_infos *clients, struct ipc_connection_info *service, int directory)
{
    struct ipc_event event = {0};
    bool running = true;
    bool good = true;

    while (running && good) {
        enum ipc_errors code = ipc_wait_event (clients, service, &event);

        good = ok ("waiting", code);

        switch (event.type) {
        case IPC_EVENT_TYPE_MESSAGE:
            answer (event.origin, directory, event.m);
            break;
        case IPC_EVENT_TYPE_ERROR:
            fprintf (stderr, "openfiled: %d sent a message that is too long, or closed with unread bytes\n",
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
    int directory = argc == 2 ? open (argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool good;

    setvbuf (stdout, NULL, _IOLBF, 0);
    if (argc != 2) {
        fprintf (stderr, "usage: openfiled DIRECTORY\n");
        return EXIT_FAILURE;
    }
    if (directory < 0) {
        perror ("openfiled: the directory");
        return EXIT_FAILURE;
    }
    good = add_signals (&clients)
        && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        /* A request is a file name. Limits of a service hold for the clients that it accepts from now on. */
        good = ok ("setting limits", ipc_limits (&service, NAME_MAX, 64 * 1024))
            && serve (&clients, &service, directory);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    close (directory);
    end_list (&clients);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
