/*
 * The functions that exist to print. The program prints a heading for each part of its output on a line of
 * its own; a test reads it. Program and library use the same buffer, so the lines are in the order of the
 * calls even in a pipe.
 */
#include "check.h"

static char path[] = "/run/ipc//service-3-22";

static struct ipc_connection_info connection (int fd, char type, char *spath)
{
	struct ipc_connection_info cinfo;
	EXPECT_OK (ipc_connection_gen (&cinfo, 3, 22, fd, type));
	cinfo.spath = spath;
	return cinfo;
}

int main (void)
{
	struct ipc_connection_info first = connection (1001, 'u', path), second = connection (1002, '\0', NULL);
	struct ipc_connection_info extra = connection (1003, 'a', NULL);
	struct ipc_connection_info *entries[4];
	struct ipc_connection_infos list;

	check_begin ();
	printf ("# connection\n");
	ipc_connection_print (&first);
	printf ("# connection without a type and a path\n");
	ipc_connection_print (&second);

	entries[0] = &first;
	entries[1] = NULL;
	entries[2] = &second;
	entries[3] = &extra;
	list.cinfos = entries;
	list.size = 4;
	printf ("# connections\n");
	ipc_connections_print (&list);
	list.size = 0;
	printf ("# no connections\n");
	ipc_connections_print (&list);
	ipc_connections_print (NULL);

	printf ("# log\n");
	log_error ("nothing to fill in");
	log_info ("%s: %d%%", "text", -42);
	/* More arguments of both kinds than fit into registers. */
	log_debug ("%d %d %d %d %d %d %d %s %.1f %.1f %.1f %.1f %.1f %.1f %.1f %.1f %.1f %lld", 1, 2, 3, 4, 5, 6, 7,
		"eight", 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 123456789012LL);

	printf ("# sentences\n");
	CHECK (ipc_errors_get (IPC_ERROR_NONE) != NULL && ipc_errors_get (IPC_ERROR_USOCK_SEND) != NULL);
	printf ("# end\n");
	return 0;
}
