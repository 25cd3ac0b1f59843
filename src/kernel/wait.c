/*
 * The one place where a call of the library waits: for descriptors, for the first bytes of a message, for a client, for a
 * server, for another thread. It is entered outside of every lock, with nothing on the stack above it that has to be dropped.
 *
 * pthread_cancel(3), and pthread_exit(3) in a signal handler, end the thread here: what the call holds is then given back.
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

/* Mirrored by struct Wait in wait.rs. */
struct ipc_c_wait {
	int what;
	int fd;
	/* Milliseconds; below 0 without end. */
	int timeout;
	/* How many descriptors to poll: of `few`, or of `many`, from malloc, if it is not NULL. */
	unsigned int count;
	struct pollfd few[8];
	struct pollfd *many;
	/* WAIT_PEEK: where the bytes go. WAIT_CONNECT: the address. */
	unsigned char bytes[128];
	unsigned int size;
	/* Signals are blocked but while the call waits: the mask of the caller. */
	int is_masked;
	sigset_t mask;
	/* If the thread ends: these are closed, `many` is freed, and then this is called. */
	int held[3];
	void (*cancelled) (void *argument);
	void *argument;
	/* WAIT_TURN: what another thread ends the wait with. */
	sem_t semaphore;
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

/* glibc 2.32: not 0 as long as the process has had one thread. */
extern char __libc_single_threaded __attribute__ ((weak));

int ipc_c_is_single_threaded (void);

int ipc_c_is_single_threaded (void)
{
	return &__libc_single_threaded != NULL && __libc_single_threaded;
}

static long wait_for (struct ipc_c_wait *wait)
{
	struct pollfd *fds = wait->many != NULL ? wait->many : wait->few;

	switch (wait->what) {
	case WAIT_POLL:
		if (wait->is_masked) {
			struct timespec limit = { wait->timeout / 1000, wait->timeout % 1000 * 1000000L };

			return ppoll (fds, wait->count, wait->timeout < 0 ? NULL : &limit, &wait->mask);
		}
		return poll (fds, wait->count, wait->timeout);
	case WAIT_PEEK:
		return recv (wait->fd, wait->bytes, wait->size, MSG_PEEK);
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

static void give_back (void *argument)
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
	pthread_cleanup_push (give_back, wait);
	wait->result = wait_for (wait);
	pthread_cleanup_pop (0);
	wait->error = wait->result < 0 ? errno : 0;
}
