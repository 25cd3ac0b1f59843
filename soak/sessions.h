/*
 * The server's sessions: one for each connection, from its CONNECTION to its DISCONNECTION, with what the server
 * expects of it. What the event loop tells is compared with them.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SESSIONS_H
#define SESSIONS_H

#include "stream.h"

/* What a client says of itself, in the payload of its first message. */
struct hello {
    uint64_t seed;
    uint32_t behaviour;
    uint32_t seat;
    uint32_t largest;
    uint32_t is_flat;
    /* What the server is to set for the connection. */
    uint32_t max_message, max_queue, wants_descriptors;
};

/* The streams of a client's lanes, and the one that fills its queue. */
struct stream up_stream (const struct hello *hello, int lane);
struct stream down_stream (const struct hello *hello);

struct session {
    struct ipc_connection_info *origin;
    enum behaviour behaviour;
    struct hello hello;
    struct stream up[LANES];
    struct stream down;
    /* An ERROR was told: nothing but the DISCONNECTION may follow. */
    bool has_failed;
    /* It is to be ended; and the server has closed it, and is to be told the end. */
    bool is_to_drop, is_dropped;
    /* It was refused, and is to be told how many messages were accepted, when there is room. */
    bool owes_count;
};

/* The session of an event's origin, which has to have one. */
struct session *session_of (const struct ipc_connection_info *origin, const char *event);

void session_begin (struct ipc_connection_info *origin);
/* Frees the origin, too. */
void session_end (struct session *session);
int sessions_open (void);

/* Whether the client may end its connection, or break it, when it likes. */
bool may_go (const struct session *session);

/* Does what the message asks for. */
void session_take (struct session *session, const struct ipc_message *m);

/* Ends those that are to be dropped. Not while there are events in hand that may name them. */
void sessions_drop (struct ipc_connection_infos *clients);

/* Tries again what was refused, and adds up what is queued. */
void sessions_tick (void);

#endif
