/*
 * The rules for calls of the library while a system call or an allocation fails. Every call of the scenario
 * is checked here: a call that fails returns a code and sets errno to the injected error; a call that
 * succeeds leaves errno unchanged; no call fails without a fault.
 *
 * The environment variable FAULTS_MAY says what the fault may cause:
 *   "nothing"  the library handles the fault itself: no call fails
 *   "fail"     calls fail; if they are repeated they succeed, and nothing is lost
 *   "break"    connections may be lost, and their end is reported
 */
#ifndef RULES_H
#define RULES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <ipc.h>

enum may { MAY_NOTHING, MAY_FAIL, MAY_BREAK };

extern enum may may;

/* The state of a connection. */
struct health {
	/* A call for this connection has failed: others may fail for the same reason. */
	int shaken;
	/* The connection is lost. Messages in transit may be lost with it. */
	int broken;
};

/* Whether the tried call has finally succeeded. */
extern int succeeded;

/* Reads the environment. From now on a process that does not finish in time prints its position. A witness
 * takes no part: it waits longer than the other process, and counts no faults. */
void rules_begin (int is_witness);

/* The number of faults so far. */
unsigned long faults (void);

/* Returns whether a connection may be lost at this moment. */
int may_break (void);

void call_begins (const char *what);

/* Checks the result of a call. A failure that the rules do not allow ends the program. */
void call_ends (struct health *health, int code);

/* The same; returns whether the call must be made again. It must as long as faults are injected. */
int again (struct health *health, int code);

/* The same for a call that must fail with this code and errno. */
int again_until (struct health *health, int code, enum ipc_errors wanted, int wanted_errno);

void complain (const char *file, int line, const char *what);

#define TEXT_OF(number) TEXT_OF_EXPANDED (number)
#define TEXT_OF_EXPANDED(number) #number
#define WHERE(call) (__FILE__ ":" TEXT_OF (__LINE__) ": " #call)

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			complain (__FILE__, __LINE__, #condition); \
	} while (0)

/* Makes the call until it succeeds, or its connection is broken. */
#define TRY_ON(health, call) \
	do { \
		call_begins (WHERE (call)); \
	} while (again ((health), (int) (call)))

#define TRY(call) TRY_ON (NULL, call)

/* Makes a call that is not repeated: the object that it ends has ended, whatever the call returns. */
#define ONCE(call) \
	do { \
		call_begins (WHERE (call)); \
		call_ends (NULL, (int) (call)); \
	} while (0)

/* Makes the call until it fails with this code and this errno, or its connection is broken. */
#define REFUSED_ON(health, call, code, number) \
	do { \
		call_begins (WHERE (call)); \
	} while (again_until ((health), (int) (call), (code), (number)))

#define REFUSED(call, code, number) REFUSED_ON (NULL, call, code, number)

int can_be_used (int fd);
int open_descriptors (void);

/* Yields for a moment, between two polls for a condition; `since` is the time of the last progress. Ends
 * the program if there is no progress for too long. */
void idle (double since, const char *missing);

/* The time in seconds. */
double now (void);

#endif
