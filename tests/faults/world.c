#include "world.h"
#include "files.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

struct ipc_connection_info service;
struct party server, clients;
struct link links[LINKS];

/* The connection of the next CONNECTION event. */
static struct link *connecting;

/* ---- Events ---- */

static enum side side_of (const struct party *party)
{
	return party == &server ? AT_SERVER : AT_CLIENT;
}

static struct link *link_of (const struct party *party, const struct ipc_connection_info *origin)
{
	int i;

	for (i = 0; i < LINKS; i++)
		if (origin == (party == &server ? links[i].server : &links[i].client))
			return &links[i];
	CHECK (!"the event is about a known connection");
	return NULL;
}

static void take_token (struct party *party)
{
	const struct ipc_message *m = party->event.m;
	uint32_t i;

	CHECK (party->event.origin->fd == party->token[0]);
	CHECK (m != NULL && m->type == MSG_TYPE_DATA);
	/* A read error is reported as an event without bytes. The bytes arrive with the next events. */
	CHECK (m->length > 0 || (may != MAY_NOTHING && faults () > 0));
	for (i = 0; i < m->length; i++)
		CHECK ((unsigned char) m->payload[i] == party->got++);
}

static void take_connection (struct party *party)
{
	struct link *link = connecting;

	CHECK (party == &server && link != NULL && link->server == NULL);
	CHECK (party->event.m == NULL);
	link->server = party->event.origin;
	connecting = NULL;
}

static void take_disconnection (struct party *party)
{
	struct link *link = link_of (party, party->event.origin);
	const struct lane *lane = party == &server ? &link->up : &link->down;

	CHECK (party->event.m == NULL);
	/* The connection that was dropped was closed long before, and events of one array have all happened:
	 * the number may be in use again. */
	CHECK (link->dropped || party->several_at_once || ! can_be_used (party->event.origin->fd));
	if (!link->ending && !link->failed[side_of (party)]) {
		CHECK (may_break () && "a connection ends when one side closes it");
		link->health.broken = 1;
	}
	if (!link->health.broken && !lane_is_done (lane)) {
		CHECK (may_break () && "accepted messages are reported before the end");
		link->health.broken = 1;
	}
	link->ending = 1;
	if (party == &server) {
		free (link->server);
		link->server = NULL;
	} else {
		link->open = link->listed = 0;
	}
}

static void take_error (struct party *party)
{
	struct link *link = link_of (party, party->event.origin);

	CHECK (party->event.m == NULL && !link->failed[side_of (party)]);
	CHECK ((may_break () || link == &links[HOSTILE]) && "an ERROR has a reason");
	link->failed[side_of (party)] = link->health.broken = 1;
}

static void take_message (struct party *party)
{
	struct link *link = link_of (party, party->event.origin);

	CHECK (!link->failed[side_of (party)]);
	lane_take (party == &server ? &link->up : &link->down, party->event.m);
}

void take_event (struct party *party)
{
	CHECK (party->event.origin != NULL);
	switch (party->event.type) {
	case IPC_EVENT_TYPE_CONNECTION: take_connection (party); break;
	case IPC_EVENT_TYPE_DISCONNECTION: take_disconnection (party); break;
	case IPC_EVENT_TYPE_ERROR: take_error (party); break;
	case IPC_EVENT_TYPE_MESSAGE: take_message (party); break;
	case IPC_EVENT_TYPE_EXTRA_SOCKET: take_token (party); break;
	default: CHECK (!"a known event");
	}
}

int all_have_arrived (void)
{
	int i;

	for (i = 0; i < LINKS; i++) {
		const struct link *link = &links[i];
		if (link->health.broken)
			continue;
		if (!lane_is_done (&link->up) || (link->listed && !lane_is_done (&link->down)))
			return 0;
	}
	return 1;
}

/* ---- Parties ---- */

void check_wait (int code)
{
	static const char *const of_one[] = { "accept4", "recv", "recvmsg", "send", "sendmsg", "read", "preadv2" };
	int number = errno;
	size_t i;

	for (i = 0; i < sizeof of_one / sizeof of_one[0]; i++)
		CHECK ((code == IPC_ERROR_NONE || !is_fault_of (of_one[i])) && "the wait continues");
	errno = number;
}

void wait_for_event (struct party *party)
{
	int code;

	do {
		call_begins ("ipc_wait_event");
		code = ipc_wait_event (&party->list, party->service, &party->event);
		CHECK (code == IPC_ERROR_NONE || party->event.type == IPC_EVENT_TYPE_NOT_SET);
		check_wait (code);
	} while (again (NULL, code));
}

static int turn_by_token (struct party *party)
{
	int reported = 0;

	CHECK (write (party->token[1], &party->put, 1) == 1);
	party->put++;
	for (;;) {
		wait_for_event (party);
		take_event (party);
		if (party->event.type == IPC_EVENT_TYPE_EXTRA_SOCKET)
			return reported;
		reported++;
	}
}

void party_begin (struct party *party)
{
	party->turn = turn_by_token;
	CHECK (pipe (party->token) == 0);
	TRY (ipc_add_fd (&party->list, party->token[0]));
	CHECK (party->list.size == 1 && party->list.cinfos[0]->type == 'a');
}

void party_end (struct party *party, int by_freeing)
{
	struct ipc_connection_info *token;

	CHECK (party->list.size == 1);
	token = party->list.cinfos[0];
	CHECK (token->fd == party->token[0]);
	if (by_freeing) {
		call_begins ("ipc_connections_free");
		ipc_connections_free (&party->list);
	} else {
		TRY (ipc_del (&party->list, token));
	}
	CHECK (party->list.size == 0 && party->list.cinfos == NULL);
	free (token);
	IPC_EVENT_CLEAN (&party->event);
	CHECK (close (party->token[0]) == 0 && close (party->token[1]) == 0);
}

/* ---- Connections ---- */

/* Closes one end. Queued bytes may be lost if the library cannot keep them. */
static void close_end (struct link *link, struct ipc_connection_info *end)
{
	unsigned long before = faults ();

	link->ending = 1;
	ONCE (ipc_close (end));
	if (may == MAY_BREAK && faults () > before)
		link->health.broken = 1;
}

void close_client (struct link *link)
{
	if (!link->open)
		return;
	if (link->listed)
		TRY (ipc_del (&clients.list, &link->client));
	close_end (link, &link->client);
	link->open = link->listed = 0;
}

void drop (struct link *link)
{
	if (link->server == NULL || link->dropped)
		return;
	link->dropped = 1;
	close_end (link, link->server);
}

void send_up (struct link *link, uint32_t length)
{
	struct ipc_message m = lane_next (&link->up, length);

	if (link->health.broken || !link->open)
		return;
	TRY_ON (&link->health, ipc_write (&link->client, &m));
	if (succeeded)
		lane_accepted (&link->up);
	else
		close_client (link);
}

void send_down (struct link *link, uint32_t length)
{
	struct ipc_message m = lane_next (&link->down, length);

	if (link->health.broken || link->server == NULL)
		return;
	TRY_ON (&link->health, ipc_write (link->server, &m));
	if (succeeded)
		lane_accepted (&link->down);
	else
		drop (link);
}

void read_answers (struct link *link)
{
	struct ipc_message m;

	while (!link->health.broken && link->open && !lane_is_done (&link->down)) {
		memset (&m, 0, sizeof m);
		TRY_ON (&link->health, ipc_read (&link->client, &m));
		if (!succeeded) {
			close_client (link);
			return;
		}
		lane_take (&link->down, &m);
		TRY (ipc_message_empty (&m));
	}
}

static int has_hung_up (int fd)
{
	struct pollfd asked = { fd, 0, 0 };

	CHECK (poll (&asked, 1, 0) >= 0);
	return (asked.revents & POLLHUP) != 0;
}

void connect_client (struct link *link)
{
	double since = now ();

	memset (link, 0, sizeof *link);
	link->up.number = 2 * (int) (link - links);
	link->down.number = link->up.number + 1;
	while (link->server == NULL) {
		if (!link->open) {
			link->client.fd = -1;
			TRY (ipc_connection (environment, &link->client, SERVICE));
			CHECK (link->client.fd >= 0 && link->client.spath == NULL);
			link->open = 1;
			connecting = link;
		}
		if (server.turn (&server) > 0) {
			since = now ();
		} else if (has_hung_up (link->client.fd)) {
			/* The server could not register the client. */
			CHECK (may_break () && "the server keeps an accepted client");
			ONCE (ipc_close (&link->client));
			link->open = 0;
		} else {
			idle (since, "the CONNECTION");
		}
	}
}

void meet_hostile_client (uint32_t announced)
{
	static const size_t pieces[] = { 3, IPC_HEADER_SIZE + SMALL / 2, IPC_HEADER_SIZE + SMALL };
	struct link *hostile = &links[HOSTILE];
	struct ipc_message m;
	char frame[IPC_HEADER_SIZE + SMALL];
	size_t i, sent = 0;

	connect_client (hostile);
	m = lane_next (&hostile->up, SMALL);
	lane_accepted (&hostile->up);
	frame_of (&m, frame);
	for (i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
		CHECK (send (hostile->client.fd, frame + sent, pieces[i] - sent, MSG_NOSIGNAL) > 0 || may_break ());
		sent = pieces[i];
		server.turn (&server);
	}
	TURNS_UNTIL (all_have_arrived ());

	hostile->ending = 1;
	memcpy (frame + 1, &announced, sizeof announced);
	CHECK (send (hostile->client.fd, frame, IPC_HEADER_SIZE, MSG_NOSIGNAL) > 0 || may_break ());
	TURNS_UNTIL (hostile->server == NULL);
	CHECK (hostile->failed[AT_SERVER] || may_break ());
	close_client (hostile);
}

/* The rest of a closed connection is sent in later calls, whatever connection they are about. */
void send_rests (int descriptors)
{
	struct ipc_connection_info none;

	memset (&none, 0, sizeof none);
	none.fd = -1;
	for (int tries = 0; tries < 5000 && open_descriptors () != descriptors; tries++) {
		ipc_close (&none);
		usleep (1000);
	}
}
