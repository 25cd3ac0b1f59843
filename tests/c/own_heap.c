/*
 * A program that defines the heap itself: malloc, free, calloc and realloc, which is all that the C library
 * asks for. Each block has a header before it and a guard after it, and freed blocks are filled. The library
 * calls no other function of a heap, frees the blocks that it allocates, and writes nowhere else. IPC_RUNDIR
 * names a directory.
 */
#define _GNU_SOURCE
#include "check.h"

#include <ipc_ext.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>

#define CLIENTS 40
#define MARK 0x5eedb10cUL
#define FREED 0xdeadb10cUL
#define GUARD "guarded"
#define POOL (512UL << 20)

struct head {
	size_t size;
	size_t mark;
};

static char *pool, *next;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long blocks, wrong, other_calls;

static void *take (size_t size)
{
	size_t whole = (sizeof (struct head) + size + sizeof GUARD + 15) & ~(size_t) 15;
	struct head *head;

	pthread_mutex_lock (&lock);
	if (pool == NULL) {
		void *memory = mmap (NULL, POOL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (memory == MAP_FAILED)
			_exit (2);
		pool = next = (char *) memory;
	}
	if (size > POOL || next + whole > pool + POOL) {
		pthread_mutex_unlock (&lock);
		errno = ENOMEM;
		return NULL;
	}
	head = (struct head *) (void *) next;
	next += whole;
	blocks++;
	pthread_mutex_unlock (&lock);
	head->size = size;
	head->mark = MARK;
	memcpy ((char *) (head + 1) + size, GUARD, sizeof GUARD);
	return head + 1;
}

static void give (void *block)
{
	struct head *head = (struct head *) block - 1;

	/* Freed twice, never allocated, or written beyond its end. */
	if ((char *) block < pool || (char *) block >= next || head->mark != MARK
		|| memcmp ((char *) block + head->size, GUARD, sizeof GUARD) != 0) {
		wrong++;
		return;
	}
	head->mark = FREED;
	memset (block, 0xdd, head->size);
	pthread_mutex_lock (&lock);
	blocks--;
	pthread_mutex_unlock (&lock);
}

void *malloc (size_t size)
{
	void *block = take (size);

	/* No byte is zero unless calloc has set it. */
	if (block != NULL)
		memset (block, 0xaa, size);
	return block;
}

void free (void *block)
{
	int before = errno;

	if (block != NULL)
		give (block);
	errno = before;
}

void *calloc (size_t count, size_t size)
{
	if (size != 0 && count > POOL / size) {
		errno = ENOMEM;
		return NULL;
	}
	/* Memory that is new from the kernel: zero. */
	return take (count * size);
}

void *realloc (void *block, size_t size)
{
	void *other = malloc (size);

	if (block != NULL && other != NULL) {
		size_t before = ((struct head *) block - 1)->size;

		memcpy (other, block, before < size ? before : size);
		free (block);
	}
	return other;
}

/* Functions that such a program does not define: they must not be called for a block of the heap above. */
#define NOT_BROUGHT(type, name, parameters, unused, result) \
	type name parameters; \
	type name parameters { unused; other_calls++; return result; }

NOT_BROUGHT (size_t, malloc_usable_size, (void *block), (void) block, 1000000)
NOT_BROUGHT (void *, memalign, (size_t a, size_t b), (void) a; (void) b, NULL)
NOT_BROUGHT (void *, aligned_alloc, (size_t a, size_t b), (void) a; (void) b, NULL)
NOT_BROUGHT (int, posix_memalign, (void **place, size_t a, size_t b), (void) place; (void) a; (void) b, ENOMEM)
NOT_BROUGHT (void *, reallocarray, (void *block, size_t a, size_t b), (void) block; (void) a; (void) b, NULL)

static char *environment[] = { NULL };
static struct ipc_connection_info srv, clients[CLIENTS];
static struct ipc_connection_infos list;
static struct ipc_event event, events[10];

static void next_event (enum ipc_event_type type)
{
	EXPECT_OK (ipc_wait_event_timeout (&list, &srv, &event, 20000));
	CHECK (event.type == type);
	CHECK (wrong == 0);
}

/* Queues, read-ahead, half frames, settings, other descriptors, errors: everything for which the library
 * allocates memory. */
static void serve (void)
{
	static const ssize_t sizes[] = { 0, 1, 17, 4096, 70000, 1000000 };
	static const uint32_t announced = 100;
	char half[] = { 1, 0, 0, 0, 0, 'h', 'a', 'l', 'f' };
	struct ipc_message m = { 0, 0, NULL }, *made;
	struct ipc_connection_info *copy;
	size_t count;
	char *bytes;
	ssize_t length;
	int i, n, pipes[2], fd, pair[2];

	EXPECT_OK (ipc_server_init (environment, &srv, "heap"));
	for (i = 0; i < CLIENTS; i++) {
		memset (&clients[i], 0, sizeof clients[i]);
		EXPECT_OK (ipc_connection (environment, &clients[i], "heap"));
		next_event (IPC_EVENT_TYPE_CONNECTION);
	}
	for (n = 0; n < 6; n++) {
		bytes = NULL;
		length = 0;
		EXPECT_OK (ipc_message_new (&made, sizes[n]));
		EXPECT_OK (ipc_message_format_write (made, &bytes, &length));
		EXPECT_OK (ipc_message_format_read (&m, bytes, length));
		free (bytes);
		for (i = 0; i < CLIENTS; i += n < 4 ? 1 : 13) {
			EXPECT_OK (ipc_queue (&clients[i], made));
			while (ipc_flush (&clients[i], 0) != IPC_ERROR_NONE) {
				CHECK (errno == ETIMEDOUT);
				EXPECT_OK (ipc_wait_event_timeout (&list, &srv, &event, 0));
				if (event.type == IPC_EVENT_TYPE_MESSAGE)
					break;
			}
			if (event.type != IPC_EVENT_TYPE_MESSAGE)
				next_event (IPC_EVENT_TYPE_MESSAGE);
			EXPECT_OK (ipc_write (event.origin, (struct ipc_message *) event.m));
			IPC_EVENT_CLEAN (&event);
			event.type = IPC_EVENT_TYPE_NOT_SET;
			if (n < 5) {
				EXPECT_OK (ipc_message_empty (&m));
				EXPECT_OK (ipc_read (&clients[i], &m));
				CHECK (m.length == (uint32_t) sizes[n]);
			}
		}
		EXPECT_OK (ipc_message_empty (made));
		free (made);
		EXPECT_OK (ipc_message_empty (&m));
	}
	/* Several events in one array. */
	EXPECT_OK (ipc_message_format_data (&m, "several", 7));
	for (i = 1; i < 6; i++)
		EXPECT_OK (ipc_write (&clients[i], &m));
	for (n = 0; n < 5; n += (int) count) {
		count = 10;
		EXPECT_OK (ipc_wait_events (&list, &srv, events, &count, 20000));
	}
	for (i = 0; i < 10; i++)
		IPC_EVENT_CLEAN (&events[i]);
	/* Half a frame, and settings. */
	memcpy (half + 1, &announced, sizeof announced);
	CHECK (send (clients[2].fd, half, sizeof half, 0) == (ssize_t) sizeof half);
	EXPECT_OK (ipc_limits (&clients[3], 100, 100));
	EXPECT_OK (ipc_allow_fds (&clients[3]));
	EXPECT_OK (ipc_event_fd (&list, &srv, &fd));
	CHECK (pipe (pipes) == 0 && write (pipes[1], "bytes", 5) == 5);
	EXPECT_OK (ipc_add_fd (&list, pipes[0]));
	next_event (IPC_EVENT_TYPE_EXTRA_SOCKET);
	EXPECT_OK (ipc_del_fd (&list, pipes[0]));
	CHECK (close (pipes[0]) == 0 && close (pipes[1]) == 0);
	/* A call that fails keeps no memory. */
	CHECK (ipc_watch_fd (&list, -1) != IPC_ERROR_NONE);
	CHECK (ipc_message_new (&made, -1) != IPC_ERROR_NONE);
	copy = ipc_connection_copy (&clients[0]);
	CHECK (copy != NULL && ipc_connection (environment, copy, "missing") != IPC_ERROR_NONE);
	free (copy);
	/* A connection that the program opens, with a queue that is never read. */
	CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, pair) == 0 && close (pair[1]) == 0);
	copy = (struct ipc_connection_info *) calloc (1, sizeof *copy);
	copy->fd = pair[0];
	EXPECT_OK (ipc_add (&list, copy));
	EXPECT_OK (ipc_del (&list, copy));
	EXPECT_OK (ipc_close (copy));
	free (copy);
	EXPECT_OK (ipc_message_empty (&m));
	for (i = 0; i < CLIENTS; i++)
		EXPECT_OK (ipc_close (&clients[i]));
	for (n = 0; n < CLIENTS;) {
		EXPECT_OK (ipc_wait_event_timeout (&list, &srv, &event, 20000));
		if (event.type == IPC_EVENT_TYPE_DISCONNECTION) {
			free (event.origin);
			n++;
		}
	}
	IPC_EVENT_CLEAN (&event);
	ipc_connections_free (&list);
	EXPECT_OK (ipc_server_close (&srv));
	for (i = 0; i < CLIENTS; i++) {
		free (clients[i].spath);
		clients[i].spath = NULL;
	}
}

int main (void)
{
	long after[4];
	int round;

	check_begin ();
	for (round = 0; round < 4; round++) {
		serve ();
		after[round] = blocks;
	}
	CHECK (wrong == 0 && other_calls == 0);
	/* The first rounds may leave memory that is used again. */
	CHECK (after[3] == after[2]);
	return 0;
}
