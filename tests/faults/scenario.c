/*
 * What a program does with ipc.h: a server, clients, and extra descriptors. Another process (peer.h) is the
 * other end of calls that wait. IPC_RUNDIR names a directory.
 *
 * Each part of main is a station that does not depend on the others: a new station can be inserted between
 * any two.
 */
#include "files.h"
#include "peer.h"
#include "world.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

/* Messages without a connection. */
static void make_messages (void)
{
	struct ipc_message m, copy, *made;
	struct ipc_connection_info info, *twin;
	struct lane lane;
	char path[PATH_MAX];
	char *frame = NULL;
	ssize_t size = 0;

	memset (&m, 0, sizeof m);
	memset (&lane, 0, sizeof lane);
	copy = lane_next (&lane, SMALL);
	TRY (ipc_message_format (&m, 1, copy.payload, SMALL));
	TRY (ipc_message_format_data (&m, copy.payload, SMALL));
	CHECK (m.type == MSG_TYPE_DATA && m.length == SMALL);
	TRY (ipc_message_format_write (&m, &frame, &size));
	CHECK (size == IPC_HEADER_SIZE + SMALL);
	/* The payload of a message of a lane is not from malloc(3). */
	memset (&copy, 0, sizeof copy);
	TRY (ipc_message_format_read (&copy, frame, size));
	CHECK (copy.length == SMALL && memcmp (copy.payload, m.payload, SMALL + 1) == 0);
	free (frame);
	TRY (ipc_message_empty (&copy));
	TRY (ipc_message_format_server_close (&m));
	TRY (ipc_message_empty (&m));
	TRY (ipc_message_new (&made, SMALL));
	CHECK (made->length == SMALL && made->payload[SMALL - 1] == 0);
	TRY (ipc_message_empty (made));
	free (made);

	TRY (ipc_connection_gen (&info, 1, 2, 3, 'c'));
	info.spath = NULL;
	do {
		call_begins ("ipc_connection_copy");
		twin = ipc_connection_copy (&info);
	} while (again (NULL, twin == NULL ? IPC_ERROR_NOT_ENOUGH_MEMORY : IPC_ERROR_NONE));
	CHECK (ipc_connection_eq (&info, twin) == 1);
	free (twin);
	do {
		call_begins ("service_path");
		service_path (path, SERVICE, 1, 2);
	} while (again (NULL, path[0] == '\0' ? IPC_ERROR_NOT_ENOUGH_MEMORY : IPC_ERROR_NONE));
}

static void begin_service (void)
{
	struct ipc_connection_info other;
	char path[PATH_MAX];

	set_rundir ("run");
	CHECK (mkdir (rundir, 0755) == 0);
	snprintf (path, sizeof path, "%s/%s-0-0", rundir, SERVICE);
	leave_dead_socket (path);
	open_service (&service, SERVICE);
	CHECK (strcmp (service.spath, path) == 0);

	memset (&other, 0, sizeof other);
	REFUSED (ipc_server_init (environment, &other, SERVICE), IPC_ERROR_USOCK_INIT__BIND, EADDRINUSE);
	free (other.spath);
	CHECK (access (path, F_OK) == 0);
	server.service = &service;
	party_begin (&server);
	party_begin (&clients);
}

static void begin_clients (void)
{
	int i;

	for (i = EAGER; i <= DIRECT; i++)
		connect_client (&links[i]);
	for (i = EAGER; i <= PATIENT; i++) {
		TRY (ipc_add (&clients.list, &links[i].client));
		links[i].listed = 1;
	}
	CHECK (clients.list.size == 3);
}

/* Small messages, and many of them in one read. */
static void exchange_small (void)
{
	static const uint32_t lengths[] = { 0, SMALL, 1, SMALL };
	size_t j;
	int i;

	for (i = EAGER; i <= DIRECT; i++)
		for (j = 0; j < sizeof lengths / sizeof lengths[0]; j++)
			send_up (&links[i], lengths[j]);
	TURNS_UNTIL (all_have_arrived ());
	for (i = EAGER; i <= DIRECT; i++)
		for (j = 0; j < 2; j++)
			send_down (&links[i], lengths[j]);
	read_answers (&links[DIRECT]);
	TURNS_UNTIL (all_have_arrived ());
}

/* Large messages, as far as the kernel holds them; for the second the library knows the expected size. */
static void exchange_large (void)
{
	int i;

	for (i = 0; i < 2; i++) {
		send_up (&links[EAGER], LARGE);
		TURNS_UNTIL (all_have_arrived ());
		send_down (&links[EAGER], LARGE);
		TURNS_UNTIL (all_have_arrived ());
	}
	send_up (&links[DIRECT], LARGE);
	TURNS_UNTIL (all_have_arrived ());
	send_down (&links[DIRECT], LARGE);
	read_answers (&links[DIRECT]);
}

/* Messages that are not read at first: the library keeps them. */
static void exchange_queued (void)
{
	send_up (&links[PATIENT], LONGEST);
	send_up (&links[PATIENT], SMALL);
	send_down (&links[EAGER], LARGE);
	send_down (&links[EAGER], LARGE);
	send_down (&links[EAGER], LARGE);
	send_down (&links[EAGER], SMALL);
	TURNS_UNTIL (all_have_arrived ());
	send_down (&links[DIRECT], LONG);
	send_down (&links[DIRECT], SMALL);
	read_answers (&links[DIRECT]);
	TURNS_UNTIL (all_have_arrived ());
}

/* epoll refuses regular files: the file is read at once, to its end. */
static void read_file (void)
{
	static const char text[] = "text";
	struct party reader;
	struct ipc_connection_info *file;
	char path[PATH_MAX];
	size_t got = 0;
	int fd, ended = 0;

	memset (&reader, 0, sizeof reader);
	snprintf (path, sizeof path, "%s/file", top);
	fd = open (path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK (fd >= 0 && unlink (path) == 0);
	CHECK (pwrite (fd, text, sizeof text, 0) == sizeof text);
	TRY (ipc_add_fd (&reader.list, fd));
	while (!ended) {
		const struct ipc_message *m;
		wait_for_event (&reader);
		CHECK (reader.event.type == IPC_EVENT_TYPE_EXTRA_SOCKET);
		m = reader.event.m;
		CHECK (m->length <= sizeof text - got);
		CHECK (m->length == 0 || memcmp (m->payload, text + got, m->length) == 0);
		got += m->length;
		ended = m->length == 0;
	}
	/* For a descriptor that cannot be read, an end is reported, too. */
	CHECK (got == sizeof text || (may != MAY_NOTHING && faults () > 0));
	REFUSED (ipc_wait_event (&reader.list, NULL, &reader.event), IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, EINVAL);
	file = reader.list.cinfos[0];
	TRY (ipc_del (&reader.list, file));
	CHECK (reader.list.size == 0);
	free (file);
	CHECK (close (fd) == 0);
}

/* A connection in no list, to a peer in another process: all calls that wait. */
static void wait_for_mirror (const struct peer *peer)
{
	static const uint32_t lengths[] = { SMALL, LONG, 0, LARGE };
	struct ipc_connection_info info;
	struct ipc_message m;
	struct health health = { 0, 0 };
	struct lane lane;
	size_t i;

	memset (&info, 0, sizeof info);
	memset (&lane, 0, sizeof lane);
	info.fd = peer->mirror;
	lane.number = 2 * LINKS;
	for (i = 0; i < sizeof lengths / sizeof lengths[0] && !health.broken; i++) {
		m = lane_next (&lane, lengths[i]);
		TRY_ON (&health, ipc_write (&info, &m));
		if (!succeeded)
			break;
		lane_accepted (&lane);
		memset (&m, 0, sizeof m);
		TRY_ON (&health, ipc_read (&info, &m));
		if (!succeeded)
			break;
		lane_take (&lane, &m);
		TRY (ipc_message_empty (&m));
	}
	for (i = 0; i < 2 && !health.broken; i++) {
		char *frame = NULL;
		ssize_t size, sent;

		m = lane_next (&lane, lengths[i]);
		TRY (ipc_message_format_write (&m, &frame, &size));
		TRY_ON (&health, usock_send (info.fd, frame, size, &sent));
		free (frame);
		if (!succeeded)
			break;
		CHECK (sent == size);
		lane_accepted (&lane);
		frame = NULL;
		if (i == 0) {
			/* First with a buffer that is too small. */
			char none[1];
			char *place = none;
			REFUSED_ON (&health, (size = sizeof none, usock_recv (info.fd, &place, &size)), IPC_ERROR_USOCK_RECV,
				EMSGSIZE);
			if (health.broken)
				break;
			CHECK (size == IPC_HEADER_SIZE + SMALL);
			frame = malloc ((size_t) size);
		}
		TRY_ON (&health, usock_recv (info.fd, &frame, &size));
		if (succeeded) {
			memset (&m, 0, sizeof m);
			TRY (ipc_message_format_read (&m, frame, size));
			lane_take (&lane, &m);
			TRY (ipc_message_empty (&m));
		} else {
			CHECK (i == 0 || frame == NULL);
		}
		free (frame);
	}
	ONCE (usock_close (info.fd));
}

/* A read whose timeout expires keeps the bytes that it received. */
static void read_in_pieces (void)
{
	static const size_t pieces[] = { 3, SMALL / 2, IPC_HEADER_SIZE + SMALL };
	struct timeval short_time = { 0, 1000 };
	struct ipc_connection_info info;
	struct health health = { 0, 0 };
	struct ipc_message m;
	struct lane lane;
	char frame[IPC_HEADER_SIZE + SMALL];
	size_t i, sent = 0;
	int ends[2];

	memset (&info, 0, sizeof info);
	memset (&lane, 0, sizeof lane);
	CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	CHECK (setsockopt (ends[0], SOL_SOCKET, SO_RCVTIMEO, &short_time, sizeof short_time) == 0);
	info.fd = ends[0];
	m = lane_next (&lane, SMALL);
	lane_accepted (&lane);
	frame_of (&m, frame);
	memset (&m, 0, sizeof m);
	for (i = 0; i < sizeof pieces / sizeof pieces[0] && !health.broken; i++) {
		CHECK (send (ends[1], frame + sent, pieces[i] - sent, MSG_NOSIGNAL) > 0 || may_break ());
		sent = pieces[i];
		if (sent < sizeof frame)
			REFUSED_ON (&health, ipc_read (&info, &m), IPC_ERROR_USOCK_RECV, EAGAIN);
		else
			TRY_ON (&health, ipc_read (&info, &m));
	}
	if (!health.broken) {
		lane_take (&lane, &m);
		TRY (ipc_message_empty (&m));
	}
	ONCE (ipc_close (&info));
	CHECK (close (ends[1]) == 0);
}

/* One message over a connection whose two ends this process has. */
static void greet (int here, int there)
{
	struct ipc_connection_info info;
	struct health health = { 0, 0 };
	struct lane lane;
	struct ipc_message m;

	memset (&info, 0, sizeof info);
	memset (&lane, 0, sizeof lane);
	info.fd = here;
	m = lane_next (&lane, SMALL);
	TRY_ON (&health, ipc_message_write (there, &m));
	if (!succeeded)
		return;
	lane_accepted (&lane);
	memset (&m, 0, sizeof m);
	TRY_ON (&health, ipc_read (&info, &m));
	if (!succeeded)
		return;
	lane_take (&lane, &m);
	TRY (ipc_message_empty (&m));
}

/* Paths that are longer than the address of a socket, in a directory that does not exist yet. */
static void use_long_paths (void)
{
	static const char dir[] = "a-directory-with-a-name-that-is-as-long-as-the-address-of-a-socket-is-with-all-of-"
		"its-bytes-and-then-one-more-so-that-it-does-not-fit";
	static const char long_name[] = "a-service-with-a-name-that-is-as-long-as-the-address-of-a-socket-is-with-all-"
		"of-its-bytes-and-then-one-more-so-that-it-does-not-fit";
	const char *names[2];
	int i;

	names[0] = "short";
	names[1] = long_name;
	set_rundir (dir);
	for (i = 0; i < 2; i++) {
		struct ipc_connection_info srv, here, there;

		memset (&srv, 0, sizeof srv);
		memset (&here, 0, sizeof here);
		memset (&there, 0, sizeof there);
		open_service (&srv, names[i]);
		/* Only the service is open: descriptors that the library opened for it are closed. */
		CHECK (entries_of (rundir) == 1 || is_fault_of ("unlinkat"));
		TRY (ipc_connection (environment, &there, names[i]));
		TRY (ipc_accept (&srv, &here));
		greet (here.fd, there.fd);
		ONCE (ipc_close (&here));
		ONCE (ipc_close (&there));
		close_service (&srv);
		if (entries_of (rundir) > 0) {
			char path[PATH_MAX];
			CHECK (is_fault_of ("unlinkat"));
			snprintf (path, sizeof path, "%s/.ipc-%d", rundir, (int) getpid ());
			CHECK (unlink (path) == 0);
		}
	}
	remove_rundir ();
}

static void use_sockets (void)
{
	char path[PATH_MAX];
	int32_t listener, here, there;
	int code;

	snprintf (path, sizeof path, "%s/socket", top);
	do {
		call_begins ("usock_init");
		code = usock_init (&listener, path);
		/* A call that fails leaves no file. */
		CHECK (code == IPC_ERROR_NONE || entries_of (top) == 0);
	} while (again (NULL, code));
	TRY (usock_connect (&there, path));
	TRY (usock_accept (listener, &here));
	greet (here, there);
	ONCE (usock_close (here));
	ONCE (usock_close (there));
	ONCE (usock_close (listener));
	TRY (usock_remove (path));
	CHECK (access (path, F_OK) == -1 && errno == ENOENT);
}

/* One client closes after its last message, the server closes one after its last message, one client just
* closes. */
static void end_clients (void)
{
	int i;

	send_up (&links[EAGER], SMALL);
	send_up (&links[EAGER], LARGE);
	close_client (&links[EAGER]);
	send_down (&links[PATIENT], SMALL);
	drop (&links[PATIENT]);
	TURNS_UNTIL (!links[PATIENT].open || links[PATIENT].health.broken);
	for (i = EAGER; i <= DIRECT; i++)
		close_client (&links[i]);
	for (i = EAGER; i <= DIRECT; i++)
		TURNS_UNTIL (links[i].server == NULL);
	for (i = EAGER; i <= DIRECT; i++)
		CHECK (links[i].health.broken || lane_is_done (&links[i].up));
}

static void end_service (void)
{
	party_end (&server, 1);
	party_end (&clients, 0);
	close_service (&service);
	set_rundir ("run");
	remove_rundir ();
}

/* Queues much more than the kernel holds, for a peer that does not read yet. */
static struct ipc_connection_info *leave_unread (int fd, struct lane *lane)
{
	static struct ipc_connection_info info;
	struct ipc_connection_infos list = { NULL, 0 };
	struct health health = { 0, 0 };
	struct ipc_message m;

	memset (&info, 0, sizeof info);
	info.fd = fd;
	TRY (ipc_add (&list, &info));
	for (int i = 0; i < 4; i++) {
		m = lane_next (lane, LONG);
		TRY_ON (&health, ipc_write (&info, &m));
		if (succeeded)
			lane_accepted (lane);
	}
	TRY (ipc_del (&list, &info));
	return &info;
}

static void close_before_it_is_read (const struct peer *peer)
{
	struct ipc_connection_info *info = leave_unread (peer->closed, &peer->shared->closed);

	peer_command (peer, READ_CLOSED);
	ONCE (ipc_close (info));
}

/* The last station: the rest is sent at exit. */
static void exit_before_it_is_read (const struct peer *peer)
{
	leave_unread (peer->at_exit, &peer->shared->at_exit);
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

	make_messages ();
	begin_service ();
	begin_clients ();
	exchange_small ();
	exchange_large ();
	exchange_queued ();
	meet_hostile_client (0xffffffff);
	read_file ();
	read_in_pieces ();
	wait_for_mirror (&peer);
	end_clients ();
	end_service ();
	use_long_paths ();
	use_sockets ();
	close_before_it_is_read (&peer);
	files_end ();
	/* The mirror socket and one socket of the peer. */
	send_rests (descriptors - 2);
	CHECK (open_descriptors () == descriptors - 2);
	exit_before_it_is_read (&peer);
	return EXIT_SUCCESS;
}
