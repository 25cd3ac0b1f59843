/*
 * The messages of one direction of a connection: which were accepted, which have come. They have to come each
 * once, whole, unchanged and in order. What a message holds follows from its lane and its number.
 */
#ifndef LEDGER_H
#define LEDGER_H

#include "rules.h"

/* More than the kernel holds for one who does not read. */
#define LONG 400000

#define LONGEST (1 << 20)

#define MESSAGES 48

struct lane {
	/* Which lane it is, from 0. */
	int number;
	/* How many messages were accepted, and how many of them have come. */
	int accepted, got;
	uint32_t lengths[MESSAGES];
};

/* Before the first message. */
void ledger_begin (void);

/* The lane's next message; its payload is not the message's to free. */
struct ipc_message lane_next (struct lane *lane, uint32_t length);

/* It was accepted. */
void lane_accepted (struct lane *lane);

/* A message has come: it has to be the next. */
void lane_take (struct lane *lane, const struct ipc_message *m);

/* The message as it goes over the wire. */
void frame_of (const struct ipc_message *m, char *frame);

/* Whether all have come. */
int lane_is_done (const struct lane *lane);

#endif
