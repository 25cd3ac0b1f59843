/*
 * The log functions. Stable Rust cannot define functions with variable arguments, so they are written here,
 * and log.rs exports a jump to each: a shared library made by cargo exports what Rust defines.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

void ipc_c_log_format (const char *tag, const char *message, va_list args);
void ipc_c_log_error (const char *message, ...);
void ipc_c_log_info (const char *message, ...);
void ipc_c_log_debug (const char *message, ...);

/* A thread that is cancelled while it prints leaves the stream to others, as in printf(3). */
static void unlock (void *stream)
{
	funlockfile (stream);
}

/* One line: date:tag: message. */
void ipc_c_log_format (const char *tag, const char *message, va_list args)
{
	char date[sizeof "2026-11-23T12:00:00+0000"];
	struct tm local;
	time_t now = time (NULL);
	int before = errno;

	if (message == NULL)
		return;
	/* Looking for the time zone leaves errno behind. */
	if (localtime_r (&now, &local) == NULL || strftime (date, sizeof date, "%Y-%m-%dT%H:%M:%S%z", &local) == 0)
		date[0] = '\0';
	errno = before;
	flockfile (stdout);
	pthread_cleanup_push (unlock, stdout);
	printf ("%s:%s: ", date, tag == NULL ? "" : tag);
	vprintf (message, args);
	putchar ('\n');
	pthread_cleanup_pop (1);
}

#define LOG_FUNCTION(name, tag) \
	void name (const char *message, ...) \
	{ \
		va_list args; \
		va_start (args, message); \
		ipc_c_log_format (tag, message, args); \
		va_end (args); \
	}

LOG_FUNCTION (ipc_c_log_error, "ERROR")
LOG_FUNCTION (ipc_c_log_info, "INFO")
LOG_FUNCTION (ipc_c_log_debug, "DEBUG")
