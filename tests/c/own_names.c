/* A new program that defines the old names itself. It is only compiled. */
#define IPC_NO_OLD_NAMES
#include <ipc.h>

enum LOG { QUIET, LOUD };

static int handle_error (int code)
{
	return code;
}

static int handle_err (enum LOG log, int code)
{
	return log == LOUD ? handle_error (code) : 0;
}

static int log_error (int code)
{
	return handle_err (LOUD, code);
}

static int log_info (void)
{
	return log_error (0);
}

static int log_debug (void)
{
	return log_info ();
}

int main (void)
{
	struct ipc_message m;

	memset (&m, 0, sizeof m);
	return log_debug () + (ipc_message_empty (&m) != IPC_ERROR_NONE);
}
