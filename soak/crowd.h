/*
 * The clients that run at a time: seats, each of which is taken by one client after the other. The behaviour belongs to
 * the seat, so that the number of clients of each behaviour is constant.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef CROWD_H
#define CROWD_H

#include "shared.h"

/* With fewer seats some behaviours would be missing. */
#define FEWEST_SEATS 20

/* `leave` is called in each client's process, to close the descriptors of the driver. */
void crowd_begin (int seats, uint64_t seed, void (*leave) (void));

/* A first wave: all seats are taken at once, and when all clients are connected all of them leave. */
void crowd_warm (pid_t server);

/* Collects clients that have ended, kills those whose time has come, and fills empty seats, each at most this many
 * times in all. Returns false if the server has ended. */
bool crowd_step (pid_t server, uint64_t most);

/* How many clients are running, and how many sessions there were. */
int crowd_size (void);
uint64_t crowd_sessions (void);

/* Ends all running clients. */
void crowd_end (void);

#endif
