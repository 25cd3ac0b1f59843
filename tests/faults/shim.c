#include "shim_parts.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fault;
static const char *chosen;
static unsigned long first, last;

/* The address range of the library's code. */
static uintptr_t library, code_begin, code_end;

/* How many calls of the chosen function could fail in the chosen way, and how many were made to fail. */
static unsigned long candidates, injected, last_place;

static struct function *called;

static int find_library (struct dl_phdr_info *object, size_t size, void *unused)
{
	int i;

	(void) size;
	(void) unused;
	if (object->dlpi_name == NULL || strstr (object->dlpi_name, "libipc.so") == NULL)
		return 0;
	library = object->dlpi_addr;
	for (i = 0; i < object->dlpi_phnum; i++) {
		const ElfW (Phdr) *segment = &object->dlpi_phdr[i];
		if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) != 0) {
			code_begin = library + segment->p_vaddr;
			code_end = code_begin + segment->p_memsz;
		}
	}
	return 1;
}

static unsigned long number_in_environment (const char *name, unsigned long otherwise)
{
	const char *text = getenv (name);

	return text == NULL ? otherwise : strtoul (text, NULL, 10);
}

__attribute__ ((constructor)) static void begin (void)
{
	const char *with = getenv ("FAULTS_WITH");

	dl_iterate_phdr (find_library, NULL);
	chosen = getenv ("FAULTS_CALL");
	if (with != NULL)
		fault = strcmp (with, "short") == 0 ? SHORT : atoi (with);
	first = number_in_environment ("FAULTS_AT", 1);
	last = first + number_in_environment ("FAULTS_COUNT", 1) - 1;
}

int is_library (const void *caller)
{
	return (uintptr_t) caller >= code_begin && (uintptr_t) caller < code_end;
}

unsigned long place_of (const void *caller)
{
	return (unsigned long) ((uintptr_t) caller - library);
}

void *real_of (struct function *function)
{
	if (function->real == NULL)
		function->real = dlsym (RTLD_NEXT, function->name);
	return function->real;
}

int fails (struct function *function, const void *caller, int can)
{
	if (!is_library (caller))
		return 0;
	if (function->calls++ == 0) {
		function->next = called;
		called = function;
	}
	if (!can || chosen == NULL || strcmp (function->name, chosen) != 0)
		return 0;
	candidates++;
	if (candidates < first || candidates > last)
		return 0;
	injected++;
	last_place = place_of (caller);
	if (fault != SHORT)
		errno = fault;
	return 1;
}

unsigned long faults_injected (void)
{
	return injected;
}

void say (int fd, const char *format, ...)
{
	char line[200];
	va_list arguments;
	int length;

	va_start (arguments, format);
	length = vsnprintf (line, sizeof line, format, arguments);
	va_end (arguments);
	if (length > 0 && write (fd, line, (size_t) length) < 0)
		_exit (2);
}

void faults_report (void)
{
	const struct function *function;

	for (function = called; function != NULL; function = function->next)
		say (STDOUT_FILENO, "%s %lu\n", function->name, function->calls);
	say (STDOUT_FILENO, "injected %lu of %lu, the last at %#lx\n", injected, candidates, last_place);
}

static void end (void *unused)
{
	(void) unused;
	faults_report ();
	if (report_blocks () > 0)
		_exit (EXIT_FAILURE);
}

int __cxa_atexit (void (*function) (void *), void *argument, void *object);

/* The loader runs the destructors of its objects in an order of its own. A function that is registered
 * only now, for no object, runs after all of them: after everything that the program and the library do at
 * exit. */
__attribute__ ((destructor)) static void end_last (void)
{
	__cxa_atexit (end, NULL, NULL);
}
