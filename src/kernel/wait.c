/*
 * The only function in which a call of the library waits: for descriptors, for the first bytes of a message,
 * for a client, for a connection to a server, or for another thread. It is called outside of every lock, and
 * no frame of Rust above it has anything to drop.
 *
 * pthread_cancel(3), and pthread_exit(3) in a signal handler, can end the thread here. The cleanup handler
 * then releases what the call holds. There is one structure for each call; only the waiting thread uses it,
 * except the semaphore.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The same as struct Wait in wait.rs, which documents the writer of each field. */
struct ipc_c_wait {
	/* The kind of the wait, one of the enum below. */
	int what;
	/* The socket of WAIT_PEEK, WAIT_ACCEPT and WAIT_CONNECT. */
	int fd;
	/* The timeout of WAIT_POLL in milliseconds; below 0 without limit. */
	int timeout;
	/* How many descriptors WAIT_POLL polls: of `few`, or of `many` (from calloc) if that is not NULL. */
	unsigned int count;
	struct pollfd few[8];
	struct pollfd *many;
	/* WAIT_PEEK: the buffer, and its size. WAIT_CONNECT: the address, and its size. */
	unsigned char bytes[128];
	unsigned int size;
	/* 1 if signals are blocked except during the wait; `mask` is then the mask during the wait. */
	int is_masked;
	sigset_t mask;
	/* If the thread is cancelled: descriptors to close (-1: none), and a function to call afterwards. */
	int held[3];
	void (*cancelled) (void *argument);
	void *argument;
	/* WAIT_TURN: another thread posts this semaphore. */
	sem_t semaphore;
	/* The outcome: the return value of the system call, and errno if that is below 0, else 0. */
	long result;
	int error;
};

enum { WAIT_POLL, WAIT_PEEK, WAIT_ACCEPT, WAIT_CONNECT, WAIT_TURN };

void ipc_c_wait (struct ipc_c_wait *wait);
size_t ipc_c_wait_size (void);

size_t ipc_c_wait_size (void)
{
	return sizeof (struct ipc_c_wait);
}

/* Since glibc 2.32: not 0 as long as the process has had only one thread. */
extern char __libc_single_threaded __attribute__ ((weak));

int ipc_c_is_single_threaded (void);

int ipc_c_is_single_threaded (void)
{
	return &__libc_single_threaded != NULL && __libc_single_threaded;
}

static long wait_for (struct ipc_c_wait *wait)
{
	struct pollfd *fds = wait->many != NULL ? wait->many : wait->few;

	/* The two of each message. */
	if (wait->what == WAIT_PEEK)
		return recv (wait->fd, wait->bytes, wait->size, MSG_PEEK);
	if (wait->what == WAIT_POLL && !wait->is_masked)
		return poll (fds, wait->count, wait->timeout);
	switch (wait->what) {
	case WAIT_POLL: {
		struct timespec limit = { wait->timeout / 1000, wait->timeout % 1000 * 1000000L };

		return ppoll (fds, wait->count, wait->timeout < 0 ? NULL : &limit, &wait->mask);
	}
	case WAIT_ACCEPT:
		return accept4 (wait->fd, NULL, NULL, SOCK_CLOEXEC);
	case WAIT_CONNECT:
		return connect (wait->fd, (const struct sockaddr *) (const void *) wait->bytes, wait->size);
	case WAIT_TURN:
		return sem_wait (&wait->semaphore);
	}
	errno = EINVAL;
	return -1;
}

static void release_held (void *argument)
{
	struct ipc_c_wait *wait = argument;

	for (int i = 0; i < 3; i++)
		if (wait->held[i] >= 0)
			close (wait->held[i]);
	free (wait->many);
	if (wait->cancelled != NULL)
		wait->cancelled (wait->argument);
}

void ipc_c_wait (struct ipc_c_wait *wait)
{
	pthread_cleanup_push (release_held, wait);
	wait->result = wait_for (wait);
	pthread_cleanup_pop (0);
	wait->error = wait->result < 0 ? errno : 0;
}
