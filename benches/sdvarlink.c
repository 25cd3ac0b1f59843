/*
 * sd-varlink: method calls in JSON, with the bytes in base64, and answers with the same bytes.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "bench.h"

#include <limits.h>
#include <systemd/sd-json.h>
#include <systemd/sd-varlink.h>

#define METHOD "org.libipc.Bench.Echo"
#define KEY "bytes"

struct connection {
    sd_varlink *link;
    void *in;
    size_t in_size;
    bool is_answered;
    enum manner manner;
    size_t size;
    char out[];
};

/* Reports a call that failed, by its negative errno. */
static int
check (const char *what, int result)
{
    if (result < 0) {
        fail ("sd-varlink: %s: %s", what, strerror (-result));
    }
    return result;
}

static sd_json_variant *
parameters_with (const void *bytes, size_t size)
{
    sd_json_variant *parameters = NULL;

    check ("sd_json_build", sd_json_buildo (&parameters, SD_JSON_BUILD_PAIR_BASE64 (KEY, bytes, size)));
    return parameters;
}

/* The bytes, to be freed. */
static void *
bytes_of (sd_json_variant *parameters, size_t *size)
{
    void *bytes = NULL;

    check ("sd_json_variant_unbase64",
           sd_json_variant_unbase64 (sd_json_variant_by_key (parameters, KEY), &bytes, size));
    return bytes;
}

static int
echo (sd_varlink *link, sd_json_variant *parameters, sd_varlink_method_flags_t flags, void *inbox)
{
    size_t size = 0;
    void *bytes = bytes_of (parameters, &size);

    (void) flags;
    if (wants_answer (inbox, bytes, size)) {
        sd_json_variant *answer = parameters_with (bytes, size);

        check ("sd_varlink_reply", sd_varlink_reply (link, answer));
        sd_json_variant_unref (answer);
    }
    free (bytes);
    return 0;
}

static void
serve (const struct setup *setup)
{
    struct inbox inbox = {.setup = setup};
    char address[PATH_MAX];
    sd_varlink_server *server;

    path_in_directory (address, sizeof address, setup->name);
    check ("sd_varlink_server_new", sd_varlink_server_new (&server, SD_VARLINK_SERVER_INHERIT_USERDATA));
    sd_varlink_server_set_userdata (server, &inbox);
    check ("sd_varlink_server_bind_method", sd_varlink_server_bind_method (server, METHOD, echo));
    check ("sd_varlink_server_listen_address", sd_varlink_server_listen_address (server, address, 0600));
    serving ();
    check ("sd_varlink_server_loop_auto", sd_varlink_server_loop_auto (server));
}

static int
take_answer (sd_varlink *link, sd_json_variant *parameters, const char *error, sd_varlink_reply_flags_t flags,
             void *connection)
{
    struct connection *c = connection;

    (void) link;
    (void) flags;
    if (error != NULL) {
        fail ("sd-varlink: the server has answered %s", error);
    }
    free (c->in);
    c->in = bytes_of (parameters, &c->in_size);
    c->is_answered = true;
    return 0;
}

static void *
connect_sd_varlink (const struct setup *setup)
{
    struct connection *c = checked_alloc (sizeof *c + setup->size);
    char address[PATH_MAX];

    path_in_directory (address, sizeof address, setup->name);
    memset (c->out, 0x5a, setup->size);
    c->manner = setup->manner;
    c->size = setup->size;
    check ("sd_varlink_connect_address", sd_varlink_connect_address (&c->link, address));
    sd_varlink_set_userdata (c->link, c);
    check ("sd_varlink_bind_reply", sd_varlink_bind_reply (c->link, take_answer));
    return c;
}

static void
disconnect (void *connection)
{
    struct connection *c = connection;

    sd_varlink_flush_close_unref (c->link);
    free (c->in);
    free (c);
}

static char *
payload (void *connection)
{
    return ((struct connection *) connection)->out;
}

static void
send_sd_varlink (void *connection)
{
    struct connection *c = connection;
    sd_json_variant *parameters = parameters_with (c->out, c->size);

    if (is_question (c->manner, c->out, c->size)) {
        check ("sd_varlink_invoke", sd_varlink_invoke (c->link, METHOD, parameters));
    } else {
        check ("sd_varlink_send", sd_varlink_send (c->link, METHOD, parameters));
    }
    /* Bytes that the kernel does not accept at once are queued. */
    check ("sd_varlink_flush", sd_varlink_flush (c->link));
    sd_json_variant_unref (parameters);
}

static const char *
receive (void *connection)
{
    struct connection *c = connection;

    c->is_answered = false;
    while (! c->is_answered) {
        if (check ("sd_varlink_process", sd_varlink_process (c->link)) == 0) {
            check ("sd_varlink_wait", sd_varlink_wait (c->link, UINT64_MAX));
        }
    }
    if (c->in_size != c->size) {
        fail ("sd-varlink: %zu bytes were received instead of %zu", c->in_size, c->size);
    }
    return c->in;
}

const struct transport sd_varlink_peer = {
    .name = "sd-varlink",
    .is_peer = true,
    .largest = 65536,
    .serve = serve,
    .connect = connect_sd_varlink,
    .payload = payload,
    .send = send_sd_varlink,
    .receive = receive,
    .disconnect = disconnect,
};
