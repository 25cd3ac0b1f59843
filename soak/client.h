/*
 * A client: one process, one connection to the server, and the behaviours that a client can have.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "sessions.h"

/* The largest payload of clients that allocate that much. */
#define LARGEST IPC_MAX_MESSAGE_SIZE

struct client {
    enum behaviour behaviour;
    struct seat *seat;
    struct dice dice;
    struct ipc_connection_info info;
    struct hello hello;
    /* The messages that it sends, and the answers, which are the same messages. */
    struct stream up[LANES], back[LANES];
    /* A buffer for a payload to send, of hello.largest bytes. */
    char *room;
};

/* A whole session, from before the connection until after it; in a process of its own. */
void client_run (enum behaviour behaviour, int seat, uint64_t seed);

/* ---- Shared by the behaviours ---- */

/* Connects; ends the process if that fails. */
void client_connect (struct client *client);

/* Connects, sends HELLO with the content of client->hello, and waits for the answer. */
void client_begin (struct client *client);

/* Sends the next message of the lane. */
void client_send (struct client *client, enum verb verb, int lane);

/* Waits for a message; returns whether one arrived. The caller frees it. */
bool client_read (struct client *client, struct ipc_message *m);

/* Waits for the next answer, which must be right; returns whether one arrived. */
bool client_receive (struct client *client);

/* Checks an answer. */
void client_take (struct client *client, const struct ipc_message *m);

/* Checks that every request was answered. */
void client_has_all (const struct client *client);

/* Checks that the server has ended the connection: no byte arrives any more. */
void client_awaits_end (struct client *client);

void client_close (struct client *client);

/* From now on no wait of this process may take longer than LIMIT_SECONDS. */
void client_limit (void);

/* Records how long a request and its answer took. */
void client_turn (const struct client *client, uint64_t begin);

/* ---- Behaviours ---- */

void be_warming (struct client *client);
void be_polite (struct client *client);
void be_flooding (struct client *client);
void be_threads (struct client *client);
void be_descriptors (struct client *client);
void be_slow (struct client *client);
void be_stuck (struct client *client);
void be_hostile (struct client *client);
void be_killed (struct client *client);
void be_dismissed (struct client *client);

#endif
