/*
 * The clients that are there at a time: seats, each of which one client after the other takes. The behaviour
 * belongs to the seat, so that there are so many of each at all times.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef CROWD_H
#define CROWD_H

#include "shared.h"

/* With fewer seats not every behaviour is there. */
#define FEWEST_SEATS 20

/* `leave` is called in each client's process, to close what is the driver's alone. */
void crowd_begin (int seats, uint64_t seed, void (*leave) (void));

/* A first wave: all seats are taken at once, and when all are there all go. */
void crowd_warm (pid_t server);

/* Sees to those who have ended, kills those whose time has come, and fills the seats that are empty, each at
 * most so many times in all. False: the server has ended. */
bool crowd_step (pid_t server, uint64_t most);

/* How many are there, and how many sessions there were. */
int crowd_size (void);
uint64_t crowd_sessions (void);

/* Ends all that are there. */
void crowd_end (void);

#endif
