/*
 * A thread that ends while it waits for events, messages, clients or a server. No descriptor stays open and
 * no received byte is lost: another thread makes the same call afterwards, and it succeeds. IPC_RUNDIR names
 * a directory.
 */
#include "ending.h"
#include "undeclared.h"

#include <ipc_ext.h>
#include <sys/stat.h>

static char *environment[] = { NULL };

static struct ipc_connection_info srv, connection, accepted;
static struct ipc_connection_infos list;
static struct ipc_event event, events[4];
static size_t count;
static struct ipc_message message;
static int peer, listener, client, number;
static char frames[256], path[300];
static size_t half, all;

/* One call that waits: its preparation, the call, the action that ends its wait, and the expected result. */
struct waiting {
	const char *name;
	void (*prepare) (void);
	enum ipc_errors (*call) (void);
	void (*wake) (void);
	void (*verify) (void);
};

/* A connection on which one and a half frames have arrived; the rest and a third frame are sent later. */
static void prepare_pair (void)
{
	int pair[2];
	size_t first;

	CHECK (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	connection.fd = pair[0];
	peer = pair[1];
	first = frame_of (frames, 1, "first");
	all = first + frame_of (frames + first, 2, "second, which arrives in two parts");
	half = first + 17;
	all += frame_of (frames + all, 3, "third");
	send_bytes (peer, frames, half);
}

static void send_the_rest (void)
{
	send_bytes (peer, frames + half, all - half);
}

static void close_pair (void)
{
	OK (ipc_close (&connection));
	CHECK (close (peer) == 0);
}

/* ipc_read and the functions below it. */

static enum ipc_errors call_read (void)
{
	OK (ipc_message_empty (&message));
	return ipc_read (&connection, &message);
}

static enum ipc_errors call_message_read (void)
{
	OK (ipc_message_empty (&message));
	return ipc_message_read (connection.fd, &message);
}

static char *received;
static ssize_t room;

static enum ipc_errors call_recv (void)
{
	room = 0;
	return usock_recv (connection.fd, &received, &room);
}

static void prepare_read (void)
{
	prepare_pair ();
	OK (call_read ());
	expect_message (&message, 1, "first");
}

static void verify_read (void)
{
	expect_message (&message, 2, "second, which arrives in two parts");
	OK (call_read ());
	expect_message (&message, 3, "third");
	OK (ipc_message_empty (&message));
	close_pair ();
}

static void verify_recv (void)
{
	CHECK (room == 5 + 34 && received[0] == 2 && memcmp (received + 5, "second", 6) == 0);
	free (received);
	received = NULL;
	OK (call_read ());
	expect_message (&message, 3, "third");
	OK (ipc_message_empty (&message));
	close_pair ();
}

/* Nothing of a frame has arrived, and the socket has a timeout: then the library waits in another way. */
static void prepare_read_with_timeout (void)
{
	struct timeval limit = { 50, 0 };

	prepare_pair ();
	CHECK (setsockopt (connection.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
	OK (call_read ());
}

/* The event loop, with a service and a connection that the program has added. */

static enum ipc_errors call_wait_event (void)
{
	return ipc_wait_event (&list, &srv, &event);
}

static enum ipc_errors call_wait_timeout (void)
{
	return ipc_wait_event_timeout (&list, &srv, &event, 50000);
}

static enum ipc_errors call_wait_events (void)
{
	enum ipc_errors code;

	count = 1;
	code = ipc_wait_events (&list, &srv, events, &count, 50000);
	/* The event is stored where the other two calls store theirs. */
	IPC_EVENT_CLEAN (&event);
	event = events[0];
	memset (&events[0], 0, sizeof events[0]);
	return code;
}

static enum ipc_errors call_wait_alone (void)
{
	return ipc_wait_event (&list, NULL, &event);
}

static void prepare_list (void)
{
	OK (ipc_server_init (environment, &srv, "ending"));
	prepare_pair ();
	OK (ipc_add (&list, &connection));
	OK (call_wait_event ());
	CHECK (event.type == IPC_EVENT_TYPE_MESSAGE);
	expect_message ((struct ipc_message *) event.m, 1, "first");
}

static void verify_list (void)
{
	CHECK (event.type == IPC_EVENT_TYPE_MESSAGE && event.origin == &connection);
	expect_message ((struct ipc_message *) event.m, 2, "second, which arrives in two parts");
	OK (call_wait_event ());
	expect_message ((struct ipc_message *) event.m, 3, "third");
	client = connect_to (srv.spath);
	OK (call_wait_event ());
	CHECK (event.type == IPC_EVENT_TYPE_CONNECTION && list.size == 2);
	OK (ipc_del (&list, event.origin));
	OK (ipc_close (event.origin));
	free (event.origin);
	OK (ipc_del (&list, &connection));
	IPC_EVENT_CLEAN (&event);
	ipc_connections_free (&list);
	close_pair ();
	CHECK (close (client) == 0);
	OK (ipc_server_close (&srv));
}

/* Accepting clients. */

static void prepare_service (void)
{
	OK (ipc_server_init (environment, &srv, "ending"));
}

/* A list that has waited for a service leaves its socket in another state (O_NONBLOCK). */
static void prepare_service_of_a_list (void)
{
	prepare_service ();
	client = connect_to (srv.spath);
	OK (call_wait_event ());
	OK (ipc_del (&list, event.origin));
	OK (ipc_close (event.origin));
	free (event.origin);
	CHECK (close (client) == 0);
}

static enum ipc_errors call_accept (void)
{
	return ipc_accept (&srv, &accepted);
}

static enum ipc_errors call_usock_accept (void)
{
	return usock_accept (srv.fd, &accepted.fd);
}

static enum ipc_errors call_handle_new_connection (void)
{
	struct ipc_connection_info *new_client;
	enum ipc_errors code = handle_new_connection (&srv, &list, &new_client);

	if (code == IPC_ERROR_NONE) {
		accepted = *new_client;
		OK (ipc_del (&list, new_client));
		free (new_client);
	}
	return code;
}

static void connect_a_client (void)
{
	client = connect_to (srv.spath);
	send_bytes (client, frames, frame_of (frames, 1, "hello"));
}

static void verify_client (void)
{
	OK (ipc_read (&accepted, &message));
	expect_message (&message, 1, "hello");
	OK (ipc_message_empty (&message));
	OK (ipc_close (&accepted));
	IPC_EVENT_CLEAN (&event);
	ipc_connections_free (&list);
	CHECK (close (client) == 0);
	OK (ipc_server_close (&srv));
}

/* A server whose backlog is full. */

static void fill_backlog (const char *at)
{
	listener = listen_at (at, 0);
	client = connect_to (at);
}

static void prepare_full_service (void)
{
	snprintf (path, sizeof path, "%s/full-0-0", getenv ("IPC_RUNDIR"));
	fill_backlog (path);
}

/* A path that is too long for a socket address. */
static void prepare_full_service_far_away (void)
{
	char link[64];
	size_t length;

	snprintf (path, sizeof path, "%s/", getenv ("IPC_RUNDIR"));
	length = strlen (path);
	CHECK (length < 100);
	memset (path + length, 'd', 150);
	path[length + 150] = '\0';
	CHECK (mkdir (path, 0700) == 0 || errno == EEXIST);
	number = open (path, O_PATH | O_CLOEXEC);
	snprintf (link, sizeof link, "/proc/self/fd/%d/full", number);
	fill_backlog (link);
	CHECK (close (number) == 0);
	strcat (path, "/full");
}

static enum ipc_errors call_connection (void)
{
	/* In this thread's frame: a thread that ends leaves no memory to be freed. */
	struct ipc_connection_info server = { 0 };
	enum ipc_errors code = ipc_connection (environment, &server, "full");

	number = server.fd;
	free (server.spath);
	return code;
}

static enum ipc_errors call_usock_connect (void)
{
	return usock_connect (&number, path);
}

static void make_room (void)
{
	int taken = accept (listener, NULL, NULL);

	CHECK (taken >= 0 && close (taken) == 0);
}

/* This connection is the only one in the backlog: the thread that has ended left none there. */
static void verify_connected (void)
{
	char byte = 'x';
	int taken = accept (listener, NULL, NULL);

	CHECK (taken >= 0);
	CHECK (send (taken, &byte, 1, 0) == 1 && recv (number, &byte, 1, 0) == 1);
	CHECK (!is_readable (listener));
	CHECK (close (taken) == 0 && close (client) == 0 && close (listener) == 0 && unlink (path) == 0);
	OK (usock_close (number));
}

static const struct waiting CALLS[] = {
	{ "ipc_read", prepare_read, call_read, send_the_rest, verify_read },
	{ "ipc_read, with a timeout", prepare_read_with_timeout, call_read, send_the_rest, verify_read },
	{ "ipc_message_read", prepare_read, call_message_read, send_the_rest, verify_read },
	{ "usock_recv", prepare_read, call_recv, send_the_rest, verify_recv },
	{ "ipc_wait_event", prepare_list, call_wait_event, send_the_rest, verify_list },
	{ "ipc_wait_event, no service", prepare_list, call_wait_alone, send_the_rest, verify_list },
	{ "ipc_wait_event_timeout", prepare_list, call_wait_timeout, send_the_rest, verify_list },
	{ "ipc_wait_events", prepare_list, call_wait_events, send_the_rest, verify_list },
	{ "ipc_accept", prepare_service, call_accept, connect_a_client, verify_client },
	{ "ipc_accept, after a list", prepare_service_of_a_list, call_accept, connect_a_client, verify_client },
	{ "usock_accept", prepare_service, call_usock_accept, connect_a_client, verify_client },
	{ "handle_new_connection", prepare_service, call_handle_new_connection, connect_a_client, verify_client },
	{ "ipc_connection", prepare_full_service, call_connection, make_room, verify_connected },
	{ "usock_connect", prepare_full_service, call_usock_connect, make_room, verify_connected },
	{ "usock_connect, far away", prepare_full_service_far_away, call_usock_connect, make_room, verify_connected },
};

static void end_in (const struct waiting *waiting, enum way way, int times)
{
	struct ending ending;
	int before, i;

	waiting->prepare ();
	before = open_fds ();
	for (i = 0; i < times; i++) {
		start_call (&ending, way, waiting->call);
		end_call (&ending);
		if (way == DISABLED) {
			/* The call goes on, and the thread ends after the call has returned. */
			until_it_waits (&ending);
			waiting->wake ();
			join_call (&ending);
			OK (ending.code);
			waiting->verify ();
			return;
		}
		join_call (&ending);
		CHECK (open_fds () == before);
	}
	waiting->wake ();
	OK (waiting->call ());
	waiting->verify ();
}

int main (void)
{
	size_t i, way;
	int before;

	check_begin ();
	handle_sigusr1 ();
	/* Once before, for the memory that the library keeps. */
	end_in (&CALLS[4], CANCELLED, 1);
	before = open_fds ();
	for (i = 0; i < sizeof CALLS / sizeof CALLS[0]; i++)
		for (way = 0; way < sizeof WAYS / sizeof WAYS[0]; way++) {
#ifndef __GLIBC__
			/* In musl a cancellation that is disabled interrupts poll(2), as a signal does:
			 * EINTR. */
			if (WAYS[way] == DISABLED)
				continue;
#endif
			current_call = CALLS[i].name;
			end_in (&CALLS[i], WAYS[way], 3);
			if (open_fds () != before)
				fprintf (stderr, "%s, way %d: a descriptor is left\n", CALLS[i].name, (int) way);
			CHECK (open_fds () == before);
		}
	return 0;
}
