/*
 * A program in the style of 2019: it includes ipc.h and relies on it for all other headers, uses the macros
 * as blocks, and uses event.origin both as the pointer to a structure that it is and as the void * of the
 * manual. Compiled with and without IPC_WITH_ERRORS. IPC_RUNDIR names a directory.
 */
#include <ipc.h>

static int failures = 0;

#define FAIL(what) \
	do { \
		fprintf (stderr, "%s:%d: %s\n", __FILE__, __LINE__, (what)); \
		failures++; \
	} while (0)

static void try_event_macros (struct ipc_connection_info *origin)
{
	struct ipc_event event, *pevent = &event;
	struct ipc_message *m = (struct ipc_message *) malloc (sizeof (struct ipc_message));
	int turn;

	if (m == NULL)
		handle_error ("malloc");

	memset (m, 0, sizeof (struct ipc_message));
	ipc_message_format_data (m, "text", 4);
	for (turn = 0; turn < 2; turn++)
		if (turn == 0)
			IPC_EVENT_SET (pevent, IPC_EVENT_TYPE_MESSAGE, m, origin)
		else
			IPC_EVENT_SET (pevent, IPC_EVENT_TYPE_DISCONNECTION, NULL, origin)
	if (event.type != IPC_EVENT_TYPE_DISCONNECTION || event.m != NULL || event.origin != origin)
		FAIL ("IPC_EVENT_SET");

	/* Without a message, and with one: the message is emptied and freed. */
	if (event.m == NULL)
		IPC_EVENT_CLEAN (pevent)
	else
		FAIL ("unreachable");
	IPC_EVENT_SET (&event, IPC_EVENT_TYPE_MESSAGE, m, origin);
	if (event.m != NULL)
		IPC_EVENT_CLEAN (&event)
	else
		FAIL ("unreachable");
	if (event.type != IPC_EVENT_TYPE_NOT_SET || event.m != NULL)
		FAIL ("IPC_EVENT_CLEAN");
}

static void try_error_macros (void)
{
	handle_err ("try_error_macros", "no failure so far")
	if (failures > 0) {
		handle_err ("try_error_macros", "failures")
		handle_error ("failures");
	}
	printf ("still here\n");
}

int main (int argc, char **argv, char **env)
{
	struct ipc_connection_info *srv = (struct ipc_connection_info *) malloc (sizeof (struct ipc_connection_info));
	struct ipc_connection_info *me = (struct ipc_connection_info *) malloc (sizeof (struct ipc_connection_info));
	struct ipc_connection_info *client = NULL;
	struct ipc_connection_infos clients;
	struct ipc_event event;
	struct ipc_message m;
	enum ipc_errors ret;
	time_t start = time (NULL);
	uint32_t version = 0;
	int8_t equal;

	(void) argc;
	if (start == (time_t) -1)
		handle_err ("main", "time");
	if (getenv ("IPC_RUNDIR") == NULL) {
		fprintf (stderr, "%s: IPC_RUNDIR is not set\n", argv[0]);
		exit (EXIT_FAILURE);
	}
	memset (srv, 0, sizeof (struct ipc_connection_info));
	memset (me, 0, sizeof (struct ipc_connection_info));
	memset (&clients, 0, sizeof (struct ipc_connection_infos));
	memset (&event, 0, sizeof (struct ipc_event));
	memset (&m, 0, sizeof (struct ipc_message));
	srv->version = me->version = version;

	errno = 0;
	if (ipc_connection (env, me, "old_style") == IPC_ERROR_NONE || errno != ENOENT)
		FAIL ("a service before there is one");
	ret = ipc_server_init (env, srv, "old_style");
	if (ret != IPC_ERROR_NONE)
		FAIL (ipc_errors_get (ret));
	if (ipc_connection (env, me, "old_style") != IPC_ERROR_NONE)
		handle_error ("ipc_connection");
	if (ipc_message_format_data (&m, "hello", strlen ("hello") + 1) != IPC_ERROR_NONE)
		handle_error ("ipc_message_format_data");
	if (ipc_write (me, &m) != IPC_ERROR_NONE)
		handle_error ("ipc_write");
	ipc_message_empty (&m);

	while (client == NULL || event.type != IPC_EVENT_TYPE_DISCONNECTION) {
		ret = ipc_wait_event (&clients, srv, &event);
		if (ret != IPC_ERROR_NONE) {
			FAIL (ipc_errors_get (ret));
			break;
		}
		switch (event.type) {
		case IPC_EVENT_TYPE_CONNECTION:
			client = event.origin;
			if (event.origin->fd != ((struct ipc_connection_info *) client)->fd)
				FAIL ("origin");
			break;
		case IPC_EVENT_TYPE_MESSAGE:
			equal = ipc_connection_eq (client, event.origin);
			if (! equal || strcmp (((struct ipc_message *) event.m)->payload, "hello") != 0)
				FAIL ("message");
			ipc_close (me);
			break;
		case IPC_EVENT_TYPE_DISCONNECTION: {
			struct ipc_connection_info *closed = event.origin;
			free (closed);
			break;
		}
		case IPC_EVENT_TYPE_NOT_SET:
		case IPC_EVENT_TYPE_ERROR:
		case IPC_EVENT_TYPE_EXTRA_SOCKET:
		default:
			FAIL ("event");
		}
	}

	try_event_macros (srv);
	try_error_macros ();
	ipc_connections_free (&clients);
	ipc_server_close (srv);
	free (srv);
	free (me);
	return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
