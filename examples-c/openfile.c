/*
 * openfile: a client of openfiled. It prints the file NAME of the server's directory.
 *
 *     openfile NAME
 *
 * It shows how to receive a descriptor (ipc_allow_fds, ipc_take_fd).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define PROGRAM "openfile"
#include "common.h"

#define SERVICE "openfiled"

static bool
print_file (int fd)
{
    char bytes[65536];
    ssize_t length;

    while ((length = read (fd, bytes, sizeof bytes)) > 0) {
        if (fwrite (bytes, 1, (size_t) length, stdout) != (size_t) length) {
            perror ("openfile: printing");
            return false;
        }
    }
    if (length < 0) {
        perror ("openfile: reading the file");
    }
    return length == 0;
}

/* Asks for the file, and prints it. */
static bool
print (const struct ipc_connection_info *server, char *name)
{
    struct ipc_message request = {.type = MSG_TYPE_DATA, .length = (uint32_t) strlen (name), .payload = name};
    struct ipc_message answer = {0};
    int fd = -1;
    bool good;

    /* Without this call the kernel closes passed descriptors: a peer could send any number of them. */
    good = ok ("allowing descriptors", ipc_allow_fds (server)) && ok ("asking", ipc_write (server, &request))
        && ok ("reading the answer", ipc_read (server, &answer));
    if (good && answer.type == MSG_TYPE_ERR) {
        fprintf (stderr, "openfile: the server refuses: %s\n", answer.length > 0 ? answer.payload : "");
        good = false;
    }
    /* Before the next message is read: then the library closes descriptors that were not taken. */
    if (good && ok ("taking the file", ipc_take_fd (server, &fd))) {
        good = print_file (fd);
        close (fd);
    }
    ipc_message_empty (&answer);
    return good && fd >= 0;
}

int
main (int argc, char *argv[], char *env[])
{
    struct ipc_connection_info server = {0};
    bool good;

    if (argc != 2) {
        fprintf (stderr, "usage: openfile NAME\n");
        return EXIT_FAILURE;
    }
    if (! ok ("connecting to " SERVICE, ipc_connection (env, &server, SERVICE))) {
        return EXIT_FAILURE;
    }
    good = print (&server, argv[1]);
    good = ok ("closing", ipc_close (&server)) && good;
    return good && fflush (stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
