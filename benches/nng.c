/*
 * nng: PAIR for one client, REQ and REP for many, over ipc://.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>

struct connection {
    nng_socket socket;
    size_t size;
    void *in;
    char out[];
};

static void
check (const char *what, int result)
{
    if (result != 0) {
        fail ("nng: %s: %s", what, nng_strerror (result));
    }
}

static void
prepare (nng_socket socket, char *url, size_t size, const char *name)
{
    char path[100];

    /* Switches off the limit of the size of messages. */
    check ("NNG_OPT_RECVMAXSZ", nng_socket_set_size (socket, NNG_OPT_RECVMAXSZ, 0));
    path_in_directory (path, sizeof path, name);
    snprintf (url, size, "ipc://%s", path);
}

static void
serve (const struct setup *setup, int (*open) (nng_socket *))
{
    struct inbox inbox = {.setup = setup};
    nng_socket socket;
    char url[128];

    check ("open", open (&socket));
    prepare (socket, url, sizeof url, setup->name);
    check ("nng_listen", nng_listen (socket, url, NULL, 0));
    serving ();
    for (;;) {
        nng_msg *m;

        check ("nng_recvmsg", nng_recvmsg (socket, &m, 0));
        if (wants_answer (&inbox, nng_msg_body (m), nng_msg_len (m))) {
            check ("nng_sendmsg", nng_sendmsg (socket, m, 0));
        } else {
            nng_msg_free (m);
        }
    }
}

static void
serve_pair (const struct setup *setup)
{
    serve (setup, nng_pair0_open);
}

static void
serve_rep (const struct setup *setup)
{
    serve (setup, nng_rep0_open);
}

static void *
connect_nng (const struct setup *setup, int (*open) (nng_socket *))
{
    struct connection *c = checked_alloc (sizeof *c + setup->size);
    char url[128];

    check ("open", open (&c->socket));
    prepare (c->socket, url, sizeof url, setup->name);
    check ("nng_dial", nng_dial (c->socket, url, NULL, 0));
    c->size = setup->size;
    return c;
}

static void *
connect_pair (const struct setup *setup)
{
    return connect_nng (setup, nng_pair0_open);
}

static void *
connect_req (const struct setup *setup)
{
    return connect_nng (setup, nng_req0_open);
}

static void
disconnect (void *connection)
{
    struct connection *c = connection;

    nng_free (c->in, c->size);
    check ("nng_close", nng_close (c->socket));
    free (c);
}

static char *
payload (void *connection)
{
    return ((struct connection *) connection)->out;
}

static void
send_nng (void *connection)
{
    struct connection *c = connection;

    check ("nng_send", nng_send (c->socket, c->out, c->size, 0));
}

static const char *
receive (void *connection)
{
    struct connection *c = connection;
    size_t size;

    nng_free (c->in, c->size);
    check ("nng_recv", nng_recv (c->socket, &c->in, &size, NNG_FLAG_ALLOC));
    if (size != c->size) {
        fail ("nng: %zu bytes have come instead of %zu", size, c->size);
    }
    return c->in;
}

const struct transport nng_pair = {
    .name = "nng",
    .is_peer = true,
    .serve = serve_pair,
    .connect = connect_pair,
    .payload = payload,
    .send = send_nng,
    .receive = receive,
    .disconnect = disconnect,
};

const struct transport nng_reqrep = {
    .name = "nng",
    .is_peer = true,
    .serve = serve_rep,
    .connect = connect_req,
    .payload = payload,
    .send = send_nng,
    .receive = receive,
    .disconnect = disconnect,
};
