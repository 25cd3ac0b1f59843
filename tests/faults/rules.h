/*
 * What may happen when something fails beneath the library, and what may not. Every call of the scenario is
 * judged here: a call that fails says so with a code and with the errno of what failed; one that succeeds
 * leaves errno alone; none fails without a cause.
 *
 * How much may happen depends on the fault and is told by the environment variable FAULTS_MAY:
 *   "nothing"  it is the library's own affair: no call fails
 *   "fail"     calls fail; made again they succeed, and nothing is lost
 *   "break"    connections may be lost, and it is told which
 */
#ifndef RULES_H
#define RULES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <ipc.h>

enum may { MAY_NOTHING, MAY_FAIL, MAY_BREAK };

extern enum may may;

/* How a connection stands. */
struct health {
	/* A call on it has failed: others may fail for the same reason. */
	int shaken;
	/* It is lost. What was on its way may be lost with it. */
	int broken;
};

/* Whether the call that was tried has come to succeed. */
extern int succeeded;

/* Reads the environment. From now on a process that does not come to its end in time says where it stands. A
 * witness takes no part: it waits longer than the others, and counts nothing. */
void rules_begin (int is_witness);

/* How many faults there were so far. */
unsigned long faults (void);

/* Whether a connection may be lost at this moment. */
int may_break (void);

void call_begins (const char *what);

/* The call's end. A failure against the rules ends the program. */
void call_ends (struct health *health, int code);

/* The same; whether the call is to be made again. It is as long as faults come. */
int again (struct health *health, int code);

/* The same for a call that has to fail so. */
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

/* Makes a call that is not made again: what it is to end has ended, whatever it says. */
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

/* Gives way for a moment, between two looks for something; `since` is when it was last there. Ends the program
 * when it does not come. */
void idle (double since, const char *missing);

/* Seconds. */
double now (void);

#endif
