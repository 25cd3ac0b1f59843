/*
 * A thread that ends while it waits for a peer that does not read: the peer then receives whole frames, other
 * threads may write, and no descriptor stays open. Then a thread that ends while it prints.
 */
#include "ending.h"

#include <ipc_ext.h>

#define LARGE 3000000

static struct ipc_connection_info connection;
static struct ipc_connection_infos list;
static struct ipc_message large, small, last;
static char *bytes;
static int peer, file;

/* What the peer receives: the number of frames of each type. */
static int arrived[128];
static pthread_t reader;

static int read_all (char *place, size_t size)
{
	ssize_t count = recv (peer, place, size, MSG_WAITALL);

	return count == (ssize_t) size;
}

/* Reads frames until one of type 9. Every byte of a payload equals its type. */
static void *read_frames (void *unused)
{
	char header[5], *payload = (char *) malloc (LARGE);
	uint32_t length, i;

	(void) unused;
	memset (arrived, 0, sizeof arrived);
	do {
		CHECK (read_all (header, 5));
		memcpy (&length, header + 1, 4);
		CHECK (header[0] > 0 && length <= LARGE && read_all (payload, length));
		for (i = 0; i < length; i++)
			CHECK (payload[i] == header[0]);
		arrived[(int) header[0]]++;
	} while (header[0] != 9);
	free (payload);
	return NULL;
}

static void message_of (struct ipc_message *m, char type, uint32_t length)
{
	m->type = type;
	m->length = length;
	m->payload = (char *) malloc (length);
	memset (m->payload, type, length);
}

static void open_pair (void)
{
	int pair[2];

	CHECK (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	connection.fd = pair[0];
	peer = pair[1];
}

/* Sends frames of type 4 without the library, as many as the kernel accepts whole; returns how many. */
static int fill (void)
{
	char frame[5 + 100];
	int count = 0;
	uint32_t length = 100;

	memset (frame, 4, sizeof frame);
	memcpy (frame + 1, &length, 4);
	while (send (connection.fd, frame, sizeof frame, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t) sizeof frame)
		count++;
	CHECK (errno == EAGAIN && count > 0);
	return count;
}

/* The peer reads; the last message is written and arrives. */
static void finish (void)
{
	CHECK (pthread_create (&reader, NULL, read_frames, NULL) == 0);
	OK (ipc_write (&connection, &last));
	OK (ipc_flush (&connection, -1));
	CHECK (pthread_join (reader, NULL) == 0);
	CHECK (readable_bytes (peer) == 0);
	OK (ipc_close (&connection));
	CHECK (close (peer) == 0);
}

static enum ipc_errors write_large (void)
{
	return ipc_write (&connection, &large);
}

static enum ipc_errors message_write_large (void)
{
	return ipc_message_write (connection.fd, &large);
}

static enum ipc_errors send_large (void)
{
	ssize_t sent;

	return usock_send (connection.fd, bytes, 5 + LARGE, &sent);
}

static enum ipc_errors write_large_with_file (void)
{
	return ipc_write_fd (&connection, &large, file);
}

static enum ipc_errors write_small (void)
{
	return ipc_write (&connection, &small);
}

static enum ipc_errors write_small_with_file (void)
{
	return ipc_write_fd (&connection, &small, file);
}

static enum ipc_errors flush_queue (void)
{
	return ipc_flush (&connection, -1);
}

static enum ipc_errors flush_with_timeout (void)
{
	return ipc_flush (&connection, 50000);
}

/* In a list a call waits for a limited time only: the thread is ended after this many calls. */
static atomic_int calls_made;

static enum ipc_errors write_small_again_and_again (void)
{
	while (ipc_write (&connection, &small) != IPC_ERROR_NOT_ENOUGH_MEMORY)
		atomic_fetch_add (&calls_made, 1);
	return IPC_ERROR_NONE;
}

static void start_and_end (enum way way, enum ipc_errors (*call) (void))
{
	struct ending ending;
	int before = open_fds ();

	start_call (&ending, way, call);
	end_call (&ending);
	join_call (&ending);
	CHECK (open_fds () == before);
}

/* The kernel has accepted a part of the frame: the rest of it must follow. */
static void in_the_middle_of_a_frame (enum way way)
{
	enum ipc_errors (*calls[]) (void) = { write_large, message_write_large, send_large, write_large_with_file };
	size_t i;

	for (i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		open_pair ();
		start_and_end (way, calls[i]);
		finish ();
		CHECK (arrived[1] == 1 && arrived[9] == 1);
	}
}

/* The kernel has accepted nothing: nothing of the frame may be sent later. */
static void before_a_frame (enum way way)
{
	enum ipc_errors (*calls[]) (void) = { write_small, write_small_with_file };
	size_t i;
	int filled;

	for (i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		open_pair ();
		filled = fill ();
		start_and_end (way, calls[i]);
		finish ();
		CHECK (arrived[4] == filled && arrived[2] == 0 && arrived[9] == 1);
	}
}

/* Queued messages, one with a descriptor, stay queued. */
static void in_a_flush (enum way way)
{
	enum ipc_errors (*calls[]) (void) = { flush_queue, flush_with_timeout };
	size_t i, before, after;
	int filled;

	for (i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		open_pair ();
		filled = fill ();
		OK (ipc_queue (&connection, &small));
		OK (ipc_queue (&connection, &large));
		OK (ipc_pending (&connection, &before));
		start_and_end (way, calls[i]);
		OK (ipc_pending (&connection, &after));
		CHECK (after == before);
		finish ();
		CHECK (arrived[4] == filled && arrived[2] == 1 && arrived[1] == 1 && arrived[9] == 1);
	}
}

/*
 * A connection in a list: before anything is queued, then while its queue fills up, and when the queue is
 * full. The thread is cancelled wherever it is; a handler that calls pthread_exit must not do that.
 */
static void in_a_list (void)
{
	static const int until[] = { 0, 1, 1000, 20000 };
	struct ending ending;
	int filled, before;
	size_t i;

	for (i = 0; i < sizeof until / sizeof until[0]; i++) {
		open_pair ();
		OK (ipc_add (&list, &connection));
		filled = fill ();
		before = open_fds ();
		memset (&ending, 0, sizeof ending);
		ending.way = CANCELLED;
		ending.call = write_small_again_and_again;
		atomic_store (&calls_made, 0);
		CHECK (pthread_create (&ending.thread, NULL, make_call, &ending) == 0);
		while (atomic_load (&calls_made) < until[i])
			poll (NULL, 0, 1);
		end_call (&ending);
		join_call (&ending);
		CHECK (open_fds () == before);
		OK (ipc_del (&list, &connection));
		finish ();
		CHECK (arrived[4] == filled && arrived[2] <= atomic_load (&calls_made) + 1 && arrived[9] == 1);
	}
}

static struct ipc_event event;

static enum ipc_errors wait_for_events (void)
{
	return ipc_wait_event (&list, NULL, &event);
}

/* The thread that waits for the list has ended, so the thread that writes is the one that has to serve the other
 * connection, which is ready: it is not held back. */
static void after_a_wait (enum way way)
{
	static struct ipc_connection_info ready;
	int pair[2], i;

	open_pair ();
	CHECK (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	ready.fd = pair[0];
	OK (ipc_add (&list, &connection));
	OK (ipc_add (&list, &ready));
	/* The list opens its descriptors. */
	OK (ipc_wait_event_timeout (&list, NULL, &event, 0));
	start_and_end (way, wait_for_events);
	send_bytes (pair[1], "\1\0\0\0\0", 5);
	/* More than one connection's queue may hold. */
	for (i = 0; i < 8; i++)
		OK (ipc_write (&connection, &large));
	OK (ipc_del (&list, &connection));
	OK (ipc_del (&list, &ready));
	IPC_EVENT_CLEAN (&event);
	finish ();
	CHECK (arrived[1] == 8 && arrived[9] == 1);
	OK (ipc_close (&ready));
	CHECK (close (pair[1]) == 0);
}

/* Cancellation is disabled: the call goes on, and ends when the event occurs that it waits for. */
static void not_while_disabled (void)
{
	struct ending ending;

	open_pair ();
	start_call (&ending, DISABLED, write_large);
	end_call (&ending);
	until_it_waits (&ending);
	CHECK (pthread_create (&reader, NULL, read_frames, NULL) == 0);
	join_call (&ending);
	OK (ending.code);
	OK (ipc_write (&connection, &last));
	CHECK (pthread_join (reader, NULL) == 0 && arrived[1] == 1);
	OK (ipc_close (&connection));
	CHECK (close (peer) == 0);
}

/* The second thread waits until the first has written its frame. */
static void while_another_thread_writes (enum way way)
{
	struct ending first, second;

	open_pair ();
	start_call (&first, way, write_large);
	start_call (&second, way, write_small);
	end_call (&first);
	join_call (&first);
	until_it_waits (&second);
	end_call (&second);
	join_call (&second);
	finish ();
	CHECK (arrived[1] == 1 && arrived[2] == 0 && arrived[9] == 1);
}

static enum ipc_errors print (void)
{
	int i;

	/* More than a pipe holds. */
	for (i = 0; i < 100000; i++) {
		log_error ("%0300d", 1);
		log_info ("%s", "a line");
		log_debug ("%0300d", 2);
	}
	return IPC_ERROR_NONE;
}

/* Standard output is a pipe that is full. Threads are not cancelled in printf of musl. */
static void in_a_print (enum way way)
{
	int ends[2], before = dup (STDOUT_FILENO);
	char rest[65536];
	struct ending ending;

	CHECK (pipe (ends) == 0 && dup2 (ends[1], STDOUT_FILENO) == STDOUT_FILENO);
	CHECK (fcntl (ends[0], F_SETFL, O_NONBLOCK) == 0);
	start_call (&ending, way, print);
	end_call (&ending);
	join_call (&ending);
	CHECK (ftrylockfile (stdout) == 0);
	funlockfile (stdout);
	while (read (ends[0], rest, sizeof rest) > 0)
		;
	/* Another thread, here this one, can print. */
	log_info ("%s", "the next line");
	fflush (stdout);
	CHECK (read (ends[0], rest, sizeof rest) > 0);
	CHECK (dup2 (before, STDOUT_FILENO) == STDOUT_FILENO);
	CHECK (close (before) == 0 && close (ends[0]) == 0 && close (ends[1]) == 0);
}

int main (void)
{
	static const enum way ways[] = { CANCELLED, EXITS_IN_HANDLER };
	size_t i;
	int before;

	check_begin ();
	handle_sigusr1 ();
	message_of (&large, 1, LARGE);
	message_of (&small, 2, 1000);
	message_of (&last, 9, 10);
	bytes = (char *) malloc (5 + LARGE);
	memset (bytes, 1, 5 + LARGE);
	memcpy (bytes + 1, &large.length, 4);
	file = open ("/dev/null", O_RDONLY | O_CLOEXEC);
	not_while_disabled ();
	for (i = 0; i < 2; i++) {
		before = open_fds ();
		in_the_middle_of_a_frame (ways[i]);
		before_a_frame (ways[i]);
		in_a_flush (ways[i]);
		while_another_thread_writes (ways[i]);
		after_a_wait (ways[i]);
		CHECK (open_fds () == before);
#ifdef __GLIBC__
		in_a_print (ways[i]);
#else
		(void) in_a_print;
#endif
		CHECK (open_fds () == before);
	}
	in_a_list ();
	ipc_connections_free (&list);
	free (bytes);
	OK (ipc_message_empty (&large));
	OK (ipc_message_empty (&small));
	OK (ipc_message_empty (&last));
	return 0;
}
