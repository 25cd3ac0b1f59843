/*
 * Many clients connect, every seventh client sends a message, and all close. There are as many disconnections
 * as connections, and no descriptor and, as valgrind checks, no block is leaked. IPC_RUNDIR names a
 * directory.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "check.h"

#include <fcntl.h>

#define CLIENTS 350

static char *environment[] = { NULL };

/* Not counted: descriptors opened with O_PATH, with which the library holds numbers. */
static int open_descriptors (void)
{
	int count = 0;
	int fd;

	for (fd = 0; fd < 4 * CLIENTS; fd++) {
		int flags = fcntl (fd, F_GETFL);

		count += flags >= 0 && (flags & O_PATH) == 0;
	}
	return count;
}

int main (void)
{
	static struct ipc_connection_info client[CLIENTS];
	struct ipc_connection_info srv;
	struct ipc_connection_infos list;
	struct ipc_event event;
	struct ipc_message m;
	int before = open_descriptors ();
	int connected = 0, received = 0, disconnected = 0;
	int i;

	check_begin ();
	memset (&srv, 0, sizeof srv);
	memset (&list, 0, sizeof list);
	memset (&event, 0, sizeof event);
	memset (&m, 0, sizeof m);
	EXPECT_OK (ipc_server_init (environment, &srv, "crowd"));
	EXPECT_OK (ipc_message_format_data (&m, "here", 4));

	for (i = 0; i < CLIENTS; i++) {
		EXPECT_OK (ipc_connection (environment, &client[i], "crowd"));
		EXPECT_OK (ipc_wait_event (&list, &srv, &event));
		CHECK (event.type == IPC_EVENT_TYPE_CONNECTION);
		connected++;
	}
	CHECK (list.size == CLIENTS);
	for (i = 0; i < CLIENTS; i += 7)
		EXPECT_OK (ipc_write (&client[i], &m));
	for (i = 0; i < CLIENTS; i++)
		EXPECT_OK (ipc_close (&client[i]));

	while (disconnected < connected) {
		EXPECT_OK (ipc_wait_event (&list, &srv, &event));
		if (event.type == IPC_EVENT_TYPE_MESSAGE) {
			received++;
		} else {
			CHECK (event.type == IPC_EVENT_TYPE_DISCONNECTION);
			disconnected++;
			free (event.origin);
		}
	}
	CHECK (received == (CLIENTS + 6) / 7);
	CHECK (list.size == 0 && list.cinfos == NULL);

	IPC_EVENT_CLEAN (&event);
	EXPECT_OK (ipc_message_empty (&m));
	EXPECT_OK (ipc_server_close (&srv));
	ipc_connections_free (&list);
	CHECK (open_descriptors () == before);
	return 0;
}
