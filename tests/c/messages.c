/*
 * The message functions: their results, the arguments that they refuse, the ownership of memory, and the
 * bytes of a frame. Under valgrind this program also shows that no block is leaked and no byte beyond a
 * buffer is accessed.
 */
#include "check.h"

#include <sys/socket.h>

/* Type MSG_TYPE_DATA, length 5 in the byte order of the machine, payload. */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
static const char golden[] = { 2, 0, 0, 0, 5, 'h', 'e', 'l', 'l', 'o' };
#else
static const char golden[] = { 2, 5, 0, 0, 0, 'h', 'e', 'l', 'l', 'o' };
#endif

static const char hello[] = { 'h', 'e', 'l', 'l', 'o' };

/* A block of exactly this size, so that valgrind notices a byte too many. */
static char *block (size_t size)
{
	char *bytes = (char *) malloc (size);
	CHECK (bytes != NULL);
	return bytes;
}

static char *pattern (size_t size)
{
	size_t i;
	char *bytes = block (size);
	for (i = 0; i < size; i++)
		bytes[i] = (char) (i * 7 + i / 251);
	return bytes;
}

static void make_new_messages (void)
{
	static const ssize_t sizes[] = { 1, 5, 4096, IPC_MAX_MESSAGE_SIZE };
	struct ipc_message *m = NULL;
	ssize_t byte;
	size_t i;

	EXPECT_OK (ipc_message_new (&m, 0));
	CHECK (m != NULL && m->length == 0 && m->payload == NULL);
	free (m);

	for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		EXPECT_OK (ipc_message_new (&m, sizes[i]));
		CHECK (m->length == (uint32_t) sizes[i] && m->payload != NULL);
		/* Including the NUL byte after the payload. */
		for (byte = 0; byte <= sizes[i]; byte++)
			CHECK (m->payload[byte] == 0);
		EXPECT_OK (ipc_message_empty (m));
		CHECK (m->payload == NULL && m->length == 0);
		free (m);
	}

	EXPECT (ipc_message_new (NULL, 5), IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_new (&m, -1), IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE);
	EXPECT (ipc_message_new (&m, IPC_MAX_MESSAGE_SIZE + 1), IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE);
}

static void format (void)
{
	struct ipc_message m;
	char *given = pattern (300), *largest = pattern (IPC_MAX_MESSAGE_SIZE), *before;

	memset (&m, 0, sizeof m);
	EXPECT_OK (ipc_message_format (&m, 42, given, 300));
	CHECK (m.type == 42 && m.length == 300 && m.payload != given);
	CHECK (memcmp (m.payload, given, 300) == 0 && m.payload[300] == '\0');

	/* A new payload replaces the first one, which the library frees. */
	EXPECT_OK (ipc_message_format (&m, (char) -1, given, 1));
	CHECK (m.type == (char) -1 && m.length == 1 && m.payload[0] == given[0] && m.payload[1] == '\0');

	/* The message's own payload may be the new one. */
	EXPECT_OK (ipc_message_format (&m, 1, hello, sizeof hello));
	EXPECT_OK (ipc_message_format (&m, 1, m.payload + 1, 3));
	CHECK (m.length == 3 && strcmp (m.payload, "ell") == 0);

	/* Without a payload the old pointer stays. */
	before = m.payload;
	EXPECT_OK (ipc_message_format (&m, 7, NULL, 0));
	CHECK (m.type == 7 && m.length == 0 && m.payload == before);

	EXPECT_OK (ipc_message_format_data (&m, hello, sizeof hello));
	CHECK (m.type == MSG_TYPE_DATA && m.length == 5 && strcmp (m.payload, "hello") == 0);
	EXPECT_OK (ipc_message_format_data (&m, largest, IPC_MAX_MESSAGE_SIZE));
	CHECK (m.length == IPC_MAX_MESSAGE_SIZE && memcmp (m.payload, largest, IPC_MAX_MESSAGE_SIZE) == 0);
	CHECK (m.payload[IPC_MAX_MESSAGE_SIZE] == '\0');
	EXPECT_OK (ipc_message_format_server_close (&m));
	CHECK (m.type == MSG_TYPE_SERVER_CLOSE && m.length == 0);

	/* Arguments that are refused leave the message unchanged. */
	EXPECT_OK (ipc_message_format_data (&m, hello, sizeof hello));
	before = m.payload;
	EXPECT (ipc_message_format (&m, 9, hello, 0), IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, EINVAL);
	EXPECT (ipc_message_format (&m, 9, NULL, 5), IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, EINVAL);
	EXPECT (ipc_message_format (&m, 9, hello, -1), IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE);
	EXPECT (ipc_message_format (&m, 9, largest, IPC_MAX_MESSAGE_SIZE + 1), IPC_ERROR_MESSAGE_FORMAT__LENGTH,
		EMSGSIZE);
	EXPECT (ipc_message_format_data (&m, NULL, 1), IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, EINVAL);
	EXPECT (ipc_message_format_data (&m, hello, -5), IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE);
	CHECK (m.type == MSG_TYPE_DATA && m.length == 5 && m.payload == before);

	EXPECT_OK (ipc_message_empty (&m));
	CHECK (m.payload == NULL && m.length == 0);
	EXPECT_OK (ipc_message_empty (&m));
	free (given);
	free (largest);
}

static void write_to_buffer (void)
{
	struct ipc_message m;
	char *made = NULL, *own = block (sizeof golden), *given = own;
	ssize_t size = -1;

	memset (&m, 0, sizeof m);
	EXPECT_OK (ipc_message_format_data (&m, hello, sizeof hello));
	EXPECT_OK (ipc_message_format_write (&m, &made, &size));
	CHECK (size == (ssize_t) sizeof golden && memcmp (made, golden, sizeof golden) == 0);
	free (made);

	size = -1;
	EXPECT_OK (ipc_message_format_write (&m, &given, &size));
	CHECK (given == own && size == (ssize_t) sizeof golden && memcmp (own, golden, sizeof golden) == 0);

	/* A message without a payload is only a header, even if an old pointer is still set. */
	EXPECT_OK (ipc_message_format (&m, (char) -128, NULL, 0));
	made = NULL;
	EXPECT_OK (ipc_message_format_write (&m, &made, &size));
	CHECK (size == IPC_HEADER_SIZE && memcmp (made, "\200\0\0\0\0", IPC_HEADER_SIZE) == 0);
	free (made);

	EXPECT (ipc_message_format_write (NULL, &given, &size), IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE,
		EINVAL);
	EXPECT (ipc_message_format_write (&m, NULL, &size), IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER, EINVAL);
	EXPECT (ipc_message_format_write (&m, &given, NULL), IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE, EINVAL);
	m.length = IPC_MAX_MESSAGE_SIZE + 1;
	EXPECT (ipc_message_format_write (&m, &given, &size), IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE);
	m.length = UINT32_MAX;
	EXPECT (ipc_message_format_write (&m, &given, &size), IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE);
	EXPECT_OK (ipc_message_empty (&m));
	m.length = 1;
	EXPECT (ipc_message_format_write (&m, &given, &size), IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS,
		EINVAL);
	free (own);
}

static void read_from_buffer (void)
{
	struct ipc_message m = { 0, 0, NULL };
	char *frame = block (sizeof golden), *large;
	uint32_t length = IPC_MAX_MESSAGE_SIZE + 1;
	int size;

	memcpy (frame, golden, sizeof golden);
	EXPECT_OK (ipc_message_format_read (&m, frame, sizeof golden));
	CHECK (m.type == MSG_TYPE_DATA && m.length == 5 && memcmp (m.payload, hello, 5) == 0);
	CHECK (m.payload[5] == '\0' && m.payload != frame + IPC_HEADER_SIZE);
	EXPECT_OK (ipc_message_empty (&m));

	/* Each size other than that of the frame is wrong; no call reads beyond the buffer. */
	for (size = -1; size < (int) sizeof golden; size++)
		EXPECT (ipc_message_format_read (&m, frame, size), IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE, EBADMSG);
	frame[1] = 4;
	EXPECT (ipc_message_format_read (&m, frame, sizeof golden), IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE,
		EBADMSG);
	memset (frame + 1, 0xff, 4);
	EXPECT (ipc_message_format_read (&m, frame, sizeof golden), IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE,
		EBADMSG);
	memset (frame + 1, 0, 4);
	EXPECT_OK (ipc_message_format_read (&m, frame, IPC_HEADER_SIZE));
	CHECK (m.length == 0);
	EXPECT_OK (ipc_message_empty (&m));

	/* One byte more than a message may have, although size and length agree. */
	large = pattern (IPC_HEADER_SIZE + length);
	memcpy (large + 1, &length, sizeof length);
	EXPECT (ipc_message_format_read (&m, large, IPC_HEADER_SIZE + length),
		IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE, EBADMSG);

	EXPECT (ipc_message_format_read (NULL, frame, sizeof golden), IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE,
		EINVAL);
	EXPECT (ipc_message_format_read (&m, NULL, sizeof golden), IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER,
		EINVAL);
	free (large);
	free (frame);
}

/* A message that is written to a buffer and read from it again is unchanged, for messages of each critical
 * size. */
static void round_trip (void)
{
	static const ssize_t sizes[] = { 1, 4, 5, 6, 4095, 65536, IPC_MAX_MESSAGE_SIZE };
	struct ipc_message out, in = { 0, 0, NULL };
	char *bytes = pattern (IPC_MAX_MESSAGE_SIZE), *frame;
	ssize_t size;
	size_t i;

	memset (&out, 0, sizeof out);
	for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		frame = NULL;
		EXPECT_OK (ipc_message_format (&out, (char) i, bytes, sizes[i]));
		EXPECT_OK (ipc_message_format_write (&out, &frame, &size));
		CHECK (size == IPC_HEADER_SIZE + sizes[i]);
		EXPECT_OK (ipc_message_format_read (&in, frame, size));
		CHECK (in.type == out.type && in.length == out.length);
		CHECK (memcmp (in.payload, bytes, (size_t) sizes[i]) == 0 && in.payload[sizes[i]] == '\0');
		EXPECT_OK (ipc_message_empty (&in));
		free (frame);
	}
	EXPECT_OK (ipc_message_empty (&out));
	free (bytes);
}

static void pair (int fds[2])
{
	CHECK (socketpair (AF_UNIX, SOCK_STREAM, 0, fds) == 0);
}

static void expect_hello (struct ipc_message *m)
{
	CHECK (m->type == MSG_TYPE_DATA && m->length == 5 && strcmp (m->payload, "hello") == 0);
	EXPECT_OK (ipc_message_empty (m));
}

static void write_to_and_read_from_socket (void)
{
	struct ipc_message m, got = { 0, 0, NULL };
	struct ipc_connection_info here, there;
	char bytes[2 * sizeof golden];
	int fds[2];

	pair (fds);
	memset (&m, 0, sizeof m);
	EXPECT_OK (ipc_message_format_data (&m, hello, sizeof hello));

	/* On the socket the message is the golden frame, with no byte before or after it. */
	EXPECT_OK (ipc_message_write (fds[0], &m));
	CHECK (recv (fds[1], bytes, sizeof bytes, 0) == (ssize_t) sizeof golden);
	CHECK (memcmp (bytes, golden, sizeof golden) == 0);

	/* One read receives one message and leaves the next one in the kernel. */
	EXPECT_OK (ipc_message_write (fds[0], &m));
	EXPECT_OK (ipc_message_write (fds[0], &m));
	EXPECT_OK (ipc_message_read (fds[1], &got));
	expect_hello (&got);
	CHECK (recv (fds[1], bytes, sizeof bytes, MSG_PEEK) == (ssize_t) sizeof golden);

	/* Through structures as well; their type and spath have no meaning here. */
	EXPECT_OK (ipc_connection_gen (&here, 0, 0, fds[0], 'u'));
	EXPECT_OK (ipc_connection_gen (&there, 0, 0, fds[1], 'u'));
	EXPECT_OK (ipc_read (&there, &got));
	expect_hello (&got);
	EXPECT_OK (ipc_write (&there, &m));
	EXPECT_OK (ipc_read (&here, &got));
	expect_hello (&got);

	/* A message of length 0 is a message. */
	EXPECT_OK (ipc_message_format (&m, 3, NULL, 0));
	EXPECT_OK (ipc_write (&here, &m));
	EXPECT_OK (ipc_read (&there, &got));
	CHECK (got.type == 3 && got.length == 0);
	EXPECT_OK (ipc_message_empty (&got));

	EXPECT (ipc_message_read (fds[0], NULL), IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_read (-1, &got), IPC_ERROR_USOCK_RECV, EBADF);
	EXPECT (ipc_message_write (fds[0], NULL), IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_write (-1, &m), IPC_ERROR_USOCK_SEND, EBADF);
	m.length = IPC_MAX_MESSAGE_SIZE + 1;
	EXPECT (ipc_message_write (fds[0], &m), IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE);
	EXPECT_OK (ipc_message_empty (&m));
	m.length = 1;
	EXPECT (ipc_message_write (fds[0], &m), IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, EINVAL);
	EXPECT_OK (ipc_close (&here));
	EXPECT_OK (ipc_close (&there));
}

static void meet_a_closed_peer (void)
{
	struct ipc_message m, got = { 0, 0, NULL };
	int fds[2];

	memset (&m, 0, sizeof m);
	EXPECT_OK (ipc_message_format_data (&m, hello, sizeof hello));

	/* End of file between two messages; a write causes no SIGPIPE. */
	pair (fds);
	EXPECT_OK (ipc_message_write (fds[0], &m));
	EXPECT_OK (usock_close (fds[0]));
	EXPECT_OK (ipc_message_read (fds[1], &got));
	expect_hello (&got);
	EXPECT (ipc_message_read (fds[1], &got), IPC_ERROR_CLOSED_RECIPIENT, EPIPE);
	EXPECT (ipc_message_write (fds[1], &m), IPC_ERROR_USOCK_SEND, EPIPE);
	EXPECT_OK (usock_close (fds[1]));

	/* End of file within a message. */
	pair (fds);
	CHECK (send (fds[0], golden, sizeof golden - 1, 0) == (ssize_t) sizeof golden - 1);
	EXPECT_OK (usock_close (fds[0]));
	EXPECT (ipc_message_read (fds[1], &got), IPC_ERROR_CLOSED_RECIPIENT, ECONNRESET);
	EXPECT_OK (usock_close (fds[1]));

	/* A header that announces more than a message may have. */
	pair (fds);
	CHECK (send (fds[0], "\2\377\377\377\377", IPC_HEADER_SIZE, 0) == IPC_HEADER_SIZE);
	EXPECT (ipc_message_read (fds[1], &got), IPC_ERROR_USOCK_RECV, EPROTO);
	EXPECT_OK (usock_close (fds[0]));
	EXPECT_OK (usock_close (fds[1]));
	EXPECT_OK (ipc_message_empty (&m));
}

/* The layer below messages: whole frames, in the library's buffer or in the program's. */
static void send_and_receive_frames (void)
{
	char *buf = NULL, *own;
	ssize_t len = 0, sent = -1;
	int fds[2];

	pair (fds);
	EXPECT_OK (usock_send (fds[0], golden, sizeof golden, &sent));
	CHECK (sent == (ssize_t) sizeof golden);
	EXPECT_OK (usock_recv (fds[1], &buf, &len));
	CHECK (len == (ssize_t) sizeof golden && memcmp (buf, golden, sizeof golden) == 0);
	free (buf);

	/* A frame that is larger than the buffer waits for a call with a larger buffer. */
	EXPECT_OK (usock_send (fds[0], golden, sizeof golden, NULL));
	own = buf = block (sizeof golden);
	len = sizeof golden - 1;
	EXPECT (usock_recv (fds[1], &buf, &len), IPC_ERROR_USOCK_RECV, EMSGSIZE);
	CHECK (buf == own && len == (ssize_t) sizeof golden);
	EXPECT_OK (usock_recv (fds[1], &buf, &len));
	CHECK (buf == own && len == (ssize_t) sizeof golden && memcmp (own, golden, sizeof golden) == 0);
	free (own);
	EXPECT_OK (usock_close (fds[0]));
	EXPECT_OK (usock_close (fds[1]));
}

int main (void)
{
	check_begin ();
	make_new_messages ();
	format ();
	write_to_buffer ();
	read_from_buffer ();
	round_trip ();
	write_to_and_read_from_socket ();
	meet_a_closed_peer ();
	send_and_receive_frames ();
	return 0;
}
