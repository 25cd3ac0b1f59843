/*
 * The log functions. They are in C since stable Rust cannot define functions with variable arguments.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

/* Only these functions are visible outside the library. */
#define EXPORTED __attribute__ ((visibility ("default")))

EXPORTED void log_format (const char *tag, const char *message, va_list args);
EXPORTED void log_error (const char *message, ...);
EXPORTED void log_info (const char *message, ...);
EXPORTED void log_debug (const char *message, ...);

/* A thread that is cancelled while it prints unlocks the stream, as in printf(3). */
static void unlock_stream (void *stream)
{
	funlockfile (stream);
}

/* Prints one line: date:tag: message. */
void log_format (const char *tag, const char *message, va_list args)
{
	char date[sizeof "2026-11-23T12:00:00+0000"];
	struct tm local;
	time_t now = time (NULL);
	int before = errno;

	if (message == NULL)
		return;
	/* Looking up the time zone may change errno. */
	if (localtime_r (&now, &local) == NULL || strftime (date, sizeof date, "%Y-%m-%dT%H:%M:%S%z", &local) == 0)
		date[0] = '\0';
	errno = before;
	flockfile (stdout);
	pthread_cleanup_push (unlock_stream, stdout);
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
		log_format (tag, message, args); \
		va_end (args); \
	}

LOG_FUNCTION (log_error, "ERROR")
LOG_FUNCTION (log_info, "INFO")
LOG_FUNCTION (log_debug, "DEBUG")
