/*
 * The server's sessions: one for each connection, from its CONNECTION to its DISCONNECTION, with the server's
 * expectations. The events of the event loop are compared with them.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SESSIONS_H
#define SESSIONS_H

#include "stream.h"

/* The description that a client sends of itself, in the payload of its first message. */
struct hello {
    uint64_t seed;
    uint32_t behaviour;
    uint32_t seat;
    uint32_t largest;
    uint32_t is_flat;
    /* The settings that the server must make for the connection. */
    uint32_t max_message, max_queue, wants_descriptors;
};

/* The streams of a client's lanes, and the stream that fills its queue. */
struct stream up_stream (const struct hello *hello, int lane);
struct stream down_stream (const struct hello *hello);

struct session {
    struct ipc_connection_info *origin;
    enum behaviour behaviour;
    struct hello hello;
    struct stream up[LANES];
    struct stream down;
    /* An ERROR was reported: only the DISCONNECTION may follow. */
    bool has_failed;
    /* The session must be ended; and the server has closed it, and its DISCONNECTION must be reported. */
    bool is_to_drop, is_dropped;
    /* A message was refused; the number of accepted messages must be sent when the queue has room. */
    bool owes_count;
};

/* The session of an event's origin, which must have one. */
struct session *session_of (const struct ipc_connection_info *origin, const char *event);

void session_begin (struct ipc_connection_info *origin);
/* Also frees the origin. */
void session_end (struct session *session);
int sessions_open (void);

/* Returns whether the client may end its connection, or violate the protocol, at any time. */
bool may_go (const struct session *session);

/* Does what the message requests. */
void session_take (struct session *session, const struct ipc_message *m);

/* Ends the sessions that must be ended. Not while events are being handled that may name them. */
void sessions_drop (struct ipc_connection_infos *clients);

/* Sends refused messages again, and adds up the queued bytes. */
void sessions_tick (void);

#endif
