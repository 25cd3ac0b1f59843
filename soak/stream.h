/*
 * A stream: the messages that one side sends in order. Message n of a stream, its length and every byte, follows
 * from the stream's seed, so that both sides know what has to come and neither remembers what was sent.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef STREAM_H
#define STREAM_H

#include "shared.h"

/* Numbers that look random and are the same in each run with the same seed. */
struct dice {
    uint64_t state;
};

uint64_t dice_roll (struct dice *dice);
/* One of 0 to below - 1. */
uint32_t dice_below (struct dice *dice, uint32_t below);

/* What the receiver is to do with a message: a part of the message's type. */
enum verb {
    HELLO,  /* remember who I am; the answer is the same message */
    ECHO,   /* send it back */
    QUEUE,  /* the same, with ipc_queue */
    SINK,   /* check it, and no more */
    GIVE,   /* a file comes with it: check that, and send the message back */
    WANT,   /* send it back, and a file with it */
    FILL,   /* send until no more can be queued; then say how much that was */
    FILLED, /* what is said then */
    DROP,   /* send it back, and end the connection */
    VERBS
};

/* The threads of one client send a stream each. */
#define LANES 4

struct stream {
    uint64_t seed;
    uint32_t largest;
    /* All lengths are alike often; else small ones come more often. */
    bool is_flat;
    /* The number of the next message. */
    uint64_t next;
};

uint32_t stream_length (const struct stream *stream, uint64_t number);

/* The bytes of the message, `length` of them. */
void stream_fill (const struct stream *stream, uint64_t number, char *payload, uint32_t length);

/* The stream's next message; its payload is `room`, which has stream->largest bytes. */
struct ipc_message stream_next (struct stream *stream, enum verb verb, int lane, char *room);

enum verb verb_of (const struct ipc_message *m);
int lane_of (const struct ipc_message *m);

/* The message has to be the stream's next one. If not, says what it is. */
void stream_take (struct stream *stream, const struct ipc_message *m);

/* A file without a name, with the bytes of the message, to pass on; and a look into one that came so. */
#define FILE_SIZE 256
int file_of (const struct stream *stream, uint64_t number);
void check_file (const struct stream *stream, uint64_t number, int fd);

#endif
