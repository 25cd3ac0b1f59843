/*
 * Shared by the test programs. A check that fails prints its position on standard error and ends the program
 * with status 1. Include this header before all others.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <ipc.h>
#include <signal.h>
#include <unistd.h>

/* Not an errno of Linux: the value of errno before each call, and after a call that succeeds. */
#define UNTOUCHED 4242

/* None of these programs takes longer, not even under valgrind. */
#ifndef LIMIT_SECONDS
#define LIMIT_SECONDS 60
#endif

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf (stderr, "%s:%d: failed: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
			exit (EXIT_FAILURE); \
		} \
	} while (0)

#define TEXT_OF(number) TEXT_OF_EXPANDED (number)
#define TEXT_OF_EXPANDED(number) #number

/* The call returns this code, and errno has this value afterwards. */
#define EXPECT(call, code, number) \
	do { \
		int got_code_; \
		current_call = __FILE__ ":" TEXT_OF (__LINE__) ": " #call "\n"; \
		errno = UNTOUCHED; \
		got_code_ = (int) (call); \
		check_result (__FILE__, __LINE__, #call, got_code_, (int) (code), errno, (number)); \
	} while (0)

#define EXPECT_OK(call) EXPECT (call, IPC_ERROR_NONE, UNTOUCHED)

/* The call that EXPECT is making. */
static const char *volatile current_call = "before the first call\n";

static inline void check_out_of_time (int signal_number)
{
	static const char message[] = "has not ended in time: ";
	(void) signal_number;
	if (write (STDERR_FILENO, message, sizeof message - 1) < 0
		|| write (STDERR_FILENO, current_call, strlen (current_call)) < 0)
		_exit (2);
	_exit (1);
}

/* Called first: a program that hangs prints its position, and ends. */
static inline void check_begin (void)
{
	signal (SIGALRM, check_out_of_time);
	alarm (LIMIT_SECONDS);
}

static inline void check_result (const char *file, int line, const char *call, int code, int wanted_code,
	int number, int wanted_number)
{
	if (code == wanted_code && number == wanted_number)
		return;
	fprintf (stderr, "%s:%d: %s: code %d, errno %d; expected code %d, errno %d\n", file, line, call, code,
		number, wanted_code, wanted_number);
	exit (EXIT_FAILURE);
}

#endif
