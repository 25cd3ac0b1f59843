/*
 * A server with one thread, which waits without a timeout for a few connections. The library must notice each
 * change of their descriptors, by the program before the wait, or by a signal handler during the wait.
 * IPC_RUNDIR names a directory.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "check.h"

#include <ipc_ext.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define CLIENTS 3

static char *environment[] = { NULL };
static struct ipc_connection_info srv, peer[CLIENTS];
static struct ipc_connection_infos list;
static struct ipc_event event;

static void wait_for (enum ipc_event_type type)
{
	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	CHECK (event.type == type);
}

static void say (int number, const char *text)
{
	struct ipc_message m;

	memset (&m, 0, sizeof m);
	EXPECT_OK (ipc_message_format_data (&m, text, (ssize_t) strlen (text)));
	EXPECT_OK (ipc_write (&peer[number], &m));
	EXPECT_OK (ipc_message_empty (&m));
}

static void expect_text (const char *text)
{
	const struct ipc_message *m;

	wait_for (IPC_EVENT_TYPE_MESSAGE);
	m = (const struct ipc_message *) event.m;
	CHECK (m->length == strlen (text) && memcmp (m->payload, text, m->length) == 0);
}

/* Connects this many clients, each of which has sent a message, so that the next wait is like those in the
 * middle of a service. */
static void begin (int clients)
{
	int i;

	memset (peer, 0, sizeof peer);
	EXPECT_OK (ipc_server_init (environment, &srv, "alone"));
	for (i = 0; i < clients; i++) {
		EXPECT_OK (ipc_connection (environment, &peer[i], "alone"));
		wait_for (IPC_EVENT_TYPE_CONNECTION);
	}
	for (i = 0; i < clients; i++) {
		say (i, "hello");
		expect_text ("hello");
	}
}

static void end (int clients)
{
	int i;

	for (i = 0; i < list.size; i++) {
		EXPECT_OK (ipc_close (list.cinfos[i]));
		free (list.cinfos[i]);
	}
	ipc_connections_free (&list);
	for (i = 0; i < clients; i++)
		EXPECT_OK (ipc_close (&peer[i]));
	EXPECT_OK (ipc_server_close (&srv));
	IPC_EVENT_CLEAN (&event)
}

/* Expects the disconnection of this connection. */
static void expect_end (struct ipc_connection_info *origin)
{
	wait_for (IPC_EVENT_TYPE_DISCONNECTION);
	CHECK (event.origin == origin);
	free (origin);
}

static void closed_by_hand (int clients)
{
	struct ipc_connection_info *closed;

	begin (clients);
	closed = list.cinfos[clients - 1];
	CHECK (close (closed->fd) == 0);
	expect_end (closed);
	end (clients);
}

/* Neither end of a pipe that is not written is ready. */
static void number_in_use_again (int clients)
{
	struct ipc_connection_info *closed;
	int ends[2], number;
	char byte;

	CHECK (pipe (ends) == 0);
	begin (clients);
	closed = list.cinfos[0];
	number = closed->fd;
	CHECK (dup2 (ends[0], number) == number);
	expect_end (closed);
	CHECK (fcntl (number, F_GETFD) >= 0 && write (ends[1], "x", 1) == 1 && read (number, &byte, 1) == 1);
	CHECK (close (number) == 0 && close (ends[0]) == 0 && close (ends[1]) == 0);
	end (clients);
}

static void service_in_use_again (void)
{
	int ends[2], number = -1, kept;

	CHECK (pipe (ends) == 0);
	begin (1);
	number = srv.fd;
	kept = dup (number);
	CHECK (kept >= 0 && dup2 (ends[0], number) == number);
	CHECK (ipc_wait_event (&list, &srv, &event) == IPC_ERROR_WAIT_EVENT__SELECT);
	CHECK (errno == ENOTSOCK || errno == EINVAL);
	CHECK (dup2 (kept, number) == number && close (kept) == 0);
	CHECK (close (ends[0]) == 0 && close (ends[1]) == 0);
	say (0, "again");
	expect_text ("again");
	end (1);
}

/* Puts another structure in the place of the first one, without a call of the library. */
static void entry_replaced (void)
{
	struct ipc_connection_info *before, other, service, taken;

	memset (&service, 0, sizeof service);
	memset (&taken, 0, sizeof taken);
	begin (2);
	before = list.cinfos[0];
	other = *before;
	list.cinfos[0] = &other;
	say (0, "to a copy");
	expect_text ("to a copy");
	CHECK (event.origin == &other);
	list.cinfos[0] = NULL;
	say (1, "with a NULL entry");
	expect_text ("with a NULL entry");
	list.cinfos[0] = before;
	say (0, "back");
	expect_text ("back");
	/* The other connection sends before the wait; the connection that it replaces never sends. */
	EXPECT_OK (ipc_server_init (environment, &service, "other"));
	EXPECT_OK (ipc_connection (environment, &peer[2], "other"));
	EXPECT_OK (ipc_accept (&service, &taken));
	list.cinfos[0] = &taken;
	say (2, "another one");
	expect_text ("another one");
	CHECK (event.origin == &taken);
	list.cinfos[0] = before;
	EXPECT_OK (ipc_close (&taken));
	EXPECT_OK (ipc_close (&peer[2]));
	EXPECT_OK (ipc_server_close (&service));
	end (2);
}

static volatile sig_atomic_t to_close = -1;

static void close_one (int number)
{
	(void) number;
	if (to_close >= 0)
		close ((int) to_close);
}

/* A wait with a timeout goes on after a handler. */
static void closed_by_a_handler (void)
{
	struct ipc_connection_info *closed;
	struct sigaction action;
	timer_t timer;
	struct itimerspec soon = { { 0, 0 }, { 0, 50 * 1000 * 1000 } };
	struct sigevent notification;

	memset (&action, 0, sizeof action);
	memset (&notification, 0, sizeof notification);
	action.sa_handler = close_one;
	CHECK (sigaction (SIGUSR1, &action, NULL) == 0);
	notification.sigev_notify = SIGEV_SIGNAL;
	notification.sigev_signo = SIGUSR1;
	CHECK (timer_create (CLOCK_MONOTONIC, &notification, &timer) == 0);
	begin (2);
	closed = list.cinfos[1];
	to_close = closed->fd;
	CHECK (timer_settime (timer, 0, &soon, NULL) == 0);
	EXPECT_OK (ipc_wait_event_timeout (&list, &srv, &event, 1000 * LIMIT_SECONDS));
	CHECK (event.type == IPC_EVENT_TYPE_DISCONNECTION && event.origin == closed);
	free (closed);
	/* A wait without a timeout ends. */
	to_close = -1;
	CHECK (timer_settime (timer, 0, &soon, NULL) == 0);
	EXPECT (ipc_wait_event (&list, &srv, &event), IPC_ERROR_WAIT_EVENT__SELECT, EINTR);
	CHECK (timer_delete (timer) == 0);
	end (2);
}

static int other_socket, swapped;

static void swap (int number)
{
	(void) number;
	dup2 (other_socket, swapped);
}

/* While the call waits for the rest of a message, a handler puts another socket at the number. Without a
 * timeout the handler ends the call, and the next call reports the disconnection, although the other socket
 * has nothing to read; with a timeout the same call reports the disconnection. No byte of the other socket is
 * read. */
static void swapped_within_a_message (int timeout_ms)
{
	static char half[100 * 1000];
	const uint32_t length = 1000 * 1000;
	struct ipc_connection_info *closed;
	struct sigaction action;
	timer_t timer;
	struct itimerspec soon = { { 0, 0 }, { 0, 50 * 1000 * 1000 } };
	struct sigevent notification;
	int ends[2], kept;
	char byte = 0;

	memset (&action, 0, sizeof action);
	memset (&notification, 0, sizeof notification);
	action.sa_handler = swap;
	CHECK (sigaction (SIGUSR1, &action, NULL) == 0);
	notification.sigev_notify = SIGEV_SIGNAL;
	notification.sigev_signo = SIGUSR1;
	CHECK (timer_create (CLOCK_MONOTONIC, &notification, &timer) == 0);
	CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	begin (2);
	closed = list.cinfos[0];
	kept = dup (closed->fd);
	other_socket = ends[0];
	swapped = closed->fd;
	half[0] = 1;
	memcpy (half + 1, &length, sizeof length);
	CHECK (kept >= 0 && send (peer[0].fd, half, sizeof half, 0) == (ssize_t) sizeof half);
	CHECK (timer_settime (timer, 0, &soon, NULL) == 0);
	if (timeout_ms < 0) {
		EXPECT (ipc_wait_event (&list, &srv, &event), IPC_ERROR_WAIT_EVENT__SELECT, EINTR);
		wait_for (IPC_EVENT_TYPE_DISCONNECTION);
		CHECK (write (ends[1], "x", 1) == 1);
	} else {
		CHECK (write (ends[1], "x", 1) == 1);
		EXPECT_OK (ipc_wait_event_timeout (&list, &srv, &event, timeout_ms));
	}
	CHECK (event.type == IPC_EVENT_TYPE_DISCONNECTION && event.origin == closed);
	CHECK (recv (swapped, &byte, 1, MSG_DONTWAIT) == 1 && byte == 'x');
	free (closed);
	CHECK (timer_delete (timer) == 0 && close (swapped) == 0 && close (kept) == 0);
	CHECK (close (ends[0]) == 0 && close (ends[1]) == 0);
	end (2);
}

/* The program closes the library's epoll set. */
static void set_closed (void)
{
	int fd;

	begin (2);
	for (fd = 3; fd < 64; fd++) {
		struct epoll_event none;

		memset (&none, 0, sizeof none);
		/* EINVAL: an epoll set, which cannot contain itself. */
		if (epoll_ctl (fd, EPOLL_CTL_ADD, fd, &none) < 0 && errno == EINVAL && fcntl (fd, F_GETFL) >= 0)
			if (fd != srv.fd && fd != peer[0].fd && fd != peer[1].fd && fd != list.cinfos[0]->fd
				&& fd != list.cinfos[1]->fd)
				CHECK (close (fd) == 0);
	}
	say (1, "without the set");
	expect_text ("without the set");
	say (0, "and once more");
	expect_text ("and once more");
	end (2);
}

static pthread_t thread;

static void *add_peer_later (void *unused)
{
	struct timespec a_little = { 0, 50 * 1000 * 1000 };

	nanosleep (&a_little, NULL);
	CHECK (ipc_add (&list, &peer[2]) == IPC_ERROR_NONE);
	return unused;
}

static void begin_thread (int number)
{
	(void) number;
	CHECK (pthread_create (&thread, NULL, add_peer_later, NULL) == 0);
}

/* A handler starts a second thread during the wait. An event of an entry that the second thread adds to the
 * list ends the wait of this thread. */
static void thread_begun_by_a_handler (void)
{
	struct ipc_connection_info other;
	struct sigaction action;

	memset (&action, 0, sizeof action);
	memset (&other, 0, sizeof other);
	begin (1);
	EXPECT_OK (ipc_server_init (environment, &other, "other"));
	EXPECT_OK (ipc_connection (environment, &peer[1], "other"));
	EXPECT_OK (ipc_accept (&other, &peer[2]));
	say (1, "from another thread");
	action.sa_handler = begin_thread;
	CHECK (sigaction (SIGALRM, &action, NULL) == 0);
	alarm (1);
	EXPECT_OK (ipc_wait_event_timeout (&list, &srv, &event, 1000 * LIMIT_SECONDS));
	CHECK (event.type == IPC_EVENT_TYPE_MESSAGE && event.origin == &peer[2]);
	CHECK (pthread_join (thread, NULL) == 0);
	check_begin ();
	EXPECT_OK (ipc_del (&list, &peer[2]));
	EXPECT_OK (ipc_close (&peer[2]));
	EXPECT_OK (ipc_server_close (&other));
	end (2);
}

int main (void)
{
	int clients;

	check_begin ();
	for (clients = 1; clients <= CLIENTS; clients++) {
		closed_by_hand (clients);
		number_in_use_again (clients);
	}
	service_in_use_again ();
	entry_replaced ();
	closed_by_a_handler ();
	swapped_within_a_message (-1);
	swapped_within_a_message (1000 * LIMIT_SECONDS);
	set_closed ();
	thread_begun_by_a_handler ();
	return 0;
}
