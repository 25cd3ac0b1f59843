#include "lanes.h"

/* The offset at which the payload of a message begins in the pattern: no two messages of a run have the
 * same offset. */
#define PLACES (MESSAGES * 16)

static char pattern[LONGEST + PLACES];

void lanes_begin (void)
{
	uint32_t state = 1;
	size_t i;

	for (i = 0; i < sizeof pattern; i++) {
		state = state * 1664525 + 1013904223;
		pattern[i] = (char) (state >> 24);
	}
}

static struct ipc_message message (const struct lane *lane, int number)
{
	struct ipc_message m;

	m.type = (char) (lane->number * MESSAGES + number);
	m.length = lane->lengths[number];
	m.payload = m.length == 0 ? NULL : pattern + lane->number * MESSAGES + number;
	return m;
}

struct ipc_message lane_next (struct lane *lane, uint32_t length)
{
	CHECK (lane->accepted < MESSAGES && length <= LONGEST && lane->number < PLACES / MESSAGES);
	lane->lengths[lane->accepted] = length;
	return message (lane, lane->accepted);
}

void lane_accepted (struct lane *lane)
{
	lane->accepted++;
}

void lane_take (struct lane *lane, const struct ipc_message *m)
{
	struct ipc_message expected;

	CHECK (m != NULL);
	CHECK (lane->got < lane->accepted);
	expected = message (lane, lane->got);
	CHECK (m->type == expected.type);
	CHECK (m->length == expected.length);
	CHECK (m->length > 0 || m->payload == NULL);
	CHECK (m->length == 0 || memcmp (m->payload, expected.payload, m->length) == 0);
	CHECK (m->length == 0 || m->payload[m->length] == '\0');
	lane->got++;
}

int lane_is_done (const struct lane *lane)
{
	return lane->got == lane->accepted;
}

void frame_of (const struct ipc_message *m, char *frame)
{
	frame[0] = m->type;
	memcpy (frame + 1, &m->length, sizeof m->length);
	memcpy (frame + IPC_HEADER_SIZE, m->payload, m->length);
}
