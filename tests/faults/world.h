/*
 * A server and its clients, all in one process, which knows at each moment what must arrive. So the same
 * calls are made in the same order in each run, and a fault hits each of them once.
 *
 * The parties take turns: a party handles its pending events, and never waits for another party, which cannot
 * run meanwhile.
 */
#ifndef WORLD_H
#define WORLD_H

#include "lanes.h"

#define SMALL 64
#define LARGE 100000

#define SERVICE "faults"

/* A list of connections, and the events of it. */
struct party {
	struct ipc_connection_infos list;
	struct ipc_connection_info *service;
	/* The last event. */
	struct ipc_event event;
	/* Handles all pending events with take_event; the number of them. */
	int (*turn) (struct party *party);
	/* The party receives several events in one call. */
	int several_at_once;
	/* A pipe in the list, which carries a counter; how many bytes were written and were read back. */
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
	/* One side has closed its end; whether it was the server. */
	int ending, dropped;
	/* Whether an ERROR was reported, on each side. */
	int failed[SIDES];
	struct lane up, down;
};

/* Two clients wait for events as the server does, one reads with ipc_read, one does not speak the
 * protocol. */
enum { EAGER, PATIENT, DIRECT, HOSTILE, LINKS };

extern struct link links[LINKS];
extern struct party server, clients;
extern struct ipc_connection_info service;

/* ---- Parties ---- */

/* The party waits by means of a token, an event that it sends to itself through a descriptor in its list,
 * and that is reported after all pending events. */
void party_begin (struct party *party);

/* Removes the token from the list, in which no other entry is left; or frees the list. */
void party_end (struct party *party, int by_freeing);

/* Waits for one event. */
void wait_for_event (struct party *party);

/* Checks the code with which a wait has ended. Programs exit on a failure: an error of one connection must
 * not be one. */
void check_wait (int code);

/* Compares the event with what must be reported. */
void take_event (struct party *party);

/* All parties take turns until the condition holds. */
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

/* Returns whether all messages have arrived at the clients that wait for events. */
int all_have_arrived (void);

/* ---- Connections ---- */

/* The client connects, and the server gets the CONNECTION. */
void connect_client (struct link *link);

/* Sends a message from client to server, and back. */
void send_up (struct link *link, uint32_t length);
void send_down (struct link *link, uint32_t length);

/* The client that uses ipc_read reads all messages that were sent to it. */
void read_answers (struct link *link);

/* Closes the client's end. */
void close_client (struct link *link);

/* Closes the server's end; the event loop reports the disconnection. */
void drop (struct link *link);

/* A client connects, sends a message in pieces, and then announces a payload of this length, which is too
 * long. The server gets the ERROR and the DISCONNECTION. */
void meet_hostile_client (uint32_t announced);

/* Calls the library until the rests of closed connections are sent, and this many descriptors are open;
 * fails after a limit. */
void send_rests (int descriptors);

#endif
