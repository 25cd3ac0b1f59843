/*
 * A server and its clients, all of them in one process that knows at each moment what has to come. So the same
 * calls are made in the same order in each run, and a fault hits each of them once.
 *
 * Everybody takes turns: a party takes what is there, and never waits for somebody who cannot run.
 */
#ifndef WORLD_H
#define WORLD_H

#include "ledger.h"

#define SMALL 64
#define LARGE 100000

#define SERVICE "faults"

/* A program's place of waiting. */
struct party {
	struct ipc_connection_infos list;
	struct ipc_connection_info *service;
	/* What was told last. */
	struct ipc_event event;
	/* Takes all that is there with take_event; how much that was. */
	int (*turn) (struct party *party);
	/* It is told of several events at once. */
	int told_at_once;
	/* A pipe in the list, whose bytes count up; how many were put in and have come back. */
	int token[2];
	unsigned char put, got;
};

enum side { AT_SERVER, AT_CLIENT, SIDES };

/* A connection from client to server. */
struct link {
	struct health health;
	struct ipc_connection_info client;
	/* The server's end, from CONNECTION to DISCONNECTION. */
	struct ipc_connection_info *server;
	/* Whether the client's end is open, and whether it is in the clients' list. */
	int open, listed;
	/* One of them has closed its end; it was the server. */
	int ending, dropped;
	/* An ERROR was told, on each side. */
	int failed[SIDES];
	struct lane up, down;
};

/* Two clients wait for events as the server does, one reads by itself, one does not speak the protocol. */
enum { EAGER, PATIENT, DIRECT, HOSTILE, LINKS };

extern struct link links[LINKS];
extern struct party server, clients;
extern struct ipc_connection_info service;

/* ---- Parties ---- */

/* The party waits by a token of its own, which comes back to it through a descriptor in its list once it has
 * taken what was there. */
void party_begin (struct party *party);

/* Takes the token out of the list, in which nothing else is left; or frees the list. */
void party_end (struct party *party, int by_freeing);

/* Waits for one event. */
void wait_for_event (struct party *party);

/* A wait has ended with this code. Programs take a failure for their own end: what befalls one connection is no
 * reason for it. */
void check_wait (int code);

/* Compares what the party was told with what there is to tell. */
void take_event (struct party *party);

/* Everybody takes turns until the condition holds. */
#define TURNS_UNTIL(condition) \
	do { \
		double since = now (); \
		while (!(condition)) { \
			if (server.turn (&server) + clients.turn (&clients) > 0) \
				since = now (); \
			else if (!(condition)) \
				idle (since, #condition); \
		} \
	} while (0)

/* Whether all messages have come to those who wait for events. */
int all_has_come (void);

/* ---- Connections ---- */

/* The client connects, and the server is told. */
void come (struct link *link);

/* From client to server, and back. */
void say_up (struct link *link, uint32_t length);
void say_down (struct link *link, uint32_t length);

/* The client that reads by itself reads all that it was sent. */
void hear (struct link *link);

/* The client's end is closed. */
void hang_up (struct link *link);

/* The server's end is closed, and the event loop left to tell so. */
void drop (struct link *link);

/* Somebody comes whose message comes in pieces, and who then announces one of this length, which is too long;
 * the server is told, and that he has gone. */
void meet_a_stranger (uint32_t announced);

/* Calls the library until what is left of closed connections has left, and so many descriptors are open; not for ever. */
void let_rests_leave (int descriptors);

#endif
