/*
 * How sources of 2019 use the header: they have a guard of their own with the name IPC_H, test the header's
 * guard, define LOG as an empty macro, repeat definitions, use blocks without a semicolon and empty macros at
 * file scope, pass messages that are not literals, and use conversions that do not match. The program is only
 * compiled.
 */
#ifndef IPC_H
#define IPC_H
enum requests { REQUEST_PING, REQUEST_PONG };
#endif

#include <ipc.h>
#include <ipc.h>

#ifndef __IPC_H__
#error "the guard has another name"
#endif

#define LOG
#define IPC_WITH_UNIX_SOCKETS

#ifndef IPC_WITH_ERRORS
handle_err ("file scope", "nothing")
handle_error ("nothing")
#endif

LOG static void set (struct ipc_event *event, struct ipc_message *m)
{
	if (m == NULL)
		IPC_EVENT_SET (event, IPC_EVENT_TYPE_NOT_SET, NULL, NULL)
	else
		IPC_EVENT_SET (event, IPC_EVENT_TYPE_MESSAGE, m, NULL)
	if (event->m != NULL)
		IPC_EVENT_CLEAN (event)
	else
		event->origin = NULL;
	IPC_EVENT_CLEAN (event);
}

int main (int argc, char **argv)
{
	struct ipc_event event;
	struct ipc_message m;
	const char *why = argv[0];

	memset (&m, 0, sizeof m);
	m.type = REQUEST_PONG;
	set (&event, NULL);
	if (argc > 5)
		handle_err ("main", "five")
	handle_err ("main", "six");
	for (; argc > 100; argc--)
		handle_error ("hundred");
	log_error (why);
	log_info (ipc_errors_get (IPC_ERROR_NONE));
	log_debug ("length %d", (int) m.length);
	return 0;
}
