/*
 * A program of two files that both include ipc.h: it links, and both use the same variable message_types,
 * which the library defines. The header of 2019 defined it in each file.
 */
#include <ipc.h>
#include "two_files.h"

int main (void)
{
	struct ipc_message m;

	memset (&m, 0, sizeof m);
	message_types = MSG_TYPE_ERR;
	if (type_seen_by_b () != MSG_TYPE_ERR) {
		fprintf (stderr, "%s:%d: message_types are two variables\n", __FILE__, __LINE__);
		return 1;
	}
	if (format_by_b (&m) != IPC_ERROR_NONE || m.type != MSG_TYPE_ERR) {
		fprintf (stderr, "%s:%d: type %d\n", __FILE__, __LINE__, m.type);
		return 1;
	}
	ipc_message_empty (&m);
	return 0;
}
