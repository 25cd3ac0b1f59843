/*
 * libipc: the server waits in ipc_wait_event; the client writes and reads a connection that is in no list. In batches:
 * the client queues and flushes, the server receives all pending events in one call.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <ipc_ext.h>

/* Messages that are queued before a flush, and events that are received in one call. */
#define BATCH 512
#define EVENTS 64

struct connection {
    struct ipc_connection_info info;
    struct ipc_message out, in;
    size_t size;
    int queued;
};

static void
check (const char *what, enum ipc_errors code)
{
    if (code != IPC_ERROR_NONE) {
        fail ("libipc: %s: %s (%s)", what, ipc_errors_get (code), strerror (errno));
    }
}

static void *
connect_ipc (const struct setup *setup)
{
    struct connection *c = checked_alloc (sizeof *c);

    check ("ipc_connection", ipc_connection (environ, &c->info, setup->name));
    c->size = setup->size;
    if (c->size > 0) {
        c->out.payload = checked_buffer (c->size);
        c->out.length = (uint32_t) c->size;
    }
    return c;
}

static void
disconnect_ipc (void *connection)
{
    struct connection *c = connection;

    check ("ipc_close", ipc_close (&c->info));
    check ("ipc_message_empty", ipc_message_empty (&c->out));
    check ("ipc_message_empty", ipc_message_empty (&c->in));
    free (c);
}

static char *
payload_ipc (void *connection)
{
    return ((struct connection *) connection)->out.payload;
}

static void
send_ipc (void *connection)
{
    struct connection *c = connection;

    check ("ipc_write", ipc_write (&c->info, &c->out));
}

static const char *
receive_ipc (void *connection)
{
    struct connection *c = connection;

    check ("ipc_message_empty", ipc_message_empty (&c->in));
    check ("ipc_read", ipc_read (&c->info, &c->in));
    if (c->in.length != c->size) {
        fail ("libipc: %u bytes have come instead of %zu", (unsigned) c->in.length, c->size);
    }
    return c->in.payload;
}

static void
serve_ipc (const struct setup *setup)
{
    struct inbox inbox = {.setup = setup};
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos clients = {0};
    struct ipc_event event = {0};
    struct ipc_connection_info *last = NULL;
    struct ipc_message answer = {0};

    check ("ipc_server_init", ipc_server_init (environ, &service, setup->name));
    serving ();
    for (;;) {
        const struct ipc_message *m;

        check ("ipc_wait_event", ipc_wait_event (&clients, &service, &event));
        switch (event.type) {
        case IPC_EVENT_TYPE_CONNECTION:
            break;
        case IPC_EVENT_TYPE_DISCONNECTION:
            free (event.origin);
            break;
        case IPC_EVENT_TYPE_MESSAGE:
            m = event.m;
            if (! wants_answer (&inbox, m->payload, m->length)) {
                break;
            }
            if (setup->manner == ANSWER_LAST) {
                last = event.origin;
                check ("ipc_message_format_data",
                       ipc_message_format_data (&answer, m->payload, (ssize_t) m->length));
            } else {
                check ("ipc_write", ipc_write (event.origin, m));
            }
            break;
        default:
            fail ("libipc: an event of type %d", (int) event.type);
        }
        if (last != NULL && clients.size == 1) {
            check ("ipc_write", ipc_write (last, &answer));
            last = NULL;
        }
    }
}

/* Only the client's marked message is answered. */
static void
serve_ipc_events (const struct setup *setup)
{
    struct inbox inbox = {.setup = setup};
    struct ipc_connection_info service = {0};
    struct ipc_connection_infos clients = {0};
    struct ipc_event events[EVENTS] = {0};

    check ("ipc_server_init", ipc_server_init (environ, &service, setup->name));
    serving ();
    for (;;) {
        size_t count = EVENTS;

        check ("ipc_wait_events", ipc_wait_events (&clients, &service, events, &count, -1));
        for (size_t i = 0; i < count; i++) {
            const struct ipc_message *m = events[i].m;

            if (events[i].type == IPC_EVENT_TYPE_DISCONNECTION) {
                free (events[i].origin);
            } else if (events[i].type == IPC_EVENT_TYPE_MESSAGE && wants_answer (&inbox, m->payload, m->length)) {
                check ("ipc_write", ipc_write (events[i].origin, m));
            }
        }
    }
}

static void
queue_ipc (void *connection)
{
    struct connection *c = connection;

    check ("ipc_queue", ipc_queue (&c->info, &c->out));
    c->queued++;
    if (c->queued % BATCH == 0) {
        check ("ipc_flush", ipc_flush (&c->info, -1));
    }
}

static const char *
flush_and_receive_ipc (void *connection)
{
    struct connection *c = connection;

    check ("ipc_flush", ipc_flush (&c->info, -1));
    return receive_ipc (c);
}

const struct transport libipc_queue = {
    .name = "libipc",
    .serve = serve_ipc_events,
    .connect = connect_ipc,
    .payload = payload_ipc,
    .send = queue_ipc,
    .receive = flush_and_receive_ipc,
    .disconnect = disconnect_ipc,
};

const struct transport libipc = {
    .name = "libipc",
    .serve = serve_ipc,
    .connect = connect_ipc,
    .payload = payload_ipc,
    .send = send_ipc,
    .receive = receive_ipc,
    .disconnect = disconnect_ipc,
};
