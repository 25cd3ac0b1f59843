/*
 * The server: one process, which waits in each of the ways that the library has, in turns.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SERVER_H
#define SERVER_H

#include "shared.h"

/* Commands on the control pipe. The server ends at its end of file. */
#define MEASURE 'm'

/* Runs the server; returns the exit status. `watched` is an eventfd that the driver writes to. */
int serve (int control, int watched);

#endif
