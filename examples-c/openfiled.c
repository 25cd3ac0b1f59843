/*
 * openfiled: opens the files of one folder for programs of its own user, and hands them over open: no byte of
 * the file goes through the server, and the client needs no right to the folder.
 *
 *     openfiled FOLDER
 *
 * It shows how to send a descriptor (ipc_write_fd), and what to check before (ipc_peer, ipc_limits, the name).
 * The client is openfile.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "openfiled"
#include "common.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#define SERVICE "openfiled"

/* The file's descriptor, or -1 and the reason in errno. */
static int
open_for (const struct ipc_connection_info *client, int folder, const struct ipc_message *request)
{
    struct ipc_peer peer;
    struct stat status;
    const char *name = request->payload; /* the library puts a NUL behind it, which length does not count */
    int fd;

    if (ipc_peer (client, &peer) != IPC_ERROR_NONE) {
        return -1;
    }
    if (peer.uid != geteuid ()) {
        errno = EACCES;
        return -1;
    }
    /* A name of this folder alone, and a NUL only at its end. */
    if (request->length == 0 || strlen (name) != request->length || strchr (name, '/') != NULL
        || strcmp (name, ".") == 0 || strcmp (name, "..") == 0) {
        errno = EINVAL;
        return -1;
    }
    /* No link, which may lead anywhere; and no wait for somebody to write into a pipe. */
    fd = openat (folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && (fstat (fd, &status) != 0 || ! S_ISREG (status.st_mode))) {
        close (fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

/* Answers with the open file, or with a message of type MSG_TYPE_ERR that says why not. */
static void
answer (const struct ipc_connection_info *client, int folder, const struct ipc_message *request)
{
    struct ipc_message m = {.type = MSG_TYPE_DATA};
    int fd = open_for (client, folder, request);

    if (fd < 0) {
        m.type = MSG_TYPE_ERR;
        m.payload = strerror (errno);
        m.length = (uint32_t) strlen (m.payload);
        ok ("refusing", ipc_write (client, &m));
        return;
    }
    ok ("handing over", ipc_write_fd (client, &m, fd));
    /* The client has, or will have, a descriptor of its own. */
    close (fd);
}

/* Serves until a signal comes; false if it ends for another reason. */
static bool
serve (struct ipc_connection_infos *clients, struct ipc_connection_info *service, int folder)
{
    struct ipc_event event = {0};
    bool running = true;
    bool good = true;

    while (running && good) {
        enum ipc_errors code = ipc_wait_event (clients, service, &event);

        good = ok ("waiting", code);

        switch (event.type) {
        case IPC_EVENT_TYPE_MESSAGE:
            answer (event.origin, folder, event.m);
            break;
        case IPC_EVENT_TYPE_ERROR:
            fprintf (stderr, "openfiled: %d asked for more than a name, or left without its answer\n",
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

    /* The next ipc_wait_event would free the last message; there is none. */
    IPC_EVENT_CLEAN (&event);
    return good;
}

int
main (int argc, char *argv[], char *env[])
{
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos clients = {0};
    int folder = argc == 2 ? open (argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool good;

    setvbuf (stdout, NULL, _IOLBF, 0);
    if (argc != 2) {
        fprintf (stderr, "usage: openfiled FOLDER\n");
        return EXIT_FAILURE;
    }
    if (folder < 0) {
        perror ("openfiled: the folder");
        return EXIT_FAILURE;
    }
    good = add_signals (&clients)
        && ok ("opening the service " SERVICE, ipc_server_init (env, &service, SERVICE));
    if (good) {
        printf ("listening at %s\n", service.spath);
        /* A request is a name. The service's limits are those of the clients that it takes from now on. */
        good = ok ("setting limits", ipc_limits (&service, NAME_MAX, 64 * 1024))
            && serve (&clients, &service, folder);
        good = ok ("closing the service", ipc_server_close (&service)) && good;
    }

    close (folder);
    end_list (&clients);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
