/*
 * ZeroMQ (libzmq): a ROUTER serves DEALERs over ipc://.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <zmq.h>

struct connection {
    void *socket;
    size_t size;
    zmq_msg_t in;
    char out[];
};

static void
check (const char *what, int result)
{
    if (result < 0) {
        fail ("zeromq: %s: %s", what, zmq_strerror (zmq_errno ()));
    }
}

/* One context for the process, created after the fork. */
static void *
new_socket (int type, char *endpoint, size_t size, const char *name)
{
    static void *context;
    char path[100];
    void *socket;
    int linger = 0;

    if (context == NULL && (context = zmq_ctx_new ()) == NULL) {
        fail ("zeromq: zmq_ctx_new: %s", zmq_strerror (zmq_errno ()));
    }
    socket = zmq_socket (context, type);
    if (socket == NULL) {
        fail ("zeromq: zmq_socket: %s", zmq_strerror (zmq_errno ()));
    }
    check ("ZMQ_LINGER", zmq_setsockopt (socket, ZMQ_LINGER, &linger, sizeof linger));
    path_in_directory (path, sizeof path, name);
    snprintf (endpoint, size, "ipc://%s", path);
    return socket;
}

static void
serve (const struct setup *setup)
{
    struct inbox inbox = {.setup = setup};
    char endpoint[128];
    void *socket = new_socket (ZMQ_ROUTER, endpoint, sizeof endpoint, setup->name);
    zmq_msg_t client, m;

    check ("zmq_bind", zmq_bind (socket, endpoint));
    serving ();
    check ("zmq_msg_init", zmq_msg_init (&client));
    check ("zmq_msg_init", zmq_msg_init (&m));
    for (;;) {
        check ("zmq_msg_recv", zmq_msg_recv (&client, socket, 0));
        check ("zmq_msg_recv", zmq_msg_recv (&m, socket, 0));
        if (wants_answer (&inbox, zmq_msg_data (&m), zmq_msg_size (&m))) {
            check ("zmq_msg_send", zmq_msg_send (&client, socket, ZMQ_SNDMORE));
            check ("zmq_msg_send", zmq_msg_send (&m, socket, 0));
        }
    }
}

static void *
connect_zeromq (const struct setup *setup)
{
    struct connection *c = checked_alloc (sizeof *c + setup->size);
    char endpoint[128];

    c->socket = new_socket (ZMQ_DEALER, endpoint, sizeof endpoint, setup->name);
    c->size = setup->size;
    check ("zmq_connect", zmq_connect (c->socket, endpoint));
    check ("zmq_msg_init", zmq_msg_init (&c->in));
    return c;
}

static void
disconnect (void *connection)
{
    struct connection *c = connection;

    zmq_msg_close (&c->in);
    check ("zmq_close", zmq_close (c->socket));
    free (c);
}

static char *
payload (void *connection)
{
    return ((struct connection *) connection)->out;
}

static void
send_zeromq (void *connection)
{
    struct connection *c = connection;

    check ("zmq_send", zmq_send (c->socket, c->out, c->size, 0));
}

static const char *
receive (void *connection)
{
    struct connection *c = connection;

    check ("zmq_msg_recv", zmq_msg_recv (&c->in, c->socket, 0));
    if (zmq_msg_size (&c->in) != c->size) {
        fail ("zeromq: %zu bytes have come instead of %zu", zmq_msg_size (&c->in), c->size);
    }
    return zmq_msg_data (&c->in);
}

const struct transport zeromq = {
    .name = "zeromq",
    .is_peer = true,
    .serve = serve,
    .connect = connect_zeromq,
    .payload = payload,
    .send = send_zeromq,
    .receive = receive,
    .disconnect = disconnect,
};
