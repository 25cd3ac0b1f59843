/*
 * libqb: requests and responses through shared memory, its default, served by its own event loop.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <sched.h>
#include <signal.h>
#include <sys/uio.h>

#include <qb/qbdefs.h>
#include <qb/qbipcc.h>
#include <qb/qbipcs.h>
#include <qb/qbloop.h>

#define MESSAGE_ID 1

struct connection {
    qb_ipcc_connection_t *ipc;
    size_t size;
    char *in;
    struct qb_ipc_request_header header; /* and the payload */
};

static size_t
largest (const struct setup *setup)
{
    return setup->size + sizeof (struct qb_ipc_response_header) + 4096;
}

static void
check (const char *what, long result)
{
    if (result < 0) {
        fail ("libqb: %s: %s", what, strerror ((int) -result));
    }
}

/* The server. Its loop calls the callbacks; these variables are for them. */

static qb_loop_t *loop;
static qb_ipcs_service_t *service;
static struct inbox inbox;

static int32_t
accept_client (qb_ipcs_connection_t *c, uid_t user, gid_t group)
{
    (void) c, (void) user, (void) group;
    return 0;
}

static int32_t
take_message (qb_ipcs_connection_t *c, void *data, size_t size)
{
    char *payload = (char *) data + sizeof (struct qb_ipc_request_header);
    size_t length = size - sizeof (struct qb_ipc_request_header);
    struct qb_ipc_response_header header = {.id = MESSAGE_ID, .size = (int32_t) (sizeof header + length)};
    struct iovec pieces[] = {{&header, sizeof header}, {payload, length}};
    ssize_t sent;

    if (! wants_answer (&inbox, payload, length)) {
        return 0;
    }
    while ((sent = qb_ipcs_response_sendv (c, pieces, 2)) == -EAGAIN) {
        sched_yield ();
    }
    check ("qb_ipcs_response_sendv", sent);
    return 0;
}

static int32_t
add_job (enum qb_loop_priority priority, void *data, qb_loop_job_dispatch_fn function)
{
    return qb_loop_job_add (loop, priority, data, function);
}

static int32_t
add_descriptor (enum qb_loop_priority priority, int32_t fd, int32_t events, void *data,
                qb_ipcs_dispatch_fn_t function)
{
    return qb_loop_poll_add (loop, priority, fd, events, data, function);
}

static int32_t
modify_descriptor (enum qb_loop_priority priority, int32_t fd, int32_t events, void *data,
                   qb_ipcs_dispatch_fn_t function)
{
    return qb_loop_poll_mod (loop, priority, fd, events, data, function);
}

static int32_t
delete_descriptor (int32_t fd)
{
    return qb_loop_poll_del (loop, fd);
}

/* libqb does not remove its files in /dev/shm. */
static int32_t
end (int32_t signal, void *data)
{
    (void) signal, (void) data;
    qb_ipcs_destroy (service);
    exit (EXIT_SUCCESS);
}

static void
serve (const struct setup *setup)
{
    static struct qb_ipcs_service_handlers handlers = {
        .connection_accept = accept_client,
        .msg_process = take_message,
    };
    static struct qb_ipcs_poll_handlers polling = {
        .job_add = add_job,
        .dispatch_add = add_descriptor,
        .dispatch_mod = modify_descriptor,
        .dispatch_del = delete_descriptor,
    };

    inbox.setup = setup;
    loop = qb_loop_create ();
    service = qb_ipcs_create (setup->name, 0, QB_IPC_SHM, &handlers);
    if (loop == NULL || service == NULL) {
        fail ("libqb: no loop or no service: %s", strerror (errno));
    }
    check ("qb_loop_signal_add", qb_loop_signal_add (loop, QB_LOOP_HIGH, SIGTERM, NULL, end, NULL));
    qb_ipcs_poll_handlers_set (service, &polling);
    qb_ipcs_enforce_buffer_size (service, (uint32_t) largest (setup));
    check ("qb_ipcs_run", qb_ipcs_run (service));
    serving ();
    qb_loop_run (loop);
}

/* The client. */

static void *
connect_libqb (const struct setup *setup)
{
    struct connection *c = checked_alloc (sizeof *c + setup->size);

    c->ipc = qb_ipcc_connect (setup->name, largest (setup));
    if (c->ipc == NULL) {
        fail ("libqb: qb_ipcc_connect: %s", strerror (errno));
    }
    c->size = setup->size;
    c->in = checked_buffer (largest (setup));
    c->header.id = MESSAGE_ID;
    c->header.size = (int32_t) (sizeof c->header + setup->size);
    return c;
}

static void
disconnect (void *connection)
{
    struct connection *c = connection;

    qb_ipcc_disconnect (c->ipc);
    free (c->in);
    free (c);
}

static char *
payload (void *connection)
{
    return (char *) (&((struct connection *) connection)->header + 1);
}

static void
send_libqb (void *connection)
{
    struct connection *c = connection;
    ssize_t sent;

    while ((sent = qb_ipcc_send (c->ipc, &c->header, (size_t) c->header.size)) == -EAGAIN) {
        sched_yield ();
    }
    check ("qb_ipcc_send", sent);
}

static const char *
receive (void *connection)
{
    struct connection *c = connection;
    size_t wanted = sizeof (struct qb_ipc_response_header) + c->size;
    ssize_t came = qb_ipcc_recv (c->ipc, c->in, wanted, -1);

    check ("qb_ipcc_recv", came);
    if ((size_t) came != wanted) {
        fail ("libqb: %zd bytes have come instead of %zu", came, wanted);
    }
    return c->in + sizeof (struct qb_ipc_response_header);
}

const struct transport libqb = {
    .name = "libqb",
    .is_peer = true,
    .serve = serve,
    .connect = connect_libqb,
    .payload = payload,
    .send = send_libqb,
    .receive = receive,
    .disconnect = disconnect,
};
