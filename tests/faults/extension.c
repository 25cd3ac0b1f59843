/*
 * What a program does with ipc_ext.h: the server receives many events at once, the clients have an event loop
 * of their own; messages are sent in batches, and file descriptors are passed with them.
 *
 * Each part of main is a station that does not depend on the others: a new station can be inserted between
 * any two.
 */
#include "daemon.h"
#include "files.h"
#include "peer.h"
#include "world.h"

#include <ipc_ext.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

/* Descriptors that the server received with messages: the reading ends of pipes that contain this byte. */
#define MARK 't'

static int descriptors_sent, descriptors_taken;

/* ---- Taking turns ---- */

static int is_readable (int fd)
{
	struct pollfd asked = { fd, POLLIN, 0 };

	CHECK (poll (&asked, 1, 0) >= 0);
	return asked.revents != 0;
}

/* A pipe that contains one byte; returns its reading end. */
static int marked_pipe (void)
{
	static const char mark = MARK;
	int ends[2];

	CHECK (pipe (ends) == 0 && write (ends[1], &mark, 1) == 1 && close (ends[1]) == 0);
	return ends[0];
}

/* Takes the descriptors that arrived with the last message of the connection. */
static void take_descriptors (struct health *health, const struct ipc_connection_info *info)
{
	for (;;) {
		char found = 0;
		int code, fd = -2;

		call_begins ("ipc_take_fd");
		code = ipc_take_fd (info, &fd);
		if (code == IPC_ERROR_USOCK_RECV && errno == ENOENT) {
			CHECK (fd == -1);
			return;
		}
		if (again (health, code))
			continue;
		if (!succeeded)
			return;
		CHECK (read (fd, &found, 1) == 1 && found == MARK && close (fd) == 0);
		descriptors_taken++;
	}
}

static int turn_by_many (struct party *party)
{
	static struct ipc_event events[3];
	int reported = 0;
	size_t count, i;

	do {
		int code;
		do {
			count = sizeof events / sizeof events[0];
			call_begins ("ipc_wait_events");
			code = ipc_wait_events (&party->list, party->service, events, &count, 0);
			CHECK (code == IPC_ERROR_NONE || count == 0);
			check_wait (code);
		} while (again (NULL, code));
		for (i = 0; i < count; i++) {
			party->event = events[i];
			take_event (party);
			if (party->event.type == IPC_EVENT_TYPE_MESSAGE && descriptors_sent > 0)
				take_descriptors (&links[PATIENT].health, party->event.origin);
		}
		reported += (int) count;
	} while (count > 0);
	/* The messages belong to the events of the array. */
	memset (&party->event, 0, sizeof party->event);
	return reported;
}

static int turn_by_event_fd (struct party *party)
{
	static int same = -1;
	int reported = 0;
	int fd = -1;

	TRY (ipc_event_fd (&party->list, party->service, &fd));
	CHECK (fd >= 0 && (same == -1 || fd == same));
	same = fd;
	if (!is_readable (fd))
		return 0;
	for (;;) {
		TRY (ipc_wait_event_timeout (&party->list, party->service, &party->event, 0));
		if (party->event.type == IPC_EVENT_TYPE_NOT_SET)
			return reported;
		take_event (party);
		reported++;
	}
}

/* ---- Batches ---- */

/* Queues a message; returns whether the queue had room for it. */
static int queue_up (struct link *link, uint32_t length)
{
	struct ipc_message m = lane_next (&link->up, length);
	int code;

	if (link->health.broken || !link->open)
		return 1;
	do {
		call_begins ("ipc_queue");
		code = ipc_queue (&link->client, &m);
		if (code == IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA && errno == EAGAIN)
			return 0;
	} while (again (&link->health, code));
	if (succeeded)
		lane_accepted (&link->up);
	else
		close_client (link);
	return 1;
}

static size_t pending (struct link *link)
{
	size_t bytes = 0;

	if (link->open)
		TRY_ON (&link->health, ipc_pending (&link->client, &bytes));
	return bytes;
}

static void flush (struct link *link)
{
	if (link->health.broken || !link->open)
		return;
	TRY_ON (&link->health, ipc_flush (&link->client, 10000));
	if (!succeeded)
		close_client (link);
}

/* ---- The stations ---- */

static void begin_service (void)
{
	set_rundir ("run");
	open_service (&service, SERVICE);
	TRY (ipc_limits (&service, LONGEST, 0));
	TRY (ipc_allow_fds (&service));
	server.service = &service;
	server.turn = turn_by_many;
	server.several_at_once = 1;
	party_begin (&clients);
	clients.turn = turn_by_event_fd;
}

static void begin_clients (void)
{
	struct ipc_peer peer;
	int i;

	for (i = EAGER; i <= DIRECT; i++)
		connect_client (&links[i]);
	for (i = EAGER; i <= PATIENT; i++) {
		TRY (ipc_add (&clients.list, &links[i].client));
		links[i].listed = 1;
	}
	TRY (ipc_peer (links[EAGER].server, &peer));
	CHECK (peer.pid == getpid () && peer.uid == geteuid () && peer.gid == getegid ());
}

static void exchange_events (void)
{
	int i;

	for (i = EAGER; i <= DIRECT; i++) {
		send_up (&links[i], SMALL);
		send_up (&links[i], SMALL);
	}
	TURNS_UNTIL (all_have_arrived ());
	for (i = EAGER; i <= PATIENT; i++)
		send_down (&links[i], SMALL);
	send_down (&links[EAGER], LARGE);
	TURNS_UNTIL (all_have_arrived ());
	/* More than the kernel holds. */
	send_up (&links[EAGER], LONGEST);
	send_down (&links[PATIENT], LONG);
	TURNS_UNTIL (all_have_arrived ());
}

static void send_batches (void)
{
	struct link *link = &links[EAGER];
	int i;

	for (i = 0; i < 10; i++)
		CHECK (queue_up (link, SMALL));
	CHECK (pending (link) == 10 * (IPC_HEADER_SIZE + SMALL) || link->health.broken);
	flush (link);
	CHECK (pending (link) == 0);
	TURNS_UNTIL (all_have_arrived ());

	/* More than the kernel holds, for a peer that does not read. */
	CHECK (queue_up (link, LONG));
	if (link->open && !link->health.broken)
		REFUSED_ON (&link->health, ipc_flush (&link->client, 0), IPC_ERROR_USOCK_SEND, ETIMEDOUT);
	CHECK (queue_up (link, SMALL));
	TURNS_UNTIL (all_have_arrived ());

	/* More descriptors than the library allows. */
	if (link->open)
		TRY_ON (&link->health, ipc_limits (&link->client, 0, 2 * LARGE));
	for (i = 0; i < 8 && queue_up (link, LARGE); i++)
		continue;
	CHECK (i < 8 || link->health.broken);
	TURNS_UNTIL (all_have_arrived ());
}

static void send_descriptor (struct link *link, struct lane *lane, const struct ipc_connection_info *info)
{
	struct ipc_message m = lane_next (lane, SMALL);
	int fd;

	if (link->health.broken || !link->open || link->server == NULL)
		return;
	fd = marked_pipe ();
	TRY_ON (&link->health, ipc_write_fd (info, &m, fd));
	CHECK (close (fd) == 0);
	if (succeeded) {
		lane_accepted (lane);
		descriptors_sent++;
	} else {
		close_client (link);
	}
}

static void send_descriptors (void)
{
	struct link *link = &links[PATIENT];
	struct health *health = &links[DIRECT].health;
	struct ipc_message m;

	/* The first is sent at once, the second after the bytes that the kernel does not hold yet. */
	descriptors_sent = descriptors_taken = 0;
	send_descriptor (link, &link->up, &link->client);
	send_up (link, LONG);
	send_descriptor (link, &link->up, &link->client);
	send_up (link, SMALL);
	TURNS_UNTIL (all_have_arrived ());
	CHECK (descriptors_taken == descriptors_sent || link->health.broken);

	/* To the client that reads with ipc_read. */
	descriptors_sent = descriptors_taken = 0;
	link = &links[DIRECT];
	if (link->open)
		TRY_ON (health, ipc_allow_fds (&link->client));
	send_descriptor (link, &link->down, link->server);
	while (!health->broken && link->open && !lane_is_done (&link->down)) {
		memset (&m, 0, sizeof m);
		TRY_ON (health, ipc_read (&link->client, &m));
		if (!succeeded)
			break;
		lane_take (&link->down, &m);
		TRY (ipc_message_empty (&m));
		take_descriptors (health, &link->client);
	}
	CHECK (descriptors_taken == descriptors_sent || health->broken);

	/* A descriptor that is not taken is closed with the next message, and another one with the connection. */
	descriptors_sent = 0;
	send_descriptor (link, &link->up, &link->client);
	descriptors_sent = 0;
	send_up (link, SMALL);
	TURNS_UNTIL (all_have_arrived ());
	send_descriptor (link, &link->up, &link->client);
	descriptors_sent = 0;
	TURNS_UNTIL (all_have_arrived ());
}

static void watch (void)
{
	struct party watcher;
	int fd, file, i;
	char byte;

	memset (&watcher, 0, sizeof watcher);
	fd = marked_pipe ();
	TRY (ipc_watch_fd (&watcher.list, fd));
	for (i = 0; i < 2; i++) {
		TRY (ipc_wait_event_timeout (&watcher.list, NULL, &watcher.event, 10000));
		CHECK (watcher.event.type == IPC_EVENT_TYPE_EXTRA_SOCKET && watcher.event.m == NULL);
		CHECK (watcher.event.origin->fd == fd);
	}
	CHECK (read (fd, &byte, 1) == 1 && byte == MARK);
	file = open ("/proc/self/exe", O_RDONLY);
	CHECK (file >= 0);
	REFUSED (ipc_watch_fd (&watcher.list, file), IPC_ERROR_WAIT_EVENT__SELECT, EPERM);
	CHECK (close (file) == 0);
	TRY (ipc_del_fd (&watcher.list, fd));
	CHECK (watcher.list.size == 0 && close (fd) == 0);

	/* No event occurs on this connection. */
	CHECK (pipe (watcher.token) == 0);
	TRY (ipc_add_fd (&watcher.list, watcher.token[0]));
	TRY (ipc_wait_event_timeout (&watcher.list, NULL, &watcher.event, 1));
	CHECK (watcher.event.type == IPC_EVENT_TYPE_NOT_SET);
	TRY (ipc_del_fd (&watcher.list, watcher.token[0]));
	CHECK (close (watcher.token[0]) == 0 && close (watcher.token[1]) == 0);
}

/* Sends a message in pieces, one of which is empty, and a message that is in no structure. */
static int send_in_pieces (const struct ipc_connection_info *info, const struct ipc_message *m)
{
	struct iovec pieces[3] = { { NULL, 0 }, { NULL, 0 }, { NULL, 0 } };

	call_begins ("ipc_sendv");
	pieces[0].iov_base = m->payload;
	pieces[0].iov_len = m->length / 3;
	pieces[2].iov_base = m->payload + m->length / 3;
	pieces[2].iov_len = m->length - m->length / 3;
	return m->length == SMALL ? ipc_send (info, m->type, m->payload, m->length) : ipc_sendv (info, m->type, pieces, 3);
}

/* Broadcasts to a list that has one connection: a fault then fails for this connection alone. */
static void send_to_all (struct ipc_connection_info *info, const struct ipc_message *m, struct health *health)
{
	struct ipc_connection_infos list;
	size_t failed = 1;
	int tries;

	list.cinfos = &info;
	list.size = 1;
	for (tries = 0; failed > 0 && tries < 10; tries++)
		TRY (ipc_broadcast (&list, m, NULL, &failed));
	CHECK (failed == 0 || may_break ());
	health->broken = failed > 0;
}

/* A connection in no list, to a peer that is another process. */
static void wait_for_mirror (const struct peer *peer)
{
	struct ipc_connection_info info;
	struct ipc_message m;
	struct health health = { 0, 0 };
	struct lane lane;
	int i;

	memset (&info, 0, sizeof info);
	memset (&lane, 0, sizeof lane);
	info.fd = peer->mirror;
	lane.number = 2 * LINKS;
	for (i = 0; i < 3 && !health.broken; i++) {
		m = lane_next (&lane, i == 1 ? LONG : SMALL);
		TRY_ON (&health, ipc_queue (&info, &m));
		if (succeeded)
			lane_accepted (&lane);
	}
	if (!health.broken)
		TRY_ON (&health, ipc_flush (&info, -1));
	for (i = 0; i < 2 && !health.broken; i++) {
		m = lane_next (&lane, i == 0 ? SMALL : 2 * SMALL);
		TRY_ON (&health, send_in_pieces (&info, &m));
		if (succeeded)
			lane_accepted (&lane);
	}
	if (!health.broken) {
		m = lane_next (&lane, SMALL);
		send_to_all (&info, &m, &health);
		if (!health.broken)
			lane_accepted (&lane);
	}
	while (!health.broken && !lane_is_done (&lane)) {
		memset (&m, 0, sizeof m);
		TRY_ON (&health, ipc_read_timeout (&info, &m, 10000));
		if (!succeeded)
			break;
		lane_take (&lane, &m);
		TRY (ipc_message_empty (&m));
	}
	ONCE (ipc_close (&info));
}

/* Queued messages are sent before the end of file. */
static void end_clients (void)
{
	int i;

	for (i = EAGER; i <= PATIENT; i++)
		queue_up (&links[i], SMALL);
	for (i = EAGER; i <= DIRECT; i++)
		close_client (&links[i]);
	for (i = EAGER; i <= DIRECT; i++)
		TURNS_UNTIL (links[i].server == NULL);
	for (i = EAGER; i <= DIRECT; i++)
		CHECK (links[i].health.broken || lane_is_done (&links[i].up));
}

static void end_service (void)
{
	party_end (&clients, 1);
	close_service (&service);
	call_begins ("ipc_connections_free");
	ipc_connections_free (&server.list);
	remove_rundir ();
}

/* The last station: queued messages are sent at exit. */
static void exit_before_it_is_sent (const struct peer *peer)
{
	struct lane *lane = &peer->shared->at_exit;
	struct ipc_connection_info info;
	struct health health = { 0, 0 };
	int i;

	memset (&info, 0, sizeof info);
	info.fd = peer->at_exit;
	for (i = 0; i < 3 && !health.broken; i++) {
		struct ipc_message m = lane_next (lane, i == 1 ? LARGE : SMALL);
		TRY_ON (&health, ipc_queue (&info, &m));
		if (succeeded)
			lane_accepted (lane);
	}
	peer_command (peer, READ_AT_EXIT);
}

int main (void)
{
	struct peer peer;
	int descriptors;

	lanes_begin ();
	peer = peer_begin ();
	descriptors = open_descriptors ();
	files_begin ();
	begin_service ();
	begin_clients ();
	exchange_events ();
	send_batches ();
	send_descriptors ();
	meet_hostile_client (LONGEST + 1);
	watch ();
	wait_for_mirror (&peer);
	serve_as_a_daemon ();
	end_clients ();
	end_service ();
	files_end ();
	/* The mirror socket. */
	send_rests (descriptors - 1);
	CHECK (open_descriptors () == descriptors - 1);
	exit_before_it_is_sent (&peer);
	return EXIT_SUCCESS;
}
