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
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define CLIENTS 3
/* More than the library polls one by one. */
#define MANY 8

static char *environment[] = { NULL };
static struct ipc_connection_info srv, peer[MANY];
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

/* The number of the library's epoll set. */
static int set_of_the_library (void)
{
	char link[64], file[64];
	int fd;

	for (fd = 3; fd < 64; fd++) {
		ssize_t length;

		snprintf (link, sizeof link, "/proc/self/fd/%d", fd);
		length = readlink (link, file, sizeof file - 1);
		if (length > 0) {
			file[length] = '\0';
			if (strstr (file, "[eventpoll]") != NULL)
				return fd;
		}
	}
	CHECK (fd < 64);
	return -1;
}

/* The program closes the library's epoll set. */
static void set_closed (void)
{
	begin (2);
	CHECK (close (set_of_the_library ()) == 0);
	say (1, "without the set");
	expect_text ("without the set");
	say (0, "and once more");
	expect_text ("and once more");
	end (2);
}

/* An epoll set of the program's gets the number `set`, and the socket `number`, which is then in the set.
 * Returns the set's own descriptor. */
static int take_numbers (int set, int number, int from)
{
	struct epoll_event in;
	int own = epoll_create1 (0);

	memset (&in, 0, sizeof in);
	in.events = EPOLLIN | EPOLLET;
	in.data.fd = number;
	CHECK (own >= 0 && dup2 (own, set) == set && dup2 (from, number) == number);
	CHECK (epoll_ctl (set, EPOLL_CTL_ADD, number, &in) == 0);
	return own;
}

/* After closefrom(3): an epoll set of the program's, `own`, has got the number `set` of the library's, and a socket in it,
 * the first of two ends, the `number` of the first client. */
struct replaced {
	struct ipc_connection_info *closed;
	int ends[2], own, set, number;
};

static struct replaced begin_replaced (int clients)
{
	struct replaced r;

	begin (clients);
	r.closed = list.cinfos[0];
	r.number = r.closed->fd;
	r.set = set_of_the_library ();
	CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, r.ends) == 0);
	r.own = take_numbers (r.set, r.number, r.ends[0]);
	return r;
}

/* The other clients go on. */
static void end_replaced (int clients, const struct replaced *r)
{
	if (clients > 1) {
		say (1, "to the next set");
		expect_text ("to the next set");
	}
	CHECK (close (r->set) == 0 && close (r->own) == 0 && close (r->number) == 0);
	CHECK (close (r->ends[0]) == 0 && close (r->ends[1]) == 0);
	end (clients);
}

/* The disconnection of the client is reported, the socket is neither read nor closed, and the program's set loses no
 * event. `is_ended`: the program tries to end the client. */
static void set_replaced (int clients, int is_ended)
{
	static const char frame[] = "\1\3\0\0\0abc";
	struct replaced r = begin_replaced (clients);
	struct epoll_event event_in_set;
	char bytes[16];

	CHECK (write (r.ends[1], frame, 8) == 8);
	if (is_ended)
		EXPECT (ipc_end (&list, r.closed, 0), IPC_ERROR_DEL__CANNOT_FIND_CLIENT, ENOENT);
	expect_end (r.closed);
	CHECK (epoll_wait (r.own, &event_in_set, 1, 0) == 1 && event_in_set.data.fd == r.number);
	CHECK (recv (r.number, bytes, sizeof bytes, MSG_DONTWAIT) == 8 && memcmp (bytes, frame, 8) == 0);
	CHECK (epoll_ctl (r.set, EPOLL_CTL_DEL, r.number, &event_in_set) == 0);
	end_replaced (clients, &r);
}

/* The same, and the program's set has the numbers of all others, too: those of the other clients and of the service.
 * Nothing comes from the socket. */
static void set_replaced_for_all (int clients)
{
	struct replaced r = begin_replaced (clients);
	struct epoll_event in;
	int i;

	memset (&in, 0, sizeof in);
	in.events = EPOLLIN;
	for (i = 1; i < clients; i++)
		CHECK (epoll_ctl (r.set, EPOLL_CTL_ADD, list.cinfos[i]->fd, &in) == 0);
	CHECK (epoll_ctl (r.set, EPOLL_CTL_ADD, srv.fd, &in) == 0);
	expect_end (r.closed);
	end_replaced (clients, &r);
}

/* A member waits for the number of another one, and the program's set has the library's number: a close by the program
 * adds nothing to the program's set. */
static void set_replaced_before_a_close (void)
{
	struct ipc_connection_info *copy, *closed;
	struct epoll_event none;
	int ends[2], own, set, number;

	begin (2);
	closed = list.cinfos[0];
	number = closed->fd;
	copy = (struct ipc_connection_info *) malloc (sizeof *copy);
	CHECK (copy != NULL);
	*copy = *closed;
	EXPECT_OK (ipc_add (&list, copy));
	say (1, "twice in the list");
	expect_text ("twice in the list");
	set = set_of_the_library ();
	CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	own = epoll_create1 (0);
	CHECK (own >= 0 && dup2 (own, set) == set);
	EXPECT_OK (ipc_del (&list, closed));
	memset (&none, 0, sizeof none);
	CHECK (epoll_ctl (set, EPOLL_CTL_DEL, number, &none) == -1 && errno == ENOENT);
	free (closed);
	say (1, "to the next set");
	expect_text ("to the next set");
	CHECK (close (set) == 0 && close (own) == 0 && close (ends[0]) == 0 && close (ends[1]) == 0);
	end (2);
}

/* A sandbox that comes up later refuses getsockopt(2), so the library cannot ask for the cookies that it has noted. For the
 * rest of the process. */
static void number_in_use_again_in_a_sandbox (void)
{
	static const char frame[] = "\1\3\0\0\0abc";
	struct sock_filter rules[] = {
		BPF_STMT (BPF_LD | BPF_W | BPF_ABS, offsetof (struct seccomp_data, nr)),
		BPF_JUMP (BPF_JMP | BPF_JEQ | BPF_K, SYS_getsockopt, 0, 1),
		BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	};
	struct sock_fprog filter = { sizeof rules / sizeof *rules, rules };
	struct ipc_connection_info *closed;
	char bytes[16];
	int ends[2], number, clients = MANY;

	begin (clients);
	if (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
	    || prctl (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
		printf ("SKIPPED: no sandbox: %s\n", strerror (errno));
		end (clients);
		return;
	}
	for (; clients > 1; clients--) {
		closed = list.cinfos[0];
		number = closed->fd;
		CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, ends) == 0);
		CHECK (dup2 (ends[0], number) == number && write (ends[1], frame, 8) == 8);
		expect_end (closed);
		CHECK (recv (number, bytes, sizeof bytes, MSG_DONTWAIT) == 8 && memcmp (bytes, frame, 8) == 0);
		CHECK (close (number) == 0 && close (ends[0]) == 0 && close (ends[1]) == 0);
	}
	end (MANY);
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

static int takes_the_set, has_begun;

/* What another thread does while this one waits: a number of the list gets another socket; perhaps the number
 * of the library's set, too, gets an epoll set that has this socket. Then the client sends, which ends the wait
 * for the former socket. */
static void *swap_later (void *half)
{
	struct timespec a_little = { 0, 50 * 1000 * 1000 };

	nanosleep (&a_little, NULL);
	if (has_begun) {
		/* One more part, within the same call. */
		CHECK (send (peer[0].fd, half, 1000, 0) == 1000);
		nanosleep (&a_little, NULL);
	}
	if (takes_the_set)
		CHECK (close (take_numbers (set_of_the_library (), swapped, other_socket)) == 0);
	else
		CHECK (dup2 (other_socket, swapped) == swapped);
	CHECK (send (peer[0].fd, half, 1000, 0) == 1000);
	return half;
}

/* The connection is one of a few. It has sent nothing, or parts of a message. */
static void swapped_by_a_thread (int with_parts, int with_set)
{
	static char half[1000];
	const uint32_t length = 1000 * 1000;
	struct ipc_connection_info *closed;
	int ends[2], kept, set;
	char byte = 0;

	CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	begin (2);
	closed = list.cinfos[0];
	kept = dup (closed->fd);
	set = set_of_the_library ();
	other_socket = ends[0];
	swapped = closed->fd;
	takes_the_set = with_set;
	has_begun = with_parts;
	half[0] = 1;
	memcpy (half + 1, &length, sizeof length);
	if (with_parts)
		CHECK (send (peer[0].fd, half, sizeof half, 0) == (ssize_t) sizeof half);
	CHECK (kept >= 0 && write (ends[1], "x", 1) == 1);
	CHECK (pthread_create (&thread, NULL, swap_later, half) == 0);
	expect_end (closed);
	CHECK (pthread_join (thread, NULL) == 0);
	CHECK (recv (swapped, &byte, 1, MSG_DONTWAIT) == 1 && byte == 'x');
	if (with_set)
		CHECK (close (set) == 0);
	CHECK (close (swapped) == 0 && close (kept) == 0 && close (ends[0]) == 0 && close (ends[1]) == 0);
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
	set_replaced (1, 0);
	set_replaced (MANY, 0);
	set_replaced (2, 1);
	set_replaced_for_all (CLIENTS);
	set_replaced_for_all (MANY);
	set_replaced_before_a_close ();
	thread_begun_by_a_handler ();
	/* The library does not know the process as one of one thread any more. */
	set_replaced (1, 0);
	set_replaced (MANY, 0);
	set_replaced (2, 1);
	swapped_by_a_thread (0, 0);
	swapped_by_a_thread (1, 0);
	swapped_by_a_thread (0, 1);
	swapped_by_a_thread (1, 1);
	number_in_use_again_in_a_sandbox ();
	return 0;
}
