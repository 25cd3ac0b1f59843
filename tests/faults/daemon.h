/*
 * What a daemon does with ipc_ext.h, as a station of its own: a service with a mode, user data of a client,
 * signals, timers, and the end of a client.
 */
#ifndef DAEMON_H
#define DAEMON_H

void serve_as_a_daemon (void);

#endif
