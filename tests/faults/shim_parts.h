/*
 * What the parts of the shim share.
 */
#ifndef SHIM_PARTS_H
#define SHIM_PARTS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "shim.h"

#include <stddef.h>

/* The program may define functions with these names itself. */
#pragma GCC visibility push (hidden)

/* A function that the library calls. */
struct function {
	const char *name;
	void *real;
	unsigned long calls;
	struct function *next;
};

#define FUNCTION(name) { name, NULL, 0, NULL }

/* The error of the chosen function. */
enum { SHORT = -1 };
extern int fault;

#define CALLER __builtin_return_address (0)

/* Returns whether the call returns into the library's code. */
int is_library (const void *caller);

/* The offset of this address in the library's file. */
unsigned long place_of (const void *caller);

/* libc's own function. */
void *real_of (struct function *function);

/* Returns whether this call must fail, provided that it can fail in this way; sets errno. Calls of the
 * library are counted. */
int fails (struct function *function, const void *caller, int can);

/* Prints the blocks that the library has not freed; returns how many. */
int report_blocks (void);

/* Prints one line. */
void say (int fd, const char *format, ...) __attribute__ ((format (printf, 2, 3)));

#pragma GCC visibility pop

#endif
