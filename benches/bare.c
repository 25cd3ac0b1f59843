/*
 * Bare sockets: the cost of the same workload without a library. A message is a header and a payload in one buffer of
 * their size, sent with send and received with recv, in as many calls as it takes. As in any program, an answer does
 * not overwrite the request.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define HEADER_SIZE 5
/* As many as libipc receives in one call of epoll_wait. */
#define BATCH 64

struct connection {
    int fd;
    size_t size; /* of a frame */
    char *answer;
    char frame[];
};

static void
check (const char *what, long result)
{
    if (result < 0) {
        fail ("bare: %s: %s", what, strerror (errno));
    }
}

static int
new_socket (const char *name, struct sockaddr_un *address)
{
    int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    check ("socket", fd);
    memset (address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    path_in_directory (address->sun_path, sizeof address->sun_path, name);
    return fd;
}

static struct connection *
new_connection (int fd, size_t size)
{
    struct connection *c = checked_alloc (sizeof *c + 2 * (HEADER_SIZE + size));
    uint32_t length = (uint32_t) size;

    c->fd = fd;
    c->size = HEADER_SIZE + size;
    c->answer = c->frame + c->size;
    memset (c->frame, 0x5a, 2 * c->size);
    memcpy (c->frame + 1, &length, sizeof length);
    return c;
}

static int
open_service (const struct setup *setup)
{
    struct sockaddr_un address;
    int fd = new_socket (setup->name, &address);

    check ("bind", bind (fd, (struct sockaddr *) &address, sizeof address));
    check ("listen", listen (fd, INT32_MAX));
    serving ();
    return fd;
}

static void *
connect_bare (const struct setup *setup)
{
    struct sockaddr_un address;
    int fd = new_socket (setup->name, &address);

    check ("connect", connect (fd, (struct sockaddr *) &address, sizeof address));
    return new_connection (fd, setup->size);
}

static void
disconnect_bare (void *connection)
{
    struct connection *c = connection;

    check ("close", close (c->fd));
    free (c);
}

static char *
payload_bare (void *connection)
{
    return ((struct connection *) connection)->frame + HEADER_SIZE;
}

static void
send_frame (int fd, const char *frame, size_t size)
{
    for (size_t sent = 0; sent < size;) {
        ssize_t count = send (fd, frame + sent, size - sent, MSG_NOSIGNAL);

        check ("send", count);
        sent += (size_t) count;
    }
}

/* Returns false at end of file. */
static bool
receive_frame (int fd, char *frame, size_t size)
{
    for (size_t received = 0; received < size;) {
        ssize_t count = recv (fd, frame + received, size - received, 0);

        check ("recv", count);
        if (count == 0 && received > 0) {
            fail ("bare: half a message");
        } else if (count == 0) {
            return false;
        }
        received += (size_t) count;
    }
    return true;
}

static void
send_bare (void *connection)
{
    struct connection *c = connection;

    send_frame (c->fd, c->frame, c->size);
}

static const char *
receive_bare (void *connection)
{
    struct connection *c = connection;

    if (! receive_frame (c->fd, c->answer, c->size)) {
        fail ("bare: the server has closed the connection");
    }
    return c->answer + HEADER_SIZE;
}

/* Receives header and payload with two calls, as a program must that takes no byte of the next message from the
 * kernel. */
static const char *
receive_apart (void *connection)
{
    struct connection *c = connection;

    if (! receive_frame (c->fd, c->answer, HEADER_SIZE)
        || ! receive_frame (c->fd, c->answer + HEADER_SIZE, c->size - HEADER_SIZE)) {
        fail ("bare: the server has closed the connection");
    }
    return c->answer + HEADER_SIZE;
}

/* One client, one recv for each of its messages. */
static void
serve_one (const struct setup *setup)
{
    struct inbox inbox = {.setup = setup};
    int listener = open_service (setup);
    struct connection *c = new_connection (accept4 (listener, NULL, NULL, SOCK_CLOEXEC), setup->size);

    check ("accept4", c->fd);
    while (receive_frame (c->fd, c->frame, c->size)) {
        if (wants_answer (&inbox, c->frame + HEADER_SIZE, setup->size)) {
            send_bare (c);
        }
    }
    disconnect_bare (c);
}

static void
watch (int set, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    check ("epoll_ctl", epoll_ctl (set, EPOLL_CTL_ADD, fd, &event));
}

/* Many clients: the loop that one writes without a library. */
static void
serve_many (const struct setup *setup)
{
    struct inbox inbox = {.setup = setup};
    int listener = open_service (setup);
    int set = epoll_create1 (EPOLL_CLOEXEC);
    struct connection *c = new_connection (-1, setup->size);
    int last = -1;
    int clients = 0;

    check ("epoll_create1", set);
    watch (set, listener);
    for (;;) {
        struct epoll_event events[BATCH];
        int count = epoll_wait (set, events, BATCH, -1);

        check ("epoll_wait", count);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;

            if (fd == listener) {
                int client = accept4 (listener, NULL, NULL, SOCK_CLOEXEC);

                check ("accept4", client);
                watch (set, client);
                clients++;
            } else if (! receive_frame (fd, c->frame, c->size)) {
                check ("close", close (fd));
                clients--;
            } else if (! wants_answer (&inbox, c->frame + HEADER_SIZE, setup->size)) {
                continue;
            } else if (setup->manner == ANSWER_LAST) {
                last = fd;
            } else {
                send_frame (fd, c->frame, c->size);
            }
            if (last >= 0 && clients == 1) {
                send_frame (last, c->frame, c->size);
                last = -1;
            }
        }
    }
}

const struct transport bare = {
    .name = "bare",
    .serve = serve_one,
    .connect = connect_bare,
    .payload = payload_bare,
    .send = send_bare,
    .receive = receive_bare,
    .disconnect = disconnect_bare,
};

const struct transport bare_epoll = {
    .name = "bare",
    .serve = serve_many,
    .connect = connect_bare,
    .payload = payload_bare,
    .send = send_bare,
    .receive = receive_bare,
    .disconnect = disconnect_bare,
};

const struct transport bare_epoll_apart = {
    .name = "apart",
    .serve = serve_many,
    .connect = connect_bare,
    .payload = payload_bare,
    .send = send_bare,
    .receive = receive_apart,
    .disconnect = disconnect_bare,
};
