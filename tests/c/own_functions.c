/*
 * A static program that defines functions with names of the library's which are in no header that it
 * includes: they belong to the program alone, and the library works as if they did not exist.
 */
#define IPC_NO_OLD_NAMES
#include "check.h"

static int called;

/* Names of ipc_ext.h, of the log functions, and names that no header declares. */
#define OWN(name) \
	int name (void); \
	int name (void) { return ++called; }

OWN (ipc_add_signal)
OWN (ipc_add_timer)
OWN (ipc_allow_fds)
OWN (ipc_broadcast)
OWN (ipc_connection_timeout)
OWN (ipc_data)
OWN (ipc_del_fd)
OWN (ipc_del_timer)
OWN (ipc_end)
OWN (ipc_event_fd)
OWN (ipc_flush)
OWN (ipc_limits)
OWN (ipc_peer)
OWN (ipc_pending)
OWN (ipc_queue)
OWN (ipc_read_timeout)
OWN (ipc_send)
OWN (ipc_sendv)
OWN (ipc_server_open)
OWN (ipc_set_data)
OWN (ipc_status)
OWN (ipc_take_fd)
OWN (ipc_wait_event_timeout)
OWN (ipc_wait_events)
OWN (ipc_watch_fd)
OWN (ipc_why)
OWN (ipc_write_fd)
OWN (log_error)
OWN (log_info)
OWN (log_debug)
OWN (log_format)
OWN (print_hexa)
OWN (mprint_hexa)
OWN (ipc_message_print)
OWN (handle_new_connection)
/* Names of the library's internal parts. */
OWN (rust_eh_personality)
OWN (ipc_c_wait)

int main (void)
{
	static char *environment[] = { NULL };
	struct ipc_connection_info srv, client;
	struct ipc_connection_infos list;
	struct ipc_event event;
	struct ipc_message m;

	check_begin ();
	memset (&srv, 0, sizeof srv);
	memset (&client, 0, sizeof client);
	memset (&list, 0, sizeof list);
	memset (&event, 0, sizeof event);
	memset (&m, 0, sizeof m);
	EXPECT_OK (ipc_server_init (environment, &srv, "own"));
	EXPECT_OK (ipc_connection (environment, &client, "own"));
	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	CHECK (event.type == IPC_EVENT_TYPE_CONNECTION);
	EXPECT_OK (ipc_message_format_data (&m, "question", 8));
	EXPECT_OK (ipc_write (&client, &m));
	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	CHECK (event.type == IPC_EVENT_TYPE_MESSAGE);
	EXPECT_OK (ipc_write (event.origin, (const struct ipc_message *) event.m));
	EXPECT_OK (ipc_read (&client, &m));
	CHECK (m.length == 8 && memcmp (m.payload, "question", 8) == 0);
	EXPECT_OK (ipc_message_empty (&m));
	EXPECT_OK (ipc_close (&client));
	EXPECT_OK (ipc_wait_event (&list, &srv, &event));
	CHECK (event.type == IPC_EVENT_TYPE_DISCONNECTION);
	free (event.origin);
	EXPECT_OK (ipc_server_close (&srv));
	CHECK (called == 0 && log_error () == 1 && ipc_queue () == 2 && handle_new_connection () == 3);
	return 0;
}
