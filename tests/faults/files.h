/*
 * Services and what they leave in the file system.
 */
#ifndef FILES_H
#define FILES_H

#include "rules.h"

/* What functions want that want an environment. */
extern char *environment[];

/* A directory of this process alone, and the run directory in it. */
extern char top[200], rundir[500];

/* Makes the directory; removes it, which has to be empty. */
void files_begin (void);
void files_end (void);

/* From now on services live in the directory of this name, which may be missing. */
void set_rundir (const char *name);

/* Removes it, which has to be empty. */
void remove_rundir (void);

/* How much is in a directory; nothing where there is none. */
int entries_of (const char *path);

/* Whether this function is the one that fails. */
int is_fault_of (const char *function);

/* Opens the service. A failure leaves no descriptor and no file behind. */
void open_service (struct ipc_connection_info *srv, const char *name);

/* Closes it; its file is gone, or could not be removed, and the answer says which. */
void close_service (struct ipc_connection_info *srv);

/* Puts a socket at the path, as a server that was killed leaves it. */
void leave_dead_socket (const char *path);

#endif
