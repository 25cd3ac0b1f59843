/*
 * The library's memory: allocations that are made to fail, and the list of blocks that are allocated.
 */
#include "shim_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define BLOCKS 8192

static struct block {
	void *start;
	size_t size;
	unsigned long place;
} blocks[BLOCKS];

static int blocks_used;

static struct block *block_of (const void *start)
{
	int i;

	for (i = blocks_used - 1; i >= 0; i--)
		if (blocks[i].start == start)
			return &blocks[i];
	return NULL;
}

static void remember (void *start, size_t size, const void *caller)
{
	if (blocks_used == BLOCKS) {
		say (STDERR_FILENO, "the library has more blocks than the shim can record\n");
		_exit (EXIT_FAILURE);
	}
	blocks[blocks_used].start = start;
	blocks[blocks_used].size = size;
	blocks[blocks_used].place = place_of (caller);
	blocks_used++;
}

static void forget (const void *start)
{
	struct block *block = block_of (start);

	if (block != NULL)
		*block = blocks[--blocks_used];
}

int report_blocks (void)
{
	int i;

	for (i = 0; i < blocks_used && i < 10; i++)
		say (STDERR_FILENO, "leaked: %lu bytes, allocated at %#lx\n", (unsigned long) blocks[i].size,
			blocks[i].place);
	return blocks_used;
}

/* ---- The functions ---- */

/* glibc's own names for these functions: dlsym would allocate memory. */
void *__libc_malloc (size_t size);
void *__libc_calloc (size_t count, size_t size);
void *__libc_realloc (void *block, size_t size);
void __libc_free (void *block);

static void *allocated (void *block, size_t size, const void *caller)
{
	if (block != NULL && is_library (caller))
		remember (block, size, caller);
	return block;
}

void *malloc (size_t size)
{
	static struct function here = FUNCTION ("malloc");
	if (fails (&here, CALLER, fault != SHORT))
		return NULL;
	return allocated (__libc_malloc (size), size, CALLER);
}

void *calloc (size_t number, size_t size)
{
	static struct function here = FUNCTION ("calloc");
	if (fails (&here, CALLER, fault != SHORT))
		return NULL;
	return allocated (__libc_calloc (number, size), number * size, CALLER);
}

void *realloc (void *old, size_t size)
{
	static struct function here = FUNCTION ("realloc");
	/* The owner of the block is looked up before the call: afterwards the address may belong to another
	 * block. */
	int was_library = old != NULL && blocks_used > 0 && block_of (old) != NULL;
	void *new;

	if (fails (&here, CALLER, fault != SHORT))
		return NULL;
	new = __libc_realloc (old, size);
	if (was_library && (new != NULL || size == 0))
		forget (old);
	if (new != NULL && (was_library || is_library (CALLER)))
		remember (new, size, CALLER);
	return new;
}

int posix_memalign (void **place, size_t alignment, size_t size)
{
	static struct function here = FUNCTION ("posix_memalign");
	int (*real) (void **, size_t, size_t);
	int result;

	*(void **) &real = real_of (&here);
	if (fails (&here, CALLER, fault != SHORT))
		return ENOMEM;
	result = real (place, alignment, size);
	if (result == 0)
		allocated (*place, size, CALLER);
	return result;
}

void free (void *block)
{
	int before = errno;

	if (block != NULL && blocks_used > 0)
		forget (block);
	__libc_free (block);
	errno = before;
}
