/*
 * The messages of one direction of a connection: how many were accepted, and how many have arrived. Each must
 * arrive once, whole, unchanged and in order. The content of a message follows from its lane and its number.
 */
#ifndef LANES_H
#define LANES_H

#include "rules.h"

/* More than the kernel holds for a peer that does not read. */
#define LONG 400000

#define LONGEST (1 << 20)

#define MESSAGES 48

struct lane {
	/* The number of the lane, from 0. */
	int number;
	/* How many messages were accepted, and how many of them have arrived. */
	int accepted, got;
	uint32_t lengths[MESSAGES];
};

/* Makes the pattern that payloads are taken from; the first call of a program. */
void lanes_begin (void);

/* The next message of the lane; its payload is not owned by the message. */
struct ipc_message lane_next (struct lane *lane, uint32_t length);

/* Records that this message was accepted. */
void lane_accepted (struct lane *lane);

/* Records a message that has arrived: it must be the next of the lane. */
void lane_take (struct lane *lane, const struct ipc_message *m);

/* The message as a frame. */
void frame_of (const struct ipc_message *m, char *frame);

/* Returns whether all accepted messages have arrived. */
int lane_is_done (const struct lane *lane);

#endif
