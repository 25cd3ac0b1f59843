/*
 * Threads that end within a call of the library: by pthread_cancel, or by pthread_exit in a signal handler.
 */
#ifndef ENDING_H
#define ENDING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define OK(call) CHECK ((call) == IPC_ERROR_NONE)

/* The result of pthread_join for a thread that has ended in a signal handler. */
#define EXITED ((void *) 5)

/* How a thread is made to end. DISABLED: it is cancelled while it has cancellation disabled, so that it does
 * not end in the call. */
enum way { CANCELLED, EXITS_IN_HANDLER, DISABLED };

static const enum way WAYS[] = { CANCELLED, EXITS_IN_HANDLER, DISABLED };

struct ending {
	pthread_t thread;
	enum way way;
	enum ipc_errors (*call) (void);
	enum ipc_errors code;
	atomic_int id;
};

static inline int open_fds (void)
{
	int count = 0;
	DIR *directory = opendir ("/proc/self/fd");

	CHECK (directory != NULL);
	while (readdir (directory) != NULL)
		count++;
	CHECK (closedir (directory) == 0);
	return count;
}

/* The state of the thread: 'S' if it waits in the kernel. */
static inline char state_of (int id)
{
	char path[64], stat[256], *end;
	ssize_t count;
	int fd;

	snprintf (path, sizeof path, "/proc/self/task/%d/stat", id);
	fd = open (path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 'X';
	count = read (fd, stat, sizeof stat - 1);
	close (fd);
	CHECK (count > 0);
	stat[count] = '\0';
	end = strrchr (stat, ')');
	CHECK (end != NULL);
	return end[2];
}

/* Waits until the thread waits: three polls in a row must see it, since it may wait for a lock. */
static inline void until_it_waits (struct ending *ending)
{
	int times = 0;

	while (times < 3) {
		int id = atomic_load (&ending->id);

		times = id != 0 && state_of (id) == 'S' ? times + 1 : 0;
		poll (NULL, 0, 1);
	}
}

static void exit_thread (int signal_number)
{
	(void) signal_number;
	pthread_exit (EXITED);
}

static void *make_call (void *argument)
{
	struct ending *ending = (struct ending *) argument;
	int state;

	pthread_setcancelstate (ending->way == DISABLED ? PTHREAD_CANCEL_DISABLE : PTHREAD_CANCEL_ENABLE, &state);
	atomic_store (&ending->id, (int) syscall (SYS_gettid));
	ending->code = ending->call ();
	/* The library has restored the cancellation state. */
	pthread_setcancelstate (PTHREAD_CANCEL_ENABLE, &state);
	CHECK (state == (ending->way == DISABLED ? PTHREAD_CANCEL_DISABLE : PTHREAD_CANCEL_ENABLE));
	pthread_testcancel ();
	return NULL;
}

/* Starts a thread that makes the call and waits in it. */
static inline void start_call (struct ending *ending, enum way way, enum ipc_errors (*call) (void))
{
	memset (ending, 0, sizeof *ending);
	ending->way = way;
	ending->call = call;
	CHECK (pthread_create (&ending->thread, NULL, make_call, ending) == 0);
	until_it_waits (ending);
}

static inline void end_call (struct ending *ending)
{
	if (ending->way == EXITS_IN_HANDLER)
		CHECK (pthread_kill (ending->thread, SIGUSR1) == 0);
	else
		CHECK (pthread_cancel (ending->thread) == 0);
}

static inline void join_call (struct ending *ending)
{
	void *result;

	CHECK (pthread_join (ending->thread, &result) == 0);
	CHECK (result == (ending->way == EXITS_IN_HANDLER ? EXITED : PTHREAD_CANCELED));
}

static inline void handle_sigusr1 (void)
{
	struct sigaction action;

	memset (&action, 0, sizeof action);
	action.sa_handler = exit_thread;
	CHECK (sigaction (SIGUSR1, &action, NULL) == 0);
}

/* How many bytes can be received from a socket. */
static inline int readable_bytes (int fd)
{
	int count = -1;

	CHECK (ioctl (fd, FIONREAD, &count) == 0);
	return count;
}

static inline int is_readable (int fd)
{
	struct pollfd one;

	one.fd = fd;
	one.events = POLLIN;
	return poll (&one, 1, 0) == 1;
}

/* Writes a frame; returns its size. */
static inline size_t frame_of (char *place, char type, const char *payload)
{
	uint32_t length = (uint32_t) strlen (payload);

	place[0] = type;
	memcpy (place + 1, &length, sizeof length);
	memcpy (place + 5, payload, length);
	return 5 + length;
}

static inline void send_bytes (int fd, const char *bytes, size_t count)
{
	CHECK (send (fd, bytes, count, MSG_NOSIGNAL) == (ssize_t) count);
}

static inline void expect_message (const struct ipc_message *m, char type, const char *payload)
{
	CHECK (m->type == type && m->length == strlen (payload) && memcmp (m->payload, payload, m->length) == 0);
}

/* A listening socket at the path, whose backlog has room for this many clients and one more. */
static inline int listen_at (const char *path, int backlog)
{
	struct sockaddr_un address;
	int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset (&address, 0, sizeof address);
	address.sun_family = AF_UNIX;
	CHECK (strlen (path) < sizeof address.sun_path);
	memcpy (address.sun_path, path, strlen (path));
	unlink (path);
	CHECK (bind (fd, (struct sockaddr *) &address, sizeof address) == 0 && listen (fd, backlog) == 0);
	return fd;
}

static inline int connect_to (const char *path)
{
	struct sockaddr_un address;
	int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset (&address, 0, sizeof address);
	address.sun_family = AF_UNIX;
	CHECK (strlen (path) < sizeof address.sun_path);
	memcpy (address.sun_path, path, strlen (path));
	CHECK (connect (fd, (struct sockaddr *) &address, sizeof address) == 0);
	return fd;
}

#endif
