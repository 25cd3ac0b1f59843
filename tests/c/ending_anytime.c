/*
 * Threads that are cancelled at any moment: a call ends at its begin or while it waits, but not when it has a
 * result to return. So no frame is lost or cut.
 */
#include "ending.h"

#include <ipc_ext.h>
#include <sched.h>

#define ROUNDS 60
#define FRAMES 400

static struct ipc_connection_info connection;
static struct ipc_connection_infos list;
static int peer;

static void open_pair (void)
{
	int pair[2];

	CHECK (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	connection.fd = pair[0];
	peer = pair[1];
}

/* The number of frames that calls have returned to the thread, and that the thread has written. */
static atomic_int got, written;

static struct ipc_message message;

static void *read_until_cancelled (void *unused)
{
	(void) unused;
	for (;;) {
		OK (ipc_read (&connection, &message));
		CHECK (message.type == (char) (atomic_load (&got) % 100));
		atomic_fetch_add (&got, 1);
		OK (ipc_message_empty (&message));
	}
	return NULL;
}

/* The buffer that one thread leaves is freed by the next call. */
static struct ipc_event event;

static void *wait_until_cancelled (void *unused)
{
	(void) unused;
	for (;;) {
		OK (ipc_wait_event (&list, NULL, &event));
		CHECK (event.type == IPC_EVENT_TYPE_MESSAGE);
		CHECK (((struct ipc_message *) event.m)->type == (char) (atomic_load (&got) % 100));
		atomic_fetch_add (&got, 1);
	}
	return NULL;
}

static void *write_frames (void *unused)
{
	char frame[64];
	size_t size = frame_of (frame, 0, "one of many");
	int i;

	(void) unused;
	for (i = 0; i < FRAMES; i++) {
		frame[0] = (char) (i % 100);
		/* The frame often arrives in two parts. */
		if (i % 3 == 0) {
			send_bytes (peer, frame, 3);
			send_bytes (peer, frame + 3, size - 3);
		} else {
			send_bytes (peer, frame, size);
		}
	}
	return NULL;
}

/* A reader that is cancelled at any moment: the next reader gets the frame after the last one that was
 * returned. */
static void no_frame_is_lost (int is_listed)
{
	pthread_t writer, reader;
	void *(*body) (void *) = is_listed ? wait_until_cancelled : read_until_cancelled;
	int round;
	void *result;

	for (round = 0; round < ROUNDS; round++) {
		open_pair ();
		atomic_store (&got, 0);
		if (is_listed)
			OK (ipc_add (&list, &connection));
		CHECK (pthread_create (&writer, NULL, write_frames, NULL) == 0);
		do {
			int before = atomic_load (&got), wanted = before + 1 + round % 50;

			CHECK (pthread_create (&reader, NULL, body, NULL) == 0);
			while (atomic_load (&got) < (wanted < FRAMES ? wanted : FRAMES))
				sched_yield ();
			CHECK (pthread_cancel (reader) == 0);
			CHECK (pthread_join (reader, &result) == 0 && result == PTHREAD_CANCELED);
		} while (atomic_load (&got) < FRAMES);
		CHECK (pthread_join (writer, NULL) == 0);
		CHECK (atomic_load (&got) == FRAMES && readable_bytes (connection.fd) == 0);
		if (is_listed)
			OK (ipc_del (&list, &connection));
		OK (ipc_close (&connection));
		CHECK (close (peer) == 0);
	}
	IPC_EVENT_CLEAN (&event);
	ipc_connections_free (&list);
}

static void *write_until_cancelled (void *unused)
{
	struct ipc_message m = { 0, 0, NULL };
	char payload[3000];

	(void) unused;
	m.length = sizeof payload;
	m.payload = payload;
	for (;;) {
		m.type = (char) (atomic_load (&written) % 100);
		memset (payload, m.type, sizeof payload);
		OK (ipc_write (&connection, &m));
		atomic_fetch_add (&written, 1);
	}
	return NULL;
}

static atomic_int is_over;

/* Whole frames arrive, in order: those that were written, and one frame whose write had not returned. */
static void *read_frames (void *unused)
{
	struct ipc_connection_info other = connection;
	struct ipc_message m = { 0, 0, NULL };

	(void) unused;
	other.fd = peer;
	while (ipc_read (&other, &m) == IPC_ERROR_NONE) {
		CHECK (m.length == 3000 && m.payload[0] == m.type && m.payload[2999] == m.type);
		atomic_fetch_add (&got, 1);
		OK (ipc_message_empty (&m));
	}
	CHECK (atomic_load (&is_over));
	return NULL;
}

static void no_frame_is_cut (void)
{
	pthread_t writer, reader;
	int round, cancelled = 0;
	void *result;

	open_pair ();
	atomic_store (&got, 0);
	CHECK (pthread_create (&reader, NULL, read_frames, NULL) == 0);
	for (round = 0; round < ROUNDS * 5; round++) {
		int wanted = atomic_load (&written) + round % 20;

		CHECK (pthread_create (&writer, NULL, write_until_cancelled, NULL) == 0);
		while (atomic_load (&written) < wanted)
			sched_yield ();
		CHECK (pthread_cancel (writer) == 0);
		CHECK (pthread_join (writer, &result) == 0 && result == PTHREAD_CANCELED);
		cancelled++;
	}
	OK (ipc_flush (&connection, -1));
	atomic_store (&is_over, 1);
	OK (ipc_close (&connection));
	CHECK (pthread_join (reader, NULL) == 0 && close (peer) == 0);
	CHECK (atomic_load (&got) >= atomic_load (&written));
	CHECK (atomic_load (&got) <= atomic_load (&written) + cancelled);
}

int main (void)
{
	check_begin ();
	no_frame_is_lost (0);
	no_frame_is_lost (1);
	no_frame_is_cut ();
	return 0;
}
