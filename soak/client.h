/*
 * A client: one process, one connection to the server, and what each behaviour makes of it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "sessions.h"

/* The largest payload of the clients that have the room for it. */
#define LARGEST IPC_MAX_MESSAGE_SIZE

struct client {
    enum behaviour behaviour;
    struct seat *seat;
    struct dice dice;
    struct ipc_connection_info info;
    struct hello hello;
    /* What it sends, and what has to come back, which is the same. */
    struct stream up[LANES], back[LANES];
    /* For a payload to send: hello.largest bytes. */
    char *room;
};

/* A whole session, from before the connection to after it; in a process of its own. */
void client_run (enum behaviour behaviour, int seat, uint64_t seed);

/* ---- What the behaviours share ---- */

/* Connects. Without it nothing goes: ends the process. */
void client_connect (struct client *client);

/* Connects, says hello with what client->hello has, and waits for the answer. */
void client_begin (struct client *client);

/* Sends the next message of the lane. */
void client_send (struct client *client, enum verb verb, int lane);

/* Waits for a message; whether there was one. It is the caller's to empty. */
bool client_read (struct client *client, struct ipc_message *m);

/* Waits for the next answer, which has to be right; whether there was one. */
bool client_receive (struct client *client);

/* An answer has come. */
void client_take (struct client *client, const struct ipc_message *m);

/* Everything that was asked has to be answered by now. */
void client_has_all (const struct client *client);

/* The server has to have ended the connection: nothing more comes. */
void client_awaits_end (struct client *client);

void client_close (struct client *client);

/* Nothing that the process waits for from now on may take longer than LIMIT_SECONDS. */
void client_limit (void);

/* A question and its answer have taken so long. */
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
