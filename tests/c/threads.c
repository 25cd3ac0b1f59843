/*
 * What threads may do: write to one connection, each use a list of its own, close a connection that another
 * thread waits for, serve clients that write from several threads in an event loop of their own. Messages
 * stay whole, and the messages of one thread stay in order. IPC_RUNDIR names a directory.
 *
 * Tools that detect races run this program, too: the threads share only the objects of the library. So EXPECT
 * of check.h, which stores the current call in one variable for all threads, is not used here.
 */
#include "check.h"

#include <ipc_ext.h>
#include <poll.h>
#include <pthread.h>

#define THREADS 4
#define MESSAGES 60
#define LARGEST 40000

#define OK(call) CHECK ((call) == IPC_ERROR_NONE)

static char *environment[] = { NULL };

/* A thread's number, and the connection that it works with. */
struct task {
	pthread_t thread;
	char number;
	struct ipc_connection_info *connection;
};

static void start (struct task *task, void *(*body) (void *), int number, struct ipc_connection_info *connection)
{
	task->number = (char) number;
	task->connection = connection;
	CHECK (pthread_create (&task->thread, NULL, body, task) == 0);
}

static void start_all (struct task *tasks, void *(*body) (void *), struct ipc_connection_info *connection)
{
	int i;

	for (i = 0; i < THREADS; i++)
		start (&tasks[i], body, i, connection);
}

static void join_all (struct task *tasks)
{
	int i;

	for (i = 0; i < THREADS; i++)
		CHECK (pthread_join (tasks[i].thread, NULL) == 0);
}

/* The n-th message of a thread: its place in the order, then bytes that are the thread's alone. */
static void compose (struct ipc_message *m, char thread, uint32_t n)
{
	static const uint32_t sizes[] = { sizeof n, 300, LARGEST };

	m->type = thread;
	m->length = sizes[n % 3];
	m->payload = (char *) malloc (m->length);
	CHECK (m->payload != NULL);
	memset (m->payload, 'a' + thread, m->length);
	memcpy (m->payload, &n, sizeof n);
}

static void check_next (const struct ipc_message *m, uint32_t *next)
{
	struct ipc_message expected;

	CHECK (m->type >= 0 && m->type < THREADS);
	compose (&expected, m->type, next[(int) m->type]++);
	CHECK (m->length == expected.length && memcmp (m->payload, expected.payload, m->length) == 0);
	OK (ipc_message_empty (&expected));
}

/* Every second thread queues and flushes, now and then. */
static void *write_messages (void *argument)
{
	const struct task *task = (const struct task *) argument;
	struct ipc_message m;
	size_t bytes;
	uint32_t n;

	for (n = 0; n < MESSAGES; n++) {
		compose (&m, task->number, n);
		if (task->number % 2 == 0) {
			OK (ipc_write (task->connection, &m));
		} else {
			OK (ipc_queue (task->connection, &m));
			OK (ipc_pending (task->connection, &bytes));
			if (n % 8 == 7)
				OK (ipc_flush (task->connection, -1));
		}
		OK (ipc_message_empty (&m));
	}
	OK (ipc_flush (task->connection, -1));
	return NULL;
}

static void *read_messages (void *argument)
{
	const struct task *task = (const struct task *) argument;
	uint32_t next[THREADS] = { 0 };
	struct ipc_message m = { 0, 0, NULL };
	int i;

	memset (&m, 0, sizeof m);
	for (i = 0; i < THREADS * MESSAGES; i++) {
		OK (ipc_read (task->connection, &m));
		check_next (&m, next);
		OK (ipc_message_empty (&m));
	}
	OK (ipc_message_format_data (&m, "all", 3));
	OK (ipc_write (task->connection, &m));
	OK (ipc_message_empty (&m));
	return NULL;
}

/* A service, its list, and the last event. */
struct server {
	struct ipc_connection_info srv;
	struct ipc_connection_infos list;
	struct ipc_event event;
};

static void open_server (struct server *server, const char *name, int index)
{
	memset (server, 0, sizeof *server);
	server->srv.index = (uint32_t) index;
	OK (ipc_server_init (environment, &server->srv, name));
}

static void next_event (struct server *server, enum ipc_event_type type)
{
	OK (ipc_wait_event (&server->list, &server->srv, &server->event));
	CHECK (server->event.type == type);
}

/* The server's side of a new connection. */
static struct ipc_connection_info *accept_client (struct server *server, struct ipc_connection_info *client,
	const char *name)
{
	memset (client, 0, sizeof *client);
	client->index = server->srv.index;
	OK (ipc_connection (environment, client, name));
	next_event (server, IPC_EVENT_TYPE_CONNECTION);
	return server->event.origin;
}

static void expect_disconnection (struct server *server, struct ipc_connection_info *of)
{
	next_event (server, IPC_EVENT_TYPE_DISCONNECTION);
	CHECK (server->event.origin == of);
	free (of);
}

static void close_server (struct server *server)
{
	IPC_EVENT_CLEAN (&server->event);
	CHECK (server->list.size == 0);
	OK (ipc_server_close (&server->srv));
	ipc_connections_free (&server->list);
}

/* This thread waits for events of the connection while other threads write to it. */
static void many_write_to_one_connection (void)
{
	struct task writers[THREADS], reader;
	struct ipc_connection_info client, *peer;
	struct server server;

	open_server (&server, "writers", 0);
	peer = accept_client (&server, &client, "writers");
	start (&reader, read_messages, 0, &client);
	start_all (writers, write_messages, peer);
	next_event (&server, IPC_EVENT_TYPE_MESSAGE);
	join_all (writers);
	CHECK (pthread_join (reader.thread, NULL) == 0);
	OK (ipc_close (&client));
	expect_disconnection (&server, peer);
	close_server (&server);
}

static void *serve_alone (void *argument)
{
	const struct task *task = (const struct task *) argument;
	struct ipc_connection_info client, *peer;
	struct server server;
	struct ipc_message m;
	uint32_t n;

	open_server (&server, "alone", task->number);
	for (n = 0; n < MESSAGES; n++) {
		peer = accept_client (&server, &client, "alone");
		compose (&m, task->number, n);
		OK (ipc_write (&client, &m));
		next_event (&server, IPC_EVENT_TYPE_MESSAGE);
		CHECK (memcmp (((struct ipc_message *) server.event.m)->payload, m.payload, m.length) == 0);
		OK (ipc_message_empty (&m));
		OK (ipc_close (&client));
		expect_disconnection (&server, peer);
	}
	close_server (&server);
	return NULL;
}

static void each_has_a_list_of_its_own (void)
{
	struct task tasks[THREADS];

	start_all (tasks, serve_alone, NULL);
	join_all (tasks);
}

/* Closes one connection, then wakes the thread that waits for this connection by a message on another
 * connection. */
static void *close_and_wake (void *argument)
{
	struct ipc_connection_info *connections = ((struct task *) argument)->connection;
	struct ipc_message m;

	OK (ipc_close (&connections[0]));
	memset (&m, 0, sizeof m);
	OK (ipc_message_format_data (&m, "wake", 4));
	OK (ipc_write (&connections[1], &m));
	OK (ipc_message_empty (&m));
	return NULL;
}

static void another_thread_closes (void)
{
	struct ipc_connection_info clients[2], closed_and_waking[2], *peers[2];
	struct server server;
	struct task closer;
	int i, said = 0, ended = 0;

	open_server (&server, "closing", 0);
	for (i = 0; i < 2; i++)
		peers[i] = accept_client (&server, &clients[i], "closing");
	/* Through a copy: the structure that the list points to belongs to this thread. */
	closed_and_waking[0] = *peers[0];
	closed_and_waking[1] = clients[1];
	start (&closer, close_and_wake, 0, closed_and_waking);
	while (said + ended < 2) {
		OK (ipc_wait_event (&server.list, &server.srv, &server.event));
		if (server.event.type == IPC_EVENT_TYPE_MESSAGE) {
			CHECK (server.event.origin == peers[1] && said++ == 0);
		} else {
			CHECK (server.event.type == IPC_EVENT_TYPE_DISCONNECTION);
			CHECK (server.event.origin == peers[0] && ended++ == 0);
			free (peers[0]);
		}
	}
	CHECK (pthread_join (closer.thread, NULL) == 0);
	for (i = 0; i < 2; i++)
		OK (ipc_close (&clients[i]));
	expect_disconnection (&server, peers[1]);
	close_server (&server);
}

static void *write_from_a_client_of_its_own (void *argument)
{
	const struct task *task = (const struct task *) argument;
	struct ipc_connection_info client;
	struct task writer;

	memset (&client, 0, sizeof client);
	OK (ipc_connection (environment, &client, "watched"));
	writer = *task;
	writer.connection = &client;
	write_messages (&writer);
	OK (ipc_close (&client));
	return NULL;
}

/* A loop around poll(2), as in another event library, serves what the threads send. */
static void clients_of_a_loop_write_from_threads (void)
{
	struct task tasks[THREADS];
	struct server server;
	struct pollfd readable;
	uint32_t next[THREADS] = { 0 };
	int messages = 0, ended = 0;

	open_server (&server, "watched", 0);
	OK (ipc_event_fd (&server.list, &server.srv, &readable.fd));
	readable.events = POLLIN;
	start_all (tasks, write_from_a_client_of_its_own, NULL);
	while (ended < THREADS) {
		CHECK (poll (&readable, 1, -1) == 1);
		do {
			OK (ipc_wait_event_timeout (&server.list, &server.srv, &server.event, 0));
			if (server.event.type == IPC_EVENT_TYPE_MESSAGE) {
				check_next ((const struct ipc_message *) server.event.m, next);
				messages++;
			} else if (server.event.type == IPC_EVENT_TYPE_DISCONNECTION) {
				free (server.event.origin);
				ended++;
			}
		} while (server.event.type != IPC_EVENT_TYPE_NOT_SET);
	}
	CHECK (messages == THREADS * MESSAGES);
	join_all (tasks);
	close_server (&server);
}

int main (void)
{
	check_begin ();
	many_write_to_one_connection ();
	each_has_a_list_of_its_own ();
	another_thread_closes ();
	clients_of_a_loop_write_from_threads ();
	return 0;
}
