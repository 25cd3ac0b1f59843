/*
 * Services, and the files that they create.
 */
#ifndef FILES_H
#define FILES_H

#include "rules.h"

/* An environment, for functions that require one. */
extern char *environment[];

/* A directory of this process alone, and the run directory in it. */
extern char top[200], rundir[500];

/* Creates the directory; removes it, which must be empty. */
void files_begin (void);
void files_end (void);

/* From now on services are opened in the directory of this name, which may be missing. */
void set_rundir (const char *name);

/* Removes this directory, which must be empty. */
void remove_rundir (void);

/* The number of entries in a directory; 0 if there is no directory. */
int entries_of (const char *path);

/* Returns whether the shim makes this function fail. */
int is_fault_of (const char *function);

/* Opens the service. A call that fails leaves no descriptor and no file. */
void open_service (struct ipc_connection_info *srv, const char *name);

/* Closes the service. Its file is removed, or could not be removed; the result says which. */
void close_service (struct ipc_connection_info *srv);

/* Creates a socket at the path, as a server that was killed leaves it. */
void leave_dead_socket (const char *path);

#endif
