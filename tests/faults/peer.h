/*
 * The other process. It does not use the library, so that its frames and its verdict do not depend on the
 * library. It sends every frame of one socket back, and reads two other sockets to end of file when the
 * scenario asks for it: messages that the library keeps for peers that do not read are sent when the scenario
 * closes these connections, or exits.
 */
#ifndef PEER_H
#define PEER_H

#include "lanes.h"

/* Commands that the scenario sends to the peer on the control socket. */
#define READ_CLOSED 'c'
#define READ_AT_EXIT 'x'

/* Exit status: the machine was so busy that the library's time for its last messages expired. */
#define TOO_SLOW 75

/* The scenario's ends of the sockets, and the memory that both processes share. */
struct peer {
	int mirror, closed, at_exit, control;
	struct shared {
		struct lane closed, at_exit;
		int too_slow;
	} *shared;
};

/* Creates the sockets, and forks. Returns in the process that runs the scenario. The other process does
 * not return: it exits with the status of the scenario, or, if the scenario succeeded, with the verdict of
 * the peer. */
struct peer peer_begin (void);

void peer_command (const struct peer *peer, char what);

#endif
