/*
 * Clients that implement the wire format themselves, or violate it: slow clients, hostile clients, and clients that are
 * killed while they send.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "client.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* How many descriptors are sent with one message although the server did not ask for them. */
#define UNASKED 20

/* Bytes that the server no longer accepts are ignored. */
static bool
send_bytes (const struct client *client, const char *bytes, size_t size)
{
    client_limit ();
    while (size > 0) {
        ssize_t sent = send (client->info.fd, bytes, size, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        bytes += sent;
        size -= (size_t) sent;
    }
    return true;
}

static void
header_of (char type, uint32_t length, char header[IPC_HEADER_SIZE])
{
    header[0] = type;
    memcpy (header + 1, &length, sizeof length);
}

/* The client's next message as a frame, from malloc. */
static char *
next_frame (struct client *client, enum verb verb, size_t *size)
{
    struct ipc_message m = stream_next (&client->up[0], verb, 0, client->room);
    char *frame = NULL;
    ssize_t frame_size = 0;

    if (! good ("ipc_message_format_write", ipc_message_format_write (&m, &frame, &frame_size))) {
        give_up ("memory");
    }
    *size = (size_t) frame_size;
    return frame;
}

/* Reads the rest of a frame in small pieces, with pauses; returns whether it arrived. */
static bool
read_slowly (struct client *client, char *bytes, size_t size, size_t piece)
{
    while (size > 0) {
        ssize_t got;

        client_limit ();
        got = read (client->info.fd, bytes, size < piece ? size : piece);
        if (got <= 0) {
            broken (LOST, "the connection ended within an answer");
            return false;
        }
        bytes += got;
        size -= (size_t) got;
        pause_ms (dice_below (&client->dice, 3));
    }
    return true;
}

/* Sends a request byte by byte, or at once, and reads the answer in pieces. */
static bool
ask_slowly (struct client *client, bool asks_at_once, size_t piece)
{
    size_t size, sent = 0;
    char *frame = next_frame (client, ECHO, &size);
    struct ipc_message answer = {0};
    bool is_well = true;

    while (is_well && sent < size) {
        size_t count = asks_at_once ? size : 1 + dice_below (&client->dice, 3);

        count = count < size - sent ? count : size - sent;
        is_well = send_bytes (client, frame + sent, count);
        sent += count;
        pause_ms (dice_below (&client->dice, 3));
    }
    if (! is_well) {
        broken (LOST, "the connection ended within a question");
    }
    if (is_well && read_slowly (client, frame, IPC_HEADER_SIZE, piece)) {
        answer.type = frame[0];
        memcpy (&answer.length, frame + 1, sizeof answer.length);
        is_well = answer.length + IPC_HEADER_SIZE == size;
        if (! is_well) {
            broken (CORRUPT, "an answer of %u bytes to %zu", (unsigned) answer.length, size - IPC_HEADER_SIZE);
        }
        answer.payload = calloc (1, size);
        if (is_well && read_slowly (client, answer.payload, answer.length, piece)) {
            client_take (client, &answer);
        }
        free (answer.payload);
    }
    free (frame);
    return is_well;
}

void
be_slow (struct client *client)
{
    bool is_large = dice_below (&client->dice, 8) == 0;
    int messages = 1 + (int) dice_below (&client->dice, 4);

    client->hello.is_flat = 1;
    client->hello.largest = is_large ? 600000 : 100;
    client_begin (client);
    while (messages-- > 0 && ask_slowly (client, is_large, is_large ? 16384 : 3)) {
    }
    client_has_all (client);
    client_close (client);
}

void
be_killed (struct client *client)
{
    client->hello.is_flat = 1;
    client->hello.largest = 2000000;
    client_begin (client);
    for (;;) {
        client_send (client, SINK, 0);
        pause_ms (1);
    }
}

/* ---- Hostile clients ---- */

/* The server must end the connection of a client that violates the protocol. */
static void
has_broken_the_protocol (struct client *client)
{
    char byte;
    ssize_t got;

    ADD (shared->breaches, 1);
    client_limit ();
    do {
        got = read (client->info.fd, &byte, 1);
    } while (got > 0);
}

static void
announce (struct client *client, uint32_t length)
{
    char header[IPC_HEADER_SIZE];

    header_of ((char) ECHO, length, header);
    send_bytes (client, header, sizeof header);
}

static void
send_garbage (struct client *client)
{
    char bytes[5000];

    client_connect (client);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (char) dice_roll (&client->dice);
    }
    announce (client, IPC_MAX_MESSAGE_SIZE + 1 + dice_below (&client->dice, UINT32_MAX - IPC_MAX_MESSAGE_SIZE));
    send_bytes (client, bytes, 1 + dice_below (&client->dice, sizeof bytes));
    has_broken_the_protocol (client);
}

static void
announce_too_much (struct client *client)
{
    client_connect (client);
    announce (client, IPC_MAX_MESSAGE_SIZE + 1);
    has_broken_the_protocol (client);
}

static void
announce_more_than_its_limit (struct client *client)
{
    client->hello.max_message = 1000;
    client->hello.largest = 1000;
    client_begin (client);
    client_send (client, ECHO, 0);
    client_receive (client);
    announce (client, 1001);
    has_broken_the_protocol (client);
}

static void
announce_and_send_nothing (struct client *client)
{
    client_connect (client);
    announce (client, IPC_MAX_MESSAGE_SIZE - dice_below (&client->dice, 100000));
    pause_ms (dice_below (&client->dice, 200));
}

static void
send_half_a_frame (struct client *client)
{
    size_t size;
    char *frame;

    client->hello.is_flat = 1;
    client->hello.largest = 300000;
    client_begin (client);
    frame = next_frame (client, ECHO, &size);
    send_bytes (client, frame, dice_below (&client->dice, (uint32_t) size));
    pause_ms (dice_below (&client->dice, 20));
    free (frame);
}

static void
come_and_go (struct client *client)
{
    client_connect (client);
}

/* Sends requests, shuts down its sending side, and reads the answers to end of file. */
static void
half_close (struct client *client)
{
    client->hello.largest = 4096;
    client_begin (client);
    for (int i = 0; i < 5; i++) {
        client_send (client, ECHO, 0);
    }
    shutdown (client->info.fd, SHUT_WR);
    for (int i = 0; i < 5; i++) {
        client_receive (client);
    }
    client_awaits_end (client);
}

/* Requests many answers, and closes the connection with the answers unread. */
static void
leave_answers_unread (struct client *client)
{
    client->hello.largest = 65536;
    client_begin (client);
    for (int i = 0; i < 50; i++) {
        client_send (client, ECHO, 0);
    }
    client_receive (client);
}

static void
send_with_descriptors (struct client *client, const char *frame, size_t size)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE (UNASKED * sizeof (int))];
    } control;
    struct iovec bytes = {(char *) (uintptr_t) frame, size};
    struct msghdr message = {0};
    int fds[UNASKED];

    memset (&control, 0, sizeof control);
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN (sizeof fds);
    for (int i = 0; i < UNASKED; i++) {
        fds[i] = STDERR_FILENO;
    }
    memcpy (CMSG_DATA (&control.header), fds, sizeof fds);
    ssize_t sent = sendmsg (client->info.fd, &message, MSG_NOSIGNAL);

    if (sent < 0 && errno == EPERM) {
        /* From Linux 6.16 on the kernel refuses descriptors that the server did not ask for. */
        message.msg_control = NULL;
        message.msg_controllen = 0;
        sent = sendmsg (client->info.fd, &message, MSG_NOSIGNAL);
    }
    if (sent != (ssize_t) size) {
        broken (LOST, "the connection ended: %s", strerror (errno));
    }
}

/* Passes descriptors that the server did not ask for, or that it allows and does not take. */
static void
pass_descriptors (struct client *client)
{
    client->hello.wants_descriptors = dice_below (&client->dice, 2);
    client->hello.largest = 1000;
    client_begin (client);
    for (int i = 0; i < 10; i++) {
        size_t size;
        char *frame = next_frame (client, ECHO, &size);

        send_with_descriptors (client, frame, size);
        ADD (shared->untaken, UNASKED);
        free (frame);
        client_receive (client);
    }
    client_has_all (client);
}

void
be_hostile (struct client *client)
{
    static void (*const tricks[]) (struct client *) = {
        send_garbage,      announce_too_much, announce_more_than_its_limit, announce_and_send_nothing,
        send_half_a_frame, come_and_go,       half_close,                   leave_answers_unread,
        pass_descriptors,
    };

    pause_ms (dice_below (&client->dice, 50));
    tricks[dice_below (&client->dice, sizeof tricks / sizeof tricks[0])](client);
    /* Without the library, which would close the connection in order. */
    close (client->info.fd);
}
