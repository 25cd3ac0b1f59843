/* The other file of two_files_a.c. It includes limits.h first, which defines PATH_MAX too. */
#include <limits.h>
#include <ipc.h>
#include "two_files.h"

enum msg_types type_seen_by_b (void)
{
	return message_types;
}

enum ipc_errors format_by_b (struct ipc_message *m)
{
	return ipc_message_format (m, (char) message_types, "b", 1);
}
