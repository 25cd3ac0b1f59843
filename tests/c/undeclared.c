/*
 * The functions that no header has declared, with the arguments that they are made for. The program prints a
 * heading for each part of its output on a line of its own; a test reads it. IPC_RUNDIR names a directory.
 */
#include "check.h"
#include "undeclared.h"

static char *environment[] = { NULL };

static void take_clients (void)
{
	struct ipc_connection_info srv, first, second, *made = NULL;
	struct ipc_connection_infos list;
	struct ipc_message m;

	memset (&srv, 0, sizeof srv);
	memset (&list, 0, sizeof list);
	memset (&m, 0, sizeof m);
	srv.index = 5;
	srv.version = 6;
	first = second = srv;
	EXPECT_OK (ipc_server_init (environment, &srv, "undeclared"));
	EXPECT_OK (ipc_connection (environment, &first, "undeclared"));
	EXPECT_OK (ipc_connection (environment, &second, "undeclared"));

	EXPECT_OK (handle_new_connection (&srv, &list, &made));
	CHECK (list.size == 1 && list.cinfos[0] == made);
	CHECK (made->index == 5 && made->version == 6 && made->spath == NULL);
	EXPECT_OK (ipc_message_format_data (&m, "hello", 5));
	EXPECT_OK (ipc_write (&first, &m));
	EXPECT_OK (ipc_message_empty (&m));
	EXPECT_OK (ipc_read (made, &m));
	CHECK (m.length == 5 && strcmp (m.payload, "hello") == 0);
	EXPECT_OK (ipc_message_empty (&m));

	/* The list has the new client, too; the program need not add it. */
	EXPECT_OK (handle_new_connection (&srv, &list, NULL));
	CHECK (list.size == 2 && list.cinfos[1]->fd != made->fd);

	while (list.size > 0) {
		made = list.cinfos[list.size - 1];
		EXPECT_OK (ipc_del (&list, made));
		EXPECT_OK (ipc_close (made));
		free (made);
	}
	EXPECT_OK (ipc_close (&first));
	EXPECT_OK (ipc_close (&second));
	EXPECT_OK (ipc_server_close (&srv));
}

static void call_log_format (const char *tag, const char *message, ...)
{
	va_list args;
	va_start (args, message);
	log_format (tag, message, args);
	va_end (args);
}

int main (void)
{
	static const char text[] = { 't', 'e', 'x', 't' };
	char prefix[] = "prefix", *payload;
	struct ipc_message m;
	uint8_t bytes[20];
	size_t i;

	check_begin ();
	take_clients ();

	/* A block of exactly this size and without a NUL: only the length says where it ends. */
	payload = (char *) malloc (sizeof text);
	CHECK (payload != NULL);
	memcpy (payload, text, sizeof text);
	m.type = 77;
	m.length = sizeof text;
	m.payload = payload;
	printf ("# message\n");
	ipc_message_print (&m);
	free (payload);
	m.length = 0;
	m.payload = NULL;
	printf ("# message without payload\n");
	ipc_message_print (&m);

	for (i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t) (0xa0 + i);
	printf ("# print_hexa\n");
	print_hexa (prefix, bytes, sizeof bytes);
	printf ("# print_hexa of nothing\n");
	print_hexa (prefix, bytes, 0);
	printf ("# mprint_hexa\n");
	mprint_hexa (prefix, bytes, sizeof bytes);

	printf ("# log_format\n");
	call_log_format ("TAG", "%s %d", "text", 42);
	printf ("# end\n");
	return 0;
}
