/*
 * sd-bus, peer to peer: method calls with an array of bytes, and answers with the same bytes; without a bus daemon.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-bus.h>

struct connection {
    sd_bus *bus;
    sd_bus_message *in;
    enum manner manner;
    size_t size;
    char out[];
};

/* Reports a call that failed, by its negative errno. */
static int
check (const char *what, int result)
{
    if (result < 0) {
        fail ("sd-bus: %s: %s", what, strerror (-result));
    }
    return result;
}

static int
open_socket (const char *name, struct sockaddr_un *address)
{
    int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        fail ("sd-bus: socket: %s", strerror (errno));
    }
    memset (address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    path_in_directory (address->sun_path, sizeof address->sun_path, name);
    return fd;
}

static sd_bus *
start_bus (int fd, bool is_server)
{
    sd_id128_t id = {{0}};
    sd_bus *bus;

    id.bytes[0] = 1;
    check ("sd_bus_new", sd_bus_new (&bus));
    check ("sd_bus_set_fd", sd_bus_set_fd (bus, fd, fd));
    if (is_server) {
        check ("sd_bus_set_server", sd_bus_set_server (bus, 1, id));
    }
    check ("sd_bus_set_anonymous", sd_bus_set_anonymous (bus, 1));
    check ("sd_bus_set_trusted", sd_bus_set_trusted (bus, 1));
    check ("sd_bus_start", sd_bus_start (bus));
    return bus;
}

/* Without a pointer for its number, the call is one that expects no answer. */
static void
send_message (sd_bus *bus, sd_bus_message *m, const void *bytes, size_t size, uint64_t *number)
{
    check ("sd_bus_message_append_array", sd_bus_message_append_array (m, 'y', bytes, size));
    check ("sd_bus_send", sd_bus_send (bus, m, number));
    /* Bytes that the kernel does not accept at once are queued, up to a limit. */
    check ("sd_bus_flush", sd_bus_flush (bus));
    sd_bus_message_unref (m);
}

/* The next message; NULL if the peer has left. */
static sd_bus_message *
next_message (sd_bus *bus)
{
    for (;;) {
        sd_bus_message *m = NULL;
        int result = sd_bus_process (bus, &m);

        if (result == -ECONNRESET || result == -ENOTCONN) {
            return NULL;
        }
        if (check ("sd_bus_process", result) == 0) {
            check ("sd_bus_wait", sd_bus_wait (bus, UINT64_MAX));
        } else if (m != NULL && sd_bus_message_is_signal (m, "org.freedesktop.DBus.Local", "Disconnected") > 0) {
            return NULL;
        } else if (m != NULL) {
            return m;
        }
    }
}

static const void *
bytes_of (sd_bus_message *m, size_t *size)
{
    const void *bytes;

    check ("sd_bus_message_read_array", sd_bus_message_read_array (m, 'y', &bytes, size));
    return bytes;
}

static void
serve (const struct setup *setup)
{
    struct inbox inbox = {.setup = setup};
    struct sockaddr_un address;
    int listener = open_socket (setup->name, &address);
    sd_bus_message *m;
    sd_bus *bus;
    int fd;

    if (bind (listener, (struct sockaddr *) &address, sizeof address) != 0 || listen (listener, 8) != 0) {
        fail ("sd-bus: bind or listen: %s", strerror (errno));
    }
    serving ();
    fd = accept4 (listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        fail ("sd-bus: accept4: %s", strerror (errno));
    }
    bus = start_bus (fd, true);
    while ((m = next_message (bus)) != NULL) {
        size_t size;
        const void *bytes = bytes_of (m, &size);

        if (wants_answer (&inbox, bytes, size)) {
            sd_bus_message *answer;

            check ("sd_bus_message_new_method_return", sd_bus_message_new_method_return (m, &answer));
            send_message (bus, answer, bytes, size, NULL);
        }
        sd_bus_message_unref (m);
    }
    sd_bus_unref (bus);
}

static void *
connect_sd_bus (const struct setup *setup)
{
    struct connection *c = checked_alloc (sizeof *c + setup->size);
    struct sockaddr_un address;
    int fd = open_socket (setup->name, &address);

    memset (c->out, 0x5a, setup->size);
    if (connect (fd, (struct sockaddr *) &address, sizeof address) != 0) {
        fail ("sd-bus: connect: %s", strerror (errno));
    }
    c->bus = start_bus (fd, false);
    c->manner = setup->manner;
    c->size = setup->size;
    return c;
}

static void
disconnect (void *connection)
{
    struct connection *c = connection;

    sd_bus_message_unref (c->in);
    sd_bus_flush_close_unref (c->bus);
    free (c);
}

static char *
payload (void *connection)
{
    return ((struct connection *) connection)->out;
}

static void
send_sd_bus (void *connection)
{
    struct connection *c = connection;
    sd_bus_message *m;
    bool has_answer = is_question (c->manner, c->out, c->size);
    uint64_t cookie;

    check ("sd_bus_message_new_method_call",
           sd_bus_message_new_method_call (c->bus, &m, NULL, "/bench", "org.libipc.Bench", "Echo"));
    send_message (c->bus, m, c->out, c->size, has_answer ? &cookie : NULL);
}

static const char *
receive (void *connection)
{
    struct connection *c = connection;
    const char *bytes;
    size_t size;

    sd_bus_message_unref (c->in);
    c->in = next_message (c->bus);
    if (c->in == NULL) {
        fail ("sd-bus: the server has closed the connection");
    }
    bytes = bytes_of (c->in, &size);
    if (size != c->size) {
        fail ("sd-bus: %zu bytes have come instead of %zu", size, c->size);
    }
    return bytes;
}

const struct transport sd_bus_peer = {
    .name = "sd-bus",
    .is_peer = true,
    .serve = serve,
    .connect = connect_sd_bus,
    .payload = payload,
    .send = send_sd_bus,
    .receive = receive,
    .disconnect = disconnect,
};
