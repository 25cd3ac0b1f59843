/*
 * The other process. It does not use the library: what comes from it and what it says of what has come to it
 * is beyond doubt. It sends back what comes on one socket, and reads two others when it is told to, to their
 * ends: what the library keeps for those who do not read leaves when the scenario closes them, or ends.
 */
#ifndef PEER_H
#define PEER_H

#include "ledger.h"

/* What the peer is told on the control socket. */
#define READ_CLOSED 'c'
#define READ_AT_EXIT 'x'

/* A machine so busy that the time which the library has for its last messages was over. */
#define TOO_SLOW 75

/* The scenario's ends of the sockets, and what both processes see. */
struct peer {
	int mirror, closed, at_exit, control;
	struct shared {
		struct lane closed, at_exit;
		int too_slow;
	} *shared;
};

/* Makes the sockets and the process that is to run the scenario: what this answers there. In the other process
 * it does not return: that ends as the scenario does, or, if that has done well, as the peer has found. */
struct peer peer_begin (void);

void peer_tell (const struct peer *peer, char what);

#endif
