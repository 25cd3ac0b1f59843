/*
 * A server and a client, two processes of one program: each kind of event is reported, in its order, with its
 * origin and its message, and everything is freed at the end. IPC_RUNDIR names a directory.
 */
#include "check.h"

#include <sys/wait.h>

static struct ipc_connection_info srv, me;
static struct ipc_connection_infos list;
static struct ipc_event event;
static char *environment[] = { NULL };

static void say (struct ipc_connection_info *to, const char *text)
{
	struct ipc_message m;

	memset (&m, 0, sizeof m);
	EXPECT_OK (ipc_message_format_data (&m, text, (ssize_t) strlen (text)));
	EXPECT_OK (ipc_write (to, &m));
	EXPECT_OK (ipc_message_empty (&m));
}

static void expect_text (const struct ipc_message *m, const char *text)
{
	CHECK (m != NULL && m->type == MSG_TYPE_DATA && m->length == strlen (text));
	CHECK (memcmp (m->payload, text, strlen (text) + 1) == 0);
}

static void expect_message (const struct ipc_connection_info *origin, const char *text)
{
	CHECK (event.type == IPC_EVENT_TYPE_MESSAGE && event.origin == origin);
	expect_text ((const struct ipc_message *) event.m, text);
}

/* Reads one answer with ipc_read, and waits for the next one as a server does. */
static int client (void)
{
	struct ipc_message m = { 0, 0, NULL };

	check_begin ();
	EXPECT_OK (ipc_connection (environment, &me, "exchange"));
	CHECK (me.spath == NULL && me.index == 3 && me.version == 4);
	say (&me, "question");
	EXPECT_OK (ipc_read (&me, &m));
	expect_text (&m, "answer");
	EXPECT_OK (ipc_message_empty (&m));

	EXPECT_OK (ipc_add (&list, &me));
	EXPECT_OK (ipc_wait_event (&list, NULL, &event));
	expect_message (&me, "goodbye");
	IPC_EVENT_CLEAN (&event);
	CHECK (event.m == NULL && event.type == IPC_EVENT_TYPE_NOT_SET);
	EXPECT_OK (ipc_del (&list, &me));
	EXPECT_OK (ipc_close (&me));
	return 0;
}

static void server (int input, int output)
{
	struct ipc_connection_info *peer, *extra;

	EXPECT_OK (ipc_add_fd (&list, input));
	CHECK (list.size == 1 && list.cinfos[0]->type == 'a' && list.cinfos[0]->fd == input);
	extra = list.cinfos[0];

	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	CHECK (event.type == IPC_EVENT_TYPE_CONNECTION && event.m == NULL);
	peer = event.origin;
	CHECK (list.size == 2 && list.cinfos[1] == peer && peer->index == 3 && peer->version == 4);

	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	expect_message (peer, "question");
	say (peer, "answer");

	/* The program's own descriptor: its bytes, then its end of file, reported once and as a message of
	 * length 0. */
	CHECK (write (output, "piped", 5) == 5);
	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	CHECK (event.type == IPC_EVENT_TYPE_EXTRA_SOCKET && event.origin == extra);
	expect_text ((struct ipc_message *) event.m, "piped");
	CHECK (close (output) == 0);
	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	CHECK (event.type == IPC_EVENT_TYPE_EXTRA_SOCKET && event.origin == extra);
	CHECK (event.m != NULL && ((struct ipc_message *) event.m)->length == 0);

	say (peer, "goodbye");
	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	CHECK (event.type == IPC_EVENT_TYPE_DISCONNECTION && event.origin == peer && event.m == NULL);
	CHECK (list.size == 1 && list.cinfos[0] == extra);
	/* The number is held until the next call, and cannot be used. */
	CHECK (peer->fd >= 0 && write (peer->fd, "x", 1) == -1 && errno == EBADF && close (peer->fd) == 0);
	free (peer);

	EXPECT_OK (ipc_del (&list, extra));
	CHECK (list.size == 0 && list.cinfos == NULL);
	free (extra);
	CHECK (close (input) == 0);
}

int main (void)
{
	char path[PATH_MAX];
	int ends[2], status;
	pid_t child;

	check_begin ();
	srv.index = me.index = 3;
	srv.version = me.version = 4;
	CHECK (pipe (ends) == 0);
	EXPECT_OK (ipc_server_init (environment, &srv, "exchange"));
	service_path (path, "exchange", 3, 4);
	CHECK (strcmp (srv.spath, path) == 0 && access (path, F_OK) == 0);

	child = fork ();
	CHECK (child != -1);
	if (child == 0) {
		/* The child closes its copy of the service; the parent keeps the service and its file. */
		CHECK (close (ends[0]) == 0 && close (ends[1]) == 0);
		EXPECT_OK (ipc_server_close (&srv));
		CHECK (srv.spath == NULL && access (path, F_OK) == 0);
		return client ();
	}
	server (ends[0], ends[1]);
	CHECK (waitpid (child, &status, 0) == child);
	CHECK (WIFEXITED (status) && WEXITSTATUS (status) == 0);

	EXPECT_OK (ipc_server_close (&srv));
	CHECK (srv.spath == NULL && access (path, F_OK) == -1 && errno == ENOENT);
	ipc_connections_free (&list);
	CHECK (list.size == 0 && list.cinfos == NULL);
	return 0;
}
