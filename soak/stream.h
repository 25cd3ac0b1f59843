/*
 * A stream: the messages that one side sends in order. The length and every byte of message n follow from the stream's
 * seed, so that both sides know what must arrive and neither stores what was sent.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef STREAM_H
#define STREAM_H

#include "shared.h"

/* Pseudo-random numbers, the same in each run with the same seed. */
struct dice {
    uint64_t state;
};

uint64_t dice_roll (struct dice *dice);
/* A number from 0 to below - 1. */
uint32_t dice_below (struct dice *dice, uint32_t below);

/* What the receiver must do with a message: a part of the message's type. */
enum verb {
    HELLO,  /* store the sender's description; the answer is the same message */
    ECHO,   /* send it back */
    QUEUE,  /* the same, with ipc_queue */
    SINK,   /* only check it */
    GIVE,   /* a file is passed with it: check the file, and send the message back */
    WANT,   /* send it back, and pass a file with it */
    FILL,   /* send until no more can be queued; then send how much that was */
    FILLED, /* the message with that number */
    DROP,   /* send it back, and end the connection */
    VERBS
};

/* Each thread of a client sends a stream of its own. */
#define LANES 4

struct stream {
    uint64_t seed;
    uint32_t largest;
    /* Whether all lengths have the same probability; otherwise small ones are more frequent. */
    bool is_flat;
    /* The number of the next message. */
    uint64_t next;
};

uint32_t stream_length (const struct stream *stream, uint64_t number);

/* The bytes of the message, `length` of them. */
void stream_fill (const struct stream *stream, uint64_t number, char *payload, uint32_t length);

/* Makes the stream's next message; its payload is `room`, which has stream->largest bytes. */
struct ipc_message stream_next (struct stream *stream, enum verb verb, int lane, char *room);

enum verb verb_of (const struct ipc_message *m);
int lane_of (const struct ipc_message *m);

/* Checks that the message is the stream's next one. If not, reports what it is. */
void stream_take (struct stream *stream, const struct ipc_message *m);

/* A file without a name, with the bytes of the message, to be passed; and a check of a file that was received. */
#define FILE_SIZE 256
int file_of (const struct stream *stream, uint64_t number);
void check_file (const struct stream *stream, uint64_t number, int fd);

#endif
