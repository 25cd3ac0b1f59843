/*
 * The cost of the library's promises without the library: the system calls that the promises need, made by hand in a
 * straight line, without tables, locks or errors after which the program goes on. The difference between libipc and
 * this program is libipc's own cost.
 *
 * The server waits in poll(2), which a stop and a continue of the process do not end: for its clients and new clients,
 * if they are few; else for an epoll set of them, and for a clock by which other threads would wake it. Before it
 * waits for few clients or accepts one, receives, delivers a message that it has read ahead, or sends, it checks whether
 * the number still is the connection's or the service's, by the socket's cookie. Before it asks the set it checks the
 * set by the mark that it has set when it made the set (F_GETSIG).
 * It reads ahead, up to 16 KiB; connections that are ready take turns, message by message, and the kernel is asked for
 * further ready connections after each round. Each message is a structure and a payload followed by a NUL, in blocks of
 * their own. The client peeks at the header first (MSG_PEEK), so that a cancelled thread would consume nothing, then
 * receives header and payload at once, and no byte more. Before it waits for the rest of a message that has come in
 * part, it asks for the socket's timeout, which counts from the begin of the call.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>

#define HEADER_SIZE 5
/* The same limits as in libipc: the size up to which a message is copied to send or receive it in one piece, bytes that
 * are read ahead, the size from which on a payload is received with a buffer of its own, and that beyond which its
 * buffer depends on what has arrived, ready descriptors for which
 * the kernel is asked at once, connections that are polled directly. */
#define SMALL 512
#define AHEAD (16 << 10)
#define LARGE 4096
#define ANNOUNCED (64 << 10)
#define BATCH 64
#define FEW 5
/* Linux: from asm-generic/socket.h and asm-generic/fcntl.h. */
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#ifndef F_SETSIG
#define F_SETSIG 10
#define F_GETSIG 11
#endif
/* A signal that the C library uses itself. */
#define MARK 33

/* One end of a connection, and the message that it sends or receives at present. */
struct end {
    int fd;
    uint64_t cookie;
    size_t size; /* of a payload */
    char head[HEADER_SIZE];
    char *out;
    /* The received part of a message: the number of bytes, including the header, and its payload. */
    size_t have;
    uint32_t length;
    char *payload;
    /* For the server: the read-ahead bytes, and the index of the connection among those that are polled. */
    char *ahead;
    size_t start, end;
    int place;
    int is_queued; /* for its turn */
};

static void
check (const char *what, long result)
{
    if (result < 0) {
        fail ("full: %s: %s", what, strerror (errno));
    }
}

static uint64_t
cookie_of (int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;

    check ("SO_COOKIE", getsockopt (fd, SOL_SOCKET, SO_COOKIE, &cookie, &size));
    return cookie;
}

static void
is_still_the_socket (const struct end *c)
{
    if (cookie_of (c->fd) != c->cookie) {
        fail ("full: the number is another socket's");
    }
}

static void
wait_for (int fd, short events)
{
    struct pollfd one = {.fd = fd, .events = events};

    check ("poll", poll (&one, 1, -1));
}

/* Allocates a block for a payload and a NUL after it. */
static char *
payload_block (size_t length)
{
    char *payload = malloc (length + 1);

    if (payload == NULL) {
        fail ("no memory");
    }
    payload[length] = '\0';
    return payload;
}

static struct end *
new_end (int fd, size_t size)
{
    struct end *c = checked_alloc (sizeof *c);

    c->fd = fd;
    c->cookie = cookie_of (fd);
    c->size = size;
    return c;
}

static void
close_end (struct end *c)
{
    check ("close", close (c->fd));
    free (c->payload);
    free (c->ahead);
    free (c->out);
    free (c);
}

/* Sends header and payload in one piece if they are small, else in two; the rest is sent after a wait. */
static void
send_message (struct end *c, const char *payload, size_t size)
{
    uint32_t length = (uint32_t) size;
    size_t whole = HEADER_SIZE + size;
    size_t sent = 0;
    char small[SMALL];

    c->head[0] = 2;
    memcpy (c->head + 1, &length, sizeof length);
    if (whole <= sizeof small) {
        memcpy (small, c->head, HEADER_SIZE);
        memcpy (small + HEADER_SIZE, payload, size);
    }
    while (sent < whole) {
        ssize_t count;

        if (whole <= sizeof small) {
            count = send (c->fd, small + sent, whole - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        } else {
            size_t of_head = sent < HEADER_SIZE ? HEADER_SIZE - sent : 0;
            size_t of_payload = sent > HEADER_SIZE ? sent - HEADER_SIZE : 0;
            struct iovec pieces[2] = {
                {c->head + HEADER_SIZE - of_head, of_head},
                {(char *) (uintptr_t) payload + of_payload, size - of_payload},
            };
            struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};

            count = sendmsg (c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        if (count < 0 && errno == EAGAIN) {
            count = 0;
        }
        check ("send", count);
        sent += (size_t) count;
        if (sent < whole) {
            wait_for (c->fd, POLLOUT);
            is_still_the_socket (c);
        }
    }
}

/* Receives header and payload, directly into their buffers unless they are small. Returns the result of the receive. */
static ssize_t
receive_both (struct end *c, size_t expected)
{
    char small[SMALL];
    ssize_t count;

    if (expected > ANNOUNCED) {
        int there;

        /* The block for a large payload may be many times as large as what has arrived, but not more. */
        check ("FIONREAD", ioctl (c->fd, FIONREAD, &there));
    }
    c->payload = payload_block (expected);
    if (HEADER_SIZE + expected <= sizeof small) {
        count = recv (c->fd, small, HEADER_SIZE + expected, MSG_DONTWAIT);
        memcpy (c->head, small, HEADER_SIZE);
        memcpy (c->payload, small + HEADER_SIZE, expected);
    } else {
        struct iovec pieces[2] = {{c->head, HEADER_SIZE}, {c->payload, expected}};
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};

        count = recvmsg (c->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    }
    if (count > 0) {
        memcpy (&c->length, c->head + 1, sizeof c->length);
        c->have = (size_t) count;
    }
    return count;
}

static ssize_t
receive_rest (struct end *c)
{
    size_t whole = HEADER_SIZE + c->length;
    ssize_t count = recv (c->fd, c->payload + (c->have - HEADER_SIZE), whole - c->have, MSG_DONTWAIT);

    c->have += count > 0 ? (size_t) count : 0;
    return count;
}

/* The client. */

static void *
connect_full (const struct setup *setup)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct end *c;

    check ("socket", fd);
    path_in_directory (address.sun_path, sizeof address.sun_path, setup->name);
    check ("connect", connect (fd, (struct sockaddr *) &address, sizeof address));
    c = new_end (fd, setup->size);
    c->out = checked_buffer (setup->size);
    return c;
}

static void
disconnect_full (void *connection)
{
    close_end (connection);
}

static char *
payload_full (void *connection)
{
    return ((struct end *) connection)->out;
}

static void
send_full (void *connection)
{
    struct end *c = connection;

    send_message (c, c->out, c->size);
}

static const char *
receive_full (void *connection)
{
    struct end *c = connection;
    char head[HEADER_SIZE];
    uint32_t length;
    ssize_t count = recv (c->fd, head, sizeof head, MSG_PEEK);

    free (c->payload);
    if (count != (ssize_t) sizeof head) {
        fail ("full: %zd bytes of a header", count);
    }
    is_still_the_socket (c);
    memcpy (&length, head + 1, sizeof length);
    check ("recvmsg", receive_both (c, length));
    if (c->have < HEADER_SIZE + length) {
        /* How long to wait for the rest. */
        struct timeval limit;
        socklen_t size = sizeof limit;

        check ("F_GETFL", fcntl (c->fd, F_GETFL));
        check ("SO_RCVTIMEO", getsockopt (c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &size));
    }
    while (c->have < HEADER_SIZE + length) {
        wait_for (c->fd, POLLIN);
        is_still_the_socket (c);
        if (receive_rest (c) == 0) {
            fail ("full: the server has closed the connection");
        }
    }
    if (length != c->size) {
        fail ("full: %u bytes have come instead of %zu", (unsigned) length, c->size);
    }
    return c->payload;
}

/* The server. */

enum { MOST = 1024 };

struct server {
    struct inbox inbox;
    int listener, set, clock;
    uint64_t cookie; /* of the listener */
    struct end *by_number[MOST];
    struct end *members[MOST];
    int count;
    size_t expected; /* the size of the last payload */
    /* The queue of turns: a ring; and how many have their turn before the kernel is asked again. */
    struct end *turns[MOST];
    int first, queued, left;
};

static struct server server;

/* By a mark that was set when the set was made. */
static void
is_still_the_set (void)
{
    if (fcntl (server.set, F_GETSIG) != MARK) {
        fail ("full: the number is not the set's any more");
    }
}

static void
is_still_the_service (void)
{
    if (cookie_of (server.listener) != server.cookie) {
        fail ("full: the number is another socket's");
    }
}

static void
watch (int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    check ("epoll_ctl", epoll_ctl (server.set, EPOLL_CTL_ADD, fd, &event));
}

static void
take_client (void)
{
    struct end *c;
    int fd;

    is_still_the_service ();
    fd = accept4 (server.listener, NULL, NULL, SOCK_CLOEXEC);
    check ("accept4", fd);
    if (fd >= MOST || server.count == MOST) {
        fail ("full: more clients than there is room for");
    }
    watch (fd);
    c = new_end (fd, 0);
    c->ahead = checked_buffer (AHEAD);
    c->place = server.count;
    server.by_number[fd] = c;
    server.members[server.count++] = c;
}

static void
leave (struct end *c)
{
    struct end *moved = server.members[--server.count];

    server.members[c->place] = moved;
    moved->place = c->place;
    server.by_number[c->fd] = NULL;
    close_end (c);
}

/* Collects the descriptors that are ready now. */
static int
ask (int *ready)
{
    struct epoll_event events[BATCH];
    int found;

    is_still_the_set ();
    found = epoll_wait (server.set, events, BATCH, 0);
    check ("epoll_wait", found);
    for (int i = 0; i < found; i++) {
        ready[i] = events[i].data.fd;
    }
    return found;
}

/* Polls the few clients, and the service. */
static int
poll_few (int *ready, int timeout)
{
    struct pollfd fds[FEW + 1];
    int count = 0;
    int found = 0;

    for (int i = 0; i < server.count; i++) {
        fds[count++] = (struct pollfd) {.fd = server.members[i]->fd, .events = POLLIN};
    }
    fds[count++] = (struct pollfd) {.fd = server.listener, .events = POLLIN};
    check ("poll", poll (fds, (nfds_t) count, timeout));
    for (int i = 0; i < count; i++) {
        if (fds[i].revents != 0) {
            ready[found++] = fds[i].fd;
        }
    }
    return found;
}

/* Waits for descriptors that are ready: a few are polled directly, many through the set. */
static int
await_ready (int *ready)
{
    int found = 0;

    if (server.count <= FEW) {
        /* No descriptor has changed, and there is no other thread that could change one or wake this thread: so
         * there is neither a timeout for a repeated check, nor a clock. */
        for (int i = 0; i < server.count; i++) {
            is_still_the_socket (server.members[i]);
        }
        is_still_the_service ();
        found = poll_few (ready, -1);
    } else {
        struct pollfd fds[2] = {
            {.fd = server.set, .events = POLLIN}, {.fd = server.clock, .events = POLLIN}
        };

        check ("poll", poll (fds, 2, 1000));
        found = ask (ready);
    }
    return found;
}

/* Delivers the received message to the program, as a structure and a payload; both are freed when the next one is
 * received. */
static void
hand_out (struct end *c, char *payload, size_t length)
{
    static struct {
        char type;
        uint32_t length;
        char *payload;
    } *message;

    if (message != NULL) {
        free (message->payload);
        free (message);
    }
    message = checked_alloc (sizeof *message);
    message->type = 2;
    message->length = (uint32_t) length;
    message->payload = payload;
    server.expected = length;
    if (! wants_answer (&server.inbox, payload, length)) {
        return;
    }
    is_still_the_socket (c);
    send_message (c, payload, length);
}

static int
has_frame (const struct end *c)
{
    uint32_t length;

    if (c->end - c->start < HEADER_SIZE) {
        return 0;
    }
    memcpy (&length, c->ahead + c->start + 1, sizeof length);
    return c->end - c->start - HEADER_SIZE >= length;
}

/* The next whole message in the read-ahead bytes; the begin of a large message is moved to its buffer. */
static void
cut (struct end *c)
{
    uint32_t length;

    if (c->end - c->start < HEADER_SIZE) {
        return;
    }
    memcpy (&length, c->ahead + c->start + 1, sizeof length);
    if (has_frame (c)) {
        char *payload = payload_block (length);

        memcpy (payload, c->ahead + c->start + HEADER_SIZE, length);
        c->start += HEADER_SIZE + length;
        hand_out (c, payload, length);
    } else if (length >= LARGE) {
        size_t there = c->end - c->start - HEADER_SIZE;

        c->length = length;
        c->payload = payload_block (length);
        memcpy (c->payload, c->ahead + c->start + HEADER_SIZE, there);
        c->have = HEADER_SIZE + there;
        c->start = c->end;
    }
}

static void
queue (struct end *c)
{
    if (! c->is_queued) {
        c->is_queued = 1;
        server.turns[(server.first + server.queued++) % MOST] = c;
    }
}

/* One turn: a message, or a part of a message. */
static void
serve_member (struct end *c)
{
    ssize_t count = 1;

    is_still_the_socket (c);
    if (c->have > 0) {
        count = receive_rest (c);
    } else if (has_frame (c)) {
        cut (c);
    } else if (c->end == c->start && server.expected >= LARGE) {
        count = receive_both (c, server.expected);
    } else {
        memmove (c->ahead, c->ahead + c->start, c->end - c->start);
        c->end -= c->start;
        c->start = 0;
        count = recv (c->fd, c->ahead + c->end, AHEAD - c->end, MSG_DONTWAIT);
        c->end += count > 0 ? (size_t) count : 0;
        cut (c);
    }
    if (count == 0) {
        leave (c);
        return;
    }
    check ("recv", count);
    if (c->have > 0 && c->have == HEADER_SIZE + c->length) {
        char *payload = c->payload;

        c->have = 0;
        c->payload = NULL;
        hand_out (c, payload, c->length);
    }
    if (has_frame (c)) {
        queue (c);
    }
}

/* Ready connections have their turns; a round has at least two turns, so that a client that sends much costs half a
 * query each. */
static void
begin_round (const int *ready, int found)
{
    for (int i = 0; i < found; i++) {
        if (ready[i] == server.listener) {
            take_client ();
        } else if (ready[i] != server.clock) {
            queue (server.by_number[ready[i]]);
        }
    }
    server.left = server.queued > 2 ? server.queued : 2;
}

static void
open_service (const struct setup *setup)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    server.inbox.setup = setup;
    server.listener = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    server.set = epoll_create1 (EPOLL_CLOEXEC);
    server.clock = timerfd_create (CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    path_in_directory (address.sun_path, sizeof address.sun_path, setup->name);
    check ("socket", server.listener);
    server.cookie = cookie_of (server.listener);
    check ("epoll_create1", server.set);
    check ("F_SETSIG", fcntl (server.set, F_SETSIG, MARK));
    check ("timerfd_create", server.clock);
    check ("bind", bind (server.listener, (struct sockaddr *) &address, sizeof address));
    check ("listen", listen (server.listener, INT32_MAX));
    watch (server.listener);
}

/* Waits, and takes new clients or serves the next connection. */
static void
serve_next (void)
{
    int ready[BATCH];
    struct end *next;

    if (server.queued == 0) {
        begin_round (ready, await_ready (ready));
    } else if (server.left == 0) {
        begin_round (ready, server.count <= FEW ? poll_few (ready, 0) : ask (ready));
    }
    if (server.queued == 0) {
        return;
    }
    next = server.turns[server.first];
    server.first = (server.first + 1) % MOST;
    server.queued--;
    server.left--;
    next->is_queued = 0;
    serve_member (next);
}

static void
serve_full (const struct setup *setup)
{
    open_service (setup);
    serving ();
    for (;;) {
        serve_next ();
    }
}

void
trips_of_full (size_t size, long count)
{
    struct setup setup = {.name = "count", .size = size, .manner = ANSWER_ALL};
    struct end *client;

    make_directory ();
    open_service (&setup);
    client = connect_full (&setup);
    serve_next ();
    for (long i = 1; i <= count; i++) {
        put_number (payload_full (client), size, (uint64_t) i);
        send_full (client);
        serve_next ();
        check_number (receive_full (client), size, (uint64_t) i);
    }
    disconnect_full (client);
}

const struct transport full = {
    .name = "full",
    .serve = serve_full,
    .connect = connect_full,
    .payload = payload_full,
    .send = send_full,
    .receive = receive_full,
    .disconnect = disconnect_full,
};
