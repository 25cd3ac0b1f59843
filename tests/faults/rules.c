#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "rules.h"
#include "shim.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

/* Not an errno of Linux: the value of errno before each call, and after a call that succeeds. */
#define UNTOUCHED 4242

/* A run takes milliseconds; a run on a busy machine may take this long. */
#define LIMIT_SECONDS 20

/* A condition that does not hold after this time, and after this many polls, counts as never met. */
#define IDLE_SECONDS 2
#define IDLE_POLLS 500

enum may may = MAY_NOTHING;
int succeeded;

static const char *volatile current_call = "before the first call";
static unsigned long faults_before;
static int fault;
static int counts;

/* NULL if the scenario runs without the shim. */
#pragma weak faults_injected
#pragma weak faults_report

unsigned long faults (void)
{
	return faults_injected == NULL ? 0 : faults_injected ();
}

int may_break (void)
{
	return may == MAY_BREAK && faults () > 0;
}

static void report (void)
{
	if (counts && faults_report != NULL)
		faults_report ();
}

static void end_badly (int signal_number)
{
	const char *why = signal_number == SIGALRM ? "has not ended in time: " : "killed: ";

	if (write (STDERR_FILENO, why, strlen (why)) < 0
		|| write (STDERR_FILENO, current_call, strlen (current_call)) < 0
		|| write (STDERR_FILENO, "\n", 1) < 0)
		_exit (2);
	report ();
	if (signal_number == SIGALRM)
		_exit (EXIT_FAILURE);
	raise (signal_number);
}

void rules_begin (int is_witness)
{
	static const int fatal[] = { SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGPIPE, SIGALRM };
	const char *allowed = getenv ("FAULTS_MAY");
	const char *with = getenv ("FAULTS_WITH");
	struct sigaction action;
	size_t i;

	if (allowed != NULL && strcmp (allowed, "fail") == 0)
		may = MAY_FAIL;
	if (allowed != NULL && strcmp (allowed, "break") == 0)
		may = MAY_BREAK;
	fault = with == NULL ? 0 : atoi (with);
	memset (&action, 0, sizeof action);
	action.sa_handler = end_badly;
	action.sa_flags = (int) SA_RESETHAND | SA_NODEFER;
	for (i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
		sigaction (fatal[i], &action, NULL);
	counts = !is_witness;
	alarm (is_witness ? 2 * LIMIT_SECONDS : LIMIT_SECONDS);
}

void complain (const char *file, int line, const char *what)
{
	fprintf (stderr, "%s:%d: not true: %s (errno %d; last call %s)\n", file, line, what, errno, current_call);
	report ();
	_exit (EXIT_FAILURE);
}

static void complain_of_call (int code, int number, const char *why)
{
	const char *message = ipc_errors_get ((enum ipc_errors) code);

	fprintf (stderr, "%s: %s: code %d (%s), errno %d (%s)\n", current_call, why, code,
		message == NULL ? "no code" : message, number, number == UNTOUCHED ? "untouched" : strerror (number));
	report ();
	_exit (EXIT_FAILURE);
}

void call_begins (const char *what)
{
	current_call = what;
	faults_before = faults ();
	errno = UNTOUCHED;
}

/* Returns whether the fault shows in this way: a peer that closed with bytes unread is reported like any
 * other peer that has closed. */
static int is_of_fault (int number)
{
	return number == fault || (fault == ECONNRESET && number == EPIPE);
}

static void judge (struct health *health, int code, int number)
{
	succeeded = code == IPC_ERROR_NONE;
	if (succeeded) {
		if (number != UNTOUCHED)
			complain_of_call (code, number, "succeeds and changes errno");
		return;
	}
	if (number == UNTOUCHED || number <= 0)
		complain_of_call (code, number, "fails without errno");
	if (may == MAY_NOTHING)
		complain_of_call (code, number, "fails although no call may fail");
	if (faults () > faults_before) {
		if (health != NULL && may == MAY_BREAK) {
			health->shaken = 1;
			/* The peer has closed; the bytes that are queued for it are dropped. */
			health->broken = health->broken || number == EPIPE || code == IPC_ERROR_CLOSED_RECIPIENT;
		} else if (!is_of_fault (number))
			complain_of_call (code, number, "fails with another errno than the injected one");
	} else if (health != NULL && health->shaken) {
		health->broken = 1;
	} else {
		complain_of_call (code, number, "fails without a fault of a call that it makes");
	}
}

void call_ends (struct health *health, int code)
{
	judge (health, code, errno);
}

int again (struct health *health, int code)
{
	judge (health, code, errno);
	return !succeeded && (health == NULL || !health->broken);
}

int again_until (struct health *health, int code, enum ipc_errors wanted, int wanted_errno)
{
	int number = errno;

	if (code == (int) wanted && number == wanted_errno)
		return 0;
	if (code == IPC_ERROR_NONE && health != NULL && health->shaken) {
		/* The earlier failure has removed the object of this call. */
		health->broken = 1;
		return 0;
	}
	if (code == IPC_ERROR_NONE)
		complain_of_call (code, number, "succeeds");
	judge (health, code, number);
	return health == NULL || !health->broken;
}

/* Returns whether the descriptor is open, and not only reserved by the library, which holds the number of a
 * connection whose end was reported until the next call. */
int can_be_used (int fd)
{
	int flags = fcntl (fd, F_GETFL);

	return flags >= 0 && (flags & O_PATH) == 0;
}

int open_descriptors (void)
{
	DIR *dir = opendir ("/proc/self/fd");
	struct dirent *entry;
	int count = 0;

	if (dir == NULL)
		complain (__FILE__, __LINE__, "/proc/self/fd can be read");
	while ((entry = readdir (dir)) != NULL)
		count += entry->d_name[0] != '.' && can_be_used (atoi (entry->d_name));
	closedir (dir);
	return count;
}

double now (void)
{
	struct timespec time;

	if (clock_gettime (CLOCK_MONOTONIC, &time) != 0)
		complain (__FILE__, __LINE__, "clock_gettime");
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

void idle (double since, const char *missing)
{
	static double last_since;
	static int polls;
	double waited = now () - since;

	polls = since > last_since || since < last_since ? 0 : polls + 1;
	last_since = since;
	if (waited > IDLE_SECONDS && polls > IDLE_POLLS)
		complain (__FILE__, __LINE__, missing);
	/* At first, only yield the processor. */
	if (waited > 0.001)
		poll (NULL, 0, 1);
}
