/*
 * Threads that have a cancellation pending when they make a call: a call that may wait ends at its begin, and
 * does nothing; a call that never waits is completed. IPC_RUNDIR names a directory.
 */
#include "ending.h"
#include "undeclared.h"

#include <ipc_ext.h>

static char *environment[] = { NULL };

static struct ipc_connection_info srv, connection, own, accepted;
static struct ipc_connection_infos list;
static struct ipc_message message;
static int peer, client, file;

/* Each of these calls would succeed at once. */

static enum ipc_errors begin_read (void) { return ipc_read (&connection, &message); }
static enum ipc_errors begin_message_read (void) { return ipc_message_read (connection.fd, &message); }
static enum ipc_errors begin_write (void) { return ipc_write (&connection, &message); }
static enum ipc_errors begin_message_write (void) { return ipc_message_write (connection.fd, &message); }
static enum ipc_errors begin_write_fd (void) { return ipc_write_fd (&connection, &message, file); }
static enum ipc_errors begin_flush (void) { return ipc_flush (&connection, -1); }
static enum ipc_errors begin_accept (void) { return ipc_accept (&srv, &accepted); }
static enum ipc_errors begin_usock_accept (void) { return usock_accept (srv.fd, &accepted.fd); }
static enum ipc_errors begin_usock_connect (void) { return usock_connect (&accepted.fd, srv.spath); }

static enum ipc_errors begin_connection (void)
{
	return ipc_connection (environment, &accepted, "begin");
}

static enum ipc_errors begin_recv (void)
{
	char *bytes = NULL;
	ssize_t size = 0;

	return usock_recv (connection.fd, &bytes, &size);
}

static enum ipc_errors begin_send (void)
{
	ssize_t sent;

	return usock_send (connection.fd, "\1\0\0\0\0", 5, &sent);
}

static enum ipc_errors begin_wait_event (void)
{
	struct ipc_event event = { IPC_EVENT_TYPE_NOT_SET, NULL, NULL };

	return ipc_wait_event (&list, &srv, &event);
}

static enum ipc_errors begin_wait_timeout (void)
{
	struct ipc_event event = { IPC_EVENT_TYPE_NOT_SET, NULL, NULL };

	return ipc_wait_event_timeout (&list, &srv, &event, 0);
}

static enum ipc_errors begin_wait_events (void)
{
	struct ipc_event event = { IPC_EVENT_TYPE_NOT_SET, NULL, NULL };
	size_t count = 1;

	return ipc_wait_events (&list, &srv, &event, &count, 0);
}

static enum ipc_errors begin_handle_new_connection (void)
{
	return handle_new_connection (&srv, &list, NULL);
}

/* The thread has a pending cancellation when it makes the call. */
static void *cancel_itself_and_call (void *argument)
{
	enum ipc_errors (*call) (void) = *(enum ipc_errors (**) (void)) argument;
	int state;

	pthread_setcancelstate (PTHREAD_CANCEL_DISABLE, &state);
	pthread_cancel (pthread_self ());
	pthread_setcancelstate (PTHREAD_CANCEL_ENABLE, &state);
	call ();
	return NULL;
}

static void open_pair (void)
{
	int pair[2];

	CHECK (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	connection.fd = pair[0];
	peer = pair[1];
}

static void nothing_is_done_at_begin (void)
{
	static enum ipc_errors (*calls[]) (void) = {
		begin_read, begin_message_read, begin_recv, begin_write, begin_message_write, begin_write_fd, begin_send,
		begin_flush, begin_accept, begin_usock_accept, begin_usock_connect, begin_connection, begin_wait_event,
		begin_wait_timeout, begin_wait_events, begin_handle_new_connection,
	};
	char frame[64];
	pthread_t thread;
	void *result;
	int before;
	size_t i, size, pending;

	OK (ipc_server_init (environment, &srv, "begin"));
	open_pair ();
	memset (&accepted, 0, sizeof accepted);
	size = frame_of (frame, 1, "to be read");
	send_bytes (peer, frame, size);
	OK (ipc_message_format_data (&message, "not sent", 8));
	OK (ipc_queue (&connection, &message));
	OK (ipc_pending (&connection, &pending));
	client = connect_to (srv.spath);
	before = open_fds ();
	for (i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		size_t now;

		CHECK (pthread_create (&thread, NULL, cancel_itself_and_call, &calls[i]) == 0);
		CHECK (pthread_join (thread, &result) == 0 && result == PTHREAD_CANCELED);
		CHECK (readable_bytes (connection.fd) == (int) size && readable_bytes (peer) == 0);
		OK (ipc_pending (&connection, &now));
		CHECK (now == pending && open_fds () == before && list.size == 0 && is_readable (srv.fd));
	}
	/* One client is connected, and no more. */
	OK (ipc_accept (&srv, &accepted));
	CHECK (!is_readable (srv.fd));
	OK (ipc_close (&accepted));
	OK (ipc_flush (&connection, -1));
	CHECK (readable_bytes (peer) == 5 + 8);
	OK (ipc_close (&connection));
	CHECK (close (client) == 0 && close (peer) == 0);
	OK (ipc_server_close (&srv));
	OK (ipc_message_empty (&message));
}

static int done;

/* Everything that a program may do in a cleanup handler, and more. */
static enum ipc_errors calls_that_never_wait (void)
{
	struct ipc_message m = { 0, 0, NULL }, *made;
	struct ipc_connection_info *copy;
	struct ipc_connection_infos lists[2];
	char *bytes = NULL;
	ssize_t size = 0;
	size_t pending;
	struct ipc_peer credentials;
	int fd;

	memset (lists, 0, sizeof lists);
	done = 0;
	OK (ipc_message_new (&made, 7));
	OK (ipc_message_empty (made));
	free (made);
	OK (ipc_message_format_data (&m, "payload", 7));
	OK (ipc_message_format_write (&m, &bytes, &size));
	OK (ipc_message_empty (&m));
	OK (ipc_message_format_read (&m, bytes, size));
	free (bytes);
	OK (ipc_add (&list, &connection));
	OK (ipc_event_fd (&list, NULL, &fd));
	OK (ipc_add_fd (&list, file));
	OK (ipc_del_fd (&list, file));
	OK (ipc_watch_fd (&list, peer));
	OK (ipc_del_fd (&list, peer));
	OK (ipc_limits (&connection, 100, 0));
	OK (ipc_allow_fds (&connection));
	OK (ipc_peer (&connection, &credentials));
	OK (ipc_queue (&connection, &m));
	OK (ipc_pending (&connection, &pending));
	CHECK (ipc_take_fd (&connection, &fd) == IPC_ERROR_USOCK_RECV && errno == ENOENT);
	copy = ipc_connection_copy (&connection);
	CHECK (copy != NULL && ipc_connection_eq (copy, &connection));
	ipc_connection_print (copy);
	ipc_connections_print (&list);
	ipc_message_print (&m);
	print_hexa ("m", (unsigned char *) m.payload, m.length);
	mprint_hexa ((char *) "m", (unsigned char *) m.payload, m.length);
	free (copy);
	OK (ipc_message_empty (&m));
	OK (ipc_del (&list, &connection));
	OK (ipc_add (&lists[0], &own));
	ipc_connections_free (&lists[0]);
	ipc_connections_free (&list);
	OK (ipc_close (&connection));
	OK (usock_close (own.fd));
	OK (ipc_server_close (&srv));
	done = 1;
	return IPC_ERROR_NONE;
}

static void *cancel_itself_and_call_all (void *unused)
{
	enum ipc_errors (*call) (void) = calls_that_never_wait;

	(void) unused;
	cancel_itself_and_call (&call);
	pthread_testcancel ();
	return NULL;
}

static void calls_without_wait_are_completed (void)
{
	pthread_t thread;
	void *result;
	int pair[2], before = open_fds ();
	char path[256];

	OK (ipc_server_init (environment, &srv, "begin"));
	strncpy (path, srv.spath, sizeof path - 1);
	open_pair ();
	CHECK (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	own.fd = pair[0];
	/* Each line is written at once: a thread could be cancelled in write(2). */
	CHECK (freopen ("/dev/null", "w", stdout) != NULL && setvbuf (stdout, NULL, _IONBF, 0) == 0);
	CHECK (pthread_create (&thread, NULL, cancel_itself_and_call_all, NULL) == 0);
	CHECK (pthread_join (thread, &result) == 0 && result == PTHREAD_CANCELED);
	CHECK (done && access (path, F_OK) < 0);
	CHECK (close (pair[1]) == 0 && close (peer) == 0);
	CHECK (open_fds () == before);
}

int main (void)
{
	check_begin ();
	file = open ("/dev/null", O_RDONLY | O_CLOEXEC);
	nothing_is_done_at_begin ();
	calls_without_wait_are_completed ();
	CHECK (close (file) == 0);
	return 0;
}
