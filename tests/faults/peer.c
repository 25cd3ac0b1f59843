#include "peer.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The library has one second to send the rest, at the end of a connection or of the program. */
#define SEND_AT_END_SECONDS 0.9

static char room[LONGEST + 1];

/* Reads this many bytes; returns how many were read before end of file. */
static size_t read_all (int fd, char *bytes, size_t size)
{
	size_t have = 0;

	while (have < size) {
		ssize_t count = read (fd, bytes + have, size - have);
		if (count <= 0)
			break;
		have += (size_t) count;
	}
	return have;
}

/* Reads one frame; returns 0 at end of file, also within a frame. */
static int read_frame (int fd, char header[IPC_HEADER_SIZE], struct ipc_message *m)
{
	if (read_all (fd, header, IPC_HEADER_SIZE) < IPC_HEADER_SIZE)
		return 0;
	m->type = header[0];
	memcpy (&m->length, header + 1, sizeof m->length);
	CHECK (m->length <= LONGEST);
	m->payload = m->length == 0 ? NULL : room;
	if (read_all (fd, room, m->length) < m->length)
		return 0;
	room[m->length] = '\0';
	return 1;
}

static int write_all (int fd, const char *bytes, size_t size)
{
	while (size > 0) {
		ssize_t count = send (fd, bytes, size, MSG_NOSIGNAL);
		if (count < 0)
			return 0;
		bytes += count;
		size -= (size_t) count;
	}
	return 1;
}

/* Sends one frame back; returns 0 at end of file. */
static int reflect (int fd)
{
	char header[IPC_HEADER_SIZE];
	struct ipc_message m;

	return read_frame (fd, header, &m) && write_all (fd, header, sizeof header) && write_all (fd, room, m.length);
}

/* Reads to end of file: every accepted message must arrive. */
static void read_to_end (int fd, struct lane *lane, struct shared *shared)
{
	char header[IPC_HEADER_SIZE];
	struct ipc_message m;
	double begin = now ();

	while (read_frame (fd, header, &m))
		lane_take (lane, &m);
	close (fd);
	if (lane_is_done (lane) || may == MAY_BREAK)
		return;
	if (now () - begin > SEND_AT_END_SECONDS)
		shared->too_slow = 1;
	else
		complain (__FILE__, __LINE__, "accepted messages are sent at the end");
}

static int be_peer (const struct peer *peer)
{
	struct pollfd asked[2];
	char command;

	asked[0].fd = peer->mirror;
	asked[1].fd = peer->control;
	asked[0].events = asked[1].events = POLLIN;
	for (;;) {
		if (poll (asked, 2, -1) < 0)
			return EXIT_FAILURE;
		if (asked[0].fd >= 0 && asked[0].revents != 0 && !reflect (asked[0].fd)) {
			close (asked[0].fd);
			asked[0].fd = -1;
		}
		if (asked[1].revents == 0)
			continue;
		if (read (peer->control, &command, 1) != 1)
			return peer->shared->too_slow ? TOO_SLOW : EXIT_SUCCESS;
		if (command == READ_CLOSED)
			read_to_end (peer->closed, &peer->shared->closed, peer->shared);
		else
			read_to_end (peer->at_exit, &peer->shared->at_exit, peer->shared);
	}
}

static void pair (int *here, int *there)
{
	int ends[2];

	CHECK (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	*here = ends[0];
	*there = ends[1];
}

static void close_all (const struct peer *peer)
{
	CHECK (close (peer->mirror) == 0 && close (peer->closed) == 0);
	CHECK (close (peer->at_exit) == 0 && close (peer->control) == 0);
}

struct peer peer_begin (void)
{
	struct peer scenario, peer;
	pid_t process;
	int found, status;
	void *memory = mmap (NULL, sizeof *peer.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK (memory != MAP_FAILED);
	scenario.shared = peer.shared = memory;
	pair (&scenario.mirror, &peer.mirror);
	pair (&scenario.closed, &peer.closed);
	pair (&scenario.at_exit, &peer.at_exit);
	pair (&scenario.control, &peer.control);
	process = fork ();
	CHECK (process != -1);
	if (process == 0) {
		rules_begin (0);
		close_all (&peer);
		return scenario;
	}
	rules_begin (1);
	close_all (&scenario);
	found = be_peer (&peer);
	CHECK (waitpid (process, &status, 0) == process);
	if (WIFSIGNALED (status)) {
		fprintf (stderr, "ended by signal %d\n", WTERMSIG (status));
		_exit (EXIT_FAILURE);
	}
	_exit (WEXITSTATUS (status) == 0 ? found : WEXITSTATUS (status));
}

void peer_command (const struct peer *peer, char what)
{
	CHECK (write (peer->control, &what, 1) == 1);
}
