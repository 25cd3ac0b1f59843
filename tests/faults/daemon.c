#include "daemon.h"

#include "files.h"
#include "rules.h"

#include <ipc_ext.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct ipc_connection_info service, client;
static struct ipc_connection_infos list;
static struct ipc_event event;
static int destroyed;

static void destroy (void *data)
{
	CHECK (data == &destroyed);
	destroyed++;
}

/* Waits for an event of this type; other events may be reported meanwhile: a connect that fails at its
 * very end has connected. Returns whether the event was reported: the connection may have broken before. */
static int wait_for (enum ipc_event_type type)
{
	double since = now ();

	for (;;) {
		TRY (ipc_wait_event_timeout (&list, &service, &event, 100));
		if (event.type == type)
			return 1;
		if (event.type == IPC_EVENT_TYPE_NOT_SET) {
			char byte;

			if (may_break () && client.fd > 0 && recv (client.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
				return 0;
			idle (since, "an event");
		}
		if (event.type == IPC_EVENT_TYPE_DISCONNECTION) {
			free (event.origin);
			if (may_break ())
				return 0;
		}
	}
}

static void open_with_a_mode (void)
{
	struct ipc_server_options options;
	struct stat file;

	memset (&options, 0, sizeof options);
	memset (&service, 0, sizeof service);
	options.flags = IPC_SERVER_MODE | IPC_SERVER_UID | IPC_SERVER_GID | IPC_SERVER_BACKLOG;
	options.mode = 0640;
	options.uid = geteuid ();
	options.gid = getegid ();
	options.backlog = 5;
	TRY (ipc_server_open (&service, "daemon", &options));
	CHECK (lstat (service.spath, &file) == 0 && (file.st_mode & 07777) == 0640);
}

/* With a socket that the program has made. */
static void open_by_a_socket (void)
{
	struct ipc_server_options options;
	struct ipc_connection_info other;
	struct sockaddr_un address;
	int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset (&options, 0, sizeof options);
	memset (&other, 0, sizeof other);
	memset (&address, 0, sizeof address);
	address.sun_family = AF_UNIX;
	/* The kernel chooses an abstract address, which has no file. */
	CHECK (fd >= 0 && bind (fd, (struct sockaddr *) &address, sizeof (sa_family_t)) == 0 && listen (fd, 1) == 0);
	options.flags = IPC_SERVER_FD;
	options.fd = fd;
	TRY (ipc_server_open (&other, "socket", &options));
	ONCE (ipc_server_close (&other));
}

static void take_signals_and_times (void)
{
	sigset_t blocked;
	int id = -1, signals = 0, times = 0;

	TRY (ipc_add_signal (&list, SIGUSR1));
	TRY (ipc_add_signal (&list, SIGUSR2));
	TRY (ipc_add_timer (&list, 0, 0, &id));
	CHECK (kill (getpid (), SIGUSR2) == 0);
	while (signals + times < 2 && wait_for (IPC_EVENT_TYPE_EXTRA_SOCKET)) {
		const struct ipc_message *m = event.m;
		struct ipc_notice notice;

		CHECK (m->length == sizeof notice);
		memcpy (&notice, m->payload, sizeof notice);
		CHECK (m->type == IPC_MSG_SIGNAL ? notice.signo == SIGUSR2 : notice.timer == id);
		signals += m->type == IPC_MSG_SIGNAL;
		times += m->type == IPC_MSG_TIMER;
	}
	CHECK (signals == 1 && times == 1);
	TRY (ipc_del_timer (&list, id));
	while (list.size > 0) {
		struct ipc_connection_info *entry = list.cinfos[0];

		ONCE (ipc_close (entry));
		TRY (ipc_del (&list, entry));
		free (entry);
	}
	sigemptyset (&blocked);
	sigaddset (&blocked, SIGUSR1);
	sigaddset (&blocked, SIGUSR2);
	CHECK (sigprocmask (SIG_UNBLOCK, &blocked, NULL) == 0);
}

static void connect_in_time (void)
{
	struct ipc_connection_info missing;

	memset (&client, 0, sizeof client);
	memset (&missing, 0, sizeof missing);
	REFUSED (ipc_connection_timeout (&missing, "missing", 2), IPC_ERROR_USOCK_CONNECT__SOCKET, ETIMEDOUT);
	TRY (ipc_connection_timeout (&client, "daemon", 10000));
}

static void keep_a_client (void)
{
	struct health health = { 0, 0 };
	struct ipc_connection_info *origin;
	struct ipc_status status;
	enum ipc_reason reason = IPC_REASON_NONE;
	char byte;

	destroyed = 0;
	TRY_ON (&health, ipc_send (&client, 1, "hello", 5));
	if (!succeeded || !wait_for (IPC_EVENT_TYPE_MESSAGE))
		return;
	origin = event.origin;
	TRY (ipc_set_data (origin, &destroyed, destroy));
	CHECK (ipc_data (origin) == &destroyed || may_break ());
	TRY (ipc_status (&list, &status));
	CHECK (status.clients >= 1 || may_break ());
	TRY (ipc_end (&list, origin, -1));
	do {
		if (!wait_for (IPC_EVENT_TYPE_DISCONNECTION))
			return;
		if (event.origin != origin)
			free (event.origin);
	} while (event.origin != origin);
	TRY (ipc_why (origin, &reason));
	CHECK (reason == IPC_REASON_CLOSED || may_break ());
	CHECK (ipc_data (origin) == &destroyed || may_break ());
	free (origin);
	CHECK (recv (client.fd, &byte, 1, 0) <= 0);
}

void serve_as_a_daemon (void)
{
	memset (&list, 0, sizeof list);
	memset (&event, 0, sizeof event);
	open_with_a_mode ();
	open_by_a_socket ();
	take_signals_and_times ();
	connect_in_time ();
	keep_a_client ();
	if (event.m != NULL) {
		TRY (ipc_message_empty (event.m));
		free (event.m);
	}
	ONCE (ipc_close (&client));
	call_begins ("ipc_connections_free");
	ipc_connections_free (&list);
	CHECK (destroyed == 1 || may_break ());
	close_service (&service);
}
